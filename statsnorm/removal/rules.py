"""Decision rules in signs, as the tables of effects print them."""

from __future__ import annotations

import math

from statsnorm.decisions import CONTRADICTED, Decision, Part


def against(decision: Decision) -> str:
    """Return the p against the claim, where the verdict rests on it."""
    p = f"; p against = {decision.p_against:.2g} (Holm, times parts)"
    return p if decision.verdict == CONTRADICTED else ""


def threshold(part: Part, adjusted: bool = True) -> str:
    """Return the rule in signs: the p-value that decides and the effect to reach.

    A part that the verdict does not need says so, with its own p-value.
    """
    sign = ">" if part.rule.side == "greater" else "<"
    null, least = part.rule.null, part.rule.min_effect
    p = "adjusted p" if adjusted else "p"
    reach = "" if null == least else f", estimate {sign}= {least:.3g}"
    own = "not computed" if math.isnan(part.pvalue) else f"{part.pvalue:.2g}"
    beside = "" if part.rule.required else f"; not required, own p = {own}"
    return f"{p} < alpha for {sign} {null:.3g}{reach}{beside}"
