"""Sentences, scope and effect rows of the figure 1 report, made from its numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from statsnorm.curves.arms import LOSS_FIELDS
from statsnorm.curves.claims import Judged, flips
from statsnorm.curves.contrasts import START, linear
from statsnorm.curves.passage import WINDOW
from statsnorm.curves.study import FAMILY, LETTERS, Study, deciding
from statsnorm.curves.tables import NAMES
from statsnorm.decisions import Decision, Plan
from statsnorm.removal.effects import blank_row, effect_row
from statsnorm.removal.words import number, percent
from statsnorm.report.model import EFFECT_COLUMNS, Claim
from statsnorm.stats.power import minimum_effect
from statsnorm.wording import counted

CLAIMS: Mapping[str, str] = {
    "H1": "With IN the style loss falls faster than with BN on the original photographs.",
    "H2": "It still does after contrast normalisation of the photographs.",
    "H3": "After style normalisation the gap is much smaller; style, not contrast, explains it.",
    "H4": "BN on style-normalised photographs is as fast as IN on the originals.",
}
LEAST_STYLES = 3
SKEWED = 0.34  # medcouple of the exponential law; a larger one is told, fixed before any data
SKEWED_SIZES = ((9.1, 9.9), (11.5, 14.1))  # % at 5 %, 8 to 17 blocks: sign flips, equivalence


def count(j: Judged) -> str:
    """Return "10 blocks"."""
    return units(len(j.units), j)


def units(n: int, j: Judged) -> str:
    """Return n with the name of the unit."""
    return f"{n} {j.unit if n != 1 else j.unit.removesuffix('s')}"


def units_of(d: Decision, j: Judged) -> str:
    """Return the units that have all a claim requires: "10 blocks"."""
    dofs = [p.dof for p in d.parts if p.rule.required and math.isfinite(p.dof)]
    return units(int(min(dofs)) + 1, j) if dofs else count(j)


def ratio(estimate: float, low: float, high: float) -> str:
    """Return a log ratio as "1.35 times (1.20 to 1.52)"."""
    text = f"{number(math.exp(estimate))} times"
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"{text} (no interval)"
    return f"{text} ({number(math.exp(low))} to {number(math.exp(high))})"


def headline(effects: pd.DataFrame, j: Judged, study: Study) -> str:
    """Return the sentence of the first screen: loss of BN over that of IN, by condition."""
    gaps = {
        row["statistic"].removeprefix("G_"): ratio(row["estimate"], row["low"], row["high"])
        for row in _gaps(effects)
    }
    said = [f"{gaps[x]} on {NAMES[x]}" for x in ("a", "b", "ck", "c") if x in gaps]
    if not said:
        return ""
    return (
        f"In {count(j)} the style loss of BN was, on average over {study.horizon} iterations, "
        f"{', '.join(said)} photographs that of IN (95 % intervals)."
    )


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]


def _gaps(effects: pd.DataFrame) -> list[dict[str, Any]]:
    if not len(effects):
        return []
    mine = effects[(effects["scale"] == "log") & (effects["window"] == "whole")]
    mine = mine[mine["statistic"].str.fullmatch(r"G_\w+")]
    return _records(mine)


def claims(j: Judged, study: Study, specs: pd.DataFrame) -> tuple[Claim, ...]:
    """Return the claims of the decision table."""
    return tuple(
        Claim(
            hypothesis=d.hypothesis,
            family=FAMILY,
            claim=CLAIMS.get(d.hypothesis, d.hypothesis),
            sentence=sentence(d, j),
            verdict=d.verdict,
            scope=claim_scope(d, j, study),
            flips=flips(specs, d),
        )
        for d in j.decisions
    )


def sentence(d: Decision, j: Judged) -> str:
    """Return what was found for one claim, with estimates, intervals and n."""
    found = "; ".join(
        f"{p.rule.statistic} = {number(p.estimate, 3)} ({number(p.low, 3)} to {number(p.high, 3)})"
        for p in d.parts
        if p.rule.required
    )
    why = f" {d.verdict.capitalize()}: {d.reason}." if d.reason else ""
    if not found:
        return f"Not measured.{why}"
    tail = "" if d.reason else f", Holm-adjusted p = {d.p_adjusted:.2g}"
    strong = " Every interval clears its least effect." if d.strong else ""
    beside = f" {j.beside[d.hypothesis]}." if d.hypothesis in j.beside else ""
    return f"{found}; {units_of(d, j)}{tail}.{strong}{beside}{why}"


def claim_scope(d: Decision, j: Judged, study: Study) -> str:
    """Return the scope of a verdict: target styles, contrast normaliser, budget, size."""
    kept = study.blocks[study.blocks["kept"]]
    styles = kept["target"].nunique()
    which = "these " if styles < len(kept) or styles < LEAST_STYLES else ""
    word = "target style" if styles == 1 else f"{styles} target styles"
    only = f"only for {'this one ' if styles == 1 else which}{word}" if which else word
    config = study.config
    parts = [only, units_of(d, j), f"{study.horizon} iterations", f"{config.get('size', '?')} px"]
    if d.hypothesis in j.narrowed:
        parts.insert(0, j.narrowed[d.hypothesis])
    return "; ".join([*parts, f"batch {config.get('batch', '?')}"])


def scope(study: Study) -> dict[str, str]:
    """Return blocks, target styles, images and the setting."""
    config = study.config
    names = sorted(set(study.blocks.loc[study.kept, "target"]))
    images = sorted(set(study.cells["images"]) - {-1})
    blocks = config.get("residual_blocks")
    depth = "? residual blocks" if blocks is None else counted(blocks, "residual blocks")
    generator = f"texture network, {depth}, width "
    return {
        "blocks of figure 1": f"{int(study.kept.sum())} of {len(study.blocks)}",
        "target styles": f"{len(names)}: {', '.join(names)}" if names else "none",
        "training photographs": ", ".join(map(str, images)) or "unknown",
        "generators trained": f"{generator}{config.get('width', '?')}; loss {config.get('loss')}",
    }


def effect_rows(j: Judged) -> pd.DataFrame:
    """Return the `effects` table: one row per part, or one for a claim without parts."""
    rows = []
    for d in j.decisions:
        where = {"tap": "held-out style loss", "n_units": units_of(d, j)}
        rows += [effect_row(d, p, **where) for p in d.parts] or [blank_row(d, **where)]
    return pd.DataFrame(rows, columns=list(EFFECT_COLUMNS))


def findings(found: Mapping[str, pd.DataFrame], study: Study) -> Iterator[str]:
    """Yield the sentences under the results."""
    for row in _gaps(found["statistics"]):
        letter = row["statistic"].removeprefix("G_")
        ends = f"{percent(row['predicted_low'])} to {percent(row['predicted_high'])} %"
        yield (
            f"{NAMES.get(letter, letter)}: loss of BN / loss of IN = "
            f"{ratio(row['estimate'], row['low'], row['high'])}; g_z = {number(row['g_z'])}; IN "
            f"ahead in {percent(row['predicted'])} % of {counted(row['n'], 'blocks')} ({ends})."
        )
    for row in _records(found["explained"]):
        ends = (
            f"{percent(row['low'])} to {percent(row['high'])} %"
            if row["bounded"]
            else ("no bounded interval: the gap on originals is not distinguishable from zero")
        )
        yield (
            f"phi_{row['condition']}: {NAMES.get(row['condition'], row['condition'])} takes away "
            f"{percent(row['phi'])} % of the gap on originals ({ends}; descriptive)."
        )
    for row in _records(found["two_by_two"]):
        yield (
            f"Of the four conditions a, b, ck, c, {row['effect']}: {number(row['estimate'], 3)} "
            f"({number(row['low'], 3)} to {number(row['high'], 3)}) on the log scale."
        )
    for row in _records(found["speed"]):
        never = f"; in {row['never']} it never does" if row["never"] else ""
        median = "unknown" if math.isnan(row["median"]) else f"{row['median']:.1f}"
        yield (
            f"{NAMES.get(row['condition'], row['condition'])}: IN reaches BN's final loss "
            f"Q = {median} times earlier (median of {counted(row['blocks'], 'blocks')}{never})."
        )
    yield from _passages(found)
    yield from _band(found["curve_traces"])
    yield from _diverged(study)


def _passages(found: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    source = dict(zip(*(found["thresholds"][c] for c in ("threshold", "source")), strict=True))
    table = found["passage"]
    for row in table[table["condition"] == "a"].to_dict("records") if len(table) else []:
        yield (
            f"To {row['threshold']} ({source[row['threshold']]}): BN needs "
            f"{number(row['difference'], 0)} iterations more than IN "
            f"({number(row['low'], 0)} to {number(row['high'], 0)}; means up to T; reached by BN "
            f"in {row['bn_reached']}, by IN in {row['in_reached']} of "
            f"{counted(row['blocks'], 'blocks')}; "
            f"log-rank p = {number(row['pvalue'], 4)} within blocks)."
        )


def _band(curves: pd.DataFrame) -> Iterator[str]:
    mean = curves[(curves["panel"] == "ratio") & (curves["trace"] == "mean")]
    for condition, rows in mean.groupby("condition", sort=False):
        low, high = rows["low"].to_numpy(float), rows["high"].to_numpy(float)
        if np.isfinite(low).any():
            out = (low > 0).sum(), (high < 0).sum()
            yield (
                f"{condition}: the simultaneous 95 % band of the log ratio lies above 0 at "
                f"{out[0]} and below 0 at {out[1]} of {len(rows)} recorded iterations."
            )


def _diverged(study: Study) -> Iterator[str]:
    bad = study.cells[study.cells["status"].str.startswith("diverged")]
    if len(bad):
        counts = ", ".join(
            f"{n} of {str(norm).upper()}"
            for norm, n in bad["norm"].astype(str).value_counts().items()
        )
        yield (
            f"Diverged cells: {counts}. Dropping their blocks favours the norm that diverged; the "
            "analysis of iterations to a threshold keeps them as never reaching it."
        )


def methods(study: Study, j: Judged, plan: Plan) -> tuple[str, ...]:
    """Return the methods text with its numbers."""
    config, alpha, n = study.config, plan.alpha, len(j.units)
    rates = "; ".join(
        f"{r['norm']} on {r['condition']} {r['lr']:g}" for r in study.rates.to_dict("records")
    )
    texts = [
        f"Setting: {', '.join(f'{k} {v}' for k, v in sorted(config.items()))}. Learning rates: "
        f"{rates}.",
        "Gap G_d: mean over time of log L_BN - log L_IN, trapezoid rule on the recorded grid from "
        f"t0 = {START:.0%} of T = {study.horizon}; L is the style loss on fixed held-out batches, "
        f"BN with batch statistics; {len(study.grids.get('heldout', ()))} recorded iterations.",
        "Raw scale: mean over time of L_BN - L_IN in units of the block's mean L_IN on originals; "
        "thresholds log(1 + x) become x. A claim must have one decision and one sign on both.",
        f"Tests: exact sign flips of {j.unit} (n <= 16, else 100 000 random ones), two-sided; "
        f"Holm at {alpha:g} over {len(plan.families[FAMILY])} claims, the p of a claim being the "
        "largest of its parts. Intervals: paired t, 95 %, unadjusted.",
        f"Iterations to a threshold: first recorded t at which the trailing median of {WINDOW} "
        "records is at or below it; censored at T; restricted means to T, log-rank permuted within "
        "blocks.",
        "Band: sign flips of block residuals, max |t| over the grid, 95 % jointly.",
        "Dropped: a block without a finished cell of both norms in every deciding condition "
        f"({', '.join(sorted(deciding(plan)))}) that was planned for it.",
    ]
    if n > 1:
        least = minimum_effect(n=n, alpha=alpha / len(plan.families[FAMILY]))
        texts.append(
            f"With n = {n} a paired t test has 80 % power for d_z = {least:.2f} at {alpha:g} / "
            f"{len(plan.families[FAMILY])}."
        )
    return tuple(texts)


def limitations(
    study: Study, j: Judged, effects: pd.DataFrame, pilot: pd.DataFrame, images: int
) -> Iterator[str]:
    """Yield what the verdicts cannot carry."""
    kept = study.blocks[study.blocks["kept"]]
    styles = kept["target"].nunique()
    if len(kept) and styles < max(len(kept), LEAST_STYLES):
        yield (
            f"{counted(len(kept), 'blocks')} on {counted(styles, 'target styles')}: "
            "conclusions hold for no other style."
        )
    yield from skewed(effects)
    rates = study.rates
    off = rates[np.isfinite(rates["pilot_best"]) & (rates["pilot_best"] != rates["lr"])]
    if not len(pilot):
        yield (
            "No learning-rate pilot: one learning rate may favour one norm; every arm ran at the "
            "rate given under methods."
        )
    elif (fewest := int(pilot.groupby(["norm", "condition"])["lr"].nunique().min())) < 3:
        yield f"The learning-rate pilot has only {fewest} rates for an arm; 3 are asked for."
    for row in off.to_dict("records"):
        yield (
            f"{row['norm'].upper()} on {row['condition']} ran at {row['lr']:g}, but the pilot's "
            f"best rate is {row['pilot_best']:g}."
        )
    if images >= 0 and images not in set(study.cells["images"]):
        yield (
            f"The gates were measured on {counted(images, 'images')}, the networks trained on "
            f"{', '.join(map(str, sorted(set(study.cells['images']))))}."
        )
    if "D" in j.units:
        yield (
            "H4 compares losses on different photographs, (c) against (a); both generators were "
            "not evaluated here on one common set."
        )
    yield (
        "One architecture, one loss network, one budget: IN and BN of other generators are not "
        f"covered. Compared with another setting only where {', '.join(LOSS_FIELDS)} agree."
    )


def skewed(effects: pd.DataFrame) -> Iterator[str]:
    """Yield which differences are too skewed for tests that rest on symmetry, and what that costs.

    `effects` is :func:`statsnorm.curves.tables.effects_table`; its primary scale and window count.
    """
    if not len(effects):
        return
    primary = effects[(effects["scale"] == "log") & (effects["window"] == "whole")]
    found = primary[primary["medcouple"].abs() > SKEWED]
    if not len(found):
        return
    named = ", ".join(
        f"{row['statistic']} ({number(row['medcouple'])})" for row in found.to_dict("records")
    )
    flipped, equivalent = (f"{low:g} to {high:g} %" for low, high in SKEWED_SIZES)
    yield (
        f"Skewed over blocks (medcouple beyond {SKEWED:g}, that of an exponential law): {named}. "
        "Sign flips and t tests rest on symmetry: of exponential differences of 8 to 17 blocks "
        f"sign flips rejected a true null in {flipped} at a nominal 5 %, equivalence tests in "
        f"{equivalent} where the long tail lies beyond the margin (reports/calibration)."
    )


def left_out(study: Study, j: Judged, plan: Plan) -> Iterator[str]:
    """Yield dropped blocks with their cells, and claims that could not be decided."""
    for block, rows in study.dropped.groupby("block", sort=True):
        cells = [f"{r['norm']} on {r['condition']} {r['reason']}" for r in rows.to_dict("records")]
        more = f" and {len(cells) - 3} more" if len(cells) > 3 else ""
        name = rows["target"].iloc[0]
        yield f"block {block} ({name}): {', '.join(cells[:3])}{more}"
    yield from (f"{d.hypothesis}: {d.reason}{_needs(d, j, plan)}" for d in j.decisions if d.reason)


def _needs(decision: Decision, j: Judged, plan: Plan) -> str:
    """Return which conditions of training would give the numbers that a claim lacks."""
    rules = [plan.rule(decision.hypothesis, part) for part in plan.required(decision.hypothesis)]
    gaps = {g for rule in rules for g in linear(rule.statistic) if g not in j.units}
    letters = {"a", "c"} if "D" in gaps else set()
    letters |= {g.removeprefix("G_") for g in gaps - {"D"}}
    lacking = [name for name, letter in LETTERS.items() if letter in letters]
    return f"; train IN and BN on {', '.join(lacking)} too" if lacking else ""
