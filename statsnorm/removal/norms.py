"""Normalisers side by side in the `removed_variance` report, trained networks as the units."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from statsnorm.decisions import Plan
from statsnorm.removal.between import difference_table, mean_table, network_table
from statsnorm.removal.study import CONFIDENCE, Frames
from statsnorm.removal.units import Unit, units_of
from statsnorm.report.model import Figure
from statsnorm.wording import counted

REFERENCE = "bn"
LOGS = {name: name for name in ("V_S", "V_I", "V_K", "V_S / V_I")} | {"Psi": "kept S / kept I"}


def norms_side_by_side(
    frames: Frames, plan: Plan, rng: np.random.Generator
) -> dict[str, pd.DataFrame]:
    """Return `networks`, `network_means`, `between_norms`; nothing without trained cells.

    The last checkpoint of every cell; groups are norms within one network and training condition.
    """
    units = [u for u in units_of(frames, plan) if u.key["cell"] and u.trained]
    families: dict[tuple[str, ...], dict[str, list[Unit]]] = {}
    for unit in units:
        norms = families.setdefault(unit.family, {})
        norms.setdefault(_label(unit), []).append(unit)
    tables: dict[str, list[pd.DataFrame]] = {}
    for family in sorted(families):
        groups = dict(sorted(families[family].items()))
        reference = next((g for g, own in groups.items() if own[0].key["norm"] == REFERENCE), "")
        for name, table in (
            ("networks", network_table(groups)),
            ("network_means", mean_table(groups)),
            ("between_norms", difference_table(groups, plan, rng=rng, reference=reference)),
        ):
            tables.setdefault(name, []).append(table)
    joined = {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items()}
    if len(joined.get("between_norms", ())):
        joined["norm_effects"] = effect_points(joined["between_norms"])
    return joined


def effect_points(differences: pd.DataFrame) -> pd.DataFrame:
    """Return the source of the figure: log ratios of variances at work, by place."""
    rows = differences[differences["quantity"].isin(LOGS) & np.isfinite(differences["estimate"])]
    return pd.DataFrame(
        {
            "label": rows["quantity"].map(LOGS) + ", " + rows["place"],
            "group": rows["first"] + " against " + rows["second"],
            "estimate": rows["estimate"].to_numpy(float),
            "low": rows["low"].to_numpy(float),
            "high": rows["high"].to_numpy(float),
        }
    )


def networks_figure(tables: Mapping[str, pd.DataFrame]) -> tuple[Figure, ...]:
    """Return the figure of normalisers against each other, if there is anything to draw."""
    if not len(tables.get("norm_effects", ())):
        return ()
    rows = tables["between_norms"]
    pairs = zip(rows["n"], rows["paired"], strict=True)
    counts = ", ".join(dict.fromkeys(_n_words(n, paired) for n, paired in pairs))
    return (
        Figure(
            name="between_norms",
            draw="dots",
            table="norm_effects",
            options={"xlabel": "log ratio (below 0: the first norm has less)", "threshold": 0.0},
            caption=f"Variance of log sd left in networks of one norm against those of another; "
            f"{counts}. Bars: 95 % jackknife-t intervals over networks, images and styles.",
            alt="Log ratios of variance components between normalisers, one dot a component.",
        ),
    )


def network_sentences(tables: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    """Yield one sentence a pair of norms and place: style, content, and whether it is testable."""
    rows = tables.get("between_norms")
    if rows is None:
        return
    for (first, second, place), mine in rows.groupby(["first", "second", "place"], sort=False):
        by = {str(row["quantity"]): row for row in mine.to_dict("records")}
        words = [
            f"{name} {_ratio_words(by[q])}"
            for q, name in (("V_S", "style"), ("V_I", "content"))
            if q in by
        ]
        if not words:
            continue
        row = by["V_S" if "V_S" in by else "V_I"]
        verdict = f"; {row['status']}" if row["status"] else f"; p = {row['pvalue']:.2g} for style"
        yield (
            f"{first} against {second} at {place}, {_n_words(row['n'], row['paired'])}: variance "
            f"of log sd at work, {' and '.join(words)} times that of the other{verdict}."
        )


def _ratio_words(row: Mapping[Any, Any]) -> str:
    estimate, low, high = (
        math.exp(float(row[name])) if math.isfinite(float(row[name])) else math.nan
        for name in ("estimate", "low", "high")
    )
    if math.isnan(low):
        return f"{estimate:.3g} (no interval)"
    return f"{estimate:.3g} ({low:.3g} to {high:.3g}, {100 * CONFIDENCE:.0f} %)"


def _label(unit: Unit) -> str:
    key, on = unit.key, f", trained on {unit.condition}" if unit.condition else ""
    how = "" if key["bn_mode"] == "eval" else f", {key['bn_mode']} mode, {key['batch_kind']}"
    index = f", index {key['index']}" if key["index"] else ""
    return f"{key['net']} {key['norm']}{index}{how}{on}"


def _n_words(n: int, paired: object) -> str:
    return f"{counted(n, 'blocks')} in pairs" if paired else f"{counted(n, 'networks')}, unpaired"
