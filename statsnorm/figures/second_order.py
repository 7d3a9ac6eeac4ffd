"""Style in means, sds and correlations: probe accuracy by layer (F9), Shapley bars (F12)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from statsnorm.figures.canvas import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    SMALL,
    TEXT,
    VERMILION,
    errors,
    new_figure,
    tap_ticks,
)

SETS = {
    "m": (BLUE, "o", "means m"),
    "v": (VERMILION, "s", "log sds v"),
    "rho": (GREEN, "^", "correlations"),
    "all": (BLACK, "D", "all three"),
}
PARTS = {
    "means": (BLUE, "", "means"),
    "variances": (VERMILION, "///", "variances"),
    "correlations": (GREEN, "...", "correlations"),
}


def probe_accuracy(table: pd.DataFrame, *, ylabel: str = "accuracy") -> Figure:
    """Draw F9: probe accuracy by tap, one line a set of columns, one panel a treatment.

    Columns: tap, panel, set (m, v, rho, all), estimate, low, high, chance.
    """
    taps, panels = (list(dict.fromkeys(table[name])) for name in ("tap", "panel"))
    figure, axes = new_figure(1.9 + 1.9 * len(panels), len(panels), sharex=True, sharey=True)
    for axis, panel in zip(axes[:, 0], panels, strict=True):
        rows = table[table["panel"] == panel]
        for i, (name, (colour, marker, _)) in enumerate(SETS.items()):
            mine = rows[rows["set"] == name].set_index("tap").reindex(taps)
            axis.errorbar(
                np.arange(len(taps)) + (i - 1.5) * 0.12,
                mine["estimate"],
                yerr=np.nan_to_num(errors(mine, "estimate", "low", "high")).clip(min=0),
                color=colour,
                marker=marker,
                markersize=4.5,
                linewidth=0,
                elinewidth=1.2,
                capsize=2,
            )
        axis.axhline(float(rows["chance"].iloc[0]), color=GREY, linestyle="--", linewidth=1)
        axis.set_ylabel(ylabel, fontsize=TEXT)
        _title(axis, str(panel), shown=len(panels) > 1)
        axis.set_ylim(0, 1.05)
    tap_ticks(axes[-1, 0], taps)
    handles = [
        Line2D([], [], color=c, marker=m, markersize=4.5, linewidth=0, label=label)
        for c, m, label in SETS.values()
    ]
    handles.append(Line2D([], [], color=GREY, linestyle="--", linewidth=1, label="chance"))
    figure.legend(handles=handles, loc="outside upper center", ncols=5, fontsize=SMALL,
                  frameon=False)  # fmt: skip
    return figure


def shapley_bars(table: pd.DataFrame, *, ylabel: str = "share of the Gram distance") -> Figure:
    """Draw F12: shares of the Gram distance side by side (never stacked: one may be negative).

    Columns: tap, panel, part (means, variances, correlations), estimate, low, high.
    """
    taps, panels = (list(dict.fromkeys(table[name])) for name in ("tap", "panel"))
    figure, axes = new_figure(1.9 + 1.9 * len(panels), len(panels), sharex=True, sharey=True)
    for axis, panel in zip(axes[:, 0], panels, strict=True):
        rows = table[table["panel"] == panel]
        for i, (name, (colour, hatch, label)) in enumerate(PARTS.items()):
            mine = rows[rows["part"] == name].set_index("tap").reindex(taps)
            axis.bar(
                np.arange(len(taps)) + (i - 1) * 0.27,
                mine["estimate"],
                width=0.25,
                color=colour,
                hatch=hatch,
                edgecolor="white",
                linewidth=0,
                yerr=np.nan_to_num(errors(mine, "estimate", "low", "high")).clip(min=0),
                error_kw={"ecolor": BLACK, "elinewidth": 1, "capsize": 2},
                label=label,
            )
        axis.axhline(0, color=BLACK, linewidth=0.8)
        axis.set_ylabel(ylabel, fontsize=TEXT)
        _title(axis, str(panel), shown=len(panels) > 1)
    tap_ticks(axes[-1, 0], taps)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=SMALL,
                  frameon=False)  # fmt: skip
    return figure


def _title(axis: Axes, text: str, *, shown: bool) -> None:
    if shown:
        axis.set_title(text, fontsize=TEXT, loc="left")
