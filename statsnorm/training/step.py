"""One update and one evaluation of a cell, each a call that a CUDA graph can hold.

Whatever changes from one update to the next lies in tensors that stay where they are: the number
of the update, the weights, Adam's state, the trace. Nothing is read back to the host, so on a GPU
the whole step (gather, forward, backward, Adam) is recorded once and replayed. On a CPU the very
same function runs as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from statsnorm.networks import Network
from statsnorm.training.loss import Losses, losses
from statsnorm.training.plan import TrainConfig

WARM_CALLS = 3
"""Calls that run as they are on a GPU before one is recorded: lazy state is made in them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The images of one condition on the device, with the content features worth keeping."""

    images: Tensor  # (n, 3, H, W), RGB in [0, 1] or beyond, float32, channels last
    content: Callable[[Tensor], Tensor]  # image numbers (N,) -> activations at the content tap
    order: Callable[[int], Tensor]  # seed -> image numbers of every minibatch, int64 (T, batch)
    heldout: tuple[Tensor, ...]  # fixed batches of image numbers, all of one size


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What a cell's generator is asked to do: on which images, towards which style."""

    config: TrainConfig
    pool: Pool
    vgg: Network
    targets: Mapping[str, Tensor]  # style statistics of the target at each style tap


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How a cell is trained, not what: none of it is part of the configuration."""

    graph: bool = True  # record steps as CUDA graphs, where there is a GPU
    compile: bool = False  # forward and losses through torch.compile


def batch_losses(problem: Problem, generator: Network, numbers: Tensor) -> Losses:
    """Return the losses of the images with these numbers (N,)."""
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


class Stepper:
    """The updates and evaluations of one cell.

    Attributes
    ----------
    trace : Tensor, shape (T, 2)
        Style and content loss of every minibatch, on the device; nan where none was seen yet.
    optimiser : torch.optim.Adam
        Its state lives on the device of the generator.
    """

    def __init__(
        self, problem: Problem, generator: Network, *, seed: int, lr: float, how: Execution
    ) -> None:
        config, pool = problem.config, problem.pool
        self.problem, self.generator = problem, generator
        self.device = pool.images.device
        on_gpu = self.device.type == "cuda"
        self.module = generator.module.train().requires_grad_(True)
        self.optimiser = torch.optim.Adam(
            self.module.parameters(), lr=lr, fused=on_gpu or None, capturable=on_gpu
        )
        self.trace = torch.full((config.iterations, 2), math.nan, device=self.device)
        self.stream: Any = torch.cuda.Stream(self.device) if on_gpu else None  # type: ignore[no-untyped-call]
        self._at = torch.zeros(1, dtype=torch.int64, device=self.device)
        self._numbers = pool.order(seed).to(self.device)  # (T, batch)
        self._heldout = torch.zeros(len(pool.heldout), 2, device=self.device)
        self._losses = _compiled() if how.compile else batch_losses
        graph = how.graph and on_gpu
        self._update = Recorded(self._one_update, graph=graph)
        self._evaluations = {
            batch: Recorded(self._evaluation(batch=batch), graph=graph) for batch in (True, False)
        }
        self._after_what_was_queued()

    def _after_what_was_queued(self) -> None:
        """Let the cell's stream wait for what was put on the usual one: weights, images, state."""
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(self.device))

    def start_at(self, iteration: int) -> None:
        """Go on after so many updates; weights, optimiser and trace have been filled."""
        self._at.fill_(iteration)
        self._after_what_was_queued()

    def update(self) -> None:
        """Do the next update."""
        with self.queue():
            self._update()

    def evaluate(self, *, batch: bool) -> tuple[float, float]:
        """Return held-out style and content loss, means over the batches.

        `batch` says whether normalisers use batch statistics or running ones; no buffer changes.
        """
        with self.queue():
            self._evaluations[batch]()
            style, content = self._heldout.double().mean(dim=0).tolist()
        return style, content

    @contextmanager
    def queue(self) -> Iterator[None]:
        """Put work on the cell's own stream, so that several cells can share one GPU."""
        with torch.cuda.stream(self.stream) if self.stream is not None else nullcontext():
            yield

    def _one_update(self) -> None:
        config = self.problem.config
        self.optimiser.zero_grad(set_to_none=True)
        numbers = self._numbers.index_select(0, self._at)[0]  # (batch,)
        found = self._losses(self.problem, self.generator, numbers)
        total = found.total(config.style_weight, config.content_weight)
        torch.autograd.backward([total])
        self.optimiser.step()
        seen = torch.stack([found.style, found.content]).detach().float()
        self.trace.index_copy_(0, self._at, seen[None])
        self._at += 1

    def _evaluation(self, *, batch: bool) -> Callable[[], None]:
        def evaluate() -> None:
            with torch.no_grad(), batch_statistics(self.module, batch=batch):
                for row, numbers in zip(self._heldout, self.problem.pool.heldout, strict=True):
                    found = self._losses(self.problem, self.generator, numbers)
                    row.copy_(torch.stack([found.style, found.content]))

        return evaluate


@dataclass(slots=True)
class Recorded:
    """Calls a function; with `graph` it is recorded after a few calls and replayed from then on.

    The function must read and write tensors that stay in place, and read nothing back.
    """

    function: Callable[[], None]
    graph: bool = field(kw_only=True)
    calls: int = 0
    recording: Any = None

    def __call__(self) -> None:
        """Call the function on the current stream."""
        self.calls += 1
        if not self.graph or self.calls <= WARM_CALLS:
            self.function()
            return
        if self.recording is None:
            self.recording = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.recording, stream=torch.cuda.current_stream()):
                self.function()
        self.recording.replay()


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


def _compiled() -> Callable[[Problem, Network, Tensor], Losses]:
    compiled: Callable[[Problem, Network, Tensor], Losses] = torch.compile(
        batch_losses, dynamic=False
    )
    return compiled
