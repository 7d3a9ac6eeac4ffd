"""Per-block numbers: gaps as trapezoid means, and the linear contrasts that the plan names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from statsnorm.curves.summary import BN, IN
from statsnorm.errors import StatsnormError

if TYPE_CHECKING:
    from statsnorm.curves.study import Study

Array = NDArray[np.float64]

START = 0.01  # t0 as a share of T: before it the curves are those of the initial weights
LATE = 0.8  # the late gap is taken over the last fifth
_TERM = re.compile(r"\s*([+-]?)\s*(\d*\.?\d+)?\s*(G_[A-Za-z0-9]+|D)\s*")


def window_mean(y: ArrayLike, grid: ArrayLike, *, start: float) -> Array:
    """Return the mean of curves over time, by the trapezoid rule on the recorded grid.

    Parameters
    ----------
    y : array_like, shape (..., P)
        Values on the grid.
    grid : array_like, shape (P,)
        Iterations, increasing.
    start : float
        Iterations before it are left out.

    Returns
    -------
    ndarray, shape (...)
        Integral from the first grid point at or after `start` to the last one, over its length.

    Raises
    ------
    StatsnormError
        If fewer than two grid points are left.

    Examples
    --------
    >>> window_mean([9.0, 1.0, 3.0, 3.0], [0, 1, 2, 4], start=1).item()
    2.6666666666666665
    """
    values, steps = np.asarray(y, float), np.asarray(grid, float)
    use = steps >= start * (1 - 1e-9)
    if use.sum() < 2:
        raise StatsnormError(f"a mean over time needs 2 grid points from {start:g} on")
    values, steps = values[..., use], steps[use]
    widths = np.diff(steps)
    total: Array = ((values[..., 1:] + values[..., :-1]) / 2 * widths).sum(axis=-1) / widths.sum()
    return total


def linear(statistic: str) -> dict[str, float]:
    """Return the coefficients of a linear contrast as the plan writes it.

    Raises
    ------
    StatsnormError
        If it is no sum of G_x and D with numbers before them.

    Examples
    --------
    >>> linear("D - 0.25 G_a"), linear("0.5 G_a - G_c")
    ({'D': 1.0, 'G_a': -0.25}, {'G_a': 0.5, 'G_c': -1.0})
    """
    found: dict[str, float] = {}
    text = statistic.strip().removeprefix("|").removesuffix("|")
    place = 0
    while place < len(text):
        term = _TERM.match(text, place)
        if term is None or (place and not term[1]):
            raise StatsnormError(
                f"statistic {statistic!r} is no linear contrast such as 'G_a - 0.5 G_c'"
            )
        sign = -1.0 if term[1] == "-" else 1.0
        found[term[3]] = found.get(term[3], 0.0) + sign * float(term[2] or 1)
        place = term.end()
    return found


def letters_of(statistic: str) -> set[str]:
    """Return the conditions that a statistic needs; D compares (c) with (a)."""
    names = linear(statistic)
    own = {name.removeprefix("G_") for name in names if name != "D"}
    return own | ({"a", "c"} if "D" in names else set())


def contrast(table: pd.DataFrame, coefficients: Mapping[str, float]) -> Array | None:
    """Return the contrast of each row (n,), nan where a part is; None if a column is absent."""
    if any(name not in table for name in coefficients):
        return None
    total: Array = sum(
        (c * table[name].to_numpy(float) for name, c in coefficients.items()),
        start=np.zeros(len(table)),
    )
    return total


def block_numbers(
    study: Study,
    *,
    loss: str = "style",
    scale: str = "log",
    source: str = "heldout",
    start: float = START,
) -> pd.DataFrame:
    """Return G_d of every condition d and D of every kept block.

    Log scale: mean over t of log L_BN - log L_IN. Raw scale: mean over t of L_BN - L_IN in units
    of the block's mean L_IN on originals, so that no target style outweighs another and 0.10 is
    the counterpart of log 1.10.

    Parameters
    ----------
    loss : {"style", "content", "total"}
    scale : {"log", "raw"}
    source : {"heldout", "minibatch", "running"}
        Held-out loss with batch statistics, loss of the minibatches, or held-out loss with BN's
        running statistics (IN has none and keeps its own).
    start : float
        As a share of T.

    Returns
    -------
    DataFrame
        Columns block, target, G_<letter>..., D; nan where a block has no such cell. No G columns
        if nothing was recorded from this source.
    """
    table = study.blocks.loc[study.kept, ["block", "target"]].reset_index(drop=True)
    grid = study.grids.get(source)
    if grid is None or (grid >= start * study.horizon).sum() < 2:
        return table

    def level(norm: str, letter: str) -> Array | None:
        y = _curve(study, norm, letter, loss, source)
        if y is None:
            return None
        values: Array = np.log(y[study.kept]) if scale == "log" else y[study.kept]
        with np.errstate(invalid="ignore"):
            mean = window_mean(values, grid, start=start * study.horizon)
        return np.where(np.isfinite(mean), mean, np.nan)

    plain = level(IN, "a")
    unit = np.ones(len(table)) if scale == "log" or plain is None else plain
    for letter in study.letters():
        both = level(BN, letter), level(IN, letter)
        if both[0] is not None and both[1] is not None:
            table[f"G_{letter}"] = (both[0] - both[1]) / unit
    styled = level(BN, "c")
    if plain is not None and styled is not None:
        table["D"] = (styled - plain) / unit
    return table


def _curve(study: Study, norm: str, letter: str, loss: str, source: str) -> Any:
    found = study.curve(norm, letter, loss=loss, source=source)
    if found is None and source == "running" and norm == IN:
        held = study.curve(IN, letter, loss=loss)
        if held is not None:
            at = np.searchsorted(study.grids["heldout"], study.grids["running"])
            return held[:, at]
    return found
