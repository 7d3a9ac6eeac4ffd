"""Write a report anew from its own inputs: after the code that makes its pages has changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from statsnorm.errors import SchemaError
from statsnorm.report import provenance
from statsnorm.report.build import build
from statsnorm.report.discover import Analysis
from statsnorm.report.encode import repacked, sha256
from statsnorm.report.extras import kept_extras
from statsnorm.report.inputs import PLAN, Inputs, own_copy, read_inputs
from statsnorm.report.verification import recorded_analyses
from statsnorm.report.write import ReportResult, replace_directory, result_of
from statsnorm.shipped import shipped_plan_path


def rebuild(
    report: str | Path,
    *,
    analyses: Sequence[str | Path] = (),
    progress: Callable[[str], None] | None = None,
) -> ReportResult:
    """Write `report` anew from the inputs beside it, with the analyses and rules of today.

    Parameters
    ----------
    report : path
        A report directory; all its files but ``extras/`` are replaced.
    analyses : sequence of paths
        The user's own analysis files, if the report has any.
    progress : callable, optional
        Is told what is being done, one short line at a time.

    Raises
    ------
    StatsnormError
        If `report` is no report, or an own analysis is not given.
    SchemaError
        If an input is missing or is not the one that was written: rebuilding would hide that.
    """
    folder = Path(report)
    inputs, touched = read_inputs(folder)
    for name, what in touched.items():
        raise SchemaError(f"input {name} {what}")
    found = recorded_analyses(inputs, analyses)
    built = build(_of_today(inputs, found), found, progress=progress or (lambda _line: None))
    replace_directory(folder, {**built.files, **kept_extras(folder)})
    return result_of(folder, built)


def _of_today(inputs: Inputs, analyses: Sequence[Analysis]) -> Inputs:
    """Return the inputs with the code, rules, versions and packing that are now in force."""
    files = {
        name: repacked(content, name) if name.endswith(".parquet") else content
        for name, content in inputs.files.items()
    }
    manifest = dict(inputs.manifest)
    if manifest["plan"]["shipped"]:
        files[PLAN] = shipped_plan_path().read_bytes()
        manifest["plan"] = {**manifest["plan"], "sha256": sha256(files[PLAN])}
    by_name = {analysis.name: analysis for analysis in analyses}
    entries = []
    for entry in manifest["analyses"]:
        analysis = by_name[entry["name"]]
        entries.append({**entry, "sha256": analysis.sha256, "question": analysis.question})
        if not analysis.shipped:
            files[own_copy(analysis)] = analysis.source
    return inputs.with_manifest(
        files, plan=manifest["plan"], analyses=entries, environment=provenance.environment()
    )
