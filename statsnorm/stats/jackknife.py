"""Two-way delete-one jackknife over images and styles, and simultaneous intervals from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from statsnorm.errors import StatsnormError
from statsnorm.stats.inputs import Array, check_confidence, real_array
from statsnorm.stats.result import Shown
from statsnorm.stats.samples import generator


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
    low: Array
    high: Array
    critical: float  # quantile of max |t|
    dof: float


def two_way_jackknife(
    estimate: ArrayLike,
    leave_image_out: ArrayLike,
    leave_style_out: ArrayLike,
    confidence: float = 0.95,
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
    v_image, v_style = _variance(by_image), _variance(by_style)
    dof = satterthwaite(v_image, v_style, len(by_image), len(by_style))
    se = np.sqrt(v_image + v_style)
    half = special.stdtrit(dof, 0.5 + confidence / 2) * se
    values = (full, se, dof, full - half, full + half)
    return Jackknife(*(np.asarray(value)[()] for value in values))


def jackknife_replicates(
    replicates: ArrayLike, n_images: int, n_styles: int, confidence: float = 0.95
) -> Jackknife:
    """Return :func:`two_way_jackknife` of stacked replicates (1 + I + S, ...).

    Row 0 is the estimate, then one row without each image, then one without each style.
    """
    rows = checked_replicates(replicates, n_images, n_styles)
    return two_way_jackknife(rows[0], rows[1 : 1 + n_images], rows[1 + n_images :], confidence)


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
    rows = checked_replicates(replicates, n_images, n_styles)
    if rows.ndim != 2:
        raise StatsnormError(f"replicates must have shape (1 + I + S, T), got {rows.shape}")
    parts = []
    for leave in (rows[1 : 1 + n_images], rows[1 + n_images :]):
        centred = leave - leave.mean(axis=0)
        parts.append((len(leave) - 1) / len(leave) * (centred.T @ centred))
    return parts[0], parts[1]


def simultaneous_intervals(
    replicates: ArrayLike,
    n_images: int,
    n_styles: int,
    *,
    rng: np.random.Generator,
    confidence: float = 0.95,
    draws: int = 20_000,
) -> SimultaneousIntervals:
    """Return intervals that hold together for T statistics (taps), by max |t|.

    The correlation is that of the jackknife covariance; the critical value is the
    quantile of max |t| of a multivariate t, drawn by Monte Carlo, with the smallest
    Satterthwaite dof of the T statistics (conservative).

    Parameters
    ----------
    replicates : array_like, shape (1 + I + S, T)
        Stacked replicates, ratios on the log scale. A nan column gives a nan interval
        and does not enter the maximum.
    n_images, n_styles : int
        I and S.
    rng : numpy.random.Generator
        For the draws of max |t|.
    confidence : float
        Joint level.
    draws : int
        Monte-Carlo draws.

    Raises
    ------
    StatsnormError
        If shapes disagree or `draws` is below 1000.
    """
    check_confidence(confidence)
    generator(rng)
    if draws < 1000:
        raise StatsnormError(f"draws must be at least 1000, got {draws}")
    part_i, part_s = jackknife_covariances(replicates, n_images, n_styles)
    rows = np.asarray(replicates, dtype=np.float64)
    dof = satterthwaite(np.diag(part_i), np.diag(part_s), n_images, n_styles)
    covariance = part_i + part_s
    se = np.sqrt(np.diag(covariance))
    use = np.isfinite(se) & (se > 0)
    critical, smallest = np.nan, np.nan
    if use.any():
        smallest = float(dof[use].min())
        correlation = (
            (covariance / np.outer(se, se))[np.ix_(use, use)]
            if use.all()
            else (covariance[np.ix_(use, use)] / np.outer(se[use], se[use]))
        )
        values, vectors = np.linalg.eigh(correlation)
        root = vectors * np.sqrt(values.clip(min=0))
        normal = np.abs(rng.standard_normal((draws, len(values))) @ root.T).max(axis=1)
        t = normal / np.sqrt(rng.chisquare(smallest, draws) / smallest)
        critical = float(np.quantile(t, confidence, method="higher"))
    half = np.where(se == 0, 0.0, critical * se)
    return SimultaneousIntervals(rows[0], se, rows[0] - half, rows[0] + half, critical, smallest)


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


def satterthwaite(v_image: Array, v_style: Array, n_images: int, n_styles: int) -> Array:
    """Return the degrees of freedom of v_I + v_S; I + S - 2 where both are zero."""
    total = v_image + v_style
    share = np.divide(v_image, total, out=np.full_like(total, np.nan), where=total > 0)
    dof = 1 / (share**2 / (n_images - 1) + (1 - share) ** 2 / (n_styles - 1))
    return np.asarray(np.where(total == 0, n_images + n_styles - 2.0, dof))


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
