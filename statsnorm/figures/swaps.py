"""Swaps of a conditional network: matrices own x target style (F10), layers, and blends."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from statsnorm.figures.canvas import BLACK, BLUE, GREY, SMALL, TEXT, VERMILION, errors, new_figure


def swap_matrix(table: pd.DataFrame, *, label: str = "") -> Figure:
    """Draw F10: how far a swap brings the output from its own style to the target's.

    Columns: own, target (style indices), swapped (panel), share. One panel a swap; the diagonal,
    where own and target are one, is left blank.
    """
    panels = list(dict.fromkeys(table["swapped"]))
    styles = sorted(set(table["own"]), key=lambda s: (len(str(s)), str(s)))
    figure, axes = new_figure(3.3, 1, len(panels), sharey=True)
    low = min(0.0, float(table["share"].min()))
    image = None
    for axis, panel in zip(axes[0], panels, strict=True):
        rows = table[table["swapped"] == panel]
        grid = rows.pivot_table(index="own", columns="target", values="share")
        values = grid.reindex(index=styles, columns=styles).to_numpy(float)
        image = axis.imshow(values, cmap="viridis", vmin=low, vmax=1.0)
        for i, j in zip(*np.nonzero(np.isfinite(values)), strict=True):
            dark = values[i, j] < low + 0.6 * (1 - low)
            axis.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", fontsize=SMALL,
                      color="white" if dark else BLACK)  # fmt: skip
        axis.grid(visible=False)
        axis.set_xticks(range(len(styles)), styles, fontsize=SMALL)
        axis.set_yticks(range(len(styles)), styles, fontsize=SMALL)
        axis.set_title(str(panel), fontsize=TEXT)
        axis.set_xlabel("target style", fontsize=TEXT)
    axes[0, 0].set_ylabel("own style", fontsize=TEXT)
    assert image is not None
    bar = figure.colorbar(image, ax=list(axes[0]), shrink=0.8)
    bar.set_label(label, fontsize=TEXT)
    bar.ax.tick_params(labelsize=SMALL)
    return figure


def blend_curve(table: pd.DataFrame, *, ylabel: str = "") -> Figure:
    """Draw the distance to the target and to the own style along a blend of parameters.

    Columns: share, to (target, own), estimate, low, high. Dashed: what features that move in a
    straight line would give, (1 - share)^2 and share^2.
    """
    figure, axes = new_figure(3.2)
    axis = axes[0, 0]
    grid = np.linspace(0, 1, 101)
    for to, colour, marker, line in (
        ("target", BLUE, "o", (1 - grid) ** 2),
        ("own", VERMILION, "s", grid**2),
    ):
        rows = table[table["to"] == to].sort_values("share")
        axis.plot(grid, line, color=GREY, linestyle="--", linewidth=1)
        axis.errorbar(
            rows["share"],
            rows["estimate"],
            yerr=np.nan_to_num(errors(rows, "estimate", "low", "high")).clip(min=0),
            color=colour,
            marker=marker,
            markersize=4.5,
            linewidth=1.2,
            capsize=2,
            label=f"to the {to} style",
        )
    axis.set_xlabel("share of the target's gamma and beta", fontsize=TEXT)
    axis.set_ylabel(ylabel, fontsize=TEXT)
    handles, labels = axis.get_legend_handles_labels()
    handles.append(Line2D([], [], color=GREY, linestyle="--", linewidth=1))
    figure.legend(handles, [*labels, "features on a straight line"], loc="outside upper center",
                  ncols=3, fontsize=SMALL, frameon=False)  # fmt: skip
    return figure
