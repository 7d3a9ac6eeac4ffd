"""Paired t and equivalence tests: agreement within margins is the claim, not the null."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from statsnorm.errors import StatsnormError
from statsnorm.stats.inputs import (
    Array,
    block_array,
    check_confidence,
    is_constant,
)
from statsnorm.stats.result import Shown
from statsnorm.stats.samples import positive


@dataclass(frozen=True, slots=True)
class PairedT(Shown):
    """Result of :func:`paired_t`; numbers for d (n,), arrays (C,) for d (n, C)."""

    estimate: Array  # mean difference
    se: Array
    statistic: Array  # t
    dof: Array
    pvalue: Array  # two-sided
    low: Array
    high: Array
    n: int


@dataclass(frozen=True, slots=True)
class Equivalence(Shown):
    """Result of :func:`tost_paired` or :func:`welch_tost`; numbers, or arrays (C,)."""

    estimate: Array  # mean difference, in the units of the input
    se: Array
    dof: Array
    p_lower: Array  # of the null "difference <= lower margin"
    p_upper: Array  # of the null "difference >= upper margin"
    pvalue: Array  # the larger: counts once in a family
    low: Array  # the 1 - 2 alpha interval; equivalent where it lies inside the margins
    high: Array
    smallest_margin: Array  # symmetric margin at which the test would just pass
    margin_low: float
    margin_high: float
    alpha: float


@dataclass(frozen=True, slots=True)
class NonInferiority(Shown):
    """Result of :func:`noninferiority_paired`; numbers, or arrays (C,)."""

    estimate: Array
    se: Array
    dof: Array
    pvalue: Array  # of the null "mean difference >= margin"
    high: Array  # upper end of the one-sided 1 - alpha interval
    margin: float
    alpha: float


def paired_t(d: ArrayLike, *, confidence: float = 0.95) -> PairedT:
    """Test that the mean of paired differences is zero, by Student's t.

    Null: the differences are a normal sample with mean zero. The companion of
    :func:`sign_flip_test`, which needs symmetry only.

    Parameters
    ----------
    d : array_like, shape (n,) or (n, C)
        One row per independent pair.
    confidence : float
        Level of the interval.

    Returns
    -------
    PairedT
        sd with ddof 1, dof n - 1. Constant or nan channels are untestable: nan.

    Raises
    ------
    StatsnormError
        If there are fewer than two pairs.

    Examples
    --------
    >>> sleep = [1.2, 2.4, 1.3, 1.3, 0, 1, 1.8, 0.8, 4.6, 1.4]
    >>> print(f"{paired_t(sleep).statistic:.7f} {paired_t(sleep).pvalue:.8f}")
    4.0621277 0.00283289
    """
    check_confidence(confidence)
    mean, se, dof, n = _mean_and_se(d)
    statistic = mean / se
    half = special.stdtrit(dof, 0.5 + confidence / 2) * se
    pvalue = 2 * special.stdtr(dof, -np.abs(statistic))
    return PairedT(
        estimate=_plain(mean),
        se=_plain(se),
        statistic=_plain(statistic),
        dof=_plain(dof),
        pvalue=_plain(pvalue),
        low=_plain(mean - half),
        high=_plain(mean + half),
        n=n,
    )


def tost_paired(d: ArrayLike, *, low: float, high: float, alpha: float = 0.05) -> Equivalence:
    """Test that the mean of paired differences lies within (low, high).

    Two one-sided t tests [1]_. The null is NON-equivalence: a small p-value is evidence
    that the mean lies between the margins.

    Parameters
    ----------
    d : array_like, shape (n,) or (n, C)
        One row per independent pair.
    low, high : float
        Margins in the units of `d`. Required: a scientific choice, not a default.
    alpha : float
        Size of the test.

    Returns
    -------
    Equivalence
        Constant or nan channels are untestable: nan.

    Raises
    ------
    StatsnormError
        If a margin is missing or not finite, low >= high, or there are fewer than two pairs.

    References
    ----------
    .. [1] D. J. Schuirmann, J. Pharmacokinet. Biopharm. 15 (1987), 657-680.

    Examples
    --------
    >>> sleep = [1.2, 2.4, 1.3, 1.3, 0, 1, 1.8, 0.8, 4.6, 1.4]
    >>> print(f"{tost_paired(sleep, low=-2, high=3).pvalue:.9f}")
    0.002655570
    """
    mean, se, dof, _ = _mean_and_se(d)
    return _two_one_sided(mean, se, dof, low, high, alpha)


def welch_tost(x: ArrayLike, y: ArrayLike, *, margin: float, alpha: float = 0.05) -> Equivalence:
    """Test that two independent groups differ by less than `margin` in every channel.

    Two one-sided Welch t tests. The null is NON-equivalence. A channel constant in both
    groups is untestable. No correction across channels; see :func:`statsnorm.stats.holm`.

    Parameters
    ----------
    x, y : array_like, shape (n,) and (m,), or (n, C) and (m, C)
        One row per independent image.
    margin : float
        Largest difference that still counts as equal, in the units of `x`. Required.
    alpha : float
        Size of the test.

    Raises
    ------
    StatsnormError
        If the shapes do not match, a group has one image, or `margin` is not positive.
    """
    a, b = block_array(x, "x"), block_array(y, "y")
    if a.shape[1:] != b.shape[1:]:
        raise StatsnormError(f"x and y must share their channels, got {a.shape} and {b.shape}")
    positive("margin", margin)
    with np.errstate(invalid="ignore"):
        va, vb = a.var(axis=0, ddof=1) / len(a), b.var(axis=0, ddof=1) / len(b)
        difference = a.mean(axis=0) - b.mean(axis=0)
    total = np.where(_constant(a) & _constant(b), np.nan, va + vb)
    dof = total**2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1) + np.where(total > 0, 0, np.nan))
    return _two_one_sided(difference, np.sqrt(total), dof, -margin, margin, alpha)


def noninferiority_paired(d: ArrayLike, *, margin: float, alpha: float = 0.05) -> NonInferiority:
    """Test that the mean of paired differences is below `margin` (smaller is better).

    One-sided t test; null: the mean is at least `margin`. With d = D - 0.25 G per block
    and margin 0 this is "as fast as" of method 1.1.

    Parameters
    ----------
    d : array_like, shape (n,) or (n, C)
        One row per independent pair.
    margin : float
        In the units of `d`. Required.
    alpha : float
        Size of the test.

    Raises
    ------
    StatsnormError
        If `margin` is missing or not finite, or there are fewer than two pairs.
    """
    check_confidence(alpha, "alpha")
    _check_margin(margin, "margin")
    mean, se, dof, _ = _mean_and_se(d)
    pvalue = special.stdtr(dof, (mean - margin) / se)
    high = mean + special.stdtrit(dof, 1 - alpha) * se
    return NonInferiority(
        estimate=_plain(mean),
        se=_plain(se),
        dof=_plain(dof),
        pvalue=_plain(pvalue),
        high=_plain(high),
        margin=margin,
        alpha=alpha,
    )


def _two_one_sided(
    mean: Array, se: Array, dof: Array, low: float, high: float, alpha: float
) -> Equivalence:
    if not 0 < alpha < 0.5:
        raise StatsnormError(f"alpha must lie strictly between 0 and 0.5, got {alpha!r}")
    _check_margin(low, "low")
    _check_margin(high, "high")
    if not low < high:
        raise StatsnormError(f"low must be below high, got low={low!r}, high={high!r}")
    p_lower = special.stdtr(dof, -(mean - low) / se)
    p_upper = special.stdtr(dof, (mean - high) / se)
    half = special.stdtrit(dof, 1 - alpha) * se
    lower, upper = mean - half, mean + half
    return Equivalence(
        estimate=_plain(mean),
        se=_plain(se),
        dof=_plain(dof),
        p_lower=_plain(p_lower),
        p_upper=_plain(p_upper),
        pvalue=_plain(np.maximum(p_lower, p_upper)),
        low=_plain(lower),
        high=_plain(upper),
        smallest_margin=_plain(np.maximum(np.abs(lower), np.abs(upper))),
        margin_low=low,
        margin_high=high,
        alpha=alpha,
    )


def _mean_and_se(d: ArrayLike) -> tuple[Array, Array, Array, int]:
    """Return mean, its standard error (nan where constant) and dof of each channel."""
    rows = block_array(d)
    n = len(rows)
    with np.errstate(invalid="ignore"):
        mean = rows.mean(axis=0)
        se = np.sqrt(rows.var(axis=0, ddof=1) / n)
    se = np.where(_constant(rows), np.nan, se)
    return np.asarray(mean), se, np.full(se.shape, n - 1.0), n


def _constant(rows: Array) -> NDArray[np.bool_]:
    flags = is_constant(rows[:, None] if rows.ndim == 1 else rows)
    return np.asarray(flags.reshape(rows.shape[1:]))


def _check_margin(margin: float, name: str) -> None:
    if not (isinstance(margin, Real) and np.isfinite(margin)):
        raise StatsnormError(
            f"{name} must be a finite number, got {margin!r}; margins are required"
        )


def _plain(value: Array) -> Array:
    """Return an array (C,) as it is and an array of no axis as a number."""
    number: Array = np.asarray(value)[()]
    return number
