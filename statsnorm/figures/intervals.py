"""Forest plots: estimates with intervals against the thresholds they are judged by (F6)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from statsnorm.figures.canvas import (
    BLACK,
    BLUE,
    CYCLE,
    GREY,
    MARKERS,
    PALE,
    SMALL,
    TEXT,
    VERMILION,
    errors,
    new_figure,
    tap_ticks,
)

LEGEND_WIDTH = 130  # characters of small type beside each other, markers counted as four


def forest(table: pd.DataFrame) -> Figure:
    """Draw all primary effects, one row each, one panel a scale.

    Columns: label, scale (axis label; effects of one scale share a panel), estimate, low, high,
    null, min_effect. A bound that is infinite or absent is drawn to the edge of the panel.
    """
    scales = list(dict.fromkeys(table["scale"]))
    heights = [max(1.6, float((table["scale"] == scale).sum())) for scale in scales]
    figure, axes = new_figure(
        0.8 + 0.55 * len(scales) + 0.27 * sum(heights), len(scales), height_ratios=heights
    )
    for axis, scale in zip(axes[:, 0], scales, strict=True):
        _panel(axis, table[table["scale"] == scale].reset_index(drop=True))
        axis.set_xlabel(str(scale), fontsize=TEXT)
    handles = [
        Line2D([], [], color=BLACK, marker="o", markersize=4, label="estimate, 95 % interval"),
        Line2D([], [], color=VERMILION, marker="|", markersize=11, markeredgewidth=2, linestyle="",
               label="must be excluded (null)"),
        Line2D([], [], color=BLUE, marker="d", markersize=6, linestyle="",
               label="must be reached (min. effect)"),
    ]  # fmt: skip
    figure.legend(
        handles=handles, loc="outside upper center", ncols=3, fontsize=SMALL, frameon=False
    )
    return figure


def _panel(axis: Axes, rows: pd.DataFrame) -> None:
    place = np.arange(len(rows))
    known = rows[["estimate", "low", "high", "null", "min_effect"]].to_numpy(float)
    finite = known[np.isfinite(known)]
    margin = 0.06 * (np.ptp(finite) if len(finite) and np.ptp(finite) > 0 else 1.0)
    left, right = (finite.min() - margin, finite.max() + margin) if len(finite) else (0.0, 1.0)
    drawn = rows.assign(
        low=rows["low"].astype(float).clip(lower=left),
        high=rows["high"].astype(float).clip(upper=right),
        estimate=rows["estimate"].astype(float).clip(left, right),
    )
    axis.plot(rows["null"], place, linestyle="", marker="|", markersize=13, markeredgewidth=2,
              color=VERMILION)  # fmt: skip
    axis.plot(rows["min_effect"], place, linestyle="", marker="d", markersize=6, color=BLUE)
    axis.errorbar(
        drawn["estimate"],
        place,
        xerr=np.nan_to_num(errors(drawn, "estimate", "low", "high")).clip(min=0),
        linestyle="",
        color=BLACK,
        marker="o",
        markersize=4.5,
        elinewidth=1.4,
        capsize=3,
    )
    axis.set_xlim(left, right)
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.grid(visible=False, axis="y")
    for y in place[1:]:
        axis.axhline(y - 0.5, color=PALE, linewidth=0.6)
    tap_ticks(axis, rows["label"].tolist(), vertical=True)


def profile(
    table: pd.DataFrame,
    *,
    ylabel: str = "",
    threshold: float | None = None,
    symlog: bool = False,
    limits: Sequence[float] | None = None,
) -> Figure:
    """Draw one line with intervals per group along an ordered axis of taps.

    Columns: tap, group, estimate, low, high. Used for feature divergence by depth. `symlog`:
    linear up to 1, logarithmic beyond, so that one exploding tap does not flatten the rest.
    `limits`: ends of the vertical axis; bars are cut off there, open ones too.
    """
    taps, groups = (list(dict.fromkeys(table[name])) for name in ("tap", "group"))
    figure, axes = new_figure(3.9 + 0.16 * ((len(groups) + 1) // 2))
    axis = axes[0, 0]
    shift = 0.5 / max(len(groups), 2)
    for i, group in enumerate(groups):
        rows = table[table["group"] == group].set_index("tap").reindex(taps)
        if limits is not None:
            ends = {
                "low": rows["low"].clip(lower=limits[0]),
                "high": rows["high"].clip(upper=limits[1]),
            }
            rows = rows.assign(**ends)
        axis.errorbar(
            np.arange(len(taps)) + (i - (len(groups) - 1) / 2) * shift,
            rows["estimate"],
            yerr=np.nan_to_num(errors(rows, "estimate", "low", "high")).clip(min=0),
            color=CYCLE[i % len(CYCLE)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=4,
            linewidth=1.2,
            capsize=2,
            label=str(group),
        )
    if limits is not None:
        axis.set_ylim(*limits)
    if symlog:
        axis.set_yscale("symlog", linthresh=1)
        axis.axhline(0, color=BLACK, linewidth=0.8)
    if threshold is not None:
        axis.axhline(threshold, color=GREY, linestyle="--", linewidth=1)
    tap_ticks(axis, taps)
    axis.set_ylabel(ylabel, fontsize=TEXT)
    figure.legend(loc="outside upper center", ncols=2, fontsize=SMALL, frameon=False)
    return figure


def dots(table: pd.DataFrame, *, xlabel: str = "", threshold: float | None = None) -> Figure:
    """Draw one dot with its interval per row, grouped by colour.

    Columns: label, group, estimate, low, high.
    """
    labels, groups = (list(dict.fromkeys(table[name])) for name in ("label", "group"))
    figure, axes = new_figure(1.3 + 0.17 * len(labels) * max(1, len(groups)) + 0.1 * len(labels))
    axis = axes[0, 0]
    step = 0.7 / max(1, len(groups))
    for i, group in enumerate(groups):
        rows = table[table["group"] == group].set_index("label").reindex(labels)
        axis.errorbar(
            rows["estimate"],
            np.arange(len(labels)) + (i - (len(groups) - 1) / 2) * step,
            xerr=np.nan_to_num(errors(rows, "estimate", "low", "high")).clip(min=0),
            linestyle="",
            color=CYCLE[i % len(CYCLE)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=4.5,
            elinewidth=1.3,
            capsize=2,
            label=str(group),
        )
    if threshold is not None:
        axis.axvline(threshold, color=GREY, linestyle="--", linewidth=1)
    axis.grid(visible=False, axis="y")
    tap_ticks(axis, labels, vertical=True)
    axis.set_xlabel(xlabel, fontsize=TEXT)
    if len(groups) > 1:
        columns = max(1, min(3, LEGEND_WIDTH // (max(map(len, map(str, groups))) + 4)))
        figure.legend(loc="outside upper center", ncols=columns, fontsize=SMALL, frameon=False)
    return figure
