"""Shards in this process: decoding ahead in threads, one writer behind, the networks between."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from statsnorm import locks
from statsnorm.cells import GROUP
from statsnorm.engines.decoders import Decoders, decoded
from statsnorm.errors import ImageError, StatsnormError, UnfinishedRunError
from statsnorm.extraction.execution import Execution
from statsnorm.extraction.measure import Meter
from statsnorm.extraction.shard import (
    Job,
    Loaded,
    ShardWork,
    Tables,
    load_image,
    write_shard,
)
from statsnorm.images.sources import ImageRef
from statsnorm.rundir import begin_shard, end_shard, record_shard, shard_is_finished, writing
from statsnorm.stopping import stop_on_signals

AHEAD = 2
"""Groups of images that are decoded before they are needed; bounds the memory of decoding."""

BETWEEN_LOOKS = 1.0
"""Seconds between two looks at the locks of other hosts."""


@dataclass(slots=True)
class _Claimed:
    """The part of a claimed shard that is being decoded."""

    shard: int
    refs: Sequence[ImageRef]
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

    Those in other hands are asked for again at the end, as long as their owners may have died.

    Raises
    ------
    UnfinishedRunError
        After SIGINT or SIGTERM; the current shard is dropped, finished ones stay.
    StatsnormError
        If more than `max_skipped` images cannot be used, or the disk refuses a table.
    """
    per_image = len(job.feed.inputs.cells) * len(job.variants.all)
    total = per_image * sum(job.count(shard) for shard in shards)
    with (
        stop_on_signals() as stop,
        writing(job.run),
        locks.signs_of_life(job.run.path / "locks"),
        ThreadPoolExecutor(1, "write") as writer,
    ):
        state = _State(job=job, how=how, stop=stop, total=total)
        try:
            waiting = list(shards)
            while waiting:
                with Decoders[Loaded | ImageError](how.workers) as decoders:
                    left = _pass(state, waiting, per_image, decoders, writer)
                waiting = _still_open(state, left, again=len(left) < len(waiting))
        finally:
            writer.shutdown()
            for shard in sorted(state.held):
                end_shard(job.run, shard)


def _still_open(state: _State, shards: Sequence[int], *, again: bool) -> list[int]:
    """Return the shards in other hands that are worth asking for once more.

    After a pass in which something was done (`again`), all: their owners may have died
    meanwhile. Otherwise those whose owners, on other hosts, have not shown that they live; that
    takes a while.
    """
    run = state.job.run
    left = [shard for shard in shards if not shard_is_finished(run, shard)]
    if again:
        return left
    while unsure := [shard for shard in left if locks.is_undecided(run.lock_path(shard))]:
        if free := [shard for shard in unsure if not locks.is_held(run.lock_path(shard))]:
            return free
        state.stop.wait(BETWEEN_LOOKS)
        state.passed(0)
    return []


def _pass(
    state: _State,
    shards: Sequence[int],
    per_image: int,
    decoders: Decoders[Loaded | ImageError],
    writer: ThreadPoolExecutor,
) -> list[int]:
    """Make the shards that can be had; return those that are in other hands."""
    job = state.job
    written: Future[None] | None = None
    left: list[int] = []
    memory = job.feed.memory
    work, began, halved = _new_work(job), time.monotonic(), memory.halvings
    for claimed in _decoded_ahead(state, _claim(state, shards, per_image, left), decoders):
        named = zip(claimed.futures, claimed.refs, strict=True)
        results = [decoded(future, ref.image) for future, ref in named]
        lost = [one for one in results if isinstance(one, ImageError)]
        work.add(results, state.passed)
        state.done += len(lost) * per_image
        _check_skipped(state, lost)
        if not claimed.last:
            continue
        if written:
            written.result()  # at most one shard waits to be written
        record = {**state.how.record, "seconds": round(time.monotonic() - began, 3)}
        record["memory_halvings"] = memory.halvings - halved
        record["sources"] = work.sources()
        written = writer.submit(_write, state, claimed.shard, work.tables(), record)
        work, began, halved = _new_work(job), time.monotonic(), memory.halvings
    if written:
        written.result()
    return left


def _new_work(job: Job) -> ShardWork:
    config = job.feed.config
    meter = Meter(
        variants=job.variants,
        cells=job.feed.inputs.cells,
        precision=config.precision,
        compiled=config.compile,
        content=job.with_content,
        memory=job.feed.memory,
    )
    return ShardWork(job=job, meter=meter)


def _decoded_ahead(
    state: _State, shards: Iterator[int], decoders: Decoders[Loaded | ImageError]
) -> Iterator[_Claimed]:
    """Yield groups of images in order while the next ones are being decoded."""
    job, ahead = state.job, deque[_Claimed]()
    for shard in shards:
        refs = job.feed.inputs.shard(shard, job.feed.config.shard_size)
        for start in range(0, len(refs), GROUP):
            part = refs[start : start + GROUP]
            futures = [decoders.submit(partial(load_image, job, ref)) for ref in part]
            ahead.append(_Claimed(shard, part, futures, start + GROUP >= len(refs)))
            if len(ahead) > AHEAD:
                yield ahead.popleft()
    yield from ahead


def _claim(state: _State, shards: Sequence[int], per_image: int, left: list[int]) -> Iterator[int]:
    """Yield the shards that this process now holds; append to `left` those that others hold."""
    run = state.job.run
    for shard in shards:
        if shard_is_finished(run, shard):
            state.done += per_image * state.job.count(shard)
            continue
        if not begin_shard(run, shard):
            left.append(shard)
            continue
        state.held.add(shard)
        if shard_is_finished(run, shard):  # by another process, before we had the lock
            state.held.remove(shard)
            end_shard(run, shard)
            state.done += per_image * state.job.count(shard)
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
            "was left there: make room, then give the same command again and it goes on"
        ) from error
    end_shard(run, shard)
    state.held.discard(shard)
