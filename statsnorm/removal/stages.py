"""Networks in groups: trained alike and untrained, and iteration by iteration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from statsnorm.decisions import Plan
from statsnorm.removal.units import FIXED_NORMS, Unit
from statsnorm.stats.trend import page_trend
from statsnorm.wording import counted

TRAINED, UNTRAINED = "trained", "untrained"
LEAST_LEVELS = 3  # Page's trend needs three iterations

Stages = dict[tuple[str, str], list[Unit]]
"""(group, trained or untrained) -> its networks."""


def group_of(unit: Unit) -> str:
    """Return what a unit's group is called: network, norm, index, training condition."""
    key = unit.key
    parts = [str(key["net"])]
    parts += [str(key["norm"])] if str(key["norm"]) not in parts[0] else []
    parts += [f"index {key['index']}"] if key["index"] else []
    return ", ".join(parts)


def by_last_iteration(units: Sequence[Unit]) -> list[Unit]:
    """Return the trained units, of every cell its last checkpoint."""
    last: dict[tuple[object, ...], int] = {}
    for unit in units:
        cell = (unit.key["cell"], unit.key["seed"])
        last[cell] = max(last.get(cell, -1), int(unit.key["iteration"]))
    return [
        u
        for u in units
        if u.trained and int(u.key["iteration"]) == last[u.key["cell"], u.key["seed"]]
    ]


def stages_of(units: Sequence[Unit]) -> Stages:
    """Return units by (group, stage): the last checkpoint of every cell, and iteration 0.

    Iteration 0 of one block is one network, however many cells began with it.
    """
    last = {id(unit) for unit in by_last_iteration(units)}
    found: Stages = {}
    seen: set[tuple[object, ...]] = set()
    for unit in units:
        key, on = unit.key, f", trained on {unit.condition}" if unit.condition else ""
        if not unit.trained:
            same = (group_of(unit), key["seed"])
            if same not in seen:
                found.setdefault((group_of(unit), UNTRAINED), []).append(unit)
            seen.add(same)
        elif id(unit) in last:
            found.setdefault((group_of(unit) + on, TRAINED), []).append(unit)
    return dict(sorted(found.items()))


def untrained_of(group: str, stages: Stages) -> list[Unit]:
    """Return the untrained networks that a trained group is to be compared with."""
    return stages.get((group.split(", trained on ")[0], UNTRAINED), [])


def by_iteration(units: Sequence[Unit]) -> dict[str, dict[int, list[Unit]]]:
    """Return cells by group and iteration, of groups with more than one iteration."""
    found: dict[str, dict[int, list[Unit]]] = {}
    for unit in units:
        if unit.key["cell"]:
            on = f", trained on {unit.condition}" if unit.condition else ""
            steps = found.setdefault(group_of(unit) + on, {})
            steps.setdefault(int(unit.key["iteration"]), []).append(unit)
    return {g: dict(sorted(steps.items())) for g, steps in found.items() if len(steps) > 1}


def complete_cells(steps: Mapping[int, Sequence[Unit]]) -> list[list[Unit]]:
    """Return the units of every cell that has all iterations, in order."""
    by_cell: dict[object, dict[int, Unit]] = {}
    for iteration, units in steps.items():
        for unit in units:
            by_cell.setdefault((unit.key["cell"], unit.key["seed"]), {})[iteration] = unit
    return [[own[i] for i in steps] for own in by_cell.values() if len(own) == len(steps)]


def is_fixed(units: Sequence[Unit]) -> bool:
    """Return whether the normaliser is one affine map for all images."""
    return all(u.key["norm"] in FIXED_NORMS and u.key["bn_mode"] == "eval" for u in units)


def value_of(unit: Unit, place: str, name: str) -> float:
    """Return one quantity of a network at a place; nan if it was not measured."""
    vector = unit.measured.get((place, name))
    return math.nan if vector is None else float(vector[0])


def trend_table(
    over: Mapping[str, Mapping[int, Sequence[Unit]]], plan: Plan, rng: np.random.Generator
) -> pd.DataFrame:
    """Return Page's trend of -Psi over iterations: selectivity that grows step by step.

    One row a group and place with three iterations and two complete cells; fewer than the planned
    blocks have a statistic and no p.
    """
    rows = []
    for group, steps in over.items():
        cells = complete_cells(steps)
        if len(steps) < LEAST_LEVELS or len(cells) < 2 or is_fixed(next(iter(steps.values()))):
            continue
        for place in dict.fromkeys(p for unit in steps[max(steps)] for p, _ in unit.measured):
            y = np.array([[value_of(u, place, "Psi") for u in own] for own in cells])
            if not np.isfinite(y).all():
                continue
            trend, few = page_trend(-y, rng=rng), len(cells) < plan.minimum["blocks"]
            pvalue = math.nan if few else trend.pvalue
            short = f"{counted(len(cells), 'cells')} < {plan.minimum['blocks']}"
            rows.append(
                {
                    "group": group,
                    "place": place,
                    "statistic": trend.statistic,
                    "rank_correlation": trend.estimate,
                    "pvalue": pvalue,
                    "cells": trend.n_blocks,
                    "iterations": trend.n_levels,
                    "status": f"not testable: {short}" if few else "",
                }
            )
    return pd.DataFrame(rows)
