"""Who is compared with whom: hosts (one network, one way of making the inputs) and their arms.

An *arm* is a host under one normaliser: its kind and, for batch normalisation, its mode and the
kind of batch. A host with random weights has several networks an arm, one a seed; a trained one as
many as were trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from statsnorm.removal.crossed import INPUT_KEYS, Design

OWN = "next_pre_norm"  # the taps that serve as evidence
NetId = tuple[str, int, int]  # cell, seed, iteration

_WORDS = {"in": "IN", "bn": "BN", "ln": "LN", "gn": "GN", "cin": "CIN"}
_WORDS |= {"in-whiten": "IN + whitening", "frozen": "frozen map"}
_ORDER = ("none", "frozen", "bn", "ln", "gn", "in", "cin", "in-whiten")
_KINDS = ("", "mixed", "content-homogeneous", "style-homogeneous")


@dataclass(frozen=True, slots=True, order=True)
class Arm:
    """One normaliser; `batch_kind` is "" unless the rows depend on the batch."""

    norm: str
    batch_kind: str = ""

    @property
    def label(self) -> str:
        """Name for tables and figures.

        >>> Arm("bn", "mixed").label, Arm("bn").label, Arm("gn32").label
        ('BN (mixed batches)', 'BN (eval mode)', 'GN32')
        """
        groups = self.norm[2:] if self.norm.startswith("gn") else ""
        name = _WORDS.get("gn" if groups else self.norm, self.norm) + groups
        if self.batch_kind:
            return f"{name} ({self.batch_kind} batches)"
        return f"{name} (eval mode)" if self.norm == "bn" else name

    @property
    def rank(self) -> tuple[Any, ...]:
        """Place in tables: from no adaptation to the most."""
        family = "gn" if self.norm.startswith("gn") else self.norm
        place = _ORDER.index(family) if family in _ORDER else len(_ORDER)
        groups = int(self.norm[2:]) if self.norm[2:].isdigit() else 0
        return (place, groups, self.norm, _KINDS.index(self.batch_kind))


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One network under several normalisers; `arms` holds own and VGG-of-output designs."""

    name: str  # e.g. "vgg16", "texture"
    weights: str  # trained or random
    inputs: Mapping[str, Any]
    arms: Mapping[Arm, Mapping[NetId, tuple[Design, ...]]]

    @property
    def label(self) -> str:
        """Name for sentences."""
        return f"{self.name}, {self.weights} weights"


def find_hosts(designs: Sequence[Design]) -> list[Host]:
    """Return the hosts that have at least two arms, in sorted order.

    Of a trained network only the last checkpoint counts. A design counts with its
    VGG-of-output companion; networks without evidence taps do not count.
    """
    grouped: dict[tuple[Any, ...], dict[Arm, dict[NetId, list[Design]]]] = {}
    for design in designs:
        arms = grouped.setdefault(_host_key(design), {})
        arms.setdefault(_arm(design), {}).setdefault(_net_id(design), []).append(design)
    found = []
    for (name, weights, *inputs), arms in sorted(grouped.items(), key=lambda item: item[0]):
        usable = {arm: _last({n: tuple(d) for n, d in nets.items() if _has_evidence(d)})
                  for arm, nets in arms.items()}  # fmt: skip
        usable = {arm: usable[arm] for arm in sorted(usable, key=lambda a: a.rank) if usable[arm]}
        if len(usable) > 1:
            chosen = dict(zip(INPUT_KEYS, inputs, strict=True))
            found.append(Host(name=name, weights=weights, inputs=chosen, arms=usable))
    return found


def _host_key(design: Design) -> tuple[Any, ...]:
    norm, cell, index = (str(design.network[k]) for k in ("norm", "cell", "index"))
    name = design.net.removesuffix(f"+{norm}")
    _, trained_on, condition = cell.rpartition(f"-{norm}-")
    name += f", trained on {condition}" if trained_on else ""
    name += f", index {index}" if index else ""
    weights = "random" if design.untrained else "trained"
    return (name, weights, *(design.inputs[k] for k in INPUT_KEYS))


def _arm(design: Design) -> Arm:
    train = design.network["bn_mode"] == "train"
    return Arm(str(design.network["norm"]), str(design.network["batch_kind"]) if train else "")


def _net_id(design: Design) -> NetId:
    cell, seed, iteration = (design.network[k] for k in ("cell", "seed", "iteration"))
    return str(cell), int(seed), int(iteration)


def _has_evidence(designs: Sequence[Design]) -> bool:
    return any((d.rows["tap_kind"] == OWN).any() for d in designs if d.network["source"] == "input")


def _last(networks: Mapping[NetId, tuple[Design, ...]]) -> dict[NetId, tuple[Design, ...]]:
    latest: dict[tuple[str, int], int] = {}
    for cell, seed, iteration in networks:
        latest[cell, seed] = max(iteration, latest.get((cell, seed), iteration))
    return {n: networks[n] for n in sorted(networks) if latest[n[0], n[1]] == n[2]}
