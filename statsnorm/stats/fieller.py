"""Fieller intervals: a ratio of two estimates, without dividing by the second."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from statsnorm.errors import StatsnormError
from statsnorm.stats.inputs import block_array, check_confidence
from statsnorm.stats.result import Shown


@dataclass(frozen=True, slots=True)
class ExplainedFraction(Shown):
    """Result of :func:`explained_fraction`."""

    estimate: float  # phi = 1 - mean(gap) / mean(reference)
    low: float
    high: float
    bounded: bool  # False: the reference gap is not distinguishable from zero
    dof: float
    n: int  # blocks


def fieller_interval(
    numerator: float,
    denominator: float,
    *,
    var_numerator: float,
    covariance: float,
    var_denominator: float,
    quantile: float,
) -> tuple[float, float]:
    """Return the ends of {r : (a - r b)^2 <= q^2 var(a - r b)}, the ratios not rejected.

    Parameters
    ----------
    numerator, denominator : float
        Estimates a and b of the two means.
    var_numerator, covariance, var_denominator : float
        Their (co)variances, as estimated.
    quantile : float
        q, usually of t.

    Returns
    -------
    low, high : float
        (-inf, inf) where b is within q standard errors of zero: the set is then the whole
        line, or two rays, and says nothing useful about the ratio.

    References
    ----------
    .. [1] E. C. Fieller, J. R. Stat. Soc. B 16 (1954), 175-185.

    Examples
    --------
    >>> low, high = fieller_interval(1, 2, var_numerator=0.01, covariance=0,
    ...                              var_denominator=0, quantile=2)
    >>> round(low, 6), round(high, 6)
    (0.4, 0.6)
    """
    square = denominator**2 - quantile**2 * var_denominator
    if not square > 0:
        return -np.inf, np.inf
    middle = numerator * denominator - quantile**2 * covariance
    rest = numerator**2 - quantile**2 * var_numerator
    root = float(np.sqrt(max(middle**2 - square * rest, 0.0)))
    return (middle - root) / square, (middle + root) / square


def explained_fraction(
    gap: ArrayLike, reference: ArrayLike, *, confidence: float = 0.95
) -> ExplainedFraction:
    """Return phi = 1 - mean(gap) / mean(reference) over paired blocks, with Fieller's interval.

    For curve gaps: `reference` is G_a of the originals and `gap` G_b or G_c, so phi is the
    part of the gap explained by contrast or style (method 1.1; descriptive).

    Parameters
    ----------
    gap, reference : array_like, shape (n,)
        One number per block, paired.
    confidence : float
        Level of the interval.

    Raises
    ------
    StatsnormError
        If the shapes differ, there are fewer than two blocks, or a value is not finite.

    References
    ----------
    .. [1] E. C. Fieller, J. R. Stat. Soc. B 16 (1954), 175-185.
    """
    check_confidence(confidence)
    a, b = block_array(gap, "gap"), block_array(reference, "reference")
    if a.ndim != 1 or a.shape != b.shape:
        raise StatsnormError(f"gap and reference must be paired (n,), got {a.shape} and {b.shape}")
    if bad := int((~np.isfinite(a) | ~np.isfinite(b)).sum()):
        raise StatsnormError(f"{bad} of {len(a)} blocks are not finite; drop them from both")
    n = len(a)
    cov = np.cov(a, b, ddof=1) / n
    top, bottom = float(a.mean()), float(b.mean())
    low, high = fieller_interval(
        top,
        bottom,
        var_numerator=float(cov[0, 0]),
        covariance=float(cov[0, 1]),
        var_denominator=float(cov[1, 1]),
        quantile=float(special.stdtrit(n - 1, 0.5 + confidence / 2)),
    )
    estimate = 1 - top / bottom if bottom else np.nan
    return ExplainedFraction(estimate, 1 - high, 1 - low, bool(np.isfinite(low)), float(n - 1), n)
