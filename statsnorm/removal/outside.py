"""How much of the inputs lay outside [0, 1], where nothing is clipped (method.md 2.1, 3.5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from statsnorm.removal.ratios import t_quantile
from statsnorm.removal.words import number, percent

CONFIDENCE = 0.95
BY = ("condition", "generator", "strength", "restore", "contrast", "level")
COLUMNS = (*BY, "images", "inputs", "outside", "low", "high", "touched", "least", "greatest")
UNRECORDED = (
    "the share of input values outside [0, 1]: the runs are older than the table that holds it"
)


def outside_statistics(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the share of values outside [0, 1] by condition, style generator and level.

    Parameters
    ----------
    rows : DataFrame
        The table `outside` of the runs: image, the keys of the input cell, outside, least,
        greatest.

    Returns
    -------
    DataFrame
        One row a condition, generator, strength, restoration, contrast family and level:
        `images`, `inputs` (images in their styles), `outside` (mean share of an image's values)
        with a 95 % t interval over images (ddof 1, cut to [0, 1]; nan for one image), `touched`
        (share of inputs with any such value), `least`, `greatest`. Empty if `rows` is.
    """
    if not len(rows):
        return pd.DataFrame(columns=list(COLUMNS))
    named = rows.assign(generator=rows["style"].str.partition(":")[0])
    found = []
    for key, mine in named.groupby(list(BY), sort=True):
        share = mine.groupby("image", sort=True)["outside"].mean().to_numpy(np.float64)
        n, mean = len(share), float(share.mean())
        half = (
            t_quantile(CONFIDENCE, n - 1) * float(share.std(ddof=1)) / n**0.5 if n > 1 else np.nan
        )
        found.append(
            {
                **dict(zip(BY, key, strict=True)),
                "images": n,
                "inputs": len(mine),
                "outside": mean,
                "low": max(mean - half, 0.0) if n > 1 else np.nan,
                "high": min(mean + half, 1.0) if n > 1 else np.nan,
                "touched": float((mine["outside"] > 0).mean()),
                "least": float(mine["least"].min()),
                "greatest": float(mine["greatest"].max()),
            }
        )
    return pd.DataFrame(found, columns=list(COLUMNS))


def outside_sentence(table: pd.DataFrame) -> Iterator[str]:
    """Yield one sentence on how often, and how far, values lay outside [0, 1]; none for no rows."""
    if not len(table):
        return
    n = f"{int(table['images'].max())} images, {int(table['inputs'].sum())} inputs"
    if not (table["touched"] > 0).any():
        yield f"No value of any input lay outside [0, 1] ({n})."
        return
    worst = table.sort_values("outside", kind="stable").to_dict("records")[-1]
    ends = (
        "no interval"
        if np.isnan(worst["low"])
        else f"{percent(worst['low'])} to {percent(worst['high'])}"
    )
    yield (
        f"Input values outside [0, 1], kept and not clipped: at most {percent(worst['outside'])} % "
        f"({ends}, over images) on average, in {_where(worst)}; {percent(worst['touched'])} % of "
        f"those inputs have some; all values lie in {number(table['least'].min())} to "
        f"{number(table['greatest'].max())} ({n})."
    )


def _where(row: Mapping[Any, Any]) -> str:
    parts = [f"condition {row['condition']}"]
    parts += (
        [f"{row['generator']} styles at strength {row['strength']:g}"] if row["generator"] else []
    )
    parts += ["luminance restored"] if row["restore"] == "luminance" else []
    parts += [f"{row['contrast']} level {row['level']}"] if row["contrast"] else []
    return ", ".join(parts)
