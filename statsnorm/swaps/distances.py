"""What another style's parameters do to the style of the output: distances, orders, blends.

What `analyses/cin_map.py` makes of the swaps of a conditional network (method.md 5.4). Arrays are
(I contents, S own styles, S target styles), nan where own and target are one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from statsnorm.errors import StatsnormError

Array = NDArray[np.float64]


def style_features(mean: Array, var: Array) -> Array:
    """Return the means and sds of one tap so that squared distances are in units of two styles.

    Parameters
    ----------
    mean, var : ndarray, shape (I, S, C)
        Of the untouched network at its S indices.

    Returns
    -------
    ndarray, shape (I, S, 2 C)
        Divided by the root of the mean squared distance between two styles of one content.

    Raises
    ------
    StatsnormError
        If no two styles differ.
    """
    return np.concatenate([mean, np.sqrt(var)], axis=-1) / style_unit(mean, var)


def style_unit(mean: Array, var: Array) -> float:
    """Return the root mean squared distance of [mean, sd] between two styles of one content."""
    x = np.concatenate([mean, np.sqrt(var)], axis=-1)
    styles = x.shape[1]
    spread = ((x - x.mean(axis=1, keepdims=True)) ** 2).sum(axis=(1, 2)).mean()
    if styles < 2 or not spread > 0:
        raise StatsnormError(f"{styles} styles do not differ at all: nothing can be swapped")
    return float(np.sqrt(2 * spread / (styles - 1)))


def replicates(values: Array) -> Array:
    """Return means over contents and pairs of styles, (1 + I + S, ...): all, without each.

    Parameters
    ----------
    values : ndarray, shape (I, S, S, ...)
        A style that is left out leaves as own and as target; nan does not count.
    """
    contents, styles = values.shape[:2]
    rows = [_mean(values)]
    rows += [_mean(np.delete(values, i, axis=0)) for i in range(contents)]
    for s in range(styles):
        rows.append(_mean(np.delete(np.delete(values, s, axis=1), s, axis=2)))
    return np.stack(rows)


def order_values(
    line: Sequence[str], steps: Mapping[tuple[str, ...], Array], start: Array
) -> dict[str, Array]:
    """Return how much each normaliser takes off the distance when it joins, in one order.

    Parameters
    ----------
    line : sequence of str
        All normalisers, in the order of joining.
    steps : mapping
        The first k of the line -> distances (I,) to the target, for 0 < k < len(line).
    start : ndarray, shape (I,)
        The distance with nothing swapped; with everything swapped it is 0.

    Raises
    ------
    StatsnormError
        If a step is not there.
    """
    distance = [start]
    for k in range(1, len(line)):
        if (step := tuple(line[:k])) not in steps:
            raise StatsnormError(f"an order lacks its step {k} of {len(line)}: {'+'.join(step)}")
        distance.append(steps[step])
    distance.append(np.zeros_like(start))
    return {name: distance[k] - distance[k + 1] for k, name in enumerate(line)}


def monte_carlo_variance(orders: Sequence[Sequence[str]], values: Array) -> Array:
    """Return the Monte-Carlo variance of the mean over orders.

    An order and its reverse are one draw; with a single such pair its two orders are taken as
    independent, which is conservative where they pull in opposite directions.

    Parameters
    ----------
    orders : sequence of sequence of str
        The orders.
    values : ndarray, shape (orders, ...)
        What each gave.

    Returns
    -------
    ndarray, shape (...)
        nan with a single order.
    """
    lines = [tuple(order) for order in orders]
    draws, used = [], set()
    for k, line in enumerate(lines):
        if k in used:
            continue
        back = line[::-1]
        mate = next((j for j in range(k + 1, len(lines)) if lines[j] == back and j not in used), k)
        used |= {k, mate}
        draws.append((values[k] + values[mate]) / 2)
    each = np.stack(draws if len(draws) > 1 else list(values))
    if len(each) < 2:
        return np.full(values.shape[1:], np.nan)
    variance: Array = each.var(axis=0, ddof=1) / len(each)
    return variance


def isotonic_fit(distance: Array) -> tuple[Array, Array]:
    """Return R^2 of the best falling sequence, and what random orders of the same values give.

    Parameters
    ----------
    distance : ndarray, shape (n, steps)
        Distances to the target along the way, nearer and nearer if style moves monotonely.

    Returns
    -------
    fit, chance : ndarray, shape (n,)
        Chance: the mean of R^2 over all orders of the steps, or over 120 of them drawn evenly.
        nan where the distance never changes.
    """
    steps = distance.shape[1]
    orders = np.array(list(permutations(range(steps)))) if steps <= 5 else _some_orders(steps)
    fit = np.array([_r_squared(row) for row in distance])
    chance = np.array([np.mean([_r_squared(row[order]) for order in orders]) for row in distance])
    return fit, chance


def _some_orders(steps: int) -> NDArray[np.int64]:
    rng = np.random.default_rng(0)
    return np.stack([rng.permutation(steps) for _ in range(120)])


def _r_squared(values: Array) -> float:
    total = float(((values - values.mean()) ** 2).sum())
    if not total > 0:
        return np.nan
    left = values - isotonic_regression(values, increasing=False).x
    return 1 - float((left**2).sum()) / total


def _mean(values: Array) -> Array:
    flat = values.reshape(-1, *values.shape[3:])
    mean: Array = np.nanmean(flat, axis=0)
    return mean
