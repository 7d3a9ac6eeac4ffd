"""Activation -> per-image correlations between channels: the second order of its style.

Means, sds and correlations make up the Gram matrix: G / P = diag(sd) rho diag(sd) + mean mean'
(method.md 2.6), and instance normalisation leaves rho as it is. All pairs are kept up to a limit
of channels; beyond it those of a seeded draw of channels, not a random projection: a draw keeps
single entries of rho, which instance normalisation leaves alone one by one, and a block of the
Gram matrix, from which distances of the whole are estimated without bias.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from statsnorm.errors import StatsnormError
from statsnorm.moments import channels_first

CONSTANT = 1e-6
"""A channel whose sd is below this share of its largest value is constant but for rounding."""

_VALUES = 1 << 24  # so many at a time: 128 MB in float64


def drawn_channels(channels: int, most: int, *, seed: int) -> tuple[int, ...]:
    """Return the channels whose correlations are kept: all, or a draw of `most` of them.

    The draw depends on the seed and the number of channels alone, so taps of one width, and a
    tap under every treatment, keep the same channels.

    Parameters
    ----------
    channels : int
        How many there are.
    most : int
        How many to keep, at least 2.
    seed : int
        Of the draw.

    Raises
    ------
    StatsnormError
        If `most` is below 2.

    Examples
    --------
    >>> drawn_channels(3, 64, seed=0)
    (0, 1, 2)
    >>> len(drawn_channels(512, 64, seed=0))
    64
    """
    if most < 2:
        raise StatsnormError(f"correlations need at least 2 channels a tap, got {most}")
    drawn = sorted(range(channels), key=lambda c: _rank(seed, channels, c))[:most]
    return tuple(sorted(drawn))


def channel_correlations(
    x: Tensor, channels: Sequence[int], layout: str = "nchw", drop_tokens: int = 0
) -> Tensor:
    """Reduce an activation to the correlations between channels within each image.

    Computed in float64 (float32 on devices without it): half precision, tf32 and autocast do not
    reach the products, whatever the forward pass runs in.

    Parameters
    ----------
    x : Tensor
        As for :func:`statsnorm.moments.channel_moments`.
    channels : sequence of int
        Which channels, n of them.
    layout, drop_tokens
        As for :func:`statsnorm.moments.channel_moments`.

    Returns
    -------
    Tensor, shape (N, n (n - 1) / 2), float32
        Pearson correlations over pixels, the upper triangle by rows: (0, 1), (0, 2), ..., (1, 2).
        A constant channel has correlation 0 with all others.

    Examples
    --------
    >>> x = torch.tensor([[[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [5.0, 5.0, 5.0]]])
    >>> channel_correlations(x, [0, 1, 2, 3]).round(decimals=4) + 0.0
    tensor([[ 1., -1.,  0., -1.,  0.,  0.]])
    """
    x = channels_first(x.detach(), layout, drop_tokens)  # (N, C, ...)
    wide = torch.float32 if x.device.type == "mps" else torch.float64
    kept = torch.tensor(channels, device=x.device)
    upper = torch.triu_indices(len(channels), len(channels), 1, device=x.device)
    step = max(1, _VALUES // (len(channels) * x[0, 0].numel()))
    parts = []
    for start in range(0, len(x), step):
        some = x[start : start + step].index_select(1, kept)
        rho = _correlations(some.flatten(2).to(wide))
        parts.append(rho[:, upper[0], upper[1]].float())
    return torch.cat(parts)


def _correlations(x: Tensor) -> Tensor:
    """Return (N, n, n) correlations of the channels of (N, n, P)."""
    centred = x - x.mean(2, keepdim=True)
    covariance = centred @ centred.mT / x.shape[2]
    sd = covariance.diagonal(dim1=1, dim2=2).sqrt()  # (N, n)
    live = sd > CONSTANT * x.abs().amax(2)
    scale = torch.where(live, 1 / sd, torch.zeros_like(sd))
    return (covariance * scale[:, :, None] * scale[:, None, :]).clamp(-1, 1)


def _rank(seed: int, channels: int, channel: int) -> str:
    return hashlib.sha256(f"correlations:{seed}:{channels}:{channel}".encode()).hexdigest()
