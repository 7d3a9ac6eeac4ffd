"""Training curves with their bands, gaps by block, survival to a threshold, trade-offs (F1-F3)."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from statsnorm.figures.canvas import (
    BLACK,
    BLUE,
    CYCLE,
    GREY,
    MARKERS,
    ORANGE,
    PALE,
    SMALL,
    TEXT,
    VERMILION,
    new_figure,
)

COLOURS = {"in": BLUE, "bn": VERMILION}
DASHES: dict[str, Literal["-", "--"]] = {"in": "-", "bn": "--"}
COLUMNS = 3
YLABELS = {"loss": "held-out style loss", "ratio": "log (BN / IN)"}
EXCLUDES = "#BFE3D5"  # where the band excludes 0


def training_curves(table: pd.DataFrame, *, scale: str = "log") -> Figure:
    """Draw F1: one panel a condition, the losses of both norms above their log ratio.

    Columns: condition, panel (loss, ratio), norm, trace, iteration, value, low, high. Thin: one
    line a block; thick: the mean (geometric for `scale` "log", arithmetic for "raw"); shaded: the
    simultaneous band, green where it excludes 0. "raw": losses only, on a linear axis.
    """
    conditions = list(dict.fromkeys(table["condition"]))
    panels = ["loss", "ratio"] if scale == "log" else ["loss"]
    across = len(conditions) if len(conditions) <= 5 else 4
    down = math.ceil(len(conditions) / across)
    figure, axes = new_figure(0.8 + 1.8 * len(panels) * down, len(panels) * down, across,
                              sharex=True)  # fmt: skip
    for i, condition in enumerate(conditions):
        rows = table[table["condition"] == condition]
        for k, panel in enumerate(panels):
            axis = axes[len(panels) * (i // across) + k, i % across]
            mine = rows[rows["panel"] == panel]
            _losses(axis, mine, scale) if panel == "loss" else _ratios(axis, mine)
            if k == 0:
                axis.set_title(condition, fontsize=SMALL if across > 3 else TEXT)
    for k, panel in enumerate(panels):
        kind = axes[k :: len(panels)]
        _share_y([a for a in kind.flat if a.has_data()])
        for axis in kind[:, 0]:
            axis.set_ylabel(YLABELS[panel], fontsize=TEXT)
        for axis in kind[:, 1:].flat:
            axis.tick_params(labelleft=False)
    _finish_grid(axes, "iteration")
    _curves_legend(figure, table, scale)
    return figure


def _finish_grid(axes: Any, xlabel: str) -> None:
    """Hide empty panels and label the lowest panel of every column."""
    for axis in axes.flat:
        axis.set_visible(axis.has_data())
    for column in axes.T:
        last = [a for a in column if a.has_data()][-1]
        last.set_xlabel(xlabel, fontsize=TEXT)
        last.tick_params(labelbottom=True)
        last.xaxis.set_major_locator(
            MaxNLocator(2 if axes.shape[1] > 3 else 4, steps=[1, 2, 5, 10])
        )


def _log_axis(axis: Axes) -> None:
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.yaxis.set_minor_locator(NullLocator())


def _losses(axis: Axes, rows: pd.DataFrame, scale: str) -> None:
    wanted = "geometric mean" if scale == "log" else "arithmetic mean"
    for norm, colour in COLOURS.items():
        mine = rows[rows["norm"] == norm]
        for trace, line in mine.groupby("trace", sort=False):
            if trace == wanted:
                axis.plot(line["iteration"], line["value"], color=colour, linewidth=1.8,
                          linestyle=DASHES[norm], zorder=3)  # fmt: skip
            elif not str(trace).endswith("mean"):
                axis.plot(line["iteration"], line["value"], color=colour, linewidth=0.5, alpha=0.35)
    if scale == "log":
        _log_axis(axis)


def _ratios(axis: Axes, rows: pd.DataFrame) -> None:
    axis.axhline(0, color=BLACK, linewidth=0.8)
    for trace, line in rows.groupby("trace", sort=False):
        if trace != "mean":
            axis.plot(line["iteration"], line["value"], color=GREY, linewidth=0.5, alpha=0.5)
    mean = rows[rows["trace"] == "mean"]
    at = mean["iteration"].to_numpy(float)
    low, high = (mean[c].to_numpy(float) for c in ("low", "high"))
    known = np.isfinite(low) & np.isfinite(high)
    out = known & ((low > 0) | (high < 0))
    if known.any():
        axis.fill_between(at, low, high, where=known.tolist(), color=PALE, alpha=0.9, linewidth=0)
        axis.fill_between(at, low, high, where=out.tolist(), color=EXCLUDES, linewidth=0)
    axis.plot(at, mean["value"], color=BLACK, linewidth=1.6)


def _share_y(axes: list[Axes]) -> None:
    limits = np.array([axis.get_ylim() for axis in axes])
    for axis in axes:
        axis.set_ylim(limits[:, 0].min(), limits[:, 1].max())


def _curves_legend(figure: Figure, table: pd.DataFrame, scale: str) -> None:
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=COLOURS[n], linestyle=DASHES[n], linewidth=1.8, label=n.upper())
        for n in COLOURS
    ]
    handles.append(Line2D([], [], color=GREY, linewidth=0.6, label="one block"))
    ratio = table[(table["panel"] == "ratio") & (table["trace"] == "mean")]
    if scale == "log" and np.isfinite(ratio["low"].astype(float)).any():
        handles.append(Patch(color=PALE, label="95 % band"))
        handles.append(Patch(color=EXCLUDES, label="excludes 0"))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=SMALL,
                  frameon=False)  # fmt: skip


def block_gaps(table: pd.DataFrame, *, ylabel: str = "", least: float | None = None) -> Figure:
    """Draw F2: each block's gap, connected across conditions, with means and intervals.

    Columns: place, trace (block, or "mean"), value, low, high, margin. Diamonds: mean with its
    interval; dashed: the least gap that counts; shaded: the margins of H4, at D only.
    """
    places = list(dict.fromkeys(table["place"]))
    at = {place: i for i, place in enumerate(places)}
    figure, axes = new_figure(4.0)
    axis = axes[0, 0]
    axis.axhline(0, color=BLACK, linewidth=0.8)
    if least is not None:
        axis.axhline(least, color=ORANGE, linewidth=1.2, linestyle="--")
    rows = table.assign(x=table["place"].map(at))
    margins = rows[rows["margin"].notna()].drop_duplicates("place")
    for x, half in zip(margins["x"], margins["margin"], strict=True):
        axis.fill_between([x - 0.3, x + 0.3], -abs(half), abs(half), color=PALE, zorder=0)
    gaps = rows[~rows["place"].isin(margins["place"])]
    for _, line in gaps[gaps["trace"] != "mean"].groupby("trace", sort=False):
        axis.plot(line["x"], line["value"], color=GREY, linewidth=0.7, alpha=0.6)
    dots = rows[rows["trace"] != "mean"]
    axis.plot(dots["x"], dots["value"], linestyle="", marker="o", markersize=3, color=GREY)
    mean = rows[rows["trace"] == "mean"]
    value, low, high = (mean[c].to_numpy(float) for c in ("value", "low", "high"))
    bars = np.nan_to_num([value - low, high - value], posinf=0).clip(0)
    axis.errorbar(mean["x"] + 0.13, value, yerr=bars,
                  linestyle="", marker="D", markersize=6, color=BLUE, capsize=3,
                  elinewidth=1.6, zorder=4)  # fmt: skip
    axis.set_xticks(range(len(places)), [p.replace(" ", "\n", 1) for p in places], fontsize=SMALL,
                    rotation=0 if len(places) < 8 else 90)  # fmt: skip
    axis.set_xlim(-0.5, len(places) - 0.5)
    axis.set_ylabel(ylabel, fontsize=TEXT)
    handles = [
        Line2D([], [], color=GREY, marker="o", markersize=3, linewidth=0.7, label="one block"),
        Line2D([], [], color=BLUE, marker="D", linestyle="", label="mean, 95 % interval"),
        Line2D([], [], color=ORANGE, linestyle="--", label="least gap that counts"),
        Patch(color=PALE, label="margin of H4"),
    ]
    shown = handles if len(margins) else handles[:3]
    figure.legend(handles=shown, loc="outside upper center", ncols=4, fontsize=SMALL,
                  frameon=False)  # fmt: skip
    return figure


def threshold_survival(table: pd.DataFrame) -> Figure:
    """Draw F3: share of cells not yet at a threshold, a row a threshold, a column a condition.

    Columns: condition, threshold, norm, iteration, share.
    """
    thresholds, conditions = (list(dict.fromkeys(table[c])) for c in ("threshold", "condition"))
    figure, axes = new_figure(0.7 + 1.35 * len(thresholds), len(thresholds), len(conditions),
                              sharex=True, sharey=True)  # fmt: skip
    for i, threshold in enumerate(thresholds):
        for k, condition in enumerate(conditions):
            axis = axes[i, k]
            rows = table[(table["threshold"] == threshold) & (table["condition"] == condition)]
            for norm, colour in COLOURS.items():
                mine = rows[rows["norm"] == norm]
                axis.step(mine["iteration"], mine["share"], where="post", color=colour,
                          linestyle=DASHES[norm], linewidth=1.6)  # fmt: skip
            axis.set_ylim(-0.05, 1.08)
            if i == 0:
                axis.set_title(condition, fontsize=SMALL if len(conditions) > 3 else TEXT)
        axes[i, 0].set_ylabel(threshold.replace(" at ", "\nat "), fontsize=SMALL)
    _finish_grid(axes, "iteration")
    handles = [
        Line2D([], [], color=COLOURS[n], linestyle=DASHES[n], label=f"{n.upper()}, not yet there")
        for n in COLOURS
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, fontsize=SMALL,
                  frameon=False)  # fmt: skip
    return figure


def loss_trade_off(table: pd.DataFrame) -> Figure:
    """Draw style loss against content loss at matched iterations, a panel a condition.

    Columns: condition, norm, iteration, content, style. Marks of one shape and number belong to
    the same iteration; the last one is filled.
    """
    conditions = list(dict.fromkeys(table["condition"]))
    across = min(COLUMNS, len(conditions))
    down = math.ceil(len(conditions) / across)
    figure, axes = new_figure(0.7 + 2.0 * down, down, across, sharex=True, sharey=True)
    for i, condition in enumerate(conditions):
        axis = axes[i // across, i % across]
        for k, (norm, colour) in enumerate(COLOURS.items()):
            mine = table[(table["condition"] == condition) & (table["norm"] == norm)]
            axis.plot(mine["content"], mine["style"], color=colour, linestyle=DASHES[norm],
                      linewidth=1, marker=MARKERS[k], markersize=4,
                      markerfacecolor="white")  # fmt: skip
            axis.plot(mine["content"].iloc[-1:], mine["style"].iloc[-1:], color=colour,
                      marker=MARKERS[k], markersize=5)  # fmt: skip
        axis.set_title(condition, fontsize=TEXT)
        axis.set_ylim(table["style"].min() / 1.2, table["style"].max() * 1.2)
        _log_axis(axis)
    for row in axes:
        row[0].set_ylabel("style loss", fontsize=TEXT)
    _finish_grid(axes, "content loss")
    handles = [
        Line2D([], [], color=CYCLE[k], linestyle=DASHES[n], marker=MARKERS[k], markersize=4,
               label=n.upper())
        for k, n in enumerate(COLOURS)
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper center", ncols=2, fontsize=SMALL,
                  frameon=False)  # fmt: skip
    return figure
