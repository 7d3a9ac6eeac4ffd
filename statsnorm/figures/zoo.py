"""The zoo of normalisers: removed fractions side by side, and style kept against content kept."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from statsnorm.figures.canvas import (
    BLACK,
    BLUE,
    CYCLE,
    GREY,
    MARKERS,
    PALE,
    SMALL,
    TEXT,
    VERMILION,
    errors,
    new_figure,
    tap_ticks,
)

PANELS = {
    "R_S": "$R_S$\nstyle",
    "R_S_perp": r"$R_{S\perp}$" + "\nstyle, matched",
    "R_I": "$R_I$\ncontent",
    "R_K": "$R_K$\ncontrast",
    "Psi": r"$\Psi$" + "\nlog ratio",
}
LEAST, MOST = -0.6, 1.08  # of a removed fraction
LIMIT = 4.0  # of Psi
SMALLEST = 1e-3  # share kept that the plane still tells from nothing
FAMILIES = {"BN": VERMILION, "LN": CYCLE[2], "GN": CYCLE[3], "IN": BLUE}


def norm_panels(table: pd.DataFrame) -> Figure:
    """Draw R_S, R_S-perp, R_I, R_K and Psi of every arm, a colour and shape a host.

    Columns: host, arm, quantity, estimate, low, high. What lies outside a panel is drawn at its
    edge. Psi: left of 0 style is removed more, right of it content.
    """
    arms, hosts = (list(dict.fromkeys(table[name])) for name in ("arm", "host"))
    shown = [q for q in PANELS if q in set(table["quantity"])]
    figure, axes = new_figure(1.25 + 0.3 * len(arms) * max(1.0, 0.6 * len(hosts)), 1, len(shown),
                              sharey=True)  # fmt: skip
    for axis, quantity in zip(axes[0], shown, strict=True):
        rows = table[table["quantity"] == quantity]
        _panel(axis, rows, arms, hosts, psi=quantity == "Psi")
        axis.set_title(PANELS[quantity], fontsize=TEXT)
    tap_ticks(axes[0, 0], arms, vertical=True)
    handles = [
        Line2D([], [], color=CYCLE[i % len(CYCLE)], marker=MARKERS[i % len(MARKERS)],
               linestyle="", label=host)
        for i, host in enumerate(hosts)
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=SMALL,
                  frameon=False)  # fmt: skip
    return figure


def _panel(axis: Axes, rows: pd.DataFrame, arms: list[str], hosts: list[str], *, psi: bool) -> None:
    low, high = (-LIMIT, LIMIT) if psi else (LEAST, MOST)
    step = 0.62 / max(1, len(hosts))
    for i, host in enumerate(hosts):
        mine = rows[rows["host"] == host].set_index("arm").reindex(arms)
        drawn = mine[["estimate", "low", "high"]].astype(float).clip(low, high)
        axis.errorbar(
            drawn["estimate"],
            np.arange(len(arms)) + (i - (len(hosts) - 1) / 2) * step,
            xerr=np.nan_to_num(errors(drawn, "estimate", "low", "high")).clip(min=0),
            linestyle="",
            color=CYCLE[i % len(CYCLE)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=4,
            elinewidth=1.2,
            capsize=2,
        )
    axis.set_xlim(low - 0.03 * (high - low), high + 0.03 * (high - low))
    axis.axvline(0, color=BLACK, linewidth=0.8)
    axis.set_xticks([-3, 0, 3] if psi else [0, 0.5, 1])
    axis.grid(visible=False, axis="y")
    for y in range(1, len(arms)):
        axis.axhline(y - 0.5, color=PALE, linewidth=0.6)
    axis.set_ylim(-0.6, len(arms) - 0.4)


def selectivity_plane(table: pd.DataFrame, *, baseline: str = "") -> Figure:
    """Draw the share of style variance kept against that of content, a panel a host.

    Columns: host, arm, style, style_low, style_high, content, content_low, content_high. Below
    the diagonal style is removed more than content. Less than a thousandth is drawn at the edge.
    """
    hosts = list(dict.fromkeys(table["host"]))
    figure, axes = new_figure(4.0 if len(hosts) > 1 else 4.6, 1, len(hosts), sharex=True,
                              sharey=True)  # fmt: skip
    names = ("style", "style_low", "style_high", "content", "content_low", "content_high")
    drawn = table.assign(**{n: table[n].astype(float).clip(SMALLEST, 30) for n in names})
    for axis, host in zip(axes[0], hosts, strict=True):
        axis.plot([SMALLEST, 30], [SMALLEST, 30], color=GREY, linewidth=1, linestyle="--")
        axis.plot([1], [1], color=BLACK, marker="+", markersize=9)
        for i, row in enumerate(drawn[drawn["host"] == host].to_dict("records")):
            _point(axis, row, i)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_title(str(host), fontsize=TEXT)
        axis.set_xlabel(f"content variance kept{baseline}", fontsize=TEXT)
        axis.legend(fontsize=SMALL, frameon=False, loc="lower right", handletextpad=0.3)
    top = 1.6 * float(np.nanmax([drawn["style"].max(), drawn["content"].max(), 1.0]))
    axes[0, 0].set_xlim(SMALLEST / 1.4, top)
    axes[0, 0].set_ylim(SMALLEST / 1.4, top)
    axes[0, 0].set_ylabel("style variance kept", fontsize=TEXT)
    return figure


def _point(axis: Axes, row: dict[str, float], i: int) -> None:
    arm = str(row["arm"])
    colour = next((c for name, c in FAMILIES.items() if arm.startswith(name)), BLACK)
    bars = [
        [[max(0.0, row[n] - row[f"{n}_low"])], [max(0.0, row[f"{n}_high"] - row[n])]]
        for n in ("content", "style")
    ]
    finite = [[[0.0 if math.isnan(v) else v for v in side] for side in bar] for bar in bars]
    axis.errorbar(row["content"], row["style"], xerr=finite[0], yerr=finite[1], color=colour,
                  marker=MARKERS[i % len(MARKERS)], markersize=5, elinewidth=0.9, linestyle="",
                  alpha=0.9, label=arm)  # fmt: skip
