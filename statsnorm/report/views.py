"""The parts of a report as text: tables, figures, claims, and the document they make up."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from statsnorm.decisions import Plan
from statsnorm.report.drawing import Drawing
from statsnorm.report.encode import cell, number
from statsnorm.report.model import Claim, Gate, Report

DECISION_COLUMNS = ("verdict", "statistic", "at", "estimate [interval]", "rule", "p adj.", "n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One analysis that ran: its report, its tables as stored, its drawn figures."""

    name: str
    report: Report
    tables: Mapping[str, pd.DataFrame]
    drawings: Mapping[str, Drawing]
    effects: pd.DataFrame


@dataclass(frozen=True, slots=True, kw_only=True)
class TableView:
    """A table as text, with where its files lie ("" where it has none)."""

    id: str
    title: str
    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...] = field(repr=False)
    stem: str = ""  # path below the report without suffix
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureView:
    """A figure with its number, caption, files and source table."""

    id: str
    number: int
    title: str
    caption: str
    alt: str
    drawing: Drawing = field(repr=False)
    stem: str
    table: TableView


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimView:
    """A claim with its anchor and the analysis that made it."""

    id: str
    claim: Claim
    analysis: str

    @property
    def flipped(self) -> bool:
        """Whether the specification curve speaks against the verdict, and not only of itself."""
        return bool(self.claim.flips) and not self.claim.flips.startswith("0 ")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisView:
    """One analysis as a part of the results."""

    id: str
    report: Report
    claims: tuple[ClaimView, ...]
    figures: tuple[FigureView, ...]
    tables: tuple[TableView, ...]
    appendix_figures: tuple[FigureView, ...]
    appendix_tables: tuple[TableView, ...]

    @property
    def has_appendix(self) -> bool:
        """Whether anything of it stands in the appendix."""
        return bool(self.appendix_figures or self.appendix_tables)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionGroup:
    """The judged statistics of one hypothesis in one analysis."""

    hypothesis: str
    claim: str
    anchor: str  # "" if the analysis makes no claim of it
    rows: tuple[tuple[str, ...], ...]  # see DECISION_COLUMNS


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A whole report, ready to be rendered."""

    title: str
    headlines: tuple[str, ...]
    scope: tuple[tuple[str, str], ...]  # of the headline
    whole_scope: tuple[tuple[str, str], ...]  # of all analyses
    gates: tuple[tuple[Gate, str], ...]
    top: tuple[ClaimView, ...]
    claims: tuple[ClaimView, ...]
    picture: FigureView | None
    decisions: tuple[DecisionGroup, ...]
    checks: tuple[AnalysisView, ...]  # manipulation
    invariances: tuple[AnalysisView, ...]
    results: tuple[AnalysisView, ...]
    literature: TableView
    left_out: tuple[tuple[str, str], ...]
    failed: Mapping[str, str]
    skipped: TableView
    manifest: Mapping[str, Any]
    plan: Plan
    plan_note: str
    origin: tuple[TableView, ...]

    @property
    def analyses(self) -> tuple[AnalysisView, ...]:
        """All analyses in the order of the page."""
        return (*self.checks, *self.invariances, *self.results)

    @property
    def extras(self) -> tuple[Mapping[str, str], ...]:
        """The pictures that were made beside the report, outside verification."""
        return tuple(self.manifest.get("extras", ()))

    @property
    def exploratory(self) -> tuple[ClaimView, ...]:
        """Claims of no family: no adjustment, never confirmatory."""
        return tuple(view for view in self.claims if not view.claim.family)


def table_text(frame: pd.DataFrame) -> tuple[tuple[str, ...], ...]:
    """Return the cells of a frame as text, floats with six significant digits."""
    columns = [[cell(v) for v in frame.iloc[:, i]] for i in range(frame.shape[1])]
    return tuple(zip(*columns, strict=True)) if columns else ()


def frame_view(anchor: str, title: str, frame: pd.DataFrame, stem: str) -> TableView:
    """Return a frame as a table whose files are `stem`.csv and `stem`.parquet."""
    numeric = tuple(
        pd.api.types.is_numeric_dtype(d) and not pd.api.types.is_bool_dtype(d) for d in frame.dtypes
    )
    return TableView(
        id=anchor,
        title=title,
        columns=tuple(map(str, frame.columns)),
        numeric=numeric,
        rows=table_text(frame),
        stem=stem,
    )


def rows_view(
    anchor: str,
    title: str,
    rows: Sequence[Sequence[str]],
    columns: Sequence[str],
    *,
    stem: str = "",
) -> TableView:
    """Return rows of text as a table; a column is numeric if all its cells are numbers."""
    numeric = tuple(
        bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(columns))
    )
    return TableView(
        id=anchor,
        title=title,
        columns=tuple(columns),
        numeric=numeric,
        rows=tuple(tuple(row) for row in rows),
        stem=stem,
    )


def _is_number(text: str) -> bool:
    try:
        float(text or "nan")
    except ValueError:
        return False
    return True


def figure_title(name: str) -> str:
    """Return a figure's name as a title, without the number that tells it from its like.

    >>> figure_title("omega2_by_depth_3")
    'Omega2 by depth'
    """
    return title_of(re.sub(r"_\d+$", "", name))


def title_of(name: str) -> str:
    """Return a name as a title.

    >>> title_of("removed_by_tap")
    'Removed by tap'
    """
    text = name.replace("_", " ").strip() or name
    return text[:1].upper() + text[1:]


def gate_value(gate: Gate) -> str:
    """Return a gate's measured value with three significant digits.

    >>> gate_value(Gate(name="M1", rule="", value=0.98765, passed=True, hypotheses=()))
    '0.988'
    """
    return number(gate.value, 3) or "not measured"
