"""Workers in processes of this machine, each at the other end of a pipe.

They are fresh interpreters: nothing of this process's threads is copied, and neither a notebook
nor a script without a main guard is run again in them. A worker whose pipe closes ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

from statsnorm.engines.tasks import Bench, Outcome, WorkerDied

POLL = 0.5  # seconds between looks at signals
START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from statsnorm.engines.processes import serve; serve(int(sys.argv[2]))"
)


@dataclass(frozen=True, slots=True, eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    pipe: Connection


class Processes:
    """The backend of :class:`statsnorm.engines.tasks.Crew` on this machine."""

    def __init__(self, setup: Callable[[], Any]) -> None:
        self.setup = setup

    def places(self) -> int:
        """Return the number of CPUs that this process may use."""
        return len(os.sched_getaffinity(0))

    def start(self) -> _Worker:
        """Start an interpreter that imports what this one would."""
        ours, theirs = Pipe()
        words = [sys.executable, "-c", START, json.dumps(sys.path), str(theirs.fileno())]
        # a session of its own: Ctrl-C is for this process, which then ends its workers
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True
        )
        theirs.close()
        worker = _Worker(process, ours)
        self._tell(worker, self.setup)
        return worker

    def learn(self, worker: _Worker, function: Callable[[Any, Any], Any]) -> None:
        """Send the function of the next items."""
        self._tell(worker, ("learn", function))

    def ask(self, worker: _Worker, item: Any) -> None:
        """Send an item."""
        self._tell(worker, ("answer", item))

    def ready(self, busy: Sequence[_Worker]) -> list[_Worker]:
        """Return the workers that have answered or are gone."""
        there = wait([worker.pipe for worker in busy], POLL)
        return [worker for worker in busy if worker.pipe in there]

    def answer(self, worker: _Worker) -> Outcome:
        """Return what a worker sent."""
        try:
            found: Outcome = worker.pipe.recv()
        except (EOFError, OSError) as error:
            raise WorkerDied from error
        return found

    def end(self, worker: _Worker) -> None:
        """Kill the process: it owns no file, and every result that counts was sent."""
        worker.process.kill()
        worker.process.wait()
        worker.pipe.close()

    def _tell(self, worker: _Worker, message: Any) -> None:
        with suppress(ConnectionError):  # it is dead: `ready` and `answer` will say so
            worker.pipe.send(message)


def serve(descriptor: int) -> None:
    """Answer the other end of a pipe until it closes."""
    pipe = Connection(descriptor)
    bench = Bench(pipe.recv())
    with suppress(EOFError, OSError):
        while True:
            _serve_one(pipe, bench)


def _serve_one(pipe: Connection, bench: Bench) -> None:
    try:
        what, value = pipe.recv()
    except (ImportError, AttributeError) as error:  # a function that is not here
        bench.trouble = bench.trouble or error
        return
    if what == "learn":
        bench.learn(value)
        return
    outcome = bench.answer(value)
    try:
        pipe.send(outcome)
    except Exception as error:  # noqa: BLE001 - whatever keeps a result from being sent
        pipe.send((False, error))
