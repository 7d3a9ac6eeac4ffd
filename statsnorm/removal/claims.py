"""From evidence to claims: which inputs are primary, what may block a verdict, and its scope."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from statsnorm.decisions import (
    NOT_TESTABLE,
    SUPPORTED,
    Candidate,
    Decision,
    Plan,
    exploratory,
    judge_family,
)
from statsnorm.removal.crossed import INPUT_KEYS
from statsnorm.removal.evidence import candidates, kept_by_norm
from statsnorm.removal.study import IDENTITY, Frames, Study, log_selectivity, primary_places

FAMILY = "F2"
VGG_TAPS: tuple[str, ...] = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
UNCHECKED = "sign under blended styles not checked"


@dataclass(frozen=True, slots=True)
class Judged:
    """One network's decisions, with the studies that served as its sensitivity analyses."""

    study: Study
    decisions: tuple[Decision, ...]
    scope: str  # of the style factor, e.g. "(cin26 styles)", or "" with three generators
    sensitivity: tuple[Study, ...]

    @property
    def sign_checked(self) -> bool:
        """Whether another blend strength of the styles was measured."""
        return _blended((self.study, *self.sensitivity))


def judged(found: Sequence[Study], frames: Frames, plan: Plan) -> list[Judged]:
    """Judge H5a-d of every network, all in one Holm family.

    Raises
    ------
    StatsnormError
        If the plan has no family F2.
    """
    groups: dict[tuple[object, ...], list[Study]] = {}
    for study in found:
        identity = tuple(study.key[name] for name in IDENTITY if name != "index")
        groups.setdefault(identity, []).append(study)
    ordered = [sorted(group, key=lambda s: _distance(s, plan)) for group in groups.values()]
    claims = [_candidates(group, frames, plan) for group in ordered]
    decisions = iter(judge_family(plan, FAMILY, [c for group in claims for c in group]))
    return [
        Judged(
            group[0],
            tuple(next(decisions) for _ in own),
            style_scope(group[0], plan),
            tuple(group[1:]),
        )
        for group, own in zip(ordered, claims, strict=True)
    ]


def input_balance(frames: Frames, plan: Plan) -> pd.DataFrame:
    """Return V_I and V_S of every input tap: networks run on the plain inputs (VGG, pixels)."""
    designs, components = frames["designs"], frames["components"]
    plain = designs[(designs["source"] == "input") & ~designs["untrained"]]
    normalised = components.loc[components["treatment"] != "none", "design"]
    plain = plain[~plain["design"].isin(normalised)]
    rows = components[
        components["moment"].isin(["m", "v"])
        & (components["condition"] == "original")
        & (components["generators"] == "all")
    ][["design", "tap", "depth", "moment", "content", "style"]]
    rows = rows.merge(plain[["design", "net", *INPUT_KEYS]], on="design")
    rows = rows.sort_values(["net", *INPUT_KEYS, "depth", "tap", "moment"])
    low, high = plan.primary["input_ratio"]
    table = rows[["net", *INPUT_KEYS, "tap", "moment", "content", "style"]].reset_index(drop=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        table["ratio"] = table["content"].to_numpy() / table["style"].to_numpy()
    table["within"] = table["ratio"].between(low, high)
    return table


def judging_taps(study: Study, balance: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Return the rows of `input_balance` on which a network's selectivity is judged.

    Every VGG tap of the inputs among `VGG_TAPS`: restoring luminance fixes the
    luminance moments of the styled images, so pixels say nothing about the balance.
    """
    networks = set(study.designs.loc[study.designs["source"] != "input", "network"])
    mine = balance["tap"].isin(VGG_TAPS) & balance["net"].isin(networks)
    for name in INPUT_KEYS:
        mine &= balance[name] == study.key[name]
    judging: pd.DataFrame = balance[mine & (balance["moment"] == plan.primary["moment"])]
    return judging


def style_scope(study: Study, plan: Plan) -> str:
    """Return "(cin26 styles)" where too few style generators can be judged by themselves.

    A general verdict needs the same result in several generators: one with too few styles for a
    result of its own does not count.
    """
    first, least = study.designs.iloc[0], plan.minimum["style_generators"]
    names = str(first["style_generators"]).split(", ")
    if len(names) >= least and sum(_can_be_judged(study, plan, name) for name in names) >= least:
        return ""
    return f"({first['style_generators']} styles)"


def _can_be_judged(study: Study, plan: Plan, generator: str) -> bool:
    (own,) = (c for c in candidates(study, plan, generator) if c.hypothesis == "H5a")
    return not own.not_testable


def _distance(study: Study, plan: Plan) -> tuple[object, ...]:
    """Order the ways of making the inputs: the planned one first."""
    off = [study.key[name] != plan.primary[name] for name in INPUT_KEYS]
    strength = abs(float(study.key["strength"]) - plan.primary["strength"])
    place = [str(study.key[name]) for name in INPUT_KEYS]
    return (*off, strength, *place, _number(str(study.key["index"])))


def _number(index: str) -> tuple[int, str]:
    return (int(index), "") if index.isdigit() else (-1, index)


def _candidates(group: Sequence[Study], frames: Frames, plan: Plan) -> list[Candidate]:
    study = group[0]
    own = candidates(study, plan)
    blocked = {
        "H5d": _unbalanced(study, frames, plan) or _sign_differs(group, plan),
    }
    unmeasured = _no_input_taps(study, frames, plan)
    result = []
    for claim in own:
        reason = blocked.get(claim.hypothesis, "") or _generators_differ(study, plan, claim)
        lacking = unmeasured if claim.hypothesis == "H5d" else ""
        why = "; ".join(text for text in (claim.not_testable, lacking) if text)
        unchecked = UNCHECKED if claim.hypothesis == "H5d" and not _blended(group) else ""
        result.append(
            replace(claim, factor_dependent=reason, not_testable=why, unchecked=unchecked)
        )
    return result


def _blended(group: Sequence[Study]) -> bool:
    return len({float(study.key["strength"]) for study in group}) > 1


def _no_input_taps(study: Study, frames: Frames, plan: Plan) -> str:
    if len(judging_taps(study, input_balance(frames, plan), plan)):
        return ""
    return "V_I/V_S at the input taps not measured (VGG of the inputs is not in the tables)"


def _unbalanced(study: Study, frames: Frames, plan: Plan) -> str:
    taps = judging_taps(study, input_balance(frames, plan), plan)
    out = taps[~taps["within"]]
    low, high = plan.primary["input_ratio"]
    listed = ", ".join(f"{t} {r:.2g}" for t, r in zip(out["tap"], out["ratio"], strict=True))
    return f"V_I/V_S outside [{low:g}, {high:g}] at the inputs: {listed}" if listed else ""


def _sign_differs(group: Sequence[Study], plan: Plan) -> str:
    """Compare the sign of Psi under every other way of making the inputs."""
    for other in group[1:]:
        for name, taps in primary_places(group[0], plan).items():
            there = primary_places(other, plan)[name]
            first, second = (_psi(s, t, plan) for s, t in ((group[0], taps), (other, there)))
            if np.isfinite([first, second]).all() and np.sign(first) != np.sign(second):
                how = ", ".join(f"{k} {other.key[k]}" for k in (*INPUT_KEYS, "index"))
                return f"Psi at {name} is {first:.2f}, but {second:.2f} under {how}"
    return ""


def _psi(study: Study, taps: Sequence[tuple[int, str]], plan: Plan) -> float:
    style, content = (kept_by_norm(study, taps, c, plan) for c in ("style", "content"))
    psi = log_selectivity(style, content)
    return psi.log().estimate if psi is not None else float("nan")


def _generators_differ(study: Study, plan: Plan, claim: Candidate) -> str:
    """With several style generators, ask each for its own verdict."""
    names = str(study.designs.iloc[0]["style_generators"]).split(", ")
    if len(names) < 2 or claim.hypothesis not in ("H5a", "H5d"):
        return ""
    verdicts = {}
    for name in names:
        for own in candidates(study, plan, name):
            if own.hypothesis == claim.hypothesis:
                verdicts[name] = exploratory(plan, own).verdict
    known = {n: v for n, v in verdicts.items() if v != NOT_TESTABLE}
    if len(set(known.values())) > 1 and SUPPORTED in known.values():
        return "verdict differs between style generators: " + ", ".join(
            f"{n} {v}" for n, v in known.items()
        )
    return ""
