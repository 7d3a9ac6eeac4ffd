"""Lines of gap against dose, one a block; the slopes of the blocks are what is tested."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from statsnorm.curves.claims import part_of
from statsnorm.curves.doses import CONTRAST, ORIGINAL, STYLES, planned_order, series_of
from statsnorm.curves.study import letter
from statsnorm.decisions import Candidate, Part, Plan
from statsnorm.stats.equivalence import paired_t
from statsnorm.stats.permutation import sign_flip_test
from statsnorm.stats.trend import page_trend
from statsnorm.wording import counted

Array = NDArray[np.float64]

LEAST_CONTRASTS = 3  # doses: two show no curve
LEAST_RANGE = math.log(1.25)  # of the dose: below it a slope is a ratio to nearly nothing


def lines(points: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """Return block, slope, intercept: least squares through a block's gaps at these conditions.

    A block without a finite gap at every one of them is left out; fewer than two doses give none.
    """
    mine = points[points["condition"].isin(conditions)]
    table = mine.pivot_table(index="block", columns="condition", values="gap", dropna=False)
    table = table.loc[np.isfinite(table.to_numpy(float)).all(axis=1)]
    dose = mine.groupby("condition")["dose"].first().reindex(table.columns).to_numpy(float)
    if len(dose) < 2 or not np.ptp(dose) > 0 or not len(table):
        return pd.DataFrame({"block": [], "slope": [], "intercept": []})
    centred = dose - dose.mean()
    slope = table.to_numpy(float) @ centred / (centred**2).sum()  # (B,)
    intercept = table.to_numpy(float).mean(axis=1) - slope * dose.mean()
    return pd.DataFrame({"block": table.index, "slope": slope, "intercept": intercept})


def conditions_of(points: pd.DataFrame, series: str) -> list[str]:
    """Return the conditions of a series; the contrast doses include the originals, spread 0."""
    wanted = points["series"] == series
    if series == CONTRAST and wanted.any():
        wanted |= points["condition"] == ORIGINAL
    return list(dict.fromkeys(points.loc[wanted, "condition"]))


def slopes_table(points: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Return the mean slope over blocks of each series, with t interval and sign-flip p."""
    rows = []
    for series in (STYLES, CONTRAST):
        conditions = conditions_of(points, series)
        found = lines(points, conditions)
        if len(found):
            doses = points[points["condition"].isin(conditions)]["dose"]
            rows.append(
                {
                    "series": series,
                    "conditions": ", ".join(conditions),
                    "range": float(np.ptp(doses)),
                    **mean_over_blocks(found["slope"].to_numpy(float), rng),
                }
            )
    return pd.DataFrame(rows)


def mean_over_blocks(d: Array, rng: np.random.Generator) -> dict[str, float | int]:
    """Return n, estimate, low, high (t), p_t, p_flip of one number a block."""
    nothing = dict.fromkeys(("low", "high", "p_t", "p_flip"), math.nan)
    if len(d) < 2:
        return {"n": len(d), "estimate": float(d.mean()) if len(d) else math.nan, **nothing}
    t = paired_t(d)
    return {
        "n": len(d),
        "estimate": float(d.mean()),
        "low": float(t.low),
        "high": float(t.high),
        "p_t": float(t.pvalue),
        "p_flip": float(sign_flip_test(d, rng=rng).pvalue),
    }


def off_line_table(points: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Return how far each other condition lies from the line of the style doses of its block."""
    line = lines(points, conditions_of(points, STYLES)).set_index("block")
    rows = []
    others = points[(points["series"] != STYLES) & points["block"].isin(line.index)]
    for condition, own in others.groupby("condition", sort=False):
        expected = own["block"].map(line["intercept"]) + own["dose"] * own["block"].map(
            line["slope"]
        )
        gap = (own["gap"] - expected).to_numpy(float)
        gap = gap[np.isfinite(gap)]
        if len(gap):
            rows.append({"condition": condition, **mean_over_blocks(gap, rng)})
    return pd.DataFrame(rows)


def needed(points: pd.DataFrame, plan: Plan) -> str:
    """Return what D1 and D2 need to be testable, and what is there; "" where nothing lacks."""
    least = plan.minimum["blocks"]
    blocks = {s: len(lines(points, conditions_of(points, s))) for s in (STYLES, CONTRAST)}
    doses = {s: len(conditions_of(points, s)) for s in (STYLES, CONTRAST)}
    most = {STYLES: plan.minimum["doses"], CONTRAST: LEAST_CONTRASTS}
    lacks = {"block": least - min(blocks.values())} | {s: most[s] - doses[s] for s in most}
    more = [f"{n} {what}{'s' if n > 1 else ''} more" for what, n in lacks.items() if n > 0]
    if not more:
        return ""
    wants = {
        s: f"{least} blocks with every {s} ({blocks[s]} are there) and {most[s]} {s}s ({doses[s]})"
        for s in most
    }
    fewest = min(blocks.values())
    p = f" With {fewest} blocks no two-sided sign-flip p lies below {2 / 2**fewest:.2g}."
    return (
        f"To be testable D1 needs {wants[STYLES]}; D2 needs also {wants[CONTRAST]}: "
        f"{', '.join(more)}." + (p if 0 < fewest < least else "")
    )


def trend(points: pd.DataFrame, rng: np.random.Generator) -> dict[str, Any]:
    """Return Page's test of the planned order of style doses; empty for fewer than 3 doses."""
    order = planned_order(list(dict.fromkeys(points["condition"])))
    table = points[points["condition"].isin(order)].pivot_table(
        index="block", columns="condition", values="gap", dropna=False
    )
    table = table.loc[np.isfinite(table.to_numpy(float)).all(axis=1)]
    if len(order) < 3 or len(table) < 2:
        return {}
    found = page_trend(table[order].to_numpy(float), rng=rng)
    return {
        "order": ", ".join(order),
        "statistic": found.statistic,
        "estimate": found.estimate,
        "pvalue": found.pvalue,
        "method": found.method,
        "n": found.n_blocks,
    }


def candidates(points: pd.DataFrame, plan: Plan, rng: np.random.Generator) -> list[Candidate]:
    """Return D1 and D2: the slope on style doses, and that on contrast doses within a quarter."""
    found = {s: lines(points, conditions_of(points, s)) for s in (STYLES, CONTRAST)}
    why = _short(points, found[STYLES], STYLES, plan)
    style = found[STYLES].set_index("block")["slope"]
    parts: list[Part] = []
    if len(style):
        parts = [part_of(plan.rule("D1", "slope"), style.to_numpy(float), plan, rng)]
    both = found[CONTRAST].set_index("block")["slope"].to_frame("contrast").join(style, how="inner")
    flat: list[Part] = []
    if len(both):
        slopes = both.to_numpy(float)
        for name, sign in (("flat", -1.0), ("not_below", 1.0)):
            d = slopes[:, 0] + 0.25 * sign * slopes[:, 1]
            flat.append(part_of(plan.rule("D2", name), d, plan, rng))
    second = "; ".join(filter(None, [why, _short(points, found[CONTRAST], CONTRAST, plan)]))
    return [
        Candidate(hypothesis="D1", parts=tuple(parts), not_testable=why),
        Candidate(hypothesis="D2", parts=tuple(flat), not_testable=second),
    ]


def _short(points: pd.DataFrame, line: pd.DataFrame, series: str, plan: Plan) -> str:
    """Return what a series lacks for a verdict, or ""."""
    conditions = conditions_of(points, series)
    spread = points[points["condition"].isin(conditions)]["dose"]
    least = plan.minimum["doses"] if series == STYLES else LEAST_CONTRASTS
    texts = []
    if len(line) < plan.minimum["blocks"]:
        texts.append(
            f"{counted(len(line), 'blocks')} with every {series} < {plan.minimum['blocks']}"
        )
    if len(conditions) < least:
        texts.append(f"{len(conditions)} {series}s < {least}")
    elif np.ptp(spread) < LEAST_RANGE:
        factor = math.exp(float(np.ptp(spread)))
        texts.append(f"the {series}s span a factor of {factor:.2f} in variance, 1.25 is the least")
    return "; ".join(texts)


def figure_source(
    points: pd.DataFrame, doses: pd.DataFrame, names: Mapping[str, str], rng: np.random.Generator
) -> pd.DataFrame:
    """Return the source of F11: trace, label, series, dose with bounds, value with bounds."""
    columns = ["dose", "dose_low", "dose_high"]
    at = {row["condition"]: {c: float(row[c]) for c in columns} for row in doses.to_dict("records")}
    rows: list[dict[str, Any]] = [
        {
            "trace": str(row["block"]),
            "label": "",
            "series": row["series"],
            "dose": row["dose"],
            "value": row["gap"],
        }
        for row in points.to_dict("records")
    ]
    for condition, own in points.groupby("condition", sort=False):
        gap = own["gap"].to_numpy(float)
        mean = mean_over_blocks(gap[np.isfinite(gap)], rng)
        place = at[str(condition)]
        rows.append(
            {
                "trace": "mean",
                "label": names.get(letter(str(condition)), str(condition)),
                "series": series_of(str(condition)),
                **place,
                "value": mean["estimate"],
                "low": mean["low"],
                "high": mean["high"],
            }
        )
    line = lines(points, conditions_of(points, STYLES))
    if len(line):
        inside = points[points["series"] == STYLES]["dose"]
        for dose in (float(inside.min()), float(inside.max())):
            value = float(line["intercept"].mean() + dose * line["slope"].mean())
            rows.append(
                {"trace": "line", "label": "", "series": STYLES, "dose": dose, "value": value}
            )
    columns = ["trace", "label", "series", "dose", "dose_low", "dose_high", "value", "low", "high"]
    return pd.DataFrame(rows, columns=columns)
