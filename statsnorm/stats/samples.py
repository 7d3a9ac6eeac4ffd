"""Samples, labels and numbers that the tests and distances accept; errors name the rule."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from statsnorm.errors import StatsnormError
from statsnorm.stats.inputs import Array, real_array

Index = NDArray[np.intp]
NO_LABEL = ("nan", "None", "NaT", "<NA>")


def finite_array(name: str, values: ArrayLike, *, ndim: int) -> Array:
    """Return `values` as float64 with `ndim` axes and no nan, or say which rule they break."""
    array = real_array(values, name).astype(np.float64)
    if array.ndim != ndim:
        raise StatsnormError(f"{name} must have {ndim} axes, got shape {array.shape}")
    if not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        raise StatsnormError(f"{name} must be finite, got {count} nan or infinite values")
    return array


def sample(name: str, values: ArrayLike, *, least: int = 2) -> Array:
    """Return a sample (n, d) of at least `least` rows; one axis is read as d = 1."""
    array = real_array(values, name)
    checked = finite_array(name, array[:, None] if array.ndim == 1 else array, ndim=2)
    if len(checked) < least:
        raise StatsnormError(f"{name} must have at least {least} rows, got {len(checked)}")
    if not checked.shape[1]:
        raise StatsnormError(f"{name} must have at least one column, got shape {checked.shape}")
    return checked


def two_samples(x: ArrayLike, y: ArrayLike, *, least: int = 2) -> tuple[Array, Array]:
    """Return two samples (n, d) and (m, d) that share their columns."""
    a, b = sample("x", x, least=least), sample("y", y, least=least)
    if a.shape[1] != b.shape[1]:
        raise StatsnormError(
            f"x and y must have the same number of columns, got {a.shape[1]} and {b.shape[1]}"
        )
    return a, b


def level_codes(name: str, labels: ArrayLike, *, n: int, least: int = 1) -> tuple[Index, list[Any]]:
    """Return integer codes (n,) and the sorted levels of one label a row."""
    array = np.asarray(labels)
    if array.shape != (n,):
        raise StatsnormError(f"{name} must hold one label a row ({n}), got shape {array.shape}")
    if missing := _missing(labels, array):
        raise StatsnormError(f"{name} must not hold nan, None or NaT, got {missing}")
    try:
        levels, codes = np.unique(array, return_inverse=True)
    except TypeError as error:
        kinds = ", ".join(sorted({type(label).__name__ for label in array.tolist()}))
        raise StatsnormError(f"{name} must hold labels of one type, got {kinds}") from error
    if len(levels) < least:
        raise StatsnormError(
            f"{name} must have at least {least} levels, got {len(levels)}: {levels.tolist()!r}"
        )
    return codes.astype(np.intp), levels.tolist()


def _missing(labels: ArrayLike, array: NDArray[Any]) -> int:
    """Count labels that are no label; a list of text and nan would hold the text "nan"."""
    if array.dtype.kind in "biu" or (array.dtype.kind == "U" and array is labels):
        return 0
    given = np.asarray(labels, dtype=object).tolist()
    return sum(not isinstance(x, str) and str(x) in NO_LABEL for x in given)


def positive(name: str, value: float) -> float:
    """Return a finite number greater than 0."""
    if not (_is_number(value) and np.isfinite(value) and value > 0):
        raise StatsnormError(f"{name} must be positive and finite, got {value!r}")
    return float(value)


def whole(name: str, value: int, *, least: int) -> int:
    """Return an integer of at least `least`."""
    if not (_is_number(value) and np.isfinite(value)) or value != int(value) or value < least:
        raise StatsnormError(f"{name} must be an integer not less than {least}, got {value!r}")
    return int(value)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def generator(rng: np.random.Generator | None) -> np.random.Generator:
    """Return `rng` if it is a generator; a seed or the legacy interface is refused."""
    if not isinstance(rng, np.random.Generator):
        raise StatsnormError(
            f"rng must be a numpy.random.Generator, e.g. np.random.default_rng(7), got {rng!r}"
        )
    return rng
