"""Pictures that people ask for and that no rebuild can vouch for, such as t-SNE.

An analysis offers them as ``EXTRAS = {"name": function(tables, rng) -> Report}``. They are made
from the runs on request only, lie in ``extras/`` of the report, and `verify` leaves them alone;
the page names them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from statsnorm.errors import StatsnormError, unknown
from statsnorm.report.build import show, table_files
from statsnorm.report.discover import Analysis
from statsnorm.report.encode import slug
from statsnorm.report.model import Report
from statsnorm.report.views import Shown, figure_title

EXTRAS = "extras/"

Entry = dict[str, Any]
Offer = Callable[[Any, np.random.Generator], Report]


def offered(analyses: Sequence[Analysis]) -> dict[str, list[Analysis]]:
    """Return the names of the extras that these analyses offer, each with who offers it."""
    found: dict[str, list[Analysis]] = {}
    for analysis in analyses:
        for name in _offers(analysis):
            found.setdefault(name, []).append(analysis)
    return found


def require_offered(wanted: Sequence[str], analyses: Sequence[Analysis]) -> None:
    """Raise StatsnormError if one of the wanted extras is offered by none of the analyses."""
    known = offered(analyses)
    for name in wanted:
        if name not in known:
            raise unknown("extra", name, sorted(known))


def make_extras(
    wanted: Sequence[str], analyses: Sequence[Analysis], tables: Any, *, seed: int
) -> tuple[dict[str, bytes], list[Entry], dict[str, str]]:
    """Make extras from the tables of the runs.

    Returns
    -------
    files : dict
        Path below the report -> bytes.
    entries : list of dict
        What the page says of each figure: extra, analysis, stem, title, caption.
    refused : dict
        ``extra NAME (ANALYSIS)`` -> why the tables do not allow it.
    """
    files: dict[str, bytes] = {}
    entries: list[Entry] = []
    refused: dict[str, str] = {}
    for name in dict.fromkeys(wanted):
        for analysis in offered(analyses).get(name, []):
            try:
                report = _offers(analysis)[name](tables, np.random.default_rng(seed))
            except StatsnormError as error:
                refused[f"extra {name} ({analysis.name})"] = str(error)
                continue
            shown = show(analysis, report)
            files |= _files(name, shown)
            entries += _entries(name, shown)
    return files, entries, refused


def kept_extras(folder: Path) -> dict[str, bytes]:
    """Return the extras that lie in a report, by path below it."""
    found = sorted(path for path in (folder / EXTRAS).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def _offers(analysis: Analysis) -> Mapping[str, Offer]:
    offers: Mapping[str, Offer] = getattr(analysis.module, "EXTRAS", {})
    return offers


def _stem(extra: str, analysis: str, name: str) -> str:
    return f"{EXTRAS}{slug(extra)}.{slug(analysis)}.{slug(name)}"


def _files(extra: str, shown: Shown) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for name, frame in shown.tables.items():
        files |= table_files(_stem(extra, shown.name, name), frame)
    for name, drawing in shown.drawings.items():
        stem = _stem(extra, shown.name, name)
        files |= {f"{stem}.{form}": getattr(drawing, form) for form in ("svg", "png", "pdf")}
    return files


def _entries(extra: str, shown: Shown) -> list[Entry]:
    return [
        {
            "extra": extra,
            "analysis": shown.name,
            "stem": _stem(extra, shown.name, figure.name),
            "table": _stem(extra, shown.name, figure.table),
            "title": figure_title(figure.name),
            "caption": figure.caption,
        }
        for figure in shown.report.figures
    ]
