"""Shared look of all figures: size, type, colours. No pyplot, so no global state.

Widths are 7.3 in: at 96 dots an inch that is the 700 px of a narrow page, where 9 pt text stays
legible. Colours are those of Okabe and Ito; shape or line style always tells the same thing twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 7.3  # inches
TEXT = 9.0  # points
SMALL = 8.0

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY, PALE = "#6B6B6B", "#D9D9D9"
CYCLE: tuple[str, ...] = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK, "#8C6D1F")
MARKERS: tuple[str, ...] = ("o", "s", "^", "D", "v", "P", "X", "<")

FACTOR_COLOURS = {"S": VERMILION, "I": BLUE, "K": GREEN}
FACTOR_NAMES = {"S": "style", "I": "content", "K": "contrast"}


def new_figure(height: float, rows: int = 1, columns: int = 1, **grid: Any) -> tuple[Figure, Any]:
    """Return a figure of full width and its axes as an array (rows, columns)."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **grid)
    for axis in axes.flat:
        tidy_axis(axis)
    return figure, axes


def tidy_axis(axis: Axes) -> None:
    """Set type sizes, thin spines and a faint grid behind the data."""
    axis.tick_params(labelsize=SMALL, length=3)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.grid(visible=True, color=PALE, linewidth=0.6)
    axis.set_axisbelow(True)


def tap_ticks(axis: Axes, names: Sequence[str], *, vertical: bool = False) -> None:
    """Label one position per tap: along x turned upright, or down y with the first on top."""
    places = range(len(names))
    if vertical:
        axis.set_yticks(places, list(names), fontsize=SMALL)
        axis.invert_yaxis()
    else:
        axis.set_xticks(places, list(names), rotation=90, fontsize=SMALL)


def style_marks(n: int) -> list[tuple[str, str]]:
    """Return n (colour, marker) pairs, 64 of them distinct; neighbours differ in both."""
    size = len(CYCLE)
    return [(CYCLE[i % size], MARKERS[(i + i // size) % len(MARKERS)]) for i in range(n)]


def errors(table: Any, estimate: str, low: str, high: str) -> Any:
    """Return distances (2, n) from the estimate to its bounds, nan where there is no bound."""
    values = table[estimate].to_numpy(float)
    bounds = [values - table[low].to_numpy(float), table[high].to_numpy(float) - values]
    return [np.where(np.isfinite(bound), bound, np.nan) for bound in bounds]
