"""Shards in this process: decoding ahead in threads, one writer behind, the networks between."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from statsnorm.cells import GROUP
from statsnorm.errors import ImageError, StatsnormError, UnfinishedRunError
from statsnorm.extraction.measure import Meter
from statsnorm.extraction.shard import (
    Execution,
    Job,
    Loaded,
    ShardWork,
    Tables,
    load_image,
    write_shard,
)
from statsnorm.rundir import begin_shard, end_shard, record_shard, shard_is_finished

AHEAD = 2
"""Groups of images that are decoded before they are needed; bounds the memory of decoding."""


@dataclass(slots=True)
class _Claimed:
    """The part of a claimed shard that is being decoded."""

    shard: int
    futures: list[Future[Loaded | ImageError]]
    last: bool


@dataclass(slots=True, kw_only=True)
class _State:
    job: Job
    how: Execution
    stop: threading.Event
    total: int
    done: int = 0
    skipped: int = 0
    held: set[int] = field(default_factory=set)

    def passed(self, rows: int) -> None:
        """Count finished forward passes; leave here when a signal asked to stop."""
        self.done += rows
        if self.how.progress:
            self.how.progress(min(self.done, self.total), self.total, "extract")
        if self.stop.is_set():
            raise UnfinishedRunError(
                f"stopped; the finished shards are in {self.job.run.path}: give the same command "
                "again and it goes on"
            )


def run_shards(job: Job, shards: Sequence[int], how: Execution) -> None:
    """Make the shards that are neither finished nor in somebody else's hands.

    Raises
    ------
    UnfinishedRunError
        After SIGINT or SIGTERM; the current shard is dropped, finished ones stay.
    StatsnormError
        If more than `max_skipped` images cannot be used, or the disk refuses a table.
    """
    per_image = len(job.feed.inputs.cells) * len(job.variants.all)
    with (
        stop_on_signals() as stop,
        ThreadPoolExecutor(how.workers, "decode") as decoders,
        ThreadPoolExecutor(1, "write") as writer,
    ):
        total = per_image * sum(job.count(shard) for shard in shards)
        state = _State(job=job, how=how, stop=stop, total=total)
        try:
            _run(state, shards, per_image, decoders, writer)
        finally:
            decoders.shutdown(cancel_futures=True)
            writer.shutdown()
            for shard in sorted(state.held):
                end_shard(job.run, shard)


def _run(
    state: _State,
    shards: Sequence[int],
    per_image: int,
    decoders: ThreadPoolExecutor,
    writer: ThreadPoolExecutor,
) -> None:
    job = state.job
    written: Future[None] | None = None
    work, began = _new_work(job), time.monotonic()
    for claimed in _decoded_ahead(state, shards, per_image, decoders):
        results = [future.result() for future in claimed.futures]
        lost = [one for one in results if isinstance(one, ImageError)]
        work.add(results, state.passed)
        state.done += len(lost) * per_image
        _check_skipped(state, lost)
        if not claimed.last:
            continue
        if written:
            written.result()  # at most one shard waits to be written
        record = {**state.how.record, "seconds": round(time.monotonic() - began, 3)}
        record["memory_halvings"] = work.meter.halvings
        written = writer.submit(_write, state, claimed.shard, work.tables(), record)
        work, began = _new_work(job), time.monotonic()
    if written:
        written.result()


def _new_work(job: Job) -> ShardWork:
    config = job.feed.config
    meter = Meter(
        variants=job.variants,
        cells=job.feed.inputs.cells,
        precision=config.precision,
        compiled=config.compile,
        content=job.with_content,
    )
    return ShardWork(job=job, meter=meter)


def _decoded_ahead(
    state: _State, shards: Sequence[int], per_image: int, decoders: ThreadPoolExecutor
) -> Iterator[_Claimed]:
    """Yield groups of images in order while the next ones are being decoded."""
    job, ahead = state.job, deque[_Claimed]()
    for shard in _claim(state, shards, per_image):
        refs = job.feed.inputs.shard(shard, job.feed.config.shard_size)
        for start in range(0, len(refs), GROUP):
            part = refs[start : start + GROUP]
            futures = [decoders.submit(load_image, job, ref) for ref in part]
            ahead.append(_Claimed(shard, futures, start + GROUP >= len(refs)))
            if len(ahead) > AHEAD:
                yield ahead.popleft()
    yield from ahead


def _claim(state: _State, shards: Sequence[int], per_image: int) -> Iterator[int]:
    run = state.job.run
    for shard in shards:
        if shard_is_finished(run, shard) or not begin_shard(run, shard):
            state.done += per_image * state.job.count(shard)
            continue
        state.held.add(shard)
        if shard_is_finished(run, shard):  # by another process, before we had the lock
            state.held.remove(shard)
            end_shard(run, shard)
            continue
        yield shard


def _check_skipped(state: _State, lost: Sequence[ImageError]) -> None:
    state.skipped += len(lost)
    most = state.how.max_skipped
    if most is not None and state.skipped > most:
        raise StatsnormError(
            f"{state.skipped} images cannot be used, more than max-skipped {most}; the last: "
            f"{lost[-1]}"
        )


def _write(state: _State, shard: int, tables: Tables, record: dict[str, Any]) -> None:
    run = state.job.run
    try:
        record_shard(run, shard, write_shard(run, shard, tables), record)
    except OSError as error:
        raise StatsnormError(
            f"cannot write shard {shard} to {run.path}: {error.strerror or error}; nothing of it "
            "was left there"
        ) from error
    end_shard(run, shard)
    state.held.discard(shard)


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Set an event on the first SIGINT or SIGTERM; a second one acts as it would have."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, _frame: object) -> None:
        event.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, handle)
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
