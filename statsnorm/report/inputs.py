"""Everything a report is built from, and the `inputs/` folder that keeps it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from inspect import signature
from pathlib import Path
from typing import Any

import pandas as pd

from statsnorm.engines.tasks import HERE, Engine
from statsnorm.errors import SchemaError, StatsnormError, UnfinishedRunError
from statsnorm.report import provenance
from statsnorm.report.discover import Analysis
from statsnorm.report.encode import json_bytes, parquet_bytes, read_parquet, sha256, slug
from statsnorm.report.needs import nothing_for
from statsnorm.rundir import Run, require_intact

SCHEMA = 1
MANIFEST = "inputs/report.json"
PLAN = "inputs/plan.toml"
SKIPPED = "inputs/skipped.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The sufficient statistics of a report with all that decides its bytes.

    `files` maps a path below the report (``inputs/...``) to its bytes; `manifest` says which of
    them belong to which analysis, and holds seed, plan, runs and versions.
    """

    manifest: Mapping[str, Any]
    files: Mapping[str, bytes] = field(repr=False)

    def frames(self, analysis: str) -> dict[str, pd.DataFrame]:
        """Return the frames of one analysis, as its `run` gets them."""
        entry = next(a for a in self.manifest["analyses"] if a["name"] == analysis)
        return {t["name"]: read_parquet(self.files[t["file"]], t["file"]) for t in entry["tables"]}

    def with_manifest(self, files: Mapping[str, bytes] | None = None, **entries: Any) -> Inputs:
        """Return these inputs with other entries in the manifest, and other files if given."""
        kept = {n: c for n, c in (files or self.files).items() if n != MANIFEST}
        hashes = {name: sha256(content) for name, content in sorted(kept.items())}
        manifest = {**self.manifest, **entries, "files": hashes}
        return replace(self, manifest=manifest, files={**kept, MANIFEST: json_bytes(manifest)})

    @property
    def skipped(self) -> pd.DataFrame:
        """The images that were dropped: run, image, stage, reason."""
        return read_parquet(self.files[SKIPPED], SKIPPED)

    @property
    def plan(self) -> bytes:
        """The decision rules, the bytes of a plan.toml."""
        return self.files[PLAN]


def collect(
    runs: Sequence[str | Path],
    analyses: Sequence[Analysis],
    *,
    seed: int,
    plan: Path,
    plan_shipped: bool,
    progress: Callable[[str], None],
    engine: Engine = HERE,
) -> Inputs:
    """Summarise the tables of `runs` for each analysis; keep the frames and their origin.

    An analysis whose `summarise` refuses the tables, or returns nothing, is kept as left out,
    with the reason. A damaged table or an unfinished run stops everything.

    Raises
    ------
    StatsnormError
        If there is no run, a run is given twice or not finished, or a table is damaged.
    """
    from statsnorm.report.workers import tables_on

    _require_distinct(runs)
    files = {PLAN: plan.read_bytes()}
    entries = []
    with tables_on(engine, list(runs), analyses) as tables:
        for run in tables.runs:
            progress(f"comparing every byte of {run.path.name} with what was written")
            require_intact(run)
            _require_different_images(run)
        for analysis in analyses:
            progress(f"summarising for {analysis.name}")
            frames, reason = _summarise(analysis, tables, seed)
            entry, own = _entry(analysis, frames, reason)
            if twice := sorted(own.keys() & files.keys()):
                raise StatsnormError(f"two analyses write {twice[0]!r}; rename one of them")
            entries.append(entry)
            files.update(own)
    files[SKIPPED] = parquet_bytes(_skipped(runs))
    facts = [provenance.run_facts(run) for run in tables.runs]
    return Inputs(manifest={}, files=files).with_manifest(
        schema=SCHEMA,
        seed=seed,
        plan={"shipped": plan_shipped, "sha256": sha256(files[PLAN])},
        analyses=entries,
        runs=facts,
        environment=provenance.environment(),
    )


def _require_distinct(runs: Sequence[str | Path]) -> None:
    seen: set[Path] = set()
    for run in runs:
        if (place := Path(run).resolve()) in seen:
            raise StatsnormError(f"run {str(run)!r} is given twice; its images would count twice")
        seen.add(place)


def _require_different_images(run: Run) -> None:
    """Refuse a design with one file under two names: its units would be fewer than it says."""
    from statsnorm.images.sources import same_file
    from statsnorm.load import Tables

    if not run.config.get("design"):
        return
    names: dict[str, str] = {}
    for row in Tables(run.path, unfinished=True).images().to_dict("records"):
        first = names.setdefault(str(row["sha256"]), str(row["image"]))
        if first != row["image"]:
            raise same_file(first, str(row["image"]))


def read_inputs(report: Path) -> tuple[Inputs, dict[str, str]]:
    """Return the inputs that a report directory keeps, and what was done to them since.

    The second part maps a file to one sentence: its bytes are not those that the manifest names.

    Raises
    ------
    StatsnormError
        If `report` is no report, or its manifest is of another schema.
    SchemaError
        If an input file is missing, or the manifest names one that is not below inputs/.
    """
    path = report / MANIFEST
    if not path.is_file():
        raise StatsnormError(
            f"{report} is no report: it has no {MANIFEST}; give the --out of report or compare"
        )
    try:
        manifest = json.loads(path.read_bytes())
        schema = manifest["schema"]
    except (ValueError, TypeError, KeyError) as error:
        raise SchemaError(f"{path} is damaged: {error}") from error
    if schema != SCHEMA:
        raise SchemaError(f"{path} has schema {schema!r}, this statsnorm reads {SCHEMA}")
    files, changed = {MANIFEST: path.read_bytes()}, {}
    for name, digest in manifest["files"].items():
        files[name] = _read_input(report, name)
        if (now := sha256(files[name])) != digest:
            changed[name] = f"was changed: sha256 {now[:12]}, written as {digest[:12]}"
    return Inputs(manifest=manifest, files=files), changed


def _read_input(report: Path, name: str) -> bytes:
    path = report / name
    if not name.startswith("inputs/") or ".." in Path(name).parts:
        raise SchemaError(f"{MANIFEST} names {name!r}, which is not below inputs/")
    if not path.is_file():
        raise SchemaError(f"input {name} is missing")
    return path.read_bytes()


def _summarise(
    analysis: Analysis, tables: Any, seed: int
) -> tuple[Mapping[str, pd.DataFrame], str]:
    """Return what `summarise` makes of the tables; one that draws takes the report's `seed`."""
    summarise = analysis.function("summarise")
    drawn = {"seed": seed} if "seed" in signature(summarise).parameters else {}
    try:
        frames = summarise(tables, **drawn, **analysis.options)
    except (SchemaError, UnfinishedRunError):
        raise
    except StatsnormError as error:
        return {}, str(error)
    if not isinstance(frames, Mapping):
        raise StatsnormError(
            f"analysis {analysis.name!r}: summarise must return a dict of frames, "
            f"got {type(frames).__name__}"
        )
    return frames, "" if frames else nothing_for(analysis.name)


def _entry(
    analysis: Analysis, frames: Mapping[str, pd.DataFrame], reason: str
) -> tuple[dict[str, Any], dict[str, bytes]]:
    files: dict[str, bytes] = {}
    tables = []
    for name in sorted(frames):
        file = f"inputs/{slug(analysis.name)}.{slug(name)}.parquet"
        if file in files:
            raise StatsnormError(f"analysis {analysis.name!r}: two inputs are called {file!r}")
        files[file] = parquet_bytes(frames[name])
        tables.append({"name": name, "file": file, "rows": len(frames[name])})
    entry = {
        "name": analysis.name,
        "shipped": analysis.shipped,
        "sha256": analysis.sha256,
        "question": analysis.question,
        "left_out": reason,
        "tables": tables,
        **({"options": dict(analysis.options)} if analysis.options else {}),
    }
    if not analysis.shipped:
        files[own_copy(analysis)] = analysis.source
    return entry, files


def own_copy(analysis: Analysis) -> str:
    """Return where a report keeps the source of an analysis that does not ship."""
    return f"inputs/{slug(analysis.name)}.py"


def _skipped(runs: Sequence[str | Path]) -> pd.DataFrame:
    from statsnorm.load import Tables

    frames = []
    for run in runs:
        frame = Tables([run]).skipped()[["image", "stage", "reason"]]
        frames.append(frame.assign(run=Path(run).resolve().name))
    merged = pd.concat(frames, ignore_index=True)[["run", "image", "stage", "reason"]]
    return merged.assign(
        reason=[provenance.without_paths(r) for r in merged["reason"]]
    ).sort_values(["run", "image", "stage"], ignore_index=True)
