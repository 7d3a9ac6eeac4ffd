"""Trained networks as units: one number a network and place, means over networks, differences.

A *unit* is one network at one iteration. Its values are replicate vectors (the estimate, then the
estimate without each image, then without each style) where such were kept, else the estimate
alone. Over n networks that saw the same images and styles the three factors are crossed, so the
variance of a mean is the sum of three delete-one jackknife variances, Satterthwaite degrees of
freedom; over networks alone that is Student's t (method.md 3.1: "trained networks as unit").
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from statsnorm.decisions import Plan
from statsnorm.errors import StatsnormError
from statsnorm.removal.crossed import INPUT_KEYS
from statsnorm.removal.ratios import Interval, interval, t_pvalue, t_quantile
from statsnorm.removal.study import CONFIDENCE, FACTORS, Frames

Array = NDArray[np.float64]
Place = str
UNIT_KEYS: tuple[str, ...] = (
    *("net", "norm", "index", "bn_mode", "batch_kind", "cell", "seed", "iteration"),
    *INPUT_KEYS,
)
QUANTITIES: Mapping[str, str] = {
    "V_S": "log V_S at work",
    "V_I": "log V_I at work",
    "V_K": "log V_K at work",
    "V_S / V_I": "log (V_S / V_I) at work",
    "R_S": "removed fraction of style",
    "R_I": "removed fraction of content",
    "R_K": "removed fraction of contrast",
    "Psi": "log of style kept over content kept",
}
"""What is measured of a network at a place; logs are natural."""

FIXED_NORMS = ("bn", "none", "frozen", "actnorm")  # in eval mode one affine map for all images


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Unit:
    """One network at one iteration, on one way of making the inputs."""

    key: Mapping[str, Any]  # UNIT_KEYS
    condition: str  # of the training images, "" where unknown
    block: tuple[Any, ...]  # units of one block share seed, target and training condition
    groups: tuple[int, int]  # images, styles
    measured: Mapping[tuple[Place, str], Array] = field(repr=False)  # (1,) or (1 + I + S,)

    @property
    def trained(self) -> bool:
        """Whether it was trained, or came with its weights."""
        return bool(self.key["iteration"] != 0)

    @property
    def family(self) -> tuple[str, ...]:
        """Network and training condition: what units must share to be compared by norm."""
        return (str(self.key["net"]), self.condition, *(str(self.key[k]) for k in INPUT_KEYS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Over:
    """A mean over networks, or a mean difference."""

    n: int
    all: Interval  # networks, images and styles as samples
    networks: Interval  # networks alone: these images, these styles
    pvalue: float  # two-sided, of a mean of 0, from `all`


def units_of(frames: Frames, plan: Plan) -> list[Unit]:
    """Return every network and checkpoint of the frames at the primary places, in sorted order.

    `frames` has `designs`, `components`, and where there are such `replicates` and `training`
    (cell, seed, block, target, condition). Networks that saw plain inputs only (VGG, pixels)
    are left out: they have no normaliser under study.
    """
    designs = frames["designs"]
    points, kept = _indexed(frames, plan)
    training = _training(frames)
    found = []
    for values, rows in designs.groupby([*UNIT_KEYS], sort=True):
        key = dict(zip(UNIT_KEYS, values, strict=True))
        places = _places(rows, points, plan)
        measured = {
            (place, name): vector
            for place, taps in places.items()
            for name, vector in _values(taps, points, kept, plan)
        }
        if not measured:
            continue
        facts = training.get((str(key["cell"]), int(str(key["seed"]))), {})
        condition = str(facts.get("condition", ""))
        first = rows.iloc[0]
        found.append(
            Unit(
                key=key,
                condition=condition,
                block=(key["seed"], facts.get("target", ""), condition) if key["cell"] else (),
                groups=(int(first["images"]), int(first["styles"])),
                measured=measured,
            )
        )
    return found


def over_networks(vectors: Sequence[Array], groups: tuple[int, int]) -> Over:
    """Return the mean of one number over networks, with both intervals.

    Parameters
    ----------
    vectors : sequence of ndarray, each (1,) or (1 + I + S,)
        One a network, on the scale of the mean. Where one has no replicates, or not those of
        `groups`, images and styles are taken as given.
    groups : (I, S)
        (0, 0) for numbers without images and styles, such as losses.

    Raises
    ------
    StatsnormError
        If there is no network.
    """
    if not vectors:
        raise StatsnormError("a mean over networks needs at least one network, got none")
    n, whole = len(vectors), 1 + sum(groups)
    first = np.array([v[0] for v in vectors], np.float64)
    alone = _interval(np.concatenate([first.mean(keepdims=True), _without(first)]), (n,))
    if whole == 1 or not all(len(v) == whole for v in vectors):
        return Over(n=n, all=alone, networks=alone, pvalue=_pvalue(alone))
    mean = np.mean([np.asarray(v, np.float64) for v in vectors], axis=0)
    both = np.concatenate([mean[:1], _without(first), mean[1:]])
    joint = _interval(both, (n, *groups)) if n > 1 else _interval(mean, groups)
    return Over(n=n, all=joint, networks=alone, pvalue=_pvalue(joint))


def paired(
    first: Sequence[Unit], second: Sequence[Unit], *, by: str = "block"
) -> list[tuple[Unit, Unit]]:
    """Return the pairs of units of two groups that share a block (or, by="cell", a cell).

    A block with several units on one side pairs none of them: it would not be clear which.
    """
    sides = [_by_block(units, by) for units in (first, second)]
    shared = sorted(sides[0].keys() & sides[1].keys(), key=str)
    return [
        (sides[0][block][0], sides[1][block][0])
        for block in shared
        if len(sides[0][block]) == len(sides[1][block]) == 1
    ]


def difference(pairs: Sequence[tuple[Unit, Unit]], place: Place, name: str) -> list[Array]:
    """Return first - second of one quantity for every pair that has it on both sides."""
    found = []
    for one, other in pairs:
        a, b = (unit.measured.get((place, name)) for unit in (one, other))
        if a is None or b is None:
            continue
        if len(a) != len(b) or one.groups != other.groups:
            a, b = a[:1], b[:1]
        if math.isfinite(a[0]) and math.isfinite(b[0]):
            found.append(a - b)
    return found


def welch(first: Sequence[Array], second: Sequence[Array]) -> Interval:
    """Return mean(first) - mean(second) of independent networks, Welch's t over networks."""
    a, b = (np.array([v[0] for v in side], np.float64) for side in (first, second))
    if min(len(a), len(b)) < 2:
        nothing = {"low": math.nan, "high": math.nan, "se": math.nan, "dof": math.nan}
        return Interval(estimate=float(a.mean() - b.mean()), **nothing)
    parts = [x.var(ddof=1) / len(x) for x in (a, b)]
    total = float(sum(parts))
    dof = (
        total**2 / sum(p**2 / (len(x) - 1) for p, x in zip(parts, (a, b), strict=True))
        if total > 0
        else float(len(a) + len(b) - 2)
    )
    estimate, se = float(a.mean() - b.mean()), math.sqrt(total)
    half = t_quantile(CONFIDENCE, dof) * se
    return Interval(estimate=estimate, low=estimate - half, high=estimate + half, se=se, dof=dof)


def _without(x: Array) -> Array:
    """Return the means without each unit; nothing where there is one unit."""
    return (x.sum() - x) / (len(x) - 1) if len(x) > 1 else np.empty(0)


def _interval(vector: Array, groups: tuple[int, ...]) -> Interval:
    if min(groups) < 2:
        nothing = {"low": math.nan, "high": math.nan, "se": math.nan, "dof": math.nan}
        return Interval(estimate=float(vector[0]), **nothing)
    return interval(vector, groups, confidence=CONFIDENCE)


def _pvalue(x: Interval) -> float:
    return t_pvalue(x.estimate, x.se, x.dof)


def _by_block(units: Sequence[Unit], by: str) -> dict[Any, list[Unit]]:
    found: dict[Any, list[Unit]] = {}
    for unit in units:
        block = unit.block if by == "block" else (unit.key["cell"], unit.key["seed"])
        if unit.key["cell"]:
            found.setdefault(block, []).append(unit)
    return found


def _training(frames: Frames) -> dict[tuple[str, int], dict[str, Any]]:
    rows = frames.get("training", pd.DataFrame()).to_dict("records")
    return {(str(r["cell"]), int(r["seed"])): {str(k): v for k, v in r.items()} for r in rows}


def _indexed(
    frames: Frames, plan: Plan
) -> tuple[dict[Any, dict[Any, Any]], dict[tuple[Any, ...], Array]]:
    """Return points by (design, tap, treatment) and replicates by that and the component."""
    moment = plan.primary["moment"]
    points: dict[Any, dict[Any, Any]] = {}
    kept: dict[tuple[Any, ...], Array] = {}
    for frame, into in ((frames["components"], points), (frames.get("replicates"), kept)):
        if frame is None:
            continue
        mine = frame[
            (frame["condition"] == "original")
            & (frame["generators"] == "all")
            & (frame["moment"] == moment)
        ]
        for row in mine.to_dict("records"):
            at = (int(row["design"]), str(row["tap"]), str(row["treatment"]))
            if into is points:
                points[at] = row
            else:
                kept[(*at, str(row["component"]))] = np.asarray(row["values"], np.float64)
    return points, kept


def _places(
    rows: pd.DataFrame, points: Mapping[Any, Mapping[Any, Any]], plan: Plan
) -> dict[Place, list[tuple[int, str]]]:
    """Return the taps of the two primary statistics of one network."""
    own = set(rows.loc[rows["source"] == "input", "design"])
    vgg = set(rows.loc[rows["source"] != "input", "design"])
    kind, tap = plan.primary["mean_over"], plan.primary["and_tap"]
    found: dict[Place, list[tuple[int, str]]] = {
        f"mean over {kind}": [],
        f"VGG of output {tap}": [],
    }
    ordered = sorted(points.items(), key=lambda item: (item[1]["depth"], item[0]))
    for (design, name, treatment), row in ordered:
        if treatment != "none" or row["by_construction"]:
            continue
        if design in own and row["tap_kind"] == kind:
            found[f"mean over {kind}"].append((design, name))
        elif design in vgg and row["tap_kind"] == "vgg_of_output" and name == tap:
            found[f"VGG of output {tap}"].append((design, name))
    return {place: taps for place, taps in found.items() if taps}


def _values(
    taps: Sequence[tuple[int, str]],
    points: Mapping[Any, Mapping[Any, Any]],
    kept: Mapping[tuple[Any, ...], Array],
    plan: Plan,
) -> Iterator[tuple[str, Array]]:
    """Yield every quantity of one network at one place: means over taps."""
    before = plan.primary["before"]
    logs, left = {}, {}
    for letter, component in FACTORS.items():
        work, frozen = (
            _stack([_vector(points, kept, tap, t, component) for tap in taps])
            for t in ("none", before)
        )
        assert work is not None, "places are taken from the intact arm"
        logs[letter] = _log(work).mean(axis=0)
        yield f"V_{letter}", logs[letter]
        if frozen is not None and (frozen[:, :1] > 0).all():
            short = min(work.shape[1], frozen.shape[1])
            left[letter] = (work[:, :short] / frozen[:, :short]).mean(axis=0)
            yield f"R_{letter}", 1 - left[letter]
    yield "V_S / V_I", logs["S"] - logs["I"]
    if {"S", "I"} <= left.keys():
        yield "Psi", _log(left["S"]) - _log(left["I"])


def _vector(
    points: Mapping[Any, Mapping[Any, Any]],
    kept: Mapping[tuple[Any, ...], Array],
    tap: tuple[int, str],
    treatment: str,
    component: str,
) -> Array | None:
    at = (*tap, treatment)
    if (vector := kept.get((*at, component))) is not None:
        return vector
    return np.array([float(points[at][component])]) if at in points else None


def _stack(vectors: Sequence[Array | None]) -> Array | None:
    """Return the vectors of several taps as rows, all cut to the shortest; None if one lacks."""
    known = [v for v in vectors if v is not None]
    if len(known) < len(vectors):
        return None
    short = min(map(len, known))
    lengths = {len(v) for v in known}
    return np.array([v if len(lengths) == 1 else v[:1] for v in known])[:, : short or 1]


def _log(x: Array) -> Array:
    """Return the logarithm, nan where there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(x > 0, np.log(np.where(x > 0, x, 1.0)), np.nan))
