"""Tables and manifests as bytes that depend on nothing but their content."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from statsnorm.errors import SchemaError

DIGITS = 12
"""Significant digits of a stored float: beyond them the CPU and its thread count show."""


def sha256(content: bytes) -> str:
    """Return the hexadecimal sha256 of `content`.

    >>> sha256(b"")[:12]
    'e3b0c44298fc'
    """
    return hashlib.sha256(content).hexdigest()


def json_bytes(content: Any) -> bytes:
    r"""Return canonical JSON: sorted keys, two-space indent, no nan, a final newline.

    >>> json_bytes({"b": 1, "a": "é"})
    b'{\n  "a": "\xc3\xa9",\n  "b": 1\n}\n'
    """
    text = json.dumps(content, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def number(value: float, digits: int = 6) -> str:
    """Return a number as ``%.{digits}g``, '' for nan.

    >>> number(0.1234567), number(float("nan")), number(-0.0), number(2e-9, 3)
    ('0.123457', '', '0', '2e-09')
    """
    if math.isnan(value):
        return ""
    text = f"{value:.{digits}g}"
    return "0" if text == "-0" else text


def cell(value: Any, digits: int = 6) -> str:
    """Return one table cell as text: numbers by :func:`number`, missing as ''.

    >>> cell(True), cell(np.int64(3)), cell(None), cell([0.5, 2.0]), cell("a b")
    ('true', '3', '', '0.5 2', 'a b')
    """
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (float, np.floating)):
        return number(float(value), digits)
    if isinstance(value, (list, tuple, np.ndarray)):
        return " ".join(cell(item, digits) for item in value)
    if value is None or value is pd.NA or value is pd.NaT:
        return ""
    return str(value)


def csv_bytes(frame: pd.DataFrame) -> bytes:
    """Return `frame` as CSV: UTF-8, LF, one header line, floats with ``%.6g``, nan empty."""
    text = pd.DataFrame(
        {str(name): [cell(v) for v in frame.iloc[:, i]] for i, name in enumerate(frame.columns)},
        columns=[str(name) for name in frame.columns],
        dtype=object,
    )
    return text.to_csv(index=False, lineterminator="\n").encode()


def parquet_bytes(frame: pd.DataFrame) -> bytes:
    """Return `frame` as Parquet with floats rounded to :data:`DIGITS` significant digits.

    Neither pandas' metadata nor the index is stored; a named index becomes columns.

    Raises
    ------
    SchemaError
        If a column holds a mixture that Parquet cannot store; the message names the column.
    """
    plain = flat(frame)
    arrays = [_array(str(name), plain.iloc[:, i]) for i, name in enumerate(plain.columns)]
    return _packed(pa.table(arrays, names=[str(name) for name in plain.columns]))


def repacked(content: bytes, name: str) -> bytes:
    """Return a Parquet file with the same columns and values, packed as :func:`parquet_bytes` does.

    Raises
    ------
    SchemaError
        If `content`, called `name` in the message, is no Parquet file.
    """
    return _packed(_arrow(content, name))


def _packed(table: pa.Table) -> bytes:
    """Return the bytes of `table`: the eight bytes of a float apart, so that like meets like.

    That takes a quarter off sufficient statistics, which are floats with little to repeat.
    """
    columns = {
        (f"{f.name}.list.element" if _is_list(f.type) else f.name): f.type for f in table.schema
    }
    floats = [
        path
        for path, kind in columns.items()
        if pa.types.is_floating(kind.value_type if _is_list(kind) else kind)
    ]
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        compression_level=19,
        store_schema=False,
        use_dictionary=[path for path in columns if path not in floats],
        use_byte_stream_split=floats,
    )
    return sink.getvalue()


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind))


def read_parquet(content: bytes, name: str) -> pd.DataFrame:
    """Return the frame that :func:`parquet_bytes` wrote; SchemaError if damaged."""
    frame: pd.DataFrame = _arrow(content, name).to_pandas()
    return frame


def _arrow(content: bytes, name: str) -> pa.Table:
    try:
        return pq.read_table(io.BytesIO(content))
    except pa.ArrowException as error:
        raise SchemaError(f"{name} is damaged: {error}") from error


def flat(frame: pd.DataFrame) -> pd.DataFrame:
    """Return `frame` with a plain 0..n-1 index; index levels that have names become columns."""
    if any(name is not None for name in frame.index.names):
        return frame.reset_index()
    return frame.reset_index(drop=True)


def rounded(values: Iterable[float]) -> list[float]:
    """Return floats with :data:`DIGITS` significant digits.

    >>> rounded([1 / 3, float("inf"), 0.1 + 0.2])
    [0.333333333333, inf, 0.3]
    """
    return [float(f"{value:.{DIGITS}g}") for value in values]


def slug(name: str) -> str:
    """Return `name` as a file name and anchor: letters, digits, ``._-``; others become ``_``.

    >>> slug("<script>alert(1)</script>"), slug("res2.norm1"), slug("..")
    ('script_alert_1_script', 'res2.norm1', 'x')
    """
    text = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")
    return text[:80] or "x"


def _array(name: str, column: pd.Series[Any]) -> pa.Array:
    values = column
    if isinstance(column.dtype, pd.CategoricalDtype):
        values = column.astype(object)
    if pd.api.types.is_float_dtype(values.dtype):
        plain = values.to_numpy(dtype=np.float64, na_value=np.nan)
        return pa.array(rounded(plain.tolist()), pa.float64())
    items = [None if _missing(v) else _plain(v) for v in values]
    try:
        return (
            pa.array(items, pa.string())
            if not any(i is not None for i in items)
            else (pa.array(items))
        )
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise SchemaError(f"column {name!r} cannot be stored: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple, np.ndarray)):
        items = [_plain(v) for v in value]
        return rounded(items) if items and all(isinstance(v, float) for v in items) else items
    if isinstance(value, np.generic):
        value = value.item()
    return rounded([value])[0] if isinstance(value, float) else value


def _missing(value: Any) -> bool:
    if value is None or value is pd.NA or value is pd.NaT:
        return True
    return isinstance(value, float) and math.isnan(value)
