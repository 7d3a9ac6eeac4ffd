"""The real commands in processes of their own that can be killed, stopped or starved.

They are forked from a server that has imported torch but used none of it, so a command takes a
fraction of a second instead of the seconds of an import.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import statsnorm

TESTS = Path(__file__).resolve().parent
_CHANGES = {"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.utime"}
_PRELOAD = (
    *("statsnorm.cli.extract", "statsnorm.cli.train", "statsnorm.cli.info", "statsnorm.cli.report"),
    *("statsnorm.extraction.run", "statsnorm.training.run", "statsnorm.engines.local"),
    *("statsnorm.report.write", "torch._dynamo", "tiny_networks", "commands"),
)

Before = Callable[[], None]
"""Called in the child before the command; must be picklable."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: status (-9 when killed) and what it said."""

    status: int
    stdout: str
    stderr: str


@dataclass
class Running:
    """A command at work."""

    process: Any
    said: Path

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    def alive(self) -> bool:
        return bool(self.process.is_alive())

    def wait(self, seconds: float = 240) -> Ended:
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            raise AssertionError(f"the command hangs; it said: {self._text('err')}")
        return Ended(self.process.exitcode, self._text("out"), self._text("err"))

    def _text(self, name: str) -> str:
        path = self.said / name
        return path.read_text(errors="replace") if path.exists() else ""


def start(said: Path, *words: object, before: Sequence[Before] = ()) -> Running:
    """Start `statsnorm WORDS`; what it says goes to files in the folder `said`."""
    said.mkdir(parents=True, exist_ok=True)
    arguments = [str(word) for word in words]
    process = _server().Process(target=_child, args=(arguments, said, list(before)))
    process.daemon = True  # a test that fails leaves nothing to wait for
    process.start()
    return Running(process, said)


def run(said: Path, *words: object, before: Sequence[Before] = ()) -> Ended:
    """Run `statsnorm WORDS` to its end."""
    return start(said, *words, before=before).wait()


@dataclass(frozen=True)
class KillAt:
    """Kill -9 right before the n-th change of a file below `folder`."""

    folder: Path
    n: int

    def __call__(self) -> None:
        def kill(count: int) -> None:
            if count == self.n:
                os.kill(os.getpid(), signal.SIGKILL)

        _on_change(self.folder, kill)


@dataclass(frozen=True)
class SignalAt:
    """Send oneself a signal right before the n-th change of a file below `folder`."""

    folder: Path
    n: int
    number: int

    def __call__(self) -> None:
        def send(count: int) -> None:
            if count == self.n:
                os.kill(os.getpid(), self.number)

        _on_change(self.folder, send)


@dataclass(frozen=True)
class StopCellAfter:
    """Send oneself SIGTERM in the n-th update of a generator."""

    n: int

    def __call__(self) -> None:
        from torch.optim.optimizer import register_optimizer_step_pre_hook

        updates = 0

        def count(*_given: object) -> None:
            nonlocal updates
            updates += 1
            if updates == self.n:
                os.kill(os.getpid(), signal.SIGTERM)

        register_optimizer_step_pre_hook(count)


class WrongClock:
    """Let the wall clock stand still in 1970."""

    def __call__(self) -> None:
        import time

        time.time = lambda: 0.0
        time.time_ns = lambda: 0


@dataclass(frozen=True)
class CountChanges:
    """Write the number of changes of files below `folder` to `report`, after each of them."""

    folder: Path
    report: Path

    def __call__(self) -> None:
        handle = os.open(self.report, os.O_CREAT | os.O_WRONLY)
        _on_change(self.folder, lambda count: os.pwrite(handle, b"%9d" % count, 0))


@dataclass(frozen=True)
class Limit:
    """Lower a resource limit: RLIMIT_FSIZE, RLIMIT_AS, ..."""

    which: int
    most: int

    def __call__(self) -> None:
        resource.setrlimit(self.which, (self.most, self.most))


def _on_change(folder: Path, tell: Callable[[int], object]) -> None:
    prefix, count = str(folder), 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in _CHANGES or not str(arguments[0]).startswith(prefix):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR) and count == 0:
            return  # looking for a run that is not there yet
        count += 1
        tell(count)

    sys.addaudithook(hook)


def _child(words: list[str], said: Path, before: list[Before]) -> None:
    for number, name in ((1, "out"), (2, "err")):
        handle = os.open(said / name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(handle, number)
        os.close(handle)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from statsnorm.cli import main

    for change in before:
        change()
    main(words, prog_name="statsnorm")


def _server() -> Any:
    """Return a context whose server preloads the package under test; one thread a process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOAD))
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    wanted = [str(TESTS), str(Path(statsnorm.__file__).parents[1])]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, [*wanted, *known])))
    os.environ["OMP_NUM_THREADS"] = "1"
    return context


def tree(folder: Path) -> dict[str, str]:
    """Return the hash of every file that must not depend on who made it, and when.

    The logs are left out, and of `curves` the column `seconds`: it is measured.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or "log" in path.parts or path.name == ".guard":
            continue
        if name.startswith("curves/") and path.suffix == ".parquet":
            found[name] = _rows_sha256(path)
        elif name != "done.json" or not (folder / "curves").exists():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _rows_sha256(path: Path) -> str:
    table = pq.read_table(path).drop_columns(["seconds"]).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return hashlib.sha256(sink.getvalue().to_pybytes()).hexdigest()


def identities(folder: Path) -> dict[str, tuple[int, int]]:
    """Return inode and modification time of every file of a finished unit (one with a record)."""
    units = {path.stem for path in (folder / "log").glob("[!.]*.json")}
    return {
        str(path.relative_to(folder)): ((status := path.stat()).st_ino, status.st_mtime_ns)
        for path in folder.rglob("*.*")
        if path.is_file() and path.parent.name not in ("log", "locks") and path.stem in units
    }


def leftovers(folder: Path) -> list[str]:
    """Return the files that a finished run has no use for: half-written ones, locks, states."""
    names = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return sorted(
        name
        for name in names
        if name.endswith((".tmp", ".part.safetensors"))
        or (name.startswith("locks/") and not name.endswith(".guard"))
    )
