"""The cells of one call: trained block by block, some side by side, each only once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from statsnorm import locks
from statsnorm.errors import UnfinishedRunError
from statsnorm.rundir import Run, begin_shard, end_shard
from statsnorm.training.cell import CellTraining, side_by_side
from statsnorm.training.files import CellFiles
from statsnorm.training.fresh import fresh_generator, place
from statsnorm.training.loss import style_targets
from statsnorm.training.plan import TrainingCell
from statsnorm.training.pool import Pools
from statsnorm.training.step import Execution, Problem

Progress = Callable[[int, int, str], None]


@dataclass(slots=True, kw_only=True)
class Sitting:
    """What the cells of one call share."""

    run: Run
    pools: Pools
    targets: Mapping[str, torch.Tensor]  # path -> (1, 3, H, W) on the device
    how: Execution
    checkpoint_every: int
    files: CellFiles
    until: float = math.inf  # by time.monotonic()
    stop: Callable[[], bool] = lambda: False
    longest: float = 0.0  # seconds of a group of cells, begun and ended in this call


def train_all(
    sitting: Sitting, cells: Sequence[TrainingCell], together: int, progress: Progress | None
) -> None:
    """Train what is not done yet, some cells side by side, in block-major order.

    Cells in other hands are asked for again as long as there was something to do meanwhile.
    """
    left, before = _not_done(sitting, cells), len(cells) + 1
    for cell in set(cells) - set(left):  # whoever finished it may have died before this
        if not locks.is_held(sitting.run.lock_path(cell.name)):
            sitting.files.forget(cell)
    while left and len(left) < before:
        done, before = len(cells) - len(left), len(left)
        for start in range(0, len(left), together):
            group = left[start : start + together]
            if progress:
                progress(done + start, len(cells), group[0].name)
            began = time.monotonic()
            if began + sitting.longest >= sitting.until:
                return
            if _train_group(sitting, group):
                sitting.longest = max(sitting.longest, time.monotonic() - began)
            if sitting.stop():
                raise _stopped(sitting, group)
        left = _not_done(sitting, left)
    if progress:
        progress(len(cells), len(cells), "trained")


def _not_done(sitting: Sitting, cells: Sequence[TrainingCell]) -> list[TrainingCell]:
    return [cell for cell in cells if not sitting.files.are_done(cell)]


def _stopped(sitting: Sitting, group: Sequence[TrainingCell]) -> UnfinishedRunError:
    kept = [cell.name for cell in group if sitting.files.part(cell).exists()]
    also = f", and {' and '.join(kept)} as far as it came" if kept else ""
    return UnfinishedRunError(
        f"stopped; the finished cells are in {sitting.run.path}{also}: give the same command "
        "again and it goes on"
    )


def _train_group(sitting: Sitting, group: Sequence[TrainingCell]) -> bool:
    """Train the cells of a group that nobody else is at; return whether it was the whole group."""
    run = sitting.run
    held = [cell for cell in group if begin_shard(run, cell.name)]
    try:
        mine = _not_done(sitting, held)
        trainings = [_begin(sitting, cell) for cell in mine]
        whole = side_by_side(trainings, until=sitting.until, stop=sitting.stop)
        for cell, training in zip(mine, trainings, strict=True):
            if training.finished:
                sitting.files.write(cell, training.result())
        for cell in held:
            if sitting.files.are_done(cell):
                sitting.files.forget(cell)
    finally:
        for cell in held:
            end_shard(run, cell.name)
    return whole and len(mine) == len(group)


def _begin(sitting: Sitting, cell: TrainingCell) -> CellTraining:
    pools, config = sitting.pools, sitting.pools.config
    problem = Problem(
        config=config,
        pool=pools[cell.condition],
        vgg=pools.vgg,
        targets=style_targets(pools.vgg, sitting.targets[cell.target], config.statistics),
    )
    part = sitting.files.part(cell)
    part.parent.mkdir(parents=True, exist_ok=True)
    network = place(fresh_generator(config, cell.norm, cell.seed), pools.device)
    return CellTraining(
        cell,
        problem,
        network,
        part=part,
        checkpoint_every=sitting.checkpoint_every,
        reached=lambda iteration: sitting.files.write_checkpoint(cell, network.module, iteration),
        how=sitting.how,
    )
