"""Crossed content x style x contrast designs in the tables, their cells aligned over treatments.

A *design* is one network (one seed, one index) on one way of making the inputs; its *members* are
the (condition, treatment) pairs whose cells are compared with each other. Members are paired cell
by cell: only images, styles and levels that all members have are used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from statsnorm.engines.tasks import TapMap

NETWORK_KEYS: tuple[str, ...] = (
    "network",
    "source",
    "norm",
    "index",
    "bn_mode",
    "batch_kind",
    "cell",
    "seed",
    "iteration",
)
INPUT_KEYS: tuple[str, ...] = ("restore", "strength", "contrast")
TAP_KEYS: tuple[str, ...] = ("tap", "call")
AXES: tuple[str, ...] = ("image", "style", "level")
REFERENCE = ("original", "none")
LEAST_SHARE = 0.9  # a member with fewer of the reference's images is another study, left out

Array = NDArray[np.float64]
Member = tuple[str, str]
Name = TypeVar("Name")


class MomentTables(TapMap, Protocol):
    """What this module needs of :class:`statsnorm.load.Tables`."""

    def keys(self) -> pd.DataFrame:
        """Return the distinct key combinations with the tap columns."""

    def taps(self) -> pd.DataFrame:
        """Return the taps."""

    def provenance(self) -> dict[str, Any]:
        """Return `runs`, each with its `config`."""

    def outside(self) -> pd.DataFrame:
        """Return the shares of input values outside [0, 1], a row an image and input cell."""

    def array(self, where: Mapping[str, Any], axes: Sequence[str] = AXES) -> Any:
        """Return `.mean`, `.var` (*axes, C) and `.labels`, axis -> its labels."""


@dataclass(frozen=True, slots=True)
class Cells:
    """Moments of one member at one tap; arrays (I, S, K, C), nan where missing."""

    mean: Array
    var: Array
    labels: tuple[tuple[Any, ...], ...]

    def select(self, labels: tuple[tuple[Any, ...], ...]) -> Cells:
        """Return the cells of these labels, in their order."""
        mean, var = self.mean, self.var
        for axis, (mine, wanted) in enumerate(zip(self.labels, labels, strict=True)):
            if mine != wanted:
                place = {label: i for i, label in enumerate(mine)}
                rows = np.array([place[label] for label in wanted], dtype=np.intp)
                mean, var = mean.take(rows, axis=axis), var.take(rows, axis=axis)
        return Cells(mean, var, labels)


@dataclass(frozen=True, slots=True)
class Design:
    """One network on one way of making the inputs; `rows` are its key rows, all taps."""

    network: Mapping[str, Any]
    inputs: Mapping[str, Any]
    rows: pd.DataFrame

    @property
    def bare(self) -> Design:
        """The same without the key rows: enough to read cells, and small to send."""
        return replace(self, rows=self.rows.iloc[:0])

    @property
    def untrained(self) -> bool:
        """Whether the weights are a random initialisation."""
        return bool(self.network["iteration"] == 0)

    @property
    def net(self) -> str:
        """Name of the network under study: for VGG of the output, the generator."""
        source = str(self.network["source"])
        return str(self.network["network"]) if source == "input" else source


def find_designs(keys: pd.DataFrame) -> list[Design]:
    """Return the crossed designs of a keys table, in sorted order.

    A design needs at least two styles and two levels of one contrast family.
    """
    crossed = keys[(keys["style"] != "") & (keys["contrast"] != "")]
    found = []
    by = [*NETWORK_KEYS, *INPUT_KEYS]
    for values, rows in crossed.groupby(by, sort=True):
        if len(set(rows["style"])) > 1 and len(set(rows["level"])) > 1:
            named = dict(zip(by, values, strict=True))
            network = {k: named[k] for k in NETWORK_KEYS}
            found.append(Design(network, {k: named[k] for k in INPUT_KEYS}, rows))
    return found


def taps_of(design: Design) -> pd.DataFrame:
    """Return one row a tap and call of a design, by depth, with its members as a list."""
    columns = [*TAP_KEYS, "tap_kind", "depth", "by_construction"]
    rows = design.rows[[*columns, "condition", "treatment"]].drop_duplicates()
    records = []
    for key, group in rows.groupby([*TAP_KEYS], sort=False):
        tap, call = str(key[0]), int(str(key[1]))
        members = sorted(set(zip(group["condition"], group["treatment"], strict=True)))
        first = group.sort_values("depth").iloc[0]
        records.append(
            {
                "tap": tap,
                "call": call,
                "tap_kind": str(first["tap_kind"]),
                "depth": int(first["depth"]),
                "by_construction": bool(group["by_construction"].any()),
                "members": members,
            }
        )
    return pd.DataFrame(records).sort_values(["depth", "tap", "call"], ignore_index=True)


def load_members(
    tables: MomentTables, design: Design, tap: str, call: int, members: list[Member]
) -> tuple[dict[Member, Cells], list[str]]:
    """Return the aligned cells of the members at one tap, and why any was left out.

    Images that lack a cell in any member are dropped from all of them.
    """
    loaded = {}
    for condition, treatment in members:
        loaded[condition, treatment] = read_cells(
            tables, design, tap, call, condition=condition, treatment=treatment
        )
    kept, notes = _comparable(loaded)
    return align(kept), notes


def align(loaded: Mapping[Name, Cells]) -> dict[Name, Cells]:
    """Return the cells of the images, styles and levels that all members have, in one order.

    Images that lack a cell in any member are dropped from all of them.
    """
    common = tuple(
        tuple(label for label in first if all(label in other for other in others))
        for first, *others in zip(*(cells.labels for cells in loaded.values()), strict=True)
    )
    return _complete({name: cells.select(common) for name, cells in loaded.items()})


def read_cells(
    tables: MomentTables, design: Design, tap: str, call: int, *, condition: str, treatment: str
) -> Cells:
    """Return the cells of one member at one tap."""
    where = {**design.network, **design.inputs, "tap": tap, "call": call}
    found = tables.array({**where, "condition": condition, "treatment": treatment})
    return Cells(found.mean, found.var, tuple(tuple(found.labels[axis]) for axis in AXES))


def _comparable(loaded: dict[Member, Cells]) -> tuple[dict[Member, Cells], list[str]]:
    reference = loaded.get(REFERENCE, next(iter(loaded.values())))
    images, *others = (set(axis) for axis in reference.labels)
    kept, notes = {}, []
    for member, cells in loaded.items():
        shared = len(images & set(cells.labels[0])) / len(images)
        crossed = all(
            mine >= set(theirs)
            for mine, theirs in zip((set(a) for a in cells.labels[1:]), others, strict=True)
        )
        if shared >= LEAST_SHARE and crossed:
            kept[member] = cells
        else:
            notes.append(
                f"condition {member[0]!r}, treatment {member[1]!r}: {shared:.0%} of the images"
                + ("" if crossed else ", not all styles and levels")
                + " of the reference cells, so it is not compared"
            )
    return kept, notes


def _complete(aligned: dict[Name, Cells]) -> dict[Name, Cells]:
    whole = ~np.any([_lacking(cells.mean) for cells in aligned.values()], axis=0)  # (I,)
    if whole.all():
        return aligned
    labels = next(iter(aligned.values())).labels
    images = tuple(label for label, keep in zip(labels[0], whole, strict=True) if keep)
    return {m: cells.select((images, *labels[1:])) for m, cells in aligned.items()}


def _lacking(mean: Array) -> NDArray[np.bool_]:
    """Say which images (I,) lack a cell: nan in all channels."""
    missing: NDArray[np.bool_] = np.asarray(np.isnan(mean).all(axis=-1))  # (I, S, K)
    return np.asarray(missing.any(axis=tuple(range(1, missing.ndim))))
