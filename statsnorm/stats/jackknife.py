"""Two-way delete-one jackknife over images and styles, and simultaneous intervals from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from statsnorm.errors import StatsnormError
from statsnorm.stats.inputs import Array, check_choice, check_confidence, real_array
from statsnorm.stats.result import Shown

Tails = Literal["normal", "heavy"]
FEWEST_FOR_KURTOSIS = 4


@dataclass(frozen=True, slots=True)
class Jackknife(Shown):
    """Result of :func:`two_way_jackknife`; every field has the shape of the estimate."""

    estimate: Array
    se: Array
    dof: Array  # Satterthwaite
    low: Array
    high: Array


@dataclass(frozen=True, slots=True)
class SimultaneousIntervals(Shown):
    """Result of :func:`simultaneous_intervals`; arrays (T,)."""

    estimate: Array
    se: Array
    dof: Array  # Satterthwaite, of each statistic
    low: Array
    high: Array
    count: int  # statistics that share the error: finite, and not the same in all replicates


def two_way_jackknife(
    estimate: ArrayLike,
    leave_image_out: ArrayLike,
    leave_style_out: ArrayLike,
    confidence: float = 0.95,
    *,
    tails: Tails = "normal",
) -> Jackknife:
    """Return the two-way delete-one jackknife interval of a statistic.

    ``v = (I-1)/I sum_i (t_(-i) - mean)^2 + (S-1)/S sum_s (t_(-s) - mean)^2``, with
    Satterthwaite degrees of freedom ``v^2 / (v_I^2/(I-1) + v_S^2/(S-1))`` and a t
    quantile (method 3.1). The sum counts the interaction twice, so the interval is
    conservative when interaction dominates. Pass ratios on the log scale.

    Parameters
    ----------
    estimate : array_like, shape (...)
        The statistic on all images and styles.
    leave_image_out : array_like, shape (I, ...)
        The statistic without each image.
    leave_style_out : array_like, shape (S, ...)
        The statistic without each style.
    confidence : float
        Level of the interval.
    tails : {"normal", "heavy"}
        "heavy": for a component or a share of it, whose leave-one-out values have the tails of
        squared effects. The I - 1 and S - 1 above then become :func:`tail_dof`. In a ratio of
        paired arms the tails cancel, and "normal" covers as it says.

    Returns
    -------
    Jackknife
        A statistic that no image or style moves has se 0, an interval of no width and
        dof I + S - 2; a nan replicate gives nan in its entry only.

    Raises
    ------
    StatsnormError
        If shapes disagree, or there are fewer than two images or styles.

    Examples
    --------
    >>> r = two_way_jackknife(2.0, [1.0, 2.0, 3.0], [2.0, 2.0])
    >>> print(f"{r.se:.4f} {r.dof:.0f} {r.low:.4f} {r.high:.4f}")
    1.1547 2 -2.9683 6.9683
    """
    check_confidence(confidence)
    full = real_array(estimate, "estimate").astype(np.float64)
    by_image = _leave_out(leave_image_out, "leave_image_out", full.shape)
    by_style = _leave_out(leave_style_out, "leave_style_out", full.shape)
    check_choice(tails, ("normal", "heavy"), "tails")
    v_image, v_style = _variance(by_image), _variance(by_style)
    each = [tail_dof(x) if tails == "heavy" else len(x) - 1.0 for x in (by_image, by_style)]
    dof = satterthwaite(v_image, v_style, *each)
    se = np.sqrt(v_image + v_style)
    half = special.stdtrit(dof, 0.5 + confidence / 2) * se
    values = (full, se, dof, full - half, full + half)
    return Jackknife(*(np.asarray(value)[()] for value in values))


def jackknife_replicates(
    replicates: ArrayLike,
    n_images: int,
    n_styles: int,
    confidence: float = 0.95,
    *,
    tails: Tails = "normal",
) -> Jackknife:
    """Return :func:`two_way_jackknife` of stacked replicates (1 + I + S, ...).

    Row 0 is the estimate, then one row without each image, then one without each style.
    """
    rows = checked_replicates(replicates, n_images, n_styles)
    by_image, by_style = rows[1 : 1 + n_images], rows[1 + n_images :]
    return two_way_jackknife(rows[0], by_image, by_style, confidence, tails=tails)


def jackknife_covariances(
    replicates: ArrayLike, n_images: int, n_styles: int
) -> tuple[Array, Array]:
    """Return the image and the style part of the jackknife covariance, each (T, T).

    Parameters
    ----------
    replicates : array_like, shape (1 + I + S, T)
        Stacked replicates of T statistics.
    n_images, n_styles : int
        I and S.
    """
    rows = _columns(replicates, n_images, n_styles)
    parts = []
    for leave in (rows[1 : 1 + n_images], rows[1 + n_images :]):
        centred = leave - leave.mean(axis=0)
        parts.append((len(leave) - 1) / len(leave) * (centred.T @ centred))
    return parts[0], parts[1]


def simultaneous_intervals(
    replicates: ArrayLike, n_images: int, n_styles: int, *, confidence: float = 0.95
) -> SimultaneousIntervals:
    """Return intervals that hold together for T statistics (taps), by Bonferroni.

    Each is the jackknife-t interval at level 1 - (1 - confidence) / count, with its own degrees
    of freedom. At 95 % four taps of real moments were covered in 93.3 to 94.7 %; by the quantile
    of max |t| of a multivariate t in 91.7 to 92.8 %. So far out the t law is an approximation:
    sixteen taps of one channel each were covered in 90 % with 16 styles and 86 % with 8.

    Parameters
    ----------
    replicates : array_like, shape (1 + I + S, T)
        Stacked replicates, ratios on the log scale. A nan column gives a nan interval and is
        not counted, nor is one that no image or style moves.
    n_images, n_styles : int
        I and S.
    confidence : float
        Joint level.

    Raises
    ------
    StatsnormError
        If shapes disagree.

    References
    ----------
    .. [1] O. J. Dunn, J. Am. Stat. Assoc. 56 (1961), 52-64.
    """
    check_confidence(confidence)
    rows = _columns(replicates, n_images, n_styles)
    count = int((jackknife_replicates(rows, n_images, n_styles).se > 0).sum())
    level = 1 - (1 - confidence) / max(count, 1)
    x = jackknife_replicates(rows, n_images, n_styles, level)
    return SimultaneousIntervals(x.estimate, x.se, x.dof, x.low, x.high, count)


def _columns(replicates: ArrayLike, n_images: int, n_styles: int) -> Array:
    rows = checked_replicates(replicates, n_images, n_styles)
    if rows.ndim != 2:
        raise StatsnormError(f"replicates must have shape (1 + I + S, T), got {rows.shape}")
    return rows


def checked_replicates(
    replicates: ArrayLike, n_images: int, n_styles: int, name: str = "replicates"
) -> Array:
    """Return stacked replicates as float64 after checking their first axis."""
    rows = real_array(replicates, name).astype(np.float64)
    if n_images < 2 or n_styles < 2:
        raise StatsnormError(
            f"a two-way jackknife needs 2 images and 2 styles, got {n_images} and {n_styles}"
        )
    if not rows.ndim or len(rows) != 1 + n_images + n_styles:
        raise StatsnormError(
            f"{name} must have 1 + {n_images} + {n_styles} = {1 + n_images + n_styles} rows "
            f"(estimate, without each image, without each style), got shape {rows.shape}"
        )
    return rows


def satterthwaite(
    v_image: Array, v_style: Array, dof_image: Array | float, dof_style: Array | float
) -> Array:
    """Return the degrees of freedom of v_I + v_S; the sum of theirs where both are zero."""
    total = v_image + v_style
    share = np.divide(v_image, total, out=np.full_like(total, np.nan), where=total > 0)
    dof = 1 / (share**2 / dof_image + (1 - share) ** 2 / dof_style)
    return np.asarray(np.where(total == 0, dof_image + dof_style, dof))


def tail_dof(leave_out: Array) -> Array:
    """Return the degrees of freedom (...) of the variance of leave-one-out values (n, ...).

    The variance of n values with excess kurtosis g varies as much as that of normal ones with
    2 / (2 / (n-1) + g / n) degrees of freedom. g is the unbiased estimate for normal values, 0
    where that is negative, so the result is at most n - 1; n - 1 for fewer than four values.

    References
    ----------
    .. [1] B. O'Neill, Am. Stat. 68 (2014), 282-296 (moments of the sample variance).
    """
    n = len(leave_out)
    gaps = np.square(leave_out - leave_out.mean(axis=0))
    spread = gaps.mean(axis=0)
    if n < FEWEST_FOR_KURTOSIS:
        return np.full(spread.shape, n - 1.0)
    normal = np.full_like(spread, 3 * (n - 1) / (n + 1))  # where all values agree
    kurtosis = np.divide(np.square(gaps).mean(axis=0), spread**2, out=normal, where=spread > 0)
    excess = (n - 1) / ((n - 2) * (n - 3)) * ((n + 1) * kurtosis - 3 * (n - 1))
    return np.asarray(2 / (2 / (n - 1) + excess.clip(min=0) / n))


def _leave_out(x: ArrayLike, name: str, shape: tuple[int, ...]) -> Array:
    array = real_array(x, name).astype(np.float64)
    if array.shape[1:] != shape or not array.ndim:
        raise StatsnormError(f"{name} must have shape (n, *{shape}), got {array.shape}")
    if len(array) < 2:
        raise StatsnormError(f"{name} has {len(array)} replicates; at least 2 are needed")
    return array


def _variance(leave_out: Array) -> Array:
    n = len(leave_out)
    return np.asarray((n - 1) / n * np.square(leave_out - leave_out.mean(axis=0)).sum(axis=0))
