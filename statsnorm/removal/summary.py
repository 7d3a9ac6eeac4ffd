"""From tables to the sufficient statistics of `removed_variance`: components and replicates.

Everything is under the convention "contrast fixed"; with all factors random V_S is
`style - style_contrast / K` and V_I is `content - content_contrast / K` (method 2.4), so the
other convention needs no second pass. Traces are means over the channels that are live in every
compared member.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from statsnorm.decisions import Plan, load_plan
from statsnorm.removal import retrieval
from statsnorm.removal.crossed import (
    Cells,
    Design,
    Member,
    MomentTables,
    find_designs,
    load_members,
    read_cells,
    taps_of,
)
from statsnorm.removal.diagnostics import reml_rows
from statsnorm.removal.populations import on_the_way, training_facts
from statsnorm.removal.projection import drawn_images, projection_rows, shown_taps
from statsnorm.stats.blups import level_scores
from statsnorm.stats.components import component_replicates, crossed_components, style_leverage
from statsnorm.stats.scale_free import live_channels, scale_free

Array = NDArray[np.float64]

EVIDENCE: tuple[str, ...] = ("next_pre_norm", "residual_sum", "vgg_of_output")
COMPONENTS: tuple[str, ...] = (
    "content",
    "style",
    "contrast",
    "content_style",
    "content_contrast",
    "style_contrast",
    "residual",
)
REPLICATED: tuple[str, ...] = COMPONENTS[:-1]
MEDIANS: tuple[str, ...] = ("content", "style", "contrast")
MOMENTS: tuple[str, ...] = ("m", "v", "mean", "sd")  # the last two on the raw scale
TABLES: tuple[str, ...] = (
    *("designs", "components", "replicates"),
    *("drift", "leverage", "blups", "reml", "scatter", "projection", "retrieval", "notes"),
)
ALL = "all"
SELECTED_CHANNELS = 2
LEAST_STYLES = 3  # of a generator, for intervals of its own


def sufficient_statistics(tables: MomentTables) -> dict[str, pd.DataFrame]:
    """Reduce all crossed designs of the tables to small frames.

    Returns
    -------
    dict of DataFrame
        `designs` (one row a design), `components` (traces and medians of every tap, member and
        moment), `replicates` (delete-one trace replicates at the evidence taps of trained
        networks), `drift`, `leverage`, `blups`, `reml`, `scatter`, `projection`, `notes`,
        `training`. Empty if there is no crossed design. Checkpoints on the way of a training are
        left out.
    """
    keys = tables.keys()
    designs = find_designs(keys[~on_the_way(keys)])
    if not designs:
        return {}
    plan, eps = load_plan(), tap_eps(tables.taps())
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    places = list(_places(designs, plan))
    found = tables.map_taps(partial(_of_tap, plan=plan, eps=eps), places)
    _gather(rows, designs, places, found)
    rows["references"] = list(_references(tables))
    rows["training"] = training_facts(tables)
    return {name: pd.DataFrame(records) for name, records in rows.items() if records}


def _references(tables: MomentTables) -> Iterator[dict[str, Any]]:
    """Yield, for every run with frozen arms, what its maps were calibrated on."""
    for run in tables.provenance()["runs"]:
        reference, design = (run["config"].get(name) for name in ("reference", "design"))
        if reference and design:
            styles = set(reference["styles"])
            yield {
                "count": int(reference["count"]),
                "shared": int(reference["shared_contents"]),
                "styles": len(styles),
                "held_out": not styles & set(design["styles"]),
            }


@dataclass(frozen=True, slots=True)
class _Place:
    """One tap of one design, with what reducing it takes."""

    number: int
    design: Design  # without its rows
    tap: Mapping[Any, Any]
    drawn: bool  # as a projection
    at_input: Design | None  # of the same tap, without its rows

    @property
    def name(self) -> str:
        """The tap, with the number of its call where that is not the first."""
        tap, call = self.tap["tap"], self.tap["call"]
        return str(tap) if call == 0 else f"{tap}#{call}"


class _Found(NamedTuple):
    """What one tap was reduced to."""

    labels: tuple[tuple[Any, ...], ...]
    notes: list[str]
    rows: list[dict[str, Any]]  # each with the name of its `table`


def _places(designs: list[Design], plan: Plan) -> Iterator[_Place]:
    """Yield every tap of every design, in the order of the tables."""
    for number, design in enumerate(designs):
        taps = taps_of(design)
        drawn = set() if design.untrained else shown_taps(taps, plan)
        for tap in taps.to_dict("records"):
            shown = tap["tap"] in drawn and tap["call"] == 0
            same = tap["tap_kind"] == "vgg_of_output" and tap["tap"] == plan.primary["and_tap"]
            at_input = _at_input(design, designs, tap) if same else None
            yield _Place(number, design.bare, tap, shown, at_input)


def _of_tap(
    tables: MomentTables, place: _Place, *, plan: Plan, eps: Mapping[tuple[str, str], float]
) -> _Found:
    """Return the rows of all tables at one tap of one design."""
    design, tap = place.design, place.tap
    members, notes = load_members(tables, design, tap["tap"], tap["call"], tap["members"])
    live = live_channels(
        [cells.var for cells in members.values()],
        eps=eps.get((str(design.network["network"]), tap["tap"]), 0.0),
    )
    where = {"design": place.number, "tap": place.name}
    meta = {k: tap[k] for k in ("tap_kind", "depth", "by_construction")}
    counts = {"channels": int(live.sum()), "dropped": int((~live).sum())}
    rows = []
    for record in _rows_of(tables, place, members, live, plan) if live.any() else ():
        extra = {**meta, **counts} if record["table"] == "components" else {}
        rows.append({**where, **extra, **record})
    return _Found(next(iter(members.values())).labels, notes, rows)


def _rows_of(
    tables: MomentTables,
    place: _Place,
    members: dict[Member, Cells],
    live: NDArray[np.bool_],
    plan: Plan,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one tap with live channels, each with the name of its table."""
    design, tap = place.design, place.tap
    meta = {k: tap[k] for k in ("tap_kind", "depth", "by_construction")}
    yield from _reduce(design, members, live, meta, plan)
    if tap["tap_kind"] == "vgg_of_output" and place.name == plan.primary["and_tap"]:
        other = place.at_input
        plain = {"condition": "original", "treatment": "none"}
        at_input = read_cells(tables, other, tap["tap"], tap["call"], **plain) if other else None
        yield from () if design.untrained else _scatter(members, live, plan, at_input)
    if place.drawn:
        kind = {"table": "projection", "tap_kind": tap["tap_kind"]}
        yield from ({**kind, **row} for row in projection_rows(members, live, plan))
    if place.name == retrieval.TAP:
        yield from _retrieval(members, live, plan)


def _gather(
    rows: dict[str, list[dict[str, Any]]],
    designs: list[Design],
    places: list[_Place],
    found: list[_Found],
) -> None:
    """Add what the taps were reduced to, and a row a design, to the tables."""
    labels: dict[int, tuple[tuple[Any, ...], ...]] = {}
    notes: dict[tuple[int, str], None] = {}
    for place, of_tap in zip(places, found, strict=True):
        labels[place.number] = of_tap.labels
        notes |= dict.fromkeys((place.number, note) for note in of_tap.notes)
        for record in of_tap.rows:
            rows[record["table"]].append({k: v for k, v in record.items() if k != "table"})
    rows["notes"] = [{"design": number, "note": note} for number, note in notes]
    rows["designs"] = [design_row(n, design, labels[n]) for n, design in enumerate(designs)]


def _reduce(
    design: Design,
    members: dict[Member, Cells],
    live: NDArray[np.bool_],
    meta: Mapping[str, Any],
    plan: Plan,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one tap, each with the name of its table."""
    styles = next(iter(members.values())).labels[1]
    evidence = meta["tap_kind"] in EVIDENCE and not meta["by_construction"]
    replicated = evidence and not design.untrained
    for (condition, treatment), cells in members.items():
        key = {"condition": condition, "treatment": treatment}
        values = design_moments(cells, live)
        for moment, y in values.items():
            full = replicated and moment in ("m", "v")
            for subset, columns in _generators(styles).items():
                if subset != ALL and not (full and moment == plan.primary["moment"]):
                    continue
                part = y if subset == ALL else y[:, columns]
                labelled = {**key, "generators": subset, "moment": moment}
                wanted = _wanted(condition, treatment, plan, subset) if full else ()
                yield from _component_rows(part, labelled, wanted)
        if evidence and condition == "original":
            yield {"table": "leverage", **key, **_leverage(values["v"], styles)}
        if replicated and condition == "original" and treatment in ("none", plan.primary["before"]):
            yield from _checks(values[plan.primary["moment"]], key, meta)
    if meta["tap_kind"] == "vgg_of_output":
        yield from _drift(members, live)


def _checks(y: Array, key: Mapping[str, Any], meta: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the scores of levels for QQ plots, and REML on a few channels of VGG taps."""
    for factor, scores in level_scores(y).items():
        yield {"table": "blups", **key, "factor": factor, "scores": scores}
    if meta["tap_kind"] == "vgg_of_output":
        for row in reml_rows(y, seed=int(meta["depth"])):
            yield {"table": "reml", **key, **row}


def _component_rows(
    y: Array, key: Mapping[str, Any], wanted: tuple[str, ...]
) -> Iterator[dict[str, Any]]:
    per_channel = _components(y)
    traces = {name: float(value.mean()) for name, value in per_channel.items()}
    medians = {f"{name}_median": float(np.median(per_channel[name])) for name in MEDIANS}
    yield {"table": "components", **key, **traces, **medians}
    if wanted:
        replicates = component_replicates(y, contrast="fixed")
        for name in wanted:
            values = np.asarray(replicates[name]).mean(axis=1)
            yield {"table": "replicates", **key, "component": name, "values": values}


def _components(y: Array) -> dict[str, Array]:
    result = crossed_components(y, contrast="fixed")
    return {name: np.asarray(getattr(result, name)) for name in COMPONENTS}


def _wanted(condition: str, treatment: str, plan: Plan, subset: str) -> tuple[str, ...]:
    """Return the components whose replicates the report needs of this member."""
    if condition == "original" and treatment in ("none", "frozen:prefix", "frozen:all"):
        return REPLICATED if subset == ALL else ("content", "style")
    if condition in plan.primary["pixel"] and treatment == plan.primary["before"]:
        return ("style",)
    if condition in plan.primary["perp"] and treatment in ("none", plan.primary["before"]):
        return ("style",)
    return ()


def design_moments(cells: Cells, live: NDArray[np.bool_]) -> dict[str, Array]:
    """Return the moments (I, S, K, C live) float64, scale-free and raw."""
    mean, var = cells.mean[..., live].astype(np.float64), cells.var[..., live].astype(np.float64)
    m, v = scale_free(mean, var)
    # a live channel may still be exactly constant inside up to 1 % of the cells
    v = np.where(np.isfinite(v), v, np.nanmin(v, axis=(0, 1, 2), keepdims=True))
    return {"m": m, "v": v, "mean": mean, "sd": np.sqrt(var)}


def _generators(styles: tuple[Any, ...]) -> dict[str, Any]:
    """Return the columns of each style generator, and of all; one generator is only `all`.

    A generator of fewer styles than the jackknife needs is in `all` alone.
    """
    names = [str(style).rpartition(":")[0] for style in styles]
    subsets: dict[str, Any] = {ALL: slice(None)}
    if len(set(names)) > 1:
        for name in sorted(set(names)):
            columns = np.flatnonzero(np.array(names) == name)
            if len(columns) >= LEAST_STYLES:
                subsets[name] = columns
    return subsets


def _leverage(v: Array, styles: tuple[Any, ...]) -> dict[str, Any]:
    """Return the style that holds the largest share of the between-style sum of squares."""
    shares = style_leverage(v)
    most = int(shares.argmax())
    return {"style": str(styles[most]), "share": float(shares[most])}


def _retrieval(
    members: dict[Member, Cells], live: NDArray[np.bool_], plan: Plan
) -> Iterator[dict[str, Any]]:
    """Yield how many images find themselves again, across treatments and across styles."""
    rows = {
        treatment: retrieval.moment_rows(cells.mean[..., live], cells.var[..., live])
        for (condition, treatment), cells in members.items()
        if condition == "original" and treatment in ("none", plan.primary["before"])
    }
    for treatment, values in rows.items():
        yield {"table": "retrieval", "across": f"styles, {treatment}"} | retrieval.across_styles(
            values
        )
    if len(rows) == 2:
        found = retrieval.across_treatments(rows[plan.primary["before"]], rows["none"])
        yield {"table": "retrieval", "across": "treatments"} | found


def _drift(members: dict[Member, Cells], live: NDArray[np.bool_]) -> Iterator[dict[str, Any]]:
    """Yield the mean squared relative distance of the output's moments under replacement."""
    intact = members.get(("original", "none"))
    if intact is None:
        return
    a, s = intact.mean[..., live].astype(float), np.sqrt(intact.var[..., live].astype(float))
    size = (a**2 + s**2).sum(axis=-1)  # (I, S, K)
    for (condition, treatment), cells in members.items():
        if condition == "original" and treatment != "none":
            b, t = cells.mean[..., live].astype(float), np.sqrt(cells.var[..., live].astype(float))
            distance = ((a - b) ** 2 + (s - t) ** 2).sum(axis=-1) / size
            yield {"table": "drift", "treatment": treatment, "distance": float(distance.mean())}


def _scatter(
    members: dict[Member, Cells], live: NDArray[np.bool_], plan: Plan, at_input: Cells | None
) -> Iterator[dict[str, Any]]:
    """Yield m and v of the channels with the largest V_S before, at the first contrast level."""
    frozen = members.get(("original", plan.primary["before"]))
    intact = members.get(("original", "none"))
    if frozen is None or intact is None:
        return
    top = np.argsort(-_components(design_moments(frozen, live)["v"])["style"], kind="stable")
    chosen = top[:SELECTED_CHANNELS]
    for panel, cells in (("input", at_input), ("frozen", frozen), ("normalised", intact)):
        if cells is None or cells.mean.shape[-1] != len(live):
            continue
        with np.errstate(divide="ignore"):
            values = design_moments(cells, live)
        images = drawn_images(len(cells.mean))
        for column in chosen:
            for s, style in enumerate(cells.labels[1]):
                yield {
                    "table": "scatter",
                    "panel": panel,
                    "channel": int(np.flatnonzero(live)[column]),
                    "style": str(style),
                    "m": values["m"][images, s, 0, column].astype(np.float32),
                    "v": values["v"][images, s, 0, column].astype(np.float32),
                }


def _at_input(design: Design, designs: list[Design], tap: Mapping[Any, Any]) -> Design | None:
    """Return the design of the same VGG tap on this one's inputs, if they were extracted."""
    for other in designs:
        same = all(
            other.network[k] == v
            for k, v in (("network", design.network["network"]), ("source", "input"))
        )
        if same and other.inputs == design.inputs and tap["tap"] in set(other.rows["tap"]):
            return other.bare
    return None


def design_row(number: int, design: Design, labels: tuple[tuple[Any, ...], ...]) -> dict[str, Any]:
    """Return the row of `designs` for one design with these images, styles and levels."""
    generators = sorted({str(style).rpartition(":")[0] for style in labels[1]})
    images, styles, levels = (len(axis) for axis in labels)
    return {
        "design": number,
        "net": design.net,
        **design.network,
        **design.inputs,
        "untrained": design.untrained,
        "images": images,
        "styles": styles,
        "levels": levels,
        "style_generators": ", ".join(generators),
        "n_generators": len(generators),
    }


def tap_eps(taps: pd.DataFrame) -> dict[tuple[str, str], float]:
    """Return the eps of the normaliser at each tap, 0 where there is none."""
    known = taps[taps["eps"].notna()]
    largest: dict[tuple[str, str], float] = {}
    for network, tap, eps in zip(known["network"], known["tap"], known["eps"], strict=True):
        largest[network, tap] = max(float(eps), largest.get((network, tap), 0.0))
    return largest
