"""Power of the paired t test, and what it could have seen."""

from __future__ import annotations

from math import sqrt

from scipy import optimize, stats

from statsnorm.errors import StatsnormError
from statsnorm.stats.inputs import check_confidence
from statsnorm.stats.samples import whole


def paired_power(*, n: int, effect: float, alpha: float) -> float:
    """Return the power of the two-sided paired t test.

    Parameters
    ----------
    n : int
        Number of independent pairs (blocks).
    effect : float
        True d_z: mean difference over the sd of differences.
    alpha : float
        Size of the test; after Holm, the adjusted one.

    Raises
    ------
    StatsnormError
        If n < 2 or alpha does not lie strictly between 0 and 1.

    References
    ----------
    .. [1] J. Cohen, Statistical Power Analysis for the Behavioral Sciences (1988), chapter 2.

    Examples
    --------
    >>> print(round(paired_power(n=10, effect=0.996, alpha=0.05), 4))
    0.8
    """
    dof = whole("n", n, least=2) - 1
    cut = float(stats.t.isf(check_confidence(alpha, "alpha") / 2, dof))
    shift = abs(float(effect)) * sqrt(n)
    # far in the wrong tail scipy's noncentral t gives nan; that tail is below 1e-15 there
    wrong = float(stats.nct.cdf(-cut, dof, shift)) if shift < 8 else 0.0
    return min(float(stats.nct.sf(cut, dof, shift)) + wrong, 1.0)


def minimum_effect(*, n: int, alpha: float, power: float = 0.8) -> float:
    """Return the smallest d_z that the paired t test finds with a given power.

    Raises
    ------
    StatsnormError
        If n < 2, or alpha or power is no fraction, or power does not exceed alpha.

    Examples
    --------
    >>> print(f"{minimum_effect(n=10, alpha=0.05):.6f}")
    0.996001
    """
    check_confidence(power, "power")
    if not power > check_confidence(alpha, "alpha"):
        raise StatsnormError(f"power must exceed alpha, got power {power!r} and alpha {alpha!r}")

    def excess(effect: float) -> float:
        return paired_power(n=n, effect=effect, alpha=alpha) - power

    high = 1.0
    while excess(high) < 0:
        high *= 2
    return float(optimize.brentq(excess, 0.0, high, xtol=1e-12, rtol=1e-12))


def required_pairs(*, effect: float, alpha: float, power: float = 0.8, most: int = 100_000) -> int:
    """Return the fewest pairs with which the paired t test has a given power.

    Raises
    ------
    StatsnormError
        If effect is 0, or more than `most` pairs would be needed.

    Examples
    --------
    >>> required_pairs(effect=1.0, alpha=0.05)
    10
    """
    check_confidence(power, "power")
    if paired_power(n=most, effect=effect, alpha=alpha) < power:
        raise StatsnormError(f"an effect of {effect!r} needs more than {most} pairs")
    low, high = 1, most  # power(low) < power <= power(high)
    while high - low > 1:
        middle = (low + high) // 2
        enough = paired_power(n=middle, effect=effect, alpha=alpha) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high
