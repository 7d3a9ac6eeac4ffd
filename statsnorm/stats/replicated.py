"""Two crossed factors with replicates nested in the cells (images within domain x class)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from statsnorm.errors import StatsnormError
from statsnorm.stats.inputs import Array, check_choice, real_array
from statsnorm.stats.result import Shown


@dataclass(frozen=True, slots=True)
class ReplicatedComponents(Shown):
    """Result of :func:`replicated_components`; arrays (C,), untruncated."""

    content: Array
    style: Array
    content_style: Array
    residual: Array  # between replicates of a cell
    convention: str  # of the style factor
    n_contents: int
    n_styles: int
    n_replicates: int


def replicated_components(
    y: ArrayLike, *, style: Literal["fixed", "random"]
) -> ReplicatedComponents:
    """Return the variance components of a balanced two-way design with replicates.

    Parameters
    ----------
    y : array_like, shape (A, B, R, C)
        Contents (classes), styles (domains), replicates nested in the cells, channels.
    style : {"fixed", "random"}
        Fixed (Cornfield-Tukey): ``content = (MS_A - MS_E)/(B R)``, and ``style`` is
        ``sum (effect - mean)^2/(B - 1)``. Random: ``content = (MS_A - MS_AB)/(B R)``.
        The design decides, so there is no default.

    Returns
    -------
    ReplicatedComponents
        float64; a channel with nan is nan.

    Raises
    ------
    StatsnormError
        If there are not four axes, or fewer than two contents, styles or replicates.
    """
    check_choice(style, ("fixed", "random"), "style")
    array = real_array(y, "y").astype(np.float64)
    if array.ndim != 4 or min(array.shape[:3]) < 2 or not array.shape[3]:
        raise StatsnormError(
            "y must have the axes (contents, styles, replicates, channels) with at least two "
            f"of each of the first three, got shape {array.shape}"
        )
    a, b, r, _ = array.shape
    cell = array.mean(axis=2)  # (A, B, C)
    grand = cell.mean(axis=(0, 1))
    content, other = cell.mean(axis=1) - grand, cell.mean(axis=0) - grand
    both = cell - content[:, None] - other - grand
    ms_a = b * r * np.square(content).sum(axis=0) / (a - 1)
    ms_b = a * r * np.square(other).sum(axis=0) / (b - 1)
    ms_ab = r * np.square(both).sum(axis=(0, 1)) / ((a - 1) * (b - 1))
    ms_e = np.square(array - cell[:, :, None]).sum(axis=(0, 1, 2)) / (a * b * (r - 1))
    against = ms_e if style == "fixed" else ms_ab
    return ReplicatedComponents(
        content=(ms_a - against) / (b * r),
        style=(ms_b - ms_ab) / (a * r),
        content_style=(ms_ab - ms_e) / r,
        residual=ms_e,
        convention=style,
        n_contents=a,
        n_styles=b,
        n_replicates=r,
    )
