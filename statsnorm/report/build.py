"""Inputs into the files of a report: pure, so that `verify` is the same call again."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from statsnorm.decisions import Plan, load_plan
from statsnorm.errors import StatsnormError
from statsnorm.report.discover import Analysis
from statsnorm.report.document import make_document
from statsnorm.report.drawing import Drawing, draw
from statsnorm.report.encode import (
    cell,
    csv_bytes,
    json_bytes,
    parquet_bytes,
    read_parquet,
    sha256,
    slug,
)
from statsnorm.report.inputs import MANIFEST, Inputs
from statsnorm.report.latex import tex_bytes
from statsnorm.report.model import EFFECT_COLUMNS, Figure, Report
from statsnorm.report.render import html, markdown
from statsnorm.report.views import Document, Shown

HTML_LIMIT = 5_000_000
ROOM = ((400, 600_000), (60, 600_000), (12, 200_000), (5, 40_000), (0, 0))
"""(rows of a table, characters of a figure) in the page: less where the page grows too big."""


@dataclass(frozen=True, slots=True)
class Built:
    """A report in memory: its document, and every file below the report directory."""

    document: Document
    files: Mapping[str, bytes]


def build(
    inputs: Inputs, analyses: Sequence[Analysis], *, progress: Callable[[str], None]
) -> Built:
    """Run the analyses on their inputs and render the report.

    Parameters
    ----------
    inputs : Inputs
        What :func:`statsnorm.report.inputs.collect` returned, or what a report keeps.
    analyses : sequence of Analysis
        In the order of the report; those that the inputs leave out are skipped.
    progress : callable
        Is told what is being done.

    Raises
    ------
    StatsnormError
        If the page would exceed 5 MB, or a figure names an unknown function or table.
    """
    shown, failed = [], {}
    plan = _plan(inputs.plan)
    for analysis in analyses:
        entry = next(a for a in inputs.manifest["analyses"] if a["name"] == analysis.name)
        if entry["left_out"]:
            continue
        progress(f"running {analysis.name}")
        try:
            report = run_analysis(analysis, inputs, plan)
        except StatsnormError as error:
            failed[analysis.name] = str(error)
        else:
            shown.append(show(analysis, report))
    files = dict(inputs.files)
    for item in shown:
        files.update(_files(item))
    files.update(_joint_tables(shown))
    progress("rendering")
    document = make_document(inputs, plan, shown, failed)
    files.update(_pages(document))
    files["provenance.json"] = json_bytes(_provenance(inputs, document, files))
    return Built(document, dict(sorted(files.items())))


def run_analysis(analysis: Analysis, inputs: Inputs, plan: Plan) -> Report:
    """Return the report of one analysis; its random numbers depend on seed and name alone.

    So leaving another analysis out changes nothing here.
    """
    words = [int(sha256(analysis.name.encode())[i : i + 8], 16) for i in (0, 8)]
    rng = np.random.default_rng([int(inputs.manifest["seed"]), *words])
    report = analysis.function("run")(inputs.frames(analysis.name), plan, rng)
    if not isinstance(report, Report):
        raise StatsnormError(
            f"analysis {analysis.name!r}: run must return a Report, got {type(report).__name__}"
        )
    return report


def _plan(content: bytes) -> Plan:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.toml"
        path.write_bytes(content)
        return load_plan(path)


def show(analysis: Analysis, report: Report) -> Shown:
    """Round the tables as they are stored, and draw the figures from the rounded ones."""
    tables = {
        name: read_parquet(parquet_bytes(frame), name) for name, frame in report.tables.items()
    }
    own = {
        name: value
        for name in (f.draw for f in report.figures)
        if callable(value := getattr(analysis.module, name, None))
    }
    drawings: dict[str, Drawing] = {}
    for figure in report.figures:
        drawings[figure.name] = draw(
            Figure(
                name=f"{analysis.name}-{figure.name}",
                draw=figure.draw,
                table=figure.table,
                caption=figure.caption,
                alt=figure.alt,
                options=figure.options,
            ),
            _source(report, tables, figure),
            own=own,
        )
    return Shown(
        name=analysis.name,
        report=report,
        tables=tables,
        drawings=drawings,
        effects=_effects(report),
    )


def _source(report: Report, tables: Mapping[str, pd.DataFrame], figure: Figure) -> pd.DataFrame:
    if figure.table not in tables:
        raise StatsnormError(
            f"figure {figure.name!r} of {report.name!r} is drawn from {figure.table!r}, which is "
            f"no table of it; there are {', '.join(sorted(tables)) or 'none'}"
        )
    return tables[figure.table].copy()


def _effects(report: Report) -> pd.DataFrame:
    frame = report.effects.reindex(columns=list(EFFECT_COLUMNS))
    if len(frame) == 0:
        return frame
    for column in ("n_units", "threshold"):  # "24 images" beside 24, a rule beside a number
        if len({type(v) for v in frame[column]}) > 1:
            frame[column] = [cell(v) for v in frame[column]]
    return read_parquet(parquet_bytes(frame), f"effects of {report.name}")


def _files(item: Shown) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for name, frame in item.tables.items():
        stem = f"tables/{slug(item.name)}.{slug(name)}"
        if f"{stem}.csv" in files:
            raise StatsnormError(f"two tables of {item.name!r} would be called {stem}.csv")
        files |= table_files(stem, frame)
    for name, drawing in item.drawings.items():
        stem = f"figures/{slug(item.name)}.{slug(name)}"
        files |= {f"{stem}.{form}": getattr(drawing, form) for form in ("svg", "png", "pdf")}
    return files


def _joint_tables(shown: Sequence[Shown]) -> dict[str, bytes]:
    """Return `effects`, `claims` and `gates` over all analyses."""
    effects = [item.effects.assign(analysis=item.name) for item in shown if len(item.effects)]
    joint = {
        "effects": pd.concat(effects, ignore_index=True)
        if effects
        else pd.DataFrame(columns=[*EFFECT_COLUMNS, "analysis"]),
        "claims": pd.DataFrame(
            [
                (c.hypothesis, c.family, c.verdict, c.flips, c.claim, c.sentence, c.scope, s.name)
                for s in shown
                for c in s.report.claims
            ],
            columns=[
                *("hypothesis", "family", "verdict", "flips", "claim", "sentence", "scope"),
                "analysis",
            ],
        ),
        "gates": pd.DataFrame(
            [
                (g.name, g.rule, g.value, g.passed, " ".join(g.hypotheses), s.name)
                for s in shown
                for g in s.report.gates
            ],
            columns=["gate", "rule", "value", "passed", "hypotheses", "analysis"],
        ),
    }
    files: dict[str, bytes] = {}
    for name, frame in joint.items():
        files |= table_files(f"tables/{name}", frame)
    return files


def table_files(stem: str, frame: pd.DataFrame) -> dict[str, bytes]:
    """Return a table in its three forms, by file name."""
    return {
        f"{stem}.csv": csv_bytes(frame),
        f"{stem}.parquet": parquet_bytes(frame),
        f"{stem}.tex": tex_bytes(frame),
    }


def _pages(document: Document) -> dict[str, bytes]:
    for rows, characters in ROOM:
        page = html(document, rows=rows, characters=characters).encode()
        if len(page) < HTML_LIMIT:
            return {"report.html": page, "report.md": markdown(document).encode()}
    raise StatsnormError(
        f"report.html would have {len(page)} bytes without a figure or a row of a table, more "
        f"than {HTML_LIMIT}; an analysis returns too many sentences"
    )


def _provenance(inputs: Inputs, document: Document, files: Mapping[str, bytes]) -> dict[str, Any]:
    manifest = {k: v for k, v in inputs.manifest.items() if k != "files"}
    listed = {
        name: {"bytes": len(content), "sha256": sha256(content)}
        for name, content in sorted(files.items())
    }
    for name, content in files.items():
        if name.endswith(".parquet"):
            listed[name]["rows"] = len(read_parquet(content, name))
    return {
        **manifest,
        "manifest": MANIFEST,
        "plan_note": document.plan_note,
        "failed": dict(document.failed),
        "files": listed,
    }
