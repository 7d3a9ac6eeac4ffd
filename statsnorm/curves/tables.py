"""The tables of the figure 1 report and the sources of its figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from statsnorm.curves.claims import Judged, units_of
from statsnorm.curves.contrasts import LATE, START, block_numbers, contrast, linear
from statsnorm.curves.passage import speed_up
from statsnorm.curves.study import FAMILY, Study, deciding
from statsnorm.curves.summary import BN, IN
from statsnorm.decisions import Plan
from statsnorm.stats.effects import clopper_pearson, hedges_gz
from statsnorm.stats.equivalence import noninferiority_paired, paired_t, tost_paired
from statsnorm.stats.fieller import explained_fraction
from statsnorm.stats.permutation import sign_flip_test, simultaneous_band

Array = NDArray[np.float64]

NAMES = {
    "a": "(a) original",
    "b": "(b) equalised",
    "c": "(c) style-normalised",
    "ck": "(ck) style only",
    "pstar": "(p*) placebo",
    "p": "(p) random styles",
    "q": "(q) blur",
    "b2": "(b2) RGB equalised",
    "b3": "(b3) RGB standardised",
    "b4": "(b4) whitened",
    "b5": "(b5) CLAHE",
}
TWO_BY_TWO = {
    "removing contrast": "0.5 G_a - 0.5 G_b + 0.5 G_ck - 0.5 G_c",
    "removing style": "0.5 G_a - 0.5 G_ck + 0.5 G_b - 0.5 G_c",
    "interaction": "G_a - G_b - G_ck + G_c",
}
GAP_SCALE = "mean over time of log(loss of BN / loss of IN)"


def statistics(study: Study, plan: Plan) -> list[str]:
    """Return every gap, D, and the linear contrasts of the plan's F1 rules."""
    gaps = [f"G_{letter}" for letter in study.letters()]
    rules = [r.statistic for r in plan.rules if r.hypothesis in plan.families[FAMILY]]
    linear_ones = [s for s in rules if not s.startswith("|")]
    return list(dict.fromkeys([*gaps, "D", *linear_ones]))


def effects_table(study: Study, plan: Plan, rng: np.random.Generator) -> pd.DataFrame:
    """Return mean, interval, effect sizes and p-values of every statistic, window and scale.

    Columns: statistic, scale, window, n, estimate, low, high (paired t), ratio (exp of the
    estimate, log scale), g_z, g_low, g_high, predicted (share of units with the sign of the
    rule), predicted_low, predicted_high (Clopper-Pearson), p_flip, p_t (two-sided, unadjusted),
    medcouple, least, most (estimate without any one unit), p_styles (signs of whole target styles
    flipped, where styles repeat).
    """
    less = {r.statistic for r in plan.rules if r.side == "less"}
    rows = []
    for scale, start in (("log", START), ("log", LATE), ("raw", START), ("raw", LATE)):
        numbers = block_numbers(study, scale=scale, start=start)
        units, _ = units_of(numbers, plan)
        for name in statistics(study, plan):
            d = contrast(units, linear(name))
            d = d[np.isfinite(d)] if d is not None else np.zeros(0)
            if len(d):
                window = "whole" if start == START else "last 20 %"
                head = {"statistic": name, "scale": scale, "window": window}
                row = effect(d, rng, sign=-1 if name in less else 1, scale=scale)
                rows.append(head | row | {"p_styles": _whole_styles(units, name, rng)})
    return pd.DataFrame(rows)


def effect(d: Array, rng: np.random.Generator, *, sign: int, scale: str) -> dict[str, Any]:
    """Return the numbers of one row of :func:`effects_table` for differences d (n,)."""
    n, mean = len(d), float(d.mean())
    share = clopper_pearson(int((sign * d > 0).sum()), n)
    row: dict[str, Any] = {
        "n": n,
        "estimate": mean,
        "low": math.nan,
        "high": math.nan,
        "ratio": math.exp(mean) if scale == "log" else math.nan,
        "g_z": math.nan,
        "g_low": math.nan,
        "g_high": math.nan,
        "predicted": share.estimate,
        "predicted_low": share.low,
        "predicted_high": share.high,
        "p_flip": math.nan,
        "p_t": math.nan,
        "medcouple": math.nan,
        "least": math.nan,
        "most": math.nan,
    }
    if n < 2:
        return row
    t = paired_t(d)
    if n > 2:  # the correction of g_z is infinite at n = 2
        g = hedges_gz(d)
        row |= {"g_z": g.estimate, "g_low": g.low, "g_high": g.high}
    without = (d.sum() - d) / (n - 1)
    return row | {
        "low": float(t.low),
        "high": float(t.high),
        "p_flip": float(sign_flip_test(d, rng=rng).pvalue),
        "p_t": float(t.pvalue),
        "medcouple": medcouple(d),
        "least": float(without.min()),
        "most": float(without.max()),
    }


def _whole_styles(units: pd.DataFrame, statistic: str, rng: np.random.Generator) -> float:
    d = contrast(units, linear(statistic))
    assert d is not None
    use = np.isfinite(d)
    styles = units.loc[use, "target"].nunique()
    if not 2 <= styles < use.sum():
        return math.nan
    found = sign_flip_test(d[use], rng=rng, clusters=units.loc[use, "target"].to_numpy())
    return float(found.pvalue)


def medcouple(d: Array) -> float:
    """Return the medcouple of differences (n,): 0 symmetric, towards 1 a long right tail.

    Median over pairs x_i >= m >= x_j of ((x_i - m) - (m - x_j)) / (x_i - x_j), m the median [1]_.
    nan for fewer than three or equal differences.

    References
    ----------
    .. [1] G. Brys, M. Hubert, A. Struyf, J. Comput. Graph. Stat. 13 (2004), 996-1017, section 2.
    """
    if len(d) < 3 or not np.ptp(d) > 0:
        return math.nan
    x = d - np.median(d)
    high, low = np.meshgrid(x[x >= 0], x[x <= 0])
    apart = high > low
    kernel = (high[apart] + low[apart]) / (high[apart] - low[apart])
    ties = np.zeros(int((x == 0).sum()))  # their -1s and 1s cancel in the median
    return float(np.median(np.concatenate([kernel, ties])))


def blocks_table(study: Study) -> pd.DataFrame:
    """Return each kept block's numbers: gaps, D, late gaps and speed-ups."""
    table = block_numbers(study)
    late = block_numbers(study, start=LATE).drop(columns=["block", "target"])
    table = pd.concat([table, late.add_prefix("late_")], axis=1)
    for letter in study.letters():
        found = speed_up(study, letter).set_index("block")["q"]
        table[f"Q_{letter}"] = table["block"].map(found).astype(float)
    return table


def speed_table(study: Study) -> pd.DataFrame:
    """Return condition, blocks, never, median, least, most of the speed-up Q.

    `never`: blocks in which IN never reaches BN's final loss; there Q < 1, so they count as the
    least values of the median, which is nan where they are half of the blocks.
    """
    rows = []
    for letter in study.letters():
        found = speed_up(study, letter)
        if len(found):
            q = np.sort(found["q"].fillna(-np.inf).to_numpy(float))
            middle = float(np.median(q))
            reached = q[np.isfinite(q)]
            rows.append(
                {
                    "condition": letter,
                    "blocks": len(q),
                    "never": int(np.isinf(q).sum()),
                    "median": middle if np.isfinite(middle) else math.nan,
                    "least": float(reached.min()) if len(reached) == len(q) else math.nan,
                    "most": float(reached.max()) if len(reached) else math.nan,
                }
            )
    return pd.DataFrame(rows)


def explained_table(units: pd.DataFrame, letters: Sequence[str]) -> pd.DataFrame:
    """Return phi_d = 1 - mean G_d / mean G_a of every condition, with Fieller's interval."""
    rows = []
    for letter in letters:
        if letter == "a" or f"G_{letter}" not in units:
            continue
        both = units[["G_a", f"G_{letter}"]].dropna()
        if len(both) > 1:
            phi = explained_fraction(both[f"G_{letter}"], both["G_a"])
            rows.append(
                {
                    "condition": letter,
                    "phi": phi.estimate,
                    "low": phi.low,
                    "high": phi.high,
                    "bounded": phi.bounded,
                    "n": phi.n,
                }
            )
    return pd.DataFrame(rows, columns=["condition", "phi", "low", "high", "bounded", "n"])


def two_by_two_table(units: pd.DataFrame) -> pd.DataFrame:
    """Return both main effects and the interaction of removing contrast and style (a, b, ck, c)."""
    rows = []
    for name, statistic in TWO_BY_TWO.items():
        d = contrast(units, linear(statistic))
        d = d[np.isfinite(d)] if d is not None else np.zeros(0)
        if len(d) > 1:
            t = paired_t(d)
            row = {"effect": name, "statistic": statistic, "estimate": float(d.mean())}
            rows.append(row | {"low": float(t.low), "high": float(t.high), "n": len(d)})
    return pd.DataFrame(rows)


def equivalence_table(units: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Return the t companions of H4: non-inferiority, equivalence, and the absolute margin.

    Columns: claim, statistic, estimate, low, high (1 - 2 alpha interval), pvalue (one-sided; of
    two tests the larger), smallest_margin (absolute: the least at which it would pass).
    """
    margin = linear(plan.rule("H4", "noninferiority").statistic)
    other = linear(plan.rule("H4", "equivalence").statistic)
    d, below, above = (contrast(units, c) for c in ({"D": 1.0}, margin, other))
    if d is None or below is None or above is None:
        return pd.DataFrame()
    use = np.isfinite(d) & np.isfinite(below)
    if use.sum() < 2:
        return pd.DataFrame()
    absolute = plan.rule("H4", "absolute").null
    up = noninferiority_paired(below[use], margin=0, alpha=plan.alpha)
    down = noninferiority_paired(-above[use], margin=0, alpha=plan.alpha)
    both = tost_paired(d[use], low=-absolute, high=absolute, alpha=plan.alpha)
    mean = float(d[use].mean())
    nan = math.nan
    rows = [
        ("non-inferior", plan.rule("H4", "noninferiority").statistic, float(up.estimate), nan,
         float(up.high), float(up.pvalue), nan),
        ("equivalent", f"|D| < {abs(margin['G_a']):g} G_a", mean, nan, nan,
         max(float(up.pvalue), float(down.pvalue)), nan),
        ("equivalent, absolute", f"|D| < {absolute:.3g}", mean, float(both.low), float(both.high),
         float(both.pvalue), float(both.smallest_margin)),
    ]  # fmt: skip
    columns = ["claim", "statistic", "estimate", "low", "high", "pvalue", "smallest_margin"]
    return pd.DataFrame(rows, columns=columns)


def curves_source(study: Study, rng: np.random.Generator, letters: Sequence[str]) -> pd.DataFrame:
    """Return the source of F1: traces and means of the losses, log ratios with their band.

    Columns: condition (name), panel (loss, ratio), norm (in, bn, or "" for the ratio), trace
    (block, "geometric mean", "arithmetic mean" or "mean"), iteration, value, low, high.
    """
    rows: list[pd.DataFrame] = []
    for letter in letters:
        curves = {norm: study.curve(norm, letter) for norm in (IN, BN)}
        use = study.kept & np.all([np.isfinite(c).all(axis=1) for c in curves.values()], axis=0)
        if use.any():
            names = study.blocks.loc[use, "block"].tolist()
            both = {norm: c[use] for norm, c in curves.items()}
            for part in _traces(both, study, names, rng):
                part.insert(0, "condition", NAMES.get(letter, letter))
                rows.append(part)
    columns = ["condition", "panel", "norm", "trace", "iteration", "value", "low", "high"]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=columns)


def _traces(
    curves: dict[str, Array], study: Study, names: list[str], rng: np.random.Generator
) -> Iterator[pd.DataFrame]:
    grid = study.grids["heldout"]
    late = grid >= START * study.horizon * (1 - 1e-9)

    def frame(panel: str, norm: str, trace: str, at: Any, y: Any, low: Any, high: Any) -> Any:
        fixed = {"panel": panel, "norm": norm, "trace": trace}
        return pd.DataFrame({**fixed, "iteration": at, "value": y, "low": low, "high": high})

    nan = math.nan
    for norm, y in curves.items():
        for name, row in zip(names, y, strict=True):
            yield frame("loss", norm, name, grid, row, nan, nan)
        yield frame("loss", norm, "geometric mean", grid, np.exp(np.log(y).mean(0)), nan, nan)
        yield frame("loss", norm, "arithmetic mean", grid, y.mean(axis=0), nan, nan)
    ratio = np.log(curves[BN] / curves[IN])[:, late]
    for name, row in zip(names, ratio, strict=True):
        yield frame("ratio", "", name, grid[late], row, nan, nan)
    if len(ratio) > 1:
        band = simultaneous_band(ratio, rng=rng)
        yield frame("ratio", "", "mean", grid[late], band.estimate, band.low, band.high)
    else:
        yield frame("ratio", "", "mean", grid[late], ratio[0], nan, nan)


def gaps_source(study: Study, j: Judged, plan: Plan) -> pd.DataFrame:
    """Return the source of F2: per-unit gaps, their mean and interval, and D with its margin.

    Columns: place, trace (unit, or "mean"), value, low, high, margin (half width at D, else nan).
    """
    rows: list[dict[str, Any]] = []
    share = abs(linear(plan.rule("H4", "noninferiority").statistic)["G_a"])
    margin = share * float(j.units["G_a"].mean()) if "G_a" in j.units else math.nan
    places = {f"G_{x}": NAMES.get(x, x) for x in study.letters()} | {"D": "D BN(c) / IN(a)"}
    for column, place in places.items():
        if column not in j.units:
            continue
        at = j.units[["block", column]].dropna()
        d = at[column].to_numpy(float)
        half = margin if column == "D" else math.nan
        for name, value in at.itertuples(index=False, name=None):
            rows.append({"place": place, "trace": name, "value": value, "margin": half})
        if len(d):
            row = {"place": place, "trace": "mean", "value": float(d.mean()), "margin": half}
            t = paired_t(d) if len(d) > 1 else None
            ends = {"low": float(t.low), "high": float(t.high)} if t else {}
            rows.append(row | ends)
    return pd.DataFrame(rows, columns=["place", "trace", "value", "low", "high", "margin"])


def pareto_source(study: Study, letters: Sequence[str], *, points: int = 11) -> pd.DataFrame:
    """Return content against style loss at matched iterations: geometric means over kept blocks.

    Columns: condition (name), norm, iteration, content, style.
    """
    rows = []
    grid = study.grids["heldout"]
    first = int(np.searchsorted(grid, START * study.horizon))
    at = np.unique(np.linspace(first, len(grid) - 1, points).round().astype(int))
    for letter in letters:
        for norm in (IN, BN):
            both = [study.curve(norm, letter, loss=loss) for loss in ("content", "style")]
            use = study.kept & np.all([np.isfinite(c).all(axis=1) for c in both], axis=0)
            if use.any():
                content, style = (np.exp(np.log(c[use][:, at]).mean(axis=0)) for c in both)
                fixed = {"condition": NAMES.get(letter, letter), "norm": norm}
                columns = {"iteration": grid[at], "content": content, "style": style}
                rows.append(pd.DataFrame({**fixed, **columns}))
    columns_ = ["condition", "norm", "iteration", "content", "style"]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=columns_)


def forest_source(j: Judged) -> pd.DataFrame:
    """Return the source of F6: every part with its thresholds."""
    rows = [
        {
            "label": f"{d.hypothesis} {p.rule.statistic}",
            "scale": GAP_SCALE,
            "estimate": p.estimate,
            "low": p.low,
            "high": p.high,
            "null": p.rule.null,
            "min_effect": p.rule.min_effect,
            "verdict": d.verdict,
        }
        for d in j.decisions
        for p in d.parts
    ]
    return pd.DataFrame(rows)


def main_letters(study: Study, plan: Plan) -> list[str]:
    """Return the deciding conditions that were trained, in figure order."""
    needed = deciding(plan)
    return [x for x in study.letters() if x in needed]
