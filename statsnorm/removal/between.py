"""Groups of trained networks side by side: means over networks, differences between groups."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from statsnorm.decisions import Plan
from statsnorm.removal.ratios import Interval, t_pvalue
from statsnorm.removal.units import (
    QUANTITIES,
    Over,
    Unit,
    difference,
    over_networks,
    paired,
    welch,
)
from statsnorm.stats.permutation import sign_flip_test

Array = NDArray[np.float64]
Groups = Mapping[str, Sequence[Unit]]
LEAST_FLIPPED = 2  # differences; sign flips need two
MEAN_COLUMNS = (
    *("group", "place", "quantity", "estimate", "low", "high", "networks_low", "networks_high"),
    *("n", "images", "styles"),
)
DIFFERENCE_COLUMNS = (
    *("first", "second", "place", "quantity", "estimate", "low", "high"),
    *("networks_low", "networks_high", "n", "paired", "pvalue", "p_sign_flip", "status"),
)


def measured_names(units: Sequence[Unit]) -> list[tuple[str, str]]:
    """Return (place, quantity) of all that any network was measured for, place by place."""
    known = list(QUANTITIES)
    found = dict.fromkeys(at for unit in units for at in unit.measured)
    places = list(dict.fromkeys(place for place, _ in found))
    rank = {name: i for i, name in enumerate(known)}
    return sorted(found, key=lambda at: (places.index(at[0]), rank.get(at[1], len(known)), at[1]))


def network_table(groups: Groups) -> pd.DataFrame:
    """Return every network's own numbers: group, cell, seed, iteration, place, quantity, value."""
    rows = [
        {
            "group": group,
            **{name: unit.key[name] for name in ("net", "norm", "index", "cell", "seed")},
            "iteration": unit.key["iteration"],
            "trained_on": unit.condition,
            "place": place,
            "quantity": name,
            "value": float(vector[0]),
        }
        for group, units in groups.items()
        for unit in units
        for (place, name), vector in unit.measured.items()
    ]
    return pd.DataFrame(rows)


def mean_table(groups: Groups) -> pd.DataFrame:
    """Return the mean over the networks of every group, with both intervals.

    `low`, `high`: networks, images and styles as samples; `networks_low`, `networks_high`:
    networks alone. Removed fractions are averaged as logs of what is kept where that is positive.
    """
    rows = [
        row
        for group, units in groups.items()
        for place, name in measured_names(units)
        for row in _mean_row(group, units, place, name)
    ]
    return pd.DataFrame(rows, columns=list(MEAN_COLUMNS))


def difference_table(
    groups: Groups,
    plan: Plan,
    *,
    rng: np.random.Generator,
    by: str = "block",
    reference: str = "",
) -> pd.DataFrame:
    """Return the differences between groups, paired by block where blocks are shared.

    Of V and V_S / V_I a difference of logs, of Psi one of log ratios, of R one of fractions. Null
    of both p-values: no difference; `pvalue` from the t interval, `p_sign_flip` over the pairs.
    Unpaired groups: Welch's t over networks; of two single networks on the same images and
    styles, the two-way jackknife of their difference. `status` says "not testable" below the
    plan's least number of blocks.

    Parameters
    ----------
    by : {"block", "cell"}
        What makes a pair: the block, or the cell at two iterations.
    reference : str
        The group that all are compared with; "" for every pair of groups.
    """
    names = list(groups)
    pairs = (
        [(name, reference) for name in names if name != reference]
        if reference in groups
        else list(itertools.combinations(names, 2))
    )
    rows = [
        row
        for first, second in pairs
        for row in _difference_rows(first, second, groups, plan, rng, by)
    ]
    return pd.DataFrame(rows, columns=list(DIFFERENCE_COLUMNS))


def _mean_row(group: str, units: Sequence[Unit], place: str, name: str) -> Iterator[dict[str, Any]]:
    vectors = [
        unit.measured[place, name]
        for unit in units
        if (place, name) in unit.measured and math.isfinite(unit.measured[place, name][0])
    ]
    if not vectors:
        return
    images, styles = units[0].groups
    found = (
        _removed_over(vectors, units[0].groups)
        if name.startswith("R_")
        else over_networks(vectors, units[0].groups)
    )
    yield {
        "group": group,
        "place": place,
        "quantity": name,
        **_bounds(found),
        "n": found.n,
        "images": images,
        "styles": styles,
    }


def _removed_over(vectors: Sequence[Array], groups: tuple[int, int]) -> Over:
    """Average removed fractions as logs of what is kept; as they are where one keeps nothing."""
    kept = [1 - v for v in vectors]
    if not all((v > 0).all() for v in kept):
        return over_networks(vectors, groups)
    logs = over_networks([np.log(v) for v in kept], groups)
    return Over(n=logs.n, all=_back(logs.all), networks=_back(logs.networks), pvalue=math.nan)


def _back(x: Interval) -> Interval:
    estimate, low, high = (1 - math.exp(value) for value in (x.estimate, x.high, x.low))
    return Interval(estimate=estimate, low=low, high=high, se=x.se, dof=x.dof)


def _difference_rows(
    first: str,
    second: str,
    groups: Groups,
    plan: Plan,
    rng: np.random.Generator,
    by: str,
) -> Iterator[dict[str, Any]]:
    one, other = groups[first], groups[second]
    pairs = paired(one, other, by=by)
    for place, name in measured_names(one):
        row = (
            _paired_row(pairs, place, name, plan, rng)
            if len(pairs) > 1
            else _welch_row(one, other, place, name, plan)
        )
        if row:
            yield {"first": first, "second": second, "place": place, "quantity": name, **row}


def _paired_row(
    pairs: Sequence[tuple[Unit, Unit]],
    place: str,
    name: str,
    plan: Plan,
    rng: np.random.Generator,
) -> dict[str, Any]:
    found = difference(pairs, place, name)
    if not found:
        return {}
    over = over_networks(found, pairs[0][0].groups)
    each = np.array([v[0] for v in found])
    flipped = math.nan
    if len(each) >= LEAST_FLIPPED and np.isfinite(each).all():
        flipped = float(sign_flip_test(each, rng=rng).pvalue)
    return {
        **_bounds(over),
        "n": str(over.n),
        "paired": True,
        "pvalue": over.pvalue,
        "p_sign_flip": flipped,
        "status": _status(over.n, plan, "pairs"),
    }


def _welch_row(
    one: Sequence[Unit], other: Sequence[Unit], place: str, name: str, plan: Plan
) -> dict[str, Any]:
    sides = [
        [
            unit.measured[place, name]
            for unit in side
            if (place, name) in unit.measured and math.isfinite(unit.measured[place, name][0])
        ]
        for side in (one, other)
    ]
    if not all(sides):
        return {}
    a, b = sides[0][0], sides[1][0]
    if len(sides[0]) == len(sides[1]) == 1 and len(a) == len(b) > 1:
        alone = over_networks([a - b], one[0].groups)  # two networks on the same images and styles
        return {
            **_bounds(alone),
            "n": "1 + 1",
            "paired": False,
            "pvalue": alone.pvalue,
            "p_sign_flip": math.nan,
            "status": "not testable: one network each, the interval is over images and styles",
        }
    x, least = welch(*sides), min(map(len, sides))
    return {
        **_bounds(Over(n=least, all=x, networks=x, pvalue=math.nan)),
        "n": f"{len(sides[0])} + {len(sides[1])}",
        "paired": False,
        "pvalue": t_pvalue(x.estimate, x.se, x.dof),
        "p_sign_flip": math.nan,
        "status": _status(least, plan, "networks in the smaller group"),
    }


def _status(n: int, plan: Plan, what: str) -> str:
    least = plan.minimum["blocks"]
    return "" if n >= least else f"not testable: {n} {what} < {least}"


def _bounds(found: Over) -> dict[str, float]:
    return {
        "estimate": found.all.estimate,
        "low": found.all.low,
        "high": found.all.high,
        "networks_low": found.networks.low,
        "networks_high": found.networks.high,
    }
