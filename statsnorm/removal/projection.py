"""Style statistics in two dimensions (F8): a picture people ask for, never evidence.

One point is one image in one style at the first contrast level, described by m and v of all live
channels. The axes are the principal components of the points *before* (normalisers frozen), and
the points after are put on the same axes, so that what normalisation removes is seen to shrink.
Each cloud is centred on its own mean: a shift that all images share is no variance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from statsnorm.decisions import Plan
from statsnorm.removal.crossed import (
    Cells,
    Member,
)
from statsnorm.stats.scale_free import scale_free

Array = NDArray[np.float64]

MOST_IMAGES = 32
"""Images drawn; the axes are fitted to all of them."""
SHOWN_TAPS = 3  # of the network itself: first, middle, last; VGG of the output comes beside them
DIGITS = 5  # of a coordinate: a picture needs no more, and the last bits are the CPU's
PANELS: tuple[str, str] = ("frozen", "normalised")


def shown_taps(taps: pd.DataFrame, plan: Plan) -> set[str]:
    """Return the taps of a design that are drawn: three before normalisers, VGG's primary one."""
    ours = taps[(taps["tap_kind"] == "next_pre_norm") & ~taps["by_construction"]]["tap"].tolist()
    chosen = {ours[round(i)] for i in np.linspace(0, len(ours) - 1, SHOWN_TAPS)} if ours else set()
    vgg = taps[(taps["tap_kind"] == "vgg_of_output") & (taps["tap"] == plan.primary["and_tap"])]
    return chosen | set(vgg["tap"])


def projection_rows(
    members: Mapping[Member, Cells], live: NDArray[np.bool_], plan: Plan
) -> Iterator[dict[str, Any]]:
    """Yield one row a panel and style: coordinates of its images and the shares of the axes.

    `share_1`, `share_2` are the shares of the panel's own variance along each axis, `kept` is the
    panel's variance over that before; variances are summed over moments and channels, ddof 1.
    """
    pair = pair_of(members, plan)
    if pair is None:
        return
    clouds = [centred(style_points(cells, live)) for cells in pair]  # (I, S, D) each
    axes = principal_axes(clouds[0].reshape(-1, clouds[0].shape[-1]))
    totals = [float((cloud**2).sum()) for cloud in clouds]
    images = drawn_images(len(clouds[0]))
    for panel, cloud, total in zip(PANELS, clouds, totals, strict=True):
        places = cloud @ axes.T  # (I, S, 2)
        along = (places**2).sum(axis=(0, 1))
        for s, style in enumerate(pair[0].labels[1]):
            yield {
                "panel": panel,
                "style": str(style),
                "pc1": shortened(places[images, s, 0]),
                "pc2": shortened(places[images, s, 1]),
                "share_1": float(along[0]) / total if total else float("nan"),
                "share_2": float(along[1]) / total if total else float("nan"),
                "kept": total / totals[0] if totals[0] else float("nan"),
            }


def drawn_images(n: int) -> NDArray[np.intp]:
    """Return which of `n` images a picture shows: all, or :data:`MOST_IMAGES` evenly spaced."""
    return np.unique(np.linspace(0, n - 1, MOST_IMAGES).round().astype(np.intp))


def style_points(cells: Cells, live: NDArray[np.bool_]) -> Array:
    """Return m and v of the live channels at the first contrast level, (I, S, 2 C live)."""
    first = np.s_[:, :, :1, live]
    with np.errstate(divide="ignore"):
        m, v = scale_free(cells.mean[first].astype(float), cells.var[first].astype(float))
    v = np.where(np.isfinite(v), v, np.nanmin(v, axis=(0, 1, 2), keepdims=True))
    return np.asarray(np.concatenate([m, v], axis=-1)[:, :, 0], dtype=np.float64)


def principal_axes(points: Array) -> Array:
    """Return the first two principal axes (2, D) of centred points (n, D).

    The largest loading of each axis is positive, so that the picture does not flip.
    """
    _, _, axes = np.linalg.svd(points, full_matrices=False)
    axes = np.vstack([axes, np.zeros((2, points.shape[1]))])[:2]
    largest = axes[np.arange(2), np.abs(axes).argmax(axis=1)]
    return np.asarray(axes * np.where(largest < 0, -1.0, 1.0)[:, None])


def compared(plan: Plan) -> Sequence[Member]:
    """Return the members before and after."""
    return ("original", plan.primary["before"]), ("original", "none")


def pair_of(members: Mapping[Member, Cells], plan: Plan) -> tuple[Cells, Cells] | None:
    """Return the cells before and after, or None if an arm is missing."""
    before, after = (members.get(member) for member in compared(plan))
    return None if before is None or after is None else (before, after)


def centred(points: Array) -> Array:
    """Return points (I, S, D) around their mean."""
    return np.asarray(points - points.mean(axis=(0, 1)))


def shortened(values: Array) -> list[float]:
    """Return coordinates with :data:`DIGITS` significant digits."""
    return [float(f"{value:.{DIGITS}g}") for value in values]
