"""Is the style of a conditional network's output set by its index, or by the style of its input?

Crossed cells: content i x input style u x index s, measured on VGG moments of the output. H6: the
index carries at least half of the variance (omega^2_s >= .5) and five times that of the input's
style, and the index is recognised from the moments (nearest centroid, the content left out) in at
least four of five outputs, lower bound. H6b (exploratory): the same with the normalisers frozen but
gamma_s, beta_s kept, because H6 alone is close to what the network was trained for.
Units: images, indices and input styles (three-way delete-one jackknife); images for retrieval.
Family F3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from statsnorm.decisions import Decision, Plan, exploratory, judge_family
from statsnorm.engines.tasks import TapMap
from statsnorm.removal.effects import effect_row
from statsnorm.removal.index_claims import candidates, cells_of
from statsnorm.removal.indexed import (
    NAMES,
    clustered_proportion,
    crossed_indices,
    filled,
    nearest_index,
    replicates_of,
    share_interval,
    three_way_replicates,
)
from statsnorm.removal.words import number
from statsnorm.report.model import EFFECT_COLUMNS, Claim, Figure, Report
from statsnorm.stats.scale_free import live_channels, scale_free
from statsnorm.swap_names import is_swap
from statsnorm.wording import counted

Array = NDArray[np.float64]

GENERATOR = ("source", "network", "norm", "seed", "iteration", "restore", "strength", "contrast")
CLAIMS = {
    "H6": "The index sets the style of the output; the style of the input does not.",
    "H6b": "With the normalisation frozen but gamma and beta kept, the index still sets it.",
}
FEWEST = 3


class IndexTables(TapMap, Protocol):
    """What this analysis needs of the tables."""

    def keys(self) -> pd.DataFrame:
        """Return the distinct key combinations."""

    def array(self, where: Mapping[str, Any], axes: Sequence[str]) -> Any:
        """Return `.mean`, `.var` (*axes, C) and `.labels`."""


def summarise(tables: IndexTables) -> dict[str, pd.DataFrame]:
    """Return trace replicates of the components, and retrieval per image; empty without indices."""
    keys = tables.keys()
    crossed = keys[(keys["source"] != "input") & (keys["style"] != "") & (keys["iteration"] != 0)]
    crossed = crossed[
        ~crossed["treatment"].map(is_swap).astype(bool)
    ]  # the map of parameters judges those
    taps: list[tuple[dict[str, Any], list[str]]] = []
    seen: set[tuple[str, str]] = set()
    for values, mine in crossed.groupby([*GENERATOR, "treatment"], sort=True):
        mine = crossed_indices(mine)
        if min(len(set(mine["index"])), len(set(mine["style"]))) < FEWEST:
            continue
        where = dict(zip([*GENERATOR, "treatment"], values, strict=True))
        if (identity := (str(where["source"]), str(where["treatment"]))) in seen:
            continue  # a second way of making the inputs: the first in sorted order is judged
        seen.add(identity)
        same = _treatments(crossed, where, mine)
        cells = {"level": int(mine["level"].min()), "index": sorted(set(mine["index"]))}
        of_output = mine.loc[mine["tap_kind"] == "vgg_of_output", "tap"]
        taps += [({**where, **cells, "tap": tap}, same) for tap in sorted(set(of_output))]
    found = [one for one in tables.map_taps(_of_tap, taps) if one is not None]
    if not found:
        return {}
    components, retrieval = zip(*found, strict=True)
    frames = {"components": [row for rows in components for row in rows], "retrieval": retrieval}
    return {name: pd.DataFrame(rows) for name, rows in frames.items()}


def _of_tap(
    tables: IndexTables, place: tuple[dict[str, Any], list[str]]
) -> tuple[list[dict[str, Any]], dict[str, Any]] | None:
    """Return the components and the retrieval of one VGG tap; None where too little is left."""
    where, treatments = place
    moments, labels = _moments(tables, where, treatments)
    if not moments:
        return None
    row = {name: where[name] for name in (*GENERATOR, "treatment")}
    row |= {f"n_{n}": len(labels[a]) for n, a in _AXES}
    row |= {"dropped": labels["dropped"][0], "generators": _names(labels["style"])}
    row["tap"] = where["tap"]
    components = [
        {**row, "moment": moment, "component": name, "values": replicates}
        for moment, y in moments.items()
        for name, replicates in three_way_replicates(y).items()
    ]
    hits = nearest_index(np.concatenate([moments["m"], moments["v"]], axis=-1))
    return components, {**row, "hits": hits.mean(axis=(1, 2))}


_AXES = (("images", "image"), ("indices", "index"), ("input_styles", "style"))


def _names(styles: Sequence[Any]) -> str:
    return ", ".join(sorted({str(style).rpartition(":")[0] for style in styles}))


def _treatments(crossed: pd.DataFrame, where: Mapping[str, Any], mine: pd.DataFrame) -> list[str]:
    """Return the treatments that hold the same cells as this one."""
    rows = crossed
    for name in GENERATOR:
        rows = rows[rows[name] == where[name]]
    have = set(mine["index"])
    return [str(t) for t, r in rows.groupby("treatment", sort=True) if have <= set(r["index"])]


def _moments(
    tables: IndexTables, where: Mapping[str, Any], treatments: Sequence[str]
) -> tuple[dict[str, Array], Mapping[str, list[Any]]]:
    """Return m and v (I, S indices, U input styles, C live) of a VGG tap at the first level."""
    one = {**where, "condition": "original"}
    cells = tables.array(one, axes=("image", "index", "style"))
    whole = ~np.isnan(cells.mean).all(axis=-1).any(axis=(1, 2))
    mean, var = cells.mean[whole], cells.var[whole]
    live = _live(tables, one, treatments)
    if len(mean) < FEWEST or not live.any():
        return {}, {}
    m, v = scale_free(mean[..., live], var[..., live])
    images = list(np.array(cells.labels["image"])[whole])
    labels = {**cells.labels, "dropped": [int((~live).sum())], "image": images}
    return {"m": m, "v": filled(v)}, labels


def _live(tables: IndexTables, where: Mapping[str, Any], treatments: Sequence[str]) -> Any:
    """Return the channels that are live under every treatment."""
    axes = ("image", "index", "style")
    found = [tables.array({**where, "treatment": t}, axes=axes).var for t in treatments]
    return live_channels([var[~np.isnan(var).all(axis=-1).any(axis=(1, 2))] for var in found])


def run(tables: Mapping[str, pd.DataFrame], plan: Plan, rng: np.random.Generator) -> Report:  # noqa: ARG001
    """Judge H6 per network; H6b with the same rules, without adjustment."""
    shares, found = _shares(tables["components"]), _retrieved(tables["retrieval"])
    intact, frozen = candidates(tables, plan)
    decisions = judge_family(plan, "F3", intact) if intact else []
    extra = [exploratory(plan, c) for c in frozen]
    pairs = [("H6", d) for d in decisions] + [("H6b", d) for d in extra]
    effects = [row for name, d in pairs for row in _effects(name, d, tables)]
    return Report(
        name="cin_style",
        title="Index and input style of a conditional network",
        question=(__doc__ or "").strip(),
        findings=tuple(_findings(shares, found, plan)),
        claims=tuple(_claim(name, d, tables) for name, d in pairs),
        effects=pd.DataFrame(effects, columns=list(EFFECT_COLUMNS)),
        tables={"shares": shares, "retrieval": found, "bars": _bars(shares, plan)},
        figures=(
            Figure(
                name="shares",
                draw="dots",
                table="bars",
                options={"xlabel": "share of variance of log sd (omega²)", "threshold": 0.5},
                caption=f"Share of the variance of VGG moments of the output that the index and "
                f"the input's style carry; {_n_words(tables)}; 95 % three-way jackknife "
                "intervals.",
                alt="Shares of variance by VGG tap for index and input style, at work and frozen.",
            ),
        ),
        scope={"conditional network": _n_words(tables)},
        methods=(
            f"Components with all factors random, traces over live channels; {_n_words(tables)}. "
            "Shares on the logit scale, their ratio on the log scale (Fieller where V_u is below "
            "3 standard errors and V_s is not), delete-one jackknife over images, indices and "
            "input styles. "
            f"{tables['components']['dropped'].max()} channels at most lie below the floor "
            "under any treatment and are dropped. Retrieval: squared Euclidean distance of [m, v], "
            "Korn-Graubard effective sample size, images as clusters, Clopper-Pearson interval.",
        ),
        limitations=(
            "H6 is close to tautological: the last layer is normalised and the index was trained.",
            f"Power rests on the number of indices and of styles ({_n_words(tables)}): with few "
            "the jackknife has few degrees of freedom and an interval is wide whatever the effect.",
        ),
        appendix=("bars",),
    )


def _shares(components: pd.DataFrame) -> pd.DataFrame:
    rows = []
    by = ["source", "treatment", "tap", "moment"]
    for key, mine in components.groupby(by, sort=True):
        parts, groups = replicates_of(mine)
        for name in NAMES:
            x = share_interval(parts, name, groups)
            where = dict(zip(by, key, strict=True))
            values = {"estimate": x.estimate, "low": x.low, "high": x.high}
            rows.append({**where, "factor": name, **values, "variance": float(parts[name][0])})
    return pd.DataFrame(rows)


def _retrieved(retrieval: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for row in retrieval.to_dict("records"):
        x = clustered_proportion(np.asarray(row["hits"], float), cells_of(row))
        values = {"accuracy": x.estimate, "low": x.low, "high": x.high, "effective_n": x.dof}
        where = {name: row[name] for name in ("source", "treatment", "tap")}
        rows.append({**where, **values, "chance": 1 / row["n_indices"]})
    return pd.DataFrame(rows)


def _claim(name: str, d: Decision, tables: Mapping[str, pd.DataFrame]) -> Claim:
    found = "; ".join(
        f"{p.rule.statistic} = {number(p.estimate)} ({number(p.low)} to {number(p.high)})"
        + (f" ({p.note})" if p.note else "")
        for p in d.parts
    )
    why = d.reason or d.shortfall
    tail = f" {d.verdict.capitalize()}: {why}." if why else ""
    return Claim(
        hypothesis=name,
        family=d.family,
        claim=CLAIMS[name],
        sentence=f"{d.unit}: {found} at {d.parts[0].tap}; {_n_words(tables)}; {d.p_words}.{tail}",
        verdict=d.verdict,
        scope=f"({_generators(tables)} styles); for the network {d.unit}; {_n_words(tables)}",
    )


def _effects(
    name: str, d: Decision, tables: Mapping[str, pd.DataFrame]
) -> Iterator[dict[str, Any]]:
    for part in d.parts:
        yield effect_row(
            d, part, tap=f"{d.unit}: {part.tap}", n_units=_n_words(tables), hypothesis=name
        )


def _bars(shares: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    rows = shares[
        (shares["moment"] == plan.primary["moment"])
        & shares["factor"].isin(["index", "input_style"])
    ]
    treated = rows["treatment"].replace({"none": "at work"})
    labelled = rows.assign(
        label=rows["tap"] + ", " + treated, group=rows["factor"].str.replace("_", " ")
    )
    columns = ["label", "group", "estimate", "low", "high"]
    return pd.DataFrame(labelled[columns]).reset_index(drop=True)


def _findings(shares: pd.DataFrame, found: pd.DataFrame, plan: Plan) -> Iterator[str]:
    """State how much of the index' share and of retrieval survives freezing (H6b)."""
    tap, moment = plan.primary["and_tap"], plan.primary["moment"]
    mine = shares[(shares["tap"] == tap) & (shares["moment"] == moment)]
    for source, rows in mine.groupby("source", sort=True):
        table = rows.pivot(index="treatment", columns="factor", values="estimate")
        hits = found[(found["source"] == source) & (found["tap"] == tap)]
        hits = hits.set_index("treatment")["accuracy"]
        for treatment in table.index:
            drop = ""
            if treatment != "none" and "none" in table.index:
                less = table.loc["none", "index"] - table.loc[treatment, "index"]
                lost = hits["none"] - hits[treatment]
                drop = f" (drop {number(float(less))}; retrieval drop {number(float(lost))})"
            yield (
                f"{source}, {treatment}: the index carries {number(table.loc[treatment, 'index'])} "
                f"of the variance at {tap}, the input's style "
                f"{number(table.loc[treatment, 'input_style'])}; the index is recognised in "
                f"{number(100 * float(hits[treatment]), 0)} % of the outputs{drop}."
            )


def _generators(tables: Mapping[str, pd.DataFrame]) -> str:
    return ", ".join(dict.fromkeys(tables["components"]["generators"]))


def _n_words(tables: Mapping[str, pd.DataFrame]) -> str:
    sizes = tables["components"][["n_images", "n_indices", "n_input_styles"]].drop_duplicates()
    return "; ".join(
        f"{counted(i, 'images')} x {counted(s, 'indices')} x {counted(u, 'input styles')}"
        for i, s, u in sizes.to_numpy().tolist()
    )
