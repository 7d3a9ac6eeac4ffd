"""A run directory: the configuration it stands for, its shards, what is there and what is not.

`run.json` is written first and holds the scientific configuration and its hash; how a run was
executed goes to `log/`. What is made at one go is a unit: a shard, a training cell, the tables
that are one for the run. A unit is finished when its last file has its name; then
`log/<unit>.json` says what every file of it must hash to. `done.json` is written by whoever
finds all files there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from statsnorm import locks
from statsnorm.atomic import TEMPORARY, sweep
from statsnorm.errors import SchemaError, StatsnormError, UnfinishedRunError
from statsnorm.records import file_record, file_records, is_below, is_intact, is_sound, is_whole
from statsnorm.tables import SCHEMA_VERSION, SCHEMAS, read_table, write_json

SHARD = "shard-{:05d}"
SINGLES = "singles"
"""The unit of the tables that are one for the run."""

MOST_SHARDS = 10_000_000
"""A stranger's run.json must not make us list without bound."""

_OURS = (
    *("moments", "correlations", "images", "skipped", "content"),
    *("curves", "generators", "checkpoints", "log", "locks"),
)
_OUR_FILES = ("run.json", "done.json", "taps.parquet", "levels.parquet", "invariance.parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Which files a finished run holds; follows from the configuration alone."""

    shards: int = 0
    sharded: tuple[str, ...] = ()  # folders with one table a shard; the last marks it finished
    files: tuple[str, ...] = ()  # paths relative to the run

    def of_shard(self, shard: int) -> tuple[str, ...]:
        """Return the files of one shard, the one that marks it finished last."""
        return tuple(f"{folder}/{SHARD.format(shard)}.parquet" for folder in self.sharded)

    def all(self) -> tuple[str, ...]:
        """Return every file, sorted."""
        sharded = (path for shard in range(self.shards) for path in self.of_shard(shard))
        return tuple(sorted([*self.files, *sharded]))


@dataclass(frozen=True, slots=True)
class Run:
    """An opened run directory."""

    path: Path
    config: Mapping[str, Any]
    hash: str
    expected: Expected

    def lock_path(self, shard: int | str) -> Path:
        """Return where the lock of a shard (or of a named training cell) lies."""
        return self.path / "locks" / f"{_unit_name(shard)}.json"

    def record_path(self, shard: int | str) -> Path:
        """Return where the record of a finished shard (or training cell) lies."""
        return self.path / "log" / f"{_unit_name(shard)}.json"

    @property
    def metadata(self) -> dict[str, str]:
        """What every table of the run carries in its footer."""
        return {"statsnorm.run": self.hash}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """What a run directory holds, and what it lacks."""

    path: Path
    hash: str
    kind: str
    finished: bool
    images: int
    skipped: int
    taps: tuple[str, ...]
    rows: Mapping[str, int]  # by table
    bytes: int
    config: Mapping[str, Any]
    missing: tuple[str, ...] = ()  # expected files that are not there
    damaged: tuple[str, ...] = ()  # files whose bytes are not those that were written
    running: tuple[str, ...] = field(default=())  # shards that a living process holds


def config_hash(config: Mapping[str, Any]) -> str:
    """Return the sha256 of the configuration as canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def open_run(
    out: Path, config: Mapping[str, Any], *, expected: Expected, restart: bool = False
) -> Run:
    """Open `out` for this configuration: begin it, or go on with it if it is the same.

    Parameters
    ----------
    out : Path
        Absent, empty, or a run directory of the same configuration.
    config : mapping
        The scientific configuration, JSON values only; `kind` says which command made it.
    expected : Expected
        The files of the finished run.
    restart : bool
        Throw away what an earlier run left.

    Raises
    ------
    StatsnormError
        If `out` holds another configuration, or files that are no run.
    """
    out = _no_uri(out)
    run = Run(out, json.loads(json.dumps(config)), config_hash(config), expected)
    ours = (out / "run.json").exists()
    if restart and ours:
        _clear(run)
    elif ours:
        there = _read_run_json(out)
        if there["hash"] != run.hash:
            raise StatsnormError(
                f"{out} holds another configuration ({_difference(there['config'], run.config)}); "
                "choose another folder, or --restart to throw it away"
            )
        return run
    elif _is_taken(out):
        raise StatsnormError(f"{out} is not empty and no run directory; choose another folder")
    content = {"hash": run.hash, "schema": SCHEMA_VERSION, "config": run.config}
    try:
        write_json(out / "run.json", {**content, "expected": asdict(expected)})
    except OSError as error:
        reason = error.strerror or str(error)
        raise StatsnormError(f"cannot write to {out}: {reason}; choose another folder") from error
    return run


@contextmanager
def writing(run: Run) -> Iterator[None]:
    """Turn what the disk refuses while the block runs into one sentence that says how to go on."""
    try:
        yield
    except BrokenPipeError:
        raise  # whoever reads our progress left: no fault of the disk
    except OSError as error:
        reason = error.strerror or str(error)
        raise StatsnormError(
            f"cannot write to {run.path}: {reason}; nothing half-written was left there: make "
            "room, then give the same command again and it goes on"
        ) from error


def discard(run: Run) -> None:
    """Remove all that a run wrote, and its folder if nothing else is in it."""
    _clear(run)
    if not any(run.path.iterdir()):
        run.path.rmdir()


def skipped_lines(run: Run) -> tuple[str, ...]:
    """Return `image (stage): reason` for every image that was left out so far."""
    files = sorted((run.path / "skipped").glob("shard-*.parquet"))
    rows = [row for file in files for row in read_table(file, SCHEMAS["skipped"]).to_pylist()]
    return tuple(f"{row['image']} ({row['stage']}): {row['reason']}" for row in rows)


def skipped_in(run: Run, shard: int) -> int:
    """Return how many images of a shard were left out, 0 while it is not written."""
    path = run.path / "skipped" / f"{SHARD.format(shard)}.parquet"
    return int(pq.read_metadata(path).num_rows) if path.exists() else 0


def read_run(path: str | Path) -> Run:
    """Return the run at `path`, finished or not.

    Raises
    ------
    StatsnormError
        If there is no run there, or its `run.json` was changed by hand.
    """
    folder = _no_uri(Path(path))
    there = _read_run_json(folder)
    return Run(folder, there["config"], there["hash"], _expected(there, folder))


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
        files = _done(run)
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
    files = _done(run)
    with ThreadPoolExecutor(max_workers=4) as pool:
        sound = pool.map(lambda name: is_intact(run.path / name, files[name]), files)
        bad = [name for name, right in zip(files, sound, strict=True) if not right]
    if bad:
        raise _damaged(run, bad)


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
    if record is not None:
        return all(is_intact(run.path / name, record.get(name)) for name in names)
    lock = run.lock_path(unit)
    if locks.is_held(lock) and locks.lock_owner(lock) != locks.this_process():
        return False  # its owner is about to write the record
    if not all((run.path / name).is_file() and _is_of_run(run, name) for name in names):
        return False
    record_shard(run, unit, names, {"recovered": True})
    return True


def begin_shard(run: Run, shard: int | str) -> bool:
    """Lock a unit and sweep what a dead owner left of it; False if somebody else is on it."""
    if not locks.acquire(run.lock_path(shard)):
        return False
    for folder in (run.path, *(f for f in run.path.iterdir() if f.is_dir())):
        for leftover in folder.glob(f".{_unit_name(shard)}.*{TEMPORARY}"):
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


def finish(run: Run) -> bool:
    """Write `done.json` if every expected file is there; return whether the run is finished."""
    names = run.expected.all()
    if not all((run.path / name).exists() for name in names):
        return False
    known = _recorded(run)
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
    if not path.exists() or _read_json(path) != done:  # a finished run may lie where none writes
        write_json(path, done)
    with suppress(OSError):
        _tidy(run)
    return True


def info(path: str | Path) -> RunInfo:
    """Return what the run at `path` holds; every byte is compared with what was written."""
    run = read_run(path)
    done = (run.path / "done.json").exists()
    known = _done(run) if done else _recorded(run).files
    names = run.expected.all()
    present = [name for name in names if (run.path / name).exists()]
    damaged = [n for n in present if not is_sound(run.path / n, known.get(n))]
    rows = _count_rows(run.path, [name for name in present if name not in damaged])
    return RunInfo(
        path=run.path,
        hash=run.hash,
        kind=str(run.config.get("kind", "")),
        finished=done and len(present) == len(names) and not damaged,
        images=rows.get("images", 0),
        skipped=rows.get("skipped", 0),
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


@dataclass(frozen=True, slots=True)
class _Recorded:
    """What the records of finished units say."""

    units: frozenset[str]
    files: dict[str, dict[str, Any]]  # path relative to the run -> its record


def _recorded(run: Run) -> _Recorded:
    units, files = set[str](), dict[str, dict[str, Any]]()
    for path in sorted((run.path / "log").glob("[!.]*.json")):
        record = _read_record(run, path.stem)
        if record is not None:
            units.add(path.stem)
            files.update(record)
    return _Recorded(frozenset(units), files)


def _no_uri(path: Path) -> Path:
    """Return a path that pyarrow does not take for a URI, as it does `a:/b`."""
    return path.absolute() if ":" in (path.parts or ("",))[0] else path


def _unit_name(unit: int | str) -> str:
    return SHARD.format(unit) if isinstance(unit, int) else unit


def _is_taken(out: Path) -> bool:
    """Return whether `out` holds anything but what a process that died at its start left."""
    if not out.exists():
        return False
    if not out.is_dir():
        return True
    return any(not _is_temporary(path) for path in out.iterdir())


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(".run.json.") and path.name.endswith(TEMPORARY)


def _is_of_run(run: Run, name: str) -> bool:
    if not name.endswith(".parquet"):
        return True  # written before the table of its unit, atomically
    try:
        schema = SCHEMAS[name.partition("/")[0].removesuffix(".parquet")]
        table = read_table(run.path / name, schema)
    except SchemaError:
        return False
    return bool(table.schema.metadata.get(b"statsnorm.run") == run.hash.encode())


def _count_rows(folder: Path, names: Iterable[str]) -> dict[str, int]:
    rows: dict[str, int] = {}
    for name in names:
        if name.endswith(".parquet"):
            table = name.partition("/")[0].removesuffix(".parquet")
            rows[table] = rows.get(table, 0) + pq.read_metadata(folder / name).num_rows
    return rows


def _tap_names(folder: Path) -> tuple[str, ...]:
    try:
        table = pq.read_table(folder / "taps.parquet", columns=["network", "tap"])
    except (OSError, pa.ArrowException):
        return ()
    pairs = zip(*(table.column(c).to_pylist() for c in ("network", "tap")), strict=True)
    return tuple(dict.fromkeys(f"{network}/{tap}" for network, tap in pairs))


def _read_record(run: Run, unit: int | str) -> dict[str, Any] | None:
    """Return path -> record of a finished unit, or None.

    A damaged record says nothing: the unit counts as unfinished and is made again.
    """
    path = run.record_path(unit)
    if not path.exists():
        return None
    try:
        return file_records(_read_json(path))
    except StatsnormError:
        return None


def _done(run: Run) -> dict[str, Any]:
    """Return path -> record of `done.json`; raise StatsnormError if it cannot be used."""
    path = run.path / "done.json"
    try:
        return file_records(_read_json(path))
    except StatsnormError as error:
        raise StatsnormError(
            f"{error}; remove {path.name} and give the command that made the run again"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StatsnormError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise StatsnormError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def _read_run_json(folder: Path) -> dict[str, Any]:
    if not (folder / "run.json").exists():
        raise StatsnormError(
            f"{folder} is no run directory (no run.json in it); give the --out of extract or train"
        )
    there = _read_json(folder / "run.json")
    if there.get("schema") != SCHEMA_VERSION:
        raise StatsnormError(
            f"{folder} has schema {there.get('schema')!r}, this statsnorm reads {SCHEMA_VERSION}; "
            "make it again, or use the statsnorm that wrote it"
        )
    config = there.get("config")
    if not isinstance(config, dict) or config_hash(config) != there.get("hash"):
        raise StatsnormError(f"{folder / 'run.json'} was changed: its hash does not match")
    return there


def _expected(there: Mapping[str, Any], folder: Path) -> Expected:
    try:
        expected = there["expected"]
        sharded, files = tuple(map(str, expected["sharded"])), tuple(map(str, expected["files"]))
        found = Expected(shards=int(expected["shards"]), sharded=sharded, files=files)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise StatsnormError(f"{folder / 'run.json'} lacks `expected` ({error!r})") from error
    if not 0 <= found.shards <= MOST_SHARDS:
        raise StatsnormError(f"{folder / 'run.json'} asks for {found.shards} shards")
    if bad := [name for name in (*files, *sharded) if not is_below(name)]:
        raise StatsnormError(f"{folder / 'run.json'} names {bad[0]!r}, which is not below the run")
    return found


def _difference(there: Any, here: Any, where: str = "") -> str:
    """Return the first few settings that differ, as `name: there -> here`."""
    if isinstance(there, dict) and isinstance(here, dict):
        keys = sorted(k for k in {*there, *here} if there.get(k) != here.get(k))
        return ", ".join(
            _difference(there.get(k), here.get(k), f"{where}.{k}" if where else k) for k in keys[:3]
        )
    return f"{where}: {_short(there)} there, {_short(here)} here"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _clear(run: Run) -> None:
    held = [p for p in sorted((run.path / "locks").glob("*.json")) if locks.is_held(p)]
    if held:
        raise StatsnormError(f"{run.path}: a living process holds {held[0].stem}; stop it first")
    for name in _OUR_FILES:
        (run.path / name).unlink(missing_ok=True)
    for name in _OURS:
        if (run.path / name).is_dir() and not (run.path / name).is_symlink():
            shutil.rmtree(run.path / name)
