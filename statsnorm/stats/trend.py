"""Page's test for a trend that was predicted before the data, block by block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from statsnorm.errors import StatsnormError
from statsnorm.stats.inputs import Array, real_array
from statsnorm.stats.result import Shown
from statsnorm.stats.samples import finite_array, generator, whole


@dataclass(frozen=True, slots=True)
class PageTrendResult(Shown):
    """Result of :func:`page_trend`."""

    statistic: float  # Page's L
    pvalue: float  # one-sided: increasing in the predicted order
    estimate: float  # mean over blocks of Spearman's correlation with the predicted order
    method: str  # exact, asymptotic, or permutation (with ties)
    n_blocks: int
    n_levels: int


def page_trend(
    y: ArrayLike,
    *,
    predicted: ArrayLike | None = None,
    permutations: int = 9999,
    rng: np.random.Generator | None = None,
) -> PageTrendResult:
    """Test a predicted increasing order of levels within blocks.

    Null: within a block every order of the levels is equally likely. One-sided. Without ties
    scipy's `page_trend_test` (exact in small tables); its null law knows no ties, so with ties
    orders are permuted within blocks, p = (b + 1) / (B + 1). A block that is tied throughout
    says nothing, and counts as such (rank correlation 0).

    Parameters
    ----------
    y : array_like, shape (blocks, levels)
        One independent block (target style x seed) a row, one dose a column.
    predicted : array_like, shape (levels,), optional
        Predicted rank of each column; default 1, 2, 3, ...
    permutations : int
    rng : numpy.random.Generator, optional
        Required where y has ties.

    Raises
    ------
    StatsnormError
        If there are fewer than 2 blocks or 3 levels, the predicted ranks are no permutation
        of 1..levels, a value is not finite, or ties need a generator.

    References
    ----------
    .. [1] E. B. Page, J. Am. Stat. Assoc. 58 (1963), 216-230.
    """
    table = finite_array("y", y, ndim=2)
    blocks, levels = table.shape
    if blocks < 2 or levels < 3:
        raise StatsnormError(
            f"Page's test needs at least 2 blocks and 3 levels, got shape {table.shape}"
        )
    order = np.arange(1, levels + 1) if predicted is None else real_array(predicted, "predicted")
    if order.shape != (levels,) or sorted(order.tolist()) != list(range(1, levels + 1)):
        raise StatsnormError(
            f"predicted must hold each rank 1..{levels} once, got {order.tolist()!r}"
        )
    ranks = stats.rankdata(table, axis=1)
    estimate = mean_spearman(ranks, order)
    if any(len(np.unique(row)) < levels for row in ranks):
        statistic = float((ranks @ order).sum())
        whole("permutations", permutations, least=1)
        pvalue, method = permuted_page(ranks, order, permutations, generator(rng)), "permutation"
    else:
        result = stats.page_trend_test(table, predicted_ranks=order.astype(int))
        statistic, pvalue = float(result.statistic), float(result.pvalue)
        method = str(result.method)
    return PageTrendResult(statistic, pvalue, estimate, method, blocks, levels)


def mean_spearman(ranks: Array, order: Array) -> float:
    """Return the mean over blocks of the rank correlation with the order; tied blocks give 0."""
    centred, target = ranks - ranks.mean(axis=1, keepdims=True), order - order.mean()
    spread = np.sqrt((centred**2).sum(axis=1) * (target**2).sum())
    return float(np.divide(centred @ target, spread, where=spread > 0, out=spread * 0).mean())


def permuted_page(ranks: Array, order: Array, permutations: int, rng: np.random.Generator) -> float:
    """Return the permutation p-value of Page's L with average ranks."""
    observed = (ranks @ order).sum()
    hits = 0
    for _ in range(permutations):
        hits += int((rng.permuted(ranks, axis=1) @ order).sum() >= observed - 1e-9)
    return (hits + 1) / (permutations + 1)
