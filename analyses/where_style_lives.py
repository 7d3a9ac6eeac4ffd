"""Where does style live: in channel means, in their variances, or in correlations between them?

Decodability: a linear probe reads the style of an image from the means m alone, the log sds v
alone, the within-image channel correlations rho alone, and all three; contents are never on both
sides of a split. Instance normalisation fixes m and v and leaves rho as it is, so the share of the
style information that is still in rho behind a normaliser is what it cannot remove (method.md 5.2).
Distance: the squared distance between the Gram matrices of one content in two styles, split into
means, variances and correlations by Shapley values; the parts add up exactly, and one may be
negative (method.md 5.3).
Unit: the content (probes); contents and styles (distances, two-way jackknife). Descriptive, no
family.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from statsnorm.decisions import Plan
from statsnorm.engines.tasks import TapMap
from statsnorm.errors import StatsnormError
from statsnorm.removal.ratios import interval, t_quantile
from statsnorm.report.model import Figure, Report
from statsnorm.stats.jackknife import jackknife_replicates
from statsnorm.stats.scale_free import live_channels
from statsnorm.style_parts import (
    PARTS,
    SETS,
    StyleCells,
    decode_style,
    feature_sets,
    gram_replicates,
    split_half_pvalue,
)
from statsnorm.wording import counted

Array = NDArray[np.float64]

NETWORK = ("source", "network", "norm", "cell", "seed", "iteration", "index", "bn_mode")
INPUT = ("batch_kind", "restore", "strength", "contrast")
TREATMENTS = ("none", "frozen:prefix")
PERMUTATIONS = 9999
LEAST_CONTENTS, LEAST_STYLES = 8, 3
CONFIDENCE = 0.95
HOW = "extract --design FILE --network vgg16 --taps T,U --correlations 48"


class CorrelationTables(TapMap, Protocol):
    """What this analysis needs of the tables."""

    def correlation_keys(self) -> pd.DataFrame:
        """Return the distinct key combinations of `correlations`."""

    def array(self, where: Mapping[str, Any], axes: Sequence[str]) -> Any:
        """Return `.mean`, `.var` (*axes, C) and `.labels`."""

    def correlation_array(self, where: Mapping[str, Any], axes: Sequence[str]) -> Any:
        """Return `.correlation` (*axes, pairs), `.channels` and `.labels`."""

    def eps(self, **keys: Any) -> float:
        """Return the eps of the normaliser at a tap."""


def summarise(tables: CorrelationTables, *, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Return the probes, whose folds `seed` draws, and the replicates of the split of every tap."""
    keys = tables.correlation_keys()
    if not len(keys):
        raise StatsnormError(f"the runs hold no correlations; {HOW}")
    keys = keys[
        (keys["style"] != "")
        & (keys["condition"] == "original")
        & (keys["iteration"] != 0)
        & keys["treatment"].isin(TREATMENTS)
    ]
    by_tap = keys.groupby([*NETWORK, *INPUT, "tap", "call"], sort=True)
    enough = [mine for _, mine in by_tap if len(set(mine["style"])) >= LEAST_STYLES]
    found = tables.map_taps(partial(_of_tap, seed=seed), enough)
    decoded, splits, kept = ([row for of_tap in found for row in of_tap[i]] for i in range(3))
    if not decoded:
        raise StatsnormError(
            f"no tap has correlations of {LEAST_STYLES} styles and {LEAST_CONTENTS} contents; {HOW}"
        )
    frames = {"decoded": pd.DataFrame(decoded), "splits": pd.DataFrame(splits)}
    identity = list(_identities(kept))
    return frames | ({"identity": pd.DataFrame(identity)} if identity else {})


def _of_tap(
    tables: CorrelationTables, mine: pd.DataFrame, *, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the probes, the splits and the cells of one tap under each treatment."""
    where = {name: mine[name].iloc[0] for name in (*NETWORK, *INPUT, "tap", "call")}
    where |= {"level": int(mine["level"].min()), "condition": "original"}
    where["style"] = sorted(set(mine["style"]))
    decoded, splits, kept = [], [], []
    for row, cells in _places(tables, where, mine):
        decoded += [{**row, **found} for found in _decoded(cells, seed)]
        splits.append({**row, "values": gram_replicates(cells).ravel()})
        kept.append({**row, "cells": cells})
    return decoded, splits, kept


def _places(
    tables: CorrelationTables, where: Mapping[str, Any], mine: pd.DataFrame
) -> Iterator[tuple[dict[str, Any], StyleCells]]:
    """Yield the cells of a tap under each treatment, channels live under all of them."""
    found: dict[str, Any] = {}
    first = mine.iloc[0]
    for treatment in (t for t in TREATMENTS if t in set(mine["treatment"])):
        one = {**where, "treatment": treatment}
        moments = tables.array(one, axes=("image", "style"))
        rho = tables.correlation_array(one, axes=("image", "style"))
        whole = ~np.isnan(moments.mean).all(axis=-1).any(axis=1)
        if int(whole.sum()) >= LEAST_CONTENTS:
            found[treatment] = (moments.mean[whole], moments.var[whole], rho, whole)
    if not found:
        return
    eps = tables.eps(**{k: where[k] for k in ("source", "network", "norm", "tap", "call")})
    live = live_channels([var for _, var, _, _ in found.values()], eps)
    for treatment, (mean, var, rho, whole) in found.items():
        fixed = bool(mine.loc[mine["treatment"] == treatment, "by_construction"].all())
        cells = StyleCells(
            mean=mean,
            var=var,
            correlation=rho.correlation[whole],
            channels=rho.channels,
            live=live,
            fixed=fixed,
        )
        row = {name: where[name] for name in (*NETWORK, *INPUT, "tap", "call", "level")}
        row |= {name: first[name] for name in ("tap_kind", "depth")}
        row |= {"treatment": treatment, "fixed": fixed}
        row |= {"contents": mean.shape[0], "styles": mean.shape[1], "channels": mean.shape[2]}
        row |= {"drawn": len(rho.channels), "dropped": int((~live).sum())}
        yield row, cells


def _decoded(cells: StyleCells, seed: int) -> Iterator[dict[str, Any]]:
    contents, styles = cells.mean.shape[:2]
    for name, x in feature_sets(cells).items():
        rng = np.random.default_rng(seed)  # the same folds for every set, tap and treatment
        found = decode_style(x, contents, styles, rng=rng)
        values = ("accuracy", "low", "high", "chance", "bits", "bits_raw", "entropy")
        yield {
            "set": name,
            "columns": x.shape[1],
            **{value: getattr(found, value) for value in values},
            "pvalue": split_half_pvalue(x, contents, styles, rng=rng, permutations=PERMUTATIONS),
            "content_accuracy": found.group_accuracy,
            "content_bits": found.group_bits,
        }


def _identities(kept: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield how far rho differs, but for signs, in front of and behind each instance normaliser."""
    same = (*NETWORK, *INPUT, "call", "treatment")
    places = {(*(row[k] for k in same), row["tap"]): row for row in kept}
    for place, after in places.items():
        before = places.get((*place[:-1], f"{place[-1]}.in"))
        if before is None or not after["fixed"]:
            continue
        a, b = (row["cells"] for row in (before, after))
        pairs = a.live_pairs() & b.live_pairs()
        change = np.abs(np.abs(a.correlation[..., pairs]) - np.abs(b.correlation[..., pairs]))
        row = {name: after[name] for name in (*NETWORK, *INPUT, "tap", "contents", "styles")}
        most = float(change.max()) if pairs.any() else np.nan
        yield {**row, "before": before["tap"], "pairs": int(pairs.sum()), "largest_change": most}


def run(tables: Mapping[str, pd.DataFrame], plan: Plan, rng: np.random.Generator) -> Report:  # noqa: ARG001
    """Report probes and splits by tap; no verdict."""
    decoded = _named(tables["decoded"])
    splits = _named(tables["splits"])
    shares = pd.DataFrame([row for r in splits.to_dict("records") for row in _shares(r)])
    drawn = {
        "probes": decoded.drop(columns=["content_accuracy", "content_bits"]),
        "shares": shares,
    }
    against = _against_frozen(decoded)
    survival = _survival(decoded)
    drawn |= {"against_frozen": against} if len(against) else {}
    drawn |= {"survival": survival} if len(survival) else {}
    drawn |= {"identity": _named(tables["identity"])} if "identity" in tables else {}
    figures, sources = _figures(decoded, shares)
    n = _n_words(decoded)
    return Report(
        name="where_style_lives",
        title="Where style lives: means, variances, correlations",
        question=(__doc__ or "").strip(),
        headline=_headline(survival, decoded),
        findings=tuple(_findings(decoded, shares, survival, drawn.get("identity"))),
        tables={**drawn, **sources},
        figures=tuple(figures),
        scope={"cells of the probes": n},
        methods=(
            f"Multinomial logistic probes on standardised columns, L2 by inner cross-validation, "
            f"4 folds of whole contents, the same for every set; {n}. Intervals: Korn-Graubard, "
            "contents as clusters, for these styles. Information: entropy of the style less the "
            "held-out cross-entropy, floored at 0. P-values: a probe trained "
            f"on half of the contents, {PERMUTATIONS} permutations of the style within each of the "
            "others, and the other way round; twice the lesser.",
            f"Correlations between at most {int(decoded['drawn'].max())} channels a tap, a seeded "
            "draw where there are more; diagonal entries are then weighted so that total and parts "
            "of the Gram distance estimate those of all channels. Channels below the variance "
            f"floor under any treatment (at most {int(decoded['dropped'].max())}) are dropped from "
            "the probes; in the split a constant channel has correlation 0. Shares are ratios of "
            "means over contents and pairs of styles.",
        ),
        limitations=(
            "A linear probe finds what is linear in m, v or rho; correlations have many more "
            "columns than moments have, so few contents hold their probe back more, and all three "
            "together may be read worse than the best of them.",
            "Instance normalisation leaves correlations as they are: that they say behind it what "
            "they said in front is an identity, not a finding. Sets near the entropy of the style "
            "are redundant: shares do not add up, and say nothing of what a network uses.",
            "With few contents and styles the Gram distance is dominated by channels of large "
            "scale: its shares are not scale-free.",
        ),
        appendix=tuple(sources),
    )


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with their network in words, in order of depth."""
    names = []
    for row in frame.to_dict("records"):
        own = row["network"] if row["source"] == "input" else f"{row['network']} of {row['source']}"
        parts = [own, f"index {row['index']}" if row["index"] else "", row["cell"]]
        parts += [f"seed {row['seed']}" if row["seed"] >= 0 else ""]
        parts += [f"strength {row['strength']:g}" if row["strength"] != 1 else ""]
        names.append(", ".join(filter(None, parts)))
    ordered = [name for name in ("depth", "tap", "treatment") if name in frame]
    return frame.assign(net=names).sort_values(["net", *ordered], kind="stable", ignore_index=True)


def _shares(row: Mapping[Any, Any]) -> Iterator[dict[str, Any]]:
    contents, styles = int(row["contents"]), int(row["styles"])
    values = np.asarray(row["values"], float).reshape(1 + contents + styles, 4)
    where = {k: row[k] for k in ("net", "treatment", "tap", "tap_kind", "depth", "fixed")}
    where |= {"contents": contents, "styles": styles, "total": values[0, 0]}
    with np.errstate(invalid="ignore", divide="ignore"):
        found = jackknife_replicates(values[:, 1:] / values[:, :1], contents, styles, CONFIDENCE)
    for k, part in enumerate(PARTS):
        bounds = {"estimate": found.estimate[k], "low": found.low[k], "high": found.high[k]}
        yield {**where, "part": part, **bounds, "amount": values[0, 1 + k], "dof": found.dof[k]}


def _against_frozen(decoded: pd.DataFrame) -> pd.DataFrame:
    """Return what normalisation takes from the accuracy of each set, content by content."""
    rows = []
    for (net, tap, kind), mine in decoded.groupby(["net", "tap", "set"], sort=False):
        each = mine.set_index("treatment")["content_accuracy"]
        if set(TREATMENTS) <= set(each.index):
            d = np.asarray(each["none"], float) - np.asarray(each["frozen:prefix"], float)
            se = float(d.std(ddof=1)) / len(d) ** 0.5
            half = t_quantile(CONFIDENCE, len(d) - 1) * se
            low, high = d.mean() - half, d.mean() + half
            names = {"net": net, "tap": tap, "set": kind, "contents": len(d)}
            rows.append({**names, "difference": d.mean(), "low": low, "high": high})
    return pd.DataFrame(rows)


def _survival(decoded: pd.DataFrame) -> pd.DataFrame:
    """Return the share of the style information in front of a normaliser that rho keeps behind."""
    rows = []
    for (net, treatment), mine in decoded.groupby(["net", "treatment"], sort=False):
        bits = mine.set_index(["tap", "set"])["content_bits"]
        for tap in mine.loc[mine["fixed"] & (mine["set"] == "rho"), "tap"]:
            if (f"{tap}.in", "all") not in bits.index:
                continue
            kept, before = (
                np.asarray(bits[key], float) for key in ((tap, "rho"), (f"{tap}.in", "all"))
            )
            n = len(kept)
            values = np.array([kept.mean() / before.mean(), *_left_out(kept, before)])
            found = interval(values, (n,), confidence=CONFIDENCE)
            names = {"net": net, "treatment": treatment, "normaliser": tap, "contents": n}
            ends = {"share": found.estimate, "low": found.low, "high": found.high}
            rows.append({**names, "bits_before": before.mean(), "bits_kept": kept.mean(), **ends})
    return pd.DataFrame(rows)


def _left_out(top: Array, bottom: Array) -> Array:
    ratio: Array = (top.sum() - top) / (bottom.sum() - bottom)
    return ratio


def _figures(
    decoded: pd.DataFrame, shares: pd.DataFrame
) -> tuple[list[Figure], dict[str, pd.DataFrame]]:
    figures, sources = [], {}
    renamed = {"none": "normalisers at work", "frozen:prefix": "normalisers frozen"}
    for i, net in enumerate(dict.fromkeys(decoded["net"])):
        probes, split = (t[t["net"] == net].copy() for t in (decoded, shares))
        for frame in (probes, split):
            frame["panel"] = frame["treatment"].replace(renamed)
        probes["estimate"] = probes["accuracy"]
        n, tag = _n_words(probes), f"_{i}" if i else ""
        sources[f"accuracy{tag}_drawn"] = probes[
            ["tap", "panel", "set", "estimate", "low", "high", "chance"]
        ]
        sources[f"split{tag}_drawn"] = split[["tap", "panel", "part", "estimate", "low", "high"]]
        figures += [
            Figure(
                name=f"accuracy{tag}",
                draw="probe_accuracy",
                table=f"accuracy{tag}_drawn",
                options={"ylabel": "accuracy of the style"},
                caption=f"How well a linear probe reads the style, {net}, by tap; {n}; 95 % "
                "intervals, contents as clusters; dashed: chance. No mark for means and sds where "
                "a normaliser fixes them.",
                alt=f"Accuracy of style probes by tap for {net}.",
            ),
            Figure(
                name=f"split{tag}",
                draw="shapley_bars",
                table=f"split{tag}_drawn",
                caption=f"Shapley shares of the Gram distance between two styles of one content, "
                f"{net}, by tap; {n}; 95 % two-way jackknife intervals. The shares of a tap add up "
                "to 1; one may be negative.",
                alt=f"Shares of means, variances and correlations by tap for {net}.",
            ),
        ]
    return figures, sources


def _headline(survival: pd.DataFrame, decoded: pd.DataFrame) -> str:
    """Say, a network, how much of the style information correlations keep behind normalisers."""
    said = []
    found = survival if len(survival) else pd.DataFrame({"net": [], "treatment": []})
    for net, mine in found[found["treatment"] == "none"].groupby("net", sort=False):
        own, share, before = decoded[decoded["net"] == net], mine["share"], mine["bits_before"]
        said.append(
            f"{net}: right behind {len(mine)} normalisers, where means and sds are constant, a "
            f"linear probe on correlations alone finds {100 * share.min():.1f} to "
            f"{100 * share.max():.1f} % of the style information that all three held in front "
            f"(95 % intervals from {100 * mine['low'].min():.1f} to "
            f"{100 * mine['high'].max():.1f}, contents as units; {_n_words(own)}; "
            f"in front {before.min():.2f} to {before.max():.2f} of "
            f"at most {own['entropy'].iloc[0]:.2f} bits)"
        )
    return "; ".join(said) + "." if said else ""


def _findings(
    decoded: pd.DataFrame,
    shares: pd.DataFrame,
    survival: pd.DataFrame,
    identity: pd.DataFrame | None,
) -> Iterator[str]:
    for (net, treatment), mine in decoded.groupby(["net", "treatment"], sort=False):
        at = mine.pivot_table(index="tap", columns="set", values="accuracy", sort=False)
        ranges = [
            f"{name} {100 * at[name].min():.0f} to {100 * at[name].max():.0f} %"
            for name in SETS
            if name in at
        ]
        yield (
            f"{net}, {treatment}: least to most over {counted(len(at), 'taps')}, the "
            "style is read from "
            f"{', '.join(ranges)} of the images (chance {100 * mine['chance'].iloc[0]:.3g} %)."
        )
    for row in survival.to_dict("records"):
        yield (
            f"{row['net']}, {row['treatment']}: behind {row['normaliser']} correlations alone "
            f"still hold {row['bits_kept']:.2f} of the {row['bits_before']:.2f} bits that all "
            f"three held in front of it, {100 * row['share']:.0f} % "
            f"({100 * row['low']:.0f} to {100 * row['high']:.0f})."
        )
    for (net, treatment), mine in shares[~shares["fixed"]].groupby(
        ["net", "treatment"], sort=False
    ):
        mean = mine.groupby("part", sort=False)["estimate"].agg(["min", "max"])
        words = [f"{part} {r['min']:.2f} to {r['max']:.2f}" for part, r in mean.iterrows()]
        yield f"{net}, {treatment}: shares of the Gram distance by tap: {', '.join(words)}."
    if identity is not None and len(identity):
        yield (
            f"Correlations in front of and behind {len(identity)} normalisers differ by at most "
            f"{identity['largest_change'].max():.1e}, signs of gamma apart."
        )


def _n_words(rows: pd.DataFrame) -> str:
    sizes = rows[["contents", "styles"]].drop_duplicates().to_numpy().tolist()
    return "; ".join(f"{counted(i, 'contents')} x {counted(s, 'styles')}" for i, s in sizes)
