"""Moments with known variance components: normal, heavy-tailed, or resampled from a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from statsnorm.stats.inputs import Array

CHANNELS = 32
OVERLAP = 0.8  # correlation of a factor's effects before and after treatment
VARIANCES = {
    "content": 1.0,
    "style": 1.0,
    "contrast": 0.5,
    "content_style": 0.5,
    "content_contrast": 0.2,
    "style_contrast": 0.2,
    "residual": 0.1,
}
AXES = {
    "content": (0,),
    "style": (1,),
    "contrast": (2,),
    "content_style": (0, 1),
    "content_contrast": (0, 2),
    "style_contrast": (1, 2),
    "residual": (0, 1, 2),
}


@dataclass(frozen=True, slots=True)
class Law:
    """Where effects come from; `draw` gives independent rows of mean 0 and known trace."""

    name: str  # gaussian, t5, or the path of the pools of a real run
    pools: Mapping[str, Array]  # factor -> (rows, C); empty for the parametric laws

    def trace(self, factor: str) -> float:
        """Return the variance of a factor's effects, averaged over channels."""
        if self.pools:
            return float((self.pools[factor] ** 2).mean())
        return VARIANCES[factor]

    def draw(self, rng: np.random.Generator, factor: str, rows: int) -> Array:
        """Return independent effects (rows, C)."""
        if self.pools:
            pool = self.pools[factor]
            return pool[rng.integers(len(pool), size=rows)]
        latent = mixing()
        shape = (rows, len(latent))
        z = rng.normal(size=shape)
        if self.name == "t5":
            z = rng.standard_t(5, size=shape) * np.sqrt(3 / 5)
        effects: Array = np.sqrt(VARIANCES[factor]) * z @ latent
        return effects


@cache
def mixing() -> Array:
    """Return a mixing matrix (latents, C) that correlates channels; unit variances."""
    rng = np.random.default_rng(20170320)
    shared = rng.normal(size=(4, CHANNELS))
    matrix = np.concatenate([shared, 1.5 * np.eye(CHANNELS)])
    unit: Array = matrix / np.linalg.norm(matrix, axis=0)
    return unit


@cache
def law(name: str) -> Law:
    """Return a law by name, or from a file of pools written by :func:`save_pools`."""
    if name in ("gaussian", "t5"):
        return Law(name, {})
    with np.load(name) as pools:
        return Law(name, {factor: pools[factor] for factor in AXES})


def save_pools(path: Path, y: Array) -> None:
    """Write the fitted effects of a real design y (I, S, K, C) as pools to resample from.

    The pool is the population: its own mean is 0 and its mean square the true variance.
    """
    keep = np.linspace(0, y.shape[3] - 1, min(CHANNELS, y.shape[3])).astype(int)
    rest = y[..., keep] - y[..., keep].mean(axis=(0, 1, 2))
    pools = {}
    for factor, axes in AXES.items():
        others = tuple(a for a in range(3) if a not in axes)
        effect = rest.mean(axis=others, keepdims=True)
        rest = rest - effect
        pools[factor] = effect.reshape(-1, len(keep))
    np.savez(path, **pools)


def arms(
    source: Law,
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    removed: Mapping[str, float],
    *,
    contrast: str = "fixed",
) -> tuple[Array, Array]:
    """Return designs (I, S, K, C) before and after a treatment that removes known fractions.

    Interactions with contrast go with their random factor, so that with contrast fixed
    R_S = removed["style"] exactly, R_I and R_K likewise.
    """
    share = {
        **removed,
        "content_style": removed["style"],
        "style_contrast": removed["style"],
        "content_contrast": removed["content"],
        "residual": removed["style"],
    }
    before, after = np.zeros(1), np.zeros(1)
    for factor, axes in AXES.items():
        size = tuple(n if a in axes else 1 for a, n in enumerate(shape))
        first, new = (source.draw(rng, factor, int(np.prod(size))) for _ in range(2))
        if factor == "contrast" and contrast == "fixed":
            first = new = levels(shape[2], source, first.shape[1])
        changed = OVERLAP * first + np.sqrt(1 - OVERLAP**2) * new
        if factor == "contrast" and contrast == "fixed":
            changed = first
        before = before + first.reshape(*size, -1)
        after = after + np.sqrt(1 - share[factor]) * changed.reshape(*size, -1)
    return before, after


def levels(count: int, source: Law, channels: int) -> Array:
    """Return the effects (K, C) of fixed levels, evenly spaced; sum of squares / (K-1) known."""
    steps = np.linspace(-1, 1, count)
    scaled = steps * np.sqrt(source.trace("contrast") * (count - 1) / (steps**2).sum())
    return np.outer(scaled, np.ones(channels))


def true_components(source: Law, count: int, contrast: str) -> dict[str, float]:
    """Return what `crossed_components` estimates under each convention (method 2.4)."""
    v = {factor: source.trace(factor) for factor in AXES}
    if contrast == "fixed":
        v["style"] += v["style_contrast"] / count
        v["content"] += v["content_contrast"] / count
        v["content_style"] += v["residual"] / count
    return v
