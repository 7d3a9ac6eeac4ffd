"""Files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = ".tmp"
"""Suffix of files that are not finished; their names begin with a dot, so readers skip them."""


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on leaving, fsync it and rename it to `path`.

    After a crash at any point `path` is either absent, the old file, or the whole new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
        _sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_beside(path: Path) -> Path:
    """Return a new name beside `path` that says which process of which host it belongs to."""
    owner = f"{_host()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".{path.name}.{owner}{TEMPORARY}")


def sweep(folder: Path) -> None:
    """Remove the unfinished files that processes of this host left in `folder` when they died."""
    for path in folder.glob(f".*{TEMPORARY}"):
        host, _, rest = path.name.removesuffix(TEMPORARY).rpartition(".")[2].partition("-")
        pid = rest.partition("-")[0]
        if host == _host() and pid.isdecimal() and not _runs(int(pid)):
            path.unlink(missing_ok=True)


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
