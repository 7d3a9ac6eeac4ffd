"""Shards on a Ray cluster, an existing one or one of this machine: an actor a device.

Every actor prepares the job once from its configuration and then makes one shard after another
exactly as the local engine does, into the same run directory, which all nodes must share. An
actor that dies has its lock broken and its shard given to another. A shard is asked for when an
actor is free: nothing piles up.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from statsnorm import locks
from statsnorm.engines.cluster import cluster, places, told
from statsnorm.engines.local import run_shards as run_locally
from statsnorm.engines.tasks import RETRIES
from statsnorm.errors import StatsnormError, UnfinishedRunError
from statsnorm.extraction.execution import Execution
from statsnorm.extraction.plan import ExtractConfig
from statsnorm.extraction.shard import Job
from statsnorm.rundir import Run, shard_is_finished, skipped_in
from statsnorm.stopping import stop_on_signals

POLL = 0.5  # seconds between looks at signals


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker works."""

    device: str  # of the one that Ray gives it
    folder: str  # where relative paths mean what they meant to whoever asked


class Worker:
    """What an actor does: prepare once, then make shards."""

    def __init__(self, config: ExtractConfig, run: Run, how: Execution, where: Place) -> None:
        from statsnorm.devices import resolve_device
        from statsnorm.extraction.prepare import prepare_job

        if Path(where.folder).is_dir():
            os.chdir(where.folder)
        self.job = prepare_job(config, run, device=resolve_device(where.device))
        self.how = how

    def owner(self) -> dict[str, Any]:
        """Return who holds this actor's locks."""
        return asdict(locks.this_process())

    def make(self, shard: int) -> bool:
        """Make one shard unless it is finished or in other hands; return whether it is finished."""
        run_locally(self.job, [shard], self.how)
        return shard_is_finished(self.job.run, shard)


@dataclass(slots=True)
class _Actor:
    """An actor as the driver knows it."""

    handle: Any
    owner: locks.Owner


@dataclass(slots=True, kw_only=True)
class _Pool:
    """Actors, what each is doing, and what is left to do."""

    ray: Any
    job: Job
    how: Execution
    left: deque[int]
    idle: list[_Actor] = field(default_factory=list)
    busy: dict[Any, tuple[_Actor, int]] = field(default_factory=dict)  # result -> actor, shard
    deaths: dict[int, int] = field(default_factory=dict)  # by shard

    def start(self, count: int) -> None:
        """Add actors, and wait until they have prepared the job.

        Raises
        ------
        StatsnormError
            If one cannot prepare it.
        """
        gpus = int(self.job.device.startswith("cuda"))
        remote = self.ray.remote(num_cpus=1, num_gpus=gpus)(Worker)
        how = replace(self.how, progress=None, max_skipped=None)
        where = Place("cuda" if gpus else self.job.device, str(Path.cwd()))
        job = self.job
        handles = [remote.remote(job.feed.config, job.run, how, where) for _ in range(count)]
        try:
            owners = self.ray.get([handle.owner.remote() for handle in handles])
        except self.ray.exceptions.RayError as error:
            raise told(error) from error
        self.idle += [
            _Actor(h, locks.Owner(**owner)) for h, owner in zip(handles, owners, strict=True)
        ]

    def give(self) -> None:
        """Give the next shards to the actors that are free."""
        while self.idle and self.left:
            actor, shard = self.idle.pop(), self.left.popleft()
            self.busy[actor.handle.make.remote(shard)] = actor, shard

    def take(self, result: Any) -> int:
        """Take a result back and return its shard; that of a dead actor goes to another.

        Raises
        ------
        StatsnormError
            Whatever the shard could not be made for, or that its actors keep dying.
        """
        actor, shard = self.busy.pop(result)
        try:
            self.ray.get(result)
        except self.ray.exceptions.RayActorError as error:
            locks.break_lock(self.job.run.lock_path(shard), actor.owner)
            self.deaths[shard] = self.deaths.get(shard, 0) + 1
            if self.deaths[shard] > RETRIES:
                refs = self.job.feed.inputs.shard(shard, self.job.feed.config.shard_size)
                raise StatsnormError(
                    f"shard {shard} ({refs[0].image!r} to {refs[-1].image!r}) was given up: "
                    f"{self.deaths[shard]} workers died on it; the same command goes on from the "
                    "shards that are finished"
                ) from error
            self.left.appendleft(shard)
            self.start(1)
            return shard
        except self.ray.exceptions.RayError as error:
            raise told(error) from error
        self.idle.append(actor)
        return shard

    def stop(self) -> None:
        """Kill what still works and free its locks."""
        for actor, shard in self.busy.values():
            self.ray.kill(actor.handle)
            locks.break_lock(self.job.run.lock_path(shard), actor.owner)
        for actor in self.idle:
            self.ray.kill(actor.handle)


def run_shards(job: Job, shards: Sequence[int], how: Execution) -> None:
    """Make shards on a Ray cluster: that of `RAY_ADDRESS`, or one of this machine.

    One actor a GPU of the cluster, or a CPU where the device is one.

    Raises
    ------
    UnfinishedRunError
        After SIGINT or SIGTERM; shards in work are dropped, finished ones stay.
    StatsnormError
        As the local engine, or if Ray is not installed or has no device for an actor.
    """
    todo = deque(shard for shard in shards if not shard_is_finished(job.run, shard))
    per_image = len(job.feed.inputs.cells) * len(job.variants.all)
    total = per_image * sum(job.count(shard) for shard in shards)
    done = total - per_image * sum(job.count(shard) for shard in todo)
    with cluster() as ray, stop_on_signals() as stop:
        pool = _Pool(ray=ray, job=job, how=how, left=todo)
        try:
            pool.start(min(places(ray, job.device), len(todo)))
            pool.give()
            while pool.busy:
                ready, _ = ray.wait(list(pool.busy), num_returns=1, timeout=POLL)
                if stop.is_set():
                    raise UnfinishedRunError(
                        f"stopped; the finished shards are in {job.run.path}: give the same "
                        "command again and it goes on"
                    )
                for result in ready:
                    shard = pool.take(result)
                    done += per_image * job.count(shard) * (shard not in pool.left)
                    if how.progress:
                        how.progress(done, total, "extract")
                    _check_skipped(job.run, shards, how.max_skipped)
                pool.give()
        finally:
            pool.stop()


def _check_skipped(run: Run, shards: Sequence[int], most: int | None) -> None:
    if most is not None and (lost := sum(skipped_in(run, shard) for shard in shards)) > most:
        raise StatsnormError(f"{lost} images cannot be used, more than max-skipped {most}")
