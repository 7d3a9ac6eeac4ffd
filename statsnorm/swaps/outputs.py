"""The outputs of a conditional network under swaps and blends, and what is measured of them.

Distances to what the target index makes of the same content, shares of them, recognition, Shapley
values over orders of joining, and the way along blends (method.md 5.4).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from statsnorm.swap_names import Swap, parse_swap
from statsnorm.swaps.distances import isotonic_fit, monte_carlo_variance, order_values, replicates

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Outputs:
    """Features of the outputs of one network, squared distances between them in style units."""

    plain: Array  # (I, S, D) untouched
    styles: list[str]
    swapped: dict[tuple[str, str], Array]  # own index, treatment -> (I, D)

    def distance(self, own: str, treatment: str, to: str) -> Array:
        """Return the distances (I,) of a treated output to a style's own."""
        gap = self.swapped[own, treatment] - self.plain[:, self.styles.index(to)]
        return np.asarray((gap**2).sum(axis=-1))

    def start(self) -> Array:
        """Return the distances (I, S, S) between the untouched outputs."""
        gap = self.plain[:, :, None] - self.plain[:, None]
        return np.asarray((gap**2).sum(axis=-1))


def measured_swaps(outputs: Outputs) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of shares, matrix, recognised, shapley and blends; `values` are replicates.

    Replicates (1 + I + S,) are those of :func:`statsnorm.swaps.distances.replicates`; those of
    `recognised` are one share a content.
    """
    asked = {key: parse_swap(key[1]) for key in outputs.swapped}
    start = outputs.start()
    start[:, np.arange(len(outputs.styles)), np.arange(len(outputs.styles))] = np.nan
    lines = _lines(asked)
    layers = sorted({n for each in lines.values() for line in each for n in line})
    found: dict[str, list[dict[str, Any]]] = {"shares": [], "matrix": [], "recognised": []}
    for what in dict.fromkeys(_label(a) for a in asked.values()):
        if what:
            these = {key: a for key, a in asked.items() if _label(a) == what}
            _add_swap(found, outputs, what, these, start)
    if layers:
        found["shapley"] = list(_shapley(outputs, asked, lines, layers, start))
    found["blends"] = list(_blends(outputs, asked, start))
    return found


def _label(swap: Swap) -> str:
    """Return `gamma`, `beta`, `both`, or the one part that was swapped; "" for steps and blends."""
    if swap.share != 1 or len(swap.where) > 1:
        return ""
    if not swap.where:
        return swap.what
    return swap.where[0] if swap.what == "both" else f"{swap.what} of {swap.where[0]}"


def _lines(asked: Mapping[tuple[str, str], Swap]) -> dict[tuple[str, str], list[tuple[str, ...]]]:
    """Return (own, target) -> the orders of joining, each less its last normaliser.

    The longest lists of a target are whole orders but for the one that joins last.
    """
    longest = max((len(a.where) for a in asked.values()), default=0)
    lines: dict[tuple[str, str], list[tuple[str, ...]]] = {}
    for (own, _), a in asked.items():
        if longest > 1 and len(a.where) == longest and a.what == "both":
            lines.setdefault((own, a.to), []).append(a.where)
    return lines


def _table(outputs: Outputs, these: Mapping[tuple[str, str], Swap], to: str = "target") -> Array:
    """Return distances (I, S, S) of one kind of swap; nan where it was not made."""
    styles = outputs.styles
    distances = np.full((len(outputs.plain), len(styles), len(styles)), np.nan)
    for (own, treatment), a in these.items():
        place = styles.index(own), styles.index(a.to)
        aim = a.to if to == "target" else own
        distances[:, place[0], place[1]] = outputs.distance(own, treatment, aim)
    return distances


def _add_swap(
    found: dict[str, list[dict[str, Any]]],
    outputs: Outputs,
    what: str,
    these: Mapping[tuple[str, str], Swap],
    start: Array,
) -> None:
    distance = _table(outputs, these)
    base = np.where(np.isnan(distance), np.nan, start)
    left = replicates(np.stack([distance, base], axis=-1))
    found["shares"].append({"swapped": what, "values": 1 - left[:, 0] / left[:, 1]})
    for (own, _), a in these.items():
        i, j = outputs.styles.index(own), outputs.styles.index(a.to)
        share = 1 - distance[:, i, j].mean() / start[:, i, j].mean()
        found["matrix"].append({"swapped": what, "own": own, "target": a.to, "share": share})
    hits = _nearest(outputs, these)
    for to, values in hits.items():
        found["recognised"].append({"swapped": what, "as": to, "values": values})


def _nearest(outputs: Outputs, these: Mapping[tuple[str, str], Swap]) -> dict[str, Array]:
    """Return, per content, the shares of outputs that are nearest to the target and to the own."""
    n = len(outputs.plain)
    centroids = (outputs.plain.sum(axis=0) - outputs.plain) / (n - 1)  # (I, S, D) without content i
    target, own_style = np.zeros(n), np.zeros(n)
    for (own, treatment), a in these.items():
        x = outputs.swapped[own, treatment]
        nearest = ((x[:, None] - centroids) ** 2).sum(axis=-1).argmin(axis=1)
        target += nearest == outputs.styles.index(a.to)
        own_style += nearest == outputs.styles.index(own)
    return {"target": target / len(these), "own": own_style / len(these)}


def _shapley(
    outputs: Outputs,
    asked: Mapping[tuple[str, str], Swap],
    lines: Mapping[tuple[str, str], Sequence[tuple[str, ...]]],
    layers: Sequence[str],
    start: Array,
) -> Iterator[dict[str, Any]]:
    shape = (*start.shape, len(layers))
    values, variance = np.full(shape, np.nan), np.full(shape[1:], np.nan)
    orders = 0
    for (own, to), mine in lines.items():
        i, j = outputs.styles.index(own), outputs.styles.index(to)
        steps = {
            a.where: outputs.distance(own, treatment, to)
            for (from_, treatment), a in asked.items()
            if from_ == own and a.to == to and a.what == "both" and a.where
        }
        whole = [(*line, next(n for n in layers if n not in line)) for line in mine]
        each = []
        for line in whole:
            taken = order_values(line, steps, start[:, i, j])
            each.append(np.stack([taken[name] for name in layers], axis=-1))  # (I, L)
        values[:, i, j] = np.mean(each, axis=0)
        variance[i, j] = monte_carlo_variance(whole, np.stack(each).mean(axis=1))
        orders += len(whole)
    base = np.where(np.isnan(values[..., 0]), np.nan, start)
    left = replicates(np.concatenate([values, base[..., None]], axis=-1))
    pairs = len(lines)
    error = np.sqrt(np.nansum(variance, axis=(0, 1))) / pairs / left[0, -1]
    known = not np.isnan(variance[~np.isnan(values[0])]).any()
    for k, name in enumerate(layers):
        row = {"layer": name, "orders": orders, "pairs": pairs}
        row |= {"mc_se": float(error[k]) if known else np.nan}
        yield {**row, "values": left[:, k] / left[:, -1]}


def _blends(
    outputs: Outputs, asked: Mapping[tuple[str, str], Swap], start: Array
) -> Iterator[dict[str, Any]]:
    """Yield the distances along a blend, and how well they fall (isotonic R^2)."""
    shares = sorted({a.share for a in asked.values() if a.share != 1})
    if not shares:
        return
    tables = {share: {key: a for key, a in asked.items() if a.share == share} for share in shares}
    distances = {share: _table(outputs, these) for share, these in tables.items()}
    away = {share: _table(outputs, these, to="own") for share, these in tables.items()}
    base = np.where(np.isnan(distances[shares[0]]), np.nan, start)
    nothing = np.where(np.isnan(base), np.nan, 0.0)
    ends = {"target": (base, nothing), "own": (nothing, base)}
    for to, made in (("target", distances), ("own", away)):
        first, last = ends[to]
        for share, values in ((0.0, first), *made.items(), (1.0, last)):
            left = replicates(np.stack([values, base], axis=-1))
            yield {"kind": to, "share": share, "values": left[:, 0] / left[:, 1]}
    steps = np.stack([base, *distances.values(), nothing], axis=-1)  # (I, S, S, steps)
    made_at = ~np.isnan(steps).any(axis=-1)
    fit, chance = isotonic_fit(steps[made_at])
    falls = (np.diff(steps[made_at], axis=-1) < 0).all(axis=-1)
    for kind, values in (("fit", fit), ("chance", chance), ("falls", falls.astype(float))):
        placed = np.full(made_at.shape, np.nan)
        placed[made_at] = values
        yield {"kind": kind, "share": float(len(shares)), "values": replicates(placed)}
