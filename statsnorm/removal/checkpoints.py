"""Sufficient statistics of every network and checkpoint: small enough for many of them.

Less than :mod:`statsnorm.removal.summary` keeps of each: the plain design only, intact and under
the primary frozen baseline, style, content and contrast variance; every tap of the network itself
and the primary VGG tap of its output. Delete-one replicates of the primary moment at evidence
taps, of networks with trained weights at their last iteration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
Rows = dict[str, list[dict[str, Any]]]


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
    rows: Rows = {"designs": [], "components": [], "replicates": []}
    for number, design in enumerate(designs):
        network = design.network
        at = (network["cell"], network["seed"], network["iteration"])
        last = not design.untrained and at not in early
        _add(rows, tables, (number, design), plan, eps, last=last)
    rows["training"] = training_facts(tables)
    return {name: pd.DataFrame(records) for name, records in rows.items() if records}


def _add(
    rows: Rows,
    tables: MomentTables,
    numbered: tuple[int, Design],
    plan: Plan,
    eps: Mapping[tuple[str, str], float],
    *,
    last: bool,
) -> None:
    number, design = numbered
    labels: tuple[tuple[Any, ...], ...] = ((), (), ())
    for tap in taps_of(design).to_dict("records"):
        of_output = tap["tap_kind"] == "vgg_of_output"
        if of_output and tap["tap"] != plan.primary["and_tap"]:
            continue
        wanted = [m for m in tap["members"] if m[1] in ("none", plan.primary["before"])]
        if not wanted:
            continue
        members, _ = load_members(tables, design, tap["tap"], tap["call"], wanted)
        labels = next(iter(members.values())).labels
        name = tap["tap"] if tap["call"] == 0 else f"{tap['tap']}#{tap['call']}"
        live = live_channels(
            [cells.var for cells in members.values()],
            eps=eps.get((str(design.network["network"]), tap["tap"]), 0.0),
        )
        if not live.any():
            continue
        meta = {k: tap[k] for k in ("tap_kind", "depth", "by_construction")}
        meta |= {"channels": int(live.sum()), "dropped": int((~live).sum())}
        evidence = tap["tap_kind"] in EVIDENCE and not tap["by_construction"]
        for (condition, treatment), cells in members.items():
            key = {"design": number, "tap": name, "condition": condition, "treatment": treatment}
            for table, row in _reduced(cells, live, plan, full=last and evidence):
                extra = meta if table == "components" else {}
                rows[table].append({**key, "generators": "all", **extra, **row})
    if labels[0]:
        rows["designs"].append(design_row(number, design, labels))


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
