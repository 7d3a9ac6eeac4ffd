"""The spatial median of rows: the point with the least sum of distances to them."""

from __future__ import annotations

import numpy as np

from statsnorm.errors import StatsnormError
from statsnorm.stats.inputs import Array

ASKED = 50  # steps between asking whether the nearest row is the spatial median


def spatial_median(rows: Array, *, tolerance: float = 1e-10, steps: int = 10_000) -> Array:
    """Return the point (d,) with the least sum of distances to the rows (n, d).

    Weiszfeld's iteration with the step of Vardi and Zhang where it meets a row. Towards a
    median at a row that occurs several times, or close to it, it may creep; so the nearest row is
    asked now and then whether it is the median, and a Newton step taken where that is lower.

    References
    ----------
    .. [1] Y. Vardi and C.-H. Zhang, Proc. Natl. Acad. Sci. 97 (2000), 1423-1426.
    """
    point: Array = np.median(rows, axis=0)
    scale = np.abs(rows - point).max()
    for count in range(1, steps + 1):
        pull, here, weight = _pull(rows, point, scale)
        strength = float(np.linalg.norm(pull))
        if here and here >= strength:
            return point  # the row itself is the median
        step = (1 - here / strength if here else 1.0) * pull / weight
        point = point + step
        if np.linalg.norm(step) <= tolerance * scale:
            return point
        if count % ASKED == 0:
            nearest: Array = rows[np.linalg.norm(rows - point, axis=1).argmin()]
            pull, here, _ = _pull(rows, nearest, scale)
            if here >= np.linalg.norm(pull):
                return nearest
            point = _newton(rows, point)
    raise StatsnormError(f"the spatial median of {len(rows)} rows did not settle in {steps} steps")


def _pull(rows: Array, point: Array, scale: float) -> tuple[Array, int, float]:
    """Return the sum of unit vectors to the rows elsewhere, how many are here, and sum 1/length."""
    gaps = rows - point
    lengths = np.linalg.norm(gaps, axis=1)
    away = lengths > 1e-14 * scale
    weights = np.divide(1.0, lengths, where=away, out=np.zeros_like(lengths))
    return weights @ gaps, int((~away).sum()), float(weights.sum())


def _newton(rows: Array, point: Array) -> Array:
    """Return the Newton step's end if the sum of distances is less there, else the point."""
    gaps = rows - point
    lengths = np.linalg.norm(gaps, axis=1)
    if not (lengths > 0).all():
        return point
    weights = 1 / lengths
    hessian = weights.sum() * np.eye(len(point)) - gaps.T @ (gaps * weights[:, None] ** 3)
    end: Array = point + np.linalg.lstsq(hessian, weights @ gaps, rcond=None)[0]
    lower = np.linalg.norm(rows - end, axis=1).sum() < lengths.sum()
    return end if lower else point
