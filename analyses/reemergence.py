"""Does the style that a normaliser removes come back, and does learning make removal selective?

Right behind an instance normaliser every image has the same moments; a ReLU and a convolution let
part of the variance back in (method.md 5.6). By depth: V_S, V_I and V_K of log sds at every tap, at
work and with the normalisers frozen, trained against untrained; by the kind of tap behind a
normaliser: the share that is back. By training iteration: V, R and the selectivity Psi (log of
style kept over content kept) of kept checkpoints. Unit: the trained network where there are
several (paired by cell between iterations), images and styles within one network (two-way
jackknife). Descriptive, no family: Psi falling below that of the same networks at iteration 0 is
what learned selectivity would look like; below the planned number of blocks the test of it is
"not testable".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from statsnorm.decisions import Plan
from statsnorm.removal.between import difference_table, mean_table
from statsnorm.removal.checkpoints import checkpoint_statistics
from statsnorm.removal.crossed import MomentTables
from statsnorm.removal.depth import STEPS, depth_profile, step_table
from statsnorm.removal.evidence import against_untrained, spread
from statsnorm.removal.stages import (
    TRAINED,
    UNTRAINED,
    Stages,
    by_iteration,
    by_last_iteration,
    group_of,
    is_fixed,
    stages_of,
    trend_table,
    untrained_of,
    value_of,
)
from statsnorm.removal.units import Unit, over_networks, units_of
from statsnorm.report.model import Figure, Report
from statsnorm.wording import counted

PANELS = ("Psi", "R_S", "R_I", "V_S", "V_I", "R_K")
MOST_PROFILES = 4  # figures by depth; the tables hold every group


def summarise(tables: MomentTables) -> dict[str, pd.DataFrame]:
    """Reduce the crossed designs of all networks and checkpoints; empty if there is none."""
    return checkpoint_statistics(tables)


def run(tables: Mapping[str, pd.DataFrame], plan: Plan, rng: np.random.Generator) -> Report:
    """Report variance by depth and over training for every group of networks."""
    units = units_of(tables, plan)
    stages = stages_of(units)
    profile, steps = depth_profile(stages, tables, plan), step_table(stages, tables, plan)
    over = by_iteration(units)
    learned = _learned(over, plan, rng)
    selectivity = _selectivity(stages)
    named = {
        "selectivity": selectivity,
        "steps": steps,
        "over_training": _means(over),
        "learned": learned,
        "trend": trend_table(over, plan, rng),
        "traces": _traces(over, plan),
        "profile": profile,
    }
    fixed = {group for (group, _), own in stages.items() if is_fixed(own)}
    named |= _profile_sources(profile, fixed)
    return Report(
        name="reemergence",
        title="Variance that comes back behind a normaliser",
        question=(__doc__ or "").strip(),
        headline=_headline(named),
        findings=tuple(_findings(named, plan, fixed)),
        tables={name: table for name, table in named.items() if len(table)},
        figures=tuple(_figures(named, plan)),
        scope=_scope(units) if units else {},
        methods=(
            "Components by expected mean squares with contrast fixed, log sd, means over channels; "
            "frozen: every normaliser up to the tap replaced by the affine map that it is on "
            "average. Shares of the frozen variance: means over taps and networks of V(at work) / "
            "V(frozen), delete-one jackknife on the log scale over networks (of two and more) and, "
            "at inputs of normalisers and residual sums of trained networks, over images and "
            "styles. Means over networks are of logs of V and of what is kept, of Psi itself; "
            "intervals over networks add those of images and styles where their replicates are "
            "kept (last iterations). Differences between iterations are paired by cell.",
            "Batch normalisers run on running statistics (at iteration 0 still mean 0 and variance "
            "1): one affine map for all images. It adapts to none, so R and Psi of them say only "
            "how that map and the frozen one differ behind a ReLU; no Psi is tested.",
        ),
        limitations=tuple(_limitations(units, plan)),
        appendix=("profile", "traces", *(n for n in named if n.startswith("by_depth"))),
        picture=_picture(named),
    )


def _means(over: Mapping[str, Mapping[int, Sequence[Unit]]]) -> pd.DataFrame:
    frames = []
    for group, steps in over.items():
        table = mean_table({str(i): own for i, own in steps.items()})
        frames.append(table.rename(columns={"group": "iteration"}).assign(group=group))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _learned(
    over: Mapping[str, Mapping[int, Sequence[Unit]]], plan: Plan, rng: np.random.Generator
) -> pd.DataFrame:
    """Return every later iteration against iteration 0, paired by cell."""
    frames = []
    for group, steps in over.items():
        if 0 not in steps:
            continue
        named = {str(i): own for i, own in steps.items()}
        table = difference_table(named, plan, rng=rng, by="cell", reference="0")
        table = table.rename(columns={"first": "iteration", "second": "against"})
        table.loc[table["status"] != "", ["pvalue", "p_sign_flip"]] = math.nan
        frames.append(table.assign(group=group))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _traces(over: Mapping[str, Mapping[int, Sequence[Unit]]], plan: Plan) -> pd.DataFrame:
    """Return the source of the figure over training, at the first primary place."""
    place, rows = f"mean over {plan.primary['mean_over']}", []
    means = _means(over)
    for group, steps in over.items():
        for panel in PANELS:
            shared = {"group": group, "panel": panel}
            for iteration, units in steps.items():
                for unit in units:
                    value = value_of(unit, place, panel)
                    if math.isfinite(value):
                        rows.append({**shared, "trace": str(unit.key["cell"]),
                                     "iteration": iteration, "estimate": value})  # fmt: skip
            mine = means[(means["group"] == group) & (means["place"] == place)]
            for row in mine[mine["quantity"] == panel].to_dict("records"):
                values = {k: row[k] for k in ("estimate", "low", "high")}
                iteration = int(row["iteration"])
                rows.append({**shared, "trace": "mean", "iteration": iteration, **values})
    columns = ["group", "panel", "trace", "iteration", "estimate", "low", "high"]
    table = pd.DataFrame(rows, columns=columns)
    return table[table["panel"].isin(_varying(table))].reset_index(drop=True)


def _varying(table: pd.DataFrame) -> list[str]:
    return [p for p, rows in table.groupby("panel", sort=False) if rows["estimate"].notna().any()]  # type: ignore[misc]


def _selectivity(stages: Stages) -> pd.DataFrame:
    """Return Psi of every trained group, of its untrained networks, and the difference."""
    rows = []
    for (group, stage), units in stages.items():
        if stage != TRAINED or is_fixed(units):
            continue
        fresh = untrained_of(group, stages)
        for place in dict.fromkeys(p for unit in units for p, _ in unit.measured):
            vectors = [u.measured[place, "Psi"] for u in units if (place, "Psi") in u.measured]
            vectors = [v for v in vectors if math.isfinite(v[0])]
            if not vectors:
                continue
            trained = over_networks(vectors, units[0].groups)
            values = [value_of(u, place, "Psi") for u in fresh]
            random = spread([v for v in values if math.isfinite(v)])
            gap = against_untrained(trained.all, random, population=trained.n > 1)
            rows.append(
                {
                    "group": group,
                    "place": place,
                    "Psi": trained.all.estimate,
                    "low": trained.all.low,
                    "high": trained.all.high,
                    "untrained": random.mean,
                    "untrained_low": random.low,
                    "untrained_high": random.high,
                    "learned": gap.estimate,
                    "learned_low": gap.low,
                    "learned_high": gap.high,
                    "n": trained.n,
                    "n_untrained": random.n,
                }
            )
    return pd.DataFrame(rows)


def _profile_sources(profile: pd.DataFrame, fixed: set[str]) -> dict[str, pd.DataFrame]:
    """Return one source a figure by depth: a trained group with its untrained networks."""
    found = {}
    groups = profile.loc[profile["stage"] == TRAINED, "group"].drop_duplicates().tolist()
    adaptive = [group for group in groups if group not in fixed]
    for i, group in enumerate(adaptive[:MOST_PROFILES]):
        base = group.split(", trained on ")[0]
        mine = (profile["group"] == group) | (
            (profile["group"] == base) & (profile["stage"] == UNTRAINED)
        )
        rows = profile[mine & profile["factor"].isin(["S", "I"])]
        found[f"by_depth_{i}"] = rows.reset_index(drop=True)
    return found


def _figures(named: Mapping[str, pd.DataFrame], plan: Plan) -> Iterator[Figure]:
    if _drawn("over_training", named):
        n = named["over_training"]["n"].max()
        yield Figure(
            name="over_training",
            draw="over_training",
            table="traces",
            caption=(
                f"Mean over {plan.primary['mean_over']} taps over training: up to "
                f"{counted(n, 'networks')} a group (thin lines) and their mean with its 95 % "
                "interval over networks; at the last iteration over networks, images and styles. "
                "V: natural logs; R: fractions; Psi below 0: more style than content is removed."
            ),
            alt="Selectivity, removed fractions and variances by training iteration.",
        )
    for name in (n for n in named if n.startswith("by_depth")):
        rows = named[name]
        trained = rows[rows["stage"] == TRAINED]
        group, n = trained["group"].iloc[0], int(trained["n"].max())
        fresh = rows.loc[rows["stage"] == UNTRAINED, "n"]
        over = "networks" if n > 1 else "images and styles (two-way jackknife)"
        yield Figure(
            name=name,
            draw="variance_by_depth",
            table=name,
            caption=f"{group}: variance of log sd by depth; {n} trained and "
            f"{counted(0 if fresh.empty else int(fresh.max()), 'untrained networks')}; "
            "bars: 95 % intervals "
            f"over {over}; grey band: 95 % t interval of the untrained mean.",
            alt=f"Style and content variance at every tap of {group}, at work and frozen.",
        )


def _drawn(name: str, named: Mapping[str, pd.DataFrame]) -> bool:
    return len(named.get("traces" if name == "over_training" else name, ())) > 0


def _picture(named: Mapping[str, pd.DataFrame]) -> str:
    """Return the figure of the first screen: by depth where the taps at normalisers are there."""
    profiles = [name for name in named if name.startswith("by_depth")]
    whole = [name for name in profiles if named[name]["by_construction"].any()]
    over = ["over_training"] if _drawn("over_training", named) else []
    return next(iter([*whole, *over, *profiles]), "")


def _headline(named: Mapping[str, pd.DataFrame]) -> str:
    """Say, for every group, what is back in front of the next normaliser and what was learned."""
    steps, texts = named["steps"], []
    there = steps[(steps["factor"] == "S") & (steps["step"] == STEPS["next_pre_norm"])]
    back = {(r["group"], r["stage"]): _share(r) for r in there.to_dict("records")}
    for row in named["selectivity"].drop_duplicates("group").to_dict("records"):
        group = str(row["group"])
        fresh = back.get((group.split(", trained on ")[0], UNTRAINED), "")
        if (group, TRAINED) not in back:
            continue
        text = (
            f"{group} ({row['n']} trained): in front of the next normaliser {back[group, TRAINED]} "
            "of the style variance of the frozen network"
        )
        text += f", untrained {fresh}" if fresh else ""
        if row["n_untrained"] > 1:
            paired = _last_learned(named["learned"], group, str(row["place"]))
            text += (
                f"; training changed Psi at {row['place']} by "
                f"{_range(paired, 'estimate', 'low', 'high')}"
                if paired
                else f"; Psi at {row['place']} less that of random weights "
                f"{_range(row, 'learned', 'learned_low', 'learned_high')}"
            )
        texts.append(text + ".")
    return " ".join(texts)


def _share(row: Mapping[Any, Any]) -> str:
    """Return "22 % (15 to 33)"."""
    if math.isnan(float(row["low"])):
        return f"{100 * row['kept']:.0f} % (no interval)"
    return f"{100 * row['kept']:.0f} % ({100 * row['low']:.0f} to {100 * row['high']:.0f})"


def _last_learned(learned: pd.DataFrame, group: str, place: str) -> Mapping[Any, Any]:
    """Return the paired difference of Psi at the last iteration, or nothing."""
    if not len(learned):
        return {}
    mine = learned[(learned["group"] == group) & (learned["place"] == place)]
    rows = mine[mine["quantity"] == "Psi"].to_dict("records")
    return max(rows, key=lambda row: int(row["iteration"]), default={})


def _findings(named: Mapping[str, pd.DataFrame], plan: Plan, fixed: set[str]) -> Iterator[str]:
    for row in named["selectivity"].to_dict("records"):
        text = f"{row['group']} at {row['place']}: Psi = {_range(row, 'Psi', 'low', 'high')}, "
        text += _reading(float(row["low"]), float(row["high"]))
        if row["n_untrained"] > 1:
            text += (
                f"; {counted(row['n_untrained'], 'untrained networks')} "
                f"{row['untrained']:.2f}; unpaired difference "
                f"{_range(row, 'learned', 'learned_low', 'learned_high')} "
                f"({_direction(row['learned_low'], row['learned_high'])})"
            )
        few = 1 < row["n"] < plan.minimum["blocks"]
        short = (
            f"; not testable: {counted(row['n'], 'networks')} < {plan.minimum['blocks']}"
            if few
            else ""
        )
        yield text + short + "."
    steps = named["steps"]
    for (group, stage), rows in steps[steps["factor"] == "S"].groupby(["group", "stage"]):
        if group not in fixed:
            parts = [
                f"{_range(r, 'kept', 'low', 'high', digits='.2g')} {r['step']}"
                for r in rows.to_dict("records")
            ]
            yield f"{group}, {stage}: style variance relative to frozen, {'; '.join(parts)}."
    learned = named["learned"]
    if len(learned):
        last = learned[learned["quantity"] == "Psi"]
        for (group, place), rows in last.groupby(["group", "place"], sort=False):
            row = max(rows.to_dict("records"), key=lambda r: int(r["iteration"]))
            if group in fixed:
                continue
            verdict = str(row["status"]) or (
                f"p = {row['pvalue']:.2g}, sign flips {row['p_sign_flip']:.2g}"
            )
            yield (
                f"{group} at {place}: Psi after {row['iteration']} iterations less Psi at 0 of the "
                f"same cells, {_range(row, 'estimate', 'low', 'high')}, n = {row['n']}; {verdict}."
            )


def _range(row: Mapping[Any, Any], *names: str, digits: str = ".2f") -> str:
    estimate, low, high = (float(row[name]) for name in names)
    if math.isnan(low):
        return f"{estimate:{digits}} (no interval)"
    return f"{estimate:{digits}} ({low:{digits}} to {high:{digits}})"


def _reading(low: float, high: float) -> str:
    """Say which factor goes more thoroughly, as far as the interval of Psi shows it."""
    if high < 0:
        return "style goes more thoroughly than content"
    return "content goes more thoroughly than style" if low > 0 else "neither, as far as shown"


def _direction(low: float, high: float) -> str:
    if math.isnan(low):
        return "no interval"
    if high < 0:
        return "lower: further towards style"
    return "higher: further towards content" if low > 0 else "either way"


def _scope(units: Sequence[Unit]) -> dict[str, str]:
    cells = {u.key["cell"] for u in units if u.key["cell"]}
    shipped = sorted({group_of(u) for u in units if not u.key["cell"] and u.trained})
    fresh = {(group_of(u), u.key["seed"]) for u in units if not u.trained}
    images, styles = units[0].groups
    budgets = sorted({str(u.key["iteration"]) for u in by_last_iteration(units) if u.key["cell"]})
    how = f" ({', '.join(budgets)} iterations)" if budgets else ""
    return {
        "networks of re-emergence": (
            f"{counted(len(cells), 'trained cells')}{how}, {len(fresh)} untrained"
        )
        + (f", {', '.join(shipped)}" if shipped else ""),
        "design of re-emergence": f"{counted(images, 'images')} x {counted(styles, 'styles')}",
    }


def _limitations(units: Sequence[Unit], plan: Plan) -> Iterator[str]:
    if any(not u.key["cell"] and u.trained for u in units):
        yield "A network that came with its weights is one network: its rows are for that network."
    cells = len({u.key["cell"] for u in units if u.key["cell"]})
    if cells:
        yield (
            "Trained cells share training images and budget; size, width and iterations of the "
            "training stand in the provenance and bound what their selectivity says of others."
        )
    if any(u.groups[1] <= plan.minimum["caution_styles"] for u in units):
        yield (
            f"Caution: {counted(units[0].groups[1], 'styles')} or fewer; 16 or more are "
            "recommended."
        )
