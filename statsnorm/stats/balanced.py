"""Least-squares effects and sums of squares of a balanced design, with every level left out.

Two passes over y in blocks of images; the three-way residual is never held at once, and
no sum is computed anew for a left-out level.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from statsnorm.stats.inputs import CONSTANT, Array

BLOCK = 1 << 17  # numbers per block of images: 1 MiB of float64 stays in cache


@dataclass(frozen=True, slots=True)
class Effects:
    """Least-squares effects of a balanced design; each sums to zero over its axes."""

    origin: Array  # (C,) subtracted first: a large common offset costs no digits
    content: Array  # (I, C)
    style: Array  # (S, C)
    contrast: Array  # (K, C)
    content_style: Array  # (I, S, C)
    content_contrast: Array  # (I, K, C)
    style_contrast: Array  # (S, K, C)
    grand: Array  # (C,) mean of y - origin


@dataclass(frozen=True, slots=True)
class ResidualSums:
    """Sums over the three-way residual e (I, S, K, C), which is never held at once."""

    by_image: Array  # (I, C) sum of e^2
    by_style: Array  # (S, C)
    image_cross: Array  # (I, C) sum over s, k of e times the style x contrast effect
    style_cross: Array  # (S, C) sum over i, k of e times the content x contrast effect


def _blocks(y: NDArray[Any], origin: Array) -> Iterator[tuple[slice, Array]]:
    """Yield (images, y - origin) in float64, a cache-sized block at a time."""
    step = max(1, BLOCK // (y.shape[1] * y.shape[2] * y.shape[3]))
    for first in range(0, len(y), step):
        rows = slice(first, first + step)
        yield rows, y[rows] - origin


def fit_effects(y: NDArray[Any]) -> Effects:
    """Return the least-squares effects of y (I, S, K, C) in one pass."""
    n_images, n_styles, n_levels, n_channels = y.shape
    origin = y[0, 0, 0].astype(np.float64)
    origin[~np.isfinite(origin)] = 0.0
    cell = np.empty((n_images, n_styles, n_channels))  # means over levels
    ik = np.empty((n_images, n_levels, n_channels))
    sk = np.zeros((n_styles, n_levels, n_channels))
    with np.errstate(invalid="ignore"):  # an infinite cell: its channel becomes nan
        for rows, block in _blocks(y, origin):
            cell[rows] = block.mean(axis=2)
            ik[rows] = block.mean(axis=1)
            sk += block.sum(axis=0)
        sk /= n_images
        grand = cell.mean(axis=(0, 1))
        grand[~np.isfinite(grand)] = np.nan
        content, style = cell.mean(axis=1) - grand, cell.mean(axis=0) - grand
        contrast = sk.mean(axis=0) - grand
        cell -= (content + grand)[:, None]
        cell -= style
        ik -= (content + grand)[:, None]
        ik -= contrast
        sk -= (style + grand)[:, None]
        sk -= contrast
    return Effects(origin, content, style, contrast, cell, ik, sk, grand)


def residual_sums(y: NDArray[Any], effects: Effects) -> ResidualSums:
    """Return the sums over the three-way residual in a second pass over y."""
    by_image, image_cross = np.empty_like(effects.content), np.empty_like(effects.content)
    by_style, style_cross = np.zeros_like(effects.style), np.zeros_like(effects.style)
    cell = effects.content_style + (effects.content + effects.grand)[:, None] + effects.style
    within = effects.content_contrast + effects.contrast  # (I, K, C)
    with np.errstate(invalid="ignore"):
        for rows, e in _blocks(y, effects.origin):
            e -= cell[rows, :, None]
            e -= within[rows, None]
            e -= effects.style_contrast
            image_cross[rows] = np.einsum("iskc,skc->ic", e, effects.style_contrast)
            style_cross += np.einsum("iskc,ikc->sc", e, effects.content_contrast[rows])
            np.square(e, out=e)
            squares = e.sum(axis=2)  # (i, S, C)
            by_image[rows] = squares.sum(axis=1)
            by_style += squares.sum(axis=0)
    return ResidualSums(by_image, by_style, image_cross, style_cross)


def sums_of_squares(effects: Effects, sums: ResidualSums) -> dict[str, Array]:
    """Return the seven sums of squares (C,)."""
    images, styles, levels = len(effects.content), len(effects.style), len(effects.contrast)
    return {
        "content": styles * levels * _square(effects.content, 0),
        "style": images * levels * _square(effects.style, 0),
        "contrast": images * styles * _square(effects.contrast, 0),
        "content_style": levels * _square(effects.content_style, (0, 1)),
        "content_contrast": styles * _square(effects.content_contrast, (0, 1)),
        "style_contrast": images * _square(effects.style_contrast, (0, 1)),
        "residual": sums.by_image.sum(axis=0),
    }


SWAP = {
    "content": "style",
    "style": "content",
    "content_contrast": "style_contrast",
    "style_contrast": "content_contrast",
}


def swapped(
    effects: Effects, sums: ResidualSums, squares: dict[str, Array]
) -> tuple[Effects, ResidualSums, dict[str, Array]]:
    """Return the same design with images and styles in each other's place."""
    turned = Effects(
        effects.origin,
        effects.style,
        effects.content,
        effects.contrast,
        effects.content_style.swapaxes(0, 1),
        effects.style_contrast,
        effects.content_contrast,
        effects.grand,
    )
    flipped = ResidualSums(sums.by_style, sums.by_image, sums.style_cross, sums.image_cross)
    return turned, flipped, {SWAP.get(name, name): value for name, value in squares.items()}


def squares_without_images(
    effects: Effects, sums: ResidualSums, squares: dict[str, Array]
) -> dict[str, Array]:
    """Return the sums of squares (I, C) of the design without each image in turn.

    A sum of squares over n centred values falls by x^2 n/(n-1) when x is dropped; an
    effect averaged over images moves by the dropped image's interaction over n - 1.
    """
    n, levels = len(effects.content), len(effects.contrast)
    styles = len(effects.style)
    lost, left = n / (n - 1), n - 1
    style = np.stack([effects.style - ab / left for ab in effects.content_style])
    contrast = effects.contrast - effects.content_contrast / left  # (I, K, C)
    kept = {
        "content": squares["content"] - lost * styles * levels * effects.content**2,
        "style": left * levels * _square(style, 1),
        "contrast": left * styles * _square(contrast, 1),
        "content_style": squares["content_style"]
        - lost * levels * _square(effects.content_style, 1),
        "content_contrast": squares["content_contrast"]
        - lost * styles * _square(effects.content_contrast, 1),
        "style_contrast": left * squares["style_contrast"] / n
        - 2 * sums.image_cross
        + sums.by_image / left,
        "residual": squares["residual"] - lost * sums.by_image,
    }
    return {name: np.maximum(value, 0.0) for name, value in kept.items()}


def _square(x: Array, axis: int | tuple[int, ...]) -> Array:
    return np.asarray(np.square(x).sum(axis=axis))


def constant_channels(effects: Effects, squares: dict[str, Array], cells: int) -> NDArray[np.bool_]:
    """Say which channels (C,) vary by no more than their own rounding."""
    total = np.sum([value[0] for value in squares.values()], axis=0)
    size = np.maximum(np.abs(effects.origin), np.abs(effects.origin + effects.grand))
    return np.asarray(total <= cells * (CONSTANT * size) ** 2)
