"""Gaussian blur, and the width at which it has the power spectrum of another condition."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad

from statsnorm.errors import StatsnormError
from statsnorm.images.colour import luminance

TRUNCATE = 4.0  # standard deviations


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Blur images (N, C, H, W) with a Gaussian of `sigma` pixels, edges reflected.

    The kernel is sampled at whole pixels, cut at 4 sigma and normalised. `sigma` 0 changes
    nothing.

    Raises
    ------
    StatsnormError
        If `sigma` is negative or not finite.
    """
    if not (math.isfinite(sigma) and sigma >= 0):
        raise StatsnormError(f"blur sigma must be 0 pixels or more, got {sigma!r}")
    radius = int(TRUNCATE * sigma + 0.5)
    if radius == 0:
        return x
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(x)
    return _along(_along(x, kernel).mT, kernel).mT


def matching_sigma(plain: Tensor, other: Tensor) -> float:
    """Return the blur of `plain` that comes nearest to the smoothness of `other`.

    The radial power spectra of luminance, averaged over images, are compared: a Gaussian
    multiplies power by exp(-4 pi^2 sigma^2 f^2), so sigma^2 is minus the least-squares slope of
    log(P_other / P_plain) on 4 pi^2 f^2, over integer radii from 1 / side to 1/4 cycle a pixel
    (above, pixel noise and rounding rule). An overall difference of contrast is the intercept.

    Parameters
    ----------
    plain, other : Tensor, shape (N, 3, H, W)
        The same images before and after a treatment.

    Returns
    -------
    float
        In pixels; 0 if `other` is not smoother than `plain`.

    Raises
    ------
    StatsnormError
        If the images are smaller than 16 x 16 or have no detail.
    """
    if min(plain.shape[-2:]) < 16 or plain.shape[-2:] != other.shape[-2:]:
        raise StatsnormError(
            "matching a blur needs two sets of images of one size, at least 16 x 16; "
            f"got {tuple(plain.shape)} and {tuple(other.shape)}"
        )
    frequency, before = radial_power(plain)
    after = radial_power(other)[1]
    if not (before.min() > 0 and after.min() > 0):
        raise StatsnormError("matching a blur needs images with detail; these are constant")
    a = 4 * math.pi**2 * frequency**2
    ratio = (after / before).log()
    centred = a - a.mean()
    slope = float((centred * ratio).sum() / (centred**2).sum())
    return math.sqrt(max(0.0, -slope))


def radial_power(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return frequency (R,) in cycles a pixel and mean power of luminance (R,), float64.

    A Hann window keeps the edges of the frame out of the spectrum; rings are one frequency
    step of the shorter side wide and reach from one such step to 1/4 cycle a pixel.
    """
    y = luminance(x.double())[:, 0]
    y = y - y.mean(dim=(1, 2), keepdim=True)
    height, width = y.shape[-2:]
    rows, columns = (
        torch.hann_window(side, periodic=False, dtype=y.dtype, device=y.device)
        for side in (height, width)
    )
    power = torch.fft.fft2(y * rows[:, None] * columns).abs().square().mean(dim=0)
    down = torch.fft.fftfreq(height, dtype=y.dtype, device=y.device)
    across = torch.fft.fftfreq(width, dtype=y.dtype, device=y.device)
    short = min(height, width)
    ring = ((down[:, None] ** 2 + across**2).sqrt() * short).round().long().flatten()
    sums = torch.zeros(int(ring.max()) + 1, dtype=y.dtype, device=y.device)
    total = sums.clone().scatter_add_(0, ring, power.flatten())
    count = sums.scatter_add_(0, ring, torch.ones_like(power).flatten())
    kept = slice(1, short // 4 + 1)
    steps = torch.arange(len(total), dtype=y.dtype, device=y.device)
    return steps[kept] / short, (total / count)[kept]


def _along(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolve along the last axis; a kernel wider than the image is reflected repeatedly."""
    radius, lines = len(kernel) // 2, x.flatten(0, -2)[:, None]  # (L, 1, W)
    while radius:
        step = min(radius, lines.shape[-1] - 1)
        mode = "reflect" if step else "replicate"  # one pixel has nothing to reflect
        lines = pad(lines, (step or radius, step or radius), mode=mode)
        radius -= step or radius
    return conv1d(lines, kernel.view(1, 1, -1)).view(x.shape)
