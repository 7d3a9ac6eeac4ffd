"""Natural domains: a manifest's labels and the moments of its images, reduced to traces.

Images lie in cells of domain (style) x class (content), or, without classes, in domains. A domain
with its images is the independent unit of a statement about domains at large; of a statement about
these domains alone it is the image within its cell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from statsnorm.decisions import Plan, load_plan
from statsnorm.engines.tasks import TapMap
from statsnorm.errors import StatsnormError
from statsnorm.mixed import reml_components
from statsnorm.removal import retrieval
from statsnorm.removal.labels import CROSSED, NESTED, Labels, domain_labels
from statsnorm.removal.ratios import ratio, ratio_of_ratios
from statsnorm.removal.study import IDENTITY
from statsnorm.stats.oneway import one_way_replicates
from statsnorm.stats.scale_free import live_channels, scale_free
from statsnorm.stats.unbalanced import UnitReplicates, unbalanced_replicates

Array = NDArray[np.float64]
Frame = pd.DataFrame
Arms = dict[tuple[str, str, str], UnitReplicates]  # tap, treatment, moment

COMPONENTS: Mapping[str, tuple[str, ...]] = {
    CROSSED: ("style", "content", "content_style", "residual"),
    NESTED: ("style", "content"),
}
CONFIDENCE = 0.95
REML_CHANNELS, REML_ROWS = 4, 300


class LabelledTables(TapMap, Protocol):
    """What this module needs of the tables."""

    def keys(self) -> Frame:
        """Return the distinct key combinations."""

    def taps(self) -> Frame:
        """Return the taps."""

    def images(self) -> Frame:
        """Return the images with their attributes."""

    def moments(self, **where: Any) -> Any:
        """Return (keys, mean, var) of the selected rows."""


def domain_statistics(tables: LabelledTables, *, seed: int = 0) -> dict[str, Frame]:
    """Reduce all plain rows of labelled images to traces and finished image-wise intervals.

    Parameters
    ----------
    tables : LabelledTables
        Runs whose manifest has a column `domain`.
    seed : int
        Of the channels on which REML is compared.

    Returns
    -------
    dict of DataFrame
        `designs` (one row a network), `cells` (images of each cell), `replicates` (traces with
        each domain and class left out), `within` (ratios with each image left out: these domains
        alone), `reml`, `retrieval`. Empty without a column `domain`.
    """
    plan = load_plan()
    labels = domain_labels(tables.images(), plan.minimum["cell_images"])
    keys = tables.keys()
    plain = (keys["style"] == "") & (keys["contrast"] == "") & (keys["condition"] == "original")
    wanted = keys["treatment"].isin(["none", plan.primary["before"]])
    mine = keys[plain & wanted & ~keys["by_construction"].astype(bool)]
    if labels is None or not len(mine):
        return {}
    net = np.where(mine["source"] == "input", mine["network"], mine["source"])
    rows: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("designs", "replicates", "within", "reml", "retrieval")
    }
    by = list(IDENTITY)
    for number, (values, own) in enumerate(mine.assign(net=net).groupby(by, sort=True)):
        named = dict(zip(by, values, strict=True))
        rows["designs"].append({"study": number, **named, **_counts(labels)})
        for name, found in _study(tables, own, labels, plan, seed).items():
            rows[name] += [{"study": number, **row} for row in found]
    cells = labels.table.groupby(["domain", "class"]).size().rename("images").reset_index()
    frames = {name: pd.DataFrame(found) for name, found in rows.items() if found}
    return {**frames, "cells": cells}


def _counts(labels: Labels) -> dict[str, Any]:
    table, crossed = labels.table, labels.design == CROSSED
    return {
        "design": labels.design,
        "images": len(table),
        "domains": table["domain"].nunique(),
        "classes": table["class"].nunique() if crossed else 0,
        "cells": table.groupby(list(labels.factors)).ngroups,
        "unlabelled": labels.unlabelled,
        "lonely": labels.lonely,
        "apart": labels.apart,
    }


def _study(
    tables: LabelledTables, keys: Frame, labels: Labels, plan: Plan, seed: int
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of one network: its own taps, and VGG of its output."""
    untrained = bool((keys["iteration"] == 0).any())
    by_tap = keys.groupby(["depth", "source", "network", "tap", "call"], sort=True)
    of_tap = partial(_of_tap, labels=labels, plan=plan, seed=seed, untrained=untrained)
    reduced = tables.map_taps(of_tap, [own for _, own in by_tap])
    arms: Arms = {}
    meta: dict[str, dict[str, Any]] = {}
    found: dict[str, list[dict[str, Any]]] = {"replicates": [], "within": [], "retrieval": []}
    found["reml"] = []
    for one in (one for one in reduced if one is not None):
        meta[one.tap] = one.meta
        arms |= one.arms
        for name, rows in one.rows.items():
            found[name] += rows
    if not untrained:
        found["within"] = list(_within(arms, meta, labels, plan))
    return found


class _Reduced(NamedTuple):
    """What one tap of one network was reduced to."""

    tap: str
    meta: dict[str, Any]
    arms: Arms
    rows: dict[str, list[dict[str, Any]]]  # by table


def _of_tap(
    tables: LabelledTables, own: Frame, *, labels: Labels, plan: Plan, seed: int, untrained: bool
) -> _Reduced | None:
    """Return the rows and traces of one tap from its key rows; None without a live channel."""
    first = own.iloc[0]
    tap = _tap_name(str(first["tap"]), int(first["call"]))
    treatments = sorted(set(own["treatment"]), key=lambda t: t != "none")
    read = {t: _read(tables, own[own["treatment"] == t].iloc[0], labels) for t in treatments}
    live = live_channels([var for _, var in read.values()], _eps(tables, own))
    if not live.any():
        return None
    meta = {k: first[k] for k in ("tap_kind", "depth")}
    meta |= {"channels": int(live.sum()), "dropped": int((~live).sum())}
    rows: dict[str, list[dict[str, Any]]] = {"replicates": [], "reml": [], "retrieval": []}
    arms: Arms = {}
    for treatment, (mean, var) in read.items():
        for moment, y in _moments(mean[:, live], var[:, live]).items():
            made = arms[tap, treatment, moment] = _replicates(y, labels)
            where = {"tap": tap, "treatment": treatment, "moment": moment, **meta}
            rows["replicates"] += _trace_rows(made, where, labels, untrained=untrained)
            if (tap, moment, untrained) == (plan.primary["and_tap"], "v", False):
                rows["reml"] += _reml(y, labels, where, seed)
    if tap == retrieval.TAP and len(read) > 1:
        rows["retrieval"].append({"tap": tap, **_retrieved(read, live)})
    return _Reduced(tap, meta, arms, rows)


def places(meta: Mapping[str, Mapping[str, Any]], plan: Plan) -> dict[str, list[str]]:
    """Return tap -> [tap], and the two primary statistics of the plan where they exist."""
    found = {tap: [tap] for tap in meta}
    mean_over = plan.primary["mean_over"]
    if taps := [tap for tap, row in meta.items() if row["tap_kind"] == mean_over]:
        found[f"mean over {mean_over}"] = taps
    and_tap = plan.primary["and_tap"]
    if and_tap in meta and meta[and_tap]["tap_kind"] == "vgg_of_output":
        found[f"VGG of output {and_tap}"] = [and_tap]
    return found


def _within(
    arms: Arms, meta: Mapping[str, Mapping[str, Any]], labels: Labels, plan: Plan
) -> Iterator[dict[str, Any]]:
    """Yield what is kept, and Psi, with intervals over images: these domains and classes."""
    before = plan.primary["before"]
    for place, taps in places(meta, plan).items():
        for moment in ("m", "v"):
            pairs = [(arms.get((t, "none", moment)), arms.get((t, before, moment))) for t in taps]
            if any(a is None or b is None for a, b in pairs):
                continue
            kept = {}
            for name in COMPONENTS[labels.design]:
                top, bottom = (
                    np.stack([pair[k].images[name] for pair in pairs if pair[k]])  # type: ignore[union-attr]
                    for k in (0, 1)
                )
                sizes = pairs[0][0].sizes  # type: ignore[union-attr]
                kept[name] = ratio(top, bottom, sizes, confidence=CONFIDENCE)
            where = {"place": place, "moment": moment}
            for name, found in kept.items():
                r = found.removed()
                yield {**where, "quantity": name, **_ends(r.estimate, r.low, r.high)}
            psi = ratio_of_ratios(kept["style"], kept["content"], confidence=CONFIDENCE).log()
            yield {**where, "quantity": "psi", **_ends(psi.estimate, psi.low, psi.high)}


def _ends(estimate: float, low: float, high: float) -> dict[str, float]:
    return {"estimate": estimate, "low": low, "high": high}


def _tap_name(tap: str, call: int) -> str:
    return tap if call == 0 else f"{tap}#{call}"


def _read(tables: LabelledTables, key: Mapping[str, Any], labels: Labels) -> tuple[Array, Array]:
    """Return mean and var (n, C) of one tap and treatment, rows as in the labels."""
    names = ("network", "source", "norm", "treatment", "index", "bn_mode", "batch_kind", "cell")
    where = {name: key[name] for name in (*names, "seed", "iteration", "tap", "call")}
    keys, mean, var = tables.moments(**where, condition="original", style="", contrast="")
    place = {image: row for row, image in enumerate(keys["image"])}
    if len(place) < len(keys) or len(set(keys["pixels"])) > 1:
        raise StatsnormError(
            f"images stand twice, or in several sizes, at {key['tap']} of {key['network']}: give "
            "runs of one --size, each image once"
        )
    wanted = labels.table["image"]
    if missing := [image for image in wanted if image not in place]:
        raise StatsnormError(
            f"{len(missing)} labelled images have no row at {key['tap']} of {key['network']} "
            f"({key['treatment']}), first {missing[0]!r}: report the runs of one manifest together"
        )
    rows = np.array([place[image] for image in wanted])
    return np.asarray(mean[rows], np.float64), np.asarray(var[rows], np.float64)


def _eps(tables: LabelledTables, own: Frame) -> float:
    taps = tables.taps()
    first = own.iloc[0]
    same = (taps["network"] == first["network"]) & (taps["tap"] == first["tap"])
    known = taps.loc[same, "eps"].dropna()
    return float(known.max()) if len(known) else 0.0


def _moments(mean: Array, var: Array) -> dict[str, Array]:
    """Return m and v (n, C); a cell without variance has its channel's least v."""
    m, v = scale_free(mean, var)
    return {"m": m, "v": np.where(np.isfinite(v), v, np.nanmin(v, axis=0))}


def _replicates(y: Array, labels: Labels) -> UnitReplicates:
    table = labels.table
    if labels.design == CROSSED:
        return unbalanced_replicates(y, table["class"].to_numpy(), table["domain"].to_numpy())
    made = one_way_replicates(y, table["domain"].to_numpy())
    names = {"style": "between", "content": "within"}
    return UnitReplicates(
        levels={name: made.levels[old] for name, old in names.items()},
        images={name: made.images[old] for name, old in names.items()},
        units=made.units,
        sizes=made.sizes,
    )


def _trace_rows(
    made: UnitReplicates, where: Mapping[str, Any], labels: Labels, *, untrained: bool
) -> Iterator[dict[str, Any]]:
    for name in COMPONENTS[labels.design]:
        values = made.levels[name][:1] if untrained else made.levels[name]
        yield {**where, "component": name, "values": values}


def _retrieved(
    read: Mapping[str, tuple[Array, Array]], live: NDArray[np.bool_]
) -> dict[str, float | int | str]:
    after, before = (retrieval.moment_rows(m[:, live], v[:, live]) for m, v in read.values())
    return retrieval.share(retrieval.rivals(after, before))


def _reml(
    y: Array, labels: Labels, where: Mapping[str, Any], seed: int
) -> Iterator[dict[str, Any]]:
    """Yield ANOVA and REML components of a few channels on at most :data:`REML_ROWS` images."""
    rng = np.random.default_rng(seed)
    channels = np.sort(rng.permutation(y.shape[1])[:REML_CHANNELS])
    rows = _thinned(labels.table, labels.factors)
    table, part = labels.table.iloc[rows], y[np.ix_(rows, channels)]
    factors = {"style": table["domain"].to_numpy()}
    if labels.design == CROSSED:
        factors["content"] = table["class"].to_numpy()
    crossed = ("content", "style") if labels.design == CROSSED else None
    fit = reml_components(part, factors, crossed=crossed)
    names = {"content:style": "content_style"}
    inside = "residual" if labels.design == CROSSED else "content"
    values = {names.get(k, inside if k == "residual" else k): v for k, v in fit.components.items()}
    reduced = Labels(table, labels.design, 0, 0)
    for place, channel in enumerate(channels.tolist()):
        anova = _replicates(part[:, [place]], reduced).levels
        for name in COMPONENTS[labels.design]:
            yield {
                **{k: where[k] for k in ("tap", "treatment", "moment")},
                "channel": channel,
                "component": name,
                "anova": float(anova[name][0]),
                "reml": float(values[name][place]),
                "at_bound": bool(fit.at_bound[place]),
                "images": fit.n,
            }


def _thinned(table: Frame, factors: Sequence[str]) -> NDArray[np.intp]:
    """Return at most REML_ROWS rows, as many of each cell as fit, at least two."""
    order = table.groupby(list(factors)).cumcount().to_numpy()
    most = 2
    while (order < most + 1).sum() <= REML_ROWS and most < order.max() + 1:
        most += 1
    return np.flatnonzero(order < most)
