"""Figures of the appendix: QQ plots of levels, the specification curve."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from statsnorm.figures.canvas import BLUE, GREY, SMALL, TEXT, VERMILION, new_figure

ARMS = {"frozen": (BLUE, "o"), "at work": (VERMILION, "^")}
MET = {True: (BLUE, "o", "reaches the least effect"), False: (VERMILION, "x", "does not")}


def level_qq(table: pd.DataFrame) -> Figure:
    """Draw the scores of styles and contents against normal quantiles.

    Columns: tap, arm (frozen, at work), factor (style, content), normal, score. A row of panels a
    tap; points on the line are normal.
    """
    taps = list(dict.fromkeys(table["tap"]))
    factors = [f for f in ("style", "content") if (table["factor"] == f).any()]
    figure, axes = new_figure(2.4 * len(taps) + 0.5, len(taps), len(factors), sharex=True)
    for row, tap in zip(axes, taps, strict=True):
        for axis, factor in zip(row, factors, strict=True):
            mine = table[(table["tap"] == tap) & (table["factor"] == factor)]
            for arm, (colour, marker) in ARMS.items():
                own = mine[mine["arm"] == arm]
                axis.plot(
                    own["normal"],
                    own["score"],
                    marker,
                    color=colour,
                    markersize=5 if arm == "frozen" else 3,
                    fillstyle="none" if arm == "frozen" else "full",
                    label=arm,
                )
            ends = np.array([mine["normal"].min(), mine["normal"].max()])
            axis.plot(ends, ends, color=GREY, linewidth=0.8)
            axis.set_title(f"{factor} at {tap}", fontsize=TEXT)
            axis.set_ylabel("score, sd 1", fontsize=SMALL)
    for axis in axes[-1]:
        axis.set_xlabel("normal quantile", fontsize=SMALL)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, fontsize=SMALL)
    return figure


def specification_plot(table: pd.DataFrame) -> Figure:
    """Draw every specification's estimate in rising order, by whether it meets the rule.

    Columns: hypothesis, statistic, estimate, met. One panel a rule.
    """
    rules = list(dict.fromkeys(zip(table["hypothesis"], table["statistic"], strict=True)))
    lines = -(-len(rules) // 2)
    figure, axes = new_figure(1.7 * lines + 0.5, lines, 2)
    for axis in axes.flat[len(rules) :]:
        axis.set_axis_off()
    for axis, (hypothesis, statistic) in zip(axes.flat, rules, strict=False):
        mine = table[(table["hypothesis"] == hypothesis) & (table["statistic"] == statistic)]
        mine = mine.sort_values("estimate", kind="stable").reset_index(drop=True)
        for met, (colour, marker, label) in MET.items():
            own = mine[mine["met"].astype(bool) == met]
            axis.plot(own.index, own["estimate"], marker, color=colour, markersize=4, label=label)
        share = f"{int(mine['met'].sum())} of {len(mine)}"
        axis.set_title(f"{hypothesis}: {statistic} ({share})", fontsize=SMALL)
        axis.set_xticks([])
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, fontsize=SMALL)
    return figure
