"""Fisher ratio: how far group means lie apart, in units of the spread within groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from statsnorm.errors import StatsnormError
from statsnorm.stats.inputs import Array
from statsnorm.stats.result import Shown
from statsnorm.stats.samples import level_codes, sample


@dataclass(frozen=True, slots=True)
class ShrunkCovariance(Shown):
    """Result of :func:`ledoit_wolf`."""

    covariance: Array  # (d, d), population divisor n
    shrinkage: float  # weight in [0, 1] of the scaled identity


@dataclass(frozen=True, slots=True)
class FisherResult(Shown):
    """Result of :func:`fisher_ratio`."""

    statistic: float  # J = tr(S_W^-1 S_B)
    corrected: float  # J with the noise of the group means taken off; may be negative
    shrinkage: float  # of S_W
    n: int
    n_groups: int


def ledoit_wolf(x: ArrayLike) -> ShrunkCovariance:
    """Return the Ledoit-Wolf covariance of rows that are already centred.

    (1 - a) S + a tr(S)/d I with S = X'X / n and the a that minimises the expected squared
    Frobenius error; well conditioned with fewer rows than columns.

    Parameters
    ----------
    x : array_like, shape (n, d)
        Residuals: each row minus the mean of its group.

    Raises
    ------
    StatsnormError
        If all rows are 0, there are fewer than two, or a value is not finite.

    References
    ----------
    .. [1] O. Ledoit and M. Wolf, J. Multivar. Anal. 88 (2004), 365-411, lemmas 3.2-3.4.
    """
    a = sample("x", x)
    n, d = a.shape
    covariance = a.T @ a / n
    scale = np.trace(covariance) / d
    if not scale > 0:
        raise StatsnormError("the rows do not vary within groups: S_W is 0")
    squares = a**2
    distance = (covariance**2).sum() - d * scale**2  # |S - m I|^2
    error = ((squares.sum(axis=1) ** 2).sum() / n - (covariance**2).sum()) / n  # of S itself
    shrinkage = float(min(error, distance) / distance) if distance > 0 else 0.0
    shrunk = (1 - shrinkage) * covariance
    shrunk[np.diag_indices(d)] += shrinkage * scale
    return ShrunkCovariance(shrunk, shrinkage)


def fisher_ratio(x: ArrayLike, labels: ArrayLike) -> FisherResult:
    """Return the Fisher ratio J = tr(S_W^-1 S_B) with a Ledoit-Wolf S_W.

    S_B = sum_j n_j (m_j - m)(m_j - m)' / n, S_W from the residuals about group means, both
    with divisor n. J is positive without any effect; `corrected` takes (J-1)/n times the
    pooled covariance off S_B, whose expectation then is that of the true means. Both can rise
    because the within variance fell: read them beside the variance components.

    Parameters
    ----------
    x : array_like, shape (n, d)
        One row per image; columns of comparable scale (standardise first).
    labels : array_like, shape (n,)
        Group (style) of each row.

    Raises
    ------
    StatsnormError
        If there are fewer than two groups, no group has two rows, nothing varies within groups
        or a value is not finite.

    References
    ----------
    .. [1] K. Fukunaga, Introduction to Statistical Pattern Recognition (1990), section 10.2.
    """
    a = sample("x", x, least=3)
    codes, levels = level_codes("labels", labels, n=len(a), least=2)
    n, groups = len(a), len(levels)
    if n == groups:
        raise StatsnormError(f"every one of the {groups} groups has one row; S_W needs two")
    member = (codes[:, None] == np.arange(groups)).astype(np.float64)  # (n, J)
    sizes = member.sum(axis=0)
    means = (member.T @ a) / sizes[:, None]  # (J, d)
    residuals = a - means[codes]
    within = ledoit_wolf(residuals)
    gaps = (means - a.mean(axis=0)) * np.sqrt(sizes / n)[:, None]  # gaps' gaps = S_B
    statistic = float((gaps * np.linalg.solve(within.covariance, gaps.T).T).sum())
    pooled = residuals.T @ residuals / (n - groups)  # unbiased
    noise = (groups - 1) / n * float(np.trace(np.linalg.solve(within.covariance, pooled)))
    return FisherResult(statistic, statistic - noise, within.shrinkage, n, groups)
