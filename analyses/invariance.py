"""Which changes of contrast does the network undo exactly, and which must it not?

An instance normaliser behind the first convolution undoes every gain, and every offset unless the
convolution pads with zeros; it cannot undo gamma, per-channel gains, equalisation or 8-bit
rounding. Rows that must hold and rows that must fail are judged against fixed limits, in float64
with eps 0, and in float32 with the trained eps against the predicted ratio of standard deviations.
Unit: one network; nothing is sampled, so there is no interval and no family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import pandas as pd

from statsnorm.decisions import Plan
from statsnorm.report.model import Report

EXACT = 1e-10  # float64, eps 0: largest relative change of what must hold
RATIO = 1e-4  # float32, trained eps: largest relative error of the predicted ratio
BROKEN = 1e-3  # smallest relative change of what must fail


class InvarianceTables(Protocol):
    """What this analysis needs of the tables."""

    def invariance(self) -> pd.DataFrame:
        """Return the invariance rows."""


def summarise(tables: InvarianceTables) -> dict[str, pd.DataFrame]:
    """Return the invariance rows as they are (a few dozen a network); empty if there are none."""
    rows = tables.invariance()
    return {"invariance": rows.reset_index(drop=True)} if len(rows) else {}


def run(tables: Mapping[str, pd.DataFrame], plan: Plan, rng: np.random.Generator) -> Report:  # noqa: ARG001
    """Judge every row and count the violations."""
    rows = tables["invariance"].copy()
    rows["as_it_must"] = judge(rows)
    return Report(
        name="invariance",
        title="Exact invariances",
        question=(__doc__ or "").strip(),
        findings=tuple(_findings(rows)),
        tables={"invariance": rows},
        scope={"networks with an exact invariance": "; ".join(dict.fromkeys(rows["network"]))},
        methods=(
            f"Must hold: relative L2 change below {EXACT:g} in float64 with eps 0; in float32 "
            f"with the trained eps the ratio of standard deviations is within {RATIO:g} of "
            f"sqrt((v + eps) / (v + eps / g^2)). Must fail: relative L2 change above {BROKEN:g}.",
        ),
    )


def judge(rows: pd.DataFrame) -> pd.Series:
    """Return whether each row is as it must be."""
    change = rows["relative_change"].astype(float)
    off = (rows["ratio_observed"].astype(float) / rows["ratio_formula"].astype(float) - 1).abs()
    holds = np.where(rows["eps_mode"] == "0", change < EXACT, off < RATIO)
    return pd.Series(np.where(rows["must"] == "fail", change > BROKEN, holds), index=rows.index)


def _findings(rows: pd.DataFrame) -> list[str]:
    found = []
    for network, mine in rows.groupby("network", sort=False):
        bad = mine[~mine["as_it_must"]]
        held = mine[(mine["must"] == "hold") & (mine["eps_mode"] == "0")]
        worst = held["relative_change"].max()
        text = (
            f"{network}: {len(mine) - len(bad)} of {len(mine)} rows are as they must be; the "
            f"largest change where invariance must be exact is {worst:.2g}"
        )
        listed = ", ".join(
            f"{t} ({s}, {d}, must {m}): {c:.2g}"
            for t, s, d, m, c in zip(
                *(bad[k] for k in ("transform", "scope", "dtype", "must", "relative_change")),
                strict=True,
            )
        )
        found.append(f"{text}; violated: {listed}." if listed else f"{text}.")
    return found
