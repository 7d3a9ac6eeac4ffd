"""Populations of trained networks: one normaliser, one training condition, a network a block.

A population stands where a single network stands in the analyses of H5; its ratios are means over
its networks, and the network is a third factor of the jackknife (:mod:`statsnorm.removal.units`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from statsnorm.removal.crossed import INPUT_KEYS, MomentTables
from statsnorm.removal.study import IDENTITY, Frames, Study
from statsnorm.removal.units import FIXED_NORMS
from statsnorm.wording import counted

SHARED: tuple[str, ...] = (
    *(name for name in IDENTITY if name not in ("cell", "seed", "iteration")),
    *INPUT_KEYS,
)


def training_facts(tables: MomentTables) -> list[dict[str, Any]]:
    """Return cell, seed, block, target, condition of every trained cell that the runs name."""
    facts = {}
    for run in tables.provenance()["runs"]:
        for entry in run["config"].get("networks", {}).values():
            for fact in entry.get("training", ()) if isinstance(entry, dict) else ():
                named = {name: str(fact.get(name, "")) for name in ("block", "target", "condition")}
                facts[str(fact["cell"]), int(fact["seed"])] = named
    return [{"cell": c, "seed": s, **named} for (c, s), named in sorted(facts.items())]


def on_the_way(keys: pd.DataFrame) -> pd.Series[bool]:
    """Say which rows are of a checkpoint of a cell before its last one, and not untrained."""
    last = keys.groupby(["cell", "seed"])["iteration"].transform("max")
    way: pd.Series[bool] = (keys["cell"] != "") & keys["iteration"].between(
        0, last, inclusive="neither"
    )
    return way


def with_populations(found: Sequence[Study], frames: Frames) -> tuple[list[Study], list[str]]:
    """Put the populations of trained networks in place of their members.

    A cell that is alone with its normaliser and training condition stays a study of its own.
    Populations whose normaliser is one fixed affine map in eval mode are taken out: that map
    adapts to no image (method.md 2.6), so they serve `between_norms` only.

    Returns
    -------
    list of Study, list of str
        What is to be judged, and a sentence for each population taken out.
    """
    rows = frames.get("training", pd.DataFrame()).to_dict("records")
    condition = {(str(r["cell"]), int(r["seed"])): str(r["condition"]) for r in rows}
    groups: dict[tuple[Any, ...], list[Study]] = {}
    for study in found:
        key = study.key
        trained = (str(key["cell"]), int(key["seed"]))
        alone = () if key["cell"] else (id(study),)
        shared = tuple(key[name] for name in SHARED)
        groups.setdefault((*shared, condition.get(trained, ""), *alone), []).append(study)
    judged, out = [], []
    for members in groups.values():
        key = members[0].key
        if len(members) < 2:
            judged += members
        elif key["norm"] in FIXED_NORMS and key["bn_mode"] == "eval":
            out.append(
                f"{counted(len(members), 'networks')} {key['net']} with norm "
                f"{key['norm']}: in eval mode one "
                "affine map for all images, which adapts to none; no claim is made"
            )
        else:
            trained = (str(key["cell"]), int(key["seed"]))
            judged.append(population(members, condition.get(trained, "")))
    return judged, out


def population(members: Sequence[Study], condition: str) -> Study:
    """Return the study of a population; taps and numbers of designs are its first network's."""
    first = members[0]
    on = f", trained on {condition}" if condition else ""
    key = {
        **first.key,
        "cell": f"norm {first.key['norm']}{on}, {counted(len(members), 'networks')}",
        "seed": -1,
    }
    return Study(
        key=key,
        designs=first.designs,
        taps=first.taps,
        points=dict(_mean_points(members)),
        replicates={},  # of a network alone they say nothing about networks
        untrained=first.untrained,
        groups=first.groups,
        levels=first.levels,
        members=tuple(members),
    )


def _mean_points(members: Sequence[Study]) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Yield the stored components of the first network, averaged over all that have the cell."""
    first = members[0]
    for at, point in first.points.items():
        design, tap, *rest = at
        if design not in first.sources:
            continue
        there = [m.points.get((*first.in_member(m, [(design, tap)])[0], *rest)) for m in members]
        known = [p for p in there if p is not None]
        numbers = {
            name: float(np.mean([p[name] for p in known]))
            for name, value in point.items()
            if isinstance(value, float)
        }
        yield at, {**point, **numbers}
