"""Trace replicates: the sufficient statistics from which every interval is rebuilt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from statsnorm.errors import StatsnormError
from statsnorm.stats.components import Contrast, component_replicates
from statsnorm.stats.inputs import Array, design_array, real_array
from statsnorm.stats.ustatistic import ustatistic_replicates


def paired_designs(before: ArrayLike, after: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return two designs of one shape, with a cell missing in either missing in both.

    Parameters
    ----------
    before, after : array_like, shape (I, S, K, C)
        A cell that is nan in all channels is missing.

    Raises
    ------
    StatsnormError
        If shapes differ, or there are fewer than three images or styles.
    """
    arms = [design_array(y, name, least=3) for y, name in ((before, "before"), (after, "after"))]
    if arms[0].shape != arms[1].shape:
        raise StatsnormError(
            f"before and after must be the same cells and channels, "
            f"got shapes {arms[0].shape} and {arms[1].shape}"
        )
    gone = [missing_cells(arm) for arm in arms]
    if (gone[0] != gone[1]).any():
        either = (gone[0] | gone[1])[..., None]
        arms = [np.where(either, np.nan, arm) for arm in arms]
    return arms[0], arms[1]


def missing_cells(y: NDArray[Any]) -> NDArray[np.bool_]:
    """Say which cells (I, S, K) are nan in all channels."""
    missing = np.isnan(y[..., 0])
    if missing.any():
        missing[missing] = np.isnan(y[missing]).all(axis=-1)
    return np.asarray(missing)


def design_replicates(y: ArrayLike, *, contrast: Contrast = "fixed") -> dict[str, Array]:
    """Return every component with its delete-one replicates, balanced or not.

    Mean squares (:func:`component_replicates`) where all cells are there, the U-statistic
    (:func:`ustatistic_replicates`) where some are missing, i.e. nan in all channels.

    Returns
    -------
    dict of str to ndarray of float64, shape (1 + I + S, C)
    """
    array = design_array(y, least=3)
    if missing_cells(array).any():
        return ustatistic_replicates(array, contrast=contrast)
    return component_replicates(array, contrast=contrast)


def trace_replicates(
    replicates: Mapping[str, Array],
    *,
    channels: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> dict[str, Array]:
    """Return the mean over channels of every component's replicates.

    Parameters
    ----------
    replicates : mapping of component to array, shape (1 + I + S, C)
        From :func:`design_replicates`.
    channels : array_like of bool, shape (C,), optional
        Channels to use, the same in all arms that are compared; default: those without nan.
    weights : array_like, shape (C,), optional
        Non-negative channel weights; default: equal.

    Returns
    -------
    dict of str to ndarray of float64, shape (1 + I + S,)

    Raises
    ------
    StatsnormError
        If no channel is left, or a weight is negative.

    Examples
    --------
    >>> trace_replicates({"style": np.array([[1.0, 3.0, np.nan]])})["style"].tolist()
    [2.0]
    """
    n_channels = next(iter(replicates.values())).shape[1]
    if channels is None:
        use = ~np.any([np.isnan(v).any(axis=0) for v in replicates.values()], axis=0)
    else:
        use = np.asarray(channels, dtype=bool)
    w = np.ones(n_channels) if weights is None else real_array(weights, "weights").astype(float)
    for name, given in (("channels", use), ("weights", w)):
        if given.shape != (n_channels,):
            raise StatsnormError(f"{name} must have shape ({n_channels},), got {given.shape}")
    if not (w[use] >= 0).all() or not w[use].sum() > 0:
        raise StatsnormError(
            f"no channel is left for the trace: {int(use.sum())} of {n_channels} are without nan "
            f"and their weights sum to {w[use].sum():.6g}; weights must be >= 0 and not all 0"
        )
    w = w[use] / w[use].sum()
    return {name: np.asarray(value[:, use] @ w) for name, value in replicates.items()}
