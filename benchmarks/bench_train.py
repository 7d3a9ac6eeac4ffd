"""Training against a plain eager loop in fp32: one that makes content features in every step."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import torch
from timing import Row, both, row, side_by_side, synchronise
from torch import Tensor, nn

from statsnorm.allocator import keep_freed_memory
from statsnorm.devices import tf32
from statsnorm.networks import Network, load_network
from statsnorm.networks.perceptual import CONTENT_TAP, STYLE_TAPS, features
from statsnorm.training.batches import heldout_batches, minibatches
from statsnorm.training.cell import CellTraining
from statsnorm.training.cell import side_by_side as together
from statsnorm.training.deterministic import deterministic
from statsnorm.training.fresh import fresh_generator, place
from statsnorm.training.loss import content_features, style_targets
from statsnorm.training.plan import TrainConfig, TrainingCell
from statsnorm.training.step import Execution, Pool, Problem, Stepper


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    images: int
    pixels: int
    batch: int
    steps: int  # a round
    rounds: int


def problem_of(config: TrainConfig, vgg: Network, n: int, device: str) -> Problem:
    """Return a problem on smooth random images; their content does not matter for time."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(n + 1, 3, 8, 8, generator=generator)
    x = nn.functional.interpolate(coarse, (config.size, config.size), mode="bicubic").clamp(0, 1)
    x = x.to(device).contiguous(memory_format=torch.channels_last)
    kept = torch.cat([content_features(vgg, part) for part in x[:n].split(16)])

    def order(seed: int) -> Tensor:
        return minibatches(n, batch=config.batch, iterations=config.iterations, seed=seed)

    pool = Pool(
        images=x[:n],
        content=lambda numbers: kept[numbers],
        order=order,
        heldout=heldout_batches(range(min(n, 16)), config.batch, torch.device(device)),
    )
    targets = style_targets(vgg, x[n:], config.statistics)
    return Problem(config=config, pool=pool, vgg=vgg, targets=targets)


def plain_loop(problem: Problem, generator: Network, steps: int) -> Callable[[], None]:
    """Return the loop that people write: default memory format, a content pass in every step."""
    config, vgg = problem.config, problem.vgg
    module = generator.module.train().requires_grad_(True).to(memory_format=torch.contiguous_format)
    loss_network = replace(vgg, module=_contiguous(vgg.module))
    images = problem.pool.images.contiguous()
    adam = torch.optim.Adam(module.parameters(), lr=config.lr)
    order = problem.pool.order(5).to(images.device)
    assert generator.postprocess is not None
    at = 0

    def run() -> None:
        nonlocal at
        for _ in range(steps):
            x = images[order[at % len(order)]]
            at += 1
            output = generator.postprocess(generator.forward(x))  # type: ignore[misc]
            found = features(loss_network, output, (*STYLE_TAPS, CONTENT_TAP))
            with torch.no_grad():
                content = features(loss_network, x, (CONTENT_TAP,))[CONTENT_TAP]
            style = torch.stack(
                [
                    nn.functional.mse_loss(
                        _gram(found[t]), problem.targets[t].expand(len(x), -1, -1)
                    )
                    for t in STYLE_TAPS
                ]
            ).sum()
            total = config.style_weight * style + nn.functional.mse_loss(
                found[CONTENT_TAP], content
            )
            adam.zero_grad()
            total.backward()
            adam.step()

    return run


def _gram(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    flat = x.reshape(n, c, h * w)
    return flat @ flat.mT / (c * h * w)


def _contiguous(module: nn.Module) -> nn.Module:
    import copy

    return copy.deepcopy(module).to(memory_format=torch.contiguous_format)


def our_steps(
    problem: Problem, generator: Network, steps: int, how: Execution
) -> Callable[[], None]:
    """Return as many updates of ours."""
    stepper = Stepper(problem, generator, seed=5, lr=problem.config.lr, how=how)

    def run() -> None:
        with tf32(allowed=problem.config.precision != "fp32"):
            for _ in range(steps):
                stepper.update()

    return run


def benchmark(size: Size, device: str) -> Iterator[Row]:
    """Yield plain / ours, so that 1.3 means 1.3 times as fast."""
    keep_freed_memory()
    vgg = place(load_network("vgg16"), torch.device(device))
    gpu = device.startswith("cuda")
    ways = [("fp32", False), ("tf32", False), ("bf16", False), ("tf32", True), ("bf16", True)]
    for norm, (precision, compiled) in product(("in", "bn"), ways if gpu else ways[:1]):
        yield from _ratio(size, device, vgg, norm, precision, Execution(compile=compiled))
    if gpu:
        yield from _together(size, device, vgg)
        yield from _determinism(size, device, vgg)
        yield from seed_noise(size, device, 300)


def _ratio(
    size: Size, device: str, vgg: Network, norm: str, precision: str, how: Execution
) -> Iterator[Row]:
    budget = size.steps * (size.rounds + 1) + 10
    config = TrainConfig(
        targets=("t",), size=size.pixels, batch=size.batch, iterations=budget, precision=precision
    )
    problem = problem_of(config, vgg, size.images, device)

    def fresh() -> Network:
        return place(fresh_generator(config, norm, 5), torch.device(device))

    plain = plain_loop(
        replace(problem, config=replace(config, precision="fp32")), fresh(), size.steps
    )
    ours = our_steps(problem, fresh(), size.steps, how)
    with tf32(allowed=False):
        ratios = side_by_side(ours, plain, rounds=size.rounds, device=device)
    bound = {"fp32": "1.3", "tf32": "3.5", "bf16": "5.0"}[precision]
    words = ", one CUDA graph" if device.startswith("cuda") else ""
    yield from both(
        "train", f"plain eager fp32 / ours, {norm.upper()}", ratios.inverse(), device=device,
        target=f">= {bound}",
        setting=f"batch {size.batch}, {size.pixels} px, {precision}{words}"
        + (", compiled" if how.compile else ""),
    )  # fmt: skip


def seed_noise(size: Size, device: str, steps: int) -> Iterator[Row]:
    """Last losses in reduced precision against fp32, in units of the spread between seeds."""
    vgg = place(load_network("vgg16"), torch.device(device))

    def last(precision: str, seed: int) -> float:
        config = TrainConfig(
            targets=("t",), size=size.pixels, batch=size.batch, iterations=steps,
            precision=precision,
        )  # fmt: skip
        network = place(fresh_generator(config, "in", seed), torch.device(device))
        problem = problem_of(config, vgg, size.images, device)
        stepper = Stepper(problem, network, seed=seed, lr=config.lr, how=Execution())
        with tf32(allowed=precision != "fp32"):
            for _ in range(steps):
                stepper.update()
            return math.log(stepper.evaluate(batch=True)[0])

    reference = [last("fp32", seed) for seed in range(3)]
    spread = statistics.stdev(reference)
    for precision in ("tf32", "bf16") if device.startswith("cuda") else ("bf16",):
        away = [abs(last(precision, s) - reference[s]) / spread for s in range(3)]
        yield row(
            "train", f"last log style loss, {precision} - fp32, over the sd between seeds", away,
            unit="sd", target="<= 1",
            setting=f"IN, {steps} iterations, {size.pixels} px, sd of 3 seeds {spread:.3f}",
        )  # fmt: skip


def _cells(
    size: Size, device: str, vgg: Network, count: int, precision: str, steps: int
) -> list[CellTraining]:
    config = TrainConfig(
        targets=("t",), size=size.pixels, batch=size.batch, iterations=steps, precision=precision
    )
    problem = problem_of(config, vgg, size.images, device)
    return [
        CellTraining(
            TrainingCell(block=k, target="t", norm="in", condition="original", seed=5),
            problem,
            place(fresh_generator(config, "in", 5), torch.device(device)),
            how=Execution(),
        )
        for k in range(count)
    ]


def _together(size: Size, device: str, vgg: Network) -> Iterator[Row]:
    """Two and four cells side by side on one GPU against one after the other."""

    def in_turn(count: int) -> None:
        for cell in _cells(size, device, vgg, count, "tf32", size.steps):
            together([cell])

    def at_once(count: int) -> None:
        together(_cells(size, device, vgg, count, "tf32", size.steps))

    for count in (2, 4):
        with tf32(allowed=True):
            ratios = side_by_side(
                partial(in_turn, count), partial(at_once, count), rounds=2, device=device
            )
        yield row(
            "train", f"{count} cells in turn / side by side", ratios,
            setting=f"IN, tf32, {size.pixels} px, set-up included",
        )  # fmt: skip


def _determinism(size: Size, device: str, vgg: Network) -> Iterator[Row]:
    """Largest difference of losses: a cell twice, graph and no graph, BN at batch 1 and IN."""

    def losses(norm: str, how: Execution, batch: int) -> Tensor:
        config = TrainConfig(targets=("t",), size=size.pixels, batch=batch, iterations=20)
        problem = problem_of(config, vgg, size.images, device)
        network = place(fresh_generator(config, norm, 5), torch.device(device))
        stepper = Stepper(problem, network, seed=5, lr=config.lr, how=how)
        for _ in range(20):
            stepper.update()
        synchronise(device)
        return stepper.trace.cpu()

    graph, eager = Execution(), Execution(graph=False)
    with deterministic(wanted=True), tf32(allowed=False):
        for quantity, a, b, target in (
            ("two runs of a cell", ("in", graph, 4), ("in", graph, 4), "<= 0"),
            ("two runs of a cell, BN", ("bn", graph, 4), ("bn", graph, 4), "<= 0"),
            ("CUDA graph and plain calls", ("in", graph, 4), ("in", eager, 4), "<= 0"),
            ("BN at batch 1 and IN", ("bn", graph, 1), ("in", graph, 1), "<= 0.001"),
        ):
            x, y = losses(*a), losses(*b)
            worst = float(((x - y).abs() / y.abs()).max())
            yield row(
                "train", f"largest relative difference of losses: {quantity}", [worst],
                unit="relative", target=target, setting="fp32, deterministic, 20 iterations",
            )  # fmt: skip
