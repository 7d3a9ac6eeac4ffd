"""The border between the torch side and the numpy side: schemas, atomic writer, reader.

Key columns are Arrow `string`, dictionary-encoded by Parquet only: Arrow-dictionary keys carry
no row-group statistics, so a filter on them reads the whole file. Lists of floats are
byte-stream-split, then zstd. `moments` has one row group a (network, source, tap), so an
analysis reads one tap and no more. The footer holds table name, schema version and run hash.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from statsnorm.atomic import atomic_file
from statsnorm.cells import ARROW_TYPES, InputCell
from statsnorm.errors import SchemaError

SCHEMA_VERSION = 1
"""Raised whenever a column changes its name, type or meaning."""

Float32 = np.ndarray[Any, np.dtype[np.float32]]


def _schema(name: str, columns: Mapping[str, pa.DataType], optional: Sequence[str] = ()) -> Any:
    footer = {"statsnorm.table": name, "statsnorm.schema": str(SCHEMA_VERSION)}
    fields = [pa.field(c, t, nullable=c in optional) for c, t in columns.items()]
    return pa.schema(fields, metadata=footer)


_STRING, _BOOL, _INT16, _INT32, _INT64 = pa.string(), pa.bool_(), pa.int16(), pa.int32(), pa.int64()
_FLOAT64 = pa.float64()
_FLOATS = pa.list_(pa.field("element", pa.float32(), nullable=False))
_INTS = pa.list_(pa.field("element", pa.int32(), nullable=False))
_CELL = {name: pa.type_for_alias(alias) for name, alias in ARROW_TYPES.items()}

MOMENTS_SCHEMA = _schema(
    "moments",
    {
        "image": _STRING,
        **_CELL,
        "tap": _STRING,
        "call": _INT16,
        "tap_kind": _STRING,
        "depth": _INT16,
        "pixels": _INT32,
        "by_construction": _BOOL,
        "mean": _FLOATS,
        "var": _FLOATS,
    },
)
"""One row = one image at one tap, call and cell; `var` is the population variance."""

CORRELATIONS_SCHEMA = _schema(
    "correlations",
    {
        **{f.name: f.type for f in MOMENTS_SCHEMA if f.name not in ("mean", "var")},
        "channels": _INTS,
        "correlation": _FLOATS,
    },
)
"""One row = one image at one tap, call and cell: `correlation` between `channels` over pixels.

The n (n - 1) / 2 pairs are the upper triangle by rows: (0, 1), (0, 2), ..., (1, 2), ... of
`channels`; a constant channel has correlation 0.
"""

CURVES_SCHEMA = _schema(
    "curves",
    {
        "cell": _STRING,
        "block": _STRING,
        "target": _STRING,
        "norm": _STRING,
        "condition": _STRING,
        "seed": _INT64,
        "iteration": _INT64,
        "split": _STRING,
        "bn_mode": _STRING,
        "style_loss": _FLOAT64,
        "content_loss": _FLOAT64,
        "total_loss": _FLOAT64,
        "lr": _FLOAT64,
        "seconds": _FLOAT64,
    },
)
"""One row = one recorded iteration of one trained cell, split and BN mode."""

TAPS_SCHEMA = _schema(
    "taps",
    {
        "network": _STRING,
        "norm": _STRING,
        "treatment": _STRING,
        "source": _STRING,
        "tap": _STRING,
        "call": _INT16,
        "tap_kind": _STRING,
        "depth": _INT16,
        "module": _STRING,
        "module_type": _STRING,
        "channels": _INT32,
        "height": _INT32,
        "width": _INT32,
        "layout": _STRING,
        "drop_tokens": _INT16,
        "eps": _FLOAT64,
        "by_construction": pa.list_(pa.field("element", _BOOL, nullable=False)),
    },
)
"""One row = one tap of one network under one treatment; the mask is per channel."""

LEVELS_SCHEMA = _schema(
    "levels",
    {"contrast": _STRING, "level": _INT16, "parameter": _STRING, "value": _FLOAT64},
)
"""One row = one parameter of one contrast level."""

IMAGES_SCHEMA = _schema(
    "images",
    {"image": _STRING, "width": _INT32, "height": _INT32, "sha256": _STRING, "path": _STRING},
)
"""One row = one image used; the attributes of a manifest follow as further string columns."""

SKIPPED_SCHEMA = _schema("skipped", {"image": _STRING, "stage": _STRING, "reason": _STRING})
"""One row = one image dropped from all conditions."""

CONTENT_SCHEMA = _schema(
    "content",
    {
        "image": _STRING,
        "condition": _STRING,
        "network": _STRING,
        "tap": _STRING,
        "distance": _FLOAT64,
        "random_distance": _FLOAT64,
    },
    optional=("random_distance",),
)
"""Relative squared feature distance to the image's own original, and to the next image's."""

OUTSIDE_SCHEMA = _schema(
    "outside",
    {
        "image": _STRING,
        **{f.name: _CELL[f.name] for f in fields(InputCell)},
        "outside": _FLOAT64,
        "least": _FLOAT64,
        "greatest": _FLOAT64,
    },
)
"""One row = one image in one input cell: the share of its values outside [0, 1], and their ends.

Runs made before this table was added lack it.
"""

INVARIANCE_SCHEMA = _schema(
    "invariance",
    {
        "network": _STRING,
        "scope": _STRING,
        "transform": _STRING,
        "dtype": _STRING,
        "eps_mode": _STRING,
        "padding": _STRING,
        "relative_change": _FLOAT64,
        "ratio_observed": _FLOAT64,
        "ratio_formula": _FLOAT64,
        "must": _STRING,
    },
    optional=("ratio_observed", "ratio_formula"),
)
"""One row = one transform of method.md 2.5 at the first layer or the output."""

SCHEMAS: dict[str, Any] = {
    "moments": MOMENTS_SCHEMA,
    "correlations": CORRELATIONS_SCHEMA,
    "curves": CURVES_SCHEMA,
    "taps": TAPS_SCHEMA,
    "levels": LEVELS_SCHEMA,
    "images": IMAGES_SCHEMA,
    "skipped": SKIPPED_SCHEMA,
    "content": CONTENT_SCHEMA,
    "outside": OUTSIDE_SCHEMA,
    "invariance": INVARIANCE_SCHEMA,
}


def images_schema(attributes: Sequence[str]) -> Any:
    """Return the schema of `images` with one string column per attribute of the manifest.

    An attribute named like a column of ours gets the prefix `manifest_`.
    """
    schema = IMAGES_SCHEMA
    for name in attributes:
        taken = name in schema.names
        schema = schema.append(
            pa.field(f"manifest_{name}" if taken else name, _STRING, nullable=False)
        )
    return schema


def float_lists(values: Float32) -> Any:
    """Return an array of shape (n, C) as n Arrow lists of C float32, without a Python loop."""
    n, channels = values.shape
    offsets = np.arange(n + 1, dtype=np.int64) * channels
    if offsets[-1] > np.iinfo(np.int32).max:
        raise SchemaError(f"{n} rows of {channels} channels overflow one row group; smaller shards")
    flat = pa.array(np.ascontiguousarray(values, dtype=np.float32).ravel())
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), flat, type=_FLOATS)


def int_lists(values: Sequence[int], n: int) -> Any:
    """Return n Arrow lists that all hold these integers."""
    offsets = np.arange(n + 1, dtype=np.int32) * len(values)
    flat = np.tile(np.asarray(values, np.int32), n)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat), type=_INTS)


def float_matrix(column: Any) -> Float32:
    """Return a list column (Array or ChunkedArray) as float32 of shape (n, C).

    Raises
    ------
    SchemaError
        If the rows do not all have the same number of channels.
    """
    chunks = [c for c in getattr(column, "chunks", [column]) if len(c)]
    if not chunks:
        return np.empty((0, 0), np.float32)
    flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in chunks]
    channels = len(flat[0]) // len(chunks[0])
    lengths = [np.diff(np.asarray(c.offsets)) for c in chunks]
    if any((length != channels).any() for length in lengths):
        counts = sorted({int(v) for length in lengths for v in np.unique(length)})
        raise SchemaError(f"rows have {counts} channels; select rows of one tap and network")
    if len(flat) == 1:
        return flat[0].reshape(-1, channels)  # type: ignore[no-any-return]
    return np.concatenate(flat).reshape(-1, channels)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` atomically as JSON with sorted keys: same content, same bytes."""
    with atomic_file(path) as temporary:
        text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def write_table(
    path: Path,
    table: Any,
    *,
    metadata: Mapping[str, str],
    groups: Sequence[int] | None = None,
) -> None:
    """Write a table atomically: zstd, byte-stream-split float lists, keys dictionary-encoded.

    Parameters
    ----------
    path : Path
        Replaced as a whole or not at all.
    table : pyarrow.Table
        Its schema must be one of :data:`SCHEMAS` (`images` may have further columns).
    metadata : mapping
        Added to the footer; a run's tables carry `statsnorm.run`, the hash of its configuration.
    groups : sequence of int, optional
        Rows of each row group, in order; one row group by default.
    """
    with atomic_file(path) as temporary:
        _encode(temporary, table, metadata, groups)


def encoded_size(table: Any, groups: Sequence[int]) -> int:
    """Return how many bytes :func:`write_table` would write."""
    sink = pa.BufferOutputStream()
    _encode(sink, table, {}, groups)
    return int(sink.getvalue().size)


def _encode(
    sink: Any, table: Any, metadata: Mapping[str, str], groups: Sequence[int] | None
) -> None:
    lists = [f.name for f in table.schema if f.type == _FLOATS]
    schema = table.schema.with_metadata({**(table.schema.metadata or {}), **metadata})
    plain = [f.name for f in table.schema if not pa.types.is_list(f.type)]
    with pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        use_dictionary=[n for n in plain if schema.field(n).type != _BOOL],
        use_byte_stream_split=[f"{name}.list.element" for name in lists],
        write_statistics=plain,
        write_page_checksum=True,
    ) as writer:
        start = 0
        for rows in groups if groups is not None else (table.num_rows,):
            if rows:
                part = table.slice(start, rows).cast(schema)
                writer.write_table(part, row_group_size=rows)
            start += rows
        assert start == table.num_rows, "groups must add up to the table"


def read_table(path: Path, schema: Any, *, columns: Sequence[str] | None = None) -> Any:
    """Read one file, having checked its table name, schema version and column types.

    Raises
    ------
    SchemaError
        If the file is damaged, not ours, or of another schema version.
    """
    check_schema(path, schema)
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read(columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise SchemaError(f"table {path} is damaged: {error}") from error
    refuse_gaps(table, schema, f"table {path}")
    return table


def refuse_gaps(table: Any, schema: Any, what: str) -> None:
    """Raise SchemaError if a column that must be full has empty values, or lists do not match.

    A row's `mean` and `var` have one value a channel each.
    """
    for column in schema:
        optional = column.name not in table.column_names or column.nullable
        empty = 0 if optional else table.column(column.name).null_count
        if empty:
            raise SchemaError(f"{what}: column {column.name!r} has {empty} empty values")
    if {"mean", "var"} <= set(table.column_names):
        lengths = [pc.list_value_length(table.column(name)) for name in ("mean", "var")]
        if not lengths[0].equals(lengths[1]):
            raise SchemaError(f"{what}: rows have other numbers of means than of variances")
        if table.num_rows and not pc.min(lengths[0]).as_py():
            raise SchemaError(f"{what}: a row has no channels")


def check_schema(path: Path, schema: Any) -> dict[str, str]:
    """Return the footer's metadata; raise SchemaError unless `path` holds such a table."""
    try:
        found = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise SchemaError(f"table {path} is damaged or no Parquet file: {error}") from error
    footer = {k.decode(): v.decode("utf-8", "replace") for k, v in (found.metadata or {}).items()}
    wanted = {k.decode(): v.decode() for k, v in schema.metadata.items()}
    for key, value in wanted.items():
        if footer.get(key) != value:
            raise SchemaError(
                f"table {path} has {key} {footer.get(key)!r}, this statsnorm reads {value!r}; "
                "extract again, or use the statsnorm that wrote it"
            )
    for column in schema:
        if column.name not in found.names:
            raise SchemaError(f"table {path} lacks the column {column.name!r}")
        if found.field(column.name).type != column.type:
            kind = found.field(column.name).type
            raise SchemaError(
                f"table {path}: column {column.name!r} is {kind}, must be {column.type}"
            )
    return footer
