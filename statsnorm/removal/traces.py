"""Traces of between-image variance, with each image left out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def without_zeros(var: Array) -> Array:
    """Return variances (n, C) with zeros raised to their channel's least variance above 0.

    A live channel may be constant in up to 1 % of images; its log sd has to be a number there.
    """
    least = np.where(var > 0, var, np.inf).min(axis=0)
    return np.where(var > 0, var, np.where(np.isfinite(least), least, 0.0))


def trace_variance(x: Array) -> Array:
    """Return the mean over columns of the variance over rows (ddof 1), then without each row.

    Parameters
    ----------
    x : ndarray, shape (n, C)

    Returns
    -------
    ndarray, shape (1 + n,)
    """
    n = len(x)
    squares = (x - x.mean(axis=0)) ** 2  # (n, C)
    total = squares.sum(axis=0)
    without = (total - squares * n / (n - 1)) / (n - 2)
    return np.concatenate([[(total / (n - 1)).mean()], without.mean(axis=1)])
