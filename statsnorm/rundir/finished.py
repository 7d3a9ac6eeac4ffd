"""`done.json`: written by whoever finds all files there, and asked whether they still are."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from statsnorm import locks
from statsnorm.atomic import sweep
from statsnorm.errors import SchemaError, StatsnormError, UnfinishedRunError
from statsnorm.records import file_record, file_records, is_intact, is_whole
from statsnorm.rundir.config import SHARD, read_json
from statsnorm.rundir.run import Run
from statsnorm.rundir.units import recorded
from statsnorm.tables import write_json


def finish(run: Run) -> bool:
    """Write `done.json` if every expected file is there; return whether the run is finished."""
    names = run.expected.all()
    if not all((run.path / name).exists() for name in names):
        return False
    known = recorded(run)
    if any(f"{SHARD.format(shard)}" not in known.units for shard in range(run.expected.shards)):
        return False  # its owner has not written down what it wrote
    files = {name: known.files.get(name) or file_record(run.path / name) for name in names}
    rows: dict[str, int] = {}
    for name, record in files.items():
        if "rows" in record:
            table = name.partition("/")[0].removesuffix(".parquet")
            rows[table] = rows.get(table, 0) + record["rows"]
    done = {"hash": run.hash, "rows": rows, "files": files}
    path = run.path / "done.json"
    if not path.exists() or read_json(path) != done:  # a finished run may lie where none writes
        write_json(path, done)
    with suppress(OSError):
        _tidy(run)
    return True


def require_finished(run: Run) -> None:
    """Raise unless `done.json` is there and no table of it was truncated or lost its footer.

    Sizes and footers are compared with what was written; pages carry their own checksums, which
    are verified when they are read. :func:`require_intact` compares every byte.

    Raises
    ------
    UnfinishedRunError
        If files are missing.
    SchemaError
        If files are damaged.
    """
    if (run.path / "done.json").exists():
        files = done_record(run)
        bad = [name for name, record in files.items() if not is_whole(run.path / name, record)]
        if bad:
            raise _damaged(run, bad)
        return
    missing = [name for name in run.expected.all() if not (run.path / name).exists()]
    what = f"{len(missing)} files are missing, first {missing[0]}" if missing else "no done.json"
    raise UnfinishedRunError(
        f"run {run.path} is not finished ({what}); give the same command again and it goes on"
    )


def require_intact(run: Run) -> None:
    """Raise SchemaError unless every byte of a finished run is what was written."""
    files = done_record(run)
    with ThreadPoolExecutor(max_workers=4) as pool:
        sound = pool.map(lambda name: is_intact(run.path / name, files[name]), files)
        bad = [name for name, right in zip(files, sound, strict=True) if not right]
    if bad:
        raise _damaged(run, bad)


def done_record(run: Run) -> dict[str, Any]:
    """Return path -> record of `done.json`; raise StatsnormError if it cannot be used."""
    path = run.path / "done.json"
    try:
        return file_records(read_json(path))
    except StatsnormError as error:
        raise StatsnormError(
            f"{error}; remove {path.name} and give the command that made the run again"
        ) from error


def _damaged(run: Run, names: Sequence[str]) -> SchemaError:
    return SchemaError(
        f"{len(names)} files of run {run.path} are damaged, first {names[0]}; give the command "
        "that made it again, and it makes them anew"
    )


def _tidy(run: Run) -> None:
    """Remove what processes that died left of no use: unfinished files, locks."""
    for folder in (run.path, *(f for f in run.path.iterdir() if f.is_dir())):
        sweep(folder)
    for path in (run.path / "locks").glob("*.json"):
        if locks.acquire(path):
            locks.release(path)
