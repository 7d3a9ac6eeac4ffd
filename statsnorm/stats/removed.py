"""Removed fractions R = 1 - V_after / V_before with two-way jackknife or Fieller intervals.

Everything is computed from trace replicates: a component's mean over channels on all
images and styles, without each image, without each style, shape (1 + I + S,).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from statsnorm.errors import StatsnormError
from statsnorm.stats.components import FACTORS, Contrast, component_shares
from statsnorm.stats.fieller import fieller_interval
from statsnorm.stats.inputs import Array, check_choice, check_confidence
from statsnorm.stats.jackknife import (
    checked_replicates,
    jackknife_covariances,
    jackknife_replicates,
    satterthwaite,
)
from statsnorm.stats.result import Shown
from statsnorm.stats.traces import design_replicates, paired_designs, trace_replicates

Interval = Literal["auto", "jackknife-t", "fieller"]

FEW_STYLES = 8
NEARLY_ALL = 3.0  # V_after below this many standard errors, V_before above: nearly all removed


@dataclass(frozen=True, slots=True)
class RemovedFraction(Shown):
    """Result of :func:`removed_fraction`; R is untruncated and may be negative or above 1."""

    estimate: float
    low: float  # -inf / inf where V_before is not distinguishable from zero
    high: float
    se: float  # of log(1 - R); nan under "fieller"; of R itself under "jackknife-t linear"
    dof: float
    method: str  # "jackknife-t", "jackknife-t linear" (means over taps) or "fieller"
    before: float  # V_before, trace: the mean over channels
    after: float
    share_before: float  # omega^2 of the factor before; nan from traces of one component
    share_after: float
    per_channel: Array  # (C,) R of each channel, nan where V_before <= 0; (0,) from traces
    n_images: int
    n_styles: int
    n_channels: int  # in the trace; 0 from traces
    n_nan: int  # channels left out for a nan in either arm
    factor: str
    confidence: float
    caution: str  # "" or why to doubt the interval


def removed_fraction(
    before: ArrayLike,
    after: ArrayLike,
    *,
    factor: str = "style",
    contrast: Contrast = "fixed",
    confidence: float = 0.95,
    weights: ArrayLike | None = None,
    interval: Interval = "auto",
) -> RemovedFraction:
    """Return how much of a factor's variance is removed, R = 1 - V_after / V_before.

    The variance is the trace (mean over channels) of the unbiased component. Interval:
    two-way delete-one jackknife-t of log(1 - R) over images and styles, paired between the
    arms; where nearly all is removed (`interval`), Fieller's inversion of
    V_after - (1 - R) V_before (method 3.1). Where cells are missing (nan in all channels,
    in either arm) the U-statistic replaces mean squares.

    Parameters
    ----------
    before, after : array_like, shape (I, S, K, C)
        Scale-free moments of the same cells and channels under both treatments.
    factor : str
        One of `FACTORS`: style, content, contrast, content_style, style_given_content, ...
    contrast : {"fixed", "random"}
        As for :func:`crossed_components`.
    confidence : float
        Level of the interval.
    weights : array_like, shape (C,), optional
        Channel weights of the trace, e.g. s_c^2 for the energy-weighted version.
    interval : {"auto", "jackknife-t", "fieller"}
        As for :func:`removed_from_replicates`.

    Raises
    ------
    StatsnormError
        If shapes differ, there are fewer than three images or styles, the factor is
        unknown or absent, or every channel holds a nan.

    Examples
    --------
    >>> rng = np.random.default_rng(3)
    >>> before = rng.normal(size=(12, 1, 1, 4)) + rng.normal(size=(1, 9, 1, 4))
    >>> r = removed_fraction(before, before / 2)  # half the sd: a quarter of the variance
    >>> round(r.estimate, 9), round(r.low, 9), r.method
    (0.75, 0.75, 'jackknife-t')
    """
    check_choice(factor, FACTORS, "factor")
    check_confidence(confidence)
    arms = paired_designs(before, after)
    n_images, n_styles = arms[0].shape[:2]
    replicates = [design_replicates(arm, contrast=contrast) for arm in arms]
    if factor not in replicates[0]:
        raise StatsnormError(f"factor {factor!r} needs at least 2 levels, got 1")
    v_before, v_after = (r[factor] for r in replicates)  # (1 + I + S, C)
    live = ~(np.isnan(v_before).any(axis=0) | np.isnan(v_after).any(axis=0))
    traces = [trace_replicates(r, channels=live, weights=weights) for r in replicates]
    shares = [component_shares({k: v[:1] for k, v in t.items()})[factor][0] for t in traces]
    result = removed_from_replicates(
        traces[0][factor], traces[1][factor], n_images, n_styles, confidence, interval=interval
    )
    return replace(
        result,
        factor=factor,
        share_before=float(shares[0]),
        share_after=float(shares[1]),
        per_channel=_ratio_removed(v_before[0], v_after[0]),
        n_channels=int(live.sum()),
        n_nan=int((~live).sum()),
    )


def removed_from_replicates(
    before: ArrayLike,
    after: ArrayLike,
    n_images: int,
    n_styles: int,
    confidence: float = 0.95,
    *,
    interval: Interval = "auto",
) -> RemovedFraction:
    """Return the removed fraction from trace replicates of one component.

    Parameters
    ----------
    before, after : array_like, shape (1 + I + S,)
        Trace replicates: estimate, without each image, without each style.
    n_images, n_styles : int
        I and S.
    confidence : float
        Level of the interval.
    interval : {"auto", "jackknife-t", "fieller"}
        "auto": Fieller where V_after is below 3 jackknife SE while V_before is not (nearly
        all removed), or where the logarithm fails because a replicate is not positive;
        otherwise jackknife-t of log(1 - R). Where BOTH lie below 3 SE there are too few
        styles rather than too little left: the paired log ratio still covers (93-96 % in
        simulation), while Fieller's set is mostly the whole line. A forced "jackknife-t"
        has a nan interval where a replicate is not positive.

    Returns
    -------
    RemovedFraction
        As :func:`removed_fraction` of the design itself; `per_channel` is empty.

    Raises
    ------
    StatsnormError
        If the lengths are not 1 + I + S.
    """
    check_confidence(confidence)
    check_choice(interval, ("auto", "jackknife-t", "fieller"), "interval")
    top = _trace(after, n_images, n_styles, "after")
    bottom = _trace(before, n_images, n_styles, "before")
    if interval == "auto":
        positive = (top > 0).all() and (bottom > 0).all()
        lost = [x[0] < NEARLY_ALL * _se(x, n_images, n_styles) for x in (top, bottom)]
        interval = "fieller" if not positive or (lost[0] and not lost[1]) else "jackknife-t"
    if interval == "jackknife-t":
        log = jackknife_replicates(_log(top) - _log(bottom), n_images, n_styles, confidence)
        low, high = float(-np.expm1(log.high)), float(-np.expm1(log.low))
        se, dof = float(log.se), float(log.dof)
    else:
        low, high, dof = _fieller(top, bottom, n_images, n_styles, confidence)
        se = np.nan
    removed = float(_ratio_removed(bottom[:1], top[:1])[0])
    return _from_traces(
        (removed, low, high, se, dof), interval, (bottom, top), (n_images, n_styles), confidence
    )


def removed_replicates(before: ArrayLike, after: ArrayLike) -> Array:
    """Return R per replicate, averaged over taps where there is a tap axis.

    Parameters
    ----------
    before, after : array_like, shape (1 + I + S,) or (1 + I + S, T)
        Trace replicates of one component, at one tap or at T taps.

    Returns
    -------
    ndarray of float64, shape (1 + I + S,)
        nan where V_before is not positive.
    """
    bottom, top = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if bottom.shape != top.shape or bottom.ndim not in (1, 2):
        raise StatsnormError(
            f"before and after must both be (1 + I + S,) or (1 + I + S, T), "
            f"got {bottom.shape} and {top.shape}"
        )
    removed = _ratio_removed(bottom, top)
    return removed if removed.ndim == 1 else np.asarray(removed.mean(axis=1))


def mean_removed_from_replicates(
    before: ArrayLike, after: ArrayLike, n_images: int, n_styles: int, confidence: float = 0.95
) -> RemovedFraction:
    """Return the mean of R over several taps, jackknifed as one number.

    R is averaged over the taps within each replicate, so that the taps' dependence (same
    images and styles) is accounted for. Interval on log(1 - mean R); where 1 - mean R is
    below 3 SE, or not positive in every replicate, on R itself.

    Parameters
    ----------
    before, after : array_like, shape (1 + I + S, T)
        Trace replicates of one component, one column per tap.
    n_images, n_styles : int
        I and S.
    confidence : float
        Level of the interval.

    Raises
    ------
    StatsnormError
        If the shapes are not (1 + I + S, T).
    """
    check_confidence(confidence)
    bottom = checked_replicates(before, n_images, n_styles, "before")
    top = checked_replicates(after, n_images, n_styles, "after")
    if bottom.ndim != 2 or not bottom.shape[1]:
        raise StatsnormError(f"before must have shape (1 + I + S, T), got {bottom.shape}")
    removed = removed_replicates(bottom, top)
    left = 1 - removed
    plain = jackknife_replicates(removed, n_images, n_styles, confidence)
    if (left > 0).all() and left[0] >= NEARLY_ALL * plain.se:
        log = jackknife_replicates(np.log(left), n_images, n_styles, confidence)
        numbers = (removed[0], -np.expm1(log.high), -np.expm1(log.low), log.se, log.dof)
        method = "jackknife-t"
    else:
        numbers = (removed[0], plain.low, plain.high, plain.se, plain.dof)
        method = "jackknife-t linear"
    return _from_traces(numbers, method, (bottom, top), (n_images, n_styles), confidence)


def _from_traces(
    numbers: Sequence[float | Array],
    method: str,
    arms: tuple[Array, Array],
    units: tuple[int, int],
    confidence: float,
) -> RemovedFraction:
    """Return the record for (estimate, low, high, se, dof) found from trace replicates."""
    estimate, low, high, se, dof = (float(number) for number in numbers)
    return RemovedFraction(
        estimate=estimate,
        low=low,
        high=high,
        se=se,
        dof=dof,
        method=method,
        before=float(arms[0][0].mean()),
        after=float(arms[1][0].mean()),
        share_before=np.nan,
        share_after=np.nan,
        per_channel=np.empty(0),
        n_images=units[0],
        n_styles=units[1],
        n_channels=0,
        n_nan=0,
        factor="",
        confidence=confidence,
        caution=few_styles(units[1]),
    )


def few_styles(n_styles: int) -> str:
    """Return the caution of method 3.1 for designs of few styles, or ""."""
    if n_styles > FEW_STYLES:
        return ""
    return (
        f"{n_styles} styles: intervals may cover less than they say "
        "(86-95 % for 95 % at 8 styles in simulation); 16 or more are recommended"
    )


def _fieller(
    top: Array, bottom: Array, n_images: int, n_styles: int, confidence: float
) -> tuple[float, float, float]:
    """Invert the jackknife-t test of V_after - q V_before = 0 in q; return R and the dof.

    The dof depends on q, so each end is iterated to its own.
    """
    part_i, part_s = jackknife_covariances(np.stack([top, bottom], axis=1), n_images, n_styles)
    if not np.isfinite(part_i + part_s).all():
        return np.nan, np.nan, np.nan

    def dof_at(ratio: float) -> float:
        line = np.array([1.0, -ratio])
        v = [np.asarray(line @ part @ line) for part in (part_i, part_s)]
        return float(satterthwaite(v[0], v[1], n_images - 1, n_styles - 1))

    def ends(ratio: float) -> tuple[float, float]:
        cov = part_i + part_s
        return fieller_interval(
            float(top[0]),
            float(bottom[0]),
            var_numerator=float(cov[0, 0]),
            covariance=float(cov[0, 1]),
            var_denominator=float(cov[1, 1]),
            quantile=float(special.stdtrit(dof_at(ratio), 0.5 + confidence / 2)),
        )

    centre = float(top[0] / bottom[0]) if bottom[0] > 0 else 0.0
    found = []
    for side in (0, 1):
        ratio = ends(centre)[side]
        for _ in range(100):
            if not np.isfinite(ratio):
                break
            ratio, last = ends(ratio)[side], ratio
            if abs(ratio - last) <= 1e-12 * max(1.0, abs(ratio)):
                break
        found.append(ratio)
    return 1 - found[1], 1 - found[0], dof_at(centre)


def _se(x: Array, n_images: int, n_styles: int) -> float:
    return float(jackknife_replicates(x, n_images, n_styles).se)


def _log(x: Array) -> Array:
    return np.log(np.where(x > 0, x, np.nan))


def _trace(x: ArrayLike, n_images: int, n_styles: int, name: str) -> Array:
    rows = checked_replicates(x, n_images, n_styles, name)
    if rows.ndim != 1:
        raise StatsnormError(f"{name} must have shape (1 + I + S,), got {rows.shape}")
    return rows


def _ratio_removed(before: Array, after: Array) -> Array:
    """Return 1 - after / before, nan where `before` is not positive."""
    ratio = np.divide(after, before, out=np.full(before.shape, np.nan), where=before > 0)
    return np.asarray(1 - ratio)
