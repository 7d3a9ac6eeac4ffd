"""Removed fractions by depth, as a heatmap, as stacks, and moments as a scatter (F4, F5, F7)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from statsnorm.figures.canvas import (
    BLACK,
    BLUE,
    FACTOR_COLOURS,
    FACTOR_NAMES,
    GREEN,
    GREY,
    PALE,
    SMALL,
    TEXT,
    VERMILION,
    errors,
    new_figure,
    style_marks,
    tap_ticks,
)

STACK = (
    ("style", VERMILION, ""),
    ("content", BLUE, ""),
    ("contrast", GREEN, ""),
    ("interactions", GREY, ""),
)
PANELS = {
    "input": "at the input",
    "frozen": "normalisers frozen",
    "normalised": "normalisers at work",
}
LEAST_SHOWN = -1.05  # a removed fraction below -1 says only that variance was added
KINDS = {
    "next_pre_norm": "input of the next normaliser",
    "residual_sum": "residual sums",
    "vgg_of_output": "VGG of output",
}


def removed_by_depth(table: pd.DataFrame) -> Figure:
    """Draw R_S, R_I, R_K by depth: trained with intervals, untrained as a band.

    Columns: tap, tap_kind, depth, factor (S, I, K), estimate, low, high, untrained,
    untrained_low, untrained_high. One panel a factor; taps in the order of the table.
    """
    taps = list(dict.fromkeys(table["tap"]))
    factors = [f for f in ("S", "I", "K") if f in set(table["factor"])]
    figure, axes = new_figure(1.3 + 1.55 * len(factors), len(factors), sharex=True, sharey=True)
    for axis, factor in zip(axes[:, 0], factors, strict=True):
        rows = table[table["factor"] == factor].set_index("tap").reindex(taps).reset_index()
        _depth_panel(axis, rows, factor)
    floor = np.nanmin([table["estimate"].min(), table["untrained_low"].min(), 0.0])
    axes[0, 0].set_ylim(max(LEAST_SHOWN, float(floor) - 0.05), 1.05)
    tap_ticks(axes[-1, 0], taps)
    axes[0, 0].legend(handles=_depth_legend(), loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3,
                      fontsize=SMALL, frameon=False)  # fmt: skip
    return figure


def _depth_panel(axis: Axes, rows: pd.DataFrame, factor: str) -> None:
    place = np.arange(len(rows))
    colour = FACTOR_COLOURS[factor]
    low, high = (rows[c].to_numpy(float) for c in ("untrained_low", "untrained_high"))
    axis.fill_between(place, low, high, step="mid", color=PALE, linewidth=0)
    axis.step(place, rows["untrained"], where="mid", color=GREY, linestyle="--", linewidth=1)
    bars = rows.assign(low=rows["low"].clip(LEAST_SHOWN), high=rows["high"].clip(upper=2))
    axis.errorbar(
        place,
        rows["estimate"],
        yerr=np.nan_to_num(errors(bars, "estimate", "low", "high")).clip(min=0),
        color=colour,
        marker="o",
        markersize=4,
        linewidth=1.4,
        elinewidth=1.2,
        capsize=2,
    )
    axis.axhline(0, color=BLACK, linewidth=0.8)
    axis.set_ylabel(f"$R_{factor}$\n{FACTOR_NAMES[factor]}", fontsize=TEXT)
    kinds = rows["tap_kind"].tolist()
    for i, kind in enumerate(kinds):
        if i == 0 or kind != kinds[i - 1]:
            axis.axvline(i - 0.5, color=GREY, linewidth=0.8 if i else 0, linestyle=":")
            if factor == "S":
                axis.text(i - 0.4, 0.03, KINDS.get(kind, kind), fontsize=SMALL, color=GREY)


def _depth_legend() -> list[Any]:
    return [
        Line2D([], [], color=BLACK, marker="o", markersize=4, label="trained, 95 % interval"),
        Line2D([], [], color=GREY, linestyle="--", label="untrained, mean"),
        Patch(color=PALE, label="untrained, 95 % prediction"),
    ]


def removal_heatmap(table: pd.DataFrame) -> Figure:
    """Draw F4: taps by {R_S, R_S-perp, R_K, R_I}, one block of columns a network.

    Columns: net, tap, factor, estimate, simultaneous_low, simultaneous_high, by_construction.
    Hatched: the simultaneous interval reaches zero. Grey: fixed by construction.
    """
    nets = list(dict.fromkeys(table["net"]))
    taps = list(dict.fromkeys(table["tap"]))
    figure, axes = new_figure(1.4 + 0.19 * len(taps), 1, len(nets), sharey=True)
    image = None
    for axis, net in zip(axes[0], nets, strict=True):
        image = _heat_panel(axis, table[table["net"] == net], taps)
        axis.set_title(net, fontsize=TEXT)
    axes[0, 0].set_yticks(range(len(taps)), taps, fontsize=SMALL)
    if image is not None:
        bar = figure.colorbar(image, ax=axes[0].tolist(), shrink=0.6, aspect=30, pad=0.02)
        bar.set_label("removed fraction", fontsize=TEXT)
        bar.ax.tick_params(labelsize=SMALL)
    handles = [
        Patch(
            facecolor="#7C7B78",
            edgecolor="white",
            hatch="////",
            label="simultaneous interval meets 0",
        ),
        Patch(facecolor=PALE, label="fixed by construction"),
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=2, fontsize=SMALL, frameon=False
    )
    return figure


def _heat_panel(axis: Axes, rows: pd.DataFrame, taps: list[str]) -> Any:
    wanted = {"S": "$R_S$", "Sperp": r"$R_{S\perp}$", "K": "$R_K$", "I": "$R_I$"}
    factors = [f for f in wanted if f in set(rows["factor"])]
    grid = rows.pivot(index="tap", columns="factor", values="estimate").reindex(taps)[factors]
    image = axis.imshow(
        grid.to_numpy(float), vmin=0, vmax=1, cmap=_cividis(), aspect="auto", interpolation="none"
    )
    axis.grid(visible=False)
    axis.set_xticks(range(len(factors)), [wanted[f] for f in factors], fontsize=TEXT)
    at = {(t, f): i for i, (t, f) in enumerate(zip(rows["tap"], rows["factor"], strict=True))}
    for y, tap in enumerate(taps):
        for x, factor in enumerate(factors):
            place = at.get((tap, factor))
            if place is not None:
                _heat_cell(axis, x, y, rows.iloc[place])
    return image


def _heat_cell(axis: Axes, x: int, y: int, row: Any) -> None:
    corner = (x - 0.5, y - 0.5)
    if row["by_construction"]:
        axis.add_patch(Rectangle(corner, 1, 1, facecolor=PALE, edgecolor="white"))
        return
    value = float(row["estimate"])
    if not np.isfinite(value):
        return
    if row["simultaneous_low"] <= 0 <= row["simultaneous_high"]:
        axis.add_patch(
            Rectangle(corner, 1, 1, fill=False, edgecolor="white", hatch="////", linewidth=0)
        )
    colour = "white" if value < 0.55 else "black"
    axis.text(x, y, f"{value:.2f}".replace("-", "\N{MINUS SIGN}"), ha="center", va="center",
              fontsize=SMALL, color=colour)  # fmt: skip


def _cividis() -> Colormap:
    from matplotlib import colormaps

    colours = colormaps["cividis"](np.linspace(0, 1, 256))
    return ListedColormap(colours).with_extremes(bad="white", under=colours[0])


def variance_stacks(table: pd.DataFrame) -> Figure:
    """Draw F5: stacked components before and after, in absolute scale-free units.

    Columns: tap, when ("before", "after"), style, content, contrast, interactions. Negative
    estimates are drawn as zero.
    """
    taps = list(dict.fromkeys(table["tap"]))
    figure, axes = new_figure(1.3 + 0.34 * len(taps))
    axis = axes[0, 0]
    for offset, when in ((-0.19, "before"), (0.19, "after")):
        rows = table[table["when"] == when].set_index("tap").reindex(taps)
        left = np.zeros(len(taps))
        for name, colour, _ in STACK:
            width = rows[name].fillna(0).to_numpy(float).clip(min=0)
            hatch = "" if when == "before" else "//"
            axis.barh(np.arange(len(taps)) + offset, width, 0.34, left=left, color=colour,
                      edgecolor="white", linewidth=0.5, hatch=hatch)  # fmt: skip
            left += width
    axis.set_ylim(-0.6, len(taps) - 0.4)
    tap_ticks(axis, taps, vertical=True)
    axis.set_xlabel("variance of log standard deviation, mean over channels", fontsize=TEXT)
    axis.grid(visible=False, axis="y")
    handles = [Patch(color=colour, label=name) for name, colour, _ in STACK]
    handles += [
        Patch(facecolor=GREY, label="before (upper bar)"),
        Patch(facecolor=GREY, edgecolor="white", hatch="//", label="after (lower bar)"),
    ]
    figure.legend(
        handles=handles, loc="outside upper center", ncols=3, fontsize=SMALL, frameon=False
    )
    return figure


def moment_scatter(table: pd.DataFrame, *, tap: str = "") -> Figure:
    """Draw F7: m against v of selected channels, one dot an image, coloured by style.

    Columns: panel (input, frozen, normalised), channel, style, m, v (lists over images). All
    panels of a channel span the same width and height, so dispersion can be compared.
    """
    panels = [p for p in PANELS if p in set(table["panel"])]
    channels = list(dict.fromkeys(table["channel"]))
    styles = list(dict.fromkeys(table["style"]))
    marks = dict(zip(styles, style_marks(len(styles)), strict=True))
    figure, axes = new_figure(1.0 + 2.3 * len(channels), len(channels), len(panels))
    for row, channel in enumerate(channels):
        mine = table[table["channel"] == channel]
        spans = [_span(mine, name) for name in ("m", "v")]
        for column, panel in enumerate(panels):
            axis = axes[row, column]
            points = mine[mine["panel"] == panel]
            _scatter_panel(axis, points, spans, marks)
            if row == 0:
                axis.set_title(PANELS[panel], fontsize=TEXT)
            if row == len(channels) - 1:
                axis.set_xlabel("$m$ (mean / average sd)", fontsize=TEXT)
        axes[row, 0].set_ylabel(f"{tap} channel {channel}\n$v$ (log sd)".strip(), fontsize=TEXT)
    handles = [
        Line2D([], [], color=c, marker=k, linestyle="", markersize=5, label=s)
        for s, (c, k) in marks.items()
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=4, fontsize=SMALL, frameon=False
    )
    return figure


def _scatter_panel(
    axis: Axes, points: pd.DataFrame, spans: list[float], marks: dict[Any, tuple[str, str]]
) -> None:
    for style, m, v in zip(points["style"], points["m"], points["v"], strict=True):
        colour, marker = marks[style]
        axis.scatter(m, v, s=11, color=colour, marker=marker, alpha=0.8, linewidths=0)
    for name, span, limit in (("m", spans[0], axis.set_xlim), ("v", spans[1], axis.set_ylim)):
        values = np.concatenate([np.asarray(x, float) for x in points[name]])
        middle = (values.min() + values.max()) / 2
        limit(middle - span / 2, middle + span / 2)


def _span(rows: pd.DataFrame, name: str) -> float:
    widths = []
    for _, panel in rows.groupby("panel", sort=True):
        values = np.concatenate([np.asarray(x, float) for x in panel[name]])
        widths.append(float(np.ptp(values)))
    return 1.08 * max(widths) or 1.0
