"""Rebuild a report from what it keeps, and say what differs and why.

With the library versions of the report every file must come out byte for byte. With others, text
must be equal, numbers must agree to 1e-9 (those that are printed, to one unit of their last
digit), and a figure counts as its source table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from statsnorm.decisions import load_plan
from statsnorm.errors import SchemaError, StatsnormError
from statsnorm.report import provenance
from statsnorm.report.build import build
from statsnorm.report.compare import Difference, compare_files
from statsnorm.report.discover import (
    Analysis,
    analyses_folder,
    load_analysis,
    shipped_plan_path,
)
from statsnorm.report.encode import sha256
from statsnorm.report.inputs import Inputs, collect, read_inputs

Runs = str | Path | Sequence[str | Path]


@dataclass(frozen=True, slots=True)
class Verification:
    """What came of verifying a report."""

    path: Path
    files: int  # compared
    exact: bool  # compared byte for byte
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]  # other versions, other code: no difference by itself

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not self.differences

    def __str__(self) -> str:
        how = "byte for byte" if self.exact else "text, and numbers to 1e-9"
        head = (
            f"{self.path}: equal, {self.files} files compared ({how})"
            if self.equal
            else f"{self.path}: {len(self.differences)} differences in {self.files} files ({how})"
        )
        return "\n".join([head, *map(str, self.differences), *(f"note: {n}" for n in self.notes)])


def verify(
    report: str | Path,
    runs: Runs = (),
    *,
    analyses: Sequence[str | Path] = (),
    progress: Callable[[str], None] | None = None,
) -> Verification:
    """Rebuild a report and compare every file of it.

    Parameters
    ----------
    report : path
        A report directory.
    runs : path or sequence of paths
        The runs that it was made from; then the inputs are made again and compared too.
    analyses : sequence of paths
        The user's own analysis files, if the report has any. The copy that a report carries is
        never run unless it is named here.

    Raises
    ------
    StatsnormError
        If `report` is no report, or an own analysis is not given.
    """
    folder = Path(report)
    tell = progress or (lambda _line: None)
    try:
        inputs = read_inputs(folder)
    except SchemaError as error:
        return Verification(folder, 0, True, (Difference("inputs", "", str(error)),), ())
    found = _analyses(inputs, [Path(a) for a in analyses])
    now, then = provenance.environment(), inputs.manifest["environment"]
    exact = now["libraries"] == then["libraries"] and now["python"] == then["python"]
    differences = [*_changed_code(inputs, found), *_changed_plan(inputs)]
    paths = [runs] if isinstance(runs, str | Path) else list(runs)
    if paths:
        differences += _changed_inputs(inputs, paths, found, exact=exact, progress=tell)
    rebuilt = build(inputs, found, progress=tell).files
    there = _files(folder)
    differences += compare_files(there, rebuilt, exact=exact)
    return Verification(
        folder, len(there), exact, tuple(differences), tuple(_notes(then, now, exact=exact))
    )


def _analyses(inputs: Inputs, own: Sequence[Path]) -> list[Analysis]:
    by_name = {path.stem: path for path in own}
    found = []
    for entry in inputs.manifest["analyses"]:
        name = entry["name"]
        if entry["shipped"]:
            path = analyses_folder() / f"{name}.py"
            if not path.is_file():
                raise StatsnormError(f"this statsnorm has no analysis {name!r} any more")
        elif name in by_name:
            path = by_name[name]
        else:
            raise StatsnormError(
                f"analysis {name!r} is its author's own file; read it and give it with "
                f"--analysis (the report carries a copy in inputs/)"
            )
        found.append(load_analysis(path, shipped=entry["shipped"]))
    return found


def _changed_code(inputs: Inputs, analyses: Sequence[Analysis]) -> list[Difference]:
    recorded = {entry["name"]: entry["sha256"] for entry in inputs.manifest["analyses"]}
    return [
        Difference(
            f"analysis {a.name}",
            "",
            f"changed since the report was written ({recorded[a.name][:12]} -> {a.sha256[:12]})",
        )
        for a in analyses
        if a.sha256 != recorded[a.name]
    ]


def _changed_plan(inputs: Inputs) -> list[Difference]:
    if not inputs.manifest["plan"]["shipped"]:
        return []
    then, now = sha256(inputs.plan), load_plan(shipped_plan_path()).sha256
    if then == now:
        return []
    return [
        Difference(
            "plan.toml", "", f"changed since the report was written ({then[:12]} -> {now[:12]})"
        )
    ]


def _changed_inputs(
    inputs: Inputs,
    runs: Sequence[str | Path],
    analyses: Sequence[Analysis],
    *,
    exact: bool,
    progress: Callable[[str], None],
) -> list[Difference]:
    plan_shipped = inputs.manifest["plan"]["shipped"]
    again = collect(
        runs,
        analyses,
        seed=inputs.manifest["seed"],
        plan=shipped_plan_path(),
        plan_shipped=plan_shipped,
        progress=progress,
    )
    tables = [
        {name: content for name, content in side.files.items() if name.endswith(".parquet")}
        for side in (inputs, again)
    ]
    differences = compare_files(tables[0], tables[1], exact=exact)
    then, now = (_by_hash(side.manifest["runs"]) for side in (inputs, again))
    for run in sorted(then.keys() | now.keys()):
        differences += _changed_run(run, then.get(run), now.get(run))
    return differences


def _by_hash(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {run["hash"]: run for run in runs}


def _changed_run(
    run: str, then: dict[str, Any] | None, now: dict[str, Any] | None
) -> list[Difference]:
    if then is None or now is None:
        what = "was not given" if now is None else "was given but is not of this report"
        name = (then or now or {}).get("name", "")
        return [Difference(f"run {name}", f"configuration {run[:12]}", what)]
    changed = [
        name
        for name in sorted(then["tables"].keys() | now["tables"].keys())
        if then["tables"].get(name) != now["tables"].get(name)
    ]
    return [Difference(f"run {then['name']}", name, "is another table now") for name in changed]


def _notes(then: dict[str, Any], now: dict[str, Any], *, exact: bool) -> list[str]:
    notes = []
    if then["statsnorm"] != now["statsnorm"] or then["source_sha256"] != now["source_sha256"]:
        notes.append(
            f"written by statsnorm {then['statsnorm']} ({then['source_sha256'][:12]}), "
            f"verified by {now['statsnorm']} ({now['source_sha256'][:12]})"
        )
    if not exact:
        versions = {**then["libraries"], "python": then["python"]}
        current = {**now["libraries"], "python": now["python"]}
        notes += [
            f"{name} {versions.get(name)} then, {current.get(name)} now"
            for name in sorted(versions.keys() | current.keys())
            if versions.get(name) != current.get(name)
        ]
    return notes


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
