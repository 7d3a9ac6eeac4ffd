"""What does instance normalisation remove: style, contrast, or content?

For every tap the variance of scale-free channel moments (m = mean / average sd, v = log sd) is
split into content, style and contrast in a crossed design, once with the normalisers at work and
once with every normaliser up to the tap replaced by the frozen affine map that it is on average.
R = 1 - V(at work) / V(frozen) is the removed fraction. Unit: images and styles (two-way delete-one
jackknife), and networks: for the untrained column, and where several were trained alike, whose
network is then a third unit; IN networks stand against BN networks block by block. Family F2: H5a
(most style variance, and more than untrained), H5b (more than any pixel treatment), H5c (not only
the contrast part of style), H5d (style more than content). Each is judged at both primary
statistics by the intersection-union rule: the mean over next_pre_norm taps, and VGG relu3_1 of the
output.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from statsnorm.decisions import SUPPORTED, Decision, Plan
from statsnorm.removal import tables as made
from statsnorm.removal import words
from statsnorm.removal.claims import FAMILY, Judged, input_balance, judged
from statsnorm.removal.crossed import MomentTables
from statsnorm.removal.diagnostics import agreement_table, qq_table, reml_sentence, reml_table
from statsnorm.removal.gates import balance_gates
from statsnorm.removal.neighbours import neighbours
from statsnorm.removal.norms import network_sentences, networks_figure, norms_side_by_side
from statsnorm.removal.outside import UNRECORDED, outside_sentence, outside_statistics
from statsnorm.removal.populations import with_populations
from statsnorm.removal.projection import MOST_IMAGES
from statsnorm.removal.retrieval import interval_words, retrieval_table, sentences
from statsnorm.removal.specifications import flips, specification_curve
from statsnorm.removal.study import studies
from statsnorm.removal.summary import EVIDENCE, sufficient_statistics
from statsnorm.report.model import EFFECT_COLUMNS, Claim, Figure, Report

TITLE = "Variance that normalisation removes"
CLAIMS: Mapping[str, str] = {
    "H5a": "Normalisation removes most of the style variance, and more than untrained networks do.",
    "H5b": "It removes more style variance than any contrast normalisation of the pixels.",
    "H5c": "It removes most of the style that is left when contrast (and colour) is matched.",
    "H5d": "It removes style variance at least twice as thoroughly as content variance.",
}
TRIVIAL = ("pre_norm", "post_norm", *EVIDENCE)
MAX_TAPS_IN_STACKS = 12
DEVIATIONS = (
    "Fieller's inversion was narrowed after the first report on cin26 had been made: that the "
    "variance after lies below 3 standard errors is not enough, the variance before must not. The "
    "reason was simulation: with few styles the first rule often gave intervals without an end. "
    "Only intervals where both variances lie below 3 standard errors change.",
)
LIMITATIONS = (
    "H5b and H5c are not compared with untrained networks: random weights may pass them too, so "
    "they speak of the normaliser in this architecture, not of what was learned.",
)
EXTRAS = {"tsne": neighbours}  # on request, outside verification
APPENDIX = (
    *("components", "diagnostics", "specifications", "agreement", "reml"),
    *("level_scores", "level_qq", "qq", "specification_curve", "specification_points"),
    *("outside", "drift", "notes", "single_layer", "projection", "networks"),
)


def summarise(tables: MomentTables) -> dict[str, pd.DataFrame]:
    """Reduce all crossed designs of the tables; empty if there is none."""
    found, cells = sufficient_statistics(tables), tables.outside()
    styled = outside_statistics(cells[cells["style"] != ""]) if len(cells) else cells
    return {**found, "outside": styled} if found and len(styled) else found


def run(tables: Mapping[str, pd.DataFrame], plan: Plan, rng: np.random.Generator) -> Report:
    """Judge H5a-d for every network that has an intact and a frozen arm."""
    found, unjudged = with_populations(studies(tables, plan), tables)
    verdicts = judged(found, tables, plan)
    balance = input_balance(tables, plan)
    parts = [_network(j, tables, plan) for j in verdicts]
    merged = {name: _stack(parts, name) for name in dict.fromkeys(n for p in parts for n in p)}
    merged["input_balance"] = balance
    merged |= {name: tables[name] for name in ("drift", "notes", "outside") if name in tables}
    merged |= _pictures(merged, tables, verdicts)
    merged |= norms_side_by_side(tables, plan, rng)
    effects = pd.DataFrame(
        [row for j in verdicts for d in j.decisions for row in words.effect_rows(j, d)],
        columns=list(EFFECT_COLUMNS),
    )
    claims = tuple(_claim(j, d, merged) for j in verdicts for d in j.decisions)
    merged["forest"] = words.forest_rows(verdicts)
    how = filter(None, [interval_words(merged.get("retrieval", pd.DataFrame()))])
    return Report(
        name="removed_variance",
        title=TITLE,
        question=(__doc__ or "").strip(),
        headline=words.headline(verdicts, plan),
        findings=(
            *words.findings(verdicts, merged),
            *(t for j in verdicts for t in _reml(j, merged)),
            *(t for j in verdicts for t in sentences(j.study.label, merged["retrieval"])),
            *outside_sentence(tables.get("outside", pd.DataFrame())),
            *network_sentences(merged),
        ),
        claims=claims,
        effects=effects,
        tables={name: table for name, table in merged.items() if len(table)},
        figures=_figures(merged, verdicts),
        gates=balance_gates(balance, verdicts, plan),
        scope=words.scope(verdicts) if verdicts else {},
        methods=(*words.methods(verdicts, tables, plan), *how),
        deviations=DEVIATIONS,
        limitations=(*words.limitations(verdicts, plan, tables), *LIMITATIONS[: len(verdicts)]),
        left_out=(*_left_out(verdicts, tables), *unjudged),
        picture="removed_by_depth" if verdicts else "",
        appendix=APPENDIX,
    )


def _network(j: Judged, tables: Mapping[str, pd.DataFrame], plan: Plan) -> dict[str, pd.DataFrame]:
    """Return the tables of one network, each with its name in the first column."""
    study = j.study
    named = {
        "removed": made.removed_table(study, plan),
        "single_layer": made.single_layer_table(study, plan),
        "derived": made.derived_table(study, plan),
        "components": made.components_table(study),
        "pixel": made.pixel_table(study, plan),
        "perpendicular": made.perp_table(study, plan),
        "retrieval": retrieval_table(
            tables.get("retrieval", pd.DataFrame()),
            study.designs["design"].tolist(),
            [n for numbers in study.untrained.values() for n in numbers.values()],
        ),
        "diagnostics": made.diagnostics_table(study, tables, plan),
        "specifications": specification_curve(study, tables, plan),
        "level_scores": qq_table(study, tables, plan),
        "reml": reml_table(study, tables),
    }
    named["agreement"] = agreement_table(named["specifications"], j.decisions)
    for table in named.values():
        table.insert(0, "net", study.label)
    return named


def _stack(parts: list[dict[str, pd.DataFrame]], name: str) -> pd.DataFrame:
    frames = [part[name] for part in parts if len(part[name])]
    return pd.concat(frames, ignore_index=True) if frames else parts[0][name]


def _claim(j: Judged, decision: Decision, merged: Mapping[str, pd.DataFrame]) -> Claim:
    curve = merged["specifications"]
    curve = curve[curve["net"] == j.study.label]
    return Claim(
        hypothesis=decision.hypothesis,
        family=FAMILY,
        claim=CLAIMS[decision.hypothesis],
        sentence=words.claim_sentence(j, decision),
        verdict=decision.verdict,
        scope=words.claim_scope(j),
        flips=flips(curve, decision.hypothesis, decision.verdict),
    )


def _pictures(
    merged: Mapping[str, pd.DataFrame], tables: Mapping[str, pd.DataFrame], verdicts: list[Judged]
) -> dict[str, pd.DataFrame]:
    """Return the sources of the figures."""
    if not verdicts:
        return {}
    removed = merged["removed"]
    primary = removed[(removed["moment"] == "v") & (removed["baseline"] == "frozen:prefix")]
    first = verdicts[0].study
    evidence = primary["tap_kind"].isin(EVIDENCE) & (primary["net"] == first.label)
    by_depth = _in_order(primary[evidence & primary["factor"].isin(["S", "I", "K"])])
    pictures = {
        "by_depth": by_depth,
        "heatmap": _heatmap(primary, merged["perpendicular"]),
        "stacks": _stacks(merged["components"], first.label),
    }
    scatter = tables.get("scatter", pd.DataFrame(columns=["design"]))
    numbers = set(first.designs["design"])
    mine = scatter[scatter["design"].isin(numbers)].drop(columns=["design"])
    points = tables.get("projection", pd.DataFrame({"design": []}))
    points = points[points["design"].isin(numbers)].drop(columns=["design"])
    return {
        **pictures,
        "moments": mine.reset_index(drop=True),
        "projection": points.reset_index(drop=True),
        "qq": _of(merged["level_scores"], first.label),
        "specification_points": _of(merged["specifications"], first.label),
    }


def _reml(j: Judged, merged: Mapping[str, pd.DataFrame]) -> tuple[str, ...]:
    label, table = j.study.label, merged["reml"]
    return tuple(reml_sentence(label, table[table["net"] == label]))


def _of(table: pd.DataFrame, label: str) -> pd.DataFrame:
    """Return the rows of one network, without its name."""
    return table[table["net"] == label].drop(columns="net").reset_index(drop=True)


def _in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Sort by kind, then depth: next_pre_norm, residual sums, VGG of the output."""
    rank = {kind: i for i, kind in enumerate(TRIVIAL)}
    return (
        rows.assign(order=rows["tap_kind"].map(rank))
        .sort_values(["order", "depth", "tap"], kind="stable")
        .drop(columns="order")
        .reset_index(drop=True)
    )


def _heatmap(primary: pd.DataFrame, perp: pd.DataFrame) -> pd.DataFrame:
    rows = primary[primary["tap_kind"].isin(TRIVIAL) & primary["factor"].isin(["S", "I", "K"])]
    known = rows["by_construction"] | rows["estimate"].notna()
    columns = ["net", "tap", "tap_kind", "depth", "by_construction", "factor", "estimate"]
    columns += ["simultaneous_low", "simultaneous_high"]
    base = rows.loc[known, columns]
    if not len(perp):
        return _by_depth(base)
    matched = perp[perp["condition"] == perp["condition"].iloc[0]]
    style = base[base["factor"] == "S"].drop(
        columns=["estimate", "simultaneous_low", "simultaneous_high", "factor"]
    )
    extra = style.merge(matched, left_on=["net", "tap"], right_on=["net", "place"])
    extra = extra.rename(
        columns={
            "removed": "estimate",
            "removed_low": "simultaneous_low",
            "removed_high": "simultaneous_high",
        }
    ).assign(factor="Sperp")
    return _by_depth(pd.concat([base, extra[columns]], ignore_index=True))


def _by_depth(rows: pd.DataFrame) -> pd.DataFrame:
    """Sort the network's own taps by depth, VGG of the output last."""
    last = rows["tap_kind"] == "vgg_of_output"
    ordered = rows.assign(last=last).sort_values(["last", "depth", "tap"], kind="stable")
    return ordered.drop(columns="last").reset_index(drop=True)


def _stacks(components: pd.DataFrame, label: str) -> pd.DataFrame:
    """Return the stacked components of evidence taps, thinned evenly to a readable number."""
    rows = components[
        (components["net"] == label)
        & (components["moment"] == "v")
        & components["tap_kind"].isin(EVIDENCE)
        & ~components["by_construction"]
        & components["treatment"].isin(["none", "frozen:prefix"])
    ]
    rows = _in_order(rows)
    taps = list(dict.fromkeys(rows["tap"]))
    step = max(1, math.ceil(len(taps) / MAX_TAPS_IN_STACKS))
    chosen = set(taps[::step]) | {t for t in taps if t.startswith("relu")}
    both = ["content_style", "content_contrast", "style_contrast", "residual"]
    return (
        rows[rows["tap"].isin(chosen)]
        .assign(
            when=rows["treatment"].map({"frozen:prefix": "before", "none": "after"}),
            interactions=rows[both].clip(lower=0).sum(axis=1),
        )[["tap", "tap_kind", "when", "style", "content", "contrast", "interactions"]]
        .reset_index(drop=True)
    )


def _figures(merged: Mapping[str, pd.DataFrame], verdicts: list[Judged]) -> tuple[Figure, ...]:
    if not verdicts:
        return networks_figure(merged)
    n = words.counts(verdicts[0])
    label = verdicts[0].study.label
    captions: list[tuple[str, str, str, dict[str, Any], str, str]] = [
        (
            "removed_by_depth",
            "removed_by_depth",
            "by_depth",
            {},
            f"Removed fraction of the variance of log sd at {label}, by depth; {n}. Bars: 95 % "
            "two-way jackknife-t intervals over images and styles. Grey: untrained networks of the "
            "same architecture, mean and 95 % prediction interval for a further one.",
            "Three panels, one each for style, content and contrast: removed fraction by tap, "
            "trained network against the band of untrained ones.",
        ),
        (
            "removal_heatmap",
            "removal_heatmap",
            "heatmap",
            {},
            f"Removed fractions by tap (F4); {n}. Hatched: the interval that holds over all taps "
            "together (Bonferroni, 95 %; for S-perp the single one) meets zero. Grey: fixed by "
            "construction, no evidence.",
            "Heatmap of taps by style, perpendicular style, contrast and content.",
        ),
        (
            "variance_stacks",
            "variance_stacks",
            "stacks",
            {},
            f"Variance components of log sd in scale-free units at {label}, frozen (upper bar) and "
            f"at work (lower bar) (F5); {n}. Negative estimates are drawn as zero; tables keep "
            "them.",
            "Stacked bars of variance components before and after normalisation.",
        ),
        (
            "forest",
            "forest",
            "forest",
            {},
            f"All primary effects with their thresholds (F6); {n}; 95 % intervals, unadjusted; "
            "verdicts use Holm-adjusted p-values.",
            "Forest plot of primary effects.",
        ),
        (
            "moment_scatter",
            "moment_scatter",
            "moments",
            {"tap": "relu3_1"},
            f"m and v of the two channels with the largest V_S before, one dot an image ({n}), "
            f"first contrast level, {_drawn(verdicts[0])} (F7). All panels of a "
            "channel span the same width and height.",
            "Scatter of channel moments coloured by style, with normalisers frozen and at work.",
        ),
        (
            "level_qq",
            "level_qq",
            "qq",
            {},
            f"Styles and contents at {label} against normal quantiles, one point a level ({n}): "
            "best linear unbiased predictions of log sd on their first principal axis, frozen "
            "and at work. A point far off the line is a level that makes the variance by itself.",
            "QQ plots of style and content scores at two taps.",
        ),
        (
            "specification_curve",
            "specification_plot",
            "specification_points",
            {},
            f"Specification curve of {label}: every estimate of every rule in rising order; in "
            f"brackets how many reach the rule's least effect. {n}. One value a specification and "
            "place, no intervals.",
            "Sorted estimates of all specifications by rule, marked by whether they reach it.",
        ),
        (
            "style_projection",
            "style_projection",
            "projection",
            {},
            f"Style statistics (m and v of all live channels) by tap, principal components (F8); "
            f"{n}, first contrast level, one dot an image in a style, {_drawn(verdicts[0])}. Axes "
            "are fitted before (normalisers frozen) and kept after; both panels of a tap have the "
            "same limits, in scale-free units. Each axis says the share of its panel's variance. A "
            "picture without interval: no verdict rests on it.",
            "Principal components of style statistics by tap, frozen above and normalised below: "
            "clouds of images coloured by style on the same axes.",
        ),
    ]
    drawn = tuple(
        Figure(name=name, draw=draw, table=table, options=options, caption=caption, alt=alt)
        for name, draw, table, options, caption, alt in captions
        if len(merged[table])
    )
    return (*drawn, *networks_figure(merged))


def _drawn(j: Judged) -> str:
    images = j.study.groups[0]
    return f"{MOST_IMAGES} of {images} images drawn" if images > MOST_IMAGES else "all images drawn"


def _left_out(verdicts: list[Judged], tables: Mapping[str, pd.DataFrame]) -> tuple[str, ...]:
    left = [] if verdicts else ["no network has both an intact and a frozen:prefix arm"]
    left += [] if "outside" in tables else [UNRECORDED]
    for j in verdicts:
        left += [
            f"{d.hypothesis} ({j.study.label}): {d.reason}"
            for d in j.decisions
            if d.verdict != SUPPORTED and d.reason
        ]
    notes = tables.get("notes", pd.DataFrame({"note": []}))
    return (*left, *dict.fromkeys(str(note) for note in notes["note"]))
