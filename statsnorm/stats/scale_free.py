"""Scale-free moments m = mean / s_c and v = log sigma, and which channels may be compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from statsnorm.errors import StatsnormError
from statsnorm.stats.inputs import Array, real_array

FLOOR_WITHOUT_NORM = 1e-10
FLOOR_EPS = 100.0
FLOOR_SHARE = 0.01


def scale_free(
    mean: ArrayLike, var: ArrayLike, *, reference: ArrayLike | None = None, floor: float = 0.0
) -> tuple[Array, Array]:
    """Return the scale-free moments of method 0.5.

    ``m = mean / s_c`` with ``s_c^2`` the mean of `reference` over its cells, and
    ``v = 0.5 log var``. An affine map of a channel that is common to all images shifts m
    and v by constants (and may flip the sign of m), so no variance component changes.

    Parameters
    ----------
    mean, var : array_like, shape (..., C)
        Channel means and POPULATION variances (divide by HW) of each cell.
    reference : array_like, shape (..., C), optional
        Variances of the reference cells; default: `var` itself.
    floor : float
        Sensitivity analysis: this share of the channel's median reference variance is
        added to `var` before the logarithm (1e-3 in the specification curve).

    Returns
    -------
    m, v : ndarray of float64, shape (..., C)
        A cell whose variance is zero has v = nan; a channel whose `s_c` is zero has m = nan.

    Raises
    ------
    StatsnormError
        If shapes differ, a variance is negative, or `floor` is negative.

    Examples
    --------
    >>> m, v = scale_free([[2.0], [4.0]], [[4.0], [4.0]])
    >>> m.ravel().tolist(), v.ravel().round(6).tolist()
    ([1.0, 2.0], [0.693147, 0.693147])
    """
    means = real_array(mean, "mean").astype(np.float64)
    variances = real_array(var, "var").astype(np.float64)
    cells = variances if reference is None else real_array(reference, "reference").astype(float)
    _check(means, variances, cells, floor)
    rows = cells.reshape(-1, cells.shape[-1])
    scale = np.sqrt(_mean_of_finite(rows))  # (C,)
    scale[scale == 0] = np.nan
    if floor:
        added = floor * np.nanmedian(np.where(np.isnan(rows).all(axis=0), 0.0, rows), axis=0)
        variances = variances + added
    variances[variances == 0] = np.nan
    return means / scale, 0.5 * np.log(variances)


def live_channels(
    variances: Sequence[ArrayLike], eps: float | Sequence[float] = 0.0
) -> NDArray[np.bool_]:
    """Say which channels pass the floor rule of method 0.5 in every compared condition.

    A channel is dropped from all conditions when its variance lies below ``100 eps`` of
    the layer (1e-10 where the layer has no eps) in more than 1 % of the cells of any one.

    Parameters
    ----------
    variances : sequence of array_like, each of shape (..., C)
        One array of population variances per compared condition.
    eps : float or sequence of float
        The normaliser's eps, for all conditions or one for each; 0 where there is none.

    Returns
    -------
    ndarray of bool, shape (C,)
        Cells that are nan in all channels are missing and not counted; a cell that is nan
        in one channel counts as below the floor there.

    Raises
    ------
    StatsnormError
        If nothing is given, the channel counts differ, or `eps` is negative.
    """
    arrays = [real_array(v, "variances").astype(np.float64) for v in variances]
    if not arrays:
        raise StatsnormError("variances is empty; give one array per compared condition")
    if len({a.shape[-1:] for a in arrays}) != 1 or not arrays[0].shape:
        raise StatsnormError(f"channel counts differ: shapes {[a.shape for a in arrays]}")
    each = [float(eps)] * len(arrays) if isinstance(eps, int | float) else list(eps)
    if len(each) != len(arrays) or not all(e >= 0 for e in each):
        raise StatsnormError(f"eps must be one number >= 0 per condition, got {eps!r}")
    live = np.ones(arrays[0].shape[-1], dtype=bool)
    for array, layer_eps in zip(arrays, each, strict=True):
        rows = array.reshape(-1, array.shape[-1])
        rows = rows[~np.isnan(rows).all(axis=1)]  # missing cells
        above = rows >= (FLOOR_EPS * layer_eps if layer_eps > 0 else FLOOR_WITHOUT_NORM)
        live &= (~above).sum(axis=0) <= FLOOR_SHARE * len(rows) if len(rows) else False
    return live


def _check(means: Array, variances: Array, cells: Array, floor: float) -> None:
    if means.shape != variances.shape or not means.ndim:
        raise StatsnormError(
            f"mean has shape {means.shape}, var {variances.shape}; they must agree"
        )
    if cells.shape[-1:] != variances.shape[-1:]:
        raise StatsnormError(
            f"reference has shape {cells.shape}; it needs {variances.shape[-1]} channels"
        )
    for name, array in (("var", variances), ("reference", cells)):
        if (array < 0).any():
            raise StatsnormError(f"{name} must not be negative, got {np.nanmin(array):.6g}")
    if not floor >= 0:
        raise StatsnormError(f"floor must be >= 0, got {floor!r}")


def _mean_of_finite(rows: Array) -> Array:
    """Mean over rows without the missing ones; nan where all are missing."""
    present = ~np.isnan(rows)
    count = present.sum(axis=0)
    total = np.where(present, rows, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
