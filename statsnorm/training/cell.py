"""One cell: a generator trained on one condition, its losses recorded, resumable to the bit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import Tensor, nn

from statsnorm.errors import StatsnormError
from statsnorm.images.names import safe_name
from statsnorm.networks import Network
from statsnorm.training.plan import TrainConfig, TrainingCell
from statsnorm.training.state import load_state, save_state
from statsnorm.training.step import Execution, Problem, Stepper, has_running_statistics

DIVERGED = 1e3
"""A cell ends when its held-out total loss is so many times that of the fresh generator."""


@dataclass(slots=True, kw_only=True)
class CellResult:
    """What training a cell left: curve rows, the generator, and why it ended."""

    module: nn.Module
    iteration: int  # updates done
    status: str  # "done", or why the cell ended early
    rows: list[dict[str, Any]] = field(default_factory=list)


class CellTraining:
    """A cell in the making: `advance` until it is `finished`, then `result`.

    The generator is trained in place by Adam. `part` is the file of the unfinished cell: when it
    exists training goes on from there, to the same bits as without the interruption.

    Parameters
    ----------
    part : Path, optional
        Where the unfinished cell is kept every `checkpoint_every` iterations (0: never). A file
        that is damaged is not used: the cell begins anew.
    reached : callable, optional
        Is told 0 and every iteration done, with the generator in that state; told again of
        those behind the last saved state of an interrupted cell.
    """

    def __init__(
        self,
        cell: TrainingCell,
        problem: Problem,
        generator: Network,
        *,
        part: Path | None = None,
        checkpoint_every: int = 0,
        reached: Callable[[int], None] | None = None,
        how: Execution,
    ) -> None:
        self.cell, self.config = cell, problem.config
        self.stepper = Stepper(problem, generator, seed=cell.seed, lr=cell.lr, how=how)
        self.module = generator.module
        self.rows: list[dict[str, Any]] = []
        self.done, self.status, self._seconds = 0, "", 0.0
        self._part, self._every, self._reached = part, checkpoint_every, reached
        if part is not None and part.exists():
            self._go_on_from(part)
        self._clock = time.perf_counter() - self._seconds
        self._checked = self.done
        if not self.rows:
            self._record()
            self._tell()

    def _go_on_from(self, part: Path) -> None:
        stepper = self.stepper
        try:
            found = load_state(part, self.module, stepper.optimiser, stepper.trace)
        except StatsnormError:
            part.unlink()
            return
        self.done, self._seconds, self.rows = found
        stepper.start_at(self.done)

    @property
    def finished(self) -> bool:
        """Whether the budget is spent or the cell ended early."""
        return bool(self.status)

    def advance(self) -> None:
        """Do one update, and what is due after it: a record, a checkpoint."""
        self.stepper.update()
        self.done += 1
        if self.done % self.config.every == 0 or self.done == self.config.iterations:
            self._record()
            self.status = self._ending()
        if not self.status.startswith("diverged"):
            self._tell()
        if self._every and not self.finished and self.done % self._every == 0:
            self.keep()

    def _tell(self) -> None:
        if self._reached is not None:
            with self.stepper.queue():
                self._reached(self.done)

    def keep(self) -> None:
        """Write the unfinished cell to its file, if it has one."""
        if self._part is not None:
            with self.stepper.queue():
                save_state(
                    self._part,
                    self.module,
                    self.stepper.optimiser,
                    self.stepper.trace,
                    self.done,
                    time.perf_counter() - self._clock,
                    self.rows,
                )

    def result(self) -> CellResult:
        """Return curves and generator, in eval mode; the cell is over."""
        self.module.eval().requires_grad_(False)
        with self.stepper.queue():
            trace = self.stepper.trace[: self.done].cpu()
        return CellResult(
            module=self.module,
            iteration=self.done,
            status=self.status,
            rows=self.rows + _minibatch_rows(self.cell, self.config, trace),
        )

    def _record(self) -> None:
        """Held-out losses with batch statistics, and now and then with running statistics too."""
        config = self.config
        modes = [True]
        tenth = self.done % (10 * config.every) == 0 or self.done == config.iterations
        if tenth and has_running_statistics(self.module):
            modes.append(False)
        for batch in modes:
            style, content = self.stepper.evaluate(batch=batch)
            mode = "train" if batch else "eval"
            row = _row(self.cell, config, self.done, "heldout", mode, style, content)
            if self.done:
                row["seconds"] = time.perf_counter() - self._clock
            self.rows.append(row)

    def _ending(self) -> str:
        """Return "" for a cell that goes on, "done", or why it ends here."""
        with self.stepper.queue():
            finite = bool(torch.isfinite(self.stepper.trace[self._checked : self.done]).all())
        self._checked = self.done
        last = [row for row in self.rows if row["bn_mode"] == "train"][-1]
        if not (finite and math.isfinite(last["total_loss"])):
            return f"diverged by iteration {self.done}"
        if last["total_loss"] > DIVERGED * self.rows[0]["total_loss"]:
            return f"diverged by iteration {self.done}: {DIVERGED:g} times the first loss"
        return "done" if self.done == self.config.iterations else ""


def train_cell(
    cell: TrainingCell,
    problem: Problem,
    generator: Network,
    *,
    part: Path | None = None,
    checkpoint_every: int = 0,
    reached: Callable[[int], None] | None = None,
    how: Execution | None = None,
) -> CellResult:
    """Train the generator of one cell to its end and return its curves."""
    training = CellTraining(
        cell,
        problem,
        generator,
        part=part,
        checkpoint_every=checkpoint_every,
        reached=reached,
        how=how or Execution(),
    )
    side_by_side([training])
    return training.result()


def side_by_side(
    cells: Sequence[CellTraining],
    *,
    until: float = math.inf,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Train cells in turn, an update each, and return whether all came to their end.

    On a GPU each has its own stream, so that several fill it better than one. None knows of the
    others: its bits are those of training alone. When `time.monotonic()` passes `until`, or `stop`
    says so, those that are not finished are kept as they are.
    """
    while going := [cell for cell in cells if not cell.finished]:
        if time.monotonic() >= until or stop():
            for cell in going:
                cell.keep()
            return False
        for cell in going:
            cell.advance()
    return True


def _minibatch_rows(cell: TrainingCell, config: TrainConfig, trace: Tensor) -> list[dict[str, Any]]:
    # The minibatch of update t + 1 was seen by the generator after t updates.
    return [
        _row(cell, config, t, "train", "train", style, content)
        for t, (style, content) in enumerate(trace.double().tolist())
    ]


def _row(
    cell: TrainingCell,
    config: TrainConfig,
    iteration: int,
    split: str,
    bn_mode: str,
    style: float,
    content: float,
) -> dict[str, Any]:
    return {
        "cell": cell.name,
        "block": f"b{cell.block:02d}",
        "target": safe_name(PurePath(cell.target).name),
        "norm": cell.norm,
        "condition": cell.condition,
        "seed": cell.seed,
        "iteration": iteration,
        "split": split,
        "bn_mode": bn_mode,
        "style_loss": style,
        "content_loss": content,
        "total_loss": config.style_weight * style + config.content_weight * content,
        "lr": cell.lr,
        "seconds": math.nan,
    }
