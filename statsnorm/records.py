"""What the files of a run must be: rows, bytes, hashes; and whether they still are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from statsnorm.errors import StatsnormError


def file_record(path: Path) -> dict[str, Any]:
    """Return bytes and sha256 of a file; of a table also rows and the sha256 of its footer."""
    record: dict[str, Any] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    if path.suffix == ".parquet":
        record["rows"] = pq.read_metadata(path).num_rows
        record["footer_sha256"] = _footer_sha256(path)
    return record


def file_records(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return path -> record of `files`; raise StatsnormError if that is damaged."""
    files = content.get("files")
    if not isinstance(files, dict):
        raise StatsnormError("a record of files lacks `files`")
    for name, record in files.items():
        right = isinstance(record, dict) and isinstance(record.get("sha256"), str)
        if not right or not all(isinstance(record.get(k, 0), int) for k in ("bytes", "rows")):
            raise StatsnormError(f"the record of {name!r} is damaged")
        if "bytes" not in record or not is_below(name):
            raise StatsnormError(f"the record of {name!r} is none of a file of the run")
    return files


def is_below(name: str) -> bool:
    """Return whether a relative path stays below the folder it is relative to."""
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


def is_sound(path: Path, record: Mapping[str, Any] | None) -> bool:
    """Return whether a file is what its record says, or without one can be read at all."""
    if record is not None:
        return is_intact(path, record)
    if path.suffix != ".parquet":
        return path.is_file()
    try:
        pq.read_metadata(path)
    except (OSError, pa.ArrowException):
        return False
    return True


def is_intact(path: Path, record: Mapping[str, Any] | None) -> bool:
    """Return whether every byte of a file is what its record says."""
    if record is None or not path.is_file() or path.stat().st_size != record["bytes"]:
        return False
    return bool(_sha256(path) == record["sha256"])


def is_whole(path: Path, record: Mapping[str, Any]) -> bool:
    """Return whether size and footer are those that were written; without either, every byte."""
    if "footer_sha256" not in record:
        return is_intact(path, record)
    if not path.is_file() or path.stat().st_size != record["bytes"]:
        return False
    return bool(_footer_sha256(path) == record["footer_sha256"])


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _footer_sha256(path: Path) -> str:
    """Return the sha256 of a Parquet footer with its length and magic; of all if there is none."""
    with path.open("rb") as handle:
        size = handle.seek(0, 2)
        handle.seek(max(0, size - 8))
        length = int.from_bytes(handle.read(4), "little") + 8
        handle.seek(max(0, size - length))
        return hashlib.sha256(handle.read()).hexdigest()
