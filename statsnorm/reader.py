"""Rows of `moments` by key, row group by row group: the part of loading that needs no pandas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from statsnorm.cells import KEYS
from statsnorm.errors import SchemaError, StatsnormError, unknown
from statsnorm.tables import MOMENTS_SCHEMA, Float32, check_schema, float_matrix, refuse_gaps

GROUP_KEYS: tuple[str, ...] = (*KEYS, "tap", "call")
"""With `image`, what identifies a row."""

TAP_COLUMNS: tuple[str, ...] = ("tap_kind", "depth", "pixels", "by_construction")

Where = Mapping[str, Any]
"""Key column -> a value, or a list of values any of which is taken."""


def moments_dataset(files: Sequence[Path], schema: Any = MOMENTS_SCHEMA) -> Any:
    """Return the pyarrow dataset of such files, each checked for table and schema version.

    `schema` may be that of `correlations`, which has the same keys.
    """
    for file in files:
        check_schema(file, schema)
    return ds.dataset([str(f) for f in files], schema=schema, format="parquet")


def row_filter(where: Where) -> Any:
    """Return the pyarrow filter for `where`, written so that row groups can be skipped.

    Raises
    ------
    StatsnormError
        If a name is no key column, or a value has the wrong type.
    """
    expression = None
    for name, wanted in where.items():
        if name not in (known := ("image", *GROUP_KEYS, *TAP_COLUMNS)):
            raise unknown("key column", name, known)
        term = _any_of(name, _values(wanted))
        expression = term if expression is None else expression & term
    return expression


def read_rows(dataset: Any, where: Where, columns: Sequence[str] | None = None) -> Any:
    """Return the rows of `where` as a pyarrow table; only matching row groups are read.

    Raises
    ------
    SchemaError
        If a page fails its checksum.
    """
    verify = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    try:
        table = dataset.to_table(
            columns=list(columns) if columns is not None else None,
            filter=row_filter(where),
            fragment_scan_options=verify,
        )
    except (OSError, pa.ArrowException) as error:
        raise _damaged(error) from error
    refuse_gaps(table, dataset.schema, "a moments table")
    return table


def read_matrix(
    files: Sequence[Path], where: Where, column: str, schema: Any = MOMENTS_SCHEMA
) -> Float32:
    """Return one list column (n, C) of the rows of `where`, in file order.

    Where the statistics of the row groups decide which rows match, as they do for keys that are
    one for a row group, the groups go one by one into their place: memory is that of the result
    and one group. Otherwise as :func:`read_rows`.

    Raises
    ------
    SchemaError
        If a page fails its checksum, or the rows have different numbers of channels.
    """
    row_filter(where)  # refuses what is no key
    matching = []
    for file in files:
        check_schema(file, schema)
        opened = pq.ParquetFile(file, page_checksum_verification=True)
        groups = [opened.metadata.row_group(g) for g in range(opened.num_row_groups)]
        decided = [_decided(group, where) for group in groups]
        if None in decided:
            return float_matrix(read_rows(moments_dataset(files, schema), where, [column])[column])
        matching += [(opened, g, groups[g].num_rows) for g, match in enumerate(decided) if match]
    return _filled(matching, column)


def _filled(matching: Sequence[tuple[Any, int, int]], column: str) -> Float32:
    """Return the list column of (file, row group, rows) one below the other."""
    made, start = np.empty((0, 0), np.float32), 0
    for file, group, rows in matching:
        try:
            part = float_matrix(file.read_row_group(group, columns=[column]).column(0))
        except (OSError, pa.ArrowException) as error:
            raise _damaged(error) from error
        if not start:
            made = np.empty((sum(n for _, _, n in matching), part.shape[1]), np.float32)
        if part.shape[1] != made.shape[1]:
            counts = sorted({part.shape[1], made.shape[1]})
            raise SchemaError(f"rows have {counts} channels; select rows of one tap and network")
        made[start : start + rows] = part
        start += rows
    return made


def _decided(group: Any, where: Where) -> bool | None:
    """Return whether all rows of a row group match, or none; None where statistics do not tell."""
    found: bool | None = True
    columns = {group.column(k).path_in_schema: group.column(k) for k in range(group.num_columns)}
    for name, wanted in where.items():
        statistics = columns[name].statistics
        if statistics is None or not statistics.has_min_max or statistics.null_count:
            found = None
        elif statistics.min == statistics.max:
            if statistics.min not in _values(wanted):
                return False
        else:
            found = None
    return found


def _damaged(error: Exception) -> SchemaError:
    return SchemaError(
        f"a moments table is damaged ({error}); `statsnorm info` says which, and giving the "
        "extract command again rebuilds it"
    )


def matching_row_groups(dataset: Any, where: Where) -> list[tuple[str, int]]:
    """Return the (file, row group) pairs whose statistics let a row of `where` be there."""
    expression = row_filter(where)
    return [
        (Path(part.path).name, part.row_groups[0].id)
        for fragment in dataset.get_fragments()
        for part in fragment.split_by_row_group(expression)
    ]


def key_counts(files: Sequence[Path], schema: Any = MOMENTS_SCHEMA) -> dict[tuple[Any, ...], int]:
    """Count the rows of every combination of :data:`GROUP_KEYS` and :data:`TAP_COLUMNS`.

    A column with one value in a row group is taken from its statistics and not read.

    Raises
    ------
    SchemaError
        If a file is damaged, or no table of `schema`.
    """
    counts: dict[tuple[Any, ...], int] = {}
    columns = (*GROUP_KEYS, *TAP_COLUMNS)
    for path in files:
        check_schema(path, schema)
        try:
            with pq.ParquetFile(path, read_dictionary=list(columns)) as file:
                for group in range(file.num_row_groups):
                    for key, count in _group_counts(file, group, columns):
                        counts[key] = counts.get(key, 0) + count
        except (OSError, pa.ArrowException) as error:
            raise _damaged(error) from error
    return counts


def varying(table: Any, columns: Sequence[str]) -> dict[str, list[Any]]:
    """Return the columns of a pyarrow table that have more than one value, with the values."""
    values = {name: table.column(name).unique().to_pylist() for name in columns}
    return {name: sorted(found) for name, found in values.items() if len(found) > 1}


def ambiguous(found: Mapping[str, Sequence[Any]]) -> StatsnormError:
    """Return the error for a selection in which these key columns have several values."""
    shown = "; ".join(
        f"{name} has {len(values)} values ({', '.join(map(repr, values[:4]))}"
        + (", ...)" if len(values) > 4 else ")")
        for name, values in found.items()
    )
    name, values = next(iter(found.items()))
    return StatsnormError(f"ambiguous selection: {shown}; choose one, e.g. {name}={values[0]!r}")


def _values(wanted: Any) -> list[Any]:
    several = isinstance(wanted, Sequence | set | frozenset | np.ndarray)
    return list(wanted) if several and not isinstance(wanted, str) else [wanted]


def _any_of(name: str, values: Sequence[Any]) -> Any:
    kind = MOMENTS_SCHEMA.field(name).type
    try:
        scalars = [pa.scalar(getattr(v, "item", lambda v=v: v)(), kind) for v in values]
    except (pa.ArrowException, TypeError, OverflowError) as error:
        raise StatsnormError(f"{name} must be {kind}, got {list(values)!r}") from error
    if not scalars:
        raise StatsnormError(f"{name}: an empty list selects nothing")
    if len(scalars) > 16:  # too many for a chain of comparisons
        return ds.field(name).isin(pa.array([s.as_py() for s in scalars], kind))
    term = ds.field(name) == scalars[0]
    for scalar in scalars[1:]:
        term = term | (ds.field(name) == scalar)
    return term


def _group_counts(file: Any, group: int, columns: Sequence[str]) -> list[tuple[Any, int]]:
    meta = file.metadata.row_group(group)
    place = {name: file.schema_arrow.names.index(name) for name in columns}  # lists come last
    fixed: dict[str, Any] = {}
    for name in columns:
        statistics = meta.column(place[name]).statistics
        full = statistics and statistics.has_min_max and not statistics.null_count
        if full and statistics.min == statistics.max:
            fixed[name] = statistics.min
    free = [name for name in columns if name not in fixed]
    if not free:
        return [(tuple(fixed[name] for name in columns), meta.num_rows)]
    table = file.read_row_group(group, columns=free)
    refuse_gaps(table, MOMENTS_SCHEMA, "a moments table")
    coded = [_codes(table.column(name)) for name in free]  # (codes, labels) each
    shape = [len(labels) for _, labels in coded]
    flat = np.ravel_multi_index([codes for codes, _ in coded], shape)
    found, counts = np.unique(flat, return_counts=True)
    places = np.unravel_index(found, shape)
    result = []
    for row, count in enumerate(counts.tolist()):
        values = {n: coded[k][1][places[k][row]] for k, n in enumerate(free)}
        result.append((tuple(values.get(n, fixed.get(n)) for n in columns), count))
    return result


def _codes(column: Any) -> tuple[Any, list[Any]]:
    """Return integer codes of a column and the value of each code."""
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    if not isinstance(array, pa.DictionaryArray):
        array = array.dictionary_encode()
    return array.indices.to_numpy(zero_copy_only=False), array.dictionary.to_pylist()


def axis_codes(column: Any) -> tuple[Any, list[Any]]:
    """Return codes into the sorted labels of a column; `cin26:2` sorts before `cin26:10`."""
    codes, labels = _codes(column)
    order = sorted(range(len(labels)), key=lambda k: _natural(labels[k]))
    rank = np.empty(len(labels), np.int64)
    rank[order] = np.arange(len(labels))
    return rank[codes], [labels[k] for k in order]


def _natural(label: Any) -> tuple[Any, ...]:
    if not isinstance(label, str):
        return (label,)
    head, _, tail = label.rpartition(":")
    return (head, int(tail), "") if tail.isdecimal() and tail.isascii() else (head, -1, tail)
