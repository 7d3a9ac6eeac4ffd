"""How much of a batch's variance lies between its samples, and the identity that BN obeys.

method.md 2.6: behind batch normalisation `1 = mean_n var + Var_n(mean)` in every channel, so the
share omega = Var_n(mean) / (Var_n(mean) + mean_n var) is what instance normalisation would have
removed and batch normalisation leaves.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from statsnorm.errors import StatsnormError, unknown

Array = NDArray[np.float64]
KINDS = ("mixed", "style-homogeneous", "content-homogeneous")


def between_variance(mean: Array, kind: str) -> Array:
    """Return the unbiased variance (C,) of channel means between two samples of one batch.

    Half the mean squared difference over all pairs of cells that a batch of this kind may hold:
    `mixed` pairs differ in content and in cell (style and level), `style-homogeneous` pairs share
    the cell, `content-homogeneous` pairs share the content.

    Parameters
    ----------
    mean : ndarray, shape (I, S, K, C)
        Channel means of every content in every cell.
    kind : str
        One of :data:`KINDS`.

    Raises
    ------
    StatsnormError
        If the kind is unknown, or a pair needs a second content or cell.
    """
    if kind not in KINDS:
        raise unknown("batch kind", kind, KINDS)
    y = mean.reshape(len(mean), -1, mean.shape[-1])  # (I, M, C)
    contents, cells = y.shape[:2]
    if contents < 2 or cells < 2:
        raise StatsnormError(f"at least 2 contents and 2 cells are needed, got {y.shape[:2]}")
    same_cell = np.asarray(y.var(axis=0, ddof=1).mean(axis=0))
    if kind == "style-homogeneous":
        return same_cell
    same_content = np.asarray(y.var(axis=1, ddof=1).mean(axis=0))
    if kind == "content-homogeneous":
        return same_content
    n = contents * cells  # sums over ordered pairs of half the squared difference
    every = n * (n - 1) * y.reshape(n, -1).var(axis=0, ddof=1)
    in_cells = cells * contents * (contents - 1) * same_cell
    in_contents = contents * cells * (cells - 1) * same_content
    return np.asarray((every - in_cells - in_contents) / (n * (contents - 1) * (cells - 1)))


def between_share(mean: Array, var: Array, kind: str) -> float:
    """Return omega, averaged over channels.

    Parameters
    ----------
    mean, var : ndarray, shape (I, S, K, C)
        Channel means and population variances of live channels.
    kind : str
        One of :data:`KINDS`.
    """
    between = between_variance(mean, kind)
    within = var.mean(axis=(0, 1, 2))
    return float((between / (between + within)).mean())


def share_replicates(mean: Array, var: Array, kind: str) -> Array:
    """Return omega and its delete-one replicates (1 + I + S,), images first."""
    values = [between_share(mean, var, kind)]
    for axis in (0, 1):
        for left_out in range(mean.shape[axis]):
            part = [np.delete(x, left_out, axis=axis) for x in (mean, var)]
            values.append(between_share(part[0], part[1], kind))
    return np.array(values)


def identity_error(before: Array, after: Array, contents: int) -> float:
    """Return how far BN is from one affine map a batch, in units of log sd, at most.

    Behind one affine map the log sd of every image of a batch moves by the same constant a
    channel. Which images share a batch need not be known: in each cell every image must have
    `contents` - 1 others that moved as it did.

    Parameters
    ----------
    before, after : ndarray, shape (I, S, K, C)
        Population variances at the input and the output of a batch normaliser.
    contents : int
        How many contents of one cell the smallest batch holds.
    """
    images, channels = before.shape[0], before.shape[-1]
    moved = 0.5 * np.log(after / before).reshape(images, -1, channels).swapaxes(0, 1)  # (M, I, C)
    worst = 0.0
    for cell in moved:
        apart = np.abs(cell[:, None] - cell[None]).max(axis=-1)  # (I, I)
        nearest = np.sort(apart, axis=1)[:, min(contents, images) - 1]
        worst = max(worst, float(nearest.max()))
    return worst
