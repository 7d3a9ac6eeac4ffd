"""One owner a shard: locks that name host and process, and are recovered when that one died."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from statsnorm.errors import StatsnormError


@dataclass(frozen=True, slots=True)
class Owner:
    """A process on a host; `started` tells it from a later process with the same id."""

    host: str
    pid: int
    started: str  # boot id and start time in ticks, never a wall clock; "" where unknown


def this_process() -> Owner:
    """Return the owner that the calling process is."""
    return Owner(socket.gethostname(), os.getpid(), _started(os.getpid()))


def is_alive(owner: Owner) -> bool:
    """Return False only if `owner` ran on this host and is certainly gone."""
    if owner.host != socket.gethostname():
        return True
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's process has this id
    return not owner.started or owner.started == _started(owner.pid)


def _started(pid: int) -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return f"{boot}/{stat.rpartition(')')[2].split()[19]}"  # field 22 of proc(5): starttime


def lock_owner(path: Path) -> Owner | None:
    """Return who holds the lock at `path`, or None if nobody does."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Owner(str(content["host"]), int(content["pid"]), str(content["started"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise StatsnormError(f"{path} is no lock of ours ({error}); remove it by hand") from error


def acquire(path: Path) -> bool:
    """Take the lock at `path`; False if a living process (or another host) holds it.

    The lock appears with its owner in it (a hard link to a finished file), so nobody reads
    half of one. A stale lock can only be one of this host, so a kernel lock on a guard file
    is enough to let one process at a time recover it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _guard(path.parent):
        held = lock_owner(path)
        if held is not None and is_alive(held):
            return False
        if held is not None:
            path.unlink()
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        temporary.write_text(json.dumps(asdict(this_process())), encoding="utf-8")
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False  # another host was faster
        finally:
            temporary.unlink()
    return True


def release(path: Path) -> None:
    """Give the lock at `path` back if this process holds it."""
    if lock_owner(path) == this_process():
        path.unlink(missing_ok=True)


def break_lock(path: Path, owner: Owner) -> None:
    """Remove the lock at `path` if `owner`, who is known to be dead, holds it."""
    if path.parent.exists():
        with _guard(path.parent):
            if lock_owner(path) == owner:
                path.unlink(missing_ok=True)


@contextmanager
def _guard(directory: Path) -> Iterator[None]:
    with (directory / ".guard").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
