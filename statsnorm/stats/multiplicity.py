"""Adjusted p-values: Holm, Benjamini-Hochberg, Benjamini-Yekutieli; intersection-union."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from statsnorm.errors import StatsnormError
from statsnorm.stats.inputs import Array, real_array


def holm(p: ArrayLike) -> Array:
    """Return Holm's step-down adjusted p-values; they control the family-wise error.

    Parameters
    ----------
    p : array_like
        p-values of one family, any shape. nan is not a member of the family and stays nan.

    Returns
    -------
    ndarray of float64
        Of the same shape; ``max_{j <= i} min(1, (m - j + 1) p_(j))``.

    Raises
    ------
    StatsnormError
        If a value lies outside [0, 1].

    References
    ----------
    .. [1] S. Holm, Scand. J. Stat. 6 (1979), 65-70.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    flat, order = _sorted(p)
    m = len(order)
    adjusted = np.maximum.accumulate(np.minimum(flat[order] * np.arange(m, 0, -1), 1.0))
    return _restored(adjusted, order, flat, np.shape(p))


def benjamini_hochberg(p: ArrayLike) -> Array:
    """Return Benjamini-Hochberg adjusted p-values (q); false discovery rate, independence.

    Also valid under positive regression dependence. Parameters, shape, nan and errors as
    for :func:`holm`.

    References
    ----------
    .. [1] Y. Benjamini and Y. Hochberg, J. R. Stat. Soc. B 57 (1995), 289-300.

    Examples
    --------
    >>> benjamini_hochberg([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.04, 0.04]
    """
    return _step_up(p, dependent=False)


def benjamini_yekutieli(p: ArrayLike) -> Array:
    """Return Benjamini-Yekutieli adjusted p-values; false discovery rate, any dependence.

    Benjamini-Hochberg times ``sum_{i <= m} 1/i``. Parameters, shape, nan and errors as for
    :func:`holm`.

    References
    ----------
    .. [1] Y. Benjamini and D. Yekutieli, Ann. Stat. 29 (2001), 1165-1188.
    """
    return _step_up(p, dependent=True)


def intersection_union(p: ArrayLike) -> float:
    """Return the p-value of a claim that needs all its parts: the largest.

    The null is that at least one part is false. A compound claim so takes one place in
    its Holm family. A nan part makes the claim nan (not testable).

    Raises
    ------
    StatsnormError
        If there is no part, or a value lies outside [0, 1].

    References
    ----------
    .. [1] R. L. Berger, Technometrics 24 (1982), 295-300.
    """
    parts, _ = _sorted(p)
    if not len(parts):
        raise StatsnormError("p is empty; a compound claim has at least one part")
    return float(np.max(parts))


def _step_up(p: ArrayLike, *, dependent: bool) -> Array:
    flat, order = _sorted(p)
    m = len(order)
    ranks = np.arange(1, m + 1)
    scale = (1 / ranks).sum() if dependent else 1.0
    raw = flat[order] * m / ranks * scale
    adjusted = np.minimum(np.minimum.accumulate(raw[::-1])[::-1], 1.0)
    return _restored(adjusted, order, flat, np.shape(p))


def _sorted(p: ArrayLike) -> tuple[Array, NDArray[np.int64]]:
    """Return the flat p-values and the order of those that are not nan."""
    flat = real_array(p, "p").astype(np.float64).ravel()
    bad = flat[(flat < 0) | (flat > 1)]
    if bad.size:
        raise StatsnormError(f"p-values must lie in [0, 1], got {bad[0]:.6g}")
    order = np.argsort(flat, kind="stable").astype(np.int64)
    return flat, order[: int((~np.isnan(flat)).sum())]


def _restored(
    adjusted: Array, order: NDArray[np.int64], flat: Array, shape: tuple[int, ...]
) -> Array:
    out = np.full_like(flat, np.nan)
    out[order] = adjusted
    return out.reshape(shape)
