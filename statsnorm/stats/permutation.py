"""Randomisation tests: sign flips of paired differences, labels within blocks, maxT, bands.

p-values are exact over all sign vectors where these can be listed, otherwise
(b + 1)/(B + 1) of a Monte-Carlo sample; never zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from statsnorm.errors import StatsnormError
from statsnorm.stats.inputs import (
    Array,
    block_array,
    check_choice,
    check_confidence,
    design_array,
)
from statsnorm.stats.result import Shown
from statsnorm.stats.samples import generator, level_codes, whole

EXACT = 16  # units: at most 2^16 sign vectors are listed
TIE = 1e-12  # sums this close, relative to sum |d|, are equal: rounding must not break ties
LARGEST_T = 1e6  # differences of one size have a t that is rounding alone; beyond this all tie
CHUNK = 1 << 21  # numbers in one batch of flipped sums

Alternative = Literal["two-sided", "greater", "less"]


@dataclass(frozen=True, slots=True)
class SignFlip(Shown):
    """Result of :func:`sign_flip_test`; numbers for d (n,), arrays (C,) for d (n, C)."""

    statistic: Array  # mean difference
    pvalue: Array
    exact: bool
    n: int  # units that are flipped: pairs, or clusters
    flips: int  # sign vectors looked at
    min_pvalue: float  # smallest attainable; above alpha the claim is not testable
    alternative: str


@dataclass(frozen=True, slots=True)
class BlockPermutation(Shown):
    """Result of :func:`block_permutation_test`."""

    statistic: float  # between-style sum of squares over the total within blocks, R^2
    pvalue: float
    expected: float  # mean of the statistic under permutation: (S - 1) / (I K (S - 1))
    permutations: int
    n_blocks: int
    n_nan: int  # channels left out


@dataclass(frozen=True, slots=True)
class MaxT(Shown):
    """Result of :func:`step_down_maxt`; arrays (m,)."""

    statistic: Array  # t
    pvalue: Array  # unadjusted
    p_adjusted: Array  # step-down maxT
    exact: bool
    flips: int


@dataclass(frozen=True, slots=True)
class Band(Shown):
    """Result of :func:`simultaneous_band`; arrays (T,)."""

    estimate: Array  # mean curve
    low: Array
    high: Array
    critical: float  # of max |t|
    exact: bool  # all sign vectors listed
    n: int
    confidence: float


def sign_flip_test(
    d: ArrayLike,
    *,
    rng: np.random.Generator | None = None,
    flips: int = 100_000,
    alternative: Alternative = "two-sided",
    clusters: ArrayLike | None = None,
) -> SignFlip:
    """Test that paired differences are symmetric about zero, by flipping their signs.

    Null: every unit's difference is symmetric about zero. The statistic is the mean. All
    2^n sign vectors are used when n <= 16, otherwise `flips` random ones with
    p = (b + 1)/(B + 1). The smallest two-sided exact p is 2/2^n.

    Parameters
    ----------
    d : array_like, shape (n,) or (n, C)
        One row per independent unit (block); the same flips serve all channels.
    rng : numpy.random.Generator, optional
        Required when n > 16.
    flips : int
        Monte-Carlo sign vectors B when n > 16.
    alternative : {"two-sided", "greater", "less"}
        Of the mean. Confirmatory claims are two-sided.
    clusters : array_like, shape (n,), optional
        Flip whole clusters (e.g. target styles): they are then the units.

    Returns
    -------
    SignFlip
        A channel with a nan or an infinity has p = nan; a channel of zeros p = 1.

    Raises
    ------
    StatsnormError
        If there are fewer than two units, or more than 16 and no `rng`.

    Examples
    --------
    Darwin's maize, Fisher's example: 1726 of 32768.

    >>> maize = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    >>> print(sign_flip_test(maize).pvalue * 2**15)
    1726.0
    """
    check_choice(alternative, ("two-sided", "greater", "less"), "alternative")
    rows = block_array(d)
    columns = rows.reshape(len(rows), -1)
    sums = _cluster_sums(columns, clusters)
    n = len(sums)
    observed, slack = sums.sum(axis=0), TIE * np.abs(sums).sum(axis=0)
    exact = n <= EXACT
    hits, total = np.zeros(columns.shape[1]), 0
    for signs in _sign_vectors(n, rng, flips, columns.shape[1]):
        total += len(signs)
        with np.errstate(invalid="ignore"):  # an infinite channel: nan below
            flipped = signs @ sums
            if alternative == "two-sided":
                hits += (np.abs(flipped) >= np.abs(observed) - slack).sum(axis=0)
            else:
                way = 1 if alternative == "greater" else -1
                hits += (way * flipped >= way * observed - slack).sum(axis=0)
    pvalue = hits / total if exact else (hits + 1) / (total + 1)
    pvalue = np.where(np.isfinite(slack), pvalue, np.nan)
    least = (2 if alternative == "two-sided" else 1) / 2**n
    return SignFlip(
        statistic=rows.mean(axis=0)[()],
        pvalue=pvalue.reshape(rows.shape[1:])[()],
        exact=exact,
        n=n,
        flips=total,
        min_pvalue=least if exact else max(least, 1 / (total + 1)),
        alternative=alternative,
    )


def block_permutation_test(
    y: ArrayLike, *, rng: np.random.Generator, permutations: int = 9999
) -> BlockPermutation:
    """Test for any style effect, permuting style labels within content x contrast blocks.

    Null: within a content and contrast level the styles are exchangeable, i.e. style has
    no effect. It is false almost everywhere with many images: a gate, not an effect size
    (method 3.2 ii). The statistic is the between-style sum of squares of all channels as
    a share of the sum of squares within blocks.

    Parameters
    ----------
    y : array_like, shape (I, S, K, C)
        Balanced; channels with nan are left out.
    rng : numpy.random.Generator
        For the permutations.
    permutations : int
        B; p = (b + 1)/(B + 1).

    Raises
    ------
    StatsnormError
        If the shape is wrong, or nothing varies within the blocks.
    """
    generator(rng)
    whole("permutations", permutations, least=1)
    array = design_array(y)
    n_images, n_styles, n_levels, _ = array.shape
    live = ~np.isnan(array).any(axis=(0, 1, 2))
    blocks = array[..., live].astype(np.float64).swapaxes(1, 2)
    blocks = blocks.reshape(n_images * n_levels, n_styles, -1)  # (B, S, C)
    blocks = blocks - blocks.mean(axis=1, keepdims=True)
    total = float(np.square(blocks).sum())
    if not total > 0:
        raise StatsnormError(
            f"nothing varies between styles within the {len(blocks)} blocks; there is no test"
        )
    n_blocks = len(blocks)

    def share(sums: Array) -> float:
        return float(np.square(sums).sum()) / n_blocks / total

    observed, hits = share(blocks.sum(axis=0)), 0
    rows = np.arange(n_blocks)[:, None]
    for _ in range(permutations):
        order = rng.permuted(np.tile(np.arange(n_styles), (n_blocks, 1)), axis=1)
        hits += share(blocks[rows, order].sum(axis=0)) >= observed * (1 - TIE)
    return BlockPermutation(
        statistic=observed,
        pvalue=(hits + 1) / (permutations + 1),
        expected=1 / n_blocks,
        permutations=permutations,
        n_blocks=n_blocks,
        n_nan=int((~live).sum()),
    )


def step_down_maxt(
    d: ArrayLike, *, rng: np.random.Generator | None = None, flips: int = 100_000
) -> MaxT:
    """Adjust the p-values of m dependent hypotheses by step-down maxT over sign flips.

    Nulls: each column is symmetric about zero, jointly. Controls the family-wise error
    under any dependence, and gains from it [1]_. The statistic is |t|.

    Parameters
    ----------
    d : array_like, shape (n, m)
        One row per independent unit, one column per hypothesis.
    rng, flips
        As for :func:`sign_flip_test`.

    Returns
    -------
    MaxT
        A column that is nan or all zero has nan and takes no part.

    Raises
    ------
    StatsnormError
        If `d` is not (n, m), or n > 16 and no `rng`.

    References
    ----------
    .. [1] P. H. Westfall and S. S. Young, Resampling-Based Multiple Testing, Wiley 1993,
       algorithm 2.8.
    """
    rows = _matrix(d)
    observed = _t(rows.sum(axis=0), np.square(rows).sum(axis=0), len(rows))
    size = np.abs(observed)
    use = np.flatnonzero(~np.isnan(size))
    order = use[np.argsort(-size[use], kind="stable")]
    single, joint, total = np.zeros(len(order)), np.zeros(len(order)), 0
    exact = len(rows) <= EXACT
    squares, ordered = np.square(rows[:, order]).sum(axis=0), rows[:, order]
    for signs in _sign_vectors(len(rows), rng, flips, max(1, len(order))):
        t = np.abs(_t(signs @ ordered, squares, len(rows)))  # (flips, m)
        bar = np.minimum(size[order], LARGEST_T) * (1 - 1e-9)
        single += (t >= bar).sum(axis=0)
        tail = np.maximum.accumulate(t[:, ::-1], axis=1)[:, ::-1]  # over this and weaker ones
        joint += (tail >= bar).sum(axis=0)
        total += len(signs)
    extra = 0 if exact else 1
    pvalue, adjusted = np.full(len(size), np.nan), np.full(len(size), np.nan)
    pvalue[order] = (single + extra) / (total + extra)
    adjusted[order] = np.maximum.accumulate((joint + extra) / (total + extra))
    return MaxT(observed, pvalue, adjusted, exact, total)


def simultaneous_band(
    d: ArrayLike,
    *,
    confidence: float = 0.95,
    rng: np.random.Generator | None = None,
    flips: int = 20_000,
) -> Band:
    """Return a band for the mean curve that holds at all points together.

    mean +- c se, with c the quantile of max |t| over the grid under sign flips of whole
    blocks of RESIDUALS (d minus the mean curve). Flipping d itself would test the null of
    no difference exactly, but as a band around a large difference it covers too little
    (82 % for 95 % at n = 10 in simulation; residuals 93-97 %); for the exact test see
    :func:`step_down_maxt`.

    Parameters
    ----------
    d : array_like, shape (n, T)
        One row per block: a curve of paired differences on one grid.
    confidence : float
        Joint level.
    rng, flips
        As for :func:`sign_flip_test`.

    Returns
    -------
    Band
        nan at points that are nan or the same in all blocks. (-inf, inf) where n is too
        small for the level: 2/2^n > 1 - confidence.

    Raises
    ------
    StatsnormError
        If `d` is not (n, T), or n > 16 and no `rng`.
    """
    check_confidence(confidence)
    rows = _matrix(d)
    n = len(rows)
    mean, se = rows.mean(axis=0), rows.std(axis=0, ddof=1) / np.sqrt(n)
    use = np.isfinite(se) & (se > TIE * np.abs(rows).max(axis=0))
    residuals = (rows - mean)[:, use]
    squares = np.square(residuals).sum(axis=0)
    maxima = [
        np.abs(_t(signs @ residuals, squares, n)).max(axis=1, initial=0.0)
        for signs in _sign_vectors(n, rng, flips, max(1, residuals.shape[1]))
    ]
    null = np.concatenate(maxima)
    testable = 2 / 2**n <= 1 - confidence
    critical = float(np.quantile(null, confidence, method="higher")) if testable else np.inf
    half = np.where(use, critical * np.where(use, se, 1.0), np.nan)
    return Band(mean, mean - half, mean + half, critical, n <= EXACT, n, confidence)


def _matrix(d: ArrayLike) -> Array:
    rows = block_array(d)
    if rows.ndim != 2:
        raise StatsnormError(f"d must have shape (n, m), got {rows.shape}")
    return rows


def _t(sums: Array, squares: Array, n: int) -> Array:
    """Return t of flipped columns: sum d^2 does not change under sign flips."""
    mean = sums / n
    variance = np.maximum(squares / n - mean**2, 0.0) / (n - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(mean / np.sqrt(variance))


def _cluster_sums(columns: Array, clusters: ArrayLike | None) -> Array:
    if clusters is None:
        return columns
    codes, levels = level_codes("clusters", clusters, n=len(columns), least=2)
    sums = np.zeros((len(levels), columns.shape[1]))
    np.add.at(sums, codes, columns)
    return sums


def _sign_vectors(
    n: int, rng: np.random.Generator | None, flips: int, width: int
) -> Iterator[Array]:
    """Yield sign vectors (batch, n): all 2^n when n <= 16, otherwise random ones."""
    batch = max(1, CHUNK // max(width, n))
    if n <= EXACT:
        for first in range(0, 2**n, batch):
            codes = np.arange(first, min(first + batch, 2**n))
            yield np.asarray(1.0 - 2.0 * ((codes[:, None] >> np.arange(n)) & 1))
        return
    if rng is None:
        raise StatsnormError(
            f"{n} units have 2^{n} sign vectors; above {EXACT} units give "
            "rng=np.random.default_rng(seed) for a Monte-Carlo test"
        )
    generator(rng)
    whole("flips", flips, least=99)
    for first in range(0, flips, batch):
        yield np.asarray(1.0 - 2.0 * rng.integers(0, 2, size=(min(batch, flips - first), n)))
