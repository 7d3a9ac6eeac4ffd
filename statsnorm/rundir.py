"""A run directory: the configuration it stands for, its shards, what is there and what is not.

`run.json` is written first and holds the scientific configuration and its hash; how a run was
executed goes to `log/`. A shard is finished when its last table, `moments`, has its name; then
`log/shard-*.json` says what every file of it must hash to. `done.json` is written by whoever
finds all files there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from statsnorm import locks
from statsnorm.errors import SchemaError, StatsnormError, UnfinishedRunError
from statsnorm.tables import SCHEMA_VERSION, SCHEMAS, TEMPORARY, read_table, write_json

SHARD = "shard-{:05d}"
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
        name = SHARD.format(shard) if isinstance(shard, int) else shard
        return self.path / "locks" / f"{name}.json"

    def record_path(self, shard: int | str) -> Path:
        """Return where the record of a finished shard (or training cell) lies."""
        name = SHARD.format(shard) if isinstance(shard, int) else shard
        return self.path / "log" / f"{name}.json"

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
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StatsnormError(f"{out} is not empty and no run directory; choose another folder")
    content = {"hash": run.hash, "schema": SCHEMA_VERSION, "config": run.config}
    try:
        write_json(out / "run.json", {**content, "expected": asdict(expected)})
    except OSError as error:
        reason = error.strerror or str(error)
        raise StatsnormError(f"cannot write to {out}: {reason}; choose another folder") from error
    return run


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
    folder = Path(path)
    there = _read_run_json(folder)
    return Run(folder, there["config"], there["hash"], _expected(there, folder))


def require_finished(run: Run) -> None:
    """Raise UnfinishedRunError, saying what is missing, unless `done.json` is there."""
    if (run.path / "done.json").exists():
        return
    missing = [name for name in run.expected.all() if not (run.path / name).exists()]
    what = f"{len(missing)} files are missing, first {missing[0]}" if missing else "no done.json"
    raise UnfinishedRunError(
        f"run {run.path} is not finished ({what}); give the same command again and it goes on"
    )


def shard_is_finished(run: Run, shard: int) -> bool:
    """Return whether all files of a shard are there with the bytes that were written.

    A process that died between the last table and its record has finished the shard all the
    same: if every table is there and its pages pass their checksums, the record is made good.
    """
    names = run.expected.of_shard(shard)
    record = _read_record(run, shard)
    if record is not None:
        return all(_is_intact(run.path / name, record.get(name)) for name in names)
    if not all((run.path / name).exists() and _is_of_run(run, name) for name in names):
        return False
    record_shard(run, shard, names, {"recovered": True})
    return True


def begin_shard(run: Run, shard: int | str) -> bool:
    """Lock a shard and sweep what a dead owner left of it; False if somebody else is on it."""
    if not locks.acquire(run.lock_path(shard)):
        return False
    if isinstance(shard, int):
        for name in run.expected.of_shard(shard):
            path = run.path / name
            for leftover in path.parent.glob(f".{path.name}.*{TEMPORARY}"):
                leftover.unlink(missing_ok=True)
    return True


def end_shard(run: Run, shard: int | str) -> None:
    """Unlock a shard, finished or dropped."""
    locks.release(run.lock_path(shard))


def record_shard(
    run: Run, shard: int | str, files: Iterable[str], execution: Mapping[str, Any]
) -> None:
    """Write down what the files of a finished shard hash to, and how it was executed."""
    (run.path / "done.json").unlink(missing_ok=True)  # it spoke of other files
    record = {name: file_record(run.path / name) for name in files}
    write_json(run.record_path(shard), {"files": record, "execution": execution})


def file_record(path: Path) -> dict[str, Any]:
    """Return rows (of a table), bytes and sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    record: dict[str, Any] = {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}
    if path.suffix == ".parquet":
        record["rows"] = pq.read_metadata(path).num_rows
    return record


def finish(run: Run) -> bool:
    """Write `done.json` if every expected file is there; return whether the run is finished."""
    names = run.expected.all()
    if not all((run.path / name).exists() for name in names):
        return False
    known: dict[str, Any] = {}
    for shard in range(run.expected.shards):
        record = _read_record(run, shard)
        if record is None:
            return False  # its owner has not written down what it wrote
        known.update(record)
    files = {name: known.get(name) or file_record(run.path / name) for name in names}
    rows: dict[str, int] = {}
    for name, record in files.items():
        if "rows" in record:
            table = name.partition("/")[0].removesuffix(".parquet")
            rows[table] = rows.get(table, 0) + record["rows"]
    write_json(run.path / "done.json", {"hash": run.hash, "rows": rows, "files": files})
    return True


def info(path: str | Path) -> RunInfo:
    """Return what the run at `path` holds; every byte is compared with what was written."""
    run = read_run(path)
    done = _read_json(run.path / "done.json") if (run.path / "done.json").exists() else None
    known: dict[str, Any] = dict(done["files"]) if done else {}
    if done is None:
        for shard in range(run.expected.shards):
            known.update(_read_record(run, shard) or {})
    names = run.expected.all()
    present = [name for name in names if (run.path / name).exists()]
    damaged = [n for n in present if n in known and not _is_intact(run.path / n, known[n])]
    rows = _count_rows(run.path, [name for name in present if name not in damaged])
    held = ((p, locks.lock_owner(p)) for p in sorted((run.path / "locks").glob("*.json")))
    return RunInfo(
        path=run.path,
        hash=run.hash,
        kind=str(run.config.get("kind", "")),
        finished=done is not None and len(present) == len(names) and not damaged,
        images=rows.get("images", 0),
        skipped=rows.get("skipped", 0),
        taps=_tap_names(run.path),
        rows=rows,
        bytes=sum((run.path / name).stat().st_size for name in present),
        config=run.config,
        missing=tuple(sorted(set(names) - set(present))),
        damaged=tuple(damaged),
        running=tuple(p.stem for p, owner in held if owner and locks.is_alive(owner)),
    )


def _is_of_run(run: Run, name: str) -> bool:
    try:
        table = read_table(run.path / name, SCHEMAS[name.partition("/")[0]])
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


def _is_intact(path: Path, record: Mapping[str, Any] | None) -> bool:
    if record is None or not path.exists() or path.stat().st_size != record["bytes"]:
        return False
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return bool(digest.hexdigest() == record["sha256"])


def _read_record(run: Run, shard: int | str) -> dict[str, Any] | None:
    path = run.record_path(shard)
    if not path.exists():
        return None
    try:
        return dict(_read_json(path)["files"])
    except (StatsnormError, KeyError, TypeError):
        return None  # a damaged record: the shard counts as unfinished and is made again


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
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
    if config_hash(there.get("config", {})) != there.get("hash"):
        raise StatsnormError(f"{folder / 'run.json'} was changed: its hash does not match")
    return there


def _expected(there: Mapping[str, Any], folder: Path) -> Expected:
    try:
        expected = there["expected"]
        sharded, files = tuple(map(str, expected["sharded"])), tuple(map(str, expected["files"]))
        return Expected(shards=int(expected["shards"]), sharded=sharded, files=files)
    except (KeyError, TypeError, ValueError) as error:
        raise StatsnormError(f"{folder / 'run.json'} lacks `expected` ({error!r})") from error


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
    held = [p for p in sorted((run.path / "locks").glob("*.json")) if _held(p)]
    if held:
        raise StatsnormError(f"{run.path}: a living process holds {held[0].stem}; stop it first")
    for name in _OUR_FILES:
        (run.path / name).unlink(missing_ok=True)
    for name in _OURS:
        if (run.path / name).is_dir() and not (run.path / name).is_symlink():
            shutil.rmtree(run.path / name)


def _held(path: Path) -> bool:
    owner = locks.lock_owner(path)
    return owner is not None and locks.is_alive(owner)
