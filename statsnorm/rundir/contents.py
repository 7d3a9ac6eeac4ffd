"""What a run directory holds and lacks, for `statsnorm info`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from statsnorm import locks
from statsnorm.records import is_sound
from statsnorm.rundir.finished import done_record
from statsnorm.rundir.run import read_run
from statsnorm.rundir.units import recorded, skipped_lines


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """What a run directory holds, and what it lacks."""

    path: Path
    hash: str
    kind: str
    finished: bool
    images: int
    skipped: int
    taps: tuple[str, ...]  # "NETWORK/TAP", "NETWORK of the output of GENERATOR/TAP"
    rows: Mapping[str, int]  # by table
    bytes: int
    config: Mapping[str, Any]
    missing: tuple[str, ...] = ()  # expected files that are not there
    damaged: tuple[str, ...] = ()  # files whose bytes are not those that were written
    running: tuple[str, ...] = field(default=())  # shards that a living process holds


def info(path: str | Path) -> RunInfo:
    """Return what the run at `path` holds; every byte is compared with what was written."""
    run = read_run(path)
    done = (run.path / "done.json").exists()
    known = done_record(run) if done else recorded(run).files
    names = run.expected.all()
    present = [name for name in names if (run.path / name).exists()]
    damaged = [n for n in present if not is_sound(run.path / n, known.get(n))]
    kind = str(run.config.get("kind", ""))
    rows = _count_rows(run.path, [name for name in present if name not in damaged])
    return RunInfo(
        path=run.path,
        hash=run.hash,
        kind=kind,
        finished=done and len(present) == len(names) and not damaged,
        images=rows.get("images", 0),
        skipped=rows.get("skipped", 0) if kind == "extract" else len(skipped_lines(run)),
        taps=_tap_names(run.path),
        rows=rows,
        bytes=sum((run.path / name).stat().st_size for name in present),
        config=run.config,
        missing=tuple(sorted(set(names) - set(present))),
        damaged=tuple(damaged),
        running=tuple(
            p.stem for p in sorted((run.path / "locks").glob("*.json")) if locks.is_held(p)
        ),
    )


def _count_rows(folder: Path, names: Iterable[str]) -> dict[str, int]:
    rows: dict[str, int] = {}
    for name in names:
        if name.endswith(".parquet"):
            table = name.partition("/")[0].removesuffix(".parquet")
            rows[table] = rows.get(table, 0) + pq.read_metadata(folder / name).num_rows
    return rows


def _tap_names(folder: Path) -> tuple[str, ...]:
    try:
        table = pq.read_table(folder / "taps.parquet", columns=["network", "source", "tap"])
    except (OSError, pa.ArrowException):
        return ()
    found = {
        f"{row['network']}{_of_output(row['source'])}/{row['tap']}": None
        for row in table.to_pylist()
    }
    return tuple(found)


def _of_output(source: str) -> str:
    return "" if source == "input" else f" of the output of {source}"
