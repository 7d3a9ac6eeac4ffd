"""Every other arm on one axis: its style loss against that of IN, in the same blocks."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from statsnorm.curves.contrasts import START, window_mean
from statsnorm.curves.study import Frames, Study, letter
from statsnorm.curves.summary import BN, DONE, IN
from statsnorm.curves.tables import NAMES
from statsnorm.stats.equivalence import paired_t

Array = NDArray[np.float64]

LOSS_FIELDS = (
    "size",
    "loss",
    "statistics",
    "heldout",
    "iterations",
    "record_every",
    "style_generator",
    "style_index",
    "renderings",
)
"""Fields of the configuration that decide what the held-out style loss is a loss of."""

COLUMNS = ["label", "group", "arm", "condition", "reference", "estimate", "low", "high", "n"]


def arms_table(frames: Frames, study: Study) -> pd.DataFrame:
    """Return the mean log ratio of every arm's held-out style loss to IN's (exploratory).

    The reference is IN of the primary setting on the same condition and block; where the loss
    itself differs (image size, VGG, budget...) it is IN of the arm's own setting. Columns: label,
    group, arm, condition, reference, estimate, low, high (paired t), n (blocks).
    """
    cells = frames["cells"]
    cells = cells[~cells["pilot"] & (cells["status"] == DONE)]
    levels = _levels(cells, frames)
    configs = {
        int(s): json.loads(text)
        for s, text in zip(frames["settings"]["setting"], frames["settings"]["config"], strict=True)
    }
    rates = {(r["norm"], r["condition"]): r["lr"] for r in study.rates.to_dict("records")}
    rows = []
    for key, mine in cells.groupby(["setting", "norm", "condition", "lr"], sort=True):
        setting, norm, condition, lr = cast("tuple[int, str, str, float]", key)
        comparable = all(configs[setting].get(f) == study.config.get(f) for f in LOSS_FIELDS)
        base = study.setting if comparable else setting
        rate = rates.get((IN, condition), lr) if comparable else lr
        if (norm, setting, lr) == (IN, base, rate):
            continue
        other = cells[(cells["setting"] == base) & (cells["norm"] == IN)]
        other = other[(other["condition"] == condition) & (other["lr"] == rate)]
        d = _paired(mine, other, levels)
        if len(d):
            usual = lr == rates.get((norm, condition), lr)
            arm = arm_name(norm, configs[setting], study.config, math.nan if usual else lr)
            rows.append(
                {
                    "label": f"{arm}, on {_short(condition)}, n = {len(d)}",
                    "condition": letter(condition),
                    "group": "arm",
                    "arm": arm,
                    "reference": "IN" if comparable else f"IN, {_changes(configs[setting], study)}",
                    **_interval(d),
                    "place": (setting != study.setting, setting, norm != BN, norm),
                }
            )
    table = pd.DataFrame(rows, columns=[*COLUMNS, "place"])
    order = {name: i for i, name in enumerate(NAMES)}
    table["rank"] = table["condition"].map(order).fillna(len(order))
    return table.sort_values(["place", "arm", "rank"], ignore_index=True)[COLUMNS]


def common_rates(frames: Frames, study: Study) -> pd.DataFrame:
    """Return condition, lr, estimate, low, high, n: gaps of BN and IN at one learning rate.

    Empty where every arm of the primary setting was trained at one rate only.
    """
    cells = frames["cells"]
    cells = cells[~cells["pilot"] & (cells["status"] == DONE)]
    cells = cells[(cells["setting"] == study.setting) & cells["norm"].isin([IN, BN])]
    columns = ["condition", "lr", "estimate", "low", "high", "n"]
    rows = []
    if len(set(cells["lr"])) > 1:
        levels = _levels(cells, frames)
        for key, mine in cells.groupby(["condition", "lr"], sort=True):
            condition, lr = cast("tuple[str, float]", key)
            d = _paired(mine[mine["norm"] == BN], mine[mine["norm"] == IN], levels)
            if len(d):
                rows.append({"condition": letter(condition), "lr": lr, **_interval(d)})
    return pd.DataFrame(rows, columns=columns)


def arm_name(
    norm: str, config: Mapping[str, Any], primary: Mapping[str, Any], lr: float = math.nan
) -> str:
    """Return e.g. "BN, batch 16": the norm and what differs from the primary setting."""
    changed = [
        f"{k.replace('_', ' ')} {config[k]}" for k in sorted(config) if config[k] != primary.get(k)
    ]
    rate = [] if math.isnan(lr) else [f"lr {lr:g}"]
    return ", ".join([norm.upper(), *changed, *rate])


def _short(condition: str) -> str:
    """Return "(p*)" for placebo-matched, the name itself for a condition of the user's."""
    name = NAMES.get(letter(condition), condition)
    return name.split(" ")[0]


def _changes(config: Mapping[str, Any], study: Study) -> str:
    return arm_name("", config, study.config).removeprefix(", ")


def _levels(cells: pd.DataFrame, frames: Frames) -> dict[int, float]:
    """Return the mean over time of log held-out style loss of every cell."""
    budget = dict(zip(cells["cell"], cells["iterations"], strict=True))
    held = frames["heldout"]
    held = held[held["cell"].isin(budget)]
    return {
        int(str(cell)): float(
            window_mean(
                np.log(rows["style"].to_numpy(float)),
                rows["iteration"].to_numpy(float),
                start=START * budget[cell],
            )
        )
        for cell, rows in held.groupby("cell", sort=True)
    }


def _paired(x: pd.DataFrame, y: pd.DataFrame, levels: Mapping[int, float]) -> Array:
    keys = ["target", "seed"]
    merged = x.drop_duplicates(keys).merge(y.drop_duplicates(keys), on=keys)
    d: Array = merged["cell_x"].map(levels).to_numpy(float) - merged["cell_y"].map(levels).to_numpy(
        float
    )
    return d[np.isfinite(d)]


def _interval(d: Array) -> dict[str, float | int]:
    t = paired_t(d) if len(d) > 1 else None
    low, high = (float(t.low), float(t.high)) if t else (math.nan, math.nan)
    return {"estimate": float(d.mean()), "low": low, "high": high, "n": len(d)}
