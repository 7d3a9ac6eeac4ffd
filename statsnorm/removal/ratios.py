"""Intervals from delete-one replicates: ratios of variance components and plain statistics.

A *replicate vector* is (estimate, one value per left-out level of factor 1, of factor 2, ...);
`groups` counts the levels of each factor. The variance is the sum of the one-way jackknife
variances, its degrees of freedom by Satterthwaite; with images and styles that is the two-way
delete-one jackknife of :func:`statsnorm.stats.two_way_jackknife`, and with three factors the same
with a third term. Ratios are handled on the log scale, or, where the numerator is under three
standard errors and the denominator is not, by inverting the jackknife test of
`numerator - r * denominator` (Fieller). Where both are under three there are too few levels, not
too little left: the paired log ratio still covers, while Fieller's set is mostly the whole line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize
from scipy import stats as distributions

from statsnorm.errors import StatsnormError
from statsnorm.stats.jackknife import Tails, tail_dof

Array = NDArray[np.float64]
FEW_STANDARD_ERRORS = 3.0
FARTHEST = 1e6  # bounds of a ratio are sought up to this multiple of its scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate with its t interval; `low` and `high` are nan where nothing is known."""

    estimate: float
    low: float
    high: float
    se: float
    dof: float

    def pvalue(self, null: float) -> float:
        """Two-sided p-value of theta = null; agrees with the interval."""
        return t_pvalue(self.estimate - null, self.se, self.dof)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A ratio of variance components, with what is needed to test any value of it.

    `estimate`, `low` and `high` are on the ratio scale, `se` and `dof` on the log scale for
    method "log", of the linear contrast at the estimate for method "fieller".
    """

    estimate: float
    low: float
    high: float
    se: float
    dof: float
    method: str
    replicates: Array  # of the ratio
    numerator: Array  # replicates of the linear contrast's two terms
    denominator: Array
    groups: tuple[int, ...]

    def pvalue(self, ratio: float) -> float:
        """Two-sided p-value of the hypothesis that the ratio is `ratio` (> 0)."""
        if self.method == "log":
            return t_pvalue(math.log(self.estimate) - math.log(ratio), self.se, self.dof)
        return t_pvalue(*_contrast(self.numerator, self.denominator, self.groups, ratio))

    def removed(self) -> Interval:
        """Return the removed fraction 1 - ratio, its standard error by the delta method."""
        if math.isnan(self.estimate):
            return Interval(estimate=math.nan, low=math.nan, high=math.nan, se=math.nan, dof=0.0)
        se, _ = standard_error(self.replicates, self.groups)
        return Interval(
            estimate=1 - self.estimate, low=1 - self.high, high=1 - self.low, se=se, dof=self.dof
        )

    def log(self) -> Interval:
        """Return the log ratio; -inf where the ratio is not positive."""
        estimate, low, high = (_log(x) for x in (self.estimate, self.low, self.high))
        se = self.se if self.method == "log" else math.nan
        return Interval(estimate=estimate, low=low, high=high, se=se, dof=self.dof)


def standard_error(
    values: ArrayLike, groups: Sequence[int], *, tails: Tails = "normal"
) -> tuple[float, float]:
    """Return the jackknife standard error and its Satterthwaite degrees of freedom.

    Parameters
    ----------
    values : array_like, shape (1 + sum(groups),)
        The estimate, then one value per left-out level of each factor.
    groups : sequence of int
        Levels of each factor, at least 2 each.
    tails : {"normal", "heavy"}
        "heavy" for components and shares, as in :func:`statsnorm.stats.two_way_jackknife`.

    Raises
    ------
    StatsnormError
        If the length does not fit the groups or a factor has fewer than two levels.
    """
    vector = np.asarray(values, dtype=np.float64)
    if vector.shape != (1 + sum(groups),) or min(groups, default=0) < 2:
        raise StatsnormError(
            f"replicates must have 1 + {'+'.join(map(str, groups))} values and >= 2 levels "
            f"of each factor, got shape {vector.shape}"
        )
    if not np.isfinite(vector).all():
        return math.nan, math.nan
    parts = np.split(vector[1:], np.cumsum(groups)[:-1])
    each = np.array([(n - 1) * part.var() for n, part in zip(groups, parts, strict=True)])
    total = float(each.sum())
    if total <= (1e-12 * np.abs(vector).max()) ** 2:  # constant but for rounding
        return 0.0, float(max(groups) - 1)
    dofs = [float(tail_dof(x)) if tails == "heavy" else len(x) - 1.0 for x in parts]
    dof = total**2 / float((each**2 / np.array(dofs)).sum())
    return math.sqrt(total), dof


def interval(
    values: ArrayLike, groups: Sequence[int], *, confidence: float, tails: Tails = "normal"
) -> Interval:
    """Return the jackknife-t interval of a statistic on its own scale."""
    vector = np.asarray(values, dtype=np.float64)
    se, dof = standard_error(vector, groups, tails=tails)
    half = t_quantile(confidence, dof) * se if se > 0 else se
    at = float(vector[0])
    return Interval(estimate=at, low=at - half, high=at + half, se=se, dof=dof)


def ratio(
    numerator: ArrayLike, denominator: ArrayLike, groups: Sequence[int], *, confidence: float
) -> Ratio:
    """Return the ratio of two variance components with its interval.

    Parameters
    ----------
    numerator, denominator : array_like, shape (1 + sum(groups),) or (taps, same)
        Replicate vectors. With several taps the statistic is the mean over taps of the ratios;
        the linear contrast then weights each tap by 1 / its denominator's estimate.
    groups : sequence of int
        Levels of each factor.
    confidence : float
        Such as .95.

    Returns
    -------
    Ratio
        All nan if a denominator's estimate is not positive: nothing was there to remove.

    References
    ----------
    .. [1] E. C. Fieller, J. R. Stat. Soc. B 16 (1954), 175-185.
    """
    top, bottom = (np.atleast_2d(np.asarray(x, np.float64)) for x in (numerator, denominator))
    if not (np.isfinite(top).all() and (bottom[:, :1] > 0).all() and np.isfinite(bottom).all()):
        return _unknown(tuple(groups))
    weights = 1 / (bottom[:, :1] * len(bottom))
    above, below = (top * weights).sum(axis=0), (bottom * weights).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = (top / bottom).mean(axis=0)
    positive = bool((bottom > 0).all())
    return ratio_from(values, above, below, groups, confidence=confidence, log=positive)


def ratio_from(
    values: ArrayLike,
    above: ArrayLike,
    below: ArrayLike,
    groups: Sequence[int],
    *,
    confidence: float,
    log: bool = True,
) -> Ratio:
    """Return the ratio whose replicates, and those of its linear contrast, are known.

    Parameters
    ----------
    values : array_like, shape (1 + sum(groups),)
        Replicates of the ratio itself.
    above, below : array_like, same shape
        Replicates of the two terms of `above - r below`, zero at the ratio's estimate.
    groups : sequence of int
        Levels of each factor.
    confidence : float
        Such as .95.
    log : bool
        Whether logarithms may be taken: False where a denominator is not positive.
    """
    values, above, below = (np.asarray(x, np.float64) for x in (values, above, below))
    if not (np.isfinite(values[:1]).all() and np.isfinite([above, below]).all()):
        return _unknown(tuple(groups))
    se, dof = standard_error(above, groups)
    usable = log and bool((values > 0).all())
    known = below[0] >= FEW_STANDARD_ERRORS * standard_error(below, groups)[0]
    if usable and not (known and above[0] < FEW_STANDARD_ERRORS * se):
        logs = interval(np.log(values), groups, confidence=confidence)
        low, high, method, se, dof = (
            math.exp(logs.low),
            math.exp(logs.high),
            "log",
            logs.se,
            logs.dof,
        )
    else:
        low, high = _fieller(above, below, tuple(groups), confidence)
        _, se, dof = _contrast(above, below, tuple(groups), float(values[0]))
        method = "fieller"
    return Ratio(
        estimate=float(values[0]),
        low=low,
        high=high,
        se=se,
        dof=dof,
        method=method,
        replicates=values,
        numerator=above,
        denominator=below,
        groups=tuple(groups),
    )


def ratio_of_ratios(top: Ratio, bottom: Ratio, *, confidence: float) -> Ratio:
    """Return the ratio of two ratios over the same left-out levels, such as exp(Psi)."""
    if top.groups != bottom.groups:
        raise StatsnormError(f"ratios of designs {top.groups} and {bottom.groups} do not pair")
    if math.isnan(top.estimate) or math.isnan(bottom.estimate):
        return _unknown(top.groups)
    return ratio(top.replicates, bottom.replicates, top.groups, confidence=confidence)


def mean_over_networks(each: Sequence[Ratio], *, confidence: float) -> Ratio:
    """Return the mean of one ratio over networks, which become the first factor.

    Parameters
    ----------
    each : sequence of Ratio
        One a network, at least two, over the same left-out levels.

    Raises
    ------
    StatsnormError
        If there are fewer than two, or their designs differ.
    """
    designs = sorted({r.groups for r in each})
    if len(each) < 2 or len(designs) != 1:
        raise StatsnormError(
            f"a mean over networks needs two or more on one design, got {len(each)} on {designs}"
        )
    values = np.array([r.replicates for r in each])  # (n, 1 + I + S)
    mean, first = values.mean(axis=0), values[:, 0]
    without = (first.sum() - first) / (len(each) - 1)
    joined = np.concatenate([mean[:1], without, mean[1:]])
    return ratio(joined, np.ones_like(joined), (len(each), *designs[0]), confidence=confidence)


def wider(x: Ratio, quantile: float, *, confidence: float) -> tuple[float, float]:
    """Return the bounds of a ratio at a larger quantile, such as Bonferroni's over taps.

    Same method as the ratio's own interval, so they enclose it.
    """
    if x.method == "log":
        half = max(quantile, t_quantile(confidence, x.dof)) * x.se
        return x.estimate * math.exp(-half), x.estimate * math.exp(half)
    if x.method == "fieller":
        return _fieller(x.numerator, x.denominator, x.groups, confidence, quantile)
    return math.nan, math.nan


def t_pvalue(difference: float, se: float, dof: float) -> float:
    """Two-sided p-value of difference / se; 0 or 1 where there is no sampling variation."""
    if math.isnan(difference) or math.isnan(se):
        return math.nan
    if se == 0:
        return 1.0 if abs(difference) <= 1e-9 else 0.0
    return float(2 * distributions.t.sf(abs(difference) / se, dof))


def t_quantile(confidence: float, dof: float) -> float:
    """Quantile of t for a two-sided interval."""
    return float(distributions.t.isf((1 - confidence) / 2, dof))


def _contrast(
    numerator: Array, denominator: Array, groups: tuple[int, ...], at: float
) -> tuple[float, float, float]:
    values = numerator - at * denominator
    return float(values[0]), *standard_error(values, groups)


def _fieller(
    numerator: Array,
    denominator: Array,
    groups: tuple[int, ...],
    confidence: float,
    least: float = 0.0,
) -> tuple[float, float]:
    def excess(at: float) -> float:
        difference, se, dof = _contrast(numerator, denominator, groups, at)
        quantile = max(least, t_quantile(confidence, dof))
        return abs(difference) - quantile * se if se > 0 else abs(difference)

    centre = float(numerator[0] / denominator[0])
    step = max(abs(centre), standard_error(numerator, groups)[0] / float(denominator[0]), 1e-12)
    return _root(excess, centre, -step), _root(excess, centre, step)


def _root(excess: Callable[[float], float], centre: float, step: float) -> float:
    """First bound beyond `centre` in the direction of `step`, or an infinity if none is near."""
    near, far = centre, centre + step
    while excess(far) <= 0:
        near, far = far, centre + 2 * (far - centre)
        if abs(far - centre) > FARTHEST * abs(step):
            return math.copysign(math.inf, step)
    if excess(near) >= 0:
        return near
    return float(optimize.brentq(excess, near, far, xtol=1e-12, rtol=1e-10))


def _unknown(groups: tuple[int, ...]) -> Ratio:
    nothing = np.full(1 + sum(groups), np.nan)
    return Ratio(
        estimate=math.nan,
        low=math.nan,
        high=math.nan,
        se=math.nan,
        dof=math.nan,
        method="none",
        replicates=nothing,
        numerator=nothing,
        denominator=nothing,
        groups=groups,
    )


def _log(x: float) -> float:
    return math.log(x) if x > 0 else (-math.inf if x <= 0 else math.nan)
