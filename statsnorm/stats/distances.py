"""Distances between two groups of images: feature divergence, Frechet, MMD, energy.

All are averages over rows, so the image is the unit; none is a test (see `permanova`).
Frechet, MMD and energy depend on the scale: standardise both groups by one reference first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist

from statsnorm.errors import StatsnormError
from statsnorm.stats.gaussian import FrechetResult, frechet_parts
from statsnorm.stats.inputs import Array, check_choice, is_constant
from statsnorm.stats.result import Shown
from statsnorm.stats.samples import level_codes, positive, sample, two_samples

BLOCK = 1 << 21  # distances held at a time: 16 MiB of float64


@dataclass(frozen=True, slots=True)
class FeatureDivergence(Shown):
    """Result of :func:`feature_divergence`; nats, averaged over live channels."""

    estimate: float  # plug-in, as IBN-Net
    unbiased: float  # nan with fewer than 4 images in a group
    dropped: int  # channels constant in either group
    per_channel: Array  # (C,) plug-in, nan where dropped
    per_channel_unbiased: Array  # (C,)


@dataclass(frozen=True, slots=True)
class MMDResult(Shown):
    """Result of :func:`mmd`; squared maximum mean discrepancy."""

    unbiased: float  # U-statistic: 0 on average for equal groups, so it may be negative
    biased: float  # V-statistic, never negative
    bandwidth: float


@dataclass(frozen=True, slots=True)
class EnergyResult(Shown):
    """Result of :func:`energy_distance`."""

    statistic: float  # E, V-statistic, never negative, in the units of the input
    normalised: float  # H = E / (2 mean |x - y|), in [0, 1], free of scale
    unbiased: float  # E without the zero self-distances: 0 on average for equal groups


def feature_divergence(x: ArrayLike, y: ArrayLike) -> FeatureDivergence:
    """Return the IBN-Net feature divergence, the mean over channels of KL(x|y) + KL(y|x).

    Each channel is taken as normal over images with its sample mean and variance (ddof 1).
    The plug-in is positive even for equal groups, on average
    [(n-1)/(n-3) + (m-1)/(m-3)] (1 + 1/n + 1/m) / 2 - 1; `unbiased` is exactly
    unbiased for normal channels, so it may be negative.

    Parameters
    ----------
    x, y : array_like, shape (n, C) and (m, C)
        One row per independent image: its per-channel activation mean (or log sd).

    Raises
    ------
    StatsnormError
        If the shapes do not match, a value is not finite or a group has one image.

    References
    ----------
    .. [1] X. Pan et al., IBN-Net, ECCV 2018, section 3.3.
    """
    a, b = two_samples(x, y)
    n, m = len(a), len(b)
    va, vb = a.var(axis=0, ddof=1), b.var(axis=0, ddof=1)  # (C,)
    dead = is_constant(a) | is_constant(b)
    va[dead], vb[dead] = np.nan, np.nan
    gap = (a.mean(axis=0) - b.mean(axis=0)) ** 2
    plug_in = (va + gap) / (2 * vb) + (vb + gap) / (2 * va) - 1
    unbiased = np.full_like(plug_in, np.nan)
    if min(n, m) > 3:
        # 1/s^2 overestimates 1/sigma^2 by (n-1)/(n-3), gap by sigma_x^2/n + sigma_y^2/m
        inverse_a, inverse_b = (n - 3) / (n - 1) / va, (m - 3) / (m - 1) / vb
        unbiased = (va * (1 - 1 / n) + gap) * inverse_b / 2 - 1 / (2 * m)
        unbiased += (vb * (1 - 1 / m) + gap) * inverse_a / 2 - 1 / (2 * n) - 1
    live = ~dead
    mean, mean_unbiased = (
        float(v[live].mean()) if live.any() else np.nan for v in (plug_in, unbiased)
    )
    return FeatureDivergence(mean, mean_unbiased, int(dead.sum()), plug_in, unbiased)


def standardise(x: ArrayLike, *, reference: ArrayLike) -> Array:
    """Return x (n, d) in units of the reference's mean and sd (ddof 1), without dead columns.

    Use one reference (the BEFORE condition) for all groups that will be compared.
    """
    a, r = sample("x", x, least=1), sample("reference", reference)
    if a.shape[1] != r.shape[1]:
        raise StatsnormError(
            f"x and reference must have equal columns, got {a.shape[1]} and {r.shape[1]}"
        )
    live = ~is_constant(r)
    if not live.any():
        raise StatsnormError(f"all {len(live)} columns of the reference are constant")
    standard: Array = (a[:, live] - r[:, live].mean(axis=0)) / r[:, live].std(axis=0, ddof=1)
    return standard


def frechet(
    x: ArrayLike, y: ArrayLike, *, covariance: Literal["full", "diagonal"] = "full"
) -> FrechetResult:
    """Return the squared Frechet distance between normal laws fitted to two groups.

    Sample means and covariances (ddof 1). The cross term is the nuclear norm of
    X Y^T / sqrt((n-1)(m-1)) for centred X, Y, which is exact for singular covariances too
    (fewer images than columns), where a matrix square root fails. The estimate is biased
    upwards in small groups: compare groups of equal size only.

    Parameters
    ----------
    x, y : array_like, shape (n, d) and (m, d)
        One row per independent image.
    covariance : {"full", "diagonal"}
        "diagonal" is sum (m_x - m_y)^2 + (s_x - s_y)^2 over columns.

    Raises
    ------
    StatsnormError
        If the shapes do not match, a value is not finite or a group has one image.

    References
    ----------
    .. [1] D. C. Dowson and B. V. Landau, J. Multivar. Anal. 12 (1982), 450-455.
    """
    check_choice(covariance, ("full", "diagonal"), "covariance")
    a, b = two_samples(x, y)
    gap = a.mean(axis=0) - b.mean(axis=0)
    if covariance == "diagonal":
        spread = a.std(axis=0, ddof=1) - b.std(axis=0, ddof=1)
        return frechet_parts(gap, float(spread @ spread), covariance)
    root_a, root_b = (
        np.linalg.qr(z - z.mean(axis=0), mode="r") / np.sqrt(len(z) - 1) for z in (a, b)
    )  # root.T @ root = covariance; at most (d, d)
    overlap = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    total = a.var(axis=0, ddof=1).sum() + b.var(axis=0, ddof=1).sum() - 2 * overlap
    return frechet_parts(gap, total, covariance)


def distance_blocks(
    x: Array, y: Array, metric: Literal["euclidean", "sqeuclidean"] = "euclidean"
) -> Iterator[tuple[int, Array]]:
    """Yield (first row, distances (rows, m)) of x against y, a bounded block at a time."""
    rows = max(1, BLOCK // len(y))
    for first in range(0, len(x), rows):
        yield first, cdist(x[first : first + rows], y, metric)


def kernel_sum(x: Array, y: Array, bandwidth: float) -> float:
    """Return the sum over all pairs of exp(-|x - y|^2 / (2 bandwidth^2))."""
    scale = -1 / (2 * bandwidth**2)
    return float(sum(np.exp(d * scale).sum() for _, d in distance_blocks(x, y, "sqeuclidean")))


def mmd(x: ArrayLike, y: ArrayLike, *, bandwidth: float) -> MMDResult:
    """Return the squared maximum mean discrepancy with a Gaussian kernel.

    k(a, b) = exp(-|a - b|^2 / (2 bandwidth^2)). Memory is bounded: distances are made and
    summed in blocks.

    Parameters
    ----------
    x, y : array_like, shape (n, d) and (m, d)
        One row per independent image.
    bandwidth : float
        In the units of the input; see :func:`median_bandwidth`. Required: one bandwidth,
        from the BEFORE condition, for every comparison.

    Raises
    ------
    StatsnormError
        If the shapes do not match, a group has one image or the bandwidth is not positive.

    References
    ----------
    .. [1] A. Gretton et al., J. Mach. Learn. Res. 13 (2012), 723-773, eqs. 3 and 5.
    """
    a, b = two_samples(x, y)
    width = positive("bandwidth", bandwidth)
    n, m = len(a), len(b)
    aa, bb, ab = kernel_sum(a, a, width), kernel_sum(b, b, width), kernel_sum(a, b, width)
    cross = 2 * ab / (n * m)
    unbiased = (aa - n) / (n * (n - 1)) + (bb - m) / (m * (m - 1)) - cross
    biased = max(aa / n**2 + bb / m**2 - cross, 0.0)  # rounding only
    return MMDResult(unbiased, biased, width)


def median_bandwidth(x: ArrayLike) -> float:
    """Return the exact median distance between two different rows of x (n, d).

    Two passes over blocks of distances (a histogram, then the values of the middle bins), so
    the n(n-1)/2 distances are never held at once.

    Raises
    ------
    StatsnormError
        If there are fewer than two rows, or more than half of all pairs coincide.
    """
    a = sample("x", x)
    pairs = len(a) * (len(a) - 1) // 2
    ranks = np.array([(pairs - 1) // 2, pairs // 2])  # equal when pairs is odd
    edges = np.linspace(0, max(d.max() for d in upper_distances(a)), 4097)
    counts = sum(np.histogram(d, edges)[0] for d in upper_distances(a))
    ends = np.cumsum(counts)
    first, last = np.searchsorted(ends, ranks, side="right")
    low, high = edges[first], edges[last + 1]
    kept = np.sort(
        np.concatenate([d[(d >= low) & (d <= high)] for d in upper_distances(a)]), kind="stable"
    )
    below = sum(int((d < low).sum()) for d in upper_distances(a))
    median = float(kept[ranks - below].mean())
    if not median > 0:
        raise StatsnormError("the median distance is 0: at least half of all pairs of rows agree")
    return median


def upper_distances(x: Array) -> Iterator[Array]:
    """Yield the distances between different rows of x, each pair once, in blocks."""
    for first, block in distance_blocks(x, x):
        rows = np.arange(first, first + len(block))[:, None]
        if (kept := block[np.arange(len(x)) > rows]).size:
            yield kept


def mean_distance(x: Array, y: Array) -> float:
    """Return the mean of |x - y| over all pairs of rows of x (n, d) and y (m, d).

    For d = 1 it is the integral of F (1 - G) + G (1 - F) over the line, F and G the shares of
    x and of y at or below a point.
    """
    if x.shape[1] > 1:
        return sum(float(d.sum()) for _, d in distance_blocks(x, y)) / (len(x) * len(y))
    a, b = np.sort(x[:, 0]), np.sort(y[:, 0])
    points = np.sort(np.concatenate([a, b]), kind="stable")
    f, g = (np.searchsorted(z, points[:-1], side="right") / len(z) for z in (a, b))
    return float(np.diff(points) @ (f * (1 - g) + g * (1 - f)))


def energy_distance(x: ArrayLike, y: ArrayLike) -> EnergyResult:
    """Return the energy distance E = 2 mean|x-y| - mean|x-x'| - mean|y-y'| and its H.

    In one dimension E is the square of scipy's `energy_distance`. H = E / (2 mean|x-y|) is
    0 for equal and 1 for two distinct constant groups. Distances are summed in blocks; in one
    dimension they come from sorted values, n log n instead of n^2.

    Parameters
    ----------
    x, y : array_like, shape (n, d) and (m, d)
        One row per independent image.

    Returns
    -------
    EnergyResult
        `.normalised` is nan when all rows of both groups coincide.

    Raises
    ------
    StatsnormError
        If the shapes do not match, a value is not finite or a group has one image.

    References
    ----------
    .. [1] G. J. Szekely and M. L. Rizzo, J. Stat. Plan. Inference 143 (2013), 1249-1272.
    """
    a, b = two_samples(x, y)
    n, m = len(a), len(b)
    cross, within_a, within_b = mean_distance(a, b), mean_distance(a, a), mean_distance(b, b)
    statistic = max(2 * cross - within_a - within_b, 0.0)  # rounding only
    unbiased = 2 * cross - within_a * n / (n - 1) - within_b * m / (m - 1)
    normalised = statistic / (2 * cross) if cross > 0 else np.nan
    return EnergyResult(statistic, normalised, unbiased)


def group_distances(
    x: ArrayLike, labels: ArrayLike, *, distance: Callable[[Array, Array], float]
) -> tuple[list[Any], Array]:
    """Return the sorted levels and the matrix (J, J) of a distance between all groups.

    The mean over pairs of styles (method: average over pairs) is that of the upper triangle.

    Parameters
    ----------
    x : array_like, shape (n, d)
    labels : array_like, shape (n,)
        The group (style) of each row; at least two groups.
    distance : callable
        Two samples to a number, e.g. ``lambda a, b: energy_distance(a, b).normalised``.

    Raises
    ------
    StatsnormError
        If there are fewer than two groups or a group has one row.
    """
    a = sample("x", x)
    codes, levels = level_codes("labels", labels, n=len(a), least=2)
    groups = [a[codes == j] for j in range(len(levels))]
    matrix = np.zeros((len(levels), len(levels)))
    for i, j in combinations(range(len(levels)), 2):
        matrix[i, j] = matrix[j, i] = distance(groups[i], groups[j])
    return levels, matrix
