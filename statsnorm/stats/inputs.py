"""What the statistics accept: shapes, levels, confidence; the one rule for a constant channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from statsnorm.errors import StatsnormError

Array = NDArray[np.float64]

CONSTANT = 16 * float(np.finfo(np.float64).eps)
"""A channel is constant when its spread is at most this share of its magnitude."""


def real_array(x: ArrayLike, name: str) -> NDArray[Any]:
    """Return `x` as a real numeric array, unchanged in dtype, or raise.

    Parameters
    ----------
    x : array_like
        Any shape; float, integer or boolean.
    name : str
        What the message calls it.

    Raises
    ------
    StatsnormError
        If the array is ragged, or holds text, objects or complex numbers.
    """
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise StatsnormError(f"{name} must be a rectangular array: {error}") from None
    if array.dtype.kind not in "fiub":
        raise StatsnormError(f"{name} must hold real numbers, got dtype {array.dtype}")
    return array


def design_array(y: ArrayLike, name: str = "y", *, least: int = 2) -> NDArray[Any]:
    """Return a crossed design (I, S, K, C), in its own dtype, or raise.

    Parameters
    ----------
    y : array_like, shape (I, S, K, C)
        Images, styles, contrast levels, channels. K = 1 means no contrast factor.
    name : str
        What the message calls it.
    least : int
        Fewest images and fewest styles: 2 for an estimate, 3 for a jackknife.

    Raises
    ------
    StatsnormError
        If there are not four axes, or too few levels of an axis.
    """
    array = real_array(y, name)
    if array.ndim != 4:
        raise StatsnormError(
            f"{name} must have the 4 axes (images, styles, levels, channels), "
            f"got shape {array.shape}; add an axis of length 1 where there is no factor"
        )
    for axis, label in enumerate(("images", "styles")):
        if array.shape[axis] < least:
            raise StatsnormError(
                f"{name} has {array.shape[axis]} {label} (shape {array.shape}); "
                f"at least {least} are needed"
            )
    if array.shape[2] < 1 or array.shape[3] < 1:
        raise StatsnormError(f"{name} has no levels or no channels: shape {array.shape}")
    return array


def block_array(d: ArrayLike, name: str = "d", *, least: int = 2) -> Array:
    """Return paired differences as float64, (n,) or (n, C), or raise.

    Parameters
    ----------
    d : array_like, shape (n,) or (n, C)
        One row per independent unit (block, image), one column per channel.
    name : str
        What the message calls it.
    least : int
        Fewest units.

    Raises
    ------
    StatsnormError
        If there are not one or two axes, or fewer than `least` units.
    """
    array = real_array(d, name).astype(np.float64)
    if array.ndim not in (1, 2):
        raise StatsnormError(f"{name} must have shape (n,) or (n, C), got {array.shape}")
    if len(array) < least:
        raise StatsnormError(f"{name} has {len(array)} units; at least {least} are needed")
    return array


def check_confidence(confidence: float, name: str = "confidence") -> float:
    """Return `confidence`, or raise if it does not lie strictly between 0 and 1."""
    if not 0 < confidence < 1:
        raise StatsnormError(f"{name} must lie strictly between 0 and 1, got {confidence!r}")
    return float(confidence)


def check_choice(value: str, choices: Sequence[str], name: str) -> str:
    """Return `value`, or raise if it is none of `choices`."""
    if value not in choices:
        raise StatsnormError(f"{name} must be one of {', '.join(choices)}; got {value!r}")
    return value


def is_constant(x: ArrayLike) -> NDArray[np.bool_]:
    """Say which channels are constant, relative to their magnitude.

    Parameters
    ----------
    x : array_like, shape (..., C)
        All axes but the last are pooled.

    Returns
    -------
    ndarray of bool, shape (C,)
        True where max - min <= 16 machine epsilons of the largest magnitude, so that a
        repeated 0.1 is constant whatever its rounding. A channel with nan is not constant.

    Examples
    --------
    >>> is_constant([[0.1, 1.0], [0.1, 2.0]])
    array([ True, False])
    """
    array = real_array(x, "x")
    rows = array.reshape(-1, array.shape[-1]).astype(np.float64, copy=False)
    with np.errstate(invalid="ignore"):
        spread = rows.max(axis=0) - rows.min(axis=0)
        return np.asarray(spread <= CONSTANT * np.abs(rows).max(axis=0))
