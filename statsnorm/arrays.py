"""Rows of a table as matrices, and as arrays over the axes of a design."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from statsnorm import reader
from statsnorm.errors import StatsnormError
from statsnorm.reader import GROUP_KEYS, TAP_COLUMNS
from statsnorm.tables import float_matrix

Floats = NDArray[np.float64]


class MomentsMatrix(NamedTuple):
    """Rows of `moments` with the lists as matrices."""

    keys: pd.DataFrame  # one row per row of mean and var
    mean: NDArray[np.float32]  # (n, C)
    var: NDArray[np.float32]  # (n, C), population variance


class CorrelationMatrix(NamedTuple):
    """Rows of `correlations` of one tap, the upper triangles as whole matrices."""

    keys: pd.DataFrame  # one row per row of correlation
    channels: NDArray[np.int64]  # (n,) of the tap, which rows and columns are
    correlation: NDArray[np.float32]  # (rows, n, n), ones on the diagonal


@dataclass(frozen=True, slots=True)
class CorrelationArray:
    """Correlations of one tap over named axes; a missing cell is nan."""

    correlation: Floats  # axes..., pairs: the upper triangle by rows
    channels: NDArray[np.int64]  # (n,) of the tap
    labels: Mapping[str, list[Any]]  # axis -> its labels, in the order of the array
    keys: Mapping[str, Any]  # every other key column -> its one value
    missing: int  # cells without a row


@dataclass(frozen=True, slots=True)
class CellArray:
    """Moments of one tap over named axes; a missing cell is nan in all channels."""

    mean: Floats  # axes..., C
    var: Floats  # axes..., C; population variance
    labels: Mapping[str, list[Any]]  # axis -> its labels, in the order of the array
    keys: Mapping[str, Any]  # every other key column -> its one value
    missing: int  # cells without a row


def full_matrices(upper: NDArray[Any], n: int) -> NDArray[Any]:
    """Return symmetric matrices (..., n, n) with unit diagonal from upper triangles by rows.

    >>> full_matrices(np.array([0.5]), 2)
    array([[1. , 0.5],
           [0.5, 1. ]])
    """
    full = np.ones((*upper.shape[:-1], n, n), upper.dtype)
    rows, columns = np.triu_indices(n, 1)
    full[..., rows, columns] = full[..., columns, rows] = upper
    return full


class Placed(NamedTuple):
    """Where the rows of a table go in an array over axes."""

    place: NDArray[np.int64]
    shape: tuple[int, ...]
    labels: dict[str, list[Any]]
    keys: dict[str, Any]
    missing: int


def placed_rows(table: Any, axes: Sequence[str]) -> Placed:
    """Return where each row goes; raise StatsnormError if that is ambiguous or taken twice."""
    others = [name for name in GROUP_KEYS if name not in axes]
    if found := reader.varying(table, others):
        raise reader.ambiguous(found)
    coded = [reader.axis_codes(table.column(name)) for name in axes]
    shape = tuple(len(labels) for _, labels in coded)
    place = np.ravel_multi_index([codes for codes, _ in coded], shape)
    if (twice := np.bincount(place)).max() > 1:
        raise StatsnormError(f"{(twice > 1).sum()} cells have several rows; one run at a time")
    if found := reader.varying(table, ["pixels"]):
        raise StatsnormError(
            f"images of several sizes ({', '.join(map(str, sorted(found['pixels'])))} pixels at "
            "this tap) are not one sample; give runs of one --size"
        )
    labels = {name: labels for name, (_, labels) in zip(axes, coded, strict=True)}
    keys = {name: table.column(name)[0].as_py() for name in (*others, *TAP_COLUMNS)}
    return Placed(place, shape, labels, keys, int(np.prod(shape)) - len(place))


def same_channels(table: Any) -> NDArray[np.int64]:
    """Return the channels (n,) that all rows of correlations keep, or raise StatsnormError."""
    column = table.column("channels").combine_chunks()
    counts = np.diff(np.asarray(column.offsets))
    flat = column.flatten().to_numpy()
    if len(set(counts.tolist())) > 1 or (flat.reshape(len(counts), -1) != flat[: counts[0]]).any():
        raise StatsnormError(
            "rows keep different channels (other seeds or limits); select rows of one tap and run"
        )
    return np.asarray(flat[: counts[0]], np.int64)


def scattered(column: Any, place: Any, shape: tuple[int, ...]) -> Floats:
    """Return lists of C values as an array (*shape, C); nan where no row goes."""
    values = float_matrix(column)
    cells = np.full((int(np.prod(shape)), values.shape[1]), np.nan)
    cells[place] = values
    return cells.reshape(*shape, -1)
