"""The tables of which a run has one each: taps, contrast levels, invariances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from statsnorm.extraction.describe import tap_rows
from statsnorm.extraction.feed import Feed
from statsnorm.extraction.pilot import decode_readable
from statsnorm.extraction.variants import Variant, Variants
from statsnorm.images.design import Design
from statsnorm.invariance import invariance_rows
from statsnorm.rundir import SINGLES, Run, record_shard, unit_is_finished
from statsnorm.tables import INVARIANCE_SCHEMA, LEVELS_SCHEMA, TAPS_SCHEMA, write_table


def write_singles(run: Run, feed: Feed, variants: Variants, *, device: str) -> None:
    """Write the tables that are one for the run; the same bytes from whichever process."""
    if unit_is_finished(run, SINGLES, run.expected.files):
        return
    made: dict[str, tuple[Callable[[], list[dict[str, Any]]], Any]] = {
        "taps.parquet": (lambda: tap_rows(variants), TAPS_SCHEMA),
        "levels.parquet": (lambda: _level_rows(feed.inputs.design), LEVELS_SCHEMA),
        "invariance.parquet": (
            lambda: _invariance_rows(feed, variants, device=device),
            INVARIANCE_SCHEMA,
        ),
    }
    for name in run.expected.files:
        rows, schema = made[name]
        table = pa.Table.from_pylist(rows(), schema=schema)
        write_table(run.path / name, table, metadata=run.metadata)
    record_shard(run, SINGLES, run.expected.files, {})


def _level_rows(design: Design | None) -> list[dict[str, Any]]:
    return [
        {"contrast": level.family, "level": level.level, "parameter": name, "value": value}
        for level in (design.levels if design else ())
        for name, value in level.parameters.items()
    ]


def _invariance_rows(feed: Feed, variants: Variants, *, device: str) -> list[dict[str, Any]]:
    """Test every network as it is, at its first index, on the first readable image."""
    _, x = decode_readable(feed.inputs.refs, feed.config, device=device, most=1)
    shipped = {v.network.name: v.network for v in reversed(variants.all) if _is_shipped(v)}
    return [row for name in sorted(shipped) for row in invariance_rows(shipped[name], x)]


def _is_shipped(variant: Variant) -> bool:
    return variant.cell.treatment == "none" and variant.cell.seed < 0
