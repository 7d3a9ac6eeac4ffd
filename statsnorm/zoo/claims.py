"""H7a and H7b: what batch normalisation leaves, on mixed and on style-homogeneous batches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from statsnorm.decisions import Candidate, Decision, Part, Plan, judge_family
from statsnorm.removal.parts import interval_part, removed_part, share_part
from statsnorm.removal.ratios import Ratio, interval
from statsnorm.wording import counted
from statsnorm.zoo.results import (
    CONFIDENCE,
    Frames,
    Key,
    groups_of,
    host_name,
    kept_ratios,
    place_name,
)
from statsnorm.zoo.summary import OWN_FROZEN

Array = NDArray[np.float64]
FAMILY = "F3"
HYPOTHESES = ("H7a", "H7b")
MIXED, HOMOGENEOUS = "mixed", "style-homogeneous"
UNCHECKED = "the identity behind batch normalisation was not measured"
PLACES = ("next_pre_norm", "vgg_of_output")  # both primary places, of a network that makes images
RECOGNISERS = ("vgg16", "vgg19")  # hosts whose output is no image: they have the first place only


@dataclass(frozen=True, slots=True)
class Judged:
    """One decision with the host it is about."""

    host: Mapping[Any, Any]
    networks: int
    decision: Decision


def judged(frames: Frames, plan: Plan) -> list[Judged]:
    """Judge H7a and H7b of every host with batch normalisation in training mode.

    All in one family with H6, whose slot is kept. Of several ways of making the inputs the
    planned one is judged: luminance restored, full strength, the planned contrast family.

    Raises
    ------
    StatsnormError
        If the plan has no family F3.
    """
    found = []
    ratios = kept_ratios(frames)
    for host in frames["hosts"].to_dict("records"):
        planned = all(host[k] == plan.primary[k] for k in ("restore", "strength", "contrast"))
        shares = _shares(frames, int(host["host"]))
        if planned and shares:
            found += [(host, c, n) for c, n in _candidates(host, shares, ratios, frames, plan)]
    decisions = judge_family(plan, FAMILY, [c for _, c, _ in found]) if found else []
    return [Judged(h, n, d) for (h, _, n), d in zip(found, decisions, strict=True)]


def _shares(frames: Frames, host: int) -> dict[str, Mapping[Any, Any]]:
    """Return the rows of `between` of one host, by kind of batch."""
    if "between" not in frames:
        return {}
    rows = frames["between"][frames["between"]["host"] == host].to_dict("records")
    return {str(row["batch_kind"]): row for row in rows if row["norm"] == "bn"}


def _candidates(
    host: Mapping[Any, Any],
    shares: Mapping[str, Mapping[Any, Any]],
    ratios: Mapping[Key, Ratio],
    frames: Frames,
    plan: Plan,
) -> list[tuple[Candidate, int]]:
    networks = min(int(row["networks"]) for row in shares.values())
    error = identity(frames, int(host["host"]))
    gate = plan.gates["bn_identity"]
    broken = f"{gate.statistic}: {error:.2g}" if error > gate.high else ""
    parts = {
        "H7a": _share_parts(host, shares, plan),
        "H7b": _removed_parts(int(host["host"]), ratios, plan),
    }
    lacking = {"H7a": "", "H7b": _unmeasured(host, parts["H7b"], plan)}
    return [
        (
            Candidate(
                hypothesis=name,
                unit=host_name(host),
                parts=tuple(parts[name]),
                not_testable=_not_testable(host, networks, plan, lacking[name]),
                not_interpretable=broken,
                unchecked=UNCHECKED if math.isnan(error) else "",
            ),
            networks,
        )
        for name in HYPOTHESES
    ]


def identity(frames: Frames, host: int) -> float:
    """Return the largest deviation from one affine map a batch; nan if it was not measured."""
    if "identity" not in frames:
        return math.nan
    rows = frames["identity"][frames["identity"]["host"] == host]
    return float(rows["error"].max()) if len(rows) else math.nan


def _share_parts(
    host: Mapping[Any, Any], shares: Mapping[str, Mapping[Any, Any]], plan: Plan
) -> list[Part]:
    found = []
    place = f"mean over the inputs of {_taps(shares)} batch normalisers"
    if MIXED in shares:
        mixed = np.asarray(shares[MIXED]["values"], np.float64)
        groups = groups_of(host, int(shares[MIXED]["networks"]))
        found.append(share_part(plan.rule("H7a", "between"), mixed, groups, place))
        other = np.asarray(shares.get(HOMOGENEOUS, {}).get("values", ()), np.float64)
        if other.shape == mixed.shape:
            gain = interval(mixed - other, groups, confidence=CONFIDENCE, tails="heavy")
            found.append(interval_part(plan.rule("H7a", "mixing"), gain, place))
    return found


def _taps(shares: Mapping[str, Mapping[Any, Any]]) -> int:
    return int(next(iter(shares.values()))["taps"])


def _removed_parts(host: int, ratios: Mapping[Key, Ratio], plan: Plan) -> list[Part]:
    """Return R_S and R_I at every primary place, on style-homogeneous and on mixed batches."""
    wanted = (
        ("style", HOMOGENEOUS, "S"),
        ("content", HOMOGENEOUS, "I"),
        ("mixed_style", MIXED, "S"),
        ("mixed_content", MIXED, "I"),
    )
    found = []
    for part, batch_kind, factor in wanted:
        for kind in PLACES:
            key = (host, "bn", batch_kind, OWN_FROZEN, "original", plan.primary["moment"], kind,
                   factor)  # fmt: skip
            if key in ratios:
                rule = plan.rule("H7b", part)
                found.append(removed_part(rule, ratios[key], place_name(kind, plan)))
    return found


def _unmeasured(host: Mapping[Any, Any], parts: Sequence[Part], plan: Plan) -> str:
    """Name the primary place that lacks evidence: leaving one out must not make a claim easier."""
    recogniser = str(host["name"]).partition(",")[0] in RECOGNISERS
    places = [place_name(kind, plan) for kind in PLACES[: 1 if recogniser else 2]]
    required = {(part.tap, part.rule.part) for part in parts if part.rule.required}
    rules = {name for _, name in required}
    lacking = [place for place in places if any((place, name) not in required for name in rules)]
    return f"not measured at {' and '.join(lacking)}" if lacking else ""


def _not_testable(host: Mapping[Any, Any], networks: int, plan: Plan, lacking: str) -> str:
    least = plan.minimum
    counts = [(name, int(host[name])) for name in ("images", "styles", "levels")]
    short = [f"{n} {name} < {least[name]}" for name, n in counts if n < least[name]]
    if host["weights"] == "random" and networks < least["untrained"]:
        short.append(f"{networks} random initialisations < {least['untrained']}")
    contents = int(host["contents_per_batch"])
    if contents < least["contents"]:
        known = f"{counted(contents, 'contents')} a batch < {least['contents']}"
        short.append(known if contents else "the batch size is not recorded")
    return "; ".join([*short, lacking] if lacking else short)
