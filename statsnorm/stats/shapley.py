"""Shapley values, and the split of a Gram distance into means, variances and correlations."""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial

import numpy as np
from numpy.typing import ArrayLike

from statsnorm.errors import StatsnormError
from statsnorm.stats.inputs import Array, real_array
from statsnorm.stats.result import Shown
from statsnorm.stats.samples import finite_array, positive


@dataclass(frozen=True, slots=True)
class ChannelStatistics(Shown):
    """Result of :func:`channel_statistics`: what a Gram matrix is made of."""

    mean: Array  # (..., C)
    sd: Array  # (..., C), population (divide by P)
    correlation: Array  # (..., C, C), identity rows for constant channels


@dataclass(frozen=True, slots=True)
class GramSplit(Shown):
    """Result of :func:`gram_split`; leading shape of the input, parts sum to `total`."""

    total: Array  # squared Frobenius distance of the Gram matrices
    means: Array
    variances: Array
    correlations: Array  # a part may be negative: the parts interact


def shapley_values(values: ArrayLike) -> Array:
    """Return each player's mean marginal contribution over all orders of joining.

    Parameters
    ----------
    values : array_like, shape (2^P, ...)
        Worth of every coalition; player p belongs to coalition k where bit p of k is set.

    Returns
    -------
    ndarray, shape (P, ...)
        They sum to values[-1] - values[0].

    Raises
    ------
    StatsnormError
        If the number of coalitions is not a power of 2 of at least 2.

    References
    ----------
    .. [1] L. S. Shapley, Contributions to the Theory of Games II (1953), 307-317, eq. 12.

    Examples
    --------
    >>> shapley_values([0.0, 1.0, 2.0, 5.0])
    array([2., 3.])
    """
    worth = real_array(values, "values").astype(np.float64)
    players = (len(worth) - 1).bit_length() if worth.ndim else 0
    if players < 1 or len(worth) != 1 << players:
        raise StatsnormError(
            f"values must hold 2^P coalitions, P >= 1, along the first axis; got {worth.shape}"
        )
    coalitions = np.arange(len(worth))
    sizes = np.bitwise_count(coalitions)
    shares = []
    for player in range(players):
        without = coalitions[(coalitions >> player) & 1 == 0]
        weights = np.array(
            [factorial(s) * factorial(players - s - 1) for s in sizes[without].tolist()]
        ) / factorial(players)
        gains = worth[without | (1 << player)] - worth[without]
        shares.append(np.tensordot(weights, gains, axes=1))
    return np.stack(shares)


def channel_statistics(activation: ArrayLike) -> ChannelStatistics:
    """Return means, sds and channel correlations of activations over space.

    Gram / P = diag(sd) correlation diag(sd) + mean mean' exactly.

    Parameters
    ----------
    activation : array_like, shape (..., C, P)
        Channels by pixels.

    Raises
    ------
    StatsnormError
        If there are fewer than two axes or two pixels, or a value is not finite.
    """
    x = real_array(activation, "activation").astype(np.float64)
    if x.ndim < 2 or x.shape[-1] < 2:
        raise StatsnormError(f"activation must be (..., C, P) with P >= 2, got shape {x.shape}")
    finite_array("activation", x.reshape(-1), ndim=1)
    mean = x.mean(axis=-1)
    centred = x - mean[..., None]
    covariance = centred @ np.swapaxes(centred, -1, -2) / x.shape[-1]
    variance = np.diagonal(covariance, axis1=-2, axis2=-1)
    live = variance > (1e-12 * np.abs(x).max(axis=-1)) ** 2
    sd = np.where(live, np.sqrt(variance), 0.0)
    scale = np.divide(1.0, sd, where=live, out=np.zeros_like(sd))
    correlation = covariance * scale[..., :, None] * scale[..., None, :]
    diagonal = np.arange(x.shape[-2])
    correlation[..., diagonal, diagonal] = 1.0
    return ChannelStatistics(mean, sd, correlation)


def gram(statistics: ChannelStatistics) -> Array:
    """Return the Gram matrix over P, (..., C, C), from its means, sds and correlations."""
    mean, sd = statistics.mean, statistics.sd
    product: Array = (
        sd[..., :, None] * statistics.correlation * sd[..., None, :]
        + mean[..., :, None] * mean[..., None, :]
    )
    return product


def gram_split(x: ChannelStatistics, y: ChannelStatistics, *, diagonal: float = 1.0) -> GramSplit:
    """Split the squared distance of two Gram matrices into means, variances, correlations.

    D = |G_x - G_y|_F^2 with G = diag(sd) correlation diag(sd) + mean mean'. The worth of a set
    of components is the squared distance from G_x after taking that set from y; parts are the
    Shapley values (mean over the 6 orders of swapping), averaged over the two directions so
    that swapping x and y changes nothing. They sum to D exactly; one may be negative.

    Parameters
    ----------
    x, y : ChannelStatistics
        Shapes (..., C) and (..., C, C), equal in both: two styles of one content at one tap.
    diagonal : float
        Weight of the diagonal entries of the Gram matrices. With a random draw of n of C channels
        (n - 1) / (C - 1) makes total and parts estimate those of all channels without bias, but
        for the common factor C (C - 1) / (n (n - 1)): an entry off the diagonal needs both of its
        channels drawn.

    Raises
    ------
    StatsnormError
        If the shapes differ.
    """
    for name in ("mean", "sd", "correlation"):
        one, other = getattr(x, name).shape, getattr(y, name).shape
        if one != other:
            raise StatsnormError(f"{name} must have equal shapes, got {one} and {other}")
    positive("diagonal", diagonal)
    worth = (swap_worth(x, y, diagonal=diagonal), swap_worth(y, x, diagonal=diagonal))
    parts = 0.5 * (shapley_values(worth[0]) + shapley_values(worth[1]))
    total = _squared(gram(x) - gram(y), diagonal)
    return GramSplit(total, parts[0], parts[1], parts[2])


def swap_worth(x: ChannelStatistics, y: ChannelStatistics, *, diagonal: float = 1.0) -> Array:
    """Return the squared distances (8, ...) from G_x after swapping each set of components."""
    start = gram(x)
    worth = []
    for k in range(8):
        mixed = ChannelStatistics(
            (y if k & 1 else x).mean, (y if k & 2 else x).sd, (y if k & 4 else x).correlation
        )
        worth.append(_squared(gram(mixed) - start, diagonal))
    return np.stack(worth)


def _squared(difference: Array, diagonal: float) -> Array:
    """Return squared Frobenius norms of (..., C, C) with the diagonal weighted."""
    on = np.diagonal(difference, axis1=-2, axis2=-1)
    total: Array = (difference**2).sum(axis=(-2, -1)) + (diagonal - 1) * (on**2).sum(axis=-1)
    return total
