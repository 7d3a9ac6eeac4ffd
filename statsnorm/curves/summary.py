"""What figure 1 keeps of training runs: every held-out loss, a thinned minibatch loss, statuses.

A *setting* is everything in a run's configuration that its cells share and that is neither block,
normaliser, condition nor learning rate; cells of one setting may be compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from statsnorm.errors import StatsnormError

Array = NDArray[np.float64]

IN, BN, ORIGINAL = "in", "bn", "original"
DONE = "done"
IDENTITY = ("targets", "norms", "conditions", "seed", "pilot", "lr", "lr_grid", "arm_lr")
MINIBATCH_POINTS = 200
LOSSES = ("style", "content", "total")


def curve_frames(
    runs: Iterable[tuple[Mapping[str, Any], pd.DataFrame]],
) -> dict[str, pd.DataFrame]:
    """Reduce the curves of training runs to what the analysis needs.

    Parameters
    ----------
    runs : iterable of (config, curves)
        Configuration of each run as in `run.json`, and its rows of `curves`.

    Returns
    -------
    dict of DataFrame
        `settings` (setting, config as JSON), `cells` (one row a planned cell with its status),
        `heldout` and `running` (cell, iteration, style, content, total: batch statistics at every
        recorded iteration, running statistics at every tenth), `minibatch` (cell, iteration,
        style: geometric means of at most 200 windows). Empty if no run was a training run.

    Raises
    ------
    StatsnormError
        If no run, pilots apart, trains both `in` and `bn` on originals.
    """
    settings: dict[str, int] = {}
    cells: list[dict[str, Any]] = []
    rows: dict[str, list[pd.DataFrame]] = {"heldout": [], "running": [], "minibatch": []}
    for number, (config, curves) in enumerate(runs):
        train = dict(config["train"])
        shared = {k: v for k, v in sorted(train.items()) if k not in IDENTITY}
        setting = settings.setdefault(json.dumps(shared, sort_keys=True), len(settings))
        common = {
            "run": number,
            "setting": setting,
            "pilot": bool(train.get("pilot", False)),
            "iterations": int(train["iterations"]),
            "images": int(config.get("images", {}).get("n", -1)),
        }
        for own in _cells(train, curves):
            mine = own.pop("rows")
            cells.append({"cell": len(cells), **common, **own, "status": "not trained"})
            if mine is not None:
                _add(rows, cells[-1], mine)
    if not cells:
        return {}
    frame = pd.DataFrame(cells)
    _require_pair(frame)
    named = pd.DataFrame({"setting": list(settings.values()), "config": list(settings)})
    merged = {name: pd.concat(parts, ignore_index=True) for name, parts in rows.items() if parts}
    return {"settings": named, "cells": frame, **merged}


def _require_pair(cells: pd.DataFrame) -> None:
    main = cells[~cells["pilot"] & (cells["condition"] == ORIGINAL)]
    for _, mine in main.groupby("setting", sort=True):
        if {IN, BN} <= set(mine["norm"]):
            return
    found = sorted({(n, c) for n, c in zip(cells["norm"], cells["condition"], strict=True)})
    listed = ", ".join(f"{n} on {c}" for n, c in found[:12])
    raise StatsnormError(
        f"figure 1 needs the norms {IN!r} and {BN!r} trained on {ORIGINAL!r} in runs that are no "
        f"pilots; there are {listed}"
    )


def _cells(train: Mapping[str, Any], curves: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one record per planned cell, with its rows or None where it was not trained."""
    found = []
    for _, mine in curves.groupby("cell", sort=True):
        first = mine.iloc[0]
        found.append(
            {
                "block": str(first["block"]),
                "target": _name(first["target"]),
                "seed": int(first["seed"]),
                "norm": str(first["norm"]),
                "condition": str(first["condition"]),
                "lr": float(first["lr"]),
                "rows": mine,
            }
        )
    there = {(cell["block"], cell["norm"], cell["condition"], cell["lr"]) for cell in found}
    seeds = {cell["block"]: cell["seed"] for cell in found}
    for number, target in enumerate(train["targets"]):
        block = f"b{number:02d}"
        for norm, condition, lr in _arms(train):
            if (block, norm, condition, lr) not in there:
                found.append(
                    {
                        "block": block,
                        "target": _name(target),
                        "seed": seeds.get(block, -1),
                        "norm": norm,
                        "condition": condition,
                        "lr": lr,
                        "rows": None,
                    }
                )
    return sorted(found, key=lambda c: (c["block"], c["norm"], c["condition"], c["lr"]))


def _arms(train: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    """Yield norm, condition and learning rate of every planned cell of a block."""
    chosen = {(n, c): float(lr) for n, c, lr in train.get("arm_lr", ())}
    for norm, condition in product(train["norms"], train["conditions"]):
        rate = chosen.get((norm, condition), float(train["lr"]))
        for lr in train.get("lr_grid") or (rate,):
            yield norm, condition, float(lr)


def _name(target: str) -> str:
    return PurePath(str(target)).name


def _add(rows: Mapping[str, list[pd.DataFrame]], cell: dict[str, Any], mine: pd.DataFrame) -> None:
    """File the rows of one cell; its status goes into `cell`."""
    held = mine["split"] == "heldout"
    cell["status"] = "no held-out loss"
    for name, mode in (("heldout", "train"), ("running", "eval")):
        part = mine[held & (mine["bn_mode"] == mode)].sort_values("iteration", kind="stable")
        if len(part):
            values = {loss: part[f"{loss}_loss"].to_numpy(float) for loss in LOSSES}
            iteration = part["iteration"].to_numpy(np.int32)
            rows[name].append(
                pd.DataFrame({"cell": cell["cell"], "iteration": iteration, **values})
            )
            if name == "heldout":
                cell["status"] = status(values["style"], iteration, cell["iterations"])
    part = mine[mine["split"] == "train"].sort_values("iteration", kind="stable")
    if len(part):
        at, style = thinned(part["iteration"].to_numpy(float), part["style_loss"].to_numpy(float))
        rows["minibatch"].append(
            pd.DataFrame({"cell": cell["cell"], "iteration": at, "style": style.astype(np.float32)})
        )


def status(loss: Sequence[float] | Array, iteration: Sequence[int] | Any, budget: int) -> str:
    """Return "done", or where a cell diverged or stopped.

    Parameters
    ----------
    loss, iteration : array_like, shape (P,)
        Held-out style loss and when it was recorded, in order.
    budget : int
        T, iterations of a finished cell.
    """
    values, steps = np.asarray(loss, float), np.asarray(iteration)
    bad = ~(np.isfinite(values) & (values > 0))
    if bad.any():
        return f"diverged by iteration {int(steps[bad.argmax()])} of {budget}"
    return DONE if steps[-1] >= budget else f"stopped at iteration {int(steps[-1])} of {budget}"


def thinned(iteration: Array, loss: Array, points: int = MINIBATCH_POINTS) -> tuple[Array, Array]:
    """Return mean iteration and geometric mean loss of at most `points` consecutive windows.

    The mean of logs over a grid of equal windows is that of the whole curve, so a gap loses
    nothing but its ends. A window with a loss that is not a positive number is nan.

    Parameters
    ----------
    iteration, loss : ndarray, shape (P,)
        In order of iteration.
    """
    n = len(loss)
    window = np.arange(n) * min(points, n) // n
    size = np.bincount(window)
    good = np.isfinite(loss) & (loss > 0)
    logs = np.log(np.where(good, loss, 1.0))
    logs[~good] = np.nan
    return (
        np.bincount(window, weights=iteration) / size,
        np.exp(np.bincount(window, weights=logs) / size),
    )
