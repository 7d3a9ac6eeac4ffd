"""What an analysis returns and a report shows: tables, sentences, figures and gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

EFFECT_COLUMNS: tuple[str, ...] = (
    "hypothesis",
    "family",
    "statistic",
    "tap",
    "estimate",
    "low",
    "high",
    "se",
    "dof",
    "n_units",
    "pvalue",
    "p_adjusted",
    "threshold",
    "verdict",
)
"""Columns of `effects`, the result table of every report, in this order."""


def no_effects() -> pd.DataFrame:
    """Return an `effects` table with all columns and no row."""
    return pd.DataFrame(columns=list(EFFECT_COLUMNS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure to be drawn from one table of the same report.

    `draw` names a function of :mod:`statsnorm.figures` that takes the table and the
    `options` as keywords and returns a matplotlib figure.
    """

    name: str  # file name without suffix, unique in the report
    draw: str
    table: str  # key of Report.tables: the figure's source, linked beside it
    caption: str  # states n, unit and interval
    alt: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A manipulation check: what must hold before a hypothesis may be interpreted."""

    name: str  # e.g. "M1"
    rule: str  # in words, with the threshold
    value: float
    passed: bool
    hypotheses: tuple[str, ...]  # which claims it guards


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One hypothesis with its verdict, as the first screen and the decision table show it."""

    hypothesis: str  # e.g. "H5a"
    family: str
    claim: str  # what is claimed, one sentence
    sentence: str  # what was found, with estimate, interval and n, made from the tables
    verdict: str  # supported, contradicted, inconclusive, not testable, ...
    scope: str  # networks, generators, styles, images, target styles
    flips: str = ""  # "" or "3 of 24 specifications disagree": the number comes first


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result of one analysis; pure data, rendered by :mod:`statsnorm.report.render`."""

    name: str  # of the analysis, e.g. "removed_variance"
    title: str
    question: str  # the analysis' docstring
    headline: str = ""  # one sentence for the first screen, or ""
    findings: tuple[str, ...] = ()  # sentences made from the tables
    claims: tuple[Claim, ...] = ()
    effects: pd.DataFrame = field(default_factory=no_effects)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    figures: tuple[Figure, ...] = ()
    gates: tuple[Gate, ...] = ()
    scope: Mapping[str, str] = field(default_factory=dict)
    methods: tuple[str, ...] = ()  # sentences with numbers: n, df convention, eps, dropped channels
    deviations: tuple[str, ...] = ()  # rules that were set or changed after data had been seen
    limitations: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()  # what the tables did not allow, and why
    appendix: tuple[str, ...] = ()  # names of tables and figures shown only in the appendix
    picture: str = ""  # figure for the first screen; "" = the first one outside the appendix
