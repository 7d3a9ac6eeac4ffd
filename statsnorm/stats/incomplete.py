"""U-statistic components of designs with missing cells, with every level left out.

One loop over pairs of styles gives, for each pair of contrast levels (k, l), three
covariances: over styles between different images, over images between different styles,
and of the interaction. All components but `contrast` are means of these over levels.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from statsnorm.stats.components import Contrast, with_conditional
from statsnorm.stats.inputs import Array

BLOCK = 1 << 5  # channels at a time: keeps the sums over tables in cache


def incomplete_components(
    y: NDArray[Any], contrast: Contrast, w: Array, u: Array, *, leave_out: bool
) -> dict[str, Array]:
    """Return the components (1, C), or with delete-one rows (1 + I + S, C).

    Parameters
    ----------
    y : ndarray, shape (I, S, K, C)
        A cell that is nan in all channels is missing.
    contrast : {"fixed", "random"}
        Convention of the contrast factor.
    w, u : ndarray of float64, shapes (I,) and (S,)
        Weights of images and styles.
    leave_out : bool
        Whether to add the delete-one rows.
    """
    present = ~np.isnan(y).all(axis=-1)  # (I, S, K)
    mask = present[..., None].astype(np.float64)
    found = [
        _channel_block(y[..., first : first + BLOCK], mask, contrast, (w, u), leave_out)
        for first in range(0, y.shape[3], BLOCK)
    ]
    return {name: np.concatenate([part[name] for part in found], axis=1) for name in found[0]}


def _channel_block(
    y: NDArray[Any],
    mask: Array,
    contrast: Contrast,
    weights: tuple[Array, Array],
    leave_out: bool,
) -> dict[str, Array]:
    centre = np.where(mask > 0, y, 0.0).sum(axis=(0, 1, 2)) / max(mask.sum(), 1)
    filled = np.where(mask > 0, y - centre, 0.0)
    style, content, both = _covariances(filled, mask, *weights, leave_out)
    parts = {
        "content": _over_levels(content, contrast),
        "style": _over_levels(style, contrast),
        "content_style": _over_levels(both, contrast),
    }
    if y.shape[2] > 1:
        crossed = {"content_contrast": content, "style_contrast": style, "residual": both}
        for name, cov in crossed.items():
            parts[name] = _diagonal(cov) - _over_levels(cov, "random")
        parts["contrast"] = _contrast(filled, mask, *weights, leave_out)
    return with_conditional(parts)


def _covariances(
    y: Array, mask: Array, w: Array, u: Array, leave_out: bool
) -> tuple[Array, Array, Array]:
    """Return the style, content and interaction covariances, each (R, K, K, C)."""
    n_images, n_styles, k, c = y.shape
    rows = 1 + n_images + n_styles if leave_out else 1
    tops = [np.zeros((rows, k, k, c)) for _ in range(3)]
    bottoms = [np.zeros((rows, k, k, 1)) for _ in range(3)]
    for s, t in combinations(range(n_styles), 2):
        if not (weight := u[s] * u[t]):
            continue
        joint = mask[:, s] * mask[:, t]  # (I, K, 1)
        gap = joint * (y[:, s] - y[:, t])  # (I, K, C)
        found = (
            _between(gap, joint, w, leave_out),
            _symmetric(_within(y[:, s], y[:, t], mask[:, s], mask[:, t], w, leave_out)),
            _within(gap, gap, joint, joint, w, leave_out),
        )
        affected = np.ones(rows, dtype=bool)
        if leave_out:
            affected[[1 + n_images + s, 1 + n_images + t]] = False
        for top, bottom, (value, tables) in zip(tops, bottoms, found, strict=True):
            head = 1 + n_images if leave_out else 1
            top[:head] += weight * value
            bottom[:head] += weight * tables
            top[head:][affected[head:]] += weight * value[0]
            bottom[head:][affected[head:]] += weight * tables[0]
    ratios = [
        np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0.5 * _least(w, u))
        for top, bottom in zip(tops, bottoms, strict=True)
    ]
    return ratios[0], ratios[1], ratios[2]


def _least(w: Array, u: Array) -> float:
    """Return the weight of the lightest possible table; less is rounding."""
    heavy, dense = w[w > 0], u[u > 0]
    return float((heavy.min() * dense.min()) ** 2) if heavy.size and dense.size else 1.0


def _between(gap: Array, joint: Array, w: Array, leave_out: bool) -> tuple[Array, Array]:
    """Sum gap_i[k] gap_j[l] over different images i, j; and the weight of these tables, twice."""

    def pairs(x: Array) -> Array:
        wx = w[:, None, None] * x
        total = wx.sum(axis=0)
        full = np.einsum("kc,lc->klc", total, total) - np.einsum("ikc,ilc->klc", wx, wx)
        if not leave_out:
            return np.asarray(full[None])
        cross = np.einsum("ikc,lc->iklc", wx, total)
        own = np.einsum("ikc,ilc->iklc", wx, wx)
        return np.concatenate([full[None], full - cross - cross.swapaxes(1, 2) + 2 * own])

    return pairs(gap), 2 * pairs(joint)


def _within(
    x: Array, z: Array, p: Array, q: Array, w: Array, leave_out: bool
) -> tuple[Array, Array]:
    """Sum (x_i - x_j)[k] (z_i - z_j)[l] over pairs of images where both are there.

    With weights: N G - R R' for N = sum w, G = sum w x z, R = sum w x, R' = sum w z over
    the images that have both cells; and twice the weight of these tables.
    """
    v = w[:, None, None]
    both = np.einsum("ika,ila->ikl", p, q)[..., None] * w[:, None, None, None]  # (I, K, K, 1)
    g = np.einsum("ikc,ilc->iklc", v * x, z)
    r = np.einsum("ikc,ila->iklc", v * x, q)
    s = np.einsum("ika,ilc->iklc", v * p, z)
    n, big_g, big_r, big_s = (part.sum(axis=0) for part in (both, g, r, s))
    square = np.square(both)
    top, bottom = n * big_g - big_r * big_s, n**2 - square.sum(axis=0)
    if not leave_out:
        return top[None], 2 * bottom[None]
    without = (n - both) * (big_g - g) - (big_r - r) * (big_s - s)
    tables = (n - both) ** 2 - (square.sum(axis=0) - square)
    return np.concatenate([top[None], without]), 2 * np.concatenate([bottom[None], tables])


def _symmetric(sums: tuple[Array, Array]) -> tuple[Array, Array]:
    """Add the sums with the two styles in each other's place; here each table counts once."""
    top, tables = sums
    return top + top.swapaxes(1, 2), 0.5 * (tables + tables.swapaxes(1, 2))


def _contrast(y: Array, mask: Array, w: Array, u: Array, leave_out: bool) -> Array:
    """Return the contrast component (R, C): level differences at distinct images and styles."""
    levels = y.shape[2]
    values = []
    for k, m in combinations(range(levels), 2):
        joint = mask[:, :, k] * mask[:, :, m]  # (I, S, 1)
        gap = joint * (y[:, :, k] - y[:, :, m])  # (I, S, C)
        top, tables = (_distinct(x, w, u, leave_out) for x in (gap, joint))
        values.append(
            np.divide(
                0.5 * top,
                tables,
                out=np.full_like(top, np.nan),
                where=tables > 0.5 * _least(w, u),
            )
        )
    return np.asarray(np.mean(values, axis=0))


def _distinct(x: Array, w: Array, u: Array, leave_out: bool) -> Array:
    """Sum x_is x_jt over different images and different styles, (R, C)."""
    z = w[:, None, None] * u[None, :, None] * x  # (I, S, C)
    by_image, by_style, square = z.sum(axis=1), z.sum(axis=0), np.square(z)
    total = by_style.sum(axis=0)
    full = (
        total**2
        - np.square(by_style).sum(axis=0)
        - np.square(by_image).sum(axis=0)
        + square.sum(axis=(0, 1))
    )
    if not leave_out:
        return np.asarray(full[None])
    rows = [full[None]]
    for own, other, axis in ((by_image, by_style, 1), (by_style, by_image, 0)):
        turned = z if axis == 1 else z.swapaxes(0, 1)  # (dropped, other, C)
        left = np.square(other - turned).sum(axis=1)
        kept = np.square(own).sum(axis=0) - np.square(own)
        squares = square.sum(axis=(0, 1)) - square.sum(axis=axis)
        rows.append((total - own) ** 2 - left - kept + squares)
    return np.concatenate(rows)


def _diagonal(cov: Array) -> Array:
    return np.asarray(np.einsum("rkkc->rkc", cov).mean(axis=1))


def _over_levels(cov: Array, contrast: Contrast) -> Array:
    """Return the mean over all pairs of levels (fixed) or over different ones (random)."""
    if contrast == "fixed":
        return np.asarray(cov.mean(axis=(1, 2)))
    apart = ~np.eye(cov.shape[1], dtype=bool)
    return np.asarray(cov[:, apart].mean(axis=1))
