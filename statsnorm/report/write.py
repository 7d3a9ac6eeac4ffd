"""Runs into a report directory."""

from __future__ import annotations

import html
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from statsnorm.decisions import load_plan
from statsnorm.engines.tasks import HERE, Engine
from statsnorm.errors import StatsnormError
from statsnorm.load import Tables
from statsnorm.report.build import Built, build
from statsnorm.report.discover import find_analyses
from statsnorm.report.extras import make_extras, require_offered
from statsnorm.report.inputs import MANIFEST, collect
from statsnorm.shipped import shipped_plan_path

Runs = str | Path | Sequence[str | Path]

INPUT_LIMIT = 2_000_000
"""Bytes of sufficient statistics beyond which a report says that it is large to commit."""


@dataclass(frozen=True, slots=True)
class ReportResult:
    """Where a report lies and what it says first."""

    out: Path  # the report directory
    headline: str
    verdicts: tuple[tuple[str, str], ...]  # (hypothesis, verdict)
    left_out: tuple[tuple[str, str], ...]  # (analysis, reason): other tables are needed
    failed: tuple[tuple[str, str], ...]  # (analysis, reason): the tables were there
    skipped: int  # images dropped from all conditions
    asked: tuple[str, ...] = ()  # of the left out: analyses that were named
    done: tuple[str, ...] = ()  # analyses that the report holds
    input_bytes: int = 0  # of inputs/, from which a committed report is rebuilt

    @property
    def complete(self) -> bool:
        """Whether nothing that was asked for is missing; other tables' analyses do not count."""
        return not self.failed and not self.skipped and not self.asked

    def __str__(self) -> str:
        lines = [str(self.out / "report.html"), self.headline]
        for (hypothesis, verdict), times in Counter(self.verdicts).items():
            lines.append(f"{hypothesis}: {verdict}" + (f" ({times} networks)" if times > 1 else ""))
        if self.done:
            lines.append(f"done: {', '.join(self.done)}")
        for name, reason in self.left_out:
            what = "asked for, but left out" if name in self.asked else "left out"
            lines.append(f"{what}: {name}: {reason}")
        lines += [f"failed: {name}: {reason}" for name, reason in self.failed]
        if self.skipped:
            what = "image was" if self.skipped == 1 else "images were"
            lines.append(f"{self.skipped} {what} dropped; the report lists them")
        if self.input_bytes > INPUT_LIMIT:
            lines.append(
                f"inputs/ holds {self.input_bytes / 1e6:.1f} MB: more than the "
                f"{INPUT_LIMIT / 1e6:g} MB that a committed report should keep"
            )
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def write_report(
    runs: Runs,
    *,
    out: str | Path,
    analyses: Sequence[str | Path] | None = None,
    options: Mapping[str, str] | None = None,
    seed: int = 0,
    plan: str | Path | None = None,
    extras: Sequence[str] = (),
    engine: Engine = HERE,
    progress: Callable[[str], None] | None = None,
) -> ReportResult:
    """Run analyses on the tables of `runs` and write their report; same input, same bytes.

    Parameters
    ----------
    runs : path or sequence of paths
        Finished run directories.
    out : path
        The report directory; absent, empty, or an earlier report, which is replaced.
    analyses : sequence of str or path, optional
        Names of shipped analyses, or ``.py`` files with `summarise` and `run`, whose code is
        run. All shipped ones by default; those whose tables are missing are listed as left out,
        and the result is not `complete` if they were named here.
    options : mapping, optional
        Keywords for the `summarise` of these analyses; recorded in the report.
    seed : int
        Seed of every random draw, at least 0.
    plan : path, optional
        Decision rules, a TOML file like ``analyses/plan.toml``; the shipped one by default.
    extras : sequence of str
        Pictures outside `verify`, by name, e.g. "tsne"; they go to ``extras/``.
    engine : Engine
        Where the taps are reduced; changes no byte. By default one after another, here.
    progress : callable, optional
        Is told what is being done, one short line at a time.

    Returns
    -------
    ReportResult
        Path, headline, verdicts, and what was left out.

    Raises
    ------
    StatsnormError
        If a run is missing, unfinished or damaged, an analysis or extra is unknown, the plan
        cannot be read, or `out` holds something that is no report.
    """
    folder = Path(out)
    tell = progress or (lambda _line: None)
    if seed < 0:
        raise StatsnormError(f"seed must not be negative, got {seed}")
    _require_free(folder)
    chosen = find_analyses(analyses, options)
    require_offered(extras, chosen)
    source = Path(plan) if plan is not None else shipped_plan_path()
    load_plan(source)  # a bad plan is told of before the tables are read
    paths = [runs] if isinstance(runs, str | Path) else list(runs)
    inputs = collect(
        paths,
        chosen,
        seed=seed,
        plan=source,
        plan_shipped=plan is None,
        progress=tell,
        engine=engine,
    )
    beside: dict[str, bytes] = {}
    refused: dict[str, str] = {}
    if extras:
        tell(f"making {', '.join(extras)}")
        beside, entries, refused = make_extras(extras, chosen, Tables(paths), seed=seed)
        inputs = inputs.with_manifest(extras=entries)
    built = build(inputs, chosen, progress=tell)
    replace_directory(folder, {**built.files, **beside})
    named = {a.name for a in chosen} if analyses is not None else set()
    return result_of(folder, built, named=named, refused=refused)


def replace_directory(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write `files` (relative path -> bytes) as `folder`, all or nothing."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        reason = error.strerror or str(error)
        raise StatsnormError(f"cannot write to {folder}: {reason}; choose another --out") from error
    try:
        made = staging / "new"
        for name, content in files.items():
            path = made / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if folder.exists():
            folder.rename(staging / "old")
        try:
            made.rename(folder)
        except OSError:
            if (staging / "old").exists():
                (staging / "old").rename(folder)
            raise
    finally:
        shutil.rmtree(staging)


def _require_free(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise StatsnormError(f"{folder} is a file; choose another --out")
    if any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise StatsnormError(f"{folder} is not empty and no report; choose another --out")


def result_of(
    folder: Path,
    built: Built,
    *,
    named: Collection[str] = (),
    refused: Mapping[str, str] | None = None,
) -> ReportResult:
    """Return what a built report says; `named` analyses were asked for by name."""
    document = built.document
    missing = [a["name"] for a in document.manifest["analyses"] if a["left_out"]]
    return ReportResult(
        out=folder,
        headline=document.headlines[0],
        verdicts=tuple((v.claim.hypothesis, v.claim.verdict) for v in document.claims),
        left_out=document.left_out,
        failed=(*document.failed.items(), *(refused or {}).items()),
        skipped=len(document.skipped.rows),
        asked=tuple(name for name in missing if name in named),
        done=tuple(
            a["name"]
            for a in document.manifest["analyses"]
            if not a["left_out"] and a["name"] not in document.failed
        ),
        input_bytes=sum(len(c) for n, c in built.files.items() if n.startswith("inputs/")),
    )
