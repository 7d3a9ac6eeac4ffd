"""Which parameters of a conditional network carry the style: gamma or beta, and in which layers?

The network runs at its own index with gamma, beta or both of a target style put into all of its
normalisers, into one at a time, or into ever more of them in random orders; and with blends of the
two styles' parameters. Measured on VGG of the output: the squared distance of channel means and
sds to what the target index itself makes of the same content, 1 = the mean distance of two styles
of one content. With everything swapped it is 0, so the drops that the layers cause as they join add
up to the whole distance: their means over orders are Shapley values, by permutation sampling with a
Monte-Carlo error (method.md 5.4). Recognition: the nearest index by the same distance to the mean
over the other contents.
Unit: contents and styles (two-way jackknife; a style leaves as own and as target). Descriptive, no
family.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from statsnorm.decisions import Plan
from statsnorm.engines.tasks import TapMap
from statsnorm.errors import StatsnormError
from statsnorm.probes import cluster_proportion
from statsnorm.report.model import Figure, Report
from statsnorm.swap_names import is_swap, parse_swap
from statsnorm.swaps.distances import style_features, style_unit
from statsnorm.swaps.outputs import Outputs, measured_swaps
from statsnorm.swaps.tables import NETWORK, by_part, intervals, with_net
from statsnorm.wording import counted

Array = NDArray[np.float64]

INPUT = ("style", "strength", "restore", "contrast", "level")
LEAST = 3  # contents, and styles
WHOLE = ("gamma", "beta", "both")  # swapped in all normalisers
HOW = (
    "extract plain images with --network cin26 --index I,J,K,... --treatment "
    "none,swap:gamma:to=others,swap:beta:to=others,swap:both@each:to=others,"
    "swap:both@orders-4:to=others,blend:0.25:to=others,blend:0.5:to=others,blend:0.75:to=others"
)


class SwapTables(TapMap, Protocol):
    """What this analysis needs of the tables."""

    def keys(self) -> pd.DataFrame:
        """Return the distinct key combinations."""

    def taps(self) -> pd.DataFrame:
        """Return the taps of every network and treatment."""

    def array(self, where: Mapping[str, Any], axes: Sequence[str]) -> Any:
        """Return `.mean`, `.var` (*axes, C) and `.labels`."""


def summarise(tables: SwapTables) -> dict[str, pd.DataFrame]:
    """Return delete-one replicates of every share, the matrix of swaps, and the blends."""
    keys = tables.keys()
    keys = keys[(keys["tap_kind"] == "vgg_of_output") & (keys["condition"] == "original")]
    treated = keys[keys["treatment"].map(is_swap).astype(bool)]
    networks = []
    for values, mine in treated.groupby([*NETWORK, *INPUT], sort=True):
        where = dict(zip([*NETWORK, *INPUT], values, strict=True)) | {"condition": "original"}
        rows = keys[keys["treatment"] == "none"]
        for name, value in where.items():
            rows = rows[rows[name] == value]
        networks.append((where, rows, mine))
    frames: dict[str, list[dict[str, Any]]] = {}
    for found in tables.map_taps(_of_network, networks):  # a network's taps are one vector here
        for table, records in found.items():
            frames.setdefault(table, []).extend(records)
    if not frames:
        raise StatsnormError(f"no swaps between {LEAST} styles of {LEAST} contents; {HOW}")
    return {name: pd.DataFrame(rows) for name, rows in frames.items() if rows}


def _of_network(
    tables: SwapTables, network: tuple[Mapping[str, Any], pd.DataFrame, pd.DataFrame]
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of all tables of one network; none where there is too little of it."""
    where, plain, swapped = network
    outputs = _outputs(tables, where, plain, swapped)
    if outputs is None:
        return {}
    net = {name: where[name] for name in (*NETWORK, "style")}
    net |= {"contents": len(outputs.plain), "styles": len(outputs.styles)}
    norms = _normalisers(tables, str(where["source"]))
    net |= {"parameters": 2 * sum(channels for _, channels in norms.values())}
    found = measured_swaps(outputs)
    for row in (row for rows in found.values() for row in rows):
        name = str(row.get("layer", row.get("swapped"))).rpartition(" of ")[2]
        row["depth"] = norms.get(name, (-1, 0))[0]
    return {table: [{**net, **row} for row in rows] for table, rows in found.items()}


def _outputs(
    tables: SwapTables, where: Mapping[str, Any], plain: pd.DataFrame, mine: pd.DataFrame
) -> Outputs | None:
    styles = sorted(set(plain["index"]), key=lambda s: (len(s), s))
    taps = sorted(set(mine["tap"]) & set(plain["tap"]))
    if len(styles) < LEAST or not taps:
        return None
    parts: list[Array] = []
    swapped: dict[tuple[str, str], list[Array]] = {}
    for tap in taps:
        one = {**where, "tap": tap}
        cells = tables.array({**one, "treatment": "none", "index": styles}, ("image", "index"))
        at = [cells.labels["index"].index(s) for s in styles]
        mean, var = cells.mean[:, at], cells.var[:, at]
        unit = style_unit(mean, var) * len(taps) ** 0.5
        parts.append(style_features(mean, var) / len(taps) ** 0.5)
        for own in styles:
            these = sorted(
                set(mine.loc[(mine["index"] == own) & (mine["tap"] == tap), "treatment"])
            )
            if not these:
                continue
            held = tables.array(
                {**one, "index": own, "treatment": these}, axes=("image", "treatment")
            )
            x = np.concatenate([held.mean, np.sqrt(held.var)], axis=-1) / unit
            for k, treatment in enumerate(held.labels["treatment"]):
                swapped.setdefault((own, str(treatment)), []).append(x[:, k])
    features = np.concatenate(parts, axis=-1)
    whole = ~np.isnan(features).any(axis=(1, 2))
    if int(whole.sum()) < LEAST:
        return None
    joined = {key: np.concatenate(x, axis=-1)[whole] for key, x in swapped.items()}
    known = {key: x for key, x in joined.items() if parse_swap(key[1]).to in styles}
    return Outputs(features[whole], styles, known)


def _normalisers(tables: SwapTables, network: str) -> dict[str, tuple[int, int]]:
    """Return depth and channels of every normaliser; nothing where they were not tapped."""
    taps = tables.taps()
    own = (taps["network"] == network) & (taps["source"] == "input") & (taps["treatment"] == "none")
    norms = taps[own & (taps["tap_kind"] == "post_norm")].drop_duplicates(["tap", "call"])
    return {
        str(row["tap"]): (int(row["depth"]), int(row["channels"]))
        for row in norms.to_dict("records")
    }


def run(tables: Mapping[str, pd.DataFrame], plan: Plan, rng: np.random.Generator) -> Report:  # noqa: ARG001
    """Report the map of a conditional network; no verdict."""
    shares, recognised = intervals(tables["shares"], "share"), _recognised(tables["recognised"])
    named: dict[str, pd.DataFrame] = {
        "shares": shares,
        "recognised": recognised,
        "matrix": with_net(tables["matrix"]),
    }
    if "shapley" in tables:
        named["shapley"] = intervals(tables["shapley"], "share")
        named["stages"] = intervals(by_part(tables["shapley"]), "share")
    if "blends" in tables:
        named["blends"] = intervals(tables["blends"], "estimate").rename(columns={"kind": "to"})
    figures, sources = _figures(named)
    return Report(
        name="cin_map",
        title="Which parameters of a conditional network carry the style",
        question=(__doc__ or "").strip(),
        headline=_headline(shares),
        findings=tuple(_findings(named)),
        tables={**named, **sources},
        figures=tuple(figures),
        scope={"swaps of the conditional network": _n_words(tables["shares"])},
        methods=tuple(_methods(named)),
        limitations=(
            *_cautions(shares, plan),
            "A swap takes parameters out of the set that they were trained with: what one layer "
            "does alone depends on the others, so the swap of one at a time and the Shapley value "
            "differ, and neither is what training without that layer would give.",
            "The target is the output of the same network at the target's index, not the painting.",
            *_one_output(shares),
        ),
        appendix=tuple(sources),
    )


def _recognised(frame: pd.DataFrame) -> pd.DataFrame:
    rows: list[dict[Any, Any]] = []
    for row in with_net(frame).to_dict("records"):
        values = np.asarray(row.pop("values"), float)
        cells = int(row["styles"]) * (int(row["styles"]) - 1)
        hits = np.repeat(values, cells)
        found = cluster_proportion(hits, np.repeat(np.arange(len(values)), cells))
        ends = {"share": found.estimate, "low": found.low, "high": found.high}
        rows.append({**row, **ends, "chance": 1 / row["styles"]})
    return pd.DataFrame(rows)


def _layers(named: Mapping[str, pd.DataFrame], net: str) -> pd.DataFrame:
    """Return one row a layer and a way of measuring it, for the dots."""
    alone = named["shares"]
    alone = alone[(alone["net"] == net) & ~alone["swapped"].isin(WHOLE)]
    rows = [alone.assign(label=alone["swapped"], group="swapped alone", estimate=alone["share"])]
    if "shapley" in named:
        joint = named["shapley"][named["shapley"]["net"] == net]
        group = "Shapley value"
        rows.append(joint.assign(label=joint["layer"], group=group, estimate=joint["share"]))
    table = pd.concat(rows, ignore_index=True)
    table = table.sort_values(["depth", "label", "group"], kind="stable", ignore_index=True)
    return pd.DataFrame(table[["label", "group", "estimate", "low", "high"]])


def _figures(
    named: Mapping[str, pd.DataFrame],
) -> tuple[list[Figure], dict[str, pd.DataFrame]]:
    figures: list[Figure] = []
    sources: dict[str, pd.DataFrame] = {}
    shown = {"gamma": "gamma only", "beta": "beta only"}
    for i, net in enumerate(dict.fromkeys(named["shares"]["net"])):
        n, tag = _n_words(named["shares"][named["shares"]["net"] == net]), f"_{i}" if i else ""
        layers = _layers(named, net)
        if len(layers):
            sources[f"layers{tag}_drawn"] = layers
            text = f"What each normaliser of {net} takes off the style distance to the target"
            figures.append(
                Figure(
                    name=f"layers{tag}",
                    draw="dots",
                    table=f"layers{tag}_drawn",
                    options={"xlabel": "share of the style distance", "threshold": 0.0},
                    caption=f"{text}, swapped alone and as Shapley value over orders of joining; "
                    f"{n}; 95 % two-way jackknife intervals.",
                    alt=f"{text}.",
                )
            )
        matrix = named["matrix"]
        matrix = matrix[(matrix["net"] == net) & matrix["swapped"].isin(shown)]
        if len(matrix):
            matrix = matrix.sort_values("swapped", key=lambda s: s == "beta", kind="stable")
            sources[f"matrix{tag}_drawn"] = matrix.replace({"swapped": shown}).reset_index(
                drop=True
            )
            text = f"How far gamma or beta alone bring the output of {net} to the target style"
            figures.append(
                Figure(
                    name=f"matrix{tag}",
                    draw="swap_matrix",
                    table=f"matrix{tag}_drawn",
                    options={"label": "share of the way"},
                    caption=f"{text}: 0 = its own style, 1 = the target's; over contents; {n}.",
                    alt=f"{text}.",
                )
            )
        if "blends" not in named:
            continue
        blends = named["blends"]
        blends = blends[(blends["net"] == net) & blends["to"].isin(["target", "own"])]
        sources[f"blend{tag}_drawn"] = blends[["share", "to", "estimate", "low", "high"]]
        text = f"Style distance along blends of two styles' parameters in {net}"
        figures.append(
            Figure(
                name=f"blend{tag}",
                draw="blend_curve",
                table=f"blend{tag}_drawn",
                options={"ylabel": "style distance (two styles = 1)"},
                caption=f"{text}; {n}; 95 % two-way jackknife intervals.",
                alt=f"{text}.",
            )
        )
    return figures, sources


def _headline(shares: pd.DataFrame) -> str:
    first = shares[shares["net"] == shares["net"].iloc[0]]
    at = {row["swapped"]: row for row in first.to_dict("records")}
    ways = [f"{what} alone" for what in ("gamma", "beta") if what in at]
    if not ways:
        return ""
    shares_of = [_percent(at[way.partition(" ")[0]]) for way in ways]
    more = "".join(f", {way} {share}" for way, share in zip(ways[1:], shares_of[1:], strict=True))
    return (
        f"In {first['net'].iloc[0]} ({_n_words(first)}) {ways[0]} brings the output "
        f"{shares_of[0]} of the way to another style{more} (95 % intervals)."
    )


def _findings(named: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    for net, mine in named["shares"].groupby("net", sort=False):
        at = {row["swapped"]: row for row in mine.to_dict("records")}
        seen = named["recognised"][named["recognised"]["net"] == net].to_dict("records")
        hits = {(row["swapped"], row["as"]): _percent(row) for row in seen}
        styles, parameters = (int(mine[name].iloc[0]) for name in ("styles", "parameters"))
        for what in (w for w in ("gamma", "beta") if w in at):
            yield (
                f"{net}: {what} alone brings the output {_percent(at[what])} of the way to the "
                f"target style; {hits[what, 'target']} of the outputs are recognised as the "
                f"target, {hits[what, 'own']} as their own style (chance {100 / styles:.0f} "
                "%)."
            )
        alone = [row for what, row in at.items() if what not in WHOLE]
        if alone:
            top = max(alone, key=lambda row: row["share"])
            rivals = sum(row["high"] >= top["low"] for row in alone) - 1
            yield (
                f"{net}: of {len(alone)} normalisers swapped alone {top['swapped']} has the "
                f"largest estimate, {_percent(top)} of the way; the intervals of {rivals} others "
                "reach into its own."
            )
        if "shapley" in named:
            yield _joining(net, named["shapley"], named["stages"])
        if "blends" in named:
            yield _falling(net, named["blends"])
        if parameters:
            yield f"{net}: a style is {parameters} numbers (2 F: a gamma and a beta a channel)."


def _joining(net: Any, shapley: pd.DataFrame, stages: pd.DataFrame) -> str:
    mine = shapley[shapley["net"] == net].sort_values("share", ascending=False)
    largest = [f"{row['layer']} {_percent(row)}" for row in mine.head(3).to_dict("records")]
    own = stages[stages["net"] == net].sort_values("share", ascending=False)
    parts = [f"{row['part']} {_percent(row)}" for row in own.to_dict("records")]
    return (
        f"{net}: Shapley values of the style distance by part of the network: {', '.join(parts)}; "
        f"the largest: {', '.join(largest)} (Monte-Carlo standard error at most "
        f"{100 * mine['mc_se'].max():.1f} percentage points)."
    )


def _falling(net: Any, blends: pd.DataFrame) -> str:
    mine = {row["to"]: row for row in blends[blends["net"] == net].to_dict("records")}
    fit, high = mine["fit"], min(1.0, mine["fit"]["high"])
    return (
        f"{net}: along blends the distance to the target falls at every step in "
        f"{100 * mine['falls']['estimate']:.0f} % of contents and pairs of styles; isotonic fit "
        f"R² {fit['estimate']:.3f} ({fit['low']:.3f} to {high:.3f}), "
        f"{mine['chance']['estimate']:.2f} for the same distances in random order."
    )


def _cautions(shares: pd.DataFrame, plan: Plan) -> Iterator[str]:
    """Say where intervals rest on fewer units than any verdict would need."""
    for net, mine in shares.groupby("net", sort=False):
        few = [
            f"{int(mine[name].iloc[0])} {name} (a verdict would need {plan.minimum[least]})"
            for name, least in (("contents", "images"), ("styles", "styles"))
            if mine[name].iloc[0] < plan.minimum[least]
        ]
        if few:
            yield (
                f"Caution: {net} was swapped at {' and '.join(few)}; its intervals rest on few "
                "degrees of freedom and say little of other styles."
            )


def _one_output(shares: pd.DataFrame) -> Iterator[str]:
    if {"gamma", "beta"} <= set(shares["swapped"]):
        yield (
            "Gamma of a style with beta of another is one output, seen from both: as often as "
            "gamma alone makes it the target, beta alone leaves it its own style, and the other "
            "way round. What is recognised under gamma and under beta is one finding, not two."
        )


def _percent(row: Mapping[Any, Any]) -> str:
    return f"{100 * row['share']:.0f} % ({100 * row['low']:.0f} to {100 * row['high']:.0f})"


def _methods(named: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    yield (
        f"Squared distances of channel means and sds at {_n_words(named['shares'])}, every VGG tap "
        "of the output in units of its mean distance between two styles of one content, taps "
        "averaged. Shares are ratios of means over contents and ordered pairs of styles; two-way "
        "delete-one jackknife, a style leaving as own and as target. Recognition: contents as "
        "clusters, Korn-Graubard intervals, for these styles."
    )
    if "shapley" in named:
        row = named["shapley"].iloc[0]
        yield (
            f"Shapley values by permutation sampling: {row['orders']} random orders of all "
            f"{named['shapley']['layer'].nunique()} normalisers over {row['pairs']} ordered pairs "
            "of styles, each order with its reverse. Every order adds up to the whole distance "
            "exactly. Monte-Carlo error: between the orders of one pair of styles; the jackknife "
            "over styles includes it."
        )


def _n_words(rows: pd.DataFrame) -> str:
    sizes = rows[["contents", "styles"]].drop_duplicates().to_numpy().tolist()
    return "; ".join(f"{counted(i, 'contents')} x {counted(s, 'styles')}" for i, s in sizes)
