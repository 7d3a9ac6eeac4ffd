"""Does the gap between normalisers grow with the style variance of the training set?

If IN trains faster because it removes style, its gap to BN (G, mean over time of log L_BN - log
L_IN) must shrink with the style in the training images, by whatever means that is cut: one style
for all (`style`), one of K styles an image (`styles-K`), part of the way to one style (`blend-P`).
The dose is measured: the between-image variance of VGG moments of the training images, over that
of the originals. Contrast doses (`gains-P`) and all other conditions stand on the same graph.
Unit: the block (target style and seed), a random effect with a line of its own. Exploratory, no
family: D1 (the slope on log dose is above 0), D2 (a contrast dose moves the gap by less than a
quarter of that). Fewer than 8 blocks or 4 style doses are not testable.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, cast

import numpy as np
import pandas as pd

from statsnorm.curves import tables as made
from statsnorm.curves.claims import units_of
from statsnorm.curves.contrasts import START, block_numbers
from statsnorm.curves.doses import STYLES, dose_table, gaps_by_dose, series_of
from statsnorm.curves.slopes import (
    candidates,
    conditions_of,
    figure_source,
    needed,
    off_line_table,
    slopes_table,
    trend,
)
from statsnorm.curves.study import study_of
from statsnorm.curves.summary import curve_frames
from statsnorm.decisions import Decision, Plan, exploratory
from statsnorm.errors import StatsnormError
from statsnorm.load import Tables
from statsnorm.removal.effects import exploratory_rows
from statsnorm.removal.words import number
from statsnorm.report.discover import find_analyses
from statsnorm.report.model import EFFECT_COLUMNS, Claim, Figure, Report
from statsnorm.wording import counted

CLAIMS: Mapping[str, str] = {
    "D1": "The gap between BN and IN grows with the style variance of the training set.",
    "D2": "A contrast dose moves the gap by less than a quarter of what a style dose does.",
}
TRACES = "manipulation_traces"
SHOWN = ("condition", "series", "dose", "dose_low", "dose_high", "images")


class TrainingTables(Protocol):
    """What this analysis needs of the tables."""

    @property
    def runs(self) -> Iterable[Any]:
        """Return the runs, each with `path` and `config`."""


def summarise(tables: TrainingTables) -> dict[str, pd.DataFrame]:
    """Reduce curves, and the VGG moments of the training sets; empty without two style doses.

    Raises
    ------
    StatsnormError
        If the moments were not extracted, or with another seed than the draws of the training.
    """
    runs = list(tables.runs)
    trained = [run for run in runs if run.config.get("kind") == "train"]
    wanted = {c for run in trained for c in run.config["train"]["conditions"]}
    if sum(series_of(c) == STYLES for c in wanted) < 2:
        return {}
    seeds = {int(run.config["train"]["seed"]) for run in trained}
    others = [run for run in runs if run.config.get("kind") == "extract"]
    found = cast(
        "dict[str, pd.DataFrame]",
        find_analyses(["manipulation"])[0].function("summarise")(tables) if others else {},
    )
    if "traces" not in found:
        listed = ",".join(sorted(wanted, key=lambda c: (c != "original", c)))
        raise StatsnormError(
            "doses are measured: give also a run of `statsnorm extract` on the same images, seed "
            f"and style with --network vgg16 --condition {listed}"
        )
    drawn = {int(run.config["seed"]) for run in others}
    if drawn != seeds:
        raise StatsnormError(
            f"styles and gains were drawn with seed {sorted(seeds)} in training and "
            f"{sorted(drawn)} at extraction; the measured images are not those of the training"
        )
    curves = ((run.config, Tables(run.path, unfinished=True).curves()) for run in trained)
    return {**curve_frames(curves), TRACES: found["traces"]}


def run(tables: Mapping[str, pd.DataFrame], plan: Plan, rng: np.random.Generator) -> Report:
    """Fit a line a block, test its slope, and place all other conditions against it."""
    study = study_of(tables, plan)
    units, unit = units_of(block_numbers(study), plan)
    traces = tables[TRACES]
    known = sorted({n for n in traces["network"] if str(n).startswith("vgg")})
    network = str(study.config.get("loss", "vgg16"))
    network = network if network in known else known[0]
    doses = dose_table(traces, network)
    points = gaps_by_dose(units, doses)
    decisions = [exploratory(plan, c) for c in candidates(points, plan, rng)]
    page = trend(points, rng)
    doses = doses.assign(series=[series_of(c) for c in doses["condition"]])[list(SHOWN)]
    few = len(units) < plan.minimum["blocks"]
    named = {
        "slopes": slopes_table(points, rng),
        "trend": pd.DataFrame([page] if page else []),
        "off_line": off_line_table(points, rng),
        "doses": doses,
        "points": points,
        "dose_points": figure_source(points, doses, made.NAMES, rng),
    }
    if few:  # what is not testable has no p
        named |= {name: _without_p(named[name]) for name in ("slopes", "trend", "off_line")}
    n = f"{len(units)} {unit}"
    return Report(
        name="dose_response",
        title="Dose-response: the gap against the style variance of the training set",
        question=(__doc__ or "").strip(),
        findings=(*_findings(named, page, n, few=few), *filter(None, [needed(points, plan)])),
        claims=tuple(_claim(d, n, study.config, network) for d in decisions),
        effects=pd.DataFrame(
            [row for d in decisions for row in exploratory_rows(d, n_units=n)],
            columns=list(EFFECT_COLUMNS),
        ),
        tables={name: table for name, table in named.items() if len(table)},
        figures=(_figure(n, network, int(doses["images"].max())),) if len(points) else (),
        scope={"dose-response": f"{n}; {', '.join(conditions_of(points, STYLES))}"},
        methods=tuple(_methods(network, plan, doses)),
        limitations=tuple(_limitations(study.cells, doses)),
        left_out=tuple(f"{d.hypothesis}: {d.reason}" for d in decisions if d.reason),
        appendix=("points", "dose_points"),
    )


def _figure(n: str, network: str, images: int) -> Figure:
    return Figure(
        name="dose_response",
        draw="dose_response",
        table="dose_points",
        options={"ylabel": "G: mean log (loss of BN / loss of IN)"},
        caption=f"Gap against dose (F11); {n}, thin, and their mean with 95 % t interval; across: "
        f"dose at {network} with 95 % delete-one-image jackknife interval, "
        f"{counted(images, 'images')}. The "
        "line is the mean of the blocks' least-squares lines through the style doses.",
        alt="Scatter of the gap against between-image variance of VGG moments, with a mean line.",
    )


def _claim(decision: Decision, n: str, config: Mapping[str, Any], network: str) -> Claim:
    found = "; ".join(
        f"{p.rule.statistic} = {number(p.estimate, 3)} ({number(p.low, 3)} to {number(p.high, 3)})"
        for p in decision.parts
    )
    tail = f" {decision.verdict.capitalize()}: {decision.reason}." if decision.reason else ""
    tail = tail or (f" Inconclusive: {decision.shortfall}." if decision.shortfall else "")
    p_words = "" if decision.reason or not found else f", {decision.p_words}"
    return Claim(
        hypothesis=decision.hypothesis,
        family="",
        claim=CLAIMS[decision.hypothesis],
        sentence=f"{found or 'Not measured'}; {n}{p_words}.{tail}",
        verdict=decision.verdict,
        scope=f"generators of {config.get('size')} pixels, width {config.get('width')}, "
        f"{config.get('iterations')} iterations; doses at {network}; {n}",
    )


def _without_p(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns=[c for c in ("p_t", "p_flip", "pvalue") if c in table])


def _findings(
    named: Mapping[str, pd.DataFrame], page: Mapping[str, Any], n: str, *, few: bool
) -> Iterator[str]:
    for row in named["slopes"].to_dict("records"):
        doubled = [math.log(2) * row[k] for k in ("estimate", "low", "high")]
        yield (
            f"{row['series'].capitalize()} ({row['conditions']}): per doubling of the variance "
            f"the gap changes by {number(doubled[0], 3)} ({number(doubled[1], 3)} to "
            f"{number(doubled[2], 3)}), {row['n']} of {n}; doses span a factor of "
            f"{math.exp(row['range']):.2f}."
        )
    if page:
        p = (
            f"descriptive, too few blocks for a test ({page['n']})"
            if few
            else f"one-sided p = {page['pvalue']:.2g} ({page['method']}, "
            f"{counted(page['n'], 'blocks')})"
        )
        yield (
            f"Page's trend in the planned order {page['order']}: L = {page['statistic']:g}, mean "
            f"rank correlation {page['estimate']:.2f}; {p}."
        )
    for row in named["off_line"].to_dict("records"):
        yield (
            f"{row['condition']} lies {number(row['estimate'], 3)} ({number(row['low'], 3)} to "
            f"{number(row['high'], 3)}) off the line of the style doses (log loss ratio)."
        )


def _methods(network: str, plan: Plan, doses: pd.DataFrame) -> Iterator[str]:
    yield (
        f"Dose: log of the between-image variance of m and v at {network} relu1_1 to relu4_1 (mean "
        f"over channels) over that of the originals, mean over taps and moments; "
        f"{counted(int(doses['images'].max()), 'images')}."
    )
    yield (
        f"G from t0 = {START:.0%} of the budget on held-out batches, BN with batch statistics. "
        "Slope: least squares within each block; blocks are the units of the sign flips and of "
        f"the t intervals. Minima: {plan.minimum['blocks']} blocks, {plan.minimum['doses']} style "
        "doses."
    )


def _limitations(cells: pd.DataFrame, doses: pd.DataFrame) -> Iterator[str]:
    yield (
        "All blocks share the doses, so the error of the doses is not in the intervals of the "
        "slope; it is drawn across. The dose is all variance between images, content's included."
    )
    trained, measured = set(cells["images"]), int(doses["images"].max())
    if measured not in trained:
        yield (
            f"The doses were measured on {counted(measured, 'images')}, the networks trained on "
            f"{', '.join(map(str, sorted(trained)))}."
        )
