"""Activation -> per-image, per-channel mean and population variance.

On the CPU the work goes over blocks that stay in the cache, at about a thirtieth of the time of
`torch.var_mean`, which makes one scalar Welford update a value. Channels-last activations are
read from memory once: sums of x - a and of its square, where a is the channel's mean over the
first of B groups of pixels, summed over groups in float64. The variance is then at least
(mean - a)^2 / B, so that what cancels is at most B times what is left: with B <= 64 at 256 pixels
a relative error of 64 roundings of float32, 4e-6, and 1e-7 on real activations. Eight groups make
a block. Each is summed by one thread, the one that has just written it, so that no value goes
from core to core, and the sums are the same whatever the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from statsnorm.errors import StatsnormError, unknown

LAYOUTS: tuple[str, ...] = ("nchw", "nhwc", "tokens")

_BLOCK = 1 << 19  # values a block: 2 MB in float32, 256 kB a group
_GROUPS = 8  # groups of pixels a block: so many threads can share it


@dataclass(frozen=True, slots=True)
class ChannelMoments:
    """Moments of one activation; rows are images, columns channels.

    Attributes
    ----------
    mean, var : Tensor, shape (N, C), float32, or float64 for a float64 activation
        Mean and population variance (ddof 0, no eps) over the pixels or tokens of each image,
        in the units of the activation and its square.
    pixels : int
        How many pixels (or tokens) each row was reduced over.
    correlation : Tensor or None, shape (N, n (n - 1) / 2), float32
        Where a tap asks for them (:func:`statsnorm.correlations.channel_correlations`).
    """

    mean: Tensor
    var: Tensor
    pixels: int
    correlation: Tensor | None = None


def channels_first(x: Tensor, layout: str = "nchw", drop_tokens: int = 0) -> Tensor:
    """Return `x` as a view (N, C, ...) whatever its layout, without its first tokens.

    Parameters
    ----------
    x : Tensor
        (N, C, H, W) or (N, C, L) for "nchw", (N, H, W, C) for "nhwc", (N, T, C) for "tokens".
    layout : {"nchw", "nhwc", "tokens"}
        Which axis holds the channels.
    drop_tokens : int
        Class and register tokens at the front of the token axis; "tokens" only.

    Raises
    ------
    StatsnormError
        If the layout is unknown, `x` has the wrong number of axes, or nothing is left.
    """
    if layout not in LAYOUTS:
        raise unknown("layout", layout, LAYOUTS)
    if x.ndim < 3 or (layout == "tokens" and x.ndim != 3):
        rule = "(N, T, C)" if layout == "tokens" else "images, channels and at least one more axis"
        raise StatsnormError(f"an activation in layout {layout!r} needs {rule}, got {_shape(x)}")
    if drop_tokens and layout != "tokens":
        raise StatsnormError(f"drop_tokens={drop_tokens} needs layout 'tokens', got {layout!r}")
    if layout == "tokens":
        x = x[:, drop_tokens:]  # (N, T, C)
    if x.numel() == 0:
        raise StatsnormError(f"nothing to reduce: an activation of shape {_shape(x)}")
    return x if layout == "nchw" else x.movedim(-1, 1)


def channel_moments(x: Tensor, layout: str = "nchw", drop_tokens: int = 0) -> ChannelMoments:
    """Reduce an activation to the mean and population variance of each image and channel.

    Two passes in at least float32 whatever the dtype of `x` (method.md 0.4): half-precision
    squares cannot overflow, and a small variance beside a large mean keeps its digits. Each
    image is reduced by itself, so its row does not depend on its neighbours in the batch.

    Parameters
    ----------
    x : Tensor
        (N, C, H, W) or (N, C, L) for "nchw", (N, H, W, C) for "nhwc", (N, T, C) for "tokens";
        any memory format and floating dtype.
    layout : {"nchw", "nhwc", "tokens"}
        Which axis holds the channels.
    drop_tokens : int
        Class and register tokens at the front of the token axis, left out of the moments.

    Returns
    -------
    ChannelMoments
        `mean` and `var` of shape (N, C) on the device of `x`; within 1e-5 relative of float64.

    Raises
    ------
    StatsnormError
        If the layout is unknown or does not fit the shape of `x`.

    Examples
    --------
    >>> moments = channel_moments(torch.tensor([[[1.0, 3.0], [5.0, 5.0]]]))
    >>> moments.mean, moments.var, moments.pixels
    (tensor([[2., 5.]]), tensor([[1., 0.]]), 2)
    """
    x = channels_first(x.detach(), layout, drop_tokens)  # (N, C, ...)
    pixels = x[0, 0].numel()
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        spatial = tuple(range(2, x.ndim))
        var, mean = torch.var_mean(x.to(dtype), dim=spatial, correction=0)
        return ChannelMoments(mean, var, pixels)
    last = x.movedim(1, -1)
    if last[0].is_contiguous() and not x[0].is_contiguous():
        return ChannelMoments(*_pixel_groups(last.flatten(1, -2), dtype), pixels)
    means, variances = zip(
        *(_channel_blocks(i.contiguous().flatten(1), dtype) for i in x), strict=True
    )
    return ChannelMoments(torch.stack(means), torch.stack(variances), pixels)


def _channel_blocks(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Moments, (C,) each, of contiguous channels (C, P), some channels at a time."""
    channels, pixels = x.shape
    mean, var = torch.empty(2, channels, 1, dtype=dtype)
    step = min(channels, max(1, _BLOCK // pixels))
    buffer = torch.empty(step, pixels, dtype=dtype)
    for start in range(0, channels, step):
        rows = slice(start, min(start + step, channels))
        torch.mean(x[rows], 1, keepdim=True, dtype=dtype, out=mean[rows])
        rest = torch.sub(x[rows], mean[rows], out=buffer[: rows.stop - start])
        torch.mean(rest.square_(), 1, keepdim=True, out=var[rows])
    return mean[:, 0], var[:, 0]


def _pixel_groups(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Moments, (N, C) each, of channels-last pixels (N, P, C), eight groups of pixels at a time."""
    images, pixels, channels = x.shape
    blocks = -(-pixels * channels // _BLOCK)
    rows = pixels // (blocks * _GROUPS)  # pixels a group; the last group is what is left over
    origin = torch.empty(images, channels, dtype=dtype)
    buffer = torch.empty(_GROUPS, rows, channels, dtype=dtype)
    sums = torch.empty(2, images, blocks * _GROUPS + 1, channels, dtype=dtype)
    for image, a, total, square in zip(x, origin, *sums, strict=True):
        torch.mean(image[: max(rows, 1)], 0, dtype=dtype, out=a)
        head, tail = image.tensor_split([blocks * _GROUPS * rows])
        for k, block in enumerate(head.unflatten(0, (blocks, _GROUPS, rows))):
            into = slice(k * _GROUPS, (k + 1) * _GROUPS)
            rest = torch.sub(block, a, out=buffer)
            torch.sum(rest, 1, out=total[into])
            torch.sum(rest.square_(), 1, out=square[into])
        rest = tail.to(dtype) - a
        torch.sum(rest, 0, out=total[-1])
        torch.sum(rest.square_(), 0, out=square[-1])
    offset, spread = sums.double().sum(2) / pixels  # (N, C) each
    return (origin + offset).to(dtype), (spread - offset.square()).clamp_min_(0).to(dtype)


def _shape(x: Tensor) -> str:
    return "(" + ", ".join(map(str, x.shape)) + ")"
