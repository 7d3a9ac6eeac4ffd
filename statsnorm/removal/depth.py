"""Variance by depth: every tap of a group of networks, at work and frozen, over the networks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from statsnorm.decisions import Plan
from statsnorm.removal.ratios import Interval, interval
from statsnorm.removal.study import CONFIDENCE, FACTORS, Frames
from statsnorm.removal.units import UNIT_KEYS, Over, Unit, over_networks

Array = NDArray[np.float64]
At = tuple[int, str, str]  # design, tap, treatment
STEPS: Mapping[str, str] = {
    "post_norm": "at the normaliser",
    "post_act": "behind the activation",
    "residual_sum": "behind the residual sum",
    "next_pre_norm": "in front of the next normaliser",
    "output": "at the output",
}
"""Kinds of taps behind a normaliser, from near to far."""

PROFILE_COLUMNS = (
    *("group", "stage", "tap", "tap_kind", "depth", "to_next", "by_construction", "factor"),
    *("at_work", "low", "high", "frozen", "kept", "n"),
)
STEP_COLUMNS = ("group", "stage", "step", "factor", "kept", "low", "high", "n", "taps")


def depth_profile(
    groups: Mapping[tuple[str, str], Sequence[Unit]], frames: Frames, plan: Plan
) -> pd.DataFrame:
    """Return V_S, V_I and V_K of the primary moment at every tap of the networks themselves.

    `groups` maps (group, stage) to its networks. `at_work` is the geometric mean over networks
    with its 95 % interval (over networks where there are several, else over images and styles);
    `frozen` the same under the frozen baseline; `kept` the mean of their ratio; `to_next` the
    number of taps until the next normaliser's input, -1 behind the last one.
    """
    points, replicates = _own_taps(frames, plan)
    rows = [
        row
        for (group, stage), units in groups.items()
        for row in _profile_rows(
            {"group": group, "stage": stage}, units, frames, points, replicates, plan
        )
    ]
    return pd.DataFrame(rows, columns=list(PROFILE_COLUMNS))


def step_table(
    groups: Mapping[tuple[str, str], Sequence[Unit]], frames: Frames, plan: Plan
) -> pd.DataFrame:
    """Return what is kept of each factor by the kind of tap behind a normaliser.

    V(at work) / V(frozen), averaged over the taps of a kind within each network, then over
    networks: how much of the variance that a normaliser removed is back at each step. Intervals:
    :func:`kept_interval`.
    """
    points, replicates = _own_taps(frames, plan)
    before, rows = plan.primary["before"], []
    for (group, stage), units in groups.items():
        kinds: dict[tuple[str, str], list[Array]] = {}
        counts: dict[str, int] = {}
        for unit in units:
            for kind, ratios in _ratios(unit, frames, points, replicates, before).items():
                counts[kind] = max(counts.get(kind, 0), len(ratios))
                for letter in FACTORS:
                    vectors = [r[letter] for r in ratios]
                    short = len(vectors[0]) if len(set(map(len, vectors))) == 1 else 1
                    mean = np.mean([v[:short] for v in vectors], axis=0)
                    kinds.setdefault((kind, letter), []).append(mean)
        for (kind, letter), vectors in sorted(kinds.items(), key=lambda item: _rank(item[0])):
            found = kept_interval(vectors, units[0].groups)
            rows.append(
                {
                    "group": group,
                    "stage": stage,
                    "step": STEPS[kind],
                    "factor": letter,
                    "kept": found.estimate,
                    "low": found.low,
                    "high": found.high,
                    "n": len(vectors),
                    "taps": counts[kind],
                }
            )
    return pd.DataFrame(rows, columns=list(STEP_COLUMNS))


def kept_interval(vectors: Sequence[Array], groups: tuple[int, int]) -> Interval:
    """Return the mean over networks of what is kept, with a delete-one jackknife t interval.

    Parameters
    ----------
    vectors : sequence of ndarray, each (1,) or (1 + I + S,)
        One a network: V(at work) / V(frozen), then without each image and without each style
        where such replicates were kept.
    groups : (I, S)

    Returns
    -------
    Interval
        Over networks (of two and more) and, where every network has its replicates, over images
        and styles as well; Satterthwaite degrees of freedom. On the log scale, back-transformed,
        where all replicates are positive. nan for one network without replicates.
    """
    n, whole = len(vectors), all(len(v) == 1 + sum(groups) for v in vectors)
    first = np.array([v[0] for v in vectors], np.float64)
    units: list[int] = []
    parts = [first.mean(keepdims=True)]
    if n > 1:
        parts.append((first.sum() - first) / (n - 1))
        units.append(n)
    if whole:
        parts.append(np.mean([v[1:] for v in vectors], axis=0))
        units += groups
    values = np.concatenate(parts)
    if not units:
        return Interval(estimate=float(first[0]), low=math.nan, high=math.nan, se=math.nan,
                        dof=math.nan)  # fmt: skip
    if not (values > 0).all():
        return interval(values, tuple(units), confidence=CONFIDENCE)
    log = interval(np.log(values), tuple(units), confidence=CONFIDENCE)
    low, estimate, high = map(math.exp, (log.low, log.estimate, log.high))
    return Interval(estimate=estimate, low=low, high=high, se=log.se * estimate, dof=log.dof)


def _rank(at: tuple[str, str]) -> tuple[int, int]:
    return list(FACTORS).index(at[1]), list(STEPS).index(at[0])


def _ratios(
    unit: Unit,
    frames: Frames,
    points: Mapping[At, Mapping[Any, Any]],
    replicates: Mapping[tuple[Any, ...], Array],
    before: str,
) -> dict[str, list[dict[str, Array]]]:
    """Return V(at work) / V(frozen) of every tap by kind and factor, with replicates if kept."""
    found: dict[str, list[dict[str, Array]]] = {}
    for at, row in _of_unit(unit, frames, points):
        frozen = points.get((*at, before))
        if row["tap_kind"] in STEPS and frozen is not None:
            ratio = {
                letter: _ratio(
                    (float(row[c]), replicates.get((*at, "none", c))),
                    (float(frozen[c]), replicates.get((*at, before, c))),
                )
                for letter, c in FACTORS.items()
            }
            if all(np.isfinite(x[0]) for x in ratio.values()):
                found.setdefault(str(row["tap_kind"]), []).append(ratio)
    return found


def _ratio(above: tuple[float, Array | None], below: tuple[float, Array | None]) -> Array:
    """Return the ratio of two variances with its replicates, or alone where one lacks them."""
    if not below[0] > 0:
        return np.array([math.nan])
    if above[1] is None or below[1] is None or not (below[1] > 0).all():
        return np.array([above[0] / below[0]])
    return np.asarray(above[1] / below[1])


def _profile_rows(
    label: Mapping[str, str],
    units: Sequence[Unit],
    frames: Frames,
    points: Mapping[At, Mapping[Any, Any]],
    replicates: Mapping[tuple[Any, ...], Array],
    plan: Plan,
) -> Iterator[dict[str, Any]]:
    taps = [dict(_named(unit, frames, points)) for unit in units]
    ahead = _to_next(taps[0]) if taps else {}
    for name, (_, first) in (taps[0] if taps else {}).items():
        there = [own[name] for own in taps if name in own]
        for letter, component in FACTORS.items():
            work = [_logs(at, "none", component, row, replicates) for at, row in there]
            at_work = _geometric([v for v in work if v is not None], units[0].groups)
            pairs = [(row, points.get((*at, plan.primary["before"]))) for at, row in there]
            both = [(float(w[component]), float(f[component])) for w, f in pairs if f is not None]
            frozen = [f for _, f in both if f > 0]
            yield {
                **label,
                "tap": name,
                **{k: first[k] for k in ("tap_kind", "depth", "by_construction")},
                "to_next": ahead.get(name, -1),
                "factor": letter,
                **at_work,
                "frozen": float(np.exp(np.mean(np.log(frozen)))) if frozen else math.nan,
                "kept": float(np.mean([w / f for w, f in both if f > 0])) if frozen else math.nan,
                "n": len(there),
            }


def _geometric(logs: Sequence[Array], groups: tuple[int, int]) -> dict[str, float]:
    if not logs:
        return {"at_work": math.nan, "low": math.nan, "high": math.nan}
    found: Over = over_networks(logs, groups)
    shown = found.networks if found.n > 1 else found.all
    values = (shown.estimate, shown.low, shown.high)
    return dict(zip(("at_work", "low", "high"), map(math.exp, values), strict=True))


def _logs(
    at: tuple[int, str],
    treatment: str,
    component: str,
    row: Mapping[Any, Any],
    replicates: Mapping[tuple[Any, ...], Array],
) -> Array | None:
    """Return log V with its replicates where all are positive, else None or the estimate alone."""
    if not float(row[component]) > 0:
        return None
    vector = replicates.get((*at, treatment, component))
    if vector is None or not (vector > 0).all():
        return np.array([math.log(float(row[component]))])
    return np.asarray(np.log(vector))


def _to_next(taps: Mapping[str, tuple[Any, Mapping[Any, Any]]]) -> dict[str, int]:
    """Return for each tap how many taps lie between it and the next normaliser's input, plus 1."""
    ahead: dict[str, int] = {}
    waiting: list[str] = []
    for name, (_, row) in taps.items():
        if row["tap_kind"] in ("pre_norm", "next_pre_norm"):
            ahead |= {other: len(waiting) - i for i, other in enumerate(waiting)} | {name: 0}
            waiting = []
        else:
            waiting.append(name)
    return ahead


def _own_taps(
    frames: Frames, plan: Plan
) -> tuple[dict[At, Mapping[Any, Any]], dict[tuple[Any, ...], Array]]:
    moment = plan.primary["moment"]
    components = frames["components"]
    mine = components[
        (components["moment"] == moment) & (components["tap_kind"] != "vgg_of_output")
    ]
    points: dict[At, Mapping[Any, Any]] = {
        (int(r["design"]), str(r["tap"]), str(r["treatment"])): r for r in mine.to_dict("records")
    }
    replicates = {
        (int(r["design"]), str(r["tap"]), str(r["treatment"]), str(r["component"])): np.asarray(
            r["values"], np.float64
        )
        for r in frames.get("replicates", pd.DataFrame()).to_dict("records")
    }
    return points, replicates


def _of_unit(
    unit: Unit, frames: Frames, points: Mapping[At, Mapping[Any, Any]]
) -> list[tuple[tuple[int, str], Mapping[Any, Any]]]:
    """Return (design, tap) and the intact row of every tap of a network, by depth."""
    designs = frames["designs"]
    mine = designs["source"] == "input"
    for name in UNIT_KEYS:
        mine &= designs[name] == unit.key[name]
    numbers = set(designs.loc[mine, "design"])
    found = [
        ((design, tap), row)
        for (design, tap, treatment), row in points.items()
        if design in numbers and treatment == "none"
    ]
    return sorted(found, key=lambda item: (item[1]["depth"], item[0]))


def _named(
    unit: Unit, frames: Frames, points: Mapping[At, Mapping[Any, Any]]
) -> Iterator[tuple[str, tuple[tuple[int, str], Mapping[Any, Any]]]]:
    for at, row in _of_unit(unit, frames, points):
        yield at[1], (at, row)
