"""From arrays of moments to the rows of `moments`, one row group a (network, source, tap)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from statsnorm.cells import InputCell, NetworkCell
from statsnorm.tables import MOMENTS_SCHEMA, Float32, float_lists

Codes = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TapColumns:
    """The columns of `moments` that describe a tap."""

    tap: str
    call: int = 0
    tap_kind: str
    depth: int
    pixels: int
    by_construction: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRows:
    """Which image and which input cell each row is; shared by all taps of a shard."""

    images: tuple[str, ...]
    cells: tuple[InputCell, ...]
    image: Codes  # (n,) into images
    cell: Codes  # (n,) into cells


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The moments of one tap of one network cell."""

    network: NetworkCell
    tap: TapColumns
    rows: CellRows
    mean: Float32  # (n, C)
    var: Float32  # (n, C), population variance


def moments_table(blocks: Sequence[Block]) -> tuple[Any, list[int]]:
    """Return the table of a shard and the number of rows of each of its row groups.

    Blocks are ordered by source, network, depth and tap; within a row group they keep the
    order given, so the table does not depend on how the work was scheduled.
    """
    ordered = sorted(blocks, key=_order)
    tables, groups = [], []
    for _, group in groupby(
        ordered, key=lambda b: (b.network.network, b.network.source, b.tap.tap)
    ):
        parts = [_block_table(block) for block in group]
        tables.extend(parts)
        groups.append(sum(part.num_rows for part in parts))
    return pa.concat_tables([MOMENTS_SCHEMA.empty_table(), *tables]), groups


def _order(block: Block) -> tuple[Any, ...]:
    network, tap = block.network, block.tap
    return (network.source != "input", network.source, network.network, tap.depth, tap.tap)


def _block_table(block: Block) -> Any:
    rows, n = block.rows, len(block.mean)
    columns: dict[str, Any] = {"image": _taken(rows.images, rows.image, pa.string())}
    for f in fields(InputCell):
        kind = MOMENTS_SCHEMA.field(f.name).type
        columns[f.name] = _taken([getattr(c, f.name) for c in rows.cells], rows.cell, kind)
    for record in (block.network, block.tap):
        for f in fields(record):
            scalar = pa.scalar(getattr(record, f.name), MOMENTS_SCHEMA.field(f.name).type)
            columns[f.name] = pa.repeat(scalar, n)
    columns["mean"], columns["var"] = float_lists(block.mean), float_lists(block.var)
    return pa.table([columns[f.name] for f in MOMENTS_SCHEMA], schema=MOMENTS_SCHEMA)


def _taken(values: Sequence[Any], codes: Codes, kind: Any) -> Any:
    return pa.array(values, kind).take(pa.array(codes))
