"""`run.json`: the configuration that a run stands for, its hash, and the files it promises."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from statsnorm.errors import StatsnormError
from statsnorm.records import is_below
from statsnorm.tables import SCHEMA_VERSION

SHARD = "shard-{:05d}"


MOST_SHARDS = 10_000_000
"""A stranger's run.json must not make us list without bound."""


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


def config_hash(config: Mapping[str, Any]) -> str:
    """Return the sha256 of the configuration as canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_run_json(folder: Path) -> dict[str, Any]:
    """Return run.json; raise StatsnormError if there is none that can be trusted."""
    if not (folder / "run.json").exists():
        raise StatsnormError(
            f"{folder} is no run directory (no run.json in it); give the --out of extract or train"
        )
    there = read_json(folder / "run.json")
    if there.get("schema") != SCHEMA_VERSION:
        raise StatsnormError(
            f"{folder} has schema {there.get('schema')!r}, this statsnorm reads {SCHEMA_VERSION}; "
            "make it again, or use the statsnorm that wrote it"
        )
    config = there.get("config")
    if not isinstance(config, dict) or config_hash(config) != there.get("hash"):
        raise StatsnormError(f"{folder / 'run.json'} was changed: its hash does not match")
    return there


def expected_of(there: Mapping[str, Any], folder: Path) -> Expected:
    """Return `expected` of a run.json; raise StatsnormError if it is damaged or out of bounds."""
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


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file; raise StatsnormError if it holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StatsnormError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise StatsnormError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def difference(there: Any, here: Any, where: str = "") -> str:
    """Return the first few settings that differ, as `name: there -> here`."""
    if isinstance(there, dict) and isinstance(here, dict):
        keys = sorted(k for k in {*there, *here} if there.get(k) != here.get(k))
        return ", ".join(
            difference(there.get(k), here.get(k), f"{where}.{k}" if where else k) for k in keys[:3]
        )
    return f"{where}: {_short(there)} there, {_short(here)} here"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
