"""Units of a run, made at one go: locked, recorded, finished or to be made again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from statsnorm import locks
from statsnorm.atomic import TEMPORARY
from statsnorm.errors import SchemaError, StatsnormError
from statsnorm.records import file_record, file_records, is_intact
from statsnorm.rundir.config import SHARD, read_json
from statsnorm.rundir.run import Run, unit_name
from statsnorm.tables import SCHEMAS, read_table, write_json


def shard_is_finished(run: Run, shard: int) -> bool:
    """Return whether all files of a shard are there with the bytes that were written."""
    return unit_is_finished(run, shard, run.expected.of_shard(shard))


def unit_is_finished(run: Run, unit: int | str, names: Iterable[str]) -> bool:
    """Return whether all files of a unit are there with the bytes that were written.

    A process that died between the last file and its record has finished the unit all the
    same: if every file is there and the pages of tables pass their checksums, the record is
    made good.
    """
    names = tuple(names)
    record = _read_record(run, unit)
    if record is None:
        lock = run.lock_path(unit)
        if locks.is_held(lock) and locks.lock_owner(lock) != locks.this_process():
            return False  # its owner is about to write the record
        record = _read_record(run, unit)  # its owner may have written it and let go just now
    if record is not None:
        return all(is_intact(run.path / name, record.get(name)) for name in names)
    if not all((run.path / name).is_file() and _is_of_run(run, name) for name in names):
        return False
    record_shard(run, unit, names, {"recovered": True})
    return True


def begin_shard(run: Run, shard: int | str) -> bool:
    """Lock a unit and sweep what a dead owner left of it; False if somebody else is on it."""
    if not locks.acquire(run.lock_path(shard)):
        return False
    for folder in (run.path, *(f for f in run.path.iterdir() if f.is_dir())):
        for leftover in folder.glob(f".{unit_name(shard)}.*{TEMPORARY}"):
            leftover.unlink(missing_ok=True)
    return True


def end_shard(run: Run, shard: int | str) -> None:
    """Unlock a unit, finished or dropped."""
    locks.release(run.lock_path(shard))


def record_shard(
    run: Run, shard: int | str, files: Iterable[str], execution: Mapping[str, Any]
) -> None:
    """Write down what the files of a finished unit hash to, and how it was executed."""
    (run.path / "done.json").unlink(missing_ok=True)  # it spoke of other files
    record = {name: file_record(run.path / name) for name in files}
    write_json(run.record_path(shard), {"files": record, "execution": execution})


def skipped_lines(run: Run) -> tuple[str, ...]:
    """Return `image (stage): reason` for every image that was left out so far."""
    files = sorted((run.path / "skipped").glob("shard-*.parquet"))
    rows = [row for file in files for row in read_table(file, SCHEMAS["skipped"]).to_pylist()]
    return tuple(f"{row['image']} ({row['stage']}): {row['reason']}" for row in rows)


def skipped_in(run: Run, shard: int) -> int:
    """Return how many images of a shard were left out, 0 while it is not written."""
    path = run.path / "skipped" / f"{SHARD.format(shard)}.parquet"
    return int(pq.read_metadata(path).num_rows) if path.exists() else 0


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the records of finished units say."""

    units: frozenset[str]
    files: dict[str, dict[str, Any]]  # path relative to the run -> its record


def recorded(run: Run) -> Recorded:
    """Return what the finished units of a run hold together."""
    units, files = set[str](), dict[str, dict[str, Any]]()
    for path in sorted((run.path / "log").glob("[!.]*.json")):
        record = _read_record(run, path.stem)
        if record is not None:
            units.add(path.stem)
            files.update(record)
    return Recorded(frozenset(units), files)


def _is_of_run(run: Run, name: str) -> bool:
    if not name.endswith(".parquet"):
        return True  # written before the table of its unit, atomically
    try:
        schema = SCHEMAS[name.partition("/")[0].removesuffix(".parquet")]
        table = read_table(run.path / name, schema)
    except SchemaError:
        return False
    return bool(table.schema.metadata.get(b"statsnorm.run") == run.hash.encode())


def _read_record(run: Run, unit: int | str) -> dict[str, Any] | None:
    """Return path -> record of a finished unit, or None.

    A damaged record says nothing: the unit counts as unfinished and is made again.
    """
    path = run.record_path(unit)
    if not path.exists():
        return None
    try:
        return file_records(read_json(path))
    except StatsnormError:
        return None
