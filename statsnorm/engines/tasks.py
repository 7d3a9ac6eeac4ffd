"""Independent tasks in order: shared among workers, the same results whoever makes them.

A worker opens its context once, keeps the function of a map, and applies it to one item after
another. A worker that dies is replaced and its item is given again; the item with the least number
that fails decides the error, as in a loop.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from statsnorm.errors import StatsnormError

T = TypeVar("T")
R = TypeVar("R")

RETRIES = 3
"""A task whose worker died so often is given up: it may be what kills them."""

Outcome = tuple[bool, Any]  # (True, result) or (False, exception)


@dataclass(frozen=True, slots=True)
class Engine:
    """Where tasks run: `local` with one worker is a plain loop in this process."""

    name: str = "local"
    workers: int | None = None  # None: 1 here, all CPUs of a Ray cluster; 0: all CPUs

    @property
    def in_process(self) -> bool:
        """Whether no worker is needed."""
        return self.name == "local" and self.workers in (None, 1)


HERE = Engine()
"""One worker, which is this process."""


class TapMap(Protocol):
    """The one place where analyses go over taps: :meth:`statsnorm.load.Tables.map_taps`."""

    def map_taps(self, function: Callable[[Any, T], R], taps: Iterable[T]) -> list[R]:
        """Return `function(tables, tap)` for every tap, in their order."""


class WorkerDied(Exception):  # noqa: N818 - an event that the crew answers, no error of the user
    """The worker that was asked is gone."""


class Backend(Protocol):
    """How workers are started, asked and ended."""

    def places(self) -> int:
        """Return how many workers there is room for."""

    def start(self) -> Any:
        """Return a new worker, which opens its context."""

    def learn(self, worker: Any, function: Callable[[Any, Any], Any]) -> None:
        """Tell a worker which function the next items are for."""

    def ask(self, worker: Any, item: Any) -> None:
        """Give an item to a worker that is free."""

    def ready(self, busy: Sequence[Any]) -> Sequence[Any]:
        """Wait a while; return the workers that have an answer, or are dead."""

    def answer(self, worker: Any) -> Outcome:
        """Return what a ready worker answers; raise WorkerDied if it is dead."""

    def end(self, worker: Any) -> None:
        """End a worker, whatever it is doing."""


class Bench:
    """What a worker holds: its context, the function it learnt, and the first thing that failed."""

    def __init__(self, setup: Callable[[], Any]) -> None:
        self.function: Callable[[Any, Any], Any] | None = None
        self.context, self.trouble = None, None
        try:
            self.context = setup()
        except Exception as error:  # noqa: BLE001 - it is raised where the answer is waited for
            self.trouble = error

    def learn(self, function: Callable[[Any, Any], Any]) -> None:
        """Keep the function for the items to come."""
        self.function = function

    def answer(self, item: Any) -> Outcome:
        """Return what the function makes of an item, or what it raised."""
        if self.trouble is not None:
            return False, self.trouble
        assert self.function is not None, "learn comes first"
        try:
            return True, self.function(self.context, item)
        except Exception as error:  # noqa: BLE001 - it is raised where the answer is waited for
            return False, error


@dataclass(slots=True)
class Crew:
    """Workers of one backend; they are started when there is first work for them."""

    backend: Backend
    most: int
    workers: list[Any] = field(default_factory=list)

    def map(self, function: Callable[[Any, T], R], items: Iterable[T]) -> list[R]:
        """Return `function(context, item)` of every item, in their order.

        Raises
        ------
        StatsnormError
            If the workers of one item keep dying.
        Exception
            What the function raised for the first item that it failed for.
        """
        given = list(items)
        todo, deaths = deque(range(len(given))), Counter[int]()
        made: dict[int, R] = {}
        failed: dict[int, Exception] = {}
        free, busy = self._staff(function, len(given)), dict[Any, int]()
        while todo or busy:
            while free and todo:
                worker, number = free.pop(), todo.popleft()
                self.backend.ask(worker, given[number])
                busy[worker] = number
            for worker in self.backend.ready(list(busy)):
                number = busy.pop(worker)
                try:
                    fine, value = self.backend.answer(worker)
                except WorkerDied:
                    deaths[number] += 1
                    free.append(self._replaced(worker, function))
                    if deaths[number] <= RETRIES:
                        todo.appendleft(number)
                        continue
                    fine, value = False, _given_up(number, len(given), deaths[number])
                else:
                    free.append(worker)
                if fine:
                    made[number] = value
                else:
                    failed[number] = value
            if failed:  # what comes behind the first failure would never have run in a loop
                todo = deque(number for number in todo if number < min(failed))
        if failed:
            raise failed[min(failed)]
        return [made[number] for number in range(len(given))]

    def close(self) -> None:
        """End all workers."""
        while self.workers:
            self.backend.end(self.workers.pop())

    def _staff(self, function: Callable[[Any, T], R], items: int) -> list[Any]:
        wanted = min(self.most, items)
        self.workers += [self.backend.start() for _ in range(wanted - len(self.workers))]
        mine = self.workers[:wanted]
        for worker in mine:
            self.backend.learn(worker, function)
        return mine

    def _replaced(self, dead: Any, function: Callable[[Any, T], R]) -> Any:
        self.backend.end(dead)
        worker = self.workers[self.workers.index(dead)] = self.backend.start()
        self.backend.learn(worker, function)
        return worker


@contextmanager
def crew_of(engine: Engine, setup: Callable[[], Any]) -> Iterator[Crew]:
    """Yield a crew whose workers have the context that `setup` makes; end it afterwards.

    Parameters
    ----------
    engine : Engine
        Which backend, and how many workers.
    setup : callable
        Is called once in every worker; must be picklable, as functions and items must.

    Raises
    ------
    StatsnormError
        If the engine is unknown, not installed, or has no room for a worker.
    """
    with _backend(engine.name, setup) as backend:
        crew = Crew(backend, engine.workers or backend.places())
        try:
            yield crew
        finally:
            crew.close()


@contextmanager
def _backend(name: str, setup: Callable[[], Any]) -> Iterator[Backend]:
    if name == "local":
        from statsnorm.engines.processes import Processes

        yield Processes(setup)
    elif name == "ray":
        from statsnorm.engines.actors import Actors
        from statsnorm.engines.cluster import cluster

        with cluster() as ray:
            yield Actors(ray, setup)
    else:
        raise StatsnormError(f"unknown engine {name!r}; known: local, ray")


def _given_up(number: int, count: int, deaths: int) -> StatsnormError:
    return StatsnormError(
        f"task {number + 1} of {count} was given up: {deaths} workers died on it; if memory was "
        "short, give fewer --workers"
    )
