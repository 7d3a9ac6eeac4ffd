"""Every other arm on one axis: its style loss against that of IN, in the same blocks."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Set
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

NORM_NAMES = {
    "none": "no normaliser",
    "in-mean": "IN, mean only",
    "in-sd": "IN, sd only",
    "actnorm": "ActNorm",
}
WORDS = {
    "batch_kind": "{} batches",
    "norm_at": "{} norm only",
    "renderings": "{} styles an image",
}
"""How a field of the configuration is said; others by their name and value."""

COLUMNS = ["label", "group", "arm", "condition", "reference", "estimate", "low", "high", "n"]


def arms_table(frames: Frames, study: Study) -> pd.DataFrame:
    """Return the mean log ratio of every arm's held-out style loss to IN's (exploratory).

    The reference is IN of the primary setting on the same condition and block. Where the loss
    itself differs (image size, VGG, budget...) it is IN of the arm's own setting, or of the one
    nearest to it whose loss is the same. Columns: label, group, arm, condition, reference,
    estimate, low, high (paired t), n (blocks).
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
        with_in = cells[(cells["norm"] == IN) & (cells["condition"] == condition)]
        base = _reference(setting, study.setting, set(with_in["setting"]), configs)
        rate = rates.get((IN, condition), lr) if base == study.setting else lr
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
                    "reference": arm_name(IN, configs[base], study.config),
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
    """Return e.g. "BN, batch 16": the norm and what differs from the primary setting.

    Examples
    --------
    >>> arm_name("in-mean", {"norm_at": "first", "size": 64}, {"norm_at": "all", "size": 64})
    'IN, mean only, first norm only'
    """
    changed = [
        WORDS.get(key, f"{key.replace('_', ' ')} {{}}").format(config[key])
        for key in sorted(config)
        if config[key] != primary.get(key)
    ]
    rate = [] if math.isnan(lr) else [f"lr {lr:g}"]
    return ", ".join([NORM_NAMES.get(norm, norm.upper()), *changed, *rate])


def _reference(
    setting: int, primary: int, having: Set[int], configs: Mapping[int, Mapping[str, Any]]
) -> int:
    """Return the setting whose IN an arm is compared with, of those `having` it on its condition.

    The primary one if the loss is the same there, else the arm's own, else the one that differs
    from the arm's in the fewest fields and not in the loss; its own if there is none.
    """
    mine = configs[setting]
    same = [s for s in having if all(configs[s].get(f) == mine.get(f) for f in LOSS_FIELDS)]
    if primary in same or setting in same or not same:
        return primary if primary in same else setting
    return min(same, key=lambda s: (sum(configs[s].get(k) != mine[k] for k in mine), s))


def _short(condition: str) -> str:
    """Return "(p*)" for placebo-matched, the name itself for a condition of the user's."""
    name = NAMES.get(letter(condition), condition)
    return name.split(" ")[0]


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
