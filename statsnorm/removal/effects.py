"""Rows of the table `effects`: one a part of a claim, with the verdict that the part bears."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from statsnorm.decisions import Decision, Part
from statsnorm.removal.rules import against, threshold


def effect_row(
    decision: Decision, part: Part, *, tap: str, n_units: str, hypothesis: str = ""
) -> dict[str, Any]:
    """Return the row of one part.

    A part that the claim does not need has the verdict "not required" and no adjusted p: the
    claim's own says nothing of it. So has a claim of no family no adjusted p.

    Parameters
    ----------
    decision : Decision
        Of the claim.
    part : Part
        One of its parts.
    tap : str
        Where it was measured, in words.
    n_units : str
        Units in words.
    hypothesis : str
        Name to print, that of the decision by default.
    """
    required = part.rule.required
    adjusted = required and bool(decision.family)
    return {
        "hypothesis": hypothesis or decision.hypothesis,
        "family": decision.family,
        "statistic": part.rule.statistic,
        "tap": tap,
        "estimate": part.estimate,
        "low": part.low,
        "high": part.high,
        "se": part.se,
        "dof": part.dof,
        "n_units": n_units,
        "pvalue": part.pvalue,
        "p_adjusted": decision.p_adjusted if adjusted else math.nan,
        "threshold": threshold(part, adjusted=adjusted) + (against(decision) if required else ""),
        "verdict": decision.verdict_of(part),
    }


def blank_row(decision: Decision, *, tap: str, n_units: str) -> dict[str, Any]:
    """Return the row of a claim that has no part."""
    blank = dict.fromkeys(("estimate", "low", "high", "se", "dof", "pvalue"), math.nan)
    return {
        "hypothesis": decision.hypothesis,
        "family": decision.family,
        "statistic": "",
        "tap": tap,
        **blank,
        "n_units": n_units,
        "p_adjusted": decision.p_adjusted,
        "threshold": "",
        "verdict": decision.verdict,
    }


def exploratory_rows(
    decision: Decision, *, n_units: str, label: str = ""
) -> Iterator[dict[str, Any]]:
    """Yield one row per part of a claim of no family."""
    for part in decision.parts:
        tap = ": ".join(filter(None, [label, part.tap]))
        row = effect_row(decision, part, tap=tap, n_units=n_units)
        yield row | ({"p_adjusted": decision.p_adjusted} if part.rule.required else {})
