"""The figures of the calibration: dots with Monte-Carlo errors against their bars."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from statsnorm.figures.canvas import BLUE, GREEN, GREY, PALE, SMALL, TEXT, VERMILION, new_figure

MARKS = {"gaussian": (BLUE, "o"), "t5": (VERMILION, "s"), "real": (GREEN, "^"), "": (GREY, "D")}
LINE = 0.17  # inches a row
PANELS = 3  # side by side at most; more designs stand below each other


def coverage_figure(rows: pd.DataFrame) -> Any:
    """Draw coverage by quantity: one panel a design if there are few."""
    titles = list(dict.fromkeys(rows["title"]))
    if len(titles) > PANELS:
        rows = rows.assign(quantity=rows["title"] + ": " + rows["quantity"], title="")
        titles = [""]
    names = list(dict.fromkeys(rows["quantity"]))
    height = LINE * len(names) + 0.9
    figure, axes = new_figure(height, 1, len(titles), sharey=True, sharex=True)
    for axis, title in zip(axes[0], titles, strict=True):
        _dots(axis, rows[rows["title"] == title], names)
        axis.set_title(title.removeprefix("intervals, "), fontsize=SMALL)
        axis.set_xlabel("coverage, %", fontsize=SMALL)
    _legend(figure)
    return figure


def size_figure(rows: pd.DataFrame) -> Any:
    """Draw the size of every test."""
    rows = rows.assign(quantity=rows["title"] + ": " + rows["quantity"])
    names = list(dict.fromkeys(rows["quantity"]))
    figure, axes = new_figure(LINE * len(names) + 0.9, 1, 1)
    _dots(axes[0, 0], rows, names)
    axes[0, 0].set_xlabel("rejections of a true null, %", fontsize=SMALL)
    axes[0, 0].set_xlim(left=0)
    _legend(figure)
    return figure


def _dots(axis: Any, rows: pd.DataFrame, names: list[str]) -> None:
    place = {name: i for i, name in enumerate(names)}
    laws = [law for law in MARKS if (rows["law"] == law).any()]
    edge = {"low": 100 * rows["value"].min() - 1, "high": 100.0}
    for row in rows.drop_duplicates("quantity").to_dict("records"):
        low, high = (
            100 * row[end] if np.isfinite(row[end]) else edge[end] for end in ("low", "high")
        )
        axis.barh(place[row["quantity"]], high - low, left=low, height=0.8, color=PALE, zorder=0)
    for k, law in enumerate(laws):
        mine = rows[rows["law"] == law]
        at = mine["quantity"].map(place).to_numpy(float) + 0.22 * (k - (len(laws) - 1) / 2)
        colour, marker = MARKS[law]
        axis.errorbar(
            100 * mine["value"],
            at,
            xerr=200 * mine["mc_se"],
            fmt=marker,
            color=colour,
            markersize=3,
            elinewidth=0.8,
            label=law,
        )
    axis.set_yticks(range(len(names)), names, fontsize=SMALL)
    axis.set_ylim(len(names) - 0.4, -0.6)


def _legend(figure: Any) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if any(labels):
        figure.legend(
            handles, labels, loc="outside upper right", ncols=3, fontsize=TEXT, frameon=False
        )
