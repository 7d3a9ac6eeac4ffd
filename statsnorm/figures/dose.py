"""Dose-response: the gap between normalisers against the training set's style variance (F11)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

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
    figure, axes = new_figure(4.6)
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
        for row in ratio.to_dict("records"):
            axis.annotate(row["label"], (row["dose"], row["value"]), xytext=(5, 5),
                          textcoords="offset points", fontsize=SMALL, color=colour)  # fmt: skip
    axis.set_xscale("log")
    axis.set_xlabel("between-image variance of VGG moments, originals = 1", fontsize=TEXT)
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
    figure.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=SMALL,
                  frameon=False)  # fmt: skip
    return figure
