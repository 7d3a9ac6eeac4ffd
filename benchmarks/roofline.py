"""The two ceilings of a device and, stage by stage, how close a run of VGG-16 comes to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, cycle

import numpy as np
import torch
from timing import Row, row, seconds
from torch import Tensor, nn

from statsnorm.cells import InputCell, NetworkCell
from statsnorm.devices import arithmetic
from statsnorm.images.colour import equalise_luminance
from statsnorm.images.decode import decode
from statsnorm.images.sources import find_images
from statsnorm.moments import channel_moments
from statsnorm.networks import load_network
from statsnorm.rows import Block, CellRows, TapColumns, moments_table
from statsnorm.tables import encoded_size


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the pass over a batch."""

    name: str
    operations: float  # a batch
    bytes: float  # each input read once, each output written once
    run: Callable[[], object]


def benchmark(
    *, batch: int, pixels: int, source: str, device: str, precision: str, rounds: int
) -> Iterator[Row]:
    """Yield the ceilings, and for each stage its floor over the time it took."""
    rate, bandwidth = ceilings(device, precision, rounds)
    yield row(
        "roofline", "matrix product or convolution", [rate / 1e9], unit="GFLOP/s",
        setting=f"{precision}, the faster of the two",
    )  # fmt: skip
    yield row("roofline", "copy, bytes read and written", [bandwidth / 1e9], unit="GB/s")
    everything = chain(
        stages(batch, pixels, device, precision), around(batch, pixels, source, device)
    )
    for stage in everything:
        with arithmetic(precision, device.partition(":")[0]):
            stage.run()
            spent = [seconds(stage.run, device) for _ in range(rounds)]
        floor = max(stage.operations / rate, stage.bytes / bandwidth)
        bound = "operations" if stage.operations / rate > stage.bytes / bandwidth else "bytes"
        yield row(
            "roofline", f"{stage.name}: floor / time", [floor / s for s in spent],
            unit="share",
            setting=f"{stage.operations / 1e9:.2f} GFLOP, {stage.bytes / 1e6:.1f} MB, bound by "
            f"{bound}; reached {stage.operations / min(spent) / 1e9:.1f} GFLOP/s, "
            f"{stage.bytes / min(spent) / 1e9:.2f} GB/s; batch {batch}, {pixels} px, {precision}",
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
        product = min(seconds(lambda: torch.mm(a, b), device) for _ in range(rounds))
        copy = min(seconds(lambda: y.copy_(x), device) for _ in range(rounds))
    return max(2 * side**3 / product, _convolution(device, dtype, rounds)), 2 * 4 * values / copy


def _convolution(device: str, dtype: torch.dtype, rounds: int) -> float:
    """Return operations a second of a 3 x 3 convolution of 256 channels, channels last."""
    images = 64 if device.startswith("cuda") else 2
    layer = nn.Conv2d(256, 256, 3, padding=1, bias=False).to(device, dtype)
    layer = layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(images, 256, 64, 64, device=device, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        layer(x)
        spent = min(seconds(lambda: layer(x), device) for _ in range(rounds))
    return 2.0 * x.numel() * 256 * 9 / spent


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


def around(batch: int, pixels: int, source: str, device: str) -> Iterator[Stage]:
    """Yield what is done beside the network: decoding, equalising, encoding the table.

    Operations are not counted: their ceilings are branches and table look-ups, not arithmetic.
    """
    refs = [ref for _, ref in zip(range(batch), cycle(find_images(source)), strict=False)]
    x = torch.stack([decode(ref, size=pixels).pixels for ref in refs]).to(device)
    files = sum(ref.path.stat().st_size for ref in refs)
    size = float(x.numel() * 4)
    yield Stage(
        "decode and resize", 0.0, files + size, lambda: [decode(r, size=pixels) for r in refs]
    )
    yield Stage("equalise", 0.0, 2 * size, lambda: equalise_luminance(x))
    rows, channels = 128, 512
    lists = torch.rand(2, rows, channels).numpy()
    at = CellRows(
        images=tuple(map(str, range(rows))), cells=(InputCell(),),
        image=np.arange(rows), cell=np.zeros(rows, np.int64),
    )  # fmt: skip
    tap = TapColumns(tap="relu4_1", tap_kind="post_act", depth=1, pixels=1)
    network = NetworkCell(network="vgg16", norm="none")
    block = Block(network=network, tap=tap, rows=at, mean=lists[0], var=lists[1])
    table, groups = moments_table([block])
    yield Stage(
        f"encode a table of {rows} x {channels}", 0.0, 2.0 * lists.nbytes,
        lambda: encoded_size(table, groups),
    )  # fmt: skip


def _operations(layer: nn.Module, y: Tensor) -> float:
    if isinstance(layer, nn.Conv2d):
        return 2.0 * y.numel() * layer.in_channels * 9
    return float(y.numel()) * (4 if isinstance(layer, nn.MaxPool2d) else 1)


def _applied(layer: nn.Module, x: Tensor) -> Callable[[], object]:
    return lambda: layer(x)


def _reduced(y: Tensor) -> Callable[[], object]:
    return lambda: channel_moments(y)
