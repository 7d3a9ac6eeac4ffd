"""The specification curve: every defensible way to compute a claim, and how many agree.

Specifications are judged by their point estimates: does the estimate reach min_effect? One that
does agrees with "supported", one that does not with "contradicted"; other verdicts have nothing to
flip. All come from the stored traces and medians, so none needs the moments again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from statsnorm.decisions import CONTRADICTED, SUPPORTED, Plan
from statsnorm.removal.crossed import INPUT_KEYS
from statsnorm.removal.study import (
    Frames,
    Study,
    Tap,
    point,
    point_ratio,
    primary_places,
    untrained_ratios,
)

MOMENT: Mapping[tuple[str, str], str] = {
    ("m", "scale-free"): "m",
    ("v", "scale-free"): "v",
    ("m", "raw"): "mean",
    ("v", "raw"): "sd",
}
INTACT = ("original", "none")
BASELINES: tuple[str, ...] = ("frozen:prefix", "frozen:all", "pre-norm")
AXES: tuple[str, ...] = ("moment", "scale", "contrast", "aggregation", "baseline", "place")


def specification_curve(study: Study, frames: Frames, plan: Plan) -> pd.DataFrame:
    """Return one row per hypothesis and specification: the axes, the estimate, whether it is met.

    Axes: moment m or v; scale-free or raw; contrast fixed or random; trace or median over
    channels (the median only with contrast fixed); baseline frozen prefix, all frozen, or the
    pre-norm tap; and the two primary places.
    """
    rows = []
    combinations = itertools.product(
        ("m", "v"), ("scale-free", "raw"), ("fixed", "random"), ("trace", "median")
    )
    for moment, scale, convention, aggregation in combinations:
        if convention == "random" and aggregation == "median":
            continue
        for place, taps in primary_places(study, plan).items():
            choice = {
                "moment": moment,
                "scale": scale,
                "contrast": convention,
                "aggregation": aggregation,
                "place": place,
            }
            for row in _estimates(study, frames, plan, taps, choice):
                if math.isfinite(row["estimate"]):
                    rows.append({**choice, **row})
    columns = ["hypothesis", *AXES, "statistic", "estimate", "met"]
    return pd.DataFrame(rows, columns=columns)


def flips(curve: pd.DataFrame, hypothesis: str, verdict: str) -> str:
    """Return "" if all specifications agree with a decided verdict, else how many do not."""
    if verdict not in (SUPPORTED, CONTRADICTED):
        return ""
    mine = curve[curve["hypothesis"] == hypothesis]
    grouped = mine.groupby([name for name in AXES if name != "place"], sort=False)
    whole = grouped["place"].nunique() == mine["place"].nunique()
    by = grouped["met"].all()[whole]
    against = int((by != (verdict == SUPPORTED)).sum())
    absent = _absent(mine[mine.set_index(grouped.keys).index.isin(by.index)], hypothesis)
    if not against and not absent:
        return ""
    return f"{against} of {len(by)} specifications disagree" + absent


def _absent(mine: pd.DataFrame, hypothesis: str) -> str:
    """Say how many specifications were not measured at every place, by baseline."""
    names = BASELINES if hypothesis in ("H5a", "H5d") else BASELINES[:1]
    short = []
    for baseline in names:
        planned = 6 if baseline == "pre-norm" else 12  # raw units differ between taps
        rows = mine[mine["baseline"] == baseline]
        have = len(rows.drop_duplicates([n for n in AXES if n not in ("place", "baseline")]))
        short += [f"{planned - have} with baseline {baseline}"] if have < planned else []
    return f"; not measured at every place: {', '.join(short)}" if short else ""


def _estimates(
    study: Study, frames: Frames, plan: Plan, taps: list[Tap], choice: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    before = plan.primary["before"]
    for baseline in (before, "frozen:all", "pre-norm"):
        if baseline == "pre-norm" and choice["scale"] == "raw":
            continue  # raw units differ between taps
        kept = {
            factor: _kept(study, frames, taps, factor, baseline, choice)
            for factor in ("style", "content")
        }
        psi = _log_ratio(kept["style"], kept["content"])
        yield _row(plan, "H5a", "removed", baseline, 1 - kept["style"])
        yield _row(plan, "H5d", "selective", baseline, psi)
        if baseline == before:
            random = {f: _random(study, taps, f, before, choice) for f in ("style", "content")}
            learned = random["style"] - kept["style"]
            yield _row(plan, "H5a", "learned", baseline, learned)
            below = psi - _log_ratio(random["style"], random["content"])
            yield _row(plan, "H5d", "learned", baseline, below)
            yield from _conditions(study, plan, taps, choice, kept["style"])


def _conditions(
    study: Study, plan: Plan, taps: list[Tap], choice: Mapping[str, Any], kept: float
) -> Iterator[dict[str, Any]]:
    before = plan.primary["before"]
    column, moment, convention = _how("style", choice)

    def ratio(first: tuple[str, str], last: tuple[str, str]) -> float:
        return point_ratio(
            study, taps, column, moment=moment, before=first, after=last, convention=convention
        )

    pixels = [ratio(("original", before), (c, before)) for c in plan.primary["pixel"]]
    yield _row(plan, "H5b", "beyond_pixels", before, min(pixels) - kept)
    perps = [ratio((c, before), (c, "none")) for c in plan.primary["perp"]]
    yield _row(plan, "H5c", "perpendicular", before, 1 - max(perps))


def _kept(
    study: Study,
    frames: Frames,
    taps: list[Tap],
    factor: str,
    baseline: str,
    choice: Mapping[str, Any],
) -> float:
    column, moment, convention = _how(factor, choice)
    if baseline != "pre-norm":
        return point_ratio(
            study,
            taps,
            column,
            moment=moment,
            before=("original", baseline),
            after=("original", "none"),
            convention=convention,
        )
    values = []
    for tap in taps:
        source = upstream(study, frames, tap)
        pair = [
            point(study, at, column, moment=moment, member=INTACT, convention=convention)
            for at in (tap, source)
        ]
        values.append(pair[0] / pair[1] if pair[1] > 0 else math.nan)
    return float(np.mean(values)) if values else math.nan


def upstream(study: Study, frames: Frames, tap: Tap) -> Tap:
    """Return the tap before the normaliser that `tap` follows; (-1, "") if there is none.

    For VGG of the output: the same VGG tap on the network's inputs. For the input of a
    normaliser: the input of the normaliser before it.
    """
    designs = frames["designs"]
    own = designs.loc[designs["design"] == tap[0]].iloc[0]
    if own["source"] != "input":
        same = (designs["network"] == own["network"]) & (designs["source"] == "input")
        for name in INPUT_KEYS:
            same &= designs[name] == own[name]
        number = designs.loc[same, "design"].min() if same.any() else -1
        return int(number), tap[1]
    before = [t for kind in ("pre_norm", "next_pre_norm") for t in study.of_kind(kind)]
    place = before.index(tap) if tap in before else 0
    return before[place - 1] if place > 0 else (-1, "")


def _random(
    study: Study, taps: list[Tap], factor: str, before: str, choice: Mapping[str, Any]
) -> float:
    column, moment, convention = _how(factor, choice)
    values = untrained_ratios(
        study, taps, column, moment=moment, before=before, convention=convention
    )
    return float(values.mean()) if len(values) else math.nan


def _how(factor: str, choice: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the column, the moment and the convention of a specification."""
    median = choice["aggregation"] == "median"
    column = f"{factor}_median" if median else factor
    return column, MOMENT[choice["moment"], choice["scale"]], choice["contrast"]


def _log_ratio(top: float, bottom: float) -> float:
    return math.log(top / bottom) if top > 0 and bottom > 0 else math.nan


def _row(plan: Plan, hypothesis: str, part: str, baseline: str, estimate: float) -> dict[str, Any]:
    rule = plan.rule(hypothesis, part)
    return {
        "hypothesis": hypothesis,
        "baseline": baseline,
        "statistic": rule.statistic,
        "estimate": estimate,
        "met": rule.beyond(estimate, rule.min_effect),
    }
