"""Pigeonhole bootstrap over images and styles, with U-statistic weights.

For what has no jackknife: medians over channels, probe accuracies. Its standard deviation
goes with a t quantile; percentiles cover too little (method 3.1) and are not offered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from statsnorm.errors import StatsnormError
from statsnorm.stats.components import FACTORS, Contrast
from statsnorm.stats.inputs import Array, check_choice, check_confidence, real_array
from statsnorm.stats.result import Shown
from statsnorm.stats.samples import generator, whole
from statsnorm.stats.traces import missing_cells, paired_designs
from statsnorm.stats.ustatistic import weighted_component

CHUNK = 1 << 22  # numbers in one batch of weighted designs


@dataclass(frozen=True, slots=True)
class Bootstrap(Shown):
    """Result of the pigeonhole bootstrap."""

    estimate: float  # with all weights 1
    se: float  # standard deviation (ddof 1) of the replicates
    low: float
    high: float
    dof: float
    replicates: int
    undefined: int  # replicates that were nan, left out
    confidence: float


def pigeonhole_weights(
    n_images: int, n_styles: int, replicates: int, *, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Return independent multinomial counts for images (B, I) and styles (B, S).

    References
    ----------
    .. [1] A. B. Owen, Ann. Appl. Stat. 1 (2007), 386-411.
    """
    generator(rng)
    for name, value, least in (
        ("n_images", n_images, 2),
        ("n_styles", n_styles, 2),
        ("replicates", replicates, 2),
    ):
        whole(name, value, least=least)
    images = rng.multinomial(n_images, np.full(n_images, 1 / n_images), size=replicates)
    styles = rng.multinomial(n_styles, np.full(n_styles, 1 / n_styles), size=replicates)
    return images.astype(np.float64), styles.astype(np.float64)


def pigeonhole_bootstrap(
    statistic: Callable[[Array, Array], float],
    n_images: int,
    n_styles: int,
    *,
    rng: np.random.Generator,
    replicates: int = 1000,
    confidence: float = 0.95,
    dof: float | None = None,
) -> Bootstrap:
    """Bootstrap a weighted statistic over images and styles.

    Parameters
    ----------
    statistic : callable
        ``statistic(image_weights (I,), style_weights (S,)) -> float``. A level with weight
        2 must not be paired with itself; nan where the weights allow no estimate.
    n_images, n_styles : int
        I and S.
    rng : numpy.random.Generator
        For the weights.
    replicates : int
        B.
    confidence : float
        Level of the interval ``estimate +- t se``.
    dof : float, optional
        Of the t quantile; default the smaller of I - 1 and S - 1.

    Raises
    ------
    StatsnormError
        If fewer than half of the replicates are defined.

    Examples
    --------
    >>> right = np.array([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    >>> r = pigeonhole_bootstrap(lambda w, u: w @ right @ u / (w.sum() * u.sum()), 3, 3,
    ...                          rng=np.random.default_rng(1))
    >>> print(f"{r.estimate:.4f} {r.dof:.0f}")
    0.7778 2
    """
    check_confidence(confidence)
    images, styles = pigeonhole_weights(n_images, n_styles, replicates, rng=rng)
    estimate = float(statistic(np.ones(n_images), np.ones(n_styles)))
    values = np.array([float(statistic(w, u)) for w, u in zip(images, styles, strict=True)])
    limit = float(min(n_images, n_styles) - 1) if dof is None else float(dof)
    return _summary(estimate, values, limit, confidence)


def pigeonhole_removed(
    before: ArrayLike,
    after: ArrayLike,
    *,
    rng: np.random.Generator,
    factor: str = "style",
    contrast: Contrast = "fixed",
    aggregate: Literal["trace", "median"] = "median",
    replicates: int = 1000,
    confidence: float = 0.95,
) -> Bootstrap:
    """Bootstrap R = 1 - V_after / V_before, for medians over channels and for plots.

    Parameters
    ----------
    before, after : array_like, shape (I, S, K, C)
        As for :func:`removed_fraction`, without missing cells; channels with nan in
        either are left out.
    rng : numpy.random.Generator
        For the weights; both arms share them.
    factor, contrast
        As for :func:`removed_fraction`.
    aggregate : {"trace", "median"}
        V is the mean or the median over channels.
    replicates : int
        B.
    confidence : float
        Level of the interval: t quantile, dof min(I, S) - 1, on R itself.

    Raises
    ------
    StatsnormError
        If cells are missing, no channel is left, or fewer than half of the replicates
        have a positive V_before.
    """
    check_choice(factor, FACTORS, "factor")
    check_choice(aggregate, ("trace", "median"), "aggregate")
    check_confidence(confidence)
    arms = paired_designs(before, after)
    if gone := int(missing_cells(arms[0]).sum()):
        raise StatsnormError(
            f"{gone} of {arms[0][..., 0].size} cells are missing; drop their images first"
        )
    live = ~np.any([np.isnan(arm).any(axis=(0, 1, 2)) for arm in arms], axis=0)
    if not live.any():
        raise StatsnormError(f"all {live.size} channels hold a nan")
    n_images, n_styles = arms[0].shape[:2]
    w, u = pigeonhole_weights(n_images, n_styles, replicates, rng=rng)
    w, u = (np.concatenate([np.ones((1, x.shape[1])), x]) for x in (w, u))
    step = max(1, CHUNK // (max(n_images, n_styles) * int(live.sum())))
    ratios = []
    for first in range(0, len(w), step):
        part = slice(first, first + step)
        bottom, top = (
            _aggregate(
                weighted_component(arm[..., live], factor, w[part], u[part], contrast=contrast),
                aggregate,
            )
            for arm in arms
        )
        good = bottom > 0
        ratios.append(1 - np.divide(top, bottom, out=np.full(len(top), np.nan), where=good))
    values = np.concatenate(ratios)
    return _summary(float(values[0]), values[1:], float(min(n_images, n_styles) - 1), confidence)


def _aggregate(channels: Array, how: str) -> Array:
    return np.asarray(channels.mean(axis=1) if how == "trace" else np.median(channels, axis=1))


def _summary(estimate: float, values: Array, dof: float, confidence: float) -> Bootstrap:
    defined = real_array(values, "replicates")[np.isfinite(values)]
    if 2 * len(defined) < len(values):
        raise StatsnormError(
            f"only {len(defined)} of {len(values)} bootstrap replicates are defined: too few "
            "distinct levels, or a variance that is not positive; use more images and styles"
        )
    se = float(defined.std(ddof=1))
    half = float(special.stdtrit(dof, 0.5 + confidence / 2)) * se
    return Bootstrap(
        estimate=estimate,
        se=se,
        low=estimate - half,
        high=estimate + half,
        dof=dof,
        replicates=len(values),
        undefined=len(values) - len(defined),
        confidence=confidence,
    )
