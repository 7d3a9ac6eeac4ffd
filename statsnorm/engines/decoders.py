"""Threads that decode ahead; none, whatever becomes of it, keeps the process from ending."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from types import TracebackType
from typing import Generic, TypeVar

from statsnorm.errors import StatsnormError

T = TypeVar("T")

PATIENCE = 300.0
"""Seconds after which a decoder that has not come back counts as hanging."""

GRACE = 5.0
"""Seconds that all decoders together are given to come back when a run ends by an error.

A thread that an interpreter overtakes on its way out of compiled code aborts the process (before
Python 3.14), and the exit status of the error would be lost.
"""


class Decoders(Generic[T]):
    """A pool of daemon threads: the interpreter does not wait for one that hangs.

    Parameters
    ----------
    workers : int
        Most threads; each is started when there is work for it.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._tasks: SimpleQueue[tuple[Future[T], Callable[[], T]] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Decoders[T]:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Let the threads end after what they are at; wait for none that may hang."""
        while not self._tasks.empty():
            if task := self._tasks.get():
                task[0].cancel()
        for _ in self._threads:
            self._tasks.put(None)
        leave = time.monotonic() + (PATIENCE if _error is None else GRACE)
        for thread in self._threads:
            thread.join(max(0.0, leave - time.monotonic()))

    def submit(self, task: Callable[[], T]) -> Future[T]:
        """Queue a task; tasks begin in the order in which they come."""
        future: Future[T] = Future()
        self._tasks.put((future, task))
        if len(self._threads) < self._workers:
            name = f"decode-{len(self._threads)}"
            self._threads.append(threading.Thread(target=self._work, name=name, daemon=True))
            self._threads[-1].start()
        return future

    def _work(self) -> None:
        while task := self._tasks.get():
            future, function = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
                future.set_exception(error)


def decoded(future: Future[T], name: str) -> T:
    """Return what a decoder made of the image called `name`.

    Raises
    ------
    StatsnormError
        If it died of something that is no fault of the image, or does not come back.
    """
    try:
        error = future.exception(PATIENCE)
    except TimeoutError as late:
        raise StatsnormError(
            f"image {name!r} has been decoding for {PATIENCE:.0f} s; look at the storage it lies "
            "on, or leave the image out. Finished shards are kept: give the same command again"
        ) from late
    if error is not None:
        raise StatsnormError(
            f"the decoder of image {name!r} died of {type(error).__name__}: {error}; finished "
            "shards are kept: give the same command again, or leave the image out"
        ) from error
    return future.result()
