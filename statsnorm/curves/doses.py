"""Dose-response: the gap of a training set against the variance of its style statistics.

The dose of a condition is the between-image variance of VGG moments of the training images under
it, over that of the originals, as a log (mean over taps and both moments). A block is a random
effect: each has its own line, and the slopes of the blocks are what is tested.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from statsnorm.curves.study import CONDITIONS
from statsnorm.errors import StatsnormError
from statsnorm.images.doses import dose_of
from statsnorm.removal.ratios import interval

ORIGINAL, STYLE, PLACEBO = "original", "style", "placebo"
STYLES, CONTRAST, OTHER = "style dose", "contrast dose", "other condition"
EVERY_STYLE = math.inf  # how many styles `placebo` draws from: all of the generator's
CONFIDENCE = 0.95


def series_of(condition: str) -> str:
    """Say whether a condition is a dose of style, of contrast, or neither.

    >>> [series_of(c) for c in ("style", "styles-4", "blend-50", "placebo", "gains-60", "ck")][3:]
    ['style dose', 'contrast dose', 'other condition']
    """
    dose = dose_of(condition)
    if dose:
        return CONTRAST if dose.kind == "gains" else STYLES
    return STYLES if condition in (STYLE, PLACEBO) else OTHER


def planned_order(conditions: Sequence[str]) -> list[str]:
    """Return the longest series of style doses in its predicted order, least style first.

    Numbers of styles (`style` is one, `placebo` all), or blends from the fully styled down.
    """
    many = {c: float(d.amount) for c in conditions if (d := dose_of(c)) and d.kind == "styles"}
    many |= {c: n for c, n in ((STYLE, 1.0), (PLACEBO, EVERY_STYLE)) if c in conditions}
    blended = {c: -float(d.amount) for c in conditions if (d := dose_of(c)) and d.kind == "blend"}
    blended |= {c: -100.0 for c in (STYLE,) if c in conditions and "blend-100" not in blended}
    blended |= {c: 0.0 for c in (ORIGINAL,) if c in conditions}
    order = max((many, blended), key=len)
    return sorted(order, key=lambda c: (order[c], c))


def dose_table(traces: pd.DataFrame, network: str) -> pd.DataFrame:
    """Return condition, dose, dose_low, dose_high, images of every measured condition.

    Parameters
    ----------
    traces : DataFrame
        Of the manipulation checks: network, tap, condition, moment, images, values (trace of the
        between-image variance, then without each image).
    network : str
        Which VGG.

    Raises
    ------
    StatsnormError
        If the originals were not measured there.
    """
    mine = traces[(traces["network"] == network) & traces["moment"].isin(["m", "v"])]
    plain = mine[mine["condition"] == ORIGINAL]
    if not len(plain):
        raise StatsnormError(f"no moments of the originals at {network}; extract them too")
    base = {
        (t, m): np.log(np.asarray(v, float))
        for t, m, v in zip(plain["tap"], plain["moment"], plain["values"], strict=True)
    }
    rows = []
    for condition, own in mine.groupby("condition", sort=True):
        logs = [
            np.log(np.asarray(v, float)) - base[t, m]
            for t, m, v in zip(own["tap"], own["moment"], own["values"], strict=True)
        ]
        values = np.mean(logs, axis=0)  # (1 + n,)
        found = interval(values, (len(values) - 1,), confidence=CONFIDENCE)
        rows.append(
            {
                "condition": str(condition),
                "dose": found.estimate,
                "dose_low": found.low,
                "dose_high": found.high,
                "images": len(values) - 1,
            }
        )
    return pd.DataFrame(rows)


def gaps_by_dose(units: pd.DataFrame, doses: pd.DataFrame) -> pd.DataFrame:
    """Return one row a unit and condition: block, condition, series, dose, gap.

    Parameters
    ----------
    units : DataFrame
        block and G_<letter> of every condition (:func:`statsnorm.curves.contrasts.block_numbers`).
    doses : DataFrame
        Of :func:`dose_table`.
    """
    at = dict(zip(doses["condition"], doses["dose"], strict=True))
    rows = [
        {
            "block": block,
            "condition": condition,
            "series": series_of(condition),
            "dose": at[condition],
            "gap": float(value),
        }
        for column in units.columns
        if column.startswith("G_") and (condition := CONDITIONS.get(column[2:], column[2:])) in at
        for block, value in zip(units["block"], units[column], strict=True)
    ]
    table = pd.DataFrame(rows, columns=["block", "condition", "series", "dose", "gap"])
    return table.sort_values(["dose", "condition", "block"], ignore_index=True)
