"""One network under study, read back from the sufficient statistics.

A *study* joins the designs of one generator on one kind of input: its own taps, and VGG of its
output. A *place* is one tap of it, or a list of taps over which ratios are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from statsnorm.decisions import Plan
from statsnorm.removal.crossed import INPUT_KEYS
from statsnorm.removal.ratios import Ratio, mean_over_networks, ratio, ratio_of_ratios

Array = NDArray[np.float64]
Tap = tuple[int, str]  # design, tap
Frames = Mapping[str, pd.DataFrame]

IDENTITY: tuple[str, ...] = (
    "net",
    "norm",
    "index",
    "bn_mode",
    "batch_kind",
    "cell",
    "seed",
    "iteration",
)
FACTORS: Mapping[str, str] = {"S": "style", "I": "content", "K": "contrast"}
BY_LEVEL: Mapping[str, str] = {"style": "style_contrast", "content": "content_contrast"}
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Study:
    """One trained network with its untrained companions; identity equality, so cacheable."""

    key: Mapping[str, Any]  # IDENTITY and the input keys
    designs: pd.DataFrame  # of the trained network
    taps: pd.DataFrame  # design, tap, tap_kind, depth; evidence and others
    points: Mapping[tuple[Any, ...], Mapping[str, Any]]
    replicates: Mapping[tuple[Any, ...], Array]
    untrained: Mapping[int, Mapping[str, int]]  # seed -> {own, vgg} design numbers
    groups: tuple[int, int]  # images, styles
    levels: int
    members: tuple[Study, ...] = ()  # of a population of trained networks: each of them

    @property
    def label(self) -> str:
        """Short name for sentences: the network; its index, cell, seed, batches if they matter."""
        parts = [str(self.key["net"])]
        parts += [f"index {self.key['index']}"] if self.key["index"] else []
        parts += [str(self.key["cell"])] if self.key["cell"] else []
        parts += [f"seed {self.key['seed']}"] if self.key["seed"] >= 0 else []
        parts += [f"{self.key['batch_kind']} batches"] if self.key["bn_mode"] == "train" else []
        return ", ".join(parts)

    def in_member(self, member: Study, taps: Sequence[Tap]) -> list[Tap]:
        """Return the taps of a member of this population that go by the same names."""
        own, theirs = self.sources, {kind: d for d, kind in member.sources.items()}
        return [(theirs.get(own[design], -1), name) for design, name in taps]

    @property
    def sources(self) -> dict[int, bool]:
        """Design number -> whether it holds the network's own taps (else VGG of its output)."""
        pairs = zip(self.designs["design"], self.designs["source"] == "input", strict=True)
        return {int(number): bool(own) for number, own in pairs}

    def of_kind(self, kind: str) -> list[Tap]:
        """Return the taps of one kind by depth, without those fixed by construction."""
        rows = self.taps[(self.taps["tap_kind"] == kind) & ~self.taps["by_construction"]]
        return [(int(d), str(t)) for d, t in zip(rows["design"], rows["tap"], strict=True)]

    def component(
        self,
        tap: Tap,
        component: str,
        *,
        moment: str,
        treatment: str,
        condition: str = "original",
        generators: str = "all",
        convention: str = "fixed",
    ) -> Array | None:
        """Return the trace replicates (1 + I + S,) of one component, or None if not kept."""
        at = (*tap, condition, treatment, generators, moment)
        if component == "style_given_content":
            parts = [self.replicates.get((*at, c)) for c in ("style", "content_style")]
            return None if any(p is None for p in parts) else np.sum(parts, axis=0)  # type: ignore[arg-type]
        values = self.replicates.get((*at, component))
        if convention == "random" and values is not None and component in BY_LEVEL:
            within = self.replicates.get((*at, BY_LEVEL[component]))
            return None if within is None else values - within / self.levels
        return values


def studies(frames: Frames, plan: Plan) -> list[Study]:
    """Return the trained networks that have both an intact and a frozen arm, in sorted order."""
    designs, components = frames["designs"], frames["components"]
    points, replicates = _indexed(frames)
    found = []
    by = [*IDENTITY, *INPUT_KEYS]
    for values, rows in designs[~designs["untrained"]].groupby(by, sort=True):
        key = dict(zip(by, values, strict=True))
        numbers = rows["design"].tolist()
        mine = components[components["design"].isin(numbers)]
        if not {"none", plan.primary["before"]} <= set(mine["treatment"]):
            continue
        columns = ["design", "tap", "tap_kind", "depth", "by_construction", "channels", "dropped"]
        order = ["depth", "design", "tap"]
        taps = mine[columns].drop_duplicates(["design", "tap"]).sort_values(order)
        first = rows.iloc[0]
        found.append(
            Study(
                key=key,
                designs=rows,
                taps=taps,
                points=points,
                replicates=replicates,
                untrained=_untrained(designs, key),
                groups=(int(first["images"]), int(first["styles"])),
                levels=int(first["levels"]),
            )
        )
    return found


def primary_places(study: Study, plan: Plan) -> dict[str, list[Tap]]:
    """Return the taps of the two primary statistics; a place without taps was not measured."""
    vgg = [tap for tap in study.of_kind("vgg_of_output") if tap[1] == plan.primary["and_tap"]]
    return {
        f"mean over {plan.primary['mean_over']}": study.of_kind(plan.primary["mean_over"]),
        f"VGG of output {plan.primary['and_tap']}": vgg,
    }


def kept_ratio(
    study: Study,
    taps: Sequence[Tap],
    component: str,
    *,
    moment: str,
    before: tuple[str, str],
    after: tuple[str, str],
    generators: str = "all",
    convention: str = "fixed",
) -> Ratio | None:
    """Return V(after) / V(before), averaged over taps; None where a tap lacks replicates.

    `before` and `after` are (condition, treatment). Of a population: the mean over its networks.
    """
    if study.members:
        each = [
            kept_ratio(
                member,
                study.in_member(member, taps),
                component,
                moment=moment,
                before=before,
                after=after,
                generators=generators,
                convention=convention,
            )
            for member in study.members
        ]
        known = [r for r in each if r is not None]
        whole = bool(taps) and len(known) == len(each)
        return mean_over_networks(known, confidence=CONFIDENCE) if whole else None
    pairs = []
    for tap in taps:
        pair = [
            study.component(
                tap,
                component,
                moment=moment,
                condition=condition,
                treatment=treatment,
                generators=generators,
                convention=convention,
            )
            for condition, treatment in (after, before)
        ]
        if pair[0] is None or pair[1] is None:
            return None
        pairs.append(pair)
    if not pairs:
        return None
    top, bottom = (np.array([pair[k] for pair in pairs]) for k in (0, 1))
    groups = study.groups if generators == "all" else _sizes(top.shape[1], study.groups[0])
    return ratio(top, bottom, groups, confidence=CONFIDENCE)


def log_selectivity(top: Ratio | None, bottom: Ratio | None) -> Ratio | None:
    """Return exp(Psi) or exp(Theta) from two kept ratios."""
    if top is None or bottom is None:
        return None
    return ratio_of_ratios(top, bottom, confidence=CONFIDENCE)


def point_ratio(
    study: Study,
    taps: Sequence[Tap],
    column: str,
    *,
    moment: str,
    before: tuple[str, str],
    after: tuple[str, str],
    convention: str = "fixed",
) -> float:
    """Return V(after) / V(before) from the point estimates, averaged over taps; nan if absent."""
    if study.members:
        each = [
            point_ratio(
                member,
                study.in_member(member, taps),
                column,
                moment=moment,
                before=before,
                after=after,
                convention=convention,
            )
            for member in study.members
        ]
        return float(np.mean(each))
    values = []
    for tap in taps:
        pair = [
            point(study, tap, column, moment=moment, member=member, convention=convention)
            for member in (after, before)
        ]
        values.append(pair[0] / pair[1] if pair[1] > 0 else np.nan)
    return float(np.mean(values)) if values else float("nan")


def untrained_ratios(
    study: Study,
    taps: Sequence[Tap],
    column: str,
    *,
    moment: str,
    before: str,
    convention: str = "fixed",
) -> Array:
    """Return the kept ratio of every untrained network at the same taps, without the nans."""
    own, single = study.sources, study.members[0] if study.members else study
    values = []
    for numbers in study.untrained.values():
        where = [(numbers.get("own" if own.get(d) else "vgg", -1), tap) for d, tap in taps]
        values.append(
            point_ratio(
                single,
                where,
                column,
                moment=moment,
                before=("original", before),
                after=("original", "none"),
                convention=convention,
            )
        )
    found = np.array(values, dtype=np.float64)
    return np.asarray(found[np.isfinite(found)])


def point(
    study: Study, tap: Tap, column: str, *, moment: str, member: tuple[str, str], convention: str
) -> float:
    """Return one stored component (trace or median) of a (condition, treatment); nan if absent."""
    row = study.points.get((*tap, *member, "all", moment))
    if row is None:
        return float("nan")
    value = float(row[column])
    if convention == "random" and column in BY_LEVEL:
        value -= float(row[BY_LEVEL[column]]) / study.levels
    return value


def _indexed(frames: Frames) -> tuple[dict[Any, Mapping[str, Any]], dict[Any, Array]]:
    names = ["design", "tap", "condition", "treatment", "generators", "moment"]
    points: dict[Any, Mapping[str, Any]] = {}
    for row in frames["components"].to_dict("records"):
        points[tuple(row[n] for n in names)] = {str(k): v for k, v in row.items()}
    replicates: dict[Any, Array] = {}
    for row in frames.get("replicates", pd.DataFrame()).to_dict("records"):
        replicates[(*(row[n] for n in names), row["component"])] = np.asarray(row["values"], float)
    return points, replicates


def _untrained(designs: pd.DataFrame, key: Mapping[str, Any]) -> dict[int, dict[str, int]]:
    rows = designs[designs["untrained"]]
    for name in ("net", "norm", "index", *INPUT_KEYS):
        rows = rows[rows[name] == key[name]]
    found: dict[int, dict[str, int]] = {}
    for row in rows.sort_values("seed").to_dict("records"):
        kind = "own" if row["source"] == "input" else "vgg"
        found.setdefault(int(row["seed"]), {})[kind] = int(row["design"])
    return found


@cache
def _sizes(length: int, images: int) -> tuple[int, int]:
    return images, length - 1 - images
