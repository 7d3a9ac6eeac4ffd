"""Diagnostics of method.md 3.5 beyond the table per tap: QQ of levels, share of specifications."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from statsnorm.decisions import CONTRADICTED, SUPPORTED, Decision, Plan
from statsnorm.removal.specifications import AXES
from statsnorm.removal.study import Frames, Study, primary_places

QQ_COLUMNS = ("tap", "arm", "factor", "level", "normal", "score")


def qq_table(study: Study, frames: Frames, plan: Plan) -> pd.DataFrame:
    """Return the scores of styles and images against normal quantiles, at two taps.

    The taps are the last of each primary place. Columns: tap, arm (frozen, at work), factor
    (style, content), level (rank, 1 the lowest), normal (quantile at (rank - 3/8)/(n + 1/4)),
    score (BLUP on the first principal axis, sd 1). Empty where the tables keep no scores.
    """
    kept = frames.get("blups", pd.DataFrame({"design": [], "tap": []}))
    rows = []
    for taps in primary_places(study, plan).values():
        for design, tap in taps[-1:]:
            mine = kept[(kept["design"] == design) & (kept["tap"] == tap)]
            for row in mine.to_dict("records"):
                scores = np.sort(np.asarray(row["scores"], dtype=np.float64))
                rank = np.arange(1, len(scores) + 1)
                normal = special.ndtri((rank - 0.375) / (len(scores) + 0.25))
                arm = "at work" if row["treatment"] == "none" else "frozen"
                head = {"tap": tap, "arm": arm, "factor": row["factor"]}
                points: dict[str, Any] = {"level": rank, "normal": normal, "score": scores}
                rows.append(pd.DataFrame({**head, **points}))
    columns = list(QQ_COLUMNS)
    return pd.concat(rows, ignore_index=True)[columns] if rows else pd.DataFrame(columns=columns)


def agreement_table(curve: pd.DataFrame, decisions: Sequence[Decision]) -> pd.DataFrame:
    """Return, for every claim, how many specifications meet its least effect, and agree.

    Columns: hypothesis, verdict, specifications (measured at every place), met (all rules of
    the claim met), share_met, share_agreeing (nan unless the verdict is supported or
    contradicted: others have nothing to agree with).
    """
    rows = []
    for decision in decisions:
        mine = curve[curve["hypothesis"] == decision.hypothesis]
        grouped = mine.groupby([name for name in AXES if name != "place"], sort=False)
        met = grouped["met"].all()[grouped["place"].nunique() == mine["place"].nunique()]
        share = float(met.mean()) if len(met) else math.nan
        agreeing = {SUPPORTED: share, CONTRADICTED: 1 - share}.get(decision.verdict, math.nan)
        rows.append(
            {
                "hypothesis": decision.hypothesis,
                "verdict": decision.verdict,
                "specifications": len(met),
                "met": int(met.sum()),
                "share_met": share,
                "share_agreeing": agreeing,
            }
        )
    return pd.DataFrame(rows)
