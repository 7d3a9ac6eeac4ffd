"""Candidates for the GPU path: ReLU, moments and pooling in one pass over each activation.

Not part of the package: whether they win is measured here (`bench.py --device cuda --only
kernels`), against the plain operations and the compiled pass. The Triton kernels also run in
Triton's interpreter (TRITON_INTERPRET=1), which is how the tests compare them with float64.

Bytes moved a value of the activation: ReLU in place, `var_mean` and `max_pool2d` read it three
times and write it once (and a quarter); `relu_moments_pool` reads it once and writes a quarter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from timing import Row, row, side_by_side
from torch import Tensor, nn
from torch.nn import functional as F

from statsnorm.devices import arithmetic
from statsnorm.networks import Network, load_network
from statsnorm.taps import find_taps, forward_moments

_BLOCK_PIXELS, _BLOCK_CHANNELS = 64, 64
_PROGRAM_PIXELS = 2048  # pixels of one program; partial moments are merged in float64


@triton.jit
def _merge(count, mean, square, n, block_mean, block_square):
    """Chan's update of (count, mean, sum of squared deviations) with those of a block."""
    total = count + n
    delta = block_mean - mean
    return (
        total,
        mean + delta * (n / total),
        square + block_square + delta * delta * (count * n / total),
    )


@triton.jit
def _relu_moments_kernel(
    x, y, means, squares, pixels, channels, splits, per,
    RELU: tl.constexpr, STORE: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    image, split = tl.program_id(0).to(tl.int64), tl.program_id(2)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    start = split * per
    end = tl.minimum(start + per, pixels)
    count = 0.0
    mean = tl.zeros((BC,), tl.float32)
    square = tl.zeros((BC,), tl.float32)
    for first in range(start, end, BP):
        p = first + tl.arange(0, BP)
        ok = (p < end)[:, None] & (c < channels)[None, :]
        place = (image * pixels + p)[:, None] * channels + c[None, :]
        v = tl.load(x + place, mask=ok, other=0.0).to(tl.float32)
        if RELU:
            v = tl.maximum(v, 0.0)
        if STORE:
            tl.store(y + place, v, mask=ok)
        n = tl.minimum(BP, end - first).to(tl.float32)
        block = tl.sum(v, 0) / n
        rest = tl.where(ok, v - block[None, :], 0.0)
        count, mean, square = _merge(count, mean, square, n, block, tl.sum(rest * rest, 0))
    out = (image * splits + split) * channels + c
    tl.store(means + out, mean, mask=c < channels)
    tl.store(squares + out, square, mask=c < channels)


@triton.jit
def _relu_moments_pool_kernel(
    x, y, means, squares, width, channels, pooled, splits, per,
    BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    image, split = tl.program_id(0).to(tl.int64), tl.program_id(2)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    start = split * per
    end = tl.minimum(start + per, pooled)
    half = width // 2
    count = 0.0
    mean = tl.zeros((BC,), tl.float32)
    square = tl.zeros((BC,), tl.float32)
    for first in range(start, end, BP):
        p = first + tl.arange(0, BP)
        ok = (p < end)[:, None] & (c < channels)[None, :]
        corner = image * 4 * pooled + (p // half) * 2 * width + (p % half) * 2
        place = corner[:, None] * channels + c[None, :]
        a = tl.maximum(tl.load(x + place, mask=ok, other=0.0).to(tl.float32), 0.0)
        b = tl.maximum(tl.load(x + place + channels, mask=ok, other=0.0).to(tl.float32), 0.0)
        below = place + width * channels
        d = tl.maximum(tl.load(x + below, mask=ok, other=0.0).to(tl.float32), 0.0)
        e = tl.maximum(tl.load(x + below + channels, mask=ok, other=0.0).to(tl.float32), 0.0)
        out = (image * pooled + p)[:, None] * channels + c[None, :]
        tl.store(y + out, tl.maximum(tl.maximum(a, b), tl.maximum(d, e)), mask=ok)
        n = 4.0 * tl.minimum(BP, end - first).to(tl.float32)
        block = tl.sum(a + b + d + e, 0) / n
        a, b = tl.where(ok, a - block[None, :], 0.0), tl.where(ok, b - block[None, :], 0.0)
        d, e = tl.where(ok, d - block[None, :], 0.0), tl.where(ok, e - block[None, :], 0.0)
        found = tl.sum(a * a + b * b + d * d + e * e, 0)
        count, mean, square = _merge(count, mean, square, n, block, found)
    out = (image * splits + split) * channels + c
    tl.store(means + out, mean, mask=c < channels)
    tl.store(squares + out, square, mask=c < channels)


def relu_moments(x: Tensor, *, relu: bool = False, store: bool = False) -> tuple[Tensor, Tensor]:
    """Return mean and population variance (N, C), float32, of channels-last `x` (N, C, H, W).

    With `relu` those of its ReLU; with `store` the ReLU is also written in place of `x`.
    """
    n, channels, height, width = x.shape
    assert x.is_contiguous(memory_format=torch.channels_last), "channels last in memory"
    pixels = height * width
    splits, partial_mean, partial_square = _partials(x, pixels)
    grid = (n, triton.cdiv(channels, _BLOCK_CHANNELS), splits)
    _relu_moments_kernel[grid](
        x, x, partial_mean, partial_square, pixels, channels, splits, _PROGRAM_PIXELS,
        RELU=relu, STORE=store, BP=_BLOCK_PIXELS, BC=_BLOCK_CHANNELS,
    )  # fmt: skip
    return _merged(partial_mean, partial_square, pixels, _PROGRAM_PIXELS, 1)


def relu_moments_pool(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the 2 x 2 maxima of ReLU(x), and mean and variance (N, C) of ReLU(x).

    `x` is (N, C, H, W), channels last, of even sides.
    """
    n, channels, height, width = x.shape
    assert x.is_contiguous(memory_format=torch.channels_last), "channels last in memory"
    assert height % 2 == width % 2 == 0, "sides are even"
    pooled = height * width // 4
    y = torch.empty(
        (n, channels, height // 2, width // 2), dtype=x.dtype, device=x.device,
        memory_format=torch.channels_last,
    )  # fmt: skip
    per = _PROGRAM_PIXELS // 4
    splits, partial_mean, partial_square = _partials(x, pooled, per)
    grid = (n, triton.cdiv(channels, _BLOCK_CHANNELS), splits)
    _relu_moments_pool_kernel[grid](
        x, y, partial_mean, partial_square, width, channels, pooled, splits, per,
        BP=_BLOCK_PIXELS, BC=_BLOCK_CHANNELS,
    )  # fmt: skip
    return y, *_merged(partial_mean, partial_square, pooled, per, 4)


def _partials(x: Tensor, pixels: int, per: int = _PROGRAM_PIXELS) -> tuple[int, Tensor, Tensor]:
    splits = triton.cdiv(pixels, per)
    shape = (x.shape[0], splits, x.shape[1])
    means, squares = torch.empty(2, *shape, dtype=torch.float32, device=x.device)
    return splits, means, squares


def _merged(
    means: Tensor, squares: Tensor, pixels: int, per: int, values: int
) -> tuple[Tensor, Tensor]:
    """Merge the moments of the programs, in float64; `values` of them a pixel."""
    splits = means.shape[1]
    counts = torch.full((splits, 1), float(per), dtype=torch.float64, device=means.device)
    counts[-1] = pixels - per * (splits - 1)
    weights = counts / pixels
    mean = (means.double() * weights).sum(1)  # (N, C)
    between = ((means.double() - mean[:, None]).square() * weights).sum(1)
    var = squares.double().sum(1) / (pixels * values) + between
    return mean.float(), var.float()


def fused_vgg(network: Network, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the moments of every ReLU of a VGG, bias and ReLU in the convolution's own kernel."""
    children = dict(network.module.named_children())
    names = list(children)
    x = network.preprocess(x).contiguous(memory_format=torch.channels_last)
    found = {}
    for k, name in enumerate(names):
        layer = children[name]
        if not isinstance(layer, nn.Conv2d):
            continue
        x, tap = _convolution_relu(layer, x), names[k + 1]
        if k + 2 < len(names) and names[k + 2].startswith("pool"):
            x, mean, var = relu_moments_pool(x)
        else:
            mean, var = relu_moments(x)
        found[tap] = (mean, var)
    return found


def _convolution_relu(layer: nn.Conv2d, x: Tensor) -> Tensor:
    weight, bias = layer.weight.to(x.dtype), layer.bias
    assert bias is not None
    if x.device.type == "cuda":
        y: Tensor = torch.cudnn_convolution_relu(
            x, weight, bias.to(x.dtype), layer.stride, layer.padding, layer.dilation, 1
        )
    else:
        y = F.relu(F.conv2d(x, weight, bias.to(x.dtype), layer.stride, layer.padding))
    return y.contiguous(memory_format=torch.channels_last)


def benchmark(*, batch: int, pixels: int, rounds: int) -> Iterator[Row]:
    """Yield the time of the fused passes over that of the plain ones, on a GPU."""
    for dtype, precision in ((torch.float32, "tf32"), (torch.bfloat16, "bf16")):
        yield from _passes(batch, pixels, dtype, rounds)
        yield from _networks(batch, pixels, dtype, precision, rounds)


def _passes(batch: int, pixels: int, dtype: torch.dtype, rounds: int) -> Iterator[Row]:
    x = torch.randn(batch, 64, pixels, pixels, device="cuda", dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last)

    def var_mean(y: Tensor) -> object:
        return torch.var_mean(y.float() if dtype == torch.float32 else y, (2, 3), correction=0)

    def plain() -> object:
        y = x.clone().relu_()
        return var_mean(y), F.max_pool2d(y, 2)

    def fused() -> object:
        return relu_moments_pool(x.clone())

    for name, ours, theirs in (
        ("moments: Triton / var_mean", partial(relu_moments, x), partial(var_mean, x)),
        ("ReLU + moments + pool: Triton / three operations", fused, plain),
    ):
        ratios = side_by_side(ours, theirs, rounds=rounds, device="cuda")
        yield row("kernels", name, ratios, setting=f"{batch} x 64 x {pixels} x {pixels}, {dtype}")


def _networks(
    batch: int, pixels: int, dtype: torch.dtype, precision: str, rounds: int
) -> Iterator[Row]:
    """Yield images a second of the ways to run VGG-16 with moments, over the compiled forward."""
    network = load_network("vgg16")
    network.module.to("cuda", memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.rand(batch, 3, pixels, pixels, device="cuda").to(dtype)
    module: Any = network.module.to(dtype)
    compiled = torch.compile(module, dynamic=False)
    taps = [t for t in find_taps(network, x[:1]) if t.name.startswith("relu")]

    def forward(run: Any) -> Callable[[], object]:
        return lambda: run(network.preprocess(x))

    ways = {
        "eager forward": forward(module),
        "hooks with var_mean": lambda: forward_moments(network, x, taps),
        "cudnn_convolution_relu and Triton moments": lambda: fused_vgg(network, x),
    }
    with arithmetic(precision if precision == "tf32" else "fp32", "cuda"):
        for name, way in ways.items():
            ratios = side_by_side(forward(compiled), way, rounds=rounds, device="cuda")
            yield row(
                "kernels", f"compiled forward / {name}", ratios,
                setting=f"VGG-16 to relu4_2, batch {batch}, {pixels} px, {precision}",
            )  # fmt: skip
