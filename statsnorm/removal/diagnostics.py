"""Diagnostics of method.md 3.5 beyond the table per tap.

QQ plots of levels, the share of specifications that agree, and REML on a few channels beside the
mean squares that decide (method.md 2.4).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from statsnorm.decisions import CONTRADICTED, SUPPORTED, Decision, Plan
from statsnorm.removal.specifications import AXES
from statsnorm.removal.study import Frames, Study, primary_places
from statsnorm.stats.components import crossed_components
from statsnorm.stats.inputs import Array

CHECKED = 3  # channels a tap and arm, drawn at random
LARGEST = 1500  # images times styles: REML takes the cube of it
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


def reml_rows(y: Array, *, seed: int) -> Iterator[dict[str, Any]]:
    """Yield the components of a few random channels by mean squares and by REML.

    Contrast is fixed, so both are of the means over its levels: content, style, and the
    interaction, which is the residual there. On balanced data REML equals mean squares wherever
    these are not negative; it is held at 0 otherwise (`at_bound`).

    Parameters
    ----------
    y : ndarray, shape (I, S, K, C)
        Complete; nothing is checked where I times S is above 1,500.
    seed : int
        Of the choice of channels.
    """
    from statsnorm.mixed import reml_components  # statsmodels: only where it is used

    images, styles, _, channels = y.shape
    if images * styles > LARGEST:
        return
    chosen = np.sort(
        np.random.default_rng(seed).choice(channels, min(CHECKED, channels), replace=False)
    )
    image, style = np.indices((images, styles)).reshape(2, -1)
    part = y[..., chosen]
    fit = reml_components(
        part.mean(axis=2).reshape(len(image), -1), {"content": image, "style": style}
    )
    squares = crossed_components(part)
    values = {
        "content": (squares.content, fit.components["content"]),
        "style": (squares.style, fit.components["style"]),
        "content_style": (squares.content_style, fit.components["residual"]),
    }
    for place, channel in enumerate(chosen):
        for name, (ours, theirs) in values.items():
            yield {
                "channel": int(channel),
                "component": name,
                "mean_squares": float(ours[place]),
                "reml": float(theirs[place]),
                "at_bound": bool(fit.at_bound[place]),
            }


def reml_table(study: Study, frames: Frames) -> pd.DataFrame:
    """Return the rows of :func:`reml_rows` of one network; empty where the tables keep none."""
    rows = frames.get("reml", pd.DataFrame({"design": []}))
    mine = rows[rows["design"].isin(set(study.designs["design"]))]
    return mine.drop(columns="design").reset_index(drop=True)


def reml_sentence(label: str, table: pd.DataFrame) -> Iterator[str]:
    """Yield how far REML lies from mean squares, as a share of a channel's variance."""
    if not len(table):
        return
    by = ["tap", "treatment", "channel"]
    total = table.groupby(by)["reml"].transform("sum")
    gap = (table["mean_squares"] - table["reml"]).abs() / total
    inside = gap[~table["at_bound"].astype(bool)]
    bound = int(table[table["at_bound"].astype(bool)].groupby(by).ngroups)
    yield (
        f"REML on {table.groupby(by).ngroups} random channels of VGG taps of {label} lies within "
        f"{inside.max():.2g} of a channel's variance of the mean squares"
        + (f"; {bound} with a component at 0, where mean squares are negative" if bound else "")
        + "."
    )
