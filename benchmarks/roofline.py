"""The two ceilings of a device and, stage by stage, how close a run of VGG-16 comes to them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from timing import Row, row, seconds
from torch import Tensor, nn

from statsnorm.devices import arithmetic
from statsnorm.moments import channel_moments
from statsnorm.networks import load_network


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the pass over a batch."""

    name: str
    operations: float  # a batch
    bytes: float  # each input read once, each output written once
    run: Callable[[], object]


def benchmark(
    *, batch: int, pixels: int, device: str, precision: str, rounds: int
) -> Iterator[Row]:
    """Yield the ceilings, and for each stage its floor over the time it took."""
    rate, bandwidth = ceilings(device, precision, rounds)
    yield row("roofline", "matrix product", [rate / 1e9], unit="GFLOP/s", setting=precision)
    yield row("roofline", "copy, bytes read and written", [bandwidth / 1e9], unit="GB/s")
    for stage in stages(batch, pixels, device, precision):
        with arithmetic(precision, device.partition(":")[0]):
            stage.run()
            spent = [seconds(stage.run, device) for _ in range(rounds)]
        floor = max(stage.operations / rate, stage.bytes / bandwidth)
        bound = "operations" if stage.operations / rate > stage.bytes / bandwidth else "bytes"
        yield row(
            "roofline", f"{stage.name}: floor / time", [floor / s for s in spent],
            unit="share",
            setting=f"{stage.operations / 1e9:.2f} GFLOP, {stage.bytes / 1e6:.1f} MB, bound by "
            f"{bound}; batch {batch}, {pixels} px, {precision}",
        )  # fmt: skip


def ceilings(device: str, precision: str, rounds: int) -> tuple[float, float]:
    """Return operations and bytes a second of a large matrix product and a large copy."""
    gpu = device.startswith("cuda")
    side, values = (8192, 2**30) if gpu else (1536, 2**24)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    x = torch.randn(values, device=device)
    y = torch.empty_like(x)
    with arithmetic(precision, device.partition(":")[0]):
        torch.mm(a, b)
        y.copy_(x)
        product = statistics.median(seconds(lambda: torch.mm(a, b), device) for _ in range(rounds))
        copy = statistics.median(seconds(lambda: y.copy_(x), device) for _ in range(rounds))
    return 2 * side**3 / product, 2 * 4 * values / copy


def stages(batch: int, pixels: int, device: str, precision: str) -> Iterator[Stage]:
    """Yield convolutions, ReLUs, poolings and moments of VGG-16, each on its own real input."""
    network = load_network("vgg16")
    network.module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    size = 2 if precision == "bf16" else 4
    x = torch.rand(batch, 3, pixels, pixels, device=device)
    with arithmetic(precision, device.partition(":")[0]):
        x = network.preprocess(x).contiguous(memory_format=torch.channels_last)
        for name, layer in network.module.named_children():
            y = layer(x.clone())
            moved = float((x.numel() + y.numel()) * size)
            yield Stage(name, _operations(layer, y), moved, _applied(layer, x))
            if name.startswith("relu"):
                yield Stage(
                    f"moments of {name}", 4.0 * y.numel(), float(y.numel() * size), _reduced(y)
                )
            x = y


def _operations(layer: nn.Module, y: Tensor) -> float:
    if isinstance(layer, nn.Conv2d):
        return 2.0 * y.numel() * layer.in_channels * 9
    return float(y.numel()) * (4 if isinstance(layer, nn.MaxPool2d) else 1)


def _applied(layer: nn.Module, x: Tensor) -> Callable[[], object]:
    return lambda: layer(x)


def _reduced(y: Tensor) -> Callable[[], object]:
    return lambda: channel_moments(y)
