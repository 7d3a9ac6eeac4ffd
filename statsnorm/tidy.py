"""One table for every result: frozen dataclass in, pandas out."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pandas as pd

from statsnorm.errors import StatsnormError


def tidy(
    result: Any, /, *, index: str = "channel", arrays: bool = True, **labels: Any
) -> pd.DataFrame:
    """Return a result as a table, one row per entry of its arrays.

    Scalars are repeated; arrays of shape (C,) and tuples become columns; a result of scalars
    only gives one row. Empty arrays say nothing and are left out, and so are fields declared
    with ``metadata={"tidy": False}`` (replicates, matrices).

    Parameters
    ----------
    result : dataclass instance
        Any result of :mod:`statsnorm.stats` or :mod:`statsnorm.probes`.
    index : str
        Name of the column that numbers the entries 0, 1, ... where there are arrays; it is
        left out where the result names its entries itself (a tuple of strings).
    arrays : bool
        False for one row of the scalars, e.g. of a trace without its channels.
    **labels
        Columns put in front, e.g. ``tap="relu3_1"``.

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    StatsnormError
        If `result` is no dataclass instance, arrays differ in length or have two axes, or a
        label has the name of a field.

    Examples
    --------
    >>> from statsnorm.stats.effects import clopper_pearson
    >>> tidy(clopper_pearson(9, 10), tap="relu3_1")[["tap", "estimate", "n"]]
           tap  estimate   n
    0  relu3_1       0.9  10
    """
    if not is_dataclass(result) or isinstance(result, type):
        raise StatsnormError(f"tidy takes a result (a dataclass instance), got {result!r}")
    values = {
        f.name: getattr(result, f.name) for f in fields(result) if f.metadata.get("tidy", True)
    }
    if clash := sorted(labels.keys() & values.keys()):
        raise StatsnormError(f"label {clash[0]!r} is a field of the result; choose another name")
    lengths = {name: entries(name, value) for name, value in values.items()}
    left_out = {n for n, length in lengths.items() if length == 0 or (length and not arrays)}
    values = {name: value for name, value in values.items() if name not in left_out}
    long = {name: length for name, length in lengths.items() if length and arrays}
    if len(set(long.values())) > 1:
        raise StatsnormError(f"arrays of a result must have one length, got {long}")
    rows = next(iter(long.values()), 1)
    named = any(isinstance(values[name], tuple) for name in long)
    numbered = {index: np.arange(rows)} if long and not named else {}
    columns = {**labels, **numbered, **{name: column(value) for name, value in values.items()}}
    return pd.DataFrame(columns, index=pd.RangeIndex(rows))


def entries(name: str, value: Any) -> int | None:
    """Return the length of an array or tuple field, None for a scalar."""
    if isinstance(value, tuple | list):
        return len(value)
    if isinstance(value, np.ndarray) and value.ndim:
        if value.ndim > 1:
            raise StatsnormError(
                f"field {name!r} has shape {value.shape}; only scalars and (C,) arrays are tidy"
            )
        return len(value)
    return None


def column(value: Any) -> Any:
    """Return a field as a column: 0-d arrays as their number, tuples as lists."""
    if isinstance(value, np.ndarray) and not value.ndim:
        return value.item()
    return list(value) if isinstance(value, tuple) else value
