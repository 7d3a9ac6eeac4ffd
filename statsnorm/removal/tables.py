"""The tables of the `removed_variance` report, made from the sufficient statistics."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from statsnorm.decisions import Plan
from statsnorm.removal.evidence import Spread, perp_ratio, pixel_rows, removed_spread, spread
from statsnorm.removal.ratios import Interval, Ratio, interval, t_quantile, wider
from statsnorm.removal.study import (
    CONFIDENCE,
    FACTORS,
    Frames,
    Study,
    Tap,
    kept_ratio,
    log_selectivity,
    point_ratio,
    primary_places,
    untrained_ratios,
)

Rows = Iterator[dict[str, Any]]
NAMES: dict[str, str] = {**FACTORS, "S|I": "style_given_content"}


def removed_table(study: Study, plan: Plan) -> pd.DataFrame:
    """Return R_f for every tap, moment, factor and baseline, with its untrained column.

    Where delete-one replicates are kept (evidence taps) R has a jackknife-t interval, and
    `simultaneous_low`, `simultaneous_high` hold over the taps of the same moment and factor
    (Bonferroni, by each one's own method). Elsewhere `estimate` stands alone.
    """
    rows = [
        {**row, "baseline": treatment}
        for treatment in _baselines(study, plan)
        for moment in ("m", "v")
        for factor in NAMES
        for row in _removed_rows(study, treatment, moment, factor)
    ]
    return pd.DataFrame(rows)


def single_layer_table(study: Study, plan: Plan) -> pd.DataFrame:
    """Return R_f with only the normaliser just before each tap frozen (later ones adapt)."""
    depth = {str(t): int(d) for t, d in zip(study.taps["tap"], study.taps["depth"], strict=True)}
    rows = []
    for treatment in sorted({str(k[3]) for k in study.points if k[0] in _numbers(study)}):
        layer = treatment.removeprefix("frozen:")
        if layer not in depth or not treatment.startswith("frozen:"):
            continue
        after = [t for t in study.of_kind(plan.primary["mean_over"]) if depth[t[1]] > depth[layer]]
        places = {**{t[1]: [t] for t in after[:1]}, **_vgg(study, plan)}
        for name, taps in places.items():
            for factor in ("S", "I", "K"):
                kept = point_ratio(
                    study,
                    taps,
                    FACTORS[factor],
                    moment=plan.primary["moment"],
                    before=("original", treatment),
                    after=("original", "none"),
                )
                rows.append({"layer": layer, "tap": name, "factor": factor, "estimate": 1 - kept})
    return pd.DataFrame(rows)


def derived_table(study: Study, plan: Plan) -> pd.DataFrame:
    """Return Psi, Theta, ICC and style share, before and after, for evidence taps and places."""
    places = {name: taps for name, taps in primary_places(study, plan).items() if len(taps) > 1}
    places |= {tap[1]: [tap] for tap in _evidence(study)}
    rows = [
        {"place": name, "moment": moment, **row}
        for name, taps in places.items()
        for moment in ("m", "v")
        for row in _derived_rows(study, taps, moment, plan)
    ]
    return pd.DataFrame(rows)


def components_table(study: Study) -> pd.DataFrame:
    """Return V_f, shares and ICC of every tap, moment and treatment on the plain design."""
    rows = []
    for (number, tap, condition, treatment, subset, moment), point in study.points.items():
        if number in _numbers(study) and condition == "original" and subset == "all":
            names = [*FACTORS.values(), "content_style", "content_contrast", "style_contrast"]
            values = {n: float(point[n]) for n in (*names, "residual")}
            total = sum(values.values())
            both = values["style"] + values["content"]
            rows.append(
                {
                    "tap": tap,
                    "tap_kind": point["tap_kind"],
                    "depth": point["depth"],
                    "by_construction": point["by_construction"],
                    "treatment": treatment,
                    "moment": moment,
                    "channels": point["channels"],
                    "dropped": point["dropped"],
                    **values,
                    "style_given_content": values["style"] + values["content_style"],
                    **{f"share_{n}": _safe(values[n], total) for n in FACTORS.values()},
                    "share_residual": _safe(values["residual"], total),
                    "icc": _safe(values["style"], both),
                }
            )
    table = pd.DataFrame(rows)
    return table.sort_values(["depth", "tap", "treatment", "moment"], ignore_index=True)


def pixel_table(study: Study, plan: Plan) -> pd.DataFrame:
    """Return R_S of every pixel treatment before the frozen network, and R_S(IN) - R_S(pixel)."""
    rows = []
    for name, taps in primary_places(study, plan).items():
        for condition, (kept, gain) in pixel_rows(study, taps, plan).items():
            rows.append(
                {
                    "place": name,
                    "condition": condition,
                    **_interval("removed", kept.removed()),
                    **_interval("gain", gain),
                }
            )
    return pd.DataFrame(rows)


def perp_table(study: Study, plan: Plan) -> pd.DataFrame:
    """Return R_S-perp of every evidence tap and primary place, per matching condition."""
    places = {**primary_places(study, plan), **{tap[1]: [tap] for tap in _evidence(study)}}
    rows = []
    for condition in plan.primary["perp"]:
        for name, taps in places.items():
            kept = perp_ratio(study, taps, condition, plan)
            if kept is not None:
                r = kept.removed()
                rows.append({"place": name, "condition": condition, **_interval("removed", r)})
    return pd.DataFrame(rows)


def diagnostics_table(study: Study, frames: Frames, plan: Plan) -> pd.DataFrame:
    """Return, per evidence tap: leave-one-style-out range of R_S, leverage, additivity, dead."""
    leverage = frames.get("leverage", pd.DataFrame(columns=["design", "tap", "treatment"]))
    rows = []
    for tap in _evidence(study):
        kept = _kept(study, [tap], "style", plan.primary["moment"], plan.primary["before"])
        point = study.points.get((*tap, "original", "none", "all", plan.primary["moment"]))
        if kept is None or point is None:
            continue
        without = 1 - kept.replicates[-kept.groups[-1] :]
        mine = leverage[(leverage["design"] == tap[0]) & (leverage["tap"] == tap[1])]
        most = mine.sort_values("share").iloc[-1] if len(mine) else None
        total = sum(float(point[c]) for c in _ALL)
        rows.append(
            {
                "tap": tap[1],
                "removed": 1 - kept.estimate,
                "least_without_a_style": float(without.min()),
                "most_without_a_style": float(without.max()),
                "largest_style": "" if most is None else most["style"],
                "largest_style_share": math.nan if most is None else float(most["share"]),
                "style_dominates": most is not None
                and float(most["share"]) > plan.primary["leverage"],
                "residual_share": _safe(float(point["residual"]), total),
                "residual_share_frozen": _residual_share(study, tap, plan),
                "channels": point["channels"],
                "dropped": point["dropped"],
            }
        )
    return pd.DataFrame(rows)


_ALL = (
    "content",
    "style",
    "contrast",
    "content_style",
    "content_contrast",
    "style_contrast",
    "residual",
)


def _baselines(study: Study, plan: Plan) -> list[str]:
    have = {str(k[3]) for k in study.points if k[0] in _numbers(study)}
    return [t for t in (plan.primary["before"], "frozen:all") if t in have]


def _removed_rows(study: Study, treatment: str, moment: str, factor: str) -> Rows:
    component, kept, rows = NAMES[factor], [], []
    for record in study.taps.to_dict("records"):
        tap = (int(record["design"]), str(record["tap"]))
        r = _kept(study, [tap], component, moment, treatment)
        if r is None and factor != "S|I":
            yield _row(
                study,
                record,
                moment,
                factor,
                treatment,
                _point(study, tap, component, moment, treatment),
            )
        elif r is not None:
            kept.append(r)
            rows.append(_row(study, record, moment, factor, treatment, r.removed(), r.method))
    yield from _with_simultaneous(rows, kept)


def _with_simultaneous(rows: list[dict[str, Any]], kept: list[Ratio]) -> Rows:
    """Add intervals that hold over all taps: the method of each, at Bonferroni's quantile."""
    level = 1 - (1 - CONFIDENCE) / max(len(kept), 1)
    for row, r in zip(rows, kept, strict=True):
        low, high = wider(r, t_quantile(level, r.dof), confidence=CONFIDENCE)
        yield {**row, "simultaneous_low": 1 - high, "simultaneous_high": 1 - low}


def _row(
    study: Study,
    record: dict[Any, Any],
    moment: str,
    factor: str,
    treatment: str,
    r: Interval,
    method: str = "point",
) -> dict[str, Any]:
    tap = (int(record["design"]), str(record["tap"]))
    names = ("tap", "tap_kind", "depth", "by_construction", "channels")
    random, dropped = spread([]), 0
    if factor != "S|I":
        kept = untrained_ratios(study, [tap], NAMES[factor], moment=moment, before=treatment)
        random = removed_spread(kept)
        dropped = len(study.untrained) - random.n
    return {
        **{name: record[name] for name in names},
        "moment": moment,
        "factor": factor,
        "estimate": r.estimate,
        "low": r.low,
        "high": r.high,
        "se": r.se,
        "dof": r.dof,
        "method": method,
        **_spread(random),
        "untrained_dropped": dropped,
    }


def _derived_rows(study: Study, taps: list[Tap], moment: str, plan: Plan) -> Rows:
    before = plan.primary["before"]
    kept = {f: _kept(study, taps, c, moment, before) for f, c in FACTORS.items()}
    for name, below in (("Psi", "I"), ("Theta", "K")):
        both = log_selectivity(kept["S"], kept[below])
        if both is not None:
            top, bottom = (
                untrained_ratios(study, taps, FACTORS[f], moment=moment, before=before)
                for f in ("S", below)
            )
            equal = len(top) == len(bottom)
            with np.errstate(divide="ignore", invalid="ignore"):
                logs = np.log(top / bottom) if equal else np.array([])
            random = spread(logs[np.isfinite(logs)])
            yield {"quantity": name, **_interval("", both.log()), **_spread(random)}
    if len(taps) == 1:
        yield from _share_rows(study, taps[0], moment, before)


def _share_rows(study: Study, tap: Tap, moment: str, before: str) -> Rows:
    for when, treatment in (("before", before), ("after", "none")):
        parts = {c: study.component(tap, c, moment=moment, treatment=treatment) for c in _ALL[:-1]}
        if any(v is None for v in parts.values()):
            continue
        values = {c: np.asarray(v) for c, v in parts.items()}
        with np.errstate(divide="ignore", invalid="ignore"):
            icc = values["style"] / (values["style"] + values["content"])
        x = interval(icc, study.groups, confidence=CONFIDENCE, tails="heavy")
        yield {"quantity": f"ICC {when}", **_interval("", x), **_spread(spread([]))}


def _kept(
    study: Study, taps: list[Tap], component: str, moment: str, treatment: str
) -> Ratio | None:
    before, after = ("original", treatment), ("original", "none")
    return kept_ratio(study, taps, component, moment=moment, before=before, after=after)


def _point(study: Study, tap: Tap, component: str, moment: str, treatment: str) -> Interval:
    before, after = ("original", treatment), ("original", "none")
    kept = point_ratio(study, [tap], component, moment=moment, before=before, after=after)
    nothing = {"low": math.nan, "high": math.nan, "se": math.nan, "dof": math.nan}
    return Interval(estimate=1 - kept, **nothing)


def _interval(prefix: str, x: Interval) -> dict[str, float]:
    names = (prefix, f"{prefix}_low", f"{prefix}_high") if prefix else ("estimate", "low", "high")
    return dict(zip(names, (x.estimate, x.low, x.high), strict=True))


def _spread(x: Spread) -> dict[str, Any]:
    return {
        "untrained": x.mean,
        "untrained_low": x.low,
        "untrained_high": x.high,
        "n_untrained": x.n,
    }


def _numbers(study: Study) -> set[int]:
    return set(study.designs["design"])


def _evidence(study: Study) -> list[Tap]:
    kinds = ("next_pre_norm", "residual_sum", "vgg_of_output")
    return [tap for kind in kinds for tap in study.of_kind(kind)]


def _vgg(study: Study, plan: Plan) -> dict[str, list[Tap]]:
    name, taps = list(primary_places(study, plan).items())[-1]
    return {name: taps} if taps else {}


def _residual_share(study: Study, tap: Tap, plan: Plan) -> float:
    at = (*tap, "original", plan.primary["before"], "all", plan.primary["moment"])
    point = study.points[at]
    return _safe(float(point["residual"]), sum(float(point[c]) for c in _ALL))


def _safe(top: float, bottom: float) -> float:
    return top / bottom if bottom > 0 else math.nan
