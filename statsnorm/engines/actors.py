"""Workers on a Ray cluster: an actor a CPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from statsnorm.engines.cluster import places, told
from statsnorm.engines.tasks import Bench, Outcome, WorkerDied

POLL = 0.5  # seconds between looks at signals
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class FarBench(Bench):
    """A bench in the folder of whoever asked, where relative paths mean what they meant."""

    def __init__(self, setup: Callable[[], Any], folder: str) -> None:
        if Path(folder).is_dir():
            os.chdir(folder)
        super().__init__(setup)


@dataclass(slots=True, eq=False)
class _Actor:
    handle: Any
    asked: Any = None  # the reference of the answer to come


class Actors:
    """The backend of :class:`statsnorm.engines.tasks.Crew` on Ray."""

    def __init__(self, ray: Any, setup: Callable[[], Any]) -> None:
        self.ray, self.setup = ray, setup
        self.remote = ray.remote(num_cpus=1, runtime_env={"env_vars": threads()})(FarBench)

    def places(self) -> int:
        """Return the number of CPUs of the cluster."""
        return places(self.ray, "cpu")

    def start(self) -> _Actor:
        """Start an actor."""
        return _Actor(self.remote.remote(self.setup, str(Path.cwd())))

    def learn(self, worker: _Actor, function: Callable[[Any, Any], Any]) -> None:
        """Send the function of the next items."""
        worker.handle.learn.remote(function)

    def ask(self, worker: _Actor, item: Any) -> None:
        """Send an item."""
        worker.asked = worker.handle.answer.remote(item)

    def ready(self, busy: Sequence[_Actor]) -> list[_Actor]:
        """Return the workers that have answered or are gone."""
        by_answer = {worker.asked: worker for worker in busy}
        there, _ = self.ray.wait(list(by_answer), num_returns=1, timeout=POLL)
        return [by_answer[one] for one in there]

    def answer(self, worker: _Actor) -> Outcome:
        """Return what an actor answered."""
        try:
            found: Outcome = self.ray.get(worker.asked)
        except self.ray.exceptions.RayActorError as error:
            raise WorkerDied from error
        except self.ray.exceptions.RayError as error:
            return False, told(error)
        return found

    def end(self, worker: _Actor) -> None:
        """Kill an actor."""
        self.ray.kill(worker.handle)


def threads() -> dict[str, str]:
    """Return the threads of linear algebra here; Ray would give its actors one, rounding apart."""
    known = {name: os.environ[name] for name in THREADS if name in os.environ}
    return {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))} | known
