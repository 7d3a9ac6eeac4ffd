"""Does instance normalisation train faster, and is it contrast or style that explains it?

Generators with IN and with BN are trained on the same photographs: original (a), with luminance
equalised (b), style-normalised (c), style-normalised with each image's own contrast put back (ck),
and each in a random style at matched variance (p*). G_d is the mean over time of log L_BN - log
L_IN, the held-out style losses on condition d. Unit: the block (target style and seed), within
which all cells share initial weights, minibatch order, target and budget. Family F1: H1 (a gap on
originals), H2 (it survives contrast normalisation), H3 (style normalisation removes most of it;
contrast normalisation and the placebo do not), H4 (BN on c is no slower than IN on a). H2 and H3
need the manipulation checks; fewer than 8 blocks are not testable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, cast

import numpy as np
import pandas as pd

from statsnorm.curves import passage, words
from statsnorm.curves import tables as made
from statsnorm.curves.arms import arms_table, common_rates
from statsnorm.curves.claims import Judged, judged, specifications, strong_contrast
from statsnorm.curves.study import Study, pilot_losses, study_of
from statsnorm.curves.summary import curve_frames
from statsnorm.decisions import Plan
from statsnorm.load import Tables
from statsnorm.report.discover import find_analyses
from statsnorm.report.model import Figure, Gate, Report
from statsnorm.wording import counted

TITLE = "Figure 1: training curves of instance and batch normalisation"
Caption = tuple[str, str, str, dict[str, Any], str, str]  # name, draw, table, options, text, alt
GATES = "manipulation_"  # prefix of the frames that the manipulation analysis needs

APPENDIX = (
    "curves_raw", "further_curves", "curve_traces", "further_traces", "gap_points",
    "survival_steps", "trade_off_points", "forest_rows", "passage_times",
    "specifications", "cells", "blocks",
)  # fmt: skip


class TrainingTables(Protocol):
    """What this analysis needs of the tables."""

    @property
    def runs(self) -> Iterable[Any]:
        """Return the runs, each with `path` and `config`."""


def summarise(tables: TrainingTables) -> dict[str, pd.DataFrame]:
    """Reduce the curves of all training runs; empty if there is none."""
    trained = [run for run in tables.runs if run.config.get("kind") == "train"]
    curves = ((run.config, Tables(run.path, unfinished=True).curves()) for run in trained)
    frames = curve_frames(curves)
    if frames and len(trained) < len(list(tables.runs)):
        checks = find_analyses(["manipulation"])[0].function("summarise")(tables)
        found = cast("dict[str, pd.DataFrame]", checks)
        frames |= {GATES + name: frame for name, frame in found.items()}
    return frames


def run(tables: Mapping[str, pd.DataFrame], plan: Plan, rng: np.random.Generator) -> Report:
    """Judge H1-H4 and tell what else the curves say."""
    study = study_of(tables, plan)
    j = judged(study, _gates(tables, plan, rng), plan, rng)
    specs = specifications(study, plan, rng, j.decisions)
    found = _results(study, j, tables, plan, rng) | {"specifications": specs}
    pilot = pilot_losses(tables)
    images = tables.get(GATES + "traces", pd.DataFrame({"images": []}))["images"]
    named = {name: table for name, table in found.items() if len(table)}
    return Report(
        name="figure1",
        title=TITLE,
        question=(__doc__ or "").strip(),
        headline=words.headline(found["statistics"], j, study),
        findings=tuple(words.findings(found, study)),
        claims=words.claims(j, study, specs),
        effects=words.effect_rows(j),
        tables=named,
        figures=tuple(_figures(named, study, j, plan)),
        scope=words.scope(study),
        methods=words.methods(study, j, plan),
        limitations=tuple(
            words.limitations(
                study, j, found["statistics"], pilot, int(images.max()) if len(images) else -1
            )
        ),
        left_out=tuple(words.left_out(study, j, plan)),
        picture="curves",
        appendix=APPENDIX,
    )


def _gates(
    tables: Mapping[str, pd.DataFrame], plan: Plan, rng: np.random.Generator
) -> tuple[Gate, ...]:
    """Return the gates as the manipulation analysis judges them."""
    inputs = {n.removeprefix(GATES): t for n, t in tables.items() if n.startswith(GATES)}
    if not inputs:
        return ()
    report = find_analyses(["manipulation"])[0].function("run")(inputs, plan, rng)
    return cast("Report", report).gates


def _results(
    study: Study,
    j: Judged,
    tables: Mapping[str, pd.DataFrame],
    plan: Plan,
    rng: np.random.Generator,
) -> dict[str, pd.DataFrame]:
    """Return every table of the report, also those without a row."""
    shown = made.main_letters(study, plan)
    others = [x for x in study.letters() if x not in shown]
    taus = passage.thresholds(study, tables)
    times = passage.passage_times(study, taus, shown)
    named = times.assign(condition=times["condition"].map(lambda x: made.NAMES.get(x, x)))
    used = study.cells[["block", "target", "seed", "norm", "condition", "lr", "status"]]
    return {
        "statistics": made.effects_table(study, plan, rng),
        "explained": made.explained_table(j.units, study.letters()),
        "two_by_two": made.two_by_two_table(j.units),
        "strong_contrast": strong_contrast(j.units, plan, rng),
        "equivalence": made.equivalence_table(j.units, plan),
        "gates": j.gates,
        "speed": made.speed_table(study),
        "thresholds": taus,
        "passage": passage.passage_table(times, study.horizon, rng),
        "learning_rates": pilot_losses(tables),
        "arms": arms_table(tables, study),
        "common_rates": common_rates(tables, study),
        "dropped": study.dropped,
        "blocks": made.blocks_table(study),
        "cells": used,
        "passage_times": times,
        "curve_traces": made.curves_source(study, rng, shown),
        "further_traces": made.curves_source(study, rng, others),
        "gap_points": made.gaps_source(study, j, plan),
        "survival_steps": passage.survival_steps(named, study.horizon),
        "trade_off_points": made.pareto_source(study, shown),
        "forest_rows": made.forest_source(j),
    }


def _figures(
    named: Mapping[str, pd.DataFrame], study: Study, j: Judged, plan: Plan
) -> Iterable[Figure]:
    least = plan.rule("H1", "gap").min_effect
    for name, draw, table, options, caption, alt in (
        *_captions(named, study, words.count(j), least),
        *_further_captions(named, study, words.count(j)),
    ):
        if table in named:
            yield Figure(
                name=name, draw=draw, table=table, options=options, caption=caption, alt=alt
            )


def _band(study: Study) -> str:
    few = int(study.kept.sum()) < 6
    return "no band: fewer than 6 blocks" if few else "95 % simultaneous band by sign flips"


def _captions(
    named: Mapping[str, pd.DataFrame], study: Study, n: str, least: float
) -> tuple[Caption, ...]:
    kept = counted(int(study.kept.sum()), "blocks")
    taus = named.get("thresholds", pd.DataFrame({"source": []}))
    return (
        ("curves", "training_curves", "curve_traces", {},
         f"Held-out style loss and log ratio (F1); {kept}, thin lines; thick: geometric "
         f"mean, and mean log ratio ({_band(study)}). No smoothing.",
         "One panel a condition: style loss of IN and BN over iterations, and their log ratio."),
        ("gaps", "block_gaps", "gap_points",
         {"ylabel": "G: mean log (loss of BN / loss of IN)", "least": least},
         f"Gap by condition (F2); {n}, lines join a block's conditions; diamonds: mean with 95 % "
         "paired t interval. Grey at D: the margin of H4.",
         "Gaps of all blocks by condition with means and intervals."),
        ("survival", "threshold_survival", "survival_steps", {},
         f"Share of cells not yet at a threshold (F3); {kept} and those that diverged; "
         f"thresholds from: {', '.join(dict.fromkeys(taus['source']))}.",
         "Step curves of the share not yet at the threshold for IN and BN."),
        ("forest", "forest", "forest_rows", {},
         f"All parts of H1 to H4 with their thresholds (F6); {n}; 95 % paired t intervals, "
         "unadjusted; verdicts use Holm-adjusted sign-flip p-values.",
         "Forest plot of the parts of H1 to H4."),
    )  # fmt: skip


def _further_captions(
    named: Mapping[str, pd.DataFrame], study: Study, n: str
) -> tuple[Caption, ...]:
    kept = counted(int(study.kept.sum()), "blocks")
    return (
        ("arms", "dots", "arms",
         {"xlabel": "mean log (loss of the arm / loss of IN)", "threshold": 0.0},
         "Every arm on one axis (exploratory): held-out style loss against that of IN in the same "
         f"blocks; 95 % paired t intervals; {_blocks(named)}.",
         "Dots with intervals: log ratio of each arm's loss to that of IN."),
        ("trade_off", "loss_trade_off", "trade_off_points", {},
         f"Style against content loss at matched iterations; geometric means over {kept}; "
         "filled: the last iteration.",
         "Curves of style loss against content loss for IN and BN by condition."),
        ("curves_raw", "training_curves", "curve_traces", {"scale": "raw"},
         f"Held-out style loss on the raw scale (F1); {n}, thin; thick: arithmetic mean.",
         "One panel a condition: style loss of IN and BN over iterations, linear axis."),
        ("further_curves", "training_curves", "further_traces", {},
         f"As the first figure, for the further conditions; {kept} at most, {_band(study)}.",
         "One panel a further condition: style loss of IN and BN, and their log ratio."),
    )  # fmt: skip


def _blocks(named: Mapping[str, pd.DataFrame]) -> str:
    if "arms" not in named:
        return "no blocks"
    low, high = int(named["arms"]["n"].min()), int(named["arms"]["n"].max())
    return counted(low, "blocks") if low == high else f"{low} to {counted(high, 'blocks')}"
