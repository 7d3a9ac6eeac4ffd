"""Sentences, scope and effect rows of the `removed_variance` report, made from its numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from statsnorm.decisions import Decision, Part, Plan
from statsnorm.removal.claims import UNCHECKED, VGG_TAPS, Judged
from statsnorm.removal.crossed import INPUT_KEYS
from statsnorm.removal.effects import blank_row, effect_row
from statsnorm.removal.evidence import kept_by_norm, mean_interval, spread, untrained_removed
from statsnorm.removal.study import Frames, primary_places
from statsnorm.wording import counted

FACTOR_WORDS = {"style": "style", "content": "content", "contrast": "contrast"}
FRACTION_SCALE = "removed fraction, or difference of removed fractions"
LOG_SCALE = "log ratio (Psi), or difference of log ratios"
MOST_IN_HEADLINE = 3  # networks; the sentences of more would fill the first screen


def counts(j: Judged) -> str:
    """Return "24 images x 8 styles x 3 gain levels"; a population's networks stand first."""
    images, styles = j.study.groups
    contrast = j.study.key["contrast"]
    members, levels = len(j.study.members), counted(j.study.levels, f"{contrast} levels")
    networks = [counted(members, "trained networks")] if members else []
    return " x ".join([*networks, counted(images, "images"), counted(styles, "styles"), levels])


def number(x: float, digits: int = 2) -> str:
    """Return a number for a sentence; infinities and nan in words."""
    if math.isnan(x):
        return "unknown"
    if math.isinf(x):
        return "infinity" if x > 0 else "minus infinity"
    return f"{x:.{digits}f}"


def percent(x: float) -> str:
    """Return a fraction as percent, never rounded up to 100, nor to 0 in more than rounding."""
    value = 100 * x
    if math.isnan(x) or math.isinf(x):
        return "unknown"
    if 99.5 <= value < 100:
        return "> 99.9" if value >= 99.9 else f"{math.floor(value * 10) / 10:.1f}"
    if 0 < abs(value) < 0.5:
        if abs(value) < 0.01:
            return "< 0.01" if value > 0 else "> -0.01"
        return f"{value:.2f}"
    return f"{value + 0.0:.0f}"


def removed_words(part: tuple[float, float, float]) -> str:
    """Return "80 % (76 to 84)"; an open upper end as "at least"."""
    estimate, low, high = part
    if estimate < 1 and min(estimate, low) >= 0.999 and high < 1:
        return "> 99.9 %"
    if math.isinf(low) or math.isnan(low):
        return f"{percent(estimate)} % (no interval)"
    ends = (
        f"{percent(low)} to {percent(high)}" if math.isfinite(high) else f"at least {percent(low)}"
    )
    return f"{percent(estimate)} % ({ends})"


def headline(judged: Sequence[Judged], plan: Plan) -> str:
    """Return the sentences of the first screen; of many networks, those of the first."""
    if len(judged) > MOST_IN_HEADLINE:
        others = ", ".join(j.study.label for j in judged[1:])
        return f"{_headline(judged[0], plan)} {len(judged) - 1} more below: {others}."
    return " ".join(_headline(j, plan) for j in judged)


def _headline(j: Judged, plan: Plan) -> str:
    study = j.study
    place, taps = next(iter(primary_places(study, plan).items()))
    trained, random, n = [], [], []
    for component, word in FACTOR_WORDS.items():
        kept = kept_by_norm(study, taps, component, plan)
        if kept is None:
            return ""
        r = kept.removed()
        trained.append(f"{removed_words((r.estimate, r.low, r.high))} of {word}")
        others = spread(untrained_removed(study, taps, component, plan))
        n.append(others.n)
        random.append(removed_words(mean_interval(others)) if others.n else "unknown")
    scope = f" {j.scope}" if j.scope else ""
    text = (
        f"In {study.label}{scope}, against frozen affine maps, normalisation removed "
        f"{trained[0]}, {trained[1]} and {trained[2]} variance of log sd "
        f"({place}, {counted(len(taps), 'taps')}, 95 % intervals)"
    )
    if not any(n):
        return text + "; no untrained network was measured."
    every, known = len(study.untrained), counted(max(n), "untrained networks")
    if min(n) < every:
        some = str(min(n)) if min(n) == max(n) else f"{min(n)} to {max(n)}"
        known = f"{some} of {every} untrained networks (the others have no positive ratio)"
    return text + f"; {known} on average, 95 % t interval: {', '.join(random)}."


def claim_sentence(j: Judged, decision: Decision) -> str:
    """Return what was found for one claim, with estimates, intervals and n."""
    found = "; ".join(
        f"{p.rule.statistic} = {number(p.estimate)} ({number(p.low)} to {number(p.high)}) "
        f"at {p.tap}" + (f" ({p.note})" if p.note else "")
        for p in decision.parts
    )
    blocked = f" {decision.verdict.capitalize()}: {decision.reason}." if decision.reason else ""
    if not found:
        return f"Not measured.{blocked}"
    tail = "" if decision.reason else f", {decision.p_words}"
    if decision.shortfall:
        blocked = f" Inconclusive: {decision.shortfall}."
    if decision.hypothesis == "H5d" and not j.sign_checked:
        blocked += f" {UNCHECKED.capitalize()}."
    strong = " Every interval clears its least effect." if decision.strong else ""
    return f"{found}; {counts(j)}{tail}.{strong}{blocked}"


def claim_scope(j: Judged) -> str:
    """Return the scope of a verdict: styles, network, images."""
    parts = [j.scope] if j.scope else []
    several = "networks of the kind" if j.study.members else "the network"
    parts.append(f"for {several} {j.study.label}")
    parts.append(counts(j))
    how = ", ".join(f"{k} {j.study.key[k]}" for k in ("restore", "strength"))
    return "; ".join([*parts, how])


def effect_rows(j: Judged, decision: Decision) -> Iterator[dict[str, Any]]:
    """Yield one `effects` row per part; a claim without parts keeps one row."""
    for part in decision.parts:
        yield effect_row(
            decision,
            part,
            tap=f"{j.study.label}: {part.tap}",
            n_units=f"{_units(j)}, {counted(j.study.levels, 'levels')}{_networks(part, j)}",
        )
    if not decision.parts:
        yield blank_row(decision, tap=j.study.label, n_units=_units(j))


def _units(j: Judged) -> str:
    images, styles = j.study.groups
    members = len(j.study.members)
    networks = f"{counted(members, 'trained networks')}, " if members else ""
    return f"{networks}{counted(images, 'images')}, {counted(styles, 'styles')}"


def _networks(part: Part, j: Judged) -> str:
    known = counted(len(j.study.untrained), "untrained networks")
    return f", {known}" if part.rule.part == "learned" else ""


def forest_rows(judged: Sequence[Judged]) -> pd.DataFrame:
    """Return the source of F6."""
    rows = []
    for j in judged:
        name = f"{j.study.label}: " if len(judged) > 1 else ""
        for decision in j.decisions:
            for part in decision.parts:
                logs = "Psi" in part.rule.statistic
                rows.append(
                    {
                        "label": f"{name}{decision.hypothesis} {part.rule.statistic}\n{part.tap}",
                        "scale": LOG_SCALE if logs else FRACTION_SCALE,
                        "estimate": part.estimate,
                        "low": part.low,
                        "high": part.high,
                        "null": part.rule.null,
                        "min_effect": part.rule.min_effect,
                        "verdict": decision.verdict,
                    }
                )
    return pd.DataFrame(rows)


def findings(judged: Sequence[Judged], merged: Mapping[str, pd.DataFrame]) -> tuple[str, ...]:
    """Return the sentences under the results: selectivity with V_I and V_S, Theta, warnings."""
    found: list[str] = []
    for j in judged:
        label = j.study.label
        inputs = merged["input_balance"]
        for name in INPUT_KEYS:
            inputs = inputs[inputs[name] == j.study.key[name]]
        inputs = inputs[inputs["tap"].isin(VGG_TAPS) | (inputs["net"] == "pixels")]
        listed = ", ".join(
            f"{max(vs, 0.0) / vi:.2f} at {net} {tap}"
            for net, tap, vi, vs in zip(
                *(inputs.loc[inputs["moment"] == "v", c] for c in ("net", "tap")),
                *(inputs.loc[inputs["moment"] == "v", c] for c in ("content", "style")),
                strict=True,
            )
            if vi > 0
        )
        if listed:
            found.append(
                f"Selectivity of {label} is to be read beside the inputs, where V_S / V_I of log "
                f"sd is {listed} (all: table input_balance)."
            )
        found += _theta(label, merged["derived"])
        found += _warnings(label, merged)
    return tuple(found)


def _theta(label: str, derived: pd.DataFrame) -> Iterator[str]:
    if not len(derived):
        return
    rows = derived[(derived["net"] == label) & (derived["quantity"] == "Theta")]
    rows = rows[(rows["moment"] == "v") & np.isfinite(rows["estimate"].astype(float))]
    for row in rows.head(1).to_dict("records"):
        yield (
            f"Style against contrast at {label}, {row['place']}: Theta = "
            f"{number(row['estimate'])} ({number(row['low'])} to {number(row['high'])}); above 0 "
            "contrast is removed more, as it must be where the normaliser removes gain exactly."
        )


def _warnings(label: str, merged: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    table = merged["diagnostics"]
    if not len(table):
        return
    mine = table[table["net"] == label]
    heavy = mine[mine["style_dominates"].astype(bool)]
    if len(heavy):
        worst = heavy.sort_values("largest_style_share").iloc[-1]
        yield (
            f"Warning: at {len(heavy)} of {len(mine)} taps of {label} one style holds more than "
            f"40 % of the style variance (most: {worst['largest_style']}, "
            f"{percent(worst['largest_style_share'])} %, at {worst['tap']})."
        )
    low, high = mine["least_without_a_style"].min(), mine["most_without_a_style"].max()
    yield (
        f"Leaving out any one style, R_S over the evidence taps of {label} stays between "
        f"{number(low)} and {number(high)}."
    )
    arms = {"at work": "residual_share", "frozen": "residual_share_frozen"}
    arm = max(arms, key=lambda a: float(mine[arms[a]].max()))
    most = mine.sort_values(arms[arm]).iloc[-1]
    yield (
        f"The three-way interaction is at most {percent(most[arms[arm]])} % of the total variance "
        f"at an evidence tap of {label} (at {most['tap']}, {arm}); {int(mine['dropped'].sum())} of "
        f"{int((mine['dropped'] + mine['channels']).sum())} channels lie below the floor."
    )


def scope(judged: Sequence[Judged]) -> dict[str, str]:
    """Return networks, style generators, styles, images and untrained networks."""
    return {
        "networks": "; ".join(j.study.label for j in judged),
        "style generators": "; ".join(
            dict.fromkeys(str(j.study.designs.iloc[0]["style_generators"]) for j in judged)
        ),
        "design": "; ".join(dict.fromkeys(counts(j) for j in judged)),
        "untrained networks": "; ".join(str(len(j.study.untrained)) for j in judged),
    }


def methods(judged: Sequence[Judged], frames: Frames, plan: Plan) -> tuple[str, ...]:
    """Return the methods text with its numbers."""
    if not judged:
        return ()
    primary, components = plan.primary, frames["components"]
    taps = components[["design", "tap", "channels", "dropped"]].drop_duplicates(["design", "tap"])
    texts = [
        "Scale-free moments m = mean / s_c (s_c^2 the channel's average variance over the cells of "
        "its own network and treatment) and v = 0.5 log var; population variances.",
        "Variance components by expected mean squares with contrast fixed (Cornfield-Tukey), "
        "untruncated, averaged over channels; with contrast random in the specification curve.",
        f"Baseline: {primary['before']}, every normaliser up to the tap replaced by the affine map "
        f"that it is on average over reference cells: {references(frames) or 'not recorded'}.",
        "Intervals: two-way delete-one jackknife over images and styles, Satterthwaite degrees of "
        "freedom, t quantile, log scale; Fieller's inversion where V after is below 3 standard "
        "errors and V before is not. Over all taps together: Bonferroni. ICC: degrees of freedom "
        "less by the excess kurtosis. s_c is not re-estimated within the jackknife.",
        "Untrained column: prediction interval of a further random network, mean -/+ t sd "
        "sqrt(1 + 1/n), made on the log scale of 1 - R; 'beyond untrained' is on R itself and "
        "joins that prediction error with the trained network's jackknife variance.",
        f"Floor: a channel whose variance lies below 100 eps of its layer (1e-10 without a "
        f"normaliser) in more than 1 % of the cells of any compared member is dropped from all: "
        f"{int(taps['dropped'].sum())} of {int((taps['dropped'] + taps['channels']).sum())} "
        "channels over all taps.",
        f"Decisions: alpha {plan.alpha:g}, Holm within F2 over {len(plan.families['F2'])} claims a "
        "network; the p of a claim is the largest of its parts.",
    ]
    for j in judged:
        first, last = list(primary_places(j.study, plan).items())
        texts.append(
            f"{j.study.label}: {counts(j)}, {primary['moment']} at {last[0]} and {first[0]} "
            f"({counted(len(first[1]), 'taps')}), "
            f"{counted(len(j.study.untrained), 'untrained networks')}."
        )
    return tuple(texts)


def references(frames: Frames) -> str:
    """Return what the frozen maps were calibrated on, from the runs' configurations."""
    rows = frames.get("references", pd.DataFrame()).to_dict("records")
    return "; ".join(
        dict.fromkeys(
            f"reference cells in {r['styles']} {'held-out ' if r['held_out'] else ''}styles, "
            f"{r['shared']} of {r['count']} reference contents are also test images"
            for r in rows
        )
    )


def limitations(judged: Sequence[Judged], plan: Plan, frames: Frames) -> tuple[str, ...]:
    """Return what the verdicts cannot carry."""
    texts = []
    shared = frames.get("references", pd.DataFrame({"shared": []}))["shared"]
    if len(shared) and shared.max() > 0:
        texts.append(
            f"The frozen maps know the test contents: {references(frames)}. A frozen map that was "
            "calibrated on the very contents may keep or remove other variance than on new ones."
        )
    for j in judged:
        images, styles = j.study.groups
        if styles <= plan.minimum["caution_styles"]:
            texts.append(
                f"Caution: {styles} styles. With so few, nominal 95 % intervals covered 86.5 to 95 "
                "% in simulations; 16 or more are recommended."
            )
        if j.scope:
            texts.append(
                f"{j.study.label}: verdicts hold for {j.scope[1:-1]}; a verdict on style at large "
                f"needs the same result in {plan.minimum['style_generators']} style generators."
            )
        if not j.sign_checked:
            texts.append(
                f"{j.study.label}: the sign of Psi was not checked under other ways of making the "
                "styled inputs (blend strengths)."
            )
        who = (
            "trained networks of one design and one training set: conclusions are for such networks"
            if j.study.members
            else "one trained network: conclusions are for this network"
        )
        is_are = "are" if j.study.members else "is"
        texts.append(f"{j.study.label} {is_are} {who}, {images} images and {styles} styles.")
    if judged:
        texts.append(
            "V_I is the variance of moments between images: palette, light and composition, not "
            "meaning. The frozen baseline is a counterfactual about inference, not about training."
        )
        if all(j.study.key["restore"] == "luminance" for j in judged):
            texts.append(
                "The styled inputs carry each content's own luminance mean and sd: styles do not "
                "differ in them, and treatments of the pixels that set them have that much less to "
                "take. H5b is about style as it is made here."
            )
    return tuple(dict.fromkeys(texts))
