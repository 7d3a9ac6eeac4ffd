"""Held-out losses of trained cells as quantities of networks, beside what was extracted of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Protocol

import numpy as np
import pandas as pd

from statsnorm.removal.units import Unit

PLACE = "held-out images"
LOSSES: Mapping[str, str] = {
    "style_loss": "log style loss",
    "content_loss": "log content loss",
    "total_loss": "log total loss",
}
COLUMNS = ("cell", "norm", "condition", "target", "seed", "iteration", *LOSSES)


class CurveTables(Protocol):
    """What this module needs of :class:`statsnorm.load.Tables`."""

    def curves(self) -> pd.DataFrame:
        """Return the training curves of all runs."""


def cell_losses(tables: CurveTables) -> pd.DataFrame:
    """Return the held-out losses (batch statistics) of every cell at iteration 0 and at its last.

    A cell whose last loss is not finite is left out.
    """
    curves = tables.curves()
    mine = curves[(curves["split"] == "heldout") & (curves["bn_mode"] == "train")]
    if not len(mine):
        return pd.DataFrame(columns=list(COLUMNS))
    last = mine.groupby(["cell", "seed"])["iteration"].transform("max")
    ends = mine[(mine["iteration"] == 0) | (mine["iteration"] == last)]
    good = np.isfinite(ends[list(LOSSES)].to_numpy(float)).all(axis=1)
    bad = ends.loc[~good, ["cell", "seed"]].drop_duplicates().assign(bad=True)
    kept = ends.merge(bad, on=["cell", "seed"], how="left")
    kept = kept[kept["bad"].isna()][list(COLUMNS)]
    kept["target"] = [PurePath(target).name for target in kept["target"]]
    return kept.sort_values(["cell", "seed", "iteration"], ignore_index=True)


def loss_units(losses: pd.DataFrame) -> list[Unit]:
    """Return the cells of `cell_losses` as units, one a cell and iteration."""
    inputs: dict[str, Any] = {"restore": "", "strength": 1.0, "contrast": ""}
    how: dict[str, Any] = {"net": "texture", "index": "", "bn_mode": "eval", "batch_kind": "mixed"}
    return [
        Unit(
            key={**inputs, **how, **{k: row[k] for k in ("norm", "cell", "seed", "iteration")}},
            condition=str(row["condition"]),
            block=(row["seed"], row["target"], str(row["condition"])),
            groups=(0, 0),
            measured={
                (PLACE, name): np.array([np.log(float(row[column]))])
                for column, name in LOSSES.items()
                if float(row[column]) > 0
            },
        )
        for row in losses.to_dict("records")
    ]
