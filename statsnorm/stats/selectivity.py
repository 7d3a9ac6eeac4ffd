"""Selectivity: how much more of one factor's variance is removed than of another's."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from statsnorm.errors import StatsnormError
from statsnorm.stats.components import FACTORS, Contrast
from statsnorm.stats.inputs import Array, check_choice, check_confidence
from statsnorm.stats.jackknife import checked_replicates, jackknife_replicates
from statsnorm.stats.removed import few_styles
from statsnorm.stats.result import Shown
from statsnorm.stats.traces import design_replicates, paired_designs, trace_replicates

REMAINDERS = 0.95  # both removed more than this: a ratio of remainders


@dataclass(frozen=True, slots=True)
class Selectivity(Shown):
    """Result of :func:`selectivity`; natural logarithms."""

    estimate: float  # log[(V_of after / before) / (V_against after / before)]
    low: float
    high: float
    se: float
    dof: float
    removed_of: float  # R of the first factor (mean over taps)
    removed_against: float
    interpretable: bool  # False: undefined, or both R > 0.95
    n_images: int
    n_styles: int
    n_channels: int  # 0 from traces
    n_nan: int
    of: str
    against: str
    confidence: float
    caution: str


def selectivity(
    before: ArrayLike,
    after: ArrayLike,
    *,
    of: str = "style",
    against: str = "content",
    contrast: Contrast = "fixed",
    confidence: float = 0.95,
    weights: ArrayLike | None = None,
) -> Selectivity:
    """Return log[(V_of^after / V_of^before) / (V_against^after / V_against^before)].

    Psi (style against content, the default) below zero: style variance is removed more
    than content variance. Theta is style against contrast. Two-way jackknife-t interval
    on this scale (method 1.2, 3.1).

    Parameters
    ----------
    before, after : array_like, shape (I, S, K, C)
        Scale-free moments of the same cells and channels under both treatments.
    of, against : str
        Components, see `FACTORS`.
    contrast, confidence, weights
        As for :func:`removed_fraction`.

    Returns
    -------
    Selectivity
        Where a trace is not positive in some replicate the ratio is undefined: nan, and
        `interpretable` is False, as it is where both R exceed 0.95.

    Raises
    ------
    StatsnormError
        As :func:`removed_fraction`; or if `of` and `against` are the same.

    Examples
    --------
    >>> rng = np.random.default_rng(3)
    >>> image, style = rng.normal(size=(12, 1, 1, 4)), rng.normal(size=(1, 9, 1, 4))
    >>> round(selectivity(image + style, image + style / 2).estimate, 6)
    -1.386294
    """
    check_choice(of, FACTORS, "of")
    check_choice(against, FACTORS, "against")
    if of == against:
        raise StatsnormError(f"of and against must be two factors, got {of!r} twice")
    arms = paired_designs(before, after)
    n_images, n_styles, n_levels = arms[0].shape[:3]
    replicates = [design_replicates(arm, contrast=contrast) for arm in arms]
    if absent := {of, against} - set(replicates[0]):
        raise StatsnormError(f"{sorted(absent)} need at least 2 levels, got {n_levels}")
    live = ~np.any([np.isnan(r[f]).any(axis=0) for r in replicates for f in (of, against)], axis=0)
    first, last = (trace_replicates(r, channels=live, weights=weights) for r in replicates)
    result = selectivity_from_replicates(
        first[of], last[of], first[against], last[against], n_images, n_styles, confidence
    )
    return replace(
        result, of=of, against=against, n_channels=int(live.sum()), n_nan=int((~live).sum())
    )


def selectivity_replicates(
    before_of: ArrayLike, after_of: ArrayLike, before_against: ArrayLike, after_against: ArrayLike
) -> Array:
    """Return the log ratio per replicate, averaged over taps where there is a tap axis.

    Parameters
    ----------
    before_of, after_of, before_against, after_against : array_like
        Trace replicates, (1 + I + S,) or (1 + I + S, T) for T taps.

    Returns
    -------
    ndarray of float64, shape (1 + I + S,)
        nan where a trace is not positive.
    """
    traces = [
        np.asarray(x, dtype=np.float64)
        for x in (before_of, after_of, before_against, after_against)
    ]
    if len({x.shape for x in traces}) != 1 or traces[0].ndim not in (1, 2):
        raise StatsnormError(
            f"the four traces must share one shape, got {[x.shape for x in traces]}"
        )
    logs = [np.log(np.where(x > 0, x, np.nan)) for x in traces]
    psi = (logs[1] - logs[0]) - (logs[3] - logs[2])
    return psi if psi.ndim == 1 else np.asarray(psi.mean(axis=1))


def selectivity_from_replicates(
    before_of: ArrayLike,
    after_of: ArrayLike,
    before_against: ArrayLike,
    after_against: ArrayLike,
    n_images: int,
    n_styles: int,
    confidence: float = 0.95,
) -> Selectivity:
    """Return the selectivity from trace replicates; the mean over taps if there are several.

    Parameters
    ----------
    before_of, after_of, before_against, after_against : array_like
        Trace replicates, (1 + I + S,) or (1 + I + S, T).
    n_images, n_styles : int
        I and S.
    confidence : float
        Level of the interval.

    Raises
    ------
    StatsnormError
        If the lengths are not 1 + I + S.
    """
    check_confidence(confidence)
    traces = [
        checked_replicates(x, n_images, n_styles, name)
        for x, name in (
            (before_of, "before_of"),
            (after_of, "after_of"),
            (before_against, "before_against"),
            (after_against, "after_against"),
        )
    ]
    psi = selectivity_replicates(*traces)
    found = jackknife_replicates(psi, n_images, n_styles, confidence)
    start, end, other_start, other_end = (np.atleast_1d(x[0]) for x in traces)
    defined = bool(np.isfinite(psi).all())
    removed_of = float((1 - end / start).mean()) if (start > 0).all() else np.nan
    removed_against = (
        float((1 - other_end / other_start).mean()) if (other_start > 0).all() else np.nan
    )
    return Selectivity(
        estimate=float(found.estimate),
        low=float(found.low),
        high=float(found.high),
        se=float(found.se),
        dof=float(found.dof),
        removed_of=removed_of,
        removed_against=removed_against,
        interpretable=defined and min(removed_of, removed_against) <= REMAINDERS,
        n_images=n_images,
        n_styles=n_styles,
        n_channels=0,
        n_nan=0,
        of="",
        against="",
        confidence=confidence,
        caution=few_styles(n_styles),
    )
