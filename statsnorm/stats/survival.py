"""Iterations to a threshold as survival data: runs that never get there are censored."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import comb, prod

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from statsnorm.errors import StatsnormError
from statsnorm.stats.inputs import Array, check_confidence, real_array
from statsnorm.stats.orders import block_orders, chunks
from statsnorm.stats.result import Shown
from statsnorm.stats.samples import Index, finite_array, generator, level_codes, positive, whole

EXACT = 1 << 16  # relabelings enumerated rather than drawn


@dataclass(frozen=True, slots=True)
class ThresholdTimes(Shown):
    """Result of :func:`iterations_to_threshold`; one entry a run."""

    time: Array  # iteration of the first passage, or the last recorded one
    event: NDArray[np.bool_]  # False: censored, the threshold was never reached


@dataclass(frozen=True, slots=True)
class LogRankResult(Shown):
    """Result of :func:`log_rank`."""

    statistic: float  # chi-square with 1 degree of freedom; nan without any event
    pvalue: float  # by permutation where blocks are given, else asymptotic
    observed: float  # events in x
    expected: float  # events expected in x under the null
    exact: bool  # True: all relabelings within blocks were enumerated
    permutations: int  # relabelings used; 0 = asymptotic


@dataclass(frozen=True, slots=True)
class RestrictedMean(Shown):
    """Result of :func:`restricted_mean` and :func:`restricted_mean_difference`."""

    estimate: float
    se: float
    low: float
    high: float
    dof: float  # inf: normal quantile
    horizon: float


def iterations_to_threshold(
    loss: ArrayLike, *, iterations: ArrayLike, threshold: ArrayLike, window: int
) -> ThresholdTimes:
    """Return when each run's running median first is at or below a threshold.

    The median is trailing: at t it covers the last `window` recorded points up to t, so the
    first possible passage is at the `window`-th point. A run that never passes is censored
    at the last iteration. A diverged loss (inf) is allowed; nan is not.

    Parameters
    ----------
    loss : array_like, shape (R, T)
        One row a run.
    iterations : array_like, shape (T,)
        Iteration of each column, increasing.
    threshold : array_like, shape () or (R,)
        In the units of the loss.
    window : int
        Points of the running median; 1 for none.

    Raises
    ------
    StatsnormError
        If shapes do not match, a loss or threshold is nan, the iterations do not increase or the
        window is longer than the curve.
    """
    curves = real_array(loss, "loss").astype(np.float64)
    steps = finite_array("iterations", iterations, ndim=1)
    if curves.ndim != 2 or curves.shape[1] != len(steps):
        raise StatsnormError(
            f"loss must be (runs, {len(steps)}) like iterations, got shape {curves.shape}"
        )
    if np.isnan(curves).any():
        raise StatsnormError(f"loss must not hold nan, got {int(np.isnan(curves).sum())}")
    if not (np.diff(steps) > 0).all():
        raise StatsnormError("iterations must increase")
    if whole("window", window, least=1) > len(steps):
        raise StatsnormError(f"window {window} is longer than the {len(steps)} recorded points")
    levels = real_array(threshold, "threshold").astype(np.float64)
    if np.isnan(levels).any():
        raise StatsnormError(f"threshold must not be nan, got {int(np.isnan(levels).sum())} nan")
    if levels.shape not in {(), (len(curves),)}:
        raise StatsnormError(
            f"threshold must be one number or one a run ({len(curves)}), got {levels.shape}"
        )
    spans = np.lib.stride_tricks.sliding_window_view(curves, window, axis=1)
    passed = np.median(spans, axis=2) <= np.broadcast_to(levels, len(curves))[:, None]
    event: NDArray[np.bool_] = np.asarray(passed.any(axis=1))
    time = np.where(event, steps[window - 1 :][passed.argmax(axis=1)], steps[-1])
    return ThresholdTimes(time, event)


def times(name: str, time: ArrayLike, event: ArrayLike) -> tuple[Array, NDArray[np.bool_]]:
    """Return checked times (n,) and events (n,)."""
    t, e = finite_array(f"time_{name}", time, ndim=1), np.asarray(event)
    if e.shape != t.shape or not len(t):
        raise StatsnormError(
            f"time_{name} and event_{name} must have one entry a run, got {t.shape} and {e.shape}"
        )
    if not np.isin(e, (0, 1)).all():
        raise StatsnormError(f"event_{name} must be 1 (reached) or 0 (censored)")
    if t.min() < 0:
        raise StatsnormError(f"time_{name} must not be negative, got {t.min():g}")
    return t, e.astype(np.bool_)


def log_rank(
    time_x: ArrayLike,
    event_x: ArrayLike,
    time_y: ArrayLike,
    event_y: ArrayLike,
    *,
    blocks: tuple[ArrayLike, ArrayLike] | None = None,
    permutations: int = 9999,
    rng: np.random.Generator | None = None,
) -> LogRankResult:
    """Compare two groups of possibly censored times.

    Null: both groups have one law of the time. Without `blocks` the p-value is that of
    chi-square with 1 degree of freedom, for independent runs. With `blocks` (target style x
    seed, both arms in each) labels are exchanged within blocks only; the p-value is exact where
    there are at most 65,536 relabelings, else (b + 1) / (B + 1) from B random ones.

    Parameters
    ----------
    time_x, time_y : array_like, shape (n,) and (m,)
        Iteration of the event, or of censoring.
    event_x, event_y : array_like of bool
        True where the event happened.
    blocks : pair of array_like, shapes (n,) and (m,), optional
        Block of each run of x and of y.
    permutations : int
        Number of random relabelings, where they are too many to enumerate.
    rng : numpy.random.Generator, optional
        Required with `blocks` unless enumerated.

    Raises
    ------
    StatsnormError
        If shapes do not match, a time is negative, no block holds runs of both groups, or the
        generator is missing.

    References
    ----------
    .. [1] N. Mantel, Cancer Chemother. Rep. 50 (1966), 163-170.
    """
    (tx, ex), (ty, ey) = times("x", time_x, event_x), times("y", time_y, event_y)
    time, event = np.concatenate([tx, ty]), np.concatenate([ex, ey])
    label = np.arange(len(time)) < len(tx)
    parts = rank_parts(time, event)
    statistic, observed, expected = (float(v[0]) for v in rank_chi2(label[None], event, parts))
    if blocks is None:
        pvalue = float(stats.chi2.sf(statistic, 1))
        return LogRankResult(statistic, pvalue, observed, expected, False, 0)
    named = np.concatenate([np.asarray(b) for b in blocks])
    codes, _ = level_codes("blocks", named, n=len(time))
    labels, exact = relabelings(label, codes, permutations, rng)
    if np.isnan(statistic):
        return LogRankResult(statistic, np.nan, observed, expected, exact, len(labels))
    null = rank_chi2(labels, event, parts)[0]
    hits = int((null >= statistic * (1 - 1e-9)).sum())
    pvalue = hits / len(labels) if exact else (hits + 1) / (len(labels) + 1)
    return LogRankResult(statistic, pvalue, observed, expected, exact, len(labels))


def rank_parts(time: Array, event: NDArray[np.bool_]) -> tuple[Array, Array, Array]:
    """Return at each event time who is at risk (T, n), how many (T,), and the events (T,)."""
    moments = np.unique(time[event])
    risk = (time >= moments[:, None]).astype(np.float64)
    deaths = ((time == moments[:, None]) & event).sum(axis=1).astype(np.float64)
    return risk, risk.sum(axis=1), deaths


def rank_chi2(
    labels: NDArray[np.bool_], event: NDArray[np.bool_], parts: tuple[Array, Array, Array]
) -> tuple[Array, Array, Array]:
    """Return chi-square, observed and expected (B,) for labels (B, n) of group x."""
    risk, at_risk, deaths = parts
    chosen = labels.astype(np.float64)
    share = chosen @ risk.T / at_risk  # (B, T)
    observed, expected = chosen @ event.astype(np.float64), share @ deaths
    spread = deaths * (at_risk - deaths) / np.maximum(at_risk - 1, 1)  # hypergeometric
    variance = (share * (1 - share)) @ spread
    known = variance > 1e-12
    chi2 = np.divide(
        (observed - expected) ** 2, variance, where=known, out=np.full_like(variance, np.nan)
    )
    return chi2, observed, expected


def relabelings(
    label: NDArray[np.bool_],
    codes: Index,
    permutations: int,
    rng: np.random.Generator | None,
) -> tuple[NDArray[np.bool_], bool]:
    """Return labels (B, n) exchanged within blocks, and whether they are all there are."""
    members = [np.flatnonzero(codes == b) for b in range(codes.max() + 1)]
    count = prod(comb(len(rows), int(label[rows].sum())) for rows in members)
    if count == 1:
        raise StatsnormError("no block holds runs of both groups; nothing can be exchanged")
    if count <= EXACT:
        labels = np.zeros((count, len(label)), dtype=np.bool_)
        for row, choice in zip(labels, product(*(arms(label[m]) for m in members)), strict=True):
            for rows, arm in zip(members, choice, strict=True):
                row[rows] = arm
        return labels, True
    whole("permutations", permutations, least=1)
    orders = block_orders(len(label), codes, permutations, generator(rng))
    return np.concatenate([label[order] for order in chunks(orders, 4096)]), False


def arms(label: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return every labelling (count, n) of one block with as many members of x."""
    every = np.array(list(product((False, True), repeat=len(label))), dtype=np.bool_)
    kept: NDArray[np.bool_] = every[every.sum(axis=1) == label.sum()]
    return kept


def restricted_mean(
    time: ArrayLike, event: ArrayLike, *, horizon: float, confidence: float = 0.95
) -> RestrictedMean:
    """Return the mean time up to a horizon: the area under the Kaplan-Meier curve.

    Greenwood's variance, normal quantile. Without censoring before the horizon the estimate is
    the mean of min(time, horizon) and the variance its population variance over n.

    Parameters
    ----------
    time, event : array_like, shape (n,)
        Iteration of the event or of censoring; True where the event happened.
    horizon : float
        In the units of time; the same for all groups that are compared.
    confidence : float

    Raises
    ------
    StatsnormError
        If shapes do not match, or the horizon lies beyond the last time and that is censored,
        where the curve is unknown.

    References
    ----------
    .. [1] P. Royston and M. Parmar, BMC Med. Res. Methodol. 13 (2013), 152.
    """
    check_confidence(confidence)
    t, e = times("x", time, event)
    estimate, variance = kaplan_meier_area(t, e, positive("horizon", horizon))
    se = float(np.sqrt(variance))
    half = float(stats.norm.isf((1 - confidence) / 2)) * se
    return RestrictedMean(estimate, se, estimate - half, estimate + half, np.inf, float(horizon))


def kaplan_meier_area(time: Array, event: NDArray[np.bool_], horizon: float) -> tuple[float, float]:
    """Return the area under the Kaplan-Meier curve up to the horizon and its variance."""
    last = time.max()
    if horizon > last and not event[time == last].all():
        raise StatsnormError(
            f"horizon {horizon:g} lies beyond the last time {last:g}, which is censored; "
            "choose a horizon up to it"
        )
    _, at_risk, deaths = rank_parts(time, event & (time <= horizon))
    moments = np.unique(time[event & (time <= horizon)])
    survival = np.concatenate([[1.0], np.cumprod(1 - deaths / at_risk)])
    pieces = survival * np.diff(np.concatenate([[0.0], moments, [horizon]]))
    after = pieces.sum() - np.cumsum(pieces)[:-1]  # area from each event to the horizon
    left = at_risk * (at_risk - deaths)
    terms = np.divide(after**2 * deaths, left, where=left > 0, out=np.zeros_like(after))
    return float(pieces.sum()), float(terms.sum())


def restricted_mean_difference(
    time_x: ArrayLike,
    event_x: ArrayLike,
    time_y: ArrayLike,
    event_y: ArrayLike,
    *,
    horizon: float,
    paired: bool,
    confidence: float = 0.95,
) -> RestrictedMean:
    """Return the difference x - y of restricted means.

    Unpaired: the variances add, normal quantile. Paired (entry r of x and of y is block r): a t
    interval of the per-block differences of jackknife pseudo-values, which are
    min(time, horizon) where nothing is censored before the horizon.

    Parameters
    ----------
    time_x, event_x, time_y, event_y : array_like
        As for :func:`log_rank`.
    horizon : float
    paired : bool
        Whether entries correspond. Required: it is a property of the design.
    confidence : float

    Raises
    ------
    StatsnormError
        As :func:`restricted_mean`; or if paired groups differ in size or have one run.

    References
    ----------
    .. [1] P. K. Andersen and M. P. Perme, Stat. Methods Med. Res. 19 (2010), 71-99.
    """
    check_confidence(confidence)
    (tx, ex), (ty, ey) = times("x", time_x, event_x), times("y", time_y, event_y)
    until = positive("horizon", horizon)
    (x, variance_x), (y, variance_y) = (
        kaplan_meier_area(tx, ex, until),
        kaplan_meier_area(ty, ey, until),
    )
    dof, se = np.inf, float(np.sqrt(variance_x + variance_y))
    if paired:
        if len(tx) != len(ty) or len(tx) < 2:
            raise StatsnormError(
                f"paired groups must have the same size of at least 2, got {len(tx)} and {len(ty)}"
            )
        gaps = pseudo_values(tx, ex, until) - pseudo_values(ty, ey, until)
        dof, se = float(len(gaps) - 1), float(gaps.std(ddof=1) / np.sqrt(len(gaps)))
    half = float(stats.t.isf((1 - confidence) / 2, dof)) * se
    return RestrictedMean(x - y, se, x - y - half, x - y + half, dof, until)


def pseudo_values(time: Array, event: NDArray[np.bool_], horizon: float) -> Array:
    """Return the jackknife pseudo-values (n,) of the restricted mean."""
    n = len(time)
    whole_area = kaplan_meier_area(time, event, horizon)[0]
    keep = ~np.eye(n, dtype=np.bool_)
    left_out = np.array([kaplan_meier_area(time[k], event[k], horizon)[0] for k in keep])
    values: Array = n * whole_area - (n - 1) * left_out
    return values
