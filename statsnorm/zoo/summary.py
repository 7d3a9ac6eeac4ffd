"""From tables to the sufficient statistics of `norm_zoo`: what every arm keeps, by replicates.

One network at a time: its arms are aligned cell by cell, a channel is dropped from all of them
where it is dead in any, and variance components get delete-one replicates. Then networks are
joined: the statistic is the mean over networks and taps, with one further replicate for each
network left out, so that images, styles and networks all count as units.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from statsnorm.cells import GROUP
from statsnorm.decisions import Plan, load_plan
from statsnorm.removal.crossed import (
    Cells,
    Design,
    MomentTables,
    align,
    find_designs,
    read_cells,
    taps_of,
)
from statsnorm.removal.indexed import filled
from statsnorm.stats.components import BASE, component_replicates
from statsnorm.stats.scale_free import live_channels, scale_free
from statsnorm.zoo.arms import OWN, Arm, Host, NetId, find_hosts
from statsnorm.zoo.between import identity_error, share_replicates

Array = NDArray[np.float64]
Member = tuple[Arm, str, str]  # arm, condition, treatment
Place = tuple[NetId, str]  # network, tap
FACTORS: Mapping[str, str] = {"S": "style", "I": "content", "K": "contrast"}
FEWEST = 3  # images, or styles, for a jackknife
FROZEN = "frozen"  # the arm that is one fixed map a channel
OWN_FROZEN, NO_NORM = "own frozen map", "no normaliser"


@dataclass(slots=True)
class Gathered:
    """What was read of one host: trace replicates by member, tap and moment."""

    traces: dict[tuple[Member, str], dict[Place, dict[str, Array]]] = field(default_factory=dict)
    shares: dict[Arm, dict[Place, Array]] = field(default_factory=dict)
    taps: dict[str, tuple[str, int, int]] = field(default_factory=dict)  # kind, order, channels
    dropped: dict[Place, int] = field(default_factory=dict)
    labels: tuple[tuple[Any, ...], ...] = ((), (), ())
    notes: list[str] = field(default_factory=list)


def sufficient_statistics(tables: MomentTables) -> dict[str, pd.DataFrame]:
    """Reduce all hosts of the tables to small frames.

    Returns
    -------
    dict of DataFrame
        `hosts` (one row a host), `kept` (replicates of V(after)/V(before) by arm, place, moment
        and factor), `components` (point traces by arm and tap), `between` (replicates of omega),
        `identity`, `notes`. Empty if no network was run under two normalisers.
    """
    hosts = find_hosts(find_designs(tables.keys()))
    plan = load_plan()
    eps = _eps(tables.taps()) if hosts else {}
    rows: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("hosts", "kept", "components", "between", "identity", "notes")
    }
    for number, host in enumerate(hosts):
        got = _gather(tables, host, plan, eps)
        if not got.traces:
            continue
        contents = _contents_per_batch(tables, len(got.labels[0]))
        row = {"host": number, **_host_row(host, got), "contents_per_batch": contents}
        rows["hosts"].append(row)
        for name, records in (
            ("kept", _kept_rows(host, got, plan)),
            ("components", _component_rows(got)),
            ("between", _between_rows(got)),
            ("identity", _identity_rows(tables, host, contents)),
            ("notes", ({"note": note} for note in dict.fromkeys(got.notes))),
        ):
            rows[name] += [{"host": number, **record} for record in records]
    return {name: pd.DataFrame(records) for name, records in rows.items() if records}


def joined(top: Array, bottom: Array) -> dict[str, Any]:
    """Return the mean kept ratio over networks and taps with all its replicates.

    Parameters
    ----------
    top, bottom : ndarray, shape (N, T, 1 + I + S)
        Trace replicates of one component after and before, by network and tap.

    Returns
    -------
    dict
        `values` of the ratio, `above` and `below` of its linear contrast
        (:func:`statsnorm.removal.ratios.ratio_from`), each (1 + I + S,), or (1 + I + S + N,) with
        several networks; `positive`: whether every denominator is.
    """
    n, t = top.shape[:2]
    weights = 1 / (bottom[..., :1] * t)  # of the mean over taps
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = {
            "values": (top / bottom).mean(axis=1),  # (N, 1 + I + S)
            "above": (top * weights).sum(axis=1),
            "below": (bottom * weights).sum(axis=1),
        }
    found: dict[str, Any] = {name: with_networks(part) for name, part in parts.items()}
    return {**found, "positive": bool((bottom > 0).all()), "networks": n, "taps": t}


def with_networks(each: Array) -> Array:
    """Return the mean over networks (N, R) with, for N > 1, each network left out: (R [+ N],)."""
    mean = each.mean(axis=0)
    n = len(each)
    if n == 1:
        return np.asarray(mean)
    return np.concatenate([mean, (n * mean[0] - each[:, 0]) / (n - 1)])


def _gather(
    tables: MomentTables, host: Host, plan: Plan, eps: Mapping[tuple[str, str, str], float]
) -> Gathered:
    places = []
    for network in sorted({n for nets in host.arms.values() for n in nets}):
        mine = {arm: nets[network] for arm, nets in host.arms.items() if network in nets}
        for tap, kind in _evidence_taps(mine, plan):
            wanted = [(arm, _members(designs, tap, plan)) for arm, designs in mine.items()]
            places.append(_Place(network, tap, kind, wanted))
    got = Gathered()
    found = tables.map_taps(partial(_of_tap, eps=eps), places)
    for place, reduced in zip(places, found, strict=True):
        _add(got, place, reduced)
    return got


@dataclass(frozen=True, slots=True)
class _Place:
    """One tap of one network, with the members of every arm that are read there."""

    network: NetId
    tap: tuple[str, int]  # name, call
    kind: str
    arms: list[tuple[Arm, list[tuple[Design, str, str]]]]  # designs without their rows

    @property
    def label(self) -> str:
        """The tap, with the number of its call where that is not the first."""
        name, call = self.tap
        return name if call == 0 else f"{name}#{call}"


class _Reduced(NamedTuple):
    """What one tap of one network was reduced to."""

    labels: tuple[tuple[Any, ...], ...]
    live: NDArray[np.bool_] | None = None  # (C,); None where there are too few images or styles
    traces: Sequence[tuple[Member, str, dict[str, Array]]] = ()
    shares: Sequence[tuple[Arm, Array]] = ()


def _evidence_taps(
    arms: Mapping[Arm, Sequence[Design]], plan: Plan
) -> list[tuple[tuple[str, int], str]]:
    """Return the evidence taps that every arm has, with their kinds, by depth."""
    have = []
    for designs in arms.values():
        rows = pd.concat([taps_of(design) for design in designs])
        judged = (rows["tap_kind"] == OWN) | (
            (rows["tap_kind"] == "vgg_of_output") & (rows["tap"] == plan.primary["and_tap"])
        )
        rows = rows[judged & ~rows["by_construction"]].sort_values("tap_kind", kind="stable")
        have.append(
            {(str(r["tap"]), int(r["call"])): str(r["tap_kind"]) for r in rows.to_dict("records")}
        )
    return [(tap, kind) for tap, kind in have[0].items() if all(tap in other for other in have)]


def _members(
    designs: Sequence[Design], tap: tuple[str, int], plan: Plan
) -> list[tuple[Design, str, str]]:
    """Return the designs of one arm at a tap, each with the conditions and treatments read."""
    found = []
    for design in designs:
        rows = design.rows
        rows = rows[
            (rows["tap"] == tap[0])
            & (rows["call"] == tap[1])
            & rows["condition"].isin(["original", *plan.primary["perp"]])
            & rows["treatment"].isin(["none", plan.primary["before"]])
        ]
        pairs = sorted(set(zip(rows["condition"], rows["treatment"], strict=True)))
        found += [(design.bare, str(condition), str(treatment)) for condition, treatment in pairs]
    return found


def _of_tap(
    tables: MomentTables, place: _Place, *, eps: Mapping[tuple[str, str, str], float]
) -> _Reduced:
    """Return the trace replicates of one network at one tap."""
    members: dict[Member, Cells] = {}
    for arm, wanted in place.arms:
        for design, condition, treatment in wanted:
            members[arm, condition, treatment] = read_cells(
                tables, design, *place.tap, condition=condition, treatment=treatment
            )
    cells = align(members)
    labels = next(iter(cells.values())).labels
    if min(map(len, labels[:2])) < FEWEST:
        return _Reduced(labels)
    name = place.tap[0]
    floors = [
        eps.get((arm.norm, treatment, name), 0.0) if _adapts(arm, treatment) else 0.0
        for arm, _, treatment in cells
    ]
    live = live_channels([found.var for found in cells.values()], eps=floors)
    traces, shares = [], []
    for (arm, condition, treatment), found in cells.items() if live.any() else ():
        mean, var = found.mean[..., live], found.var[..., live]
        for moment, y in zip(("m", "v"), scale_free(mean, var), strict=True):
            parts = component_replicates(filled(y), contrast="fixed")
            of_moment = {c: np.asarray(parts[c]).mean(axis=1) for c in BASE}
            traces.append(((arm, condition, treatment), moment, of_moment))
        plain = (condition, treatment) == ("original", "none")
        if arm.batch_kind and plain and place.kind == OWN:
            shares.append((arm, share_replicates(mean, var, arm.batch_kind)))
    return _Reduced(labels, live, traces, shares)


def _add(got: Gathered, place: _Place, reduced: _Reduced) -> None:
    """Add what one tap was reduced to, or a note why it is left out."""
    network, label = place.network, place.label
    got.labels = got.labels if got.labels[0] else reduced.labels
    if reduced.labels != got.labels or reduced.live is None:
        who = network[0] or f"seed {network[1]}"
        got.notes.append(f"{who} at {label}: too few images or styles, or others than elsewhere")
        return
    if not reduced.live.any():
        got.notes.append(f"no live channel at {label}")
        return
    got.taps.setdefault(label, (place.kind, len(got.taps), len(reduced.live)))
    got.dropped[network, label] = int((~reduced.live).sum())
    for member, moment, traces in reduced.traces:
        got.traces.setdefault((member, moment), {})[network, label] = traces
    for arm, share in reduced.shares:
        got.shares.setdefault(arm, {})[network, label] = share


def _adapts(arm: Arm, treatment: str) -> bool:
    """Whether eps can matter at this layer: a fixed map (frozen, BN in eval mode) has none."""
    return treatment == "none" and (arm.norm != "bn" or bool(arm.batch_kind))


def _kept_rows(host: Host, got: Gathered, plan: Plan) -> Iterator[dict[str, Any]]:
    """Yield what every arm keeps, against its own frozen map and against no normaliser."""
    before, conditions = plan.primary["before"], ("original", *plan.primary["perp"])
    plain = Arm("none")
    fixed = _fixed_arm(host)
    pairs: list[tuple[str, Arm, str, Member, Member]] = []
    for arm in host.arms:
        for condition in conditions:
            after, frozen = (arm, condition, "none"), (arm, condition, before)
            pairs.append((OWN_FROZEN, arm, condition, after, frozen))
        if arm != plain:
            after, none = (arm, "original", "none"), (plain, "original", "none")
            pairs.append((NO_NORM, arm, "original", after, none))
    if fixed is not None:
        frozen, none = (fixed, "original", before), (plain, "original", "none")
        pairs.append((NO_NORM, Arm(FROZEN), "original", frozen, none))
    for baseline, arm, condition, after, other in pairs:
        for moment in ("m", "v"):
            top, bottom = got.traces.get((after, moment), {}), got.traces.get((other, moment), {})
            named = {"baseline": baseline, "norm": arm.norm, "batch_kind": arm.batch_kind}
            for record in _joined_places(got, top, bottom, condition):
                yield {**named, "condition": condition, "moment": moment, **record}


def _joined_places(
    got: Gathered, top: Mapping[Place, Any], bottom: Mapping[Place, Any], condition: str
) -> Iterator[dict[str, Any]]:
    factors = FACTORS if condition == "original" else {"S": FACTORS["S"]}
    for kind in (OWN, "vgg_of_output"):
        taps = [tap for tap, (k, *_) in got.taps.items() if k == kind]
        networks = sorted({n for n, _ in top} & {n for n, _ in bottom})
        networks = [n for n in networks if all((n, t) in top and (n, t) in bottom for t in taps)]
        if not taps or not networks:
            continue
        for factor, name in factors.items():
            arrays = (
                np.array([[x[n, t][name] for t in taps] for n in networks]) for x in (top, bottom)
            )
            yield {"kind": kind, "factor": factor, **joined(*arrays)}


def _fixed_arm(host: Host) -> Arm | None:
    """Return the arm whose frozen map is the plain one: a mean and an sd a channel."""
    return next((Arm(norm) for norm in ("in", "bn") if Arm(norm) in host.arms), None)


def _component_rows(got: Gathered) -> Iterator[dict[str, Any]]:
    """Yield point traces of every component by arm, treatment and tap, averaged over networks."""
    for ((arm, condition, treatment), moment), places in got.traces.items():
        for tap, (kind, depth, channels) in got.taps.items():
            found = {n: parts for (n, t), parts in places.items() if t == tap}
            if condition != "original" or not found:
                continue
            means = {c: float(np.mean([p[c][0] for p in found.values()])) for c in BASE}
            dropped = max(got.dropped[n, tap] for n in found)
            named = {"norm": arm.norm, "batch_kind": arm.batch_kind, "treatment": treatment}
            yield {**named, "moment": moment, "tap": tap, "tap_kind": kind, "depth": depth,
                   "channels": channels, "dropped": dropped, "networks": len(found),
                   **means}  # fmt: skip


def _between_rows(got: Gathered) -> Iterator[dict[str, Any]]:
    taps = [tap for tap, (kind, *_) in got.taps.items() if kind == OWN]
    for arm, places in got.shares.items():
        networks = sorted({n for n, _ in places})
        networks = [n for n in networks if all((n, t) in places for t in taps)]
        if networks:
            each = np.array([np.mean([places[n, t] for t in taps], axis=0) for n in networks])
            yield {"norm": arm.norm, "batch_kind": arm.batch_kind, "networks": len(networks),
                   "taps": len(taps), "values": with_networks(each)}  # fmt: skip


def _identity_rows(tables: MomentTables, host: Host, contents: int) -> Iterator[dict[str, Any]]:
    """Yield how far BN on style-homogeneous batches is from one affine map a batch."""
    networks = host.arms.get(Arm("bn", "style-homogeneous"), {}) if contents else {}
    for network, designs in networks.items():
        for design in (d for d in designs if d.network["source"] == "input"):
            rows = design.rows[design.rows["treatment"] == "none"]
            behind = rows[rows["tap_kind"] == "post_norm"][["tap", "call"]].drop_duplicates()
            for tap, call in zip(behind["tap"], behind["call"], strict=True):
                if f"{tap}.in" not in set(rows["tap"]):
                    continue
                where = {"condition": "original", "treatment": "none"}
                pair = {t: read_cells(tables, design, t, int(call), **where)
                        for t in (f"{tap}.in", str(tap))}  # fmt: skip
                before, after = (cells.var for cells in align(pair).values())
                live = live_channels([before, after])
                error = identity_error(before[..., live], after[..., live], contents)
                yield {"network": network[0] or f"seed {network[1]}", "tap": tap, "error": error}


def _host_row(host: Host, got: Gathered) -> dict[str, Any]:
    images, styles, levels = (len(axis) for axis in got.labels)
    generators = sorted({str(style).rpartition(":")[0] for style in got.labels[1]})
    return {
        "name": host.name,
        "weights": host.weights,
        **host.inputs,
        "images": images,
        "styles": styles,
        "levels": levels,
        "style_generators": ", ".join(generators),
        "n_generators": len(generators),
    }


def _contents_per_batch(tables: MomentTables, images: int) -> int:
    """Return how many contents the smallest style-homogeneous batch holds; 0 if not recorded."""
    least = 0
    for run in tables.provenance()["runs"]:
        size = run["config"].get("composed_batch_size")
        if size:
            line = min(images, GROUP, int(run["config"].get("shard_size", GROUP)))
            contents = line // -(-line // int(size))
            least = min(least or contents, contents)
    return least


def _eps(taps: pd.DataFrame) -> dict[tuple[str, str, str], float]:
    """Return the eps of the normaliser at each (norm, treatment, tap) of a network's own taps."""
    own = taps[(taps["source"] == "input") & taps["eps"].notna()]
    rows = zip(own["norm"], own["treatment"], own["tap"], own["eps"], strict=True)
    return {(str(norm), str(how), str(tap)): float(eps) for norm, how, tap, eps in rows}
