"""Sufficient statistics of every network and checkpoint: small enough for many of them.

Less than :mod:`statsnorm.removal.summary` keeps of each: the plain design only, intact and under
the primary frozen baseline, style, content and contrast variance; every tap of the network itself
and the primary VGG tap of its output. Delete-one replicates of the primary moment at evidence
taps, of networks with trained weights at their last iteration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from statsnorm.decisions import Plan, load_plan
from statsnorm.removal.crossed import (
    Cells,
    Design,
    MomentTables,
    find_designs,
    load_members,
    taps_of,
)
from statsnorm.removal.populations import on_the_way, training_facts
from statsnorm.removal.study import FACTORS
from statsnorm.removal.summary import EVIDENCE, design_moments, design_row, tap_eps
from statsnorm.stats.components import component_replicates, crossed_components
from statsnorm.stats.scale_free import live_channels

CONDITION = "original"
Labels = tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True)
class _Place:
    """One tap of one design."""

    number: int
    design: Design  # without its rows
    tap: Mapping[Any, Any]
    last: bool  # a trained network at its last iteration


def checkpoint_statistics(tables: MomentTables) -> dict[str, pd.DataFrame]:
    """Reduce all crossed designs of networks with normalisers; empty if there is none.

    Returns
    -------
    dict of DataFrame
        `designs`, `components`, `replicates`, `training`, as
        :func:`statsnorm.removal.summary.sufficient_statistics` names them.
    """
    keys, plan = tables.keys(), load_plan()
    normalised = keys["norm"] != "none"
    designs = find_designs(keys[normalised & (keys["condition"] == CONDITION)])
    if not designs:
        return {}
    way = keys[on_the_way(keys)]
    early = set(zip(way["cell"], way["seed"], way["iteration"], strict=True))
    eps = tap_eps(tables.taps())
    last = []
    for design in designs:
        at = (design.network["cell"], design.network["seed"], design.network["iteration"])
        last.append(not design.untrained and at not in early)
    places = list(_places(designs, last, plan))
    found = tables.map_taps(partial(_of_tap, plan=plan, eps=eps), places)
    rows: dict[str, list[dict[str, Any]]] = {"designs": [], "components": [], "replicates": []}
    labels: dict[int, Labels] = {}
    for place, (own, records) in zip(places, found, strict=True):
        labels[place.number] = own
        for table, row in records:
            rows[table].append(row)
    rows["designs"] = [design_row(n, designs[n], own) for n, own in labels.items() if own[0]]
    rows["training"] = training_facts(tables)
    return {name: pd.DataFrame(records) for name, records in rows.items() if records}


def _places(designs: list[Design], last: list[bool], plan: Plan) -> Iterator[_Place]:
    """Yield the taps that are kept, with the arms that are compared there."""
    for number, design in enumerate(designs):
        for tap in taps_of(design).to_dict("records"):
            if tap["tap_kind"] == "vgg_of_output" and tap["tap"] != plan.primary["and_tap"]:
                continue
            wanted = [m for m in tap["members"] if m[1] in ("none", plan.primary["before"])]
            if wanted:
                yield _Place(number, design.bare, {**tap, "members": wanted}, last[number])


def _of_tap(
    tables: MomentTables, place: _Place, *, plan: Plan, eps: Mapping[tuple[str, str], float]
) -> tuple[Labels, list[tuple[str, dict[str, Any]]]]:
    """Return the labels of one tap's cells, and its rows, each with the name of its table."""
    design, tap = place.design, place.tap
    members, _ = load_members(tables, design, tap["tap"], tap["call"], tap["members"])
    labels = next(iter(members.values())).labels
    name = tap["tap"] if tap["call"] == 0 else f"{tap['tap']}#{tap['call']}"
    live = live_channels(
        [cells.var for cells in members.values()],
        eps=eps.get((str(design.network["network"]), tap["tap"]), 0.0),
    )
    if not live.any():
        return labels, []
    meta = {k: tap[k] for k in ("tap_kind", "depth", "by_construction")}
    meta |= {"channels": int(live.sum()), "dropped": int((~live).sum())}
    evidence = tap["tap_kind"] in EVIDENCE and not tap["by_construction"]
    rows = []
    for (condition, treatment), cells in members.items():
        key = {"design": place.number, "tap": name, "condition": condition, "treatment": treatment}
        for table, row in _reduced(cells, live, plan, full=place.last and evidence):
            extra = meta if table == "components" else {}
            rows.append((table, {**key, "generators": "all", **extra, **row}))
    return labels, rows


def _reduced(
    cells: Cells, live: NDArray[np.bool_], plan: Plan, *, full: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    with np.errstate(divide="ignore"):
        moments = design_moments(cells, live)
    for moment in ("m", "v"):
        y = moments[moment]
        found = crossed_components(y, contrast="fixed")
        traces = {c: float(np.mean(getattr(found, c))) for c in FACTORS.values()}
        yield "components", {"moment": moment, **traces}
        if full and moment == plan.primary["moment"]:
            replicates = component_replicates(y, contrast="fixed")
            for component in FACTORS.values():
                values = np.asarray(replicates[component]).mean(axis=1)
                yield "replicates", {"moment": moment, "component": component, "values": values}
