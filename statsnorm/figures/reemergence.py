"""Variance by depth at work and frozen, and over the iterations of training (method.md 5.6)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from statsnorm.figures.canvas import (
    BLACK,
    CYCLE,
    FACTOR_COLOURS,
    FACTOR_NAMES,
    GREY,
    MARKERS,
    PALE,
    SMALL,
    TEXT,
    errors,
    new_figure,
    tap_ticks,
)

KIND_MARKS = {
    "pre_norm": ("s", "input of a normaliser"),
    "next_pre_norm": ("s", "input of a normaliser"),
    "post_act": ("^", "behind an activation"),
    "residual_sum": ("D", "residual sum"),
    "output": ("P", "output"),
}
LEAST = 1e-4  # less variance than this is drawn at the lower edge


def variance_by_depth(table: pd.DataFrame) -> Figure:
    """Draw V_S and V_I by depth: trained and untrained at work, trained frozen.

    Columns: stage (trained, untrained), tap, tap_kind, by_construction, factor (S, I), at_work,
    low, high, frozen. One panel a factor, log scale. Taps fixed by construction hang at the lower
    edge: there every normaliser has removed all.
    """
    taps = list(dict.fromkeys(table["tap"]))
    factors = [f for f in ("S", "I") if f in set(table["factor"])]
    figure, axes = new_figure(1.5 + 1.9 * len(factors), len(factors), sharex=True, sharey=True)
    for axis, factor in zip(axes[:, 0], factors, strict=True):
        _depth_panel(axis, table[table["factor"] == factor], taps, factor)
    highest = float(np.nanmax(table[["at_work", "high", "frozen"]].to_numpy(float)))
    axes[0, 0].set_ylim(LEAST * 0.7, 1.5 * max(highest, LEAST))
    tap_ticks(axes[-1, 0], taps)
    figure.legend(handles=_depth_legend(table), loc="outside upper center", ncols=3,
                  fontsize=SMALL, frameon=False)  # fmt: skip
    return figure


def _depth_panel(axis: Axes, rows: pd.DataFrame, taps: list[str], factor: str) -> None:
    place, colour = np.arange(len(taps)), FACTOR_COLOURS[factor]
    trained, untrained = (
        rows[rows["stage"] == stage].set_index("tap").reindex(taps).reset_index()
        for stage in ("trained", "untrained")
    )
    axis.set_yscale("log")
    if untrained["at_work"].notna().any():
        low, high = (untrained[c].clip(lower=LEAST).to_numpy(float) for c in ("low", "high"))
        axis.fill_between(place, low, high, step="mid", color=PALE, linewidth=0)
        axis.plot(place, untrained["at_work"].clip(lower=LEAST), color=GREY, linestyle=":",
                  linewidth=1.4)  # fmt: skip
    axis.plot(place, trained["frozen"].clip(lower=LEAST), color=GREY, linestyle="--", linewidth=1)
    shown = trained.assign(
        at_work=trained["at_work"].clip(lower=LEAST), low=trained["low"].clip(lower=LEAST)
    )
    axis.plot(place, shown["at_work"], color=colour, linewidth=1.2)
    for kind in dict.fromkeys(trained["tap_kind"].dropna()):
        mark = KIND_MARKS.get(kind, ("v", ""))[0]
        mine = (trained["tap_kind"] == kind).to_numpy()
        bars = np.nan_to_num(errors(shown[mine], "at_work", "low", "high")).clip(min=0)
        axis.errorbar(place[mine], shown.loc[mine, "at_work"], yerr=bars, color=colour,
                      marker=mark, markersize=4.5, linestyle="", elinewidth=1.1,
                      capsize=2)  # fmt: skip
    fixed = trained["by_construction"].fillna(value=False).astype(bool).to_numpy()
    for x in place[fixed]:
        axis.axvline(x, color=GREY, linewidth=0.7, linestyle=(0, (1, 2)))
    axis.plot(place[fixed], np.full(fixed.sum(), LEAST), linestyle="", marker="v", color=colour,
              markersize=5, markerfacecolor="white")  # fmt: skip
    axis.set_ylabel(f"$V_{factor}$ of log sd\n{FACTOR_NAMES[factor]}", fontsize=TEXT)


def _depth_legend(table: pd.DataFrame) -> list[Any]:
    kinds = [k for k in KIND_MARKS if k in set(table["tap_kind"])]
    marks = dict.fromkeys(KIND_MARKS[k] for k in kinds)
    handles = [
        Line2D([], [], color=BLACK, linewidth=1.2, label="trained, at work (95 % interval)"),
        Line2D([], [], color=GREY, linestyle="--", label="trained, frozen"),
        Line2D([], [], color=GREY, linestyle=":", label="untrained, at work"),
    ]
    handles += [
        Line2D([], [], color=BLACK, linestyle="", marker=m, markersize=4.5, label=name)
        for m, name in marks
    ]
    if table["by_construction"].any():
        handles.append(
            Line2D([], [], color=BLACK, linestyle="", marker="v", markerfacecolor="white",
                   label="fixed by a normaliser (0)")
        )  # fmt: skip
    return handles


def over_training(table: pd.DataFrame) -> Figure:
    """Draw quantities over iterations: thin lines networks, thick the mean with its interval.

    Columns: group, panel, trace ("mean", or a cell), iteration, estimate, low, high. One column of
    panels a quantity, one colour a group. The axis of iterations is linear up to the first
    checkpoint behind 0 and logarithmic beyond.
    """
    panels, groups = (list(dict.fromkeys(table[name])) for name in ("panel", "group"))
    across = min(3, len(panels))
    down = math.ceil(len(panels) / across)
    figure, axes = new_figure(0.9 + 2.1 * down, down, across, sharex=True)
    steps = sorted(set(table["iteration"]))
    for axis, panel in zip(axes.flat, panels, strict=False):
        for k, group in enumerate(groups):
            rows = table[(table["panel"] == panel) & (table["group"] == group)]
            _traces(axis, rows, CYCLE[k % len(CYCLE)], MARKERS[k % len(MARKERS)])
        logs = panel.startswith("V_")
        axis.set_title(f"log {panel}" if logs else panel, fontsize=TEXT)
        if not logs:
            axis.axhline(0, color=BLACK, linewidth=0.7)
        axis.set_xscale("symlog", linthresh=max(1, next((s for s in steps if s > 0), 1)))
        axis.xaxis.set_major_locator(FixedLocator(steps))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xticklabels([str(s) for s in steps], fontsize=SMALL)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("iteration", fontsize=TEXT)
    handles = [
        Line2D([], [], color=CYCLE[k % len(CYCLE)], marker=MARKERS[k % len(MARKERS)], markersize=5,
               label=group)
        for k, group in enumerate(groups)
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper center", ncols=2, fontsize=SMALL,
                  frameon=False)  # fmt: skip
    return figure


def _traces(axis: Axes, rows: pd.DataFrame, colour: str, marker: str) -> None:
    for trace, mine in rows.groupby("trace", sort=True):
        ordered = mine.sort_values("iteration")
        if trace != "mean":
            axis.plot(ordered["iteration"], ordered["estimate"], color=colour, linewidth=0.6,
                      alpha=0.35)  # fmt: skip
            continue
        bars = np.nan_to_num(errors(ordered, "estimate", "low", "high")).clip(min=0)
        axis.errorbar(ordered["iteration"], ordered["estimate"], yerr=bars, color=colour,
                      marker=marker, markersize=5, linewidth=1.6, capsize=3)  # fmt: skip
