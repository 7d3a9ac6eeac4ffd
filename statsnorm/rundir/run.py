"""Run directories: begun, gone on with, read, discarded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from statsnorm import locks
from statsnorm.atomic import TEMPORARY
from statsnorm.errors import StatsnormError
from statsnorm.rundir.config import (
    SHARD,
    Expected,
    config_hash,
    difference,
    expected_of,
    read_run_json,
)
from statsnorm.tables import SCHEMA_VERSION, write_json

SINGLES = "singles"
"""The unit of the tables that are one for the run."""


_OURS = (
    *("moments", "correlations", "images", "skipped", "outside", "content"),
    *("curves", "generators", "checkpoints", "log", "locks"),
)


_OUR_FILES = ("run.json", "done.json", "taps.parquet", "levels.parquet", "invariance.parquet")


@dataclass(frozen=True, slots=True)
class Run:
    """An opened run directory."""

    path: Path
    config: Mapping[str, Any]
    hash: str
    expected: Expected

    def lock_path(self, shard: int | str) -> Path:
        """Return where the lock of a shard (or of a named training cell) lies."""
        return self.path / "locks" / f"{unit_name(shard)}.json"

    def record_path(self, shard: int | str) -> Path:
        """Return where the record of a finished shard (or training cell) lies."""
        return self.path / "log" / f"{unit_name(shard)}.json"

    @property
    def metadata(self) -> dict[str, str]:
        """What every table of the run carries in its footer."""
        return {"statsnorm.run": self.hash}


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
    taken = _is_taken(out)  # asked first: whoever begins a run meanwhile writes run.json first
    ours = (out / "run.json").exists()
    if restart and ours:
        _clear(run)
    elif ours:
        there = read_run_json(out)
        if there["hash"] != run.hash:
            raise StatsnormError(
                f"{out} holds another configuration ({difference(there['config'], run.config)}); "
                "choose another folder, or --restart to throw it away"
            )
        return replace(run, expected=_begun_with(expected, expected_of(there, out)))
    elif taken:
        raise StatsnormError(f"{out} is not empty and no run directory; choose another folder")
    content = {"hash": run.hash, "schema": SCHEMA_VERSION, "config": run.config}
    try:
        write_json(out / "run.json", {**content, "expected": asdict(expected)})
    except OSError as error:
        reason = error.strerror or str(error)
        raise StatsnormError(f"cannot write to {out}: {reason}; choose another folder") from error
    return run


def _begun_with(expected: Expected, there: Expected) -> Expected:
    """Return the expected files, less the tables of a shard that the run was begun without.

    A run of an earlier version goes on as it began: its finished shards are whole.
    """
    return replace(expected, sharded=tuple(n for n in expected.sharded if n in there.sharded))


def read_run(path: str | Path) -> Run:
    """Return the run at `path`, finished or not.

    Raises
    ------
    StatsnormError
        If there is no run there, or its `run.json` was changed by hand.
    """
    folder = _no_uri(Path(path))
    there = read_run_json(folder)
    return Run(folder, there["config"], there["hash"], expected_of(there, folder))


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


def unit_name(unit: int | str) -> str:
    """Return the name of a unit: a shard by its number, all else by its own."""
    return SHARD.format(unit) if isinstance(unit, int) else unit


def _no_uri(path: Path) -> Path:
    """Return a path that pyarrow does not take for a URI, as it does `a:/b`."""
    return path.absolute() if ":" in (path.parts or ("",))[0] else path


def _is_taken(out: Path) -> bool:
    """Return whether `out` holds anything but what a process that died at its start left."""
    if not out.exists():
        return False
    if not out.is_dir():
        return True
    return any(not _is_temporary(path) for path in out.iterdir())


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(".run.json.") and path.name.endswith(TEMPORARY)


def _clear(run: Run) -> None:
    held = [p for p in sorted((run.path / "locks").glob("*.json")) if locks.is_held(p)]
    if held:
        raise StatsnormError(f"{run.path}: a living process holds {held[0].stem}; stop it first")
    for name in _OUR_FILES:
        (run.path / name).unlink(missing_ok=True)
    for name in _OURS:
        if (run.path / name).is_dir() and not (run.path / name).is_symlink():
            shutil.rmtree(run.path / name)
