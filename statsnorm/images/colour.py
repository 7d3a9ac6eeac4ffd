"""Luminance and colour of image batches: equalise, standardise, match, restore.

Images are (N, 3, H, W) floats, RGB, nominally in [0, 1]; nothing is clipped. Luminance is BT.601
(full range, as in JPEG). A new luminance keeps Cb and Cr, which in RGB means that the change of
Y is added to all three channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

WEIGHTS = (0.299, 0.587, 0.114)  # BT.601
RESOLUTION = 2.0**-20  # luminance closer than this is a tie: fp32 rounding must not split plateaus
# Targets of all linear treatments: the averages of the 24 embedded photographs, rounded.
MEAN, SD = 0.45, 0.22
NOISE = 1e-5  # variance of about one grey level of 255; components below are not blown up
_TOLERANCE = 1e-6  # float noise of a colour transform is not out of gamut


def luminance(x: Tensor) -> Tensor:
    """Return BT.601 luma Y' = 0.299 R + 0.587 G + 0.114 B, shape (N, 1, H, W), dtype of `x`.

    Separate products and sums in this order, so that every device rounds alike.
    """
    r, g, b = x[..., 0:1, :, :], x[..., 1:2, :, :], x[..., 2:3, :, :]
    return r * WEIGHTS[0] + g * WEIGHTS[1] + b * WEIGHTS[2]


def to_ycbcr(x: Tensor) -> Tensor:
    """Return Y'CbCr (BT.601, full range); Cb and Cr are centred at 0, in [-1/2, 1/2].

    ITU-R BT.601-7, section 2.5; the matrix of JFIF 1.02 without its offset of 128.
    """
    y = luminance(x)
    cb = (x[..., 2:3, :, :] - y) / (2 * (1 - WEIGHTS[2]))
    cr = (x[..., 0:1, :, :] - y) / (2 * (1 - WEIGHTS[0]))
    return torch.cat([y, cb, cr], dim=-3)


def from_ycbcr(ycbcr: Tensor) -> Tensor:
    """Return RGB from Y'CbCr as :func:`to_ycbcr` makes it, unclipped."""
    y, cb, cr = (ycbcr[..., i : i + 1, :, :] for i in range(3))
    r = y + 2 * (1 - WEIGHTS[0]) * cr
    b = y + 2 * (1 - WEIGHTS[2]) * cb
    g = (y - WEIGHTS[0] * r - WEIGHTS[2] * b) / WEIGHTS[1]
    return torch.cat([r, g, b], dim=-3)


def with_luminance(x: Tensor, y: Tensor) -> Tensor:
    """Return `x` with luminance `y` (N, 1, H, W) and its own Cb, Cr; float, unclipped.

    The change of luminance is formed in the dtype of `y`; the result has the dtype of `x`.
    """
    return x + (y - luminance(x.to(y.dtype))).to(x.dtype)


def out_of_gamut(x: Tensor) -> Tensor:
    """Return each image's share of pixels with a channel outside [0, 1], shape (N,), float32."""
    outside = (x < -_TOLERANCE) | (x > 1 + _TOLERANCE)
    return outside.any(dim=-3).float().mean(dim=(-2, -1))


def mid_ranks(values: Tensor) -> Tensor:
    """Return (average rank - 1/2) / P of each value within its row; ties share their average.

    Parameters
    ----------
    values : Tensor, shape (N, P)
        Integers, so that equal means equal.

    Returns
    -------
    Tensor, shape (N, P), float64
        Strictly between 0 and 1; a constant row gives 1/2.
    """
    ordered, order = values.sort(dim=1)
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]  # first of each run of ties
    count = values.shape[1]
    position = torch.arange(count, dtype=torch.int32, device=values.device).expand_as(values)
    first = torch.where(new, position, 0).cummax(dim=1).values
    last = torch.ones_like(new)
    last[:, :-1] = new[:, 1:]
    end = torch.where(last, position, count).flip(1).cummin(dim=1).values.flip(1)
    # 1-based average rank - 1/2 = (first + end + 2) / 2 - 1/2
    ranks = (first + end + 1).to(torch.float64) / (2 * count)
    return torch.empty_like(ranks).scatter_(1, order, ranks)


def luminance_keys(x: Tensor, bins: int | None = None) -> Tensor:
    """Return the luminance of each pixel as an integer, shape (N, H W), int32.

    float64, rounded to multiples of 2^-20, or to `bins` grey values over [0, 1].
    """
    scale = 1 / RESOLUTION if bins is None else bins - 1
    keys: Tensor = (luminance(x.double()) * scale).round().to(torch.int32)
    return keys.flatten(1)


def equalise_luminance(x: Tensor, *, bins: int | None = None) -> Tensor:
    """Replace luminance by its rank within the image, condition (b) of the study.

    Y' in float64, rounded to 2^-20, becomes (average rank - 1/2) / (H W); Cb and Cr are kept;
    nothing is clipped (:func:`out_of_gamut` says how much lies outside).

    Parameters
    ----------
    x : Tensor, shape (N, 3, H, W)
        Float RGB; each image is treated by itself, so the batch does not matter.
    bins : int, optional
        Round luminance to so many grey values first; 256 is the classical equalisation.

    Returns
    -------
    Tensor, shape (N, 3, H, W)
        dtype of `x`. A constant image gets luminance 1/2.
    """
    ranks = mid_ranks(luminance_keys(x, bins))
    return with_luminance(x, ranks.view(x.shape[0], 1, *x.shape[-2:]))


def equalise_channels(x: Tensor) -> Tensor:
    """Replace each RGB channel by its own rank as :func:`equalise_luminance` does luminance."""
    keys = (x.double() / RESOLUTION).round().to(torch.int32)  # (N, 3, H, W)
    return mid_ranks(keys.flatten(2).flatten(0, 1)).view(x.shape).to(x.dtype)


def match_mean_sd(x: Tensor, mean: Tensor | float, sd: Tensor | float) -> Tensor:
    """Return maps (N, C, H, W) shifted and scaled to a mean and a population sd; float64.

    A constant map stays constant, at the new mean.
    """
    wide = x.double()
    own_sd, own_mean = torch.std_mean(wide, dim=(-2, -1), correction=0, keepdim=True)
    gain = torch.where(own_sd > RESOLUTION, sd / own_sd.clamp_min(RESOLUTION), 0.0)
    return (wide - own_mean) * gain + mean


def standardise_luminance(x: Tensor, *, mean: float = MEAN, sd: float = SD) -> Tensor:
    """Give every image the same luminance mean and sd by one gain and offset of Y'."""
    return with_luminance(x, match_mean_sd(luminance(x.double()), mean, sd))


def standardise_channels(x: Tensor, *, mean: float = MEAN, sd: float = SD) -> Tensor:
    """Give every RGB channel of every image the same mean and sd: IN in pixel space."""
    return match_mean_sd(x, mean, sd).to(x.dtype)


def restore_luminance(styled: Tensor, content: Tensor) -> Tensor:
    """Put the content's own luminance mean and population sd back into its styled version.

    Cb and Cr of the styled image are kept; float, unclipped.
    """
    y = luminance(content.double())  # (N, 1, H, W)
    sd, mean = torch.std_mean(y, dim=(-2, -1), correction=0, keepdim=True)
    return with_luminance(styled, match_mean_sd(luminance(styled.double()), mean, sd))


def match_luminance(x: Tensor, content: Tensor) -> Tensor:
    """Give each image the luminance histogram of its content, by rank; Cb and Cr are kept.

    The value of mid-rank u is read off the content's sorted luminance, whose k-th of P values
    stands at (k - 1/2) / P, linearly between. With equal sizes and no ties the result holds
    exactly the content's values.
    """
    ranks = mid_ranks(luminance_keys(x))  # (N, P)
    ordered = luminance(content.double()).flatten(1).sort(dim=1).values  # (N, Q)
    place = (ranks * ordered.shape[1] - 0.5).clamp(0, ordered.shape[1] - 1)
    low, high = place.floor().long(), place.ceil().long()
    below, above = ordered.gather(1, low), ordered.gather(1, high)
    y = below + (above - below) * (place - low)
    return with_luminance(x, y.view(x.shape[0], 1, *x.shape[-2:]))


def whiten(x: Tensor, *, mean: float = MEAN, sd: float = SD) -> Tensor:
    """Decorrelate R, G and B in every image (ZCA): mean `mean`, covariance sd^2 times identity.

    Components with a variance near :data:`NOISE` or below are damped instead of blown up, so a
    greyscale image does not turn into colour noise.
    """
    centred, covariance, _ = _rgb_moments(x)
    return _recolour(centred, _power(covariance, -0.5) * sd, x) + mean


def match_rgb(x: Tensor, content: Tensor) -> Tensor:
    """Give each image the RGB mean and (population) covariance of its content.

    Whitening followed by colouring, both by symmetric roots; float, unclipped.
    """
    centred, covariance, _ = _rgb_moments(x)
    _, target, mean = _rgb_moments(content)
    matrix = _power(target, 0.5) @ _power(covariance, -0.5)
    return (_recolour(centred, matrix, x).double() + mean).to(x.dtype)


def _rgb_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return centred pixels (N, 3, P), population covariance (N, 3, 3), mean (N, 3, 1, 1)."""
    pixels = x.double().flatten(2)
    mean = pixels.mean(dim=2, keepdim=True)
    centred = pixels - mean
    return centred, centred @ centred.mT / pixels.shape[2], mean[..., None]


def _power(covariance: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    if exponent < 0:
        values = values + NOISE
    power: Tensor = vectors * values.clamp_min(0).pow(exponent)[:, None, :] @ vectors.mT
    return power


def _recolour(centred: Tensor, matrix: Tensor, like: Tensor) -> Tensor:
    return (matrix @ centred).view(like.shape).to(like.dtype)
