"""One cell: a generator trained on one condition, its losses recorded, resumable to the bit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from statsnorm.networks import Network
from statsnorm.training.loss import Losses, losses
from statsnorm.training.plan import TrainConfig, TrainingCell, minibatches
from statsnorm.training.state import load_state, save_state


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The images of one condition on the device, with the content features worth keeping."""

    images: Tensor  # (n, 3, H, W), RGB in [0, 1] or beyond, float32
    content: Callable[[Tensor], Tensor]  # image numbers (N,) -> activations at the content tap
    train: Tensor  # int64: numbers of the training images
    heldout: tuple[Tensor, ...]  # fixed batches of image numbers, all of one size


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What a cell's generator is asked to do: on which images, towards which style."""

    config: TrainConfig
    pool: Pool
    vgg: Network
    targets: Mapping[str, Tensor]  # style statistics of the target at each style tap


@dataclass(slots=True, kw_only=True)
class CellResult:
    """What training a cell left: curve rows, the generator, and why it ended."""

    module: nn.Module
    iteration: int  # updates done
    status: str  # "done", or why the cell ended early
    rows: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def batch_statistics(module: nn.Module, *, batch: bool) -> Iterator[None]:
    """Run normalisers on batch (or on running) statistics and leave every buffer as it was."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kept = [
        (m.momentum, None if (n := m.num_batches_tracked) is None else n.clone()) for m in norms
    ]
    was_training = module.training
    module.train(batch)
    for norm in norms:
        norm.momentum = 0.0  # running = 1 * running + 0 * batch
    try:
        yield
    finally:
        module.train(was_training)
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum = momentum
            if count is not None and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.copy_(count)


def has_running_statistics(module: nn.Module) -> bool:
    """Return whether any normaliser behaves otherwise in eval mode."""
    return any(
        isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats
        for m in module.modules()
    )


def train_cell(
    cell: TrainingCell,
    problem: Problem,
    generator: Network,
    *,
    part: Path | None = None,
    checkpoint_every: int = 0,
    reached: Callable[[int], None] | None = None,
) -> CellResult:
    """Train the generator of one cell and return its curves.

    The generator is trained in place by Adam. `part` is the file of the unfinished cell: when it
    exists training goes on from there, to the same bits as without the interruption.

    Parameters
    ----------
    part : Path, optional
        Where the unfinished cell is kept every `checkpoint_every` iterations (0: never).
    reached : callable, optional
        Is told 0 and every iteration done, with the generator in that state; told again of
        those behind the last saved state of an interrupted cell.
    """
    config, pool = problem.config, problem.pool
    module = generator.module.train().requires_grad_(True)
    optimiser = torch.optim.Adam(module.parameters(), lr=config.lr)
    order = minibatches(
        len(pool.train), batch=config.batch, iterations=config.iterations, seed=cell.seed
    )
    numbers = pool.train[order.to(pool.train.device)]  # (T, batch)
    trace = torch.full((config.iterations, 2), math.nan)  # style and content of each minibatch
    trace = trace.to(pool.images.device)
    rows: list[dict[str, Any]] = []
    start, seconds = 0, 0.0
    if part is not None and part.exists():
        start, seconds, rows = load_state(part, module, optimiser, trace)

    clock = time.perf_counter() - seconds
    status = "done"
    if start == 0:
        rows += _evaluate(cell, problem, generator, 0)
        _tell(reached, 0)
    done = start
    for t in range(start, config.iterations):
        found = _step(problem, generator, numbers[t], optimiser)
        trace[t, 0], trace[t, 1] = found.style.detach(), found.content.detach()
        done = t + 1
        if done % config.every == 0 or done == config.iterations:
            rows += _evaluate(cell, problem, generator, done)
            for row in rows[-2:]:
                row["seconds"] = time.perf_counter() - clock
            if not torch.isfinite(trace[start:done]).all() or not _finite(rows[-1]):
                status = f"diverged by iteration {done}"
                break
        _tell(reached, done)
        if part is not None and checkpoint_every and done % checkpoint_every == 0:
            save_state(part, module, optimiser, trace, done, time.perf_counter() - clock, rows)
    module.eval().requires_grad_(False)
    rows += _minibatch_rows(cell, config, trace[:done].cpu())
    return CellResult(module=module, iteration=done, status=status, rows=rows)


def _tell(reached: Callable[[int], None] | None, iteration: int) -> None:
    if reached is not None:
        reached(iteration)


def _step(
    problem: Problem,
    generator: Network,
    numbers: Tensor,
    optimiser: torch.optim.Optimizer,
) -> Losses:
    optimiser.zero_grad(set_to_none=True)
    found = _losses(problem, generator, numbers)
    total = found.total(problem.config.style_weight, problem.config.content_weight)
    torch.autograd.backward([total])
    optimiser.step()
    return found


def _losses(
    problem: Problem,
    generator: Network,
    numbers: Tensor,
) -> Losses:
    config, pool = problem.config, problem.pool
    x = pool.images[numbers].contiguous(memory_format=torch.channels_last)
    assert generator.postprocess is not None
    with torch.autocast(x.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        index = generator.indices[0] if generator.indices else ""
        output = generator.postprocess(generator.forward(x, index))
        return losses(
            problem.vgg,
            output,
            problem.targets,
            pool.content(numbers),
            statistics=config.statistics,
        )


def _evaluate(
    cell: TrainingCell,
    problem: Problem,
    generator: Network,
    iteration: int,
) -> list[dict[str, Any]]:
    """Held-out losses with batch statistics, and now and then with running statistics too."""
    config = problem.config
    modes = [True]
    tenth = iteration % (10 * config.every) == 0 or iteration == config.iterations
    if tenth and has_running_statistics(generator.module):
        modes.append(False)
    rows = []
    for batch in modes:
        with torch.no_grad(), batch_statistics(generator.module, batch=batch):
            found = [_losses(problem, generator, numbers) for numbers in problem.pool.heldout]
        style = torch.stack([f.style for f in found]).double().mean().item()
        content = torch.stack([f.content for f in found]).double().mean().item()
        mode = "train" if batch else "eval"
        rows.append(_row(cell, config, iteration, "heldout", mode, style, content))
    return rows


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
        "target": cell.target,
        "norm": cell.norm,
        "condition": cell.condition,
        "seed": cell.seed,
        "iteration": iteration,
        "split": split,
        "bn_mode": bn_mode,
        "style_loss": style,
        "content_loss": content,
        "total_loss": config.style_weight * style + config.content_weight * content,
        "lr": config.lr,
        "seconds": math.nan,
    }


def _finite(row: Mapping[str, Any]) -> bool:
    return math.isfinite(row["style_loss"]) and math.isfinite(row["content_loss"])


def heldout_batches(numbers: Sequence[int], batch: int, device: torch.device) -> tuple[Tensor, ...]:
    """Return fixed batches of `batch` image numbers; a rest that fills no batch is left out.

    Fewer images than one batch are repeated in order until they fill it.
    """
    if len(numbers) < batch:
        numbers = [numbers[i % len(numbers)] for i in range(batch)]
    full = len(numbers) // batch
    return tuple(
        torch.tensor(numbers[i * batch : (i + 1) * batch], device=device) for i in range(full)
    )
