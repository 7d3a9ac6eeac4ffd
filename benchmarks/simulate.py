"""Moments with known variance components: normal, heavy-tailed, or resampled from a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from statsnorm.stats.inputs import Array

Values = dict[str, Array]
"""Quantity -> one value a replicate: 1 where an interval covers or a test rejects, or an error."""

ALPHA = 0.05
CHANNELS = 16
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


FOLLOWS = {
    "content_style": "style",
    "style_contrast": "style",
    "content_contrast": "content",
    "residual": "style",
}
"""Whose removed fraction an interaction has."""


@dataclass(frozen=True, slots=True)
class Law:
    """Where effects come from; `draw` gives independent rows of mean 0 and known trace."""

    tails: str  # gaussian or t5; not used with pools
    pools: Mapping[str, Array]  # factor -> (rows, C), of a real run; empty for the others
    style_dimensions: int = 0  # latent dimensions of style; 0: as many as the other factors have

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
        latent = mixing(self.style_dimensions if factor == "style" else 0)
        shape = (rows, len(latent))
        if self.tails == "t5":
            z = rng.standard_t(5, size=shape) * np.sqrt(3 / 5)
        else:
            z = rng.normal(size=shape)
        effects: Array = np.sqrt(VARIANCES[factor]) * z @ latent
        return effects


@cache
def mixing(dimensions: int = 0) -> Array:
    """Return a mixing matrix (latents, C) that correlates channels; unit variances.

    With few `dimensions` all channels are mixtures of so many latent variables.
    """
    rng = np.random.default_rng(20170320)
    shared = rng.normal(size=(dimensions or 4, CHANNELS))
    matrix = shared if dimensions else np.concatenate([shared, 1.5 * np.eye(CHANNELS)])
    unit: Array = matrix / np.linalg.norm(matrix, axis=0)
    return unit


@cache
def law(name: str) -> Law:
    """Return a law: "gaussian", "t5", "t5:2" (styles of two latent dimensions), or a pools file."""
    tails, _, dimensions = name.partition(":")
    if tails in ("gaussian", "t5"):
        return Law(tails, {}, int(dimensions or 0))
    with np.load(name) as pools:
        return Law("", {factor: pools[factor] for factor in AXES})


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
    *treatments: Mapping[str, float],
    contrast: str = "fixed",
    channels: int = CHANNELS,
    batch: int = 1,
) -> list[Array]:
    """Return designs (I, S, K, batch * C): before, and after each treatment.

    Interactions with contrast go with their random factor, so that with contrast fixed
    R_S = removed["style"] exactly, R_I and R_K likewise. Independent replicates lie side by side
    on the channel axis.
    """
    designs = [np.zeros(1) for _ in range(1 + len(treatments))]
    for factor, axes in AXES.items():
        size = tuple(n if a in axes else 1 for a, n in enumerate(shape))
        rows = int(np.prod(size)) * batch
        fixed = factor == "contrast" and contrast == "fixed"
        if fixed:
            first = np.repeat(levels(shape[2], source, channels), batch, axis=0)
        else:
            first = source.draw(rng, factor, rows)[:, :channels]
        designs[0] = designs[0] + first.reshape(*size, -1)
        for place, removed in enumerate(treatments, start=1):
            new = first if fixed else source.draw(rng, factor, rows)[:, :channels]
            changed = first if fixed else OVERLAP * first + np.sqrt(1 - OVERLAP**2) * new
            kept = np.sqrt(1 - removed[FOLLOWS.get(factor, factor)])
            designs[place] = designs[place] + kept * changed.reshape(*size, -1)
    return designs


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


def repeated(
    once: Callable[[np.random.Generator], Mapping[str, float]],
    rng: np.random.Generator,
    replicates: int,
) -> Values:
    """Return the values of independent replicates of `once`."""
    rows = [once(rng) for _ in range(replicates)]
    return {name: np.array([row[name] for row in rows], dtype=float) for name in rows[0]}


def inside(result: Any, truth: float) -> float:
    """Return 1 where an interval covers the truth; a nan end covers nothing."""
    return float(result.low <= truth <= result.high)


def rejects(pvalue: Any) -> float:
    """Return 1 where a p-value is at most 5 %."""
    return float(pvalue <= ALPHA)
