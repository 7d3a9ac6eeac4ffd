"""Effect sizes with exact intervals: a share of units, and a standardised mean difference."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from statsnorm.errors import StatsnormError
from statsnorm.stats.inputs import check_confidence, is_constant
from statsnorm.stats.result import Shown
from statsnorm.stats.samples import finite_array, whole


@dataclass(frozen=True, slots=True)
class Proportion(Shown):
    """Result of :func:`clopper_pearson`."""

    estimate: float
    low: float
    high: float
    successes: int
    n: int


@dataclass(frozen=True, slots=True)
class StandardisedDifference(Shown):
    """Result of :func:`hedges_gz`."""

    estimate: float  # g_z, corrected for small n; nan if constant or n = 2 (no finite mean)
    low: float  # bounds for the population's d_z
    high: float
    uncorrected: float  # d_z = mean / sd (ddof 1)
    n: int


def clopper_pearson(successes: int, n: int, *, confidence: float = 0.95) -> Proportion:
    """Return a share with its exact binomial interval; it covers at least `confidence`.

    Parameters
    ----------
    successes, n : int
        Independent units with the property, and all of them.
    confidence : float

    Raises
    ------
    StatsnormError
        If successes lies outside 0..n or n < 1.

    References
    ----------
    .. [1] C. J. Clopper and E. S. Pearson, Biometrika 26 (1934), 404-413.

    Examples
    --------
    >>> print(f"{clopper_pearson(10, 10).low:.4f}")
    0.6915
    """
    check_confidence(confidence)
    total, count = whole("n", n, least=1), whole("successes", successes, least=0)
    if count > total:
        raise StatsnormError(f"successes must not exceed n, got {count} of {total}")
    bounds = stats.binomtest(count, total).proportion_ci(confidence, method="exact")
    return Proportion(count / total, float(bounds.low), float(bounds.high), count, total)


def hedges_gz(d: ArrayLike, *, confidence: float = 0.95) -> StandardisedDifference:
    """Return Hedges' g_z of paired differences with an exact interval.

    g_z = d_z (1 - 3 / (4 (n-1) - 1)). The bounds invert the noncentral t law of
    sqrt(n) d_z, exact for normal differences; they bound the population's d_z, so they are
    not corrected.

    Parameters
    ----------
    d : array_like, shape (n,)
        One difference per independent block.
    confidence : float

    Returns
    -------
    StandardisedDifference
        All nan when the differences do not vary.

    Raises
    ------
    StatsnormError
        If there are fewer than three differences or a value is not finite.

    References
    ----------
    .. [1] L. V. Hedges, J. Educ. Stat. 6 (1981), 107-128.
    .. [2] R. B. Kline, Beyond Significance Testing (2004), section 4.3 (intervals).
    """
    check_confidence(confidence)
    x = finite_array("d", d, ndim=1)
    n = len(x)
    if n < 3:
        raise StatsnormError(f"d must have at least 3 differences, got {n}")
    if is_constant(x[:, None])[0]:
        return StandardisedDifference(np.nan, np.nan, np.nan, np.nan, n)
    raw = float(x.mean() / x.std(ddof=1))
    tail = (1 - confidence) / 2
    low, high = (noncentrality(raw * sqrt(n), n - 1, q) / sqrt(n) for q in (1 - tail, tail))
    corrected = raw * (1 - 3 / (4 * (n - 1) - 1)) if n > 2 else np.nan
    return StandardisedDifference(corrected, low, high, raw, n)


def noncentrality(t: float, dof: int, quantile: float) -> float:
    """Return the noncentrality at which a noncentral t lies below t with this probability."""

    def excess(shift: float) -> float:
        # below and above 0 alike: P(T < t | shift) = P(T > -t | -shift)
        if t < 0:
            return float(stats.nct.sf(-t, dof, -shift)) - quantile
        return float(stats.nct.cdf(t, dof, shift)) - quantile

    width = 2.0 + abs(t) / sqrt(2 * dof)
    low, high = t - width, t + width
    while excess(low) < 0:
        low -= width
    while excess(high) > 0:
        high += width
    return float(optimize.brentq(excess, low, high, xtol=1e-10))
