"""Variance components as U-statistics: weights, resampling and missing cells.

Each component is the mean, over all tables of cells with distinct images and distinct
styles, of a product of differences: along a factor of the component both cells of a
difference share everything else, and along every other random factor the two differences
are taken at distinct levels. On balanced data this is the pairwise form of method 2.4
and equals mean squares; unlike that form it does not change when a constant is added to y
with cells missing or weights unequal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from statsnorm.errors import StatsnormError
from statsnorm.stats.components import (
    FACTORS,
    WITHOUT_LEVELS,
    Components,
    Contrast,
    components_result,
)
from statsnorm.stats.incomplete import incomplete_components
from statsnorm.stats.inputs import Array, check_choice, design_array, real_array

IN_IMAGE = ("content", "content_style", "content_contrast", "residual")
IN_STYLE = ("style", "content_style", "style_contrast", "residual")
IN_CONTRAST = ("contrast", "content_contrast", "style_contrast", "residual")


def ustatistic_components(
    y: ArrayLike,
    *,
    contrast: Contrast = "fixed",
    image_weights: ArrayLike | None = None,
    style_weights: ArrayLike | None = None,
) -> Components:
    """Return the variance components of every channel, with weights and missing cells.

    Unbiased where cells are missing at random; equal to :func:`crossed_components` on
    balanced data with equal weights.

    Parameters
    ----------
    y : array_like, shape (I, S, K, C)
        A cell that is nan in all channels is missing; any other nan makes its channel nan.
    contrast : {"fixed", "random"}
        As for :func:`crossed_components`. Fixed levels weigh equally whatever is missing.
    image_weights, style_weights : array_like, shapes (I,) and (S,), optional
        Non-negative; a level of integer weight 2 counts twice but is never paired with
        itself (pigeonhole bootstrap).

    Returns
    -------
    Components
        A component for which no complete table of cells is left is nan.

    Raises
    ------
    StatsnormError
        If the shape is wrong, an image or style with weight has no cell, or a weight is
        negative, not finite, or of the wrong shape.
    """
    array = _checked(y, contrast, least=2)
    n_images, n_styles, n_levels, _ = array.shape
    w = _weights(image_weights, n_images, "image_weights")
    u = _weights(style_weights, n_styles, "style_weights")
    if _missing(array).any():
        _require_margins(array, w, u)
        values = incomplete_components(array, contrast, w, u, leave_out=False)
    else:
        names = FACTORS if n_levels > 1 else (*WITHOUT_LEVELS, "style_given_content")
        values = {
            name: weighted_component(array, name, w[None], u[None], contrast=contrast)
            for name in names
        }
    return components_result({name: v[0] for name, v in values.items()}, contrast, array.shape)


def ustatistic_replicates(y: ArrayLike, *, contrast: Contrast = "fixed") -> dict[str, Array]:
    """Return every component with its delete-one replicates where cells are missing.

    The counterpart of :func:`component_replicates` for incomplete designs; slower (about
    S^2 I K^2 C operations: 2 s for 64 x 16 x 5 x 512).

    Returns
    -------
    dict of str to ndarray of float64, shape (1 + I + S, C)

    Raises
    ------
    StatsnormError
        If the shape is wrong, or an image or a style has no cell: it is no unit.
    """
    array = _checked(y, contrast, least=3)
    w, u = np.ones(array.shape[0]), np.ones(array.shape[1])
    _require_margins(array, w, u)
    return incomplete_components(array, contrast, w, u, leave_out=True)


def weighted_component(
    y: ArrayLike,
    factor: str,
    image_weights: ArrayLike,
    style_weights: ArrayLike,
    *,
    contrast: Contrast = "fixed",
) -> Array:
    """Return one component of a complete design for many sets of weights.

    Parameters
    ----------
    y : array_like, shape (I, S, K, C)
        Without missing cells.
    factor : str
        One of `FACTORS`.
    image_weights, style_weights : array_like, shapes (B, I) and (B, S)
        One row per replicate, e.g. multinomial counts.
    contrast : {"fixed", "random"}
        As for :func:`crossed_components`.

    Returns
    -------
    ndarray of float64, shape (B, C)
        nan where fewer than two distinct images or styles have weight.

    Raises
    ------
    StatsnormError
        If shapes disagree, a weight is negative or not finite, or the factor is unknown or absent.
    """
    array = _checked(y, contrast, least=2)
    check_choice(factor, FACTORS, "factor")
    n_images, n_styles, n_levels, n_channels = array.shape
    w, u = np.atleast_2d(image_weights), np.atleast_2d(style_weights)
    if w.shape != (len(u), n_images) or u.shape != (len(w), n_styles):
        raise StatsnormError(
            f"weights must be (B, {n_images}) and (B, {n_styles}), got {w.shape} and {u.shape}"
        )
    w, u = w.astype(np.float64), u.astype(np.float64)
    for name, given in (("image_weights", w), ("style_weights", u)):
        if not (np.isfinite(given) & (given >= 0)).all():
            raise StatsnormError(f"{name} must be finite and >= 0, got {given.min():.6g}")
    if factor.endswith("_given_content"):
        main = factor.removesuffix("_given_content")
        both = "content_style" if main == "style" else "content_contrast"
        return weighted_component(array, main, w, u, contrast=contrast) + weighted_component(
            array, both, w, u, contrast=contrast
        )
    within = factor in IN_CONTRAST
    if within and n_levels < 2:
        raise StatsnormError(f"factor {factor!r} needs at least 2 levels, got 1")
    centred = array - array.mean(axis=(0, 1, 2), dtype=np.float64)
    inside = (factor in IN_IMAGE, factor in IN_STYLE)
    total = _form(centred.sum(axis=2), w, u, inside)
    pairs = _pairs(w) * _pairs(u)  # (B,)
    scale = np.divide(1.0, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)[:, None]
    if not within and contrast == "fixed":
        return np.asarray(total * scale / n_levels**2)
    each = np.zeros((len(w), n_channels))
    for level in range(n_levels):
        each += _form(centred[:, :, level], w, u, inside)
    difference = n_levels * each - total if within else total - each
    return np.asarray(difference * scale / (n_levels * (n_levels - 1)))


def _form(x: Array, w: Array, u: Array, inside: tuple[bool, bool]) -> Array:
    """Return the quadratic form (B, C) of x (I, S, C): differences along the factors inside."""
    n_images, n_styles, n_channels = x.shape
    mixed = (w @ x.reshape(n_images, -1)).reshape(len(w), n_styles, n_channels)  # (B, S, C)
    if inside[1]:
        of_mixed = u.sum(axis=1)[:, None] * np.einsum("bs,bsc->bc", u, mixed**2)
        of_mixed -= np.einsum("bs,bsc->bc", u, mixed) ** 2
    else:
        of_mixed = np.einsum("bs,bsc->bc", u, mixed) ** 2
        of_mixed -= np.einsum("bs,bsc->bc", u**2, mixed**2)
    by_image = np.zeros((len(w), n_channels))
    weight = w.sum(axis=1)[:, None] * w if inside[0] else w**2  # (B, I)
    for image in range(n_images):
        plain, square = u @ x[image], (u if inside[1] else u**2) @ x[image] ** 2  # (B, C)
        if inside[1]:
            of_image = u.sum(axis=1)[:, None] * square - plain**2
        else:
            of_image = plain**2 - square
        by_image += weight[:, image, None] * of_image
    return np.asarray(by_image - of_mixed if inside[0] else of_mixed - by_image)


def _pairs(w: Array) -> Array:
    """Return the weight (B,) of all ordered pairs of distinct levels."""
    pairs = w.sum(axis=1) ** 2 - np.square(w).sum(axis=1)
    return np.asarray(np.where((w > 0).sum(axis=1) > 1, pairs, 0.0))


def _missing(y: NDArray[Any]) -> NDArray[np.bool_]:
    return np.asarray(np.isnan(y).all(axis=-1))


def _require_margins(y: NDArray[Any], w: Array, u: Array) -> None:
    """Refuse an image or a style without any cell: it would count as a unit of the intervals."""
    there = ~_missing(y)  # (I, S, K)
    if not there.any():
        return  # nan everywhere, in every channel
    sides: list[tuple[str, NDArray[np.bool_], Array]] = [
        ("images", np.asarray(there.any(axis=(1, 2))), w),
        ("styles", np.asarray(there.any(axis=(0, 2))), u),
    ]
    for label, found, weight in sides:
        empty = np.flatnonzero((weight > 0) & np.logical_not(found))
        if empty.size:
            raise StatsnormError(
                f"{label} {empty[:5].tolist()} have no cell ({empty.size} of {found.size}); "
                "leave them out of the array"
            )


def _checked(y: ArrayLike, contrast: str, *, least: int) -> NDArray[Any]:
    check_choice(contrast, ("fixed", "random"), "contrast")
    array = design_array(y, least=least)
    if contrast == "random" and array.shape[2] < 2:
        raise StatsnormError("contrast='random' needs at least 2 levels, got 1; use 'fixed'")
    return array


def _weights(given: ArrayLike | None, n: int, name: str) -> Array:
    if given is None:
        return np.ones(n)
    weights = real_array(given, name).astype(np.float64)
    if weights.shape != (n,):
        raise StatsnormError(f"{name} must have shape ({n},), got {weights.shape}")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise StatsnormError(f"{name} must be finite and >= 0, got {weights.min():.6g}")
    return weights
