"""The decision engine: a plan fixed before the data, evidence, and a verdict for each claim.

A claim is the intersection of its required rules. It is *supported* when every rule holds: the
multiplicity-adjusted test excludes `null` on the claimed side (intersection-union: the claim's p
is the largest of its parts) and the estimate reaches `min_effect`. It is *contradicted* when a
rule's interval lies wholly on the other side of `min_effect`; since any part suffices, that p is
multiplied by the number of parts. Between the two it is *inconclusive*. Four states come before:
*not testable*, *not interpretable*, *scale-dependent*, *factor-dependent*.
"""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from statsnorm.errors import StatsnormError, unknown

SUPPORTED = "supported"
CONTRADICTED = "contradicted"
INCONCLUSIVE = "inconclusive"
NOT_TESTABLE = "not testable"
NOT_INTERPRETABLE = "not interpretable"
SCALE_DEPENDENT = "scale-dependent"
FACTOR_DEPENDENT = "factor-dependent"
NOT_REQUIRED = "not required"
"""What stands in the place of a verdict at a part that the claim does not need."""
VERDICTS: tuple[str, ...] = (
    SUPPORTED,
    CONTRADICTED,
    INCONCLUSIVE,
    NOT_TESTABLE,
    NOT_INTERPRETABLE,
    SCALE_DEPENDENT,
    FACTOR_DEPENDENT,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One part of a hypothesis: the claimed side of `null` and the least effect that counts."""

    hypothesis: str
    part: str
    statistic: str
    side: str  # "greater" or "less"
    null: float
    min_effect: float
    rationale: str
    required: bool = True

    def beyond(self, value: float, bound: float) -> bool:
        """Return whether `value` reaches `bound` on the claimed side."""
        return value >= bound if self.side == "greater" else value <= bound


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRule:
    """The admissible range of a manipulation check and the hypotheses it guards."""

    name: str
    statistic: str
    hypotheses: tuple[str, ...]
    rationale: str
    low: float = -math.inf
    high: float = math.inf

    def passed(self, value: float) -> bool:
        """Return whether `value` lies in the admissible range; nan never passes."""
        return self.low <= value <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The decision rules of a report, with the sha256 of the file they were read from."""

    sha256: str
    alpha: float
    families: Mapping[str, tuple[str, ...]]
    minimum: Mapping[str, int]
    primary: Mapping[str, Any]
    rules: tuple[Rule, ...]
    gates: Mapping[str, GateRule]

    def __reduce__(self) -> tuple[Any, tuple[dict[str, Any]]]:
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return _frozen, ({k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()},)

    def rule(self, hypothesis: str, part: str) -> Rule:
        """Return one rule; raises StatsnormError with the nearest names if there is none."""
        for rule in self.rules:
            if (rule.hypothesis, rule.part) == (hypothesis, part):
                return rule
        names = [f"{r.hypothesis}.{r.part}" for r in self.rules]
        raise unknown("decision rule", f"{hypothesis}.{part}", names)

    def required(self, hypothesis: str) -> tuple[str, ...]:
        """Return the parts that a hypothesis needs, in the order of the plan."""
        return tuple(r.part for r in self.rules if r.hypothesis == hypothesis and r.required)

    def family_of(self, hypothesis: str) -> str:
        """Return the family within which a hypothesis is adjusted, or "" for none."""
        return next((f for f, members in self.families.items() if hypothesis in members), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Evidence on one rule: an estimate with its interval and two two-sided p-values.

    `pvalue` tests theta = null, `p_min_effect` tests theta = min_effect; both are unadjusted and
    belong to the same method as the interval, so that p and interval agree.
    """

    rule: Rule
    estimate: float
    low: float
    high: float
    pvalue: float
    p_min_effect: float
    tap: str = ""  # where it was measured, if the rule is judged at several
    se: float = math.nan
    dof: float = math.nan
    note: str = ""  # what stands beside the estimate: a sensitivity analysis, say

    @property
    def p_support(self) -> float:
        """P-value for the claim: `pvalue` on the claimed side of null, 1 on the other."""
        right = self.rule.beyond(self.estimate, self.rule.null)
        return self.pvalue if right and not math.isnan(self.pvalue) else 1.0

    @property
    def p_against(self) -> float:
        """P-value against the claim: `p_min_effect` short of min_effect, 1 beyond it."""
        short = not self.rule.beyond(self.estimate, self.rule.min_effect)
        known = not (math.isnan(self.estimate) or math.isnan(self.p_min_effect))
        return self.p_min_effect if short and known else 1.0

    @property
    def reached(self) -> bool:
        """Whether the estimate reaches min_effect."""
        return self.rule.beyond(self.estimate, self.rule.min_effect)

    @property
    def strong(self) -> bool:
        """Whether the whole interval reaches min_effect."""
        near = self.low if self.rule.side == "greater" else self.high
        return self.rule.beyond(near, self.rule.min_effect)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A claim before multiplicity is known; a non-empty reason blocks an ordinary verdict."""

    hypothesis: str
    unit: str = ""  # the network or other unit it is claimed for
    parts: tuple[Part, ...] = ()
    not_testable: str = ""
    not_interpretable: str = ""
    scale_dependent: str = ""
    factor_dependent: str = ""
    unchecked: str = ""  # what "supported" needs and was not looked at; it is withheld then
    min_pvalue: float = 0.0  # least p that the design can attain (2/2^n for sign-flip)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A verdict with the numbers it rests on."""

    hypothesis: str
    unit: str
    family: str
    verdict: str
    pvalue: float  # for the claim: the largest of its parts
    p_adjusted: float  # Holm within the family
    p_against: float  # Holm-adjusted, against the claim
    strong: bool  # supported, and every interval clears min_effect
    reason: str
    parts: tuple[Part, ...] = field(default=())
    shortfall: str = ""  # of an inconclusive verdict: the part that failed, with its p

    @property
    def p_words(self) -> str:
        """The p-value that the verdict rests on."""
        if self.verdict == CONTRADICTED:
            worst = min((p for p in self.parts if p.rule.required), key=lambda p: p.p_against)
            least = f"{_named(worst)} does not reach {worst.rule.min_effect:.3g}"
            how = "Holm, times parts" if self.family else "times parts"
            return f"p against = {self.p_against:.2g} ({how}): {least}"
        if not self.family:
            return f"unadjusted p = {self.pvalue:.2g}"
        return f"Holm-adjusted p = {self.p_adjusted:.2g}"

    def verdict_of(self, part: Part) -> str:
        """Return the verdict that a part bears, or that the claim does not rest on it."""
        return self.verdict if part.rule.required else NOT_REQUIRED


def load_plan(path: str | Path | None = None) -> Plan:
    """Read the decision rules; without `path`, those that ship with statsnorm.

    Raises
    ------
    StatsnormError
        If the file is missing, is no TOML, or lacks or misspells a key.

    Examples
    --------
    >>> plan = load_plan()
    >>> plan.rule("H5a", "removed").null, plan.family_of("H5a")
    (0.5, 'F2')
    """
    source = Path(path) if path is not None else _shipped_plan()
    try:
        raw = source.read_bytes()
        content = tomllib.loads(raw.decode())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise StatsnormError(f"plan {str(source)!r} cannot be read: {error}") from error
    try:
        return _plan(content, hashlib.sha256(raw).hexdigest())
    except (KeyError, TypeError, AttributeError) as error:
        raise StatsnormError(
            f"plan {str(source)!r} lacks or misspells {error}; compare analyses/plan.toml"
        ) from error


def judge_family(plan: Plan, family: str, candidates: Sequence[Candidate]) -> list[Decision]:
    """Judge all claims of one family together, with Holm's adjustment.

    The family keeps its planned size: claims that were not made or not testable take their slot
    with p = 1, so that leaving a claim out never makes another one easier.

    Raises
    ------
    StatsnormError
        If a candidate is not of the family.
    """
    members = plan.families.get(family)
    if members is None:
        raise unknown("family", family, plan.families)
    for candidate in candidates:
        if candidate.hypothesis not in members:
            raise unknown(f"hypothesis of family {family}", candidate.hypothesis, members)
    size = max(len(members), len(candidates))
    support = _holm([_p_support(plan, c) for c in candidates], size)
    against = _holm([_p_against(c) for c in candidates], size)
    return [
        _decision(plan, family, c, *ps, size=size)
        for c, *ps in zip(candidates, support, against, strict=True)
    ]


def exploratory(plan: Plan, candidate: Candidate) -> Decision:
    """Judge one claim that belongs to no family: same rules, no adjustment, and said so."""
    support, against = _p_support(plan, candidate), _p_against(candidate)
    return _decision(plan, "", candidate, support, against, size=1)


def _p_support(plan: Plan, candidate: Candidate) -> float:
    given = {part.rule.part for part in candidate.parts}
    if candidate.not_testable or not given >= set(plan.required(candidate.hypothesis)):
        return 1.0
    return max(part.p_support for part in candidate.parts if part.rule.required)


def _p_against(candidate: Candidate) -> float:
    required = [part.p_against for part in candidate.parts if part.rule.required]
    if candidate.not_testable or not required:
        return 1.0
    return min(1.0, len(required) * min(required))


def _decision(
    plan: Plan, family: str, candidate: Candidate, support: float, against: float, *, size: int
) -> Decision:
    required = [part for part in candidate.parts if part.rule.required]
    given = {part.rule.part for part in required}
    missing = [
        plan.rule(candidate.hypothesis, part).statistic
        for part in plan.required(candidate.hypothesis)
        if part not in given
    ]
    reached = bool(required) and all(part.reached for part in required)
    verdict, reason = INCONCLUSIVE, ""
    if candidate.not_testable:
        verdict, reason = NOT_TESTABLE, candidate.not_testable
    elif missing:
        verdict, reason = NOT_TESTABLE, "not measured: " + ", ".join(missing)
    elif candidate.min_pvalue > plan.alpha / size:
        verdict = NOT_TESTABLE
        reason = f"least attainable p {candidate.min_pvalue:.3g} > {plan.alpha / size:.3g}"
    elif candidate.not_interpretable:
        verdict, reason = NOT_INTERPRETABLE, candidate.not_interpretable
    elif candidate.scale_dependent:
        verdict, reason = SCALE_DEPENDENT, candidate.scale_dependent
    elif candidate.factor_dependent:
        verdict, reason = FACTOR_DEPENDENT, candidate.factor_dependent
    elif support < plan.alpha and reached:
        verdict = INCONCLUSIVE if candidate.unchecked else SUPPORTED
    elif against < plan.alpha:
        verdict = CONTRADICTED
    return Decision(
        hypothesis=candidate.hypothesis,
        unit=candidate.unit,
        family=family,
        verdict=verdict,
        pvalue=_p_support(plan, candidate),
        p_adjusted=support,
        p_against=against,
        strong=verdict == SUPPORTED and all(part.strong for part in required),
        reason=reason,
        parts=candidate.parts,
        shortfall=_shortfall(plan, candidate, support, required) if verdict == INCONCLUSIVE else "",
    )


def _shortfall(plan: Plan, candidate: Candidate, support: float, required: Sequence[Part]) -> str:
    """Name the part that kept a claim from support: the largest p, or an estimate too small."""
    texts = []
    if support >= plan.alpha:
        worst = max(required, key=lambda part: part.p_support)
        texts.append(
            f"{_named(worst)} has p = {worst.p_support:.2g}, adjusted {support:.2g}, "
            f"not below {plan.alpha:g}"
        )
    texts += [
        f"{_named(part)} = {part.estimate:.2f} does not reach {part.rule.min_effect:.3g}"
        for part in required
        if not part.reached
    ]
    if not texts and candidate.unchecked:
        texts.append(candidate.unchecked)
    return "; ".join(texts)


def _named(part: Part) -> str:
    return f"{part.rule.statistic} at {part.tap}" if part.tap else part.rule.statistic


def _holm(pvalues: Sequence[float], size: int) -> list[float]:
    """Holm's adjusted p-values in a family of `size`, the unmade claims counting as p = 1."""
    order = sorted(range(len(pvalues)), key=lambda i: pvalues[i])
    adjusted, running = [1.0] * len(pvalues), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (size - rank) * pvalues[i]))
        adjusted[i] = running
    return adjusted


def _shipped_plan() -> Path:
    here = Path(__file__).resolve().parent
    inside = here / "analyses" / "plan.toml"  # a wheel carries the analyses inside the package
    return inside if inside.is_file() else here.parent / "analyses" / "plan.toml"


def _plan(content: Mapping[str, Any], sha256: str) -> Plan:
    if content["adjust"] != "holm":
        raise StatsnormError(f"plan: adjust must be 'holm', got {content['adjust']!r}")
    if not 0 < content["alpha"] < 0.5:
        raise StatsnormError(f"plan: alpha must lie in (0, .5), got {content['alpha']!r}")
    rules = tuple(Rule(**row) for row in content["rule"])
    for rule in rules:
        _check(rule)
    gates = tuple(
        GateRule(**{**row, "hypotheses": (*row["hypotheses"],)}) for row in content["gate"]
    )
    return Plan(
        sha256=sha256,
        alpha=float(content["alpha"]),
        families=MappingProxyType({k: tuple(v) for k, v in content["families"].items()}),
        minimum=MappingProxyType(dict(content["minimum"])),
        primary=MappingProxyType(dict(content["primary"])),
        rules=rules,
        gates=MappingProxyType({gate.name: gate for gate in gates}),
    )


def _frozen(values: Mapping[str, Any]) -> Plan:
    """Return a plan with mappings that cannot be changed; what unpickling calls."""
    frozen: dict[str, Any] = {
        k: MappingProxyType(v) if isinstance(v, dict) else v for k, v in values.items()
    }
    return Plan(**frozen)


def _check(rule: Rule) -> None:
    where = f"plan: rule {rule.hypothesis}.{rule.part}"
    if rule.side not in ("greater", "less"):
        raise StatsnormError(f"{where}: side must be 'greater' or 'less', got {rule.side!r}")
    if not rule.beyond(rule.min_effect, rule.null):
        raise StatsnormError(
            f"{where}: min_effect {rule.min_effect} lies on the wrong side of null {rule.null}"
        )
    if not rule.rationale.strip():
        raise StatsnormError(f"{where}: a rationale is required")
