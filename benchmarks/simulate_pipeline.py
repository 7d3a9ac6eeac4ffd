"""Simulations of whole analyses: their null, and a planted truth (method.md 8.2, 5)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from simulate import Values, repeated

from statsnorm.decisions import SUPPORTED, load_plan
from statsnorm.report.discover import find_analyses
from statsnorm.report.model import Report

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from synthetic_curves import Planted
from synthetic_tables import SyntheticTables, planted_study

from statsnorm.curves.claims import judge, units_of
from statsnorm.curves.contrasts import block_numbers
from statsnorm.curves.study import study_of
from statsnorm.curves.summary import curve_frames

FACTORS = {"style": "S", "content": "I", "contrast": "K"}
LOSSES = ["style_loss", "content_loss", "total_loss"]
TRUTH = {"style": 0.8, "content": 0.3, "contrast": 1.0}


def removed_variance(tables: SyntheticTables, seed: int) -> Report:
    """Return the report of the analysis `removed_variance`."""
    (analysis,) = find_analyses(["removed_variance"])
    frames = analysis.function("summarise")(tables)
    found = analysis.function("run")(frames, load_plan(), np.random.default_rng(seed))
    assert isinstance(found, Report)
    return found


def identical(rng: np.random.Generator, replicates: int) -> Values:
    """Return the largest R and the supported claims where both arms are one network."""

    def once(rng: np.random.Generator) -> dict[str, float]:
        tables = planted_study(rng, keep=(1, 1, 1), keep_untrained=(1, 1, 1), pixel=1.0, channels=6)
        before = {
            tuple(sorted((k, v) for k, v in row.items() if k != "treatment")): (mean, var)
            for row, _, mean, var in tables.blocks
            if row["treatment"] == "frozen:prefix"
        }
        for i, (row, labels, mean, var) in enumerate(tables.blocks):
            key = tuple(sorted((k, v) for k, v in row.items() if k != "treatment"))
            if row["treatment"] == "none" and not row["by_construction"]:
                tables.blocks[i] = (row, labels, *before.get(key, (mean, var)))
        found = removed_variance(tables, int(rng.integers(2**31)))
        removed = found.tables["removed"]
        known = removed.loc[~removed["by_construction"], "estimate"].dropna()
        return {
            "R of identical arms": float(known.abs().max()),
            "supported claims of F2": float(sum(c.verdict == SUPPORTED for c in found.claims)),
        }

    return repeated(once, rng, replicates)


def identical_curves(rng: np.random.Generator, replicates: int) -> Values:
    """Return the largest gap and the supported claims where both norms are one network."""
    plan = load_plan()

    def once(rng: np.random.Generator) -> dict[str, float]:
        planted_curves = Planted(seed=int(rng.integers(2**31)))
        curves = planted_curves.curves()
        curves = curves[curves["bn_mode"] == "train"].reset_index(drop=True)
        keys = ["block", "condition", "iteration", "split"]
        twin = curves[curves["norm"] == "in"].set_index(keys)[LOSSES]
        curves[LOSSES] = twin.loc[pd.MultiIndex.from_frame(curves[keys])].to_numpy()
        study = study_of(curve_frames([(planted_curves.run_config(), curves)]), plan)
        units, _ = units_of(block_numbers(study), plan)
        gaps = units.filter(like="G_").to_numpy(float)
        found = judge(units, plan, rng)
        return {
            "G of identical arms": float(np.abs(gaps).max()),
            "supported claims of F1": float(sum(d.verdict == SUPPORTED for d in found)),
        }

    return repeated(once, rng, replicates)


def planted(rng: np.random.Generator, replicates: int) -> Values:
    """Return the mean error of R over the taps of the analysis, for planted fractions."""

    def once(rng: np.random.Generator) -> dict[str, float]:
        tables = planted_study(rng, conditions=False, untrained=0, channels=6)
        removed = removed_variance(tables, int(rng.integers(2**31))).tables["removed"]
        rows = removed[
            (removed["moment"] == "v")
            & (removed["baseline"] == "frozen:prefix")
            & removed["low"].notna()
        ]
        return {
            f"R {name} in the report": float(rows.loc[rows["factor"] == f, "estimate"].mean())
            - TRUTH[name]
            for name, f in FACTORS.items()
        }

    return repeated(once, rng, replicates)
