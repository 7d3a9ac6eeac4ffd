"""Moments, designs and curves of a run as pandas frames and numpy arrays.

>>> import statsnorm
>>> statsnorm.load_moments("runs/vgg", tap="relu3_1", layout="matrix")  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from statsnorm.arrays import CellArray, CorrelationMatrix, Floats, MomentsMatrix
from statsnorm.errors import StatsnormError
from statsnorm.stats.scale_free import live_channels, scale_free
from statsnorm.tableset import Runs, Tables

__all__ = [
    "CellArray",
    "CorrelationMatrix",
    "DesignArray",
    "MomentsMatrix",
    "Tables",
    "load_correlations",
    "load_curves",
    "load_design",
    "load_moments",
]


@dataclass(frozen=True, slots=True)
class DesignArray:
    """Scale-free moments of one tap over a crossed design (method.md 0.5)."""

    y: Floats  # (I, S, K, C), live channels only
    moment: str  # "m" or "v"
    images: list[str]
    styles: list[str]
    levels: list[int]
    channels: NDArray[np.int64]  # which channels of the tap were kept
    dropped: int  # channels below the floor
    missing: int  # cells without a row, nan in y
    keys: Mapping[str, Any]


@overload
def load_moments(
    run: Runs,
    *,
    tap: str | None = ...,
    network: str | None = ...,
    condition: str | None = ...,
    layout: Literal["nested", "tidy"] = ...,
) -> pd.DataFrame: ...
@overload
def load_moments(
    run: Runs,
    *,
    tap: str | None = ...,
    network: str | None = ...,
    condition: str | None = ...,
    layout: Literal["matrix"],
) -> MomentsMatrix: ...
def load_moments(
    run: Runs,
    *,
    tap: str | None = None,
    network: str | None = None,
    condition: str | None = None,
    layout: Literal["nested", "tidy", "matrix"] = "nested",
) -> pd.DataFrame | MomentsMatrix:
    """Load the moments of a run into pandas.

    Parameters
    ----------
    run : path or sequence of paths
        Run directories.
    tap, network, condition : str, optional
        Only these rows; with `tap` only its row groups are read.
    layout : {"nested", "tidy", "matrix"}
        "nested": a row per image and tap, `mean` and `var` hold one array each. "tidy": a row
        per channel, with the key columns (categorical), `channel`, `mean`, `var`. "matrix": a
        triple (keys frame, mean (n, C), var (n, C)), for one tap (or taps of equal width).

    Raises
    ------
    StatsnormError
        If the run is not finished, nothing matches, or the layout is unknown.
    """
    if layout not in ("nested", "tidy", "matrix"):
        raise StatsnormError(f"layout must be nested, tidy or matrix, got {layout!r}")
    asked = {"tap": tap, "network": network, "condition": condition}
    where = {name: value for name, value in asked.items() if value is not None}
    tables = Tables(run)
    if layout == "matrix":
        return tables.moments(**where)
    table = tables.rows(where)
    if layout == "tidy":
        return _tidy(table)
    frame: pd.DataFrame = table.to_pandas()
    return frame


def load_design(
    run: Runs, *, tap: str, moment: Literal["m", "v"] = "m", **keys: Any
) -> DesignArray:
    """Load one tap of a crossed design as scale-free moments over content, style and level.

    ``m = mean / s_c`` with ``s_c^2`` the average variance of the tap's own network and
    treatment over all cells of the design; ``v = 0.5 log var`` (method.md 0.5). Channels
    below the floor rule are left out and counted.

    Parameters
    ----------
    run : path or sequence of paths
        Run directories.
    tap : str
        Name of the tap.
    moment : {"m", "v"}
        Which of the two moments.
    **keys
        One value for each further key column with several, e.g. ``treatment="none"``.

    Raises
    ------
    StatsnormError
        If a key column other than image, style and level has several values (listed), or no
        run holds a crossed design.
    """
    if moment not in ("m", "v"):
        raise StatsnormError(f"moment must be 'm' or 'v', got {moment!r}")
    tables = Tables(run)
    _require_design(tables)
    cells = tables.array({"tap": tap, **keys})
    live = live_channels([cells.var], tables.eps(**cells.keys))
    m, v = scale_free(cells.mean[..., live], cells.var[..., live])
    return DesignArray(
        y=m if moment == "m" else v,
        moment=moment,
        images=cells.labels["image"],
        styles=cells.labels["style"],
        levels=cells.labels["level"],
        channels=np.flatnonzero(live),
        dropped=int((~live).sum()),
        missing=cells.missing,
        keys=cells.keys,
    )


def load_correlations(
    run: Runs, *, tap: str, network: str | None = None, condition: str | None = None
) -> CorrelationMatrix:
    """Load the within-image channel correlations of one tap (extract --correlations N).

    Parameters
    ----------
    run : path or sequence of paths
        Run directories.
    tap, network, condition : str
        Only these rows; only the row groups of the tap are read.

    Returns
    -------
    CorrelationMatrix
        A triple: keys (a row per image and cell), channels (n,) of the tap, and correlations
        (rows, n, n). `pd.read_parquet("RUN/correlations")` gives the same as upper triangles.

    Raises
    ------
    StatsnormError
        If the run is not finished, holds no correlations, or nothing matches.
    """
    asked = {"tap": tap, "network": network, "condition": condition}
    where = {name: value for name, value in asked.items() if value is not None}
    return Tables(run).correlations(**where)


def _require_design(tables: Tables) -> None:
    keys = tables.keys()
    if not ((keys["style"] != "") | (keys["contrast"] != "")).any():
        names = ", ".join(str(run.path) for run in tables.runs)
        raise StatsnormError(
            f"{names} holds no crossed design (content x style x contrast); extract one with "
            "--design FILE, or use load_moments"
        )


def load_curves(run: Runs) -> pd.DataFrame:
    """Load the training curves of one or more runs; one row = one recorded iteration."""
    return Tables(run).curves()


def _tidy(table: Any) -> pd.DataFrame:
    lengths = np.diff(np.concatenate([[0], *_ends(table.column("mean"))]))
    keys = table.drop_columns(["mean", "var"]).to_pandas(strings_to_categorical=True)
    rows = np.repeat(np.arange(len(keys)), lengths)
    tidy: pd.DataFrame = keys.iloc[rows].reset_index(drop=True)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    tidy["channel"] = (np.arange(len(rows)) - starts).astype(np.int32)
    for name in ("mean", "var"):
        flat = [chunk.flatten().to_numpy() for chunk in table.column(name).chunks]
        tidy[name] = np.concatenate(flat)
    return tidy


def _ends(column: Any) -> list[Any]:
    """Return where each row ends among the flattened values of all chunks."""
    ends, before = [], 0
    for chunk in column.chunks:
        offsets = np.asarray(chunk.offsets).astype(np.int64)
        ends.append(before + offsets[1:] - offsets[0])
        before += int(offsets[-1] - offsets[0])
    return ends
