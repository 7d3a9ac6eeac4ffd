"""One owner a shard: locks that name host and process, and are recovered when that one died.

Whether a process of this host lives can be asked. One of another host shows it by renewing its
locks (:func:`signs_of_life`); who watches a lock that is not renewed for :data:`STALE_AFTER`
seconds of his own monotonic clock takes it over. No wall clock is read and none is compared.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from statsnorm.atomic import temporary_beside

BEAT = 10.0
"""Seconds between two signs of life of an owner."""

STALE_AFTER = 60.0
"""An owner on another host that was watched so many seconds without a sign of life is gone."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A process on a host; `started` tells it from a later process with the same id."""

    host: str
    pid: int
    started: str  # boot id and start time in ticks, never a wall clock; "" where unknown


@dataclass(slots=True)
class _Watched:
    owner: Owner
    beat: int
    since: float  # monotonic
    moved: bool = False  # it gave a sign of life since it was first seen


@dataclass(slots=True)
class Watch:
    """What this process saw of the locks of other hosts."""

    seen: dict[Path, _Watched] = field(default_factory=dict)

    def look(self, path: Path, owner: Owner) -> _Watched | None:
        """Return what is known of a lock after looking at it once more; None if it is gone."""
        try:
            beat = path.stat().st_mtime_ns
        except FileNotFoundError:
            self.seen.pop(path, None)
            return None
        known = self.seen.get(path)
        if known is None or known.owner != owner:
            known = self.seen[path] = _Watched(owner, beat, time.monotonic())
        elif known.beat != beat:
            known.beat, known.since, known.moved = beat, time.monotonic(), True
        return known


_watch = Watch()


def this_process() -> Owner:
    """Return the owner that the calling process is."""
    return Owner(socket.gethostname(), os.getpid(), _started(os.getpid()))


def is_alive(owner: Owner) -> bool:
    """Return False only if `owner` ran on this host and is certainly gone."""
    if owner.host != socket.gethostname():
        return True
    try:
        os.kill(owner.pid, 0)
    except (ProcessLookupError, OverflowError):
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
    """Return who holds the lock at `path`, or None if nobody does.

    A lock appears whole, so one that cannot be read was torn by a crash of the machine: nobody
    holds it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Owner(str(content["host"]), int(content["pid"]), str(content["started"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def is_held(path: Path) -> bool:
    """Return whether somebody holds the lock at `path` who is not known to be gone."""
    owner = lock_owner(path)
    return owner is not None and is_alive(owner) and not _is_silent(path, owner)


def is_undecided(path: Path) -> bool:
    """Return whether only time can tell if the owner of a lock, on another host, is alive."""
    owner = lock_owner(path)
    if owner is None or owner.host == socket.gethostname():
        return False
    known = _watch.look(path, owner)
    return known is not None and not known.moved


def acquire(path: Path) -> bool:
    """Take the lock at `path`; False if a living process (or another host's) holds it.

    The lock appears with its owner in it (a hard link to a finished file), so nobody reads
    half of one. A kernel lock on a guard file lets one process at a time recover a stale one.
    Where hosts do not share kernel locks two might, and then both do the same work: the bytes
    are the same and each file is replaced as a whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _guard(path.parent):
        if is_held(path):
            return False
        path.unlink(missing_ok=True)
        temporary = temporary_beside(path)
        try:
            temporary.write_text(json.dumps(asdict(this_process())), encoding="utf-8")
            os.link(temporary, path)
        except FileExistsError:
            return False  # another host was faster
        finally:
            temporary.unlink(missing_ok=True)
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
def signs_of_life(directory: Path) -> Iterator[None]:
    """While the block runs, renew the locks in `directory` that this process holds.

    A renewal moves the file's time on by a second from where it was: it says "still here", not
    what time it is.
    """
    over = threading.Event()
    thread = threading.Thread(
        target=_renew_until, args=(directory, over), name="signs of life", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _renew_until(directory: Path, over: threading.Event) -> None:
    me = this_process()
    while not over.wait(BEAT):
        for path in directory.glob("*.json"):
            if lock_owner(path) == me:
                _renew(path)


def _renew(path: Path) -> None:
    try:
        later = path.stat().st_mtime_ns + 1_000_000_000
        os.utime(path, ns=(later, later))
    except OSError:
        return  # given back meanwhile; or a disk that is away, of which the next writing tells


def _is_silent(path: Path, owner: Owner) -> bool:
    if owner.host == socket.gethostname():
        return False
    known = _watch.look(path, owner)
    return known is None or time.monotonic() - known.since >= STALE_AFTER


@contextmanager
def _guard(directory: Path) -> Iterator[None]:
    with (directory / ".guard").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
