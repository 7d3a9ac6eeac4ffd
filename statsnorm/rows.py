"""From arrays to rows of `moments` and `correlations`: a row group a (network, source, tap)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from statsnorm.cells import InputCell, NetworkCell
from statsnorm.tables import CORRELATIONS_SCHEMA, MOMENTS_SCHEMA, Float32, float_lists, int_lists

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
    channels: tuple[int, ...] = ()  # whose correlations were kept
    correlation: Float32 | None = None  # (n, pairs of channels)


def moments_table(blocks: Sequence[Block]) -> tuple[Any, list[int]]:
    """Return the table of a shard and the number of rows of each of its row groups.

    Blocks are ordered by source, network, depth and tap; within a row group they keep the
    order given, so the table does not depend on how the work was scheduled.
    """
    return _sharded(blocks, MOMENTS_SCHEMA, _moment_lists)


def correlations_table(blocks: Sequence[Block]) -> tuple[Any, list[int]]:
    """Return the same for the correlations of the blocks that have them."""
    kept = [block for block in blocks if block.correlation is not None]
    return _sharded(kept, CORRELATIONS_SCHEMA, _correlation_lists)


def _sharded(
    blocks: Sequence[Block], schema: Any, lists: Callable[[Block], dict[str, Any]]
) -> tuple[Any, list[int]]:
    ordered = sorted(blocks, key=_order)
    tables, groups = [], []
    for _, group in groupby(
        ordered, key=lambda b: (b.network.network, b.network.source, b.tap.tap)
    ):
        parts = [_block_table(block, schema, lists(block)) for block in group]
        tables.extend(parts)
        groups.append(sum(part.num_rows for part in parts))
    return pa.concat_tables([schema.empty_table(), *tables]), groups


def _order(block: Block) -> tuple[Any, ...]:
    network, tap = block.network, block.tap
    return (network.source != "input", network.source, network.network, tap.depth, tap.tap)


def _moment_lists(block: Block) -> dict[str, Any]:
    return {"mean": float_lists(block.mean), "var": float_lists(block.var)}


def _correlation_lists(block: Block) -> dict[str, Any]:
    assert block.correlation is not None
    return {
        "channels": int_lists(block.channels, len(block.correlation)),
        "correlation": float_lists(block.correlation),
    }


def _block_table(block: Block, schema: Any, lists: dict[str, Any]) -> Any:
    rows, n = block.rows, len(block.mean)
    columns: dict[str, Any] = {"image": _taken(rows.images, rows.image, pa.string())}
    for f in fields(InputCell):
        kind = schema.field(f.name).type
        columns[f.name] = _taken([getattr(c, f.name) for c in rows.cells], rows.cell, kind)
    for record in (block.network, block.tap):
        for f in fields(record):
            scalar = pa.scalar(getattr(record, f.name), schema.field(f.name).type)
            columns[f.name] = pa.repeat(scalar, n)
    columns |= lists
    return pa.table([columns[f.name] for f in schema], schema=schema)


def _taken(values: Sequence[Any], codes: Codes, kind: Any) -> Any:
    return pa.array(values, kind).take(pa.array(codes))
