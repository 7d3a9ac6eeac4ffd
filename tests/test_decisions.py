import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as distributions
from statsmodels.stats.multitest import multipletests

from statsnorm.decisions import (
    CONTRADICTED,
    FACTOR_DEPENDENT,
    INCONCLUSIVE,
    NOT_INTERPRETABLE,
    NOT_TESTABLE,
    SCALE_DEPENDENT,
    SUPPORTED,
    Candidate,
    Part,
    Plan,
    exploratory,
    judge_family,
    load_plan,
)
from statsnorm.errors import StatsnormError

SHIPPED = Path(__file__).parents[1] / "analyses" / "plan.toml"


@pytest.fixture(scope="module")
def plan() -> Plan:
    return load_plan()


def part(plan, hypothesis, name, estimate, se, dof=20.0, **more):
    rule = plan.rule(hypothesis, name)
    half = distributions.t.isf(0.025, dof) * se
    p = [2 * distributions.t.sf(abs(estimate - x) / se, dof) for x in (rule.null, rule.min_effect)]
    return Part(
        rule=rule,
        estimate=estimate,
        low=estimate - half,
        high=estimate + half,
        pvalue=p[0],
        p_min_effect=p[1],
        **more,
    )


def judge(plan, hypothesis, *parts, **more):
    family = plan.family_of(hypothesis)
    candidate = Candidate(hypothesis=hypothesis, parts=parts, **more)
    return judge_family(plan, family, [candidate])[0]


def test_hash_is_that_of_the_file(plan):
    assert plan.sha256 == hashlib.sha256(SHIPPED.read_bytes()).hexdigest()


def test_plan_holds_the_thresholds_of_the_method(plan):
    assert plan.rule("H1", "gap").min_effect == math.log(1.10)
    assert plan.rule("H5d", "selective").min_effect == -math.log(2)
    assert plan.rule("H6", "dominance").min_effect == math.log(5)
    assert plan.families == {
        "F1": ("H1", "H2", "H3", "H4"),
        "F2": ("H5a", "H5b", "H5c", "H5d"),
        "F3": ("H6", "H7a", "H7b"),
    }
    assert plan.required("H3") == ("difference", "strong", "decisive", "placebo")
    assert all(len(rule.rationale) > 20 for rule in plan.rules)


@pytest.mark.parametrize(
    ("estimate", "se", "verdict"),
    [
        (0.30, 0.05, SUPPORTED),
        (0.12, 0.01, SUPPORTED),
        (0.04, 0.01, CONTRADICTED),  # excludes 0, but lies wholly short of the least effect
        (0.09, 0.02, INCONCLUSIVE),  # straddles the least effect
        (0.30, 0.20, INCONCLUSIVE),
        (-0.20, 0.05, CONTRADICTED),
    ],
)
def test_verdicts_of_a_claim_of_one_part(plan, estimate, se, verdict):
    assert judge(plan, "H1", part(plan, "H1", "gap", estimate, se)).verdict == verdict


def test_strong_only_if_the_interval_clears_the_least_effect(plan):
    assert judge(plan, "H1", part(plan, "H1", "gap", 0.30, 0.05)).strong
    assert not judge(plan, "H1", part(plan, "H1", "gap", 0.12, 0.02)).strong


def test_side_less(plan):
    good = part(plan, "H5d", "selective", -1.2, 0.1), part(plan, "H5d", "learned", -0.5, 0.1)
    assert judge(plan, "H5d", *good).verdict == SUPPORTED
    bad = part(plan, "H5d", "selective", 0.5, 0.1), good[1]
    assert judge(plan, "H5d", *bad).verdict == CONTRADICTED


def test_compound_claim_takes_the_largest_p(plan):
    parts = (part(plan, "H5a", "removed", 0.8, 0.02), part(plan, "H5a", "learned", 0.3, 0.09))
    decision = judge(plan, "H5a", *parts)
    assert decision.pvalue == max(p.pvalue for p in parts)
    assert decision.p_adjusted == pytest.approx(4 * decision.pvalue)


def test_contradicting_a_compound_claim_pays_for_its_parts(plan):
    parts = (part(plan, "H5a", "removed", 0.8, 0.02), part(plan, "H5a", "learned", 0.01, 0.02))
    decision = judge(plan, "H5a", *parts)
    assert decision.verdict == CONTRADICTED
    assert decision.p_against == pytest.approx(4 * 2 * parts[1].p_min_effect)


def test_holm_against_statsmodels(plan):
    p = [0.001, 0.008, 0.039, 0.041]
    candidates = []
    for hypothesis, value in zip(plan.families["F2"], p, strict=True):
        parts = tuple(
            Part(rule=plan.rule(hypothesis, name), estimate=s * 9, low=0, high=0, pvalue=value,
                 p_min_effect=1.0)
            for name in plan.required(hypothesis)
            for s in [1 if plan.rule(hypothesis, name).side == "greater" else -1]
        )  # fmt: skip
        candidates.append(Candidate(hypothesis=hypothesis, parts=parts))
    found = [d.p_adjusted for d in judge_family(plan, "F2", candidates)]
    np.testing.assert_allclose(found, multipletests(p, method="holm")[1])


def test_leaving_claims_out_does_not_shrink_the_family(plan):
    alone = part(plan, "H5b", "beyond_pixels", 0.5, 0.2, dof=100)
    assert 0.0125 < alone.pvalue < 0.05
    assert judge(plan, "H5b", alone).verdict == INCONCLUSIVE


@pytest.mark.parametrize(
    ("reason", "verdict"),
    [
        ("not_testable", NOT_TESTABLE),
        ("not_interpretable", NOT_INTERPRETABLE),
        ("scale_dependent", SCALE_DEPENDENT),
        ("factor_dependent", FACTOR_DEPENDENT),
    ],
)
def test_reasons_go_before_evidence(plan, reason, verdict):
    decision = judge(plan, "H1", part(plan, "H1", "gap", 0.5, 0.01), **{reason: "because"})
    assert (decision.verdict, decision.reason, decision.strong) == (verdict, "because", False)


def test_not_testable_claims_take_their_slot_with_p_one(plan):
    strong = Candidate(hypothesis="H1", parts=(part(plan, "H1", "gap", 0.5, 0.01),))
    blocked = Candidate(
        hypothesis="H2", parts=(part(plan, "H2", "gap", 0.5, 0.01),), not_testable="n"
    )
    first, second = judge_family(plan, "F1", [strong, blocked])
    assert first.verdict == SUPPORTED
    assert second.p_adjusted == 1.0


def test_six_blocks_cannot_reach_the_adjusted_level(plan):
    decision = judge(plan, "H1", part(plan, "H1", "gap", 0.5, 0.01), min_pvalue=2 / 2**6)
    assert decision.verdict == NOT_TESTABLE
    assert "0.0312" in decision.reason
    decision = judge(plan, "H1", part(plan, "H1", "gap", 0.5, 0.01), min_pvalue=2 / 2**8)
    assert decision.verdict == SUPPORTED


def test_missing_part_is_named(plan):
    decision = judge(plan, "H5a", part(plan, "H5a", "removed", 0.8, 0.01))
    assert (decision.verdict, decision.reason) == (
        NOT_TESTABLE,
        "not measured: R_S - R_S(untrained)",
    )


def test_nan_is_never_support_nor_contradiction(plan):
    rule = plan.rule("H1", "gap")
    nothing = Part(
        rule=rule, estimate=math.nan, low=math.nan, high=math.nan, pvalue=math.nan,
        p_min_effect=math.nan,
    )  # fmt: skip
    assert judge(plan, "H1", nothing).verdict == INCONCLUSIVE
    assert not plan.gates["M1"].passed(math.nan)


def test_exploratory_is_unadjusted_and_of_no_family(plan):
    weak = part(plan, "H5b", "beyond_pixels", 0.5, 0.2, dof=100)
    decision = exploratory(plan, Candidate(hypothesis="H5b", parts=(weak,)))
    assert (decision.verdict, decision.family) == (SUPPORTED, "")
    assert decision.p_adjusted == weak.pvalue


def test_size_under_the_global_null(plan):
    rng, hits = np.random.default_rng(5), 0
    for _ in range(1500):
        claims = [
            Candidate(hypothesis=h, parts=(part(plan, h, "gap", rng.normal(0, 1), 1.0, dof=1e9),))
            for h in ("H1", "H2")
        ]
        hits += any(d.verdict == SUPPORTED for d in judge_family(plan, "F1", claims))
    assert hits / 1500 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 1500)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('side = "greater"', 'side = "more"', "side must be"),
        ("min_effect = 0.1\n", "min_effect = -0.1\n", "wrong side"),
        ('adjust = "holm"', 'adjust = "none"', "adjust must be 'holm'"),
        ("alpha = 0.05", "alpha = 5", "alpha must lie"),
        ("[families]", "[familes]", "lacks or misspells 'families'"),
        ("schema = 1", "schema = ", "cannot be read"),
    ],
)
def test_bad_plan_says_what(tmp_path, old, new, message):
    path = tmp_path / "plan.toml"
    path.write_text(SHIPPED.read_text().replace(old, new))
    with pytest.raises(StatsnormError, match=message):
        load_plan(path)


def test_unknown_names_get_neighbours(plan, tmp_path):
    with pytest.raises(StatsnormError, match=r"H5a\.removed"):
        plan.rule("H5a", "remove")
    with pytest.raises(StatsnormError, match="unknown family 'F9'"):
        judge_family(plan, "F9", [])
    with pytest.raises(StatsnormError, match="hypothesis of family F1"):
        judge_family(plan, "F1", [Candidate(hypothesis="H5a")])
    with pytest.raises(StatsnormError, match="cannot be read"):
        load_plan(tmp_path / "none.toml")


def test_verdicts_carry_the_p_they_rest_on(plan):
    good, short = part(plan, "H1", "gap", 0.3, 0.05), part(plan, "H1", "gap", 0.3, 0.2)
    assert judge(plan, "H1", good).p_words.startswith("Holm-adjusted p = ")
    assert judge(plan, "H1", good).shortfall == ""
    open_ = judge(plan, "H1", short)
    assert open_.verdict == INCONCLUSIVE
    assert open_.shortfall.startswith(f"G_a has p = {short.p_support:.2g}, adjusted ")
    against = judge(plan, "H1", part(plan, "H1", "gap", 0.04, 0.01))
    assert against.p_words == (
        f"p against = {against.p_against:.2g} (Holm, times parts): G_a does not reach 0.0953"
    )


def test_an_unchecked_claim_is_not_supported_but_may_be_contradicted(plan):
    good, bad = part(plan, "H1", "gap", 0.3, 0.05), part(plan, "H1", "gap", 0.04, 0.01)
    held = judge(plan, "H1", good, unchecked="not looked at")
    assert (held.verdict, held.shortfall) == (INCONCLUSIVE, "not looked at")
    assert judge(plan, "H1", bad, unchecked="not looked at").verdict == CONTRADICTED
