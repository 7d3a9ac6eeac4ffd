"""Style statistics in the plane: principal components before and after (F8), and t-SNE."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from statsnorm.figures.canvas import BLACK, SMALL, TEXT, new_figure, style_marks

ROWS = {"frozen": "before:\nnormalisers frozen", "normalised": "after:\nnormalisers at work"}
LEGEND_COLUMNS = 5


def style_projection(table: pd.DataFrame) -> Figure:
    """Draw F8: principal components of style statistics, before above and after below.

    Columns: tap, tap_kind, panel (frozen, normalised), style, pc1, pc2 (lists over images),
    share_1, share_2, kept. A tap's two panels have the same limits; one dot an image in a style.
    """
    taps = list(dict.fromkeys(table["tap"]))
    panels = [panel for panel in ROWS if panel in set(table["panel"])]
    marks = _marks(table)
    figure, axes = new_figure(_height(len(panels), len(marks)), len(panels), len(taps))
    for column, tap in enumerate(taps):
        mine = table[table["tap"] == tap]
        reach = [_reach(mine[name]) for name in ("pc1", "pc2")]
        for row, panel in enumerate(panels):
            axis, points = axes[row, column], mine[mine["panel"] == panel]
            _dots(axis, points, ("pc1", "pc2"), marks)
            axis.set_xlim(-reach[0], reach[0])
            axis.set_ylim(-reach[1], reach[1])
            first = points.iloc[0]
            axis.set_xlabel(f"PC 1: {_percent(first['share_1'])}", fontsize=SMALL)
            axis.set_ylabel(f"PC 2: {_percent(first['share_2'])}", fontsize=SMALL)
            kept = "" if panel == "frozen" else f"{_percent(first['kept'])} of variance left"
            title = f"VGG {tap}" if first["tap_kind"] == "vgg_of_output" else tap
            axis.set_title(title if row == 0 else kept, fontsize=TEXT if row == 0 else SMALL)
    _name_rows(axes, panels)
    _legend(figure, marks)
    return figure


def neighbour_map(table: pd.DataFrame) -> Figure:
    """Draw a t-SNE layout, before and after side by side; one dot an image in a style.

    Columns: panel (frozen, normalised), style, x, y (lists over images). Axes have no unit.
    """
    panels = [panel for panel in ROWS if panel in set(table["panel"])]
    marks = _marks(table)
    figure, axes = new_figure(
        _height(2, len(marks)) - 0.4, 1, len(panels), sharex=True, sharey=True
    )
    for axis, panel in zip(axes[0], panels, strict=True):
        _dots(axis, table[table["panel"] == panel], ("x", "y"), marks)
        axis.set_title(ROWS[panel].replace("\n", " "), fontsize=TEXT)
        axis.tick_params(labelbottom=False, labelleft=False)
    _legend(figure, marks)
    return figure


def _reach(lists: pd.Series[Any]) -> float:
    """Return how far from 0 an axis must go to show every point of a tap."""
    return 1.08 * max(float(np.abs(np.concatenate(list(lists))).max()), 1e-12)


def _height(rows: int, styles: int) -> float:
    return 0.5 + 1.85 * rows + 0.17 * -(-styles // LEGEND_COLUMNS)


def _marks(table: pd.DataFrame) -> dict[str, tuple[str, str]]:
    styles = list(dict.fromkeys(table["style"]))
    return dict(zip(styles, style_marks(len(styles)), strict=True))


def _dots(
    axis: Axes, points: pd.DataFrame, names: tuple[str, str], marks: dict[str, tuple[str, str]]
) -> None:
    for style, x, y in zip(points["style"], points[names[0]], points[names[1]], strict=True):
        colour, marker = marks[style]
        axis.scatter(x, y, s=9, color=colour, marker=marker, alpha=0.8, linewidths=0)
    axis.axhline(0, color=BLACK, linewidth=0.4, zorder=0)
    axis.axvline(0, color=BLACK, linewidth=0.4, zorder=0)
    axis.tick_params(labelsize=SMALL - 1)
    axis.locator_params(nbins=4)


def _name_rows(axes: Any, panels: list[str]) -> None:
    for row, panel in enumerate(panels):
        axis = axes[row, 0]
        axis.set_ylabel(f"{ROWS[panel]}\n{axis.get_ylabel()}", fontsize=SMALL)


def _legend(figure: Figure, marks: dict[str, tuple[str, str]]) -> None:
    handles = [
        Line2D([], [], color=c, marker=k, linestyle="", markersize=4.5, label=style)
        for style, (c, k) in marks.items()
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=LEGEND_COLUMNS,
        fontsize=SMALL,
        frameon=False,
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if np.isfinite(share) else "no variance"
