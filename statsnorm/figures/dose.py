"""Dose-response: the gap between normalisers against the training set's style variance (F11)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, ScalarFormatter

from statsnorm.figures.canvas import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    SMALL,
    TEXT,
    VERMILION,
    errors,
    new_figure,
)

TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
APART = 0.028  # of the panel's width, between two upright labels
LOOK = {
    "style dose": (VERMILION, "o"),
    "contrast dose": (BLUE, "s"),
    "other condition": (ORANGE, "D"),
}


def dose_response(table: pd.DataFrame, *, ylabel: str = "") -> Figure:
    """Draw F11: blocks as thin lines and dots, conditions as means with both intervals, the line.

    Columns: trace (block, "mean" or "line"), label, series, dose, dose_low, dose_high, value, low,
    high. The dose is a natural log; the axis shows the variance ratio itself.
    """
    figure, axes = new_figure(5.2)
    axis = axes[0, 0]
    axis.axhline(0, color=BLACK, linewidth=0.8)
    blocks = table[~table["trace"].isin(["mean", "line"])]
    for (series, _), own in blocks.groupby(["series", "trace"], sort=False):
        colour, marker = LOOK[str(series)]
        joined = "-" if series == "style dose" else ""
        axis.plot(np.exp(own["dose"]), own["value"], color=colour, marker=marker, markersize=2.5,
                  linestyle=joined, linewidth=0.6, alpha=0.45)  # fmt: skip
    line = table[table["trace"] == "line"]
    axis.plot(np.exp(line["dose"]), line["value"], color=VERMILION, linewidth=1.8)
    for series, own in table[table["trace"] == "mean"].groupby("series", sort=False):
        colour, marker = LOOK[str(series)]
        ratio = own.assign(**{c: np.exp(own[c]) for c in ("dose", "dose_low", "dose_high")})
        axis.errorbar(
            ratio["dose"],
            ratio["value"],
            xerr=np.nan_to_num(errors(ratio, "dose", "dose_low", "dose_high")).clip(min=0),
            yerr=np.nan_to_num(errors(ratio, "value", "low", "high")).clip(min=0),
            color=colour,
            marker=marker,
            markersize=6,
            linestyle="",
            elinewidth=1.2,
            capsize=2,
        )
    axis.set_xscale("log")
    _names(axis, table[table["trace"] == "mean"].sort_values("dose"))
    axis.set_xlabel("between-image variance of VGG moments, originals = 1", fontsize=TEXT)
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_formatter(NullFormatter())
    low, high = axis.get_xlim()
    axis.set_xticks([x for x in TICKS if low <= x <= high])
    axis.set_ylabel(ylabel, fontsize=TEXT)
    shown = [name for name in LOOK if name in set(table["series"])]
    handles = [
        Line2D([], [], color=LOOK[name][0], marker=LOOK[name][1], linestyle="", label=name)
        for name in shown
    ]
    handles += [
        Line2D([], [], color=VERMILION, linewidth=1.8, label="mean line of the style doses"),
        Line2D([], [], color=GREY, linewidth=0.6, marker="o", markersize=2.5, label="blocks"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=SMALL,
                  frameon=False)  # fmt: skip
    return figure


def _names(axis: Axes, means: pd.DataFrame) -> None:
    """Write the conditions upright above the panel, in order of dose and apart enough to read."""
    low, high = np.log(axis.get_xlim())
    at = ((means["dose"].to_numpy(float) - low) / (high - low)).tolist()
    places: list[float] = []
    for x in at:
        places.append(max(x, places[-1] + APART if places else 0.0))
    shift = max(0.0, places[-1] - 0.995) if places else 0.0
    for x, place, row in zip(at, places, means.to_dict("records"), strict=True):
        axis.annotate(row["label"], (x, 1.0), (place - shift, 1.04), xycoords="axes fraction",
                      textcoords="axes fraction", rotation=90, ha="center", va="bottom",
                      fontsize=SMALL, color=LOOK[str(row["series"])][0],
                      arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5,
                                  "shrinkA": 0, "shrinkB": 0})  # fmt: skip
