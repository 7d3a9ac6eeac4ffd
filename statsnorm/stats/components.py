"""Variance components of a crossed images x styles x levels design, for all channels at once.

Balanced expected-mean-squares estimators and, by downdating sums of squares, their
leave-one-image-out and leave-one-style-out replicates. For missing cells and weights see
:mod:`statsnorm.stats.ustatistic`. The input is read in blocks and never copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from statsnorm.errors import StatsnormError
from statsnorm.stats.balanced import (
    SWAP,
    constant_channels,
    fit_effects,
    residual_sums,
    squares_without_images,
    sums_of_squares,
    swapped,
)
from statsnorm.stats.inputs import Array, check_choice, design_array
from statsnorm.stats.result import Shown

Contrast = Literal["fixed", "random"]

BASE = (
    "content",
    "style",
    "contrast",
    "content_style",
    "content_contrast",
    "style_contrast",
    "residual",
)
"""The seven components; `residual` is the three-way interaction (one image per cell)."""
WITHOUT_LEVELS = ("content", "style", "content_style")
CONDITIONAL = {
    "style_given_content": ("style", "content_style"),
    "contrast_given_content": ("contrast", "content_contrast"),
}
FACTORS = (*BASE, *CONDITIONAL)


@dataclass(frozen=True, slots=True)
class Components(Shown):
    """Result of :func:`crossed_components`; arrays (C,), in squared units of `y`.

    Negative estimates are kept. A component without levels (K = 1), and every component of
    a channel with a nan, is nan; a constant channel has zeros.
    """

    content: Array
    style: Array
    contrast: Array
    content_style: Array
    content_contrast: Array
    style_contrast: Array
    residual: Array
    style_given_content: Array  # style + content_style: all that style does to one content
    contrast_given_content: Array  # contrast + content_contrast
    convention: str  # of the contrast factor: fixed or random
    n_images: int
    n_styles: int
    n_levels: int
    n_nan: int  # channels lost to nan


def crossed_components(y: ArrayLike, *, contrast: Contrast = "fixed") -> Components:
    """Return the unbiased variance components of every channel of a crossed design.

    The model is ``y = mu + content + style + contrast + all interactions`` with images
    and styles random and one image per cell [1]_. Method-of-moments estimates, untruncated.

    Parameters
    ----------
    y : array_like, shape (I, S, K, C)
        A moment (m or v) per image, style, contrast level and channel. K = 1: no contrast.
    contrast : {"fixed", "random"}
        Fixed (default): the K levels are all there is (Cornfield-Tukey): ``style =
        (MS_S - MS_IS)/(IK)``, ``content = (MS_I - MS_IS)/(SK)``, ``content_style =
        MS_IS/K``; interactions with contrast have divisor K - 1. Random: the levels are a
        sample, and ``style[fixed] = style[random] + style_contrast/K``.

    Returns
    -------
    Components
        float64 arrays of shape (C,).

    Raises
    ------
    StatsnormError
        If `y` does not have four axes with at least two images and two styles, or
        `contrast` is "random" with one level.

    See Also
    --------
    statsnorm.stats.ustatistic_components : weights and missing cells.

    References
    ----------
    .. [1] J. Cornfield and J. W. Tukey, Ann. Math. Stat. 27 (1956), 907-949.

    Examples
    --------
    >>> y = np.add.outer([0.0, 2.0, 4.0], [0.0, 3.0])[:, :, None, None]
    >>> parts = crossed_components(y)
    >>> parts.content.tolist(), parts.style.tolist(), parts.content_style.tolist()
    ([4.0], [4.5], [0.0])
    """
    array = _checked(y, contrast, least=2)
    values = _replicates(array, contrast, leave_out=False)
    return components_result({name: v[0] for name, v in values.items()}, contrast, array.shape)


def component_replicates(y: ArrayLike, *, contrast: Contrast = "fixed") -> dict[str, Array]:
    """Return every component with its delete-one replicates, without recomputing any.

    Parameters
    ----------
    y : array_like, shape (I, S, K, C)
        As for :func:`crossed_components`; balanced.
    contrast : {"fixed", "random"}
        As for :func:`crossed_components`.

    Returns
    -------
    dict of str to ndarray of float64, shape (1 + I + S, C)
        For every name of `FACTORS` that the design has: row 0 the estimate, rows 1..I
        without each image, the last S rows without each style. Their mean over channels
        is the trace replicate that all of :mod:`statsnorm.stats.removed` works from.

    Raises
    ------
    StatsnormError
        If there are fewer than three images or styles, or the shape is wrong.
    """
    return _replicates(_checked(y, contrast, least=3), contrast, leave_out=True)


def component_shares(components: Components | Mapping[str, Array]) -> dict[str, Array]:
    """Return each component as a share of the sum of all (omega^2), negative ones kept.

    Parameters
    ----------
    components : Components, or mapping of component to array
        The seven components (three without contrast levels), of any common shape: (C,),
        traces, or replicates.

    Returns
    -------
    dict of str to ndarray
        Shares that sum to one over the components present, and those of
        `style_given_content` and `contrast_given_content`; nan where the total is zero.
    """
    if isinstance(components, Components):
        present = BASE if components.n_levels > 1 else WITHOUT_LEVELS
        values = {name: np.asarray(getattr(components, name)) for name in present}
    else:
        values = {name: np.asarray(components[name]) for name in BASE if name in components}
    if not values:
        raise StatsnormError(f"no component given; name some of {', '.join(BASE)}")
    total = np.sum(list(values.values()), axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = {name: np.where(total != 0, v / total, np.nan) for name, v in values.items()}
    return with_conditional(shares)


def style_leverage(y: ArrayLike) -> Array:
    """Return each style's share (S,) of the between-style sum of squares, over channels.

    A share above 0.4 says that one style makes the effect (method 3.5). Channels with
    nan are left out.

    Raises
    ------
    StatsnormError
        If the shape is wrong, or the styles do not differ at all.
    """
    effects = fit_effects(design_array(y))
    squares = np.nansum(effects.style**2, axis=1)  # (S,)
    if not squares.sum() > 0:
        raise StatsnormError("the styles do not differ in any channel; leverage is undefined")
    return np.asarray(squares / squares.sum())


def with_conditional(values: dict[str, Array]) -> dict[str, Array]:
    """Add style_given_content and contrast_given_content where their parts are there."""
    sums = {
        name: values[first] + values[second]
        for name, (first, second) in CONDITIONAL.items()
        if first in values and second in values
    }
    return {**values, **sums}


def components_result(
    values: Mapping[str, Array], contrast: Contrast, shape: tuple[int, ...]
) -> Components:
    """Return the result record from the components (C,) that the design has."""
    absent = np.full(shape[3], np.nan)
    return Components(
        **{name: values.get(name, absent) for name in FACTORS},
        convention=contrast,
        n_images=shape[0],
        n_styles=shape[1],
        n_levels=shape[2],
        n_nan=int(np.isnan(values["style"]).sum()),
    )


def mean_square_components(
    ms: Mapping[str, Array], images: Array, styles: Array, levels: int, contrast: Contrast
) -> dict[str, Array]:
    """Return the components from mean squares, for scalar or per-replicate sizes.

    The equations of method 2.4; `ms` is keyed by the names of `BASE`.
    """
    i, s, k = images, styles, levels
    both = ms["content_style"]
    if levels == 1:
        return with_conditional(
            {
                "content": (ms["content"] - both) / s,
                "style": (ms["style"] - both) / i,
                "content_style": both,
            }
        )
    rest, ik, sk = ms["residual"], ms["content_contrast"], ms["style_contrast"]
    fixed = contrast == "fixed"
    parts = {
        "content": (ms["content"] - both - (0 if fixed else ik - rest)) / (s * k),
        "style": (ms["style"] - both - (0 if fixed else sk - rest)) / (i * k),
        "contrast": (ms["contrast"] - ik - sk + rest) / (i * s),
        "content_style": (both - (0 if fixed else rest)) / k,
        "content_contrast": (ik - rest) / s,
        "style_contrast": (sk - rest) / i,
        "residual": rest,
    }
    return with_conditional(parts)


def _checked(y: ArrayLike, contrast: str, *, least: int) -> NDArray[Any]:
    check_choice(contrast, ("fixed", "random"), "contrast")
    array = design_array(y, least=least)
    if contrast == "random" and array.shape[2] < 2:
        raise StatsnormError("contrast='random' needs at least 2 levels, got 1; use 'fixed'")
    return array


def _replicates(y: NDArray[Any], contrast: Contrast, *, leave_out: bool) -> dict[str, Array]:
    """Return the components, (1, C) or with all delete-one rows (1 + I + S, C)."""
    n_images, n_styles, n_levels, _ = y.shape
    effects = fit_effects(y)
    sums = residual_sums(y, effects)
    squares = sums_of_squares(effects, sums)
    images, styles = np.array([[n_images]]), np.array([[n_styles]])
    if leave_out:
        by_image = squares_without_images(effects, sums, squares)
        by_style = squares_without_images(*swapped(effects, sums, squares))
        by_style = {SWAP.get(name, name): value for name, value in by_style.items()}
        squares = {
            name: np.concatenate([full[None], by_image[name], by_style[name]])
            for name, full in squares.items()
        }
        drops = np.repeat([0, 1, 2], [1, n_images, n_styles])[:, None]
        images, styles = n_images - (drops == 1), n_styles - (drops == 2)
    else:
        squares = {name: full[None] for name, full in squares.items()}
    i, s, k = images - 1, styles - 1, max(n_levels - 1, 1)
    dof = dict(zip(BASE, (i, s, k, i * s, i * k, s * k, i * s * k), strict=True))
    ms = {name: squares[name] / dof[name] for name in squares}
    parts = mean_square_components(
        ms, images.astype(np.float64), styles.astype(np.float64), n_levels, contrast
    )
    for value in parts.values():
        value[:, constant_channels(effects, squares, y.size // y.shape[3])] = 0.0
    return parts
