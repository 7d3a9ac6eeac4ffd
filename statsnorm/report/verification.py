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

from statsnorm.engines.tasks import HERE, Engine
from statsnorm.errors import SchemaError, StatsnormError
from statsnorm.report import changes, provenance
from statsnorm.report.build import Built, build
from statsnorm.report.compare import Difference, compare_files
from statsnorm.report.discover import Analysis, load_analysis
from statsnorm.report.extras import EXTRAS
from statsnorm.report.inputs import Inputs, read_inputs
from statsnorm.shipped import analyses_folder

Runs = str | Path | Sequence[str | Path]


@dataclass(frozen=True, slots=True)
class Verification:
    """What came of verifying a report."""

    path: Path
    files: int  # compared
    exact: bool  # compared byte for byte
    differences: tuple[Difference, ...]  # what changed beneath the report, then what follows
    notes: tuple[str, ...]  # other versions, other code: no difference by itself

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not self.differences

    def __str__(self) -> str:
        how = "byte for byte" if self.exact else "text, and numbers to 1e-9"
        count = len(self.differences)
        head = (
            f"{self.path}: equal, {self.files} files compared ({how})"
            if self.equal
            else f"{self.path}: {count} {'difference' if count == 1 else 'differences'} "
            f"in {self.files} files ({how})"
        )
        return "\n".join([head, *map(str, self.differences), *(f"note: {n}" for n in self.notes)])


def verify(
    report: str | Path,
    runs: Runs = (),
    *,
    analyses: Sequence[str | Path] = (),
    engine: Engine = HERE,
    progress: Callable[[str], None] | None = None,
) -> Verification:
    """Rebuild a report and compare every file of it; what lies in ``extras/`` is left alone.

    Parameters
    ----------
    report : path
        A report directory.
    runs : path or sequence of paths
        The runs that it was made from; then the inputs are made again and compared too, and the
        report is rebuilt from the new ones.
    analyses : sequence of paths
        The user's own analysis files, if the report has any. The copy that a report carries is
        never run unless it is named here.
    engine : Engine
        Where the taps of `runs` are reduced; changes no byte.

    Raises
    ------
    StatsnormError
        If `report` is no report, or an own analysis is not given.
    """
    folder = Path(report)
    tell = progress or (lambda _line: None)
    try:
        inputs, touched = read_inputs(folder)
    except SchemaError as error:
        return Verification(folder, 0, True, (Difference("inputs", "", str(error)),), ())
    found = recorded_analyses(inputs, analyses)
    now, then = provenance.environment(), inputs.manifest["environment"]
    exact = now["libraries"] == then["libraries"] and now["python"] == then["python"]
    causes = [Difference(name, "", what) for name, what in sorted(touched.items())]
    causes += [*changes.of_code(inputs, found), *changes.of_plan(inputs)]
    paths = [runs] if isinstance(runs, str | Path) else list(runs)
    if paths:
        inputs, told = changes.of_runs(
            inputs, paths, found, exact=exact, progress=tell, engine=engine
        )
        causes += told
    there = report_files(folder)
    effects = _effects(inputs, found, there, causes, exact=exact, tell=tell)
    notes = _notes(then, now, exact=exact)
    return Verification(folder, len(there), exact, (*causes, *effects), tuple(notes))


def _effects(
    inputs: Inputs,
    analyses: Sequence[Analysis],
    there: dict[str, bytes],
    causes: Sequence[Difference],
    *,
    exact: bool,
    tell: Callable[[str], None],
) -> list[Difference]:
    """Rebuild, and return what differs, each with the changes that it may follow from."""
    try:
        built = build(inputs, analyses, progress=tell)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        if not causes:
            raise
        return [Difference("report", "", f"cannot be rebuilt: {type(error).__name__}: {error}")]
    found = compare_files(there, built.files, exact=exact, figures=_figure_names(built))
    if len(found) > 1:  # the list of hashes follows from the other files
        found = [d for d in found if (d.file, d.where) != ("provenance.json", "files")]
    told = {cause.file for cause in causes}
    return [changes.explained(d, inputs, causes) for d in found if d.file not in told]


def _figure_names(built: Built) -> dict[str, str]:
    """Return what each figure is called and drawn from, by its path without suffix."""
    return {
        figure.stem: f"figure {figure.number} ({figure.title}, from {figure.table.stem})"
        for view in built.document.analyses
        for figure in (*view.figures, *view.appendix_figures)
    }


def recorded_analyses(inputs: Inputs, own: Sequence[str | Path]) -> list[Analysis]:
    """Return the analyses of a report: shipped ones by name, others from the files in `own`.

    Raises
    ------
    StatsnormError
        If a shipped one is gone, or one that is not shipped is not among `own`.
    """
    by_name = {Path(path).stem: Path(path) for path in own}
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
        found.append(load_analysis(path, shipped=entry["shipped"], options=entry.get("options")))
    return found


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


def report_files(folder: Path) -> dict[str, bytes]:
    """Return the files of a report that a rebuild must equal, by path below it."""
    paths = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: p.read_bytes() for name, p in paths.items() if not name.startswith(EXTRAS)}
