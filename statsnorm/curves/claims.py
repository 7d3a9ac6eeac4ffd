"""H1-H4 from per-block numbers: exact sign flips, both scales, gates, and what blocks a verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from statsnorm.curves.contrasts import LATE, START, block_numbers, contrast, linear
from statsnorm.curves.study import FAMILY, STRONG, Study
from statsnorm.decisions import (
    CONTRADICTED,
    NOT_TESTABLE,
    SUPPORTED,
    Candidate,
    Decision,
    Part,
    Plan,
    Rule,
    exploratory,
    judge_family,
)
from statsnorm.report.model import Gate
from statsnorm.stats.equivalence import paired_t, tost_paired
from statsnorm.stats.permutation import sign_flip_test
from statsnorm.wording import counted

Array = NDArray[np.float64]

PREREQUISITE = {"H4": "H1"}  # lambda G_a is a margin only where G_a > 0 is established
SPECIFICATIONS = (
    ("style", "log", "heldout", START),
    ("style", "raw", "heldout", START),
    ("style", "log", "heldout", LATE),
    ("style", "raw", "heldout", LATE),
    ("style", "log", "minibatch", START),
    ("style", "log", "running", START),
    ("total", "log", "heldout", START),
    ("total", "raw", "heldout", START),
    ("content", "log", "heldout", START),
    ("content", "raw", "heldout", START),
)
"""Loss, scale, source, start: the primary one first; content loss is another claim."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The decisions on F1 with what they rest on."""

    units: pd.DataFrame  # one row an independent unit: G_a, ..., D on the log scale
    unit: str  # "blocks" or "target styles"
    decisions: tuple[Decision, ...]
    narrowed: Mapping[str, str]  # hypothesis -> what its verdict is confined to
    beside: Mapping[str, str]  # hypothesis -> a sentence that belongs beside its verdict
    gates: pd.DataFrame  # gate, hypotheses, value, passed (nan and False: not measured)


def judged(study: Study, gates: Iterable[Gate], plan: Plan, rng: np.random.Generator) -> Judged:
    """Judge H1-H4 at the primary statistic, held-out style loss on the log scale."""
    logs, unit = units_of(block_numbers(study), plan)
    raw, _ = units_of(block_numbers(study, scale="raw"), plan)
    plain = _verdicts(judge(logs, plan, rng))
    other = _verdicts(judge(raw, plan, rng, raw=True))
    scale = {
        name: reason
        for name, decision in plain.items()
        if (reason := scale_disagreement(decision, other[name]))
    }
    table = gate_table(gates, plan)
    blocked = blocked_by_gates(table)
    total, _ = units_of(block_numbers(study, loss="total"), plan)
    if contradicted := _total_contradicts(total):
        blocked["H1"] = contradicted
    decisions = judge(logs, plan, rng, blocked=blocked, scale_dependent=scale)
    return Judged(
        units=logs,
        unit=unit,
        decisions=tuple(decisions),
        narrowed=_narrowed(logs, decisions, plan, rng),
        beside=_content(study, plan),
        gates=table,
    )


def units_of(numbers: pd.DataFrame, plan: Plan) -> tuple[pd.DataFrame, str]:
    """Return one row per independent unit and what it is.

    Blocks; but where target styles repeat and there are as many of them as a claim needs blocks,
    the blocks of a target style are averaged and the target style is the unit.
    """
    targets = numbers["target"].nunique()
    if targets == len(numbers) or targets < plan.minimum["blocks"]:
        return numbers, "blocks"
    averaged = numbers.drop(columns="block").groupby("target", sort=True).mean().reset_index()
    return averaged.assign(block=averaged["target"]), "target styles"


def judge(
    units: pd.DataFrame,
    plan: Plan,
    rng: np.random.Generator,
    *,
    raw: bool = False,
    blocked: Mapping[str, str] | None = None,
    scale_dependent: Mapping[str, str] | None = None,
) -> list[Decision]:
    """Return the decisions of F1, with Holm's adjustment, from one row of numbers per unit.

    A claim with a prerequisite is judged only if that is supported.

    Parameters
    ----------
    raw : bool
        `units` are on the raw scale: thresholds log(1 + x) become x.
    blocked, scale_dependent : mapping
        Hypothesis -> why it is not interpretable, or which scale it depends on.
    """
    candidates = [
        replace(
            candidate(units, h, plan, rng, raw=raw),
            not_interpretable=(blocked or {}).get(h, ""),
            scale_dependent=(scale_dependent or {}).get(h, ""),
        )
        for h in plan.families[FAMILY]
    ]
    found = _verdicts(judge_family(plan, FAMILY, candidates))
    for i, own in enumerate(candidates):
        needed = PREREQUISITE.get(own.hypothesis, "")
        if needed and found[needed].verdict != SUPPORTED and not own.not_testable:
            why = f"not evaluated, since {needed} is {found[needed].verdict}"
            candidates[i] = replace(own, not_testable=why)
    return judge_family(plan, FAMILY, candidates)


def candidate(
    units: pd.DataFrame, hypothesis: str, plan: Plan, rng: np.random.Generator, *, raw: bool = False
) -> Candidate:
    """Return the evidence on one hypothesis from the units that have all it requires."""
    rules = [r for r in plan.rules if r.hypothesis == hypothesis]
    known = [(r, d) for r in rules if (d := contrast(units, linear(r.statistic))) is not None]
    required = [d for r, d in known if r.required]
    common = np.isfinite(required).all(axis=0) if required else np.zeros(len(units), bool)
    parts = [
        part_of(on_raw_scale(r) if raw else r, d[common & np.isfinite(d)], plan, rng)
        for r, d in known
        if (common & np.isfinite(d)).any()
    ]
    n, least = int(common.sum()), plan.minimum["blocks"]
    why = f"{counted(n, 'complete blocks')}, {least} are needed" if n < least and required else ""
    attainable = sign_flip_test(required[0][common], rng=rng).min_pvalue if n > 1 else 1.0
    return Candidate(
        hypothesis=hypothesis, parts=tuple(parts), not_testable=why, min_pvalue=float(attainable)
    )


def on_raw_scale(rule: Rule) -> Rule:
    """Return a rule with its log-ratio thresholds as relative differences."""
    return replace(rule, null=math.expm1(rule.null), min_effect=math.expm1(rule.min_effect))


def part_of(rule: Rule, d: Array, plan: Plan, rng: np.random.Generator) -> Part:
    """Return the evidence on one rule: two-sided sign flips, with a paired t interval.

    A rule on an absolute value is an equivalence claim: both one-sided tests, the larger p.
    """
    mean, nan = float(d.mean()), math.nan
    if len(d) < 2:
        size = abs(mean) if rule.statistic.startswith("|") else mean
        return Part(rule=rule, estimate=size, low=nan, high=nan, pvalue=nan, p_min_effect=nan)
    if rule.statistic.startswith("|"):
        both = tost_paired(d, low=-rule.null, high=rule.null, alpha=plan.alpha)
        near, far = float(both.low), float(both.high)
        nearest = 0.0 if near <= 0 <= far else min(abs(near), abs(far))
        return Part(
            rule=rule,
            estimate=abs(mean),
            low=nearest,
            high=float(both.smallest_margin),
            pvalue=float(both.pvalue),
            p_min_effect=float(both.pvalue),
            se=float(both.se),
            dof=float(both.dof),
        )
    t = paired_t(d)
    return Part(
        rule=rule,
        estimate=mean,
        low=float(t.low),
        high=float(t.high),
        pvalue=float(sign_flip_test(d - rule.null, rng=rng).pvalue),
        p_min_effect=float(sign_flip_test(d - rule.min_effect, rng=rng).pvalue),
        se=float(t.se),
        dof=float(t.dof),
    )


def scale_disagreement(log: Decision, raw: Decision) -> str:
    """Return "" if log and raw scale agree in decision and in every required sign."""
    signs = [
        a.rule.statistic
        for a, b in zip(log.parts, raw.parts, strict=True)
        if a.rule.required
        and np.sign(a.estimate - a.rule.null) * np.sign(b.estimate - b.rule.null) < 0
    ]
    if signs:
        return f"log and raw scale differ in the sign of {', '.join(signs)}"
    if log.verdict != raw.verdict and log.verdict != NOT_TESTABLE:
        return f"{log.verdict} on the log scale, {raw.verdict} on the raw scale"
    return ""


def gate_table(gates: Iterable[Gate], plan: Plan) -> pd.DataFrame:
    """Return the gates that guard F1; one that was not measured has value nan and fails."""
    found = {gate.name: gate for gate in gates}
    rows = []
    for name, rule in plan.gates.items():
        guarded = [h for h in rule.hypotheses if h in plan.families[FAMILY]]
        gate = found.get(name)
        if guarded:
            rows.append(
                {
                    "gate": name,
                    "statistic": rule.statistic,
                    "low": rule.low,
                    "high": rule.high,
                    "hypotheses": " ".join(guarded),
                    "value": gate.value if gate else math.nan,
                    "passed": bool(gate and gate.passed),
                }
            )
    columns = ["gate", "statistic", "low", "high", "hypotheses", "value", "passed"]
    return pd.DataFrame(rows, columns=columns)


def blocked_by_gates(table: pd.DataFrame) -> dict[str, str]:
    """Return hypothesis -> which of its gates failed or were not measured."""
    reasons: dict[str, list[str]] = {}
    for row in table[~table["passed"].astype(bool)].to_dict("records"):
        known = math.isfinite(row["value"])
        word = (
            f"{row['gate']} failed ({row['value']:.2f})" if known else f"{row['gate']} not measured"
        )
        for hypothesis in str(row["hypotheses"]).split():
            reasons.setdefault(hypothesis, []).append(word)
    return {hypothesis: ", ".join(words) for hypothesis, words in reasons.items()}


def specifications(
    study: Study, plan: Plan, rng: np.random.Generator, primary: Sequence[Decision]
) -> pd.DataFrame:
    """Return the verdict of every hypothesis under every other way of measuring the gap.

    Columns: hypothesis, loss, scale, source, window, estimate (of its first part), pvalue,
    p_adjusted, verdict, agrees. No gate is applied; content loss never counts as disagreeing.
    """
    decided = {d.hypothesis: d.verdict for d in primary}
    rows = []
    for loss, scale, source, start in SPECIFICATIONS:
        numbers = block_numbers(study, loss=loss, scale=scale, source=source, start=start)
        if "G_a" not in numbers:
            continue
        units, _ = units_of(numbers, plan)
        for d in judge(units, plan, rng, raw=scale == "raw"):
            rows.append(
                {
                    "hypothesis": d.hypothesis,
                    "loss": loss,
                    "scale": scale,
                    "source": source,
                    "window": "whole" if start == START else "last 20 %",
                    "estimate": d.parts[0].estimate if d.parts else math.nan,
                    "pvalue": d.pvalue,
                    "p_adjusted": d.p_adjusted,
                    "verdict": d.verdict,
                    "agrees": d.verdict == decided[d.hypothesis] or loss == "content",
                }
            )
    return pd.DataFrame(rows)


def flips(table: pd.DataFrame, decision: Decision) -> str:
    """Return "" unless a decided verdict has specifications that disagree: how many."""
    if decision.verdict not in (SUPPORTED, CONTRADICTED):
        return ""
    mine = table[(table["hypothesis"] == decision.hypothesis) & (table["loss"] != "content")]
    against = int((~mine["agrees"].astype(bool)).sum())
    return f"{against} of {len(mine)} specifications disagree" if against else ""


def strong_contrast(units: pd.DataFrame, plan: Plan, rng: np.random.Generator) -> pd.DataFrame:
    """Judge the gap of H2 under every stronger contrast normalisation (exploratory)."""
    rule = plan.rule("H2", "gap")
    rows = []
    for letter in STRONG:
        d = contrast(units, {f"G_{letter}": 1.0})
        d = d[np.isfinite(d)] if d is not None else np.zeros(0)
        if len(d):
            part = part_of(replace(rule, statistic=f"G_{letter}"), d, plan, rng)
            own = Candidate(
                hypothesis="H2",
                parts=(part,),
                min_pvalue=2 / 2 ** len(d),
            )
            verdict = exploratory(plan, own).verdict
            rows.append(
                {
                    "condition": letter,
                    "n": len(d),
                    "estimate": part.estimate,
                    "low": part.low,
                    "high": part.high,
                    "pvalue": part.pvalue,
                    "verdict": verdict,
                }
            )
    columns = ["condition", "n", "estimate", "low", "high", "pvalue", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def _narrowed(
    units: pd.DataFrame, decisions: Sequence[Decision], plan: Plan, rng: np.random.Generator
) -> dict[str, str]:
    verdicts = {d.hypothesis: d.verdict for d in decisions}
    if verdicts.get("H2") != SUPPORTED:
        return {}
    strong = strong_contrast(units, plan, rng)
    if (strong["verdict"] == SUPPORTED).any():
        return {}
    what = "supported by none" if len(strong) else "none trained"
    return {"H2": f"luminance equalisation only (stronger contrast normalisations: {what})"}


def _content(study: Study, plan: Plan) -> dict[str, str]:
    """Return a sentence for H1 and H4 where the content loss goes the other way."""
    content, _ = units_of(block_numbers(study, loss="content"), plan)
    found = {}
    for hypothesis, column in (("H1", "G_a"), ("H4", "D")):
        if column in content and content[column].notna().any():
            mean = float(content[column].mean())
            trade = mean < 0 if column == "G_a" else mean > 0
            other = ", the other way: content may be traded for style" if trade else ""
            found[hypothesis] = f"Content loss: {column} = {mean:.3f}{other}"
    return found


def _total_contradicts(total: pd.DataFrame) -> str:
    if "G_a" not in total or not len(total) or not total["G_a"].mean() < 0:
        return ""
    return f"the total loss contradicts it: G_a(total) = {total['G_a'].mean():.3f}"


def _verdicts(decisions: Iterable[Decision]) -> dict[str, Decision]:
    return {d.hypothesis: d for d in decisions}
