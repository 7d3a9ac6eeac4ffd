"""Tables of the map of a conditional network: rows of replicates with their intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from statsnorm.stats.jackknife import jackknife_replicates

NETWORK = ("source", "network", "norm", "cell", "seed", "iteration", "bn_mode", "batch_kind")
CONFIDENCE = 0.95


def with_net(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with their network in words, column `net`."""
    names = []
    for row in frame.to_dict("records"):
        parts = [row["source"], row["cell"], f"inputs {row['style']}" if row["style"] else ""]
        names.append(", ".join(filter(None, parts)))
    return frame.assign(net=names)


def intervals(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return `values` (1 + contents + styles replicates) as `name`, low, high, se, dof."""
    rows: list[dict[Any, Any]] = []
    for row in with_net(frame).to_dict("records"):
        values = np.asarray(row.pop("values"), float)
        found = jackknife_replicates(values, int(row["contents"]), int(row["styles"]), CONFIDENCE)
        ends = {"low": float(found.low), "high": float(found.high), "se": float(found.se)}
        rows.append({**row, name: float(found.estimate), **ends, "dof": float(found.dof)})
    return pd.DataFrame(rows)


def by_part(shapley: pd.DataFrame) -> pd.DataFrame:
    """Return the Shapley values of all normalisers of one part of the network added up."""
    names = [*NETWORK, "style", "contents", "styles"]
    rows = shapley.assign(part=shapley["layer"].str.split(".").str[0])
    found = []
    for key, own in rows.groupby([*names, "part"], sort=True):
        total = np.sum([np.asarray(v, float) for v in own["values"]], axis=0)
        where = dict(zip([*names, "part"], key, strict=True))
        found.append({**where, "layers": len(own), "values": total})
    return pd.DataFrame(found)
