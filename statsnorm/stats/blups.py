"""Predicted effects of styles and images: one number a level, for QQ plots."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from statsnorm.errors import StatsnormError
from statsnorm.stats.balanced import fit_effects
from statsnorm.stats.inputs import Array, design_array


def level_scores(y: ArrayLike) -> dict[str, Array]:
    """Return the BLUPs of styles and of contents on their first principal axis.

    A level's effect in a channel is shrunk by ``(MS - MS_IS) / MS``, at least 0, which is
    its best linear unbiased prediction in a balanced design [1]_. The axis is that of the
    levels themselves; channels are not replicates, so a level has one score. If effects are
    normal, scores are; one far out says that a single level makes the variance.

    Parameters
    ----------
    y : array_like, shape (I, S, K, C)
        Balanced; channels with nan or infinity are left out.

    Returns
    -------
    dict
        "style": (S,) and "content": (I,), float64, standard deviation 1 (ddof 1), the
        largest in size positive; zeros where nothing is predicted to differ.

    Raises
    ------
    StatsnormError
        If the shape is wrong, or every channel holds a nan or an infinity.

    References
    ----------
    .. [1] G. K. Robinson, Stat. Sci. 6 (1991), 15-32.
    """
    array = design_array(y)
    live = np.isfinite(array).all(axis=(0, 1, 2))
    if not live.any():
        raise StatsnormError(f"all {len(live)} channels hold a nan or an infinity")
    effects = fit_effects(array[..., live])
    images, styles, levels, _ = array.shape
    both = levels * np.square(effects.content_style).sum(axis=(0, 1))
    both /= (images - 1) * (styles - 1)  # MS_IS, (C,)
    return {
        "style": _scores(effects.style, images * levels, both),
        "content": _scores(effects.content, styles * levels, both),
    }


def _scores(effects: Array, cells: int, noise: Array) -> Array:
    """Return the scores (n,) of effects (n, C) that are means over `cells` cells each."""
    ms = cells * np.square(effects).sum(axis=0) / (len(effects) - 1)
    shrink = np.divide(ms - noise, ms, out=np.zeros_like(ms), where=ms > 0).clip(min=0)
    predicted = effects * shrink
    left, size, _ = np.linalg.svd(predicted, full_matrices=False)
    if not size[0] > 0:
        return np.zeros(len(effects))
    score = left[:, 0] * size[0]
    score = score / score.std(ddof=1)
    return np.asarray(score * np.sign(score[np.abs(score).argmax()]))
