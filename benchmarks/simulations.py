"""What the calibration simulates.

Each function takes a generator and a number of replicates and returns, for each quantity, one
value a replicate: 1 where the interval covers (or the test rejects), or an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from simulate import AXES, arms, law, true_components

from statsnorm import stats
from statsnorm.decisions import SUPPORTED, Candidate, Part, judge_family, load_plan
from statsnorm.probes import cluster_proportion, probe
from statsnorm.stats.inputs import Array

Values = dict[str, Array]
ALPHA = 0.05


def repeated(
    once: Callable[[np.random.Generator], dict[str, float]],
    rng: np.random.Generator,
    replicates: int,
) -> Values:
    """Return the values of independent replicates of `once`."""
    rows = [once(rng) for _ in range(replicates)]
    return {name: np.array([row[name] for row in rows], dtype=float) for name in rows[0]}


def inside(result: Any, truth: float) -> float:
    """Return 1 where an interval covers the truth."""
    return float(result.low <= truth <= result.high)


# ------------------------------------------------------------------ components (8.2, 1 and 2)


def unbiased(rng: np.random.Generator, replicates: int, *, source: str, contrast: str) -> Values:
    """Return estimate - truth of all seven components, I = 12, S = 6, K = 4."""
    from_law = law(source)
    truth = true_components(from_law, 4, contrast)

    def once(rng: np.random.Generator) -> dict[str, float]:
        y, _ = arms(from_law, rng, (12, 6, 4), NOTHING, contrast=contrast)
        found = stats.crossed_components(y, contrast=contrast)
        return {f: float(getattr(found, f).mean()) - truth[f] for f in AXES}

    return repeated(once, rng, replicates)


def ustatistic(rng: np.random.Generator, replicates: int) -> Values:
    """Return the largest difference of the two estimators on balanced data."""

    def once(rng: np.random.Generator) -> dict[str, float]:
        y, _ = arms(law("gaussian"), rng, (10, 6, 3), NOTHING)
        a, b = stats.crossed_components(y), stats.ustatistic_components(y)
        gaps = [np.abs(getattr(a, f) - getattr(b, f)).max() for f in AXES]
        return {"U-statistic - EMS": float(max(gaps))}

    return repeated(once, rng, replicates)


def missing(rng: np.random.Generator, replicates: int, *, source: str) -> Values:
    """Return estimate - truth with a tenth of the cells missing at random."""
    truth = true_components(law(source), 3, "fixed")

    def once(rng: np.random.Generator) -> dict[str, float]:
        y, _ = arms(law(source), rng, (12, 8, 3), NOTHING)
        y[rng.random(y.shape[:3]) < 0.1] = np.nan
        found = stats.ustatistic_components(y)
        return {f: float(getattr(found, f).mean()) - truth[f] for f in ("style", "content")}

    return repeated(once, rng, replicates)


# ------------------------------------------------------------------ intervals (8.2, 3 and 5)

NOTHING = {"style": 0.0, "content": 0.0, "contrast": 0.0}
HALF = {"style": 0.5, "content": 0.3, "contrast": 0.3}
PLANTED = {"style": 0.8, "content": 0.3, "contrast": 1.0}


def removal(
    rng: np.random.Generator,
    replicates: int,
    *,
    source: str,
    images: int,
    styles: int,
    removed: Mapping[str, float],
) -> Values:
    """Return whether the default intervals of R, Psi and Theta cover."""
    kept = {f: np.log(1 - r) if r < 1 else -np.inf for f, r in removed.items()}

    def once(rng: np.random.Generator) -> dict[str, float]:
        pair = arms(law(source), rng, (images, styles, 3), removed)
        row = {
            f"R {f}": inside(stats.removed_fraction(*pair, factor=f), removed[f]) for f in removed
        }
        for name, factor in (("Psi", "content"), ("Theta", "contrast")):
            if removed[factor] < 1 and removed["style"] < 1:
                found = stats.selectivity(*pair, of="style", against=factor)
                row[name] = inside(found, kept["style"] - kept[factor])
        return row

    return repeated(once, rng, replicates)


def fieller(
    rng: np.random.Generator, replicates: int, *, source: str, styles: int, style: float
) -> Values:
    """Return whether Fieller's interval of a nearly complete removal covers."""
    removed = {**HALF, "style": style}

    def once(rng: np.random.Generator) -> dict[str, float]:
        pair = arms(law(source), rng, (40, styles, 3), removed)
        found = stats.removed_fraction(*pair, factor="style", interval="fieller")
        return {"R style, Fieller": inside(found, style)}

    return repeated(once, rng, replicates)


def small_intervals(rng: np.random.Generator, replicates: int) -> Values:
    """Return whether the intervals for blocks and groups of images cover."""
    groups = np.repeat(np.arange(9), (2, 3, 9, 3, 4, 4, 12, 5, 6))

    def once(rng: np.random.Generator) -> dict[str, float]:
        d = rng.normal(0.8, 1, 10)
        y = rng.normal(size=9)[groups] + rng.normal(0, 1.5, len(groups))
        share = rng.binomial(1, np.repeat(rng.beta(3, 2, 24), 10))
        icc = stats.one_way(y, groups)
        gap = rng.normal(0.5, 0.2, 10)
        curve = rng.normal(size=(10, 40)).cumsum(axis=1)
        band = stats.simultaneous_band(curve)
        return {
            "paired t, n = 10": inside(stats.paired_t(d), 0.8),
            "Hedges g_z, n = 10": inside(stats.hedges_gz(d), 0.8),
            "ICC, unbalanced": inside(_first(icc), 1 / 3.25),
            "clustered share": inside(cluster_proportion(share, np.repeat(np.arange(24), 10)), 0.6),
            "phi (Fieller), n = 10": inside(
                stats.explained_fraction(gap * 0.4 + rng.normal(0, 0.1, 10), gap), 0.6
            ),
            "simultaneous band, n = 10": float(((band.low <= 0) & (band.high >= 0)).all()),
        }

    return repeated(once, rng, replicates)


@dataclass(frozen=True, slots=True)
class _Ends:
    low: float
    high: float


def _first(result: Any) -> _Ends:
    return _Ends(float(result.low[0]), float(result.high[0]))


def survival_intervals(rng: np.random.Generator, replicates: int) -> Values:
    """Return whether restricted means of 10 blocks and of 60 runs cover."""

    def once(rng: np.random.Generator) -> dict[str, float]:
        block = rng.gamma(4, 0.25, 10)
        x, y = (block * rng.exponential(1, 10) for _ in range(2))
        paired = stats.restricted_mean_difference(
            *(np.minimum(x, 2), x < 2), *(np.minimum(y, 2), y < 2), horizon=2.0, paired=True
        )
        life, loss = rng.exponential(size=60), 0.5 + rng.exponential(4, 60)
        one = stats.restricted_mean(np.minimum(life, loss), life <= loss, horizon=1.0)
        return {
            "RMST difference, 10 blocks": inside(paired, 0.0),
            "RMST, 60 runs": inside(one, 1 - np.exp(-1.0)),
        }

    return repeated(once, rng, replicates)


def binomial_intervals(rng: np.random.Generator, replicates: int) -> Values:
    """Return whether Clopper-Pearson covers (at least 95 %)."""

    def once(rng: np.random.Generator) -> dict[str, float]:
        k = int(rng.binomial(10, 0.8))
        return {"Clopper-Pearson, 10 blocks": inside(stats.clopper_pearson(k, 10), 0.8)}

    return repeated(once, rng, replicates)


# ------------------------------------------------------------------ sizes (8.2, 4)


def block_tests(rng: np.random.Generator, replicates: int, *, blocks: int) -> Values:
    """Return whether tests on independent blocks reject a true null."""

    def once(rng: np.random.Generator) -> dict[str, float]:
        d = rng.standard_t(5, blocks)  # symmetric, not normal
        normal = rng.normal(size=blocks)
        family = rng.normal(size=(4, blocks))
        p = np.array([float(stats.sign_flip_test(f, rng=rng).pvalue) for f in family])
        common = rng.normal(size=(blocks, 1)) + 0.5 * rng.normal(size=(blocks, 12))
        return {
            "sign-flip, t5": float(stats.sign_flip_test(d, rng=rng).pvalue <= ALPHA),
            "paired t": float(stats.paired_t(normal).pvalue <= ALPHA),
            "TOST at the boundary": float(
                stats.tost_paired(normal + 3, low=-3, high=3).pvalue <= ALPHA
            ),
            "non-inferiority at the margin": float(
                stats.noninferiority_paired(normal, margin=0.0).pvalue <= ALPHA
            ),
            "Holm over 4, family-wise": float((stats.holm(p) <= ALPHA).any()),
            "step-down maxT over 12, family-wise": float(
                (stats.step_down_maxt(common, rng=rng, flips=999).p_adjusted <= ALPHA).any()
            ),
        }

    return repeated(once, rng, replicates)


def permutation_tests(rng: np.random.Generator, replicates: int) -> Values:
    """Return whether permutation tests reject a true null; heavy tails, dependent blocks."""
    content, style = np.indices((8, 4)).reshape(2, -1)
    group = np.repeat(np.arange(3), (10, 15, 20))
    blocks = (np.arange(8), np.arange(8))

    def once(rng: np.random.Generator) -> dict[str, float]:
        x = 3 * rng.normal(size=(8, 5))[content] + rng.standard_t(3, (32, 5))
        factors = {"content": content, "style": style}
        location = stats.permanova(x, factors, blocks=content, rng=rng, permutations=199)
        y = rng.normal(size=(8, 1, 2, 5)) + rng.standard_t(3, (8, 4, 2, 5))
        spread = stats.permdisp(rng.normal(size=(45, 6)), group, rng=rng, permutations=99)
        shared = rng.normal(size=8)
        a, b = (np.exp(shared + 0.3 * rng.normal(size=8)) for _ in range(2))
        curves = (np.minimum(a, 2), a < 2, np.minimum(b, 2), b < 2)
        dose = rng.standard_t(3, (8, 4))
        return {
            "PERMANOVA in blocks": float(location.pvalue[1] <= ALPHA),
            "style labels in blocks": float(
                stats.block_permutation_test(y, rng=rng, permutations=199).pvalue <= ALPHA
            ),
            "PERMDISP, 10 to 20 a group": float(spread.pvalue <= ALPHA),
            "log-rank in blocks": float(stats.log_rank(*curves, blocks=blocks).pvalue <= ALPHA),
            "Page trend": float(stats.page_trend(dose, rng=rng).pvalue <= ALPHA),
        }

    return repeated(once, rng, replicates)


def probe_tests(rng: np.random.Generator, replicates: int) -> Values:
    """Return whether the probe's permutation test rejects shuffled styles."""
    content, style = np.indices((8, 4)).reshape(2, -1)

    def once(rng: np.random.Generator) -> dict[str, float]:
        x = rng.normal(size=(8, 3))[content] + rng.normal(size=(32, 3))
        options = {"strengths": (0.1,), "folds": 4, "blocks": content, "permutations": 19}
        found = probe(x, style, groups=content, rng=rng, **options)
        return {"probe, permutation": float(found.pvalue <= ALPHA)}

    return repeated(once, rng, replicates)


def probe_intervals(rng: np.random.Generator, replicates: int) -> Values:
    """Return whether the probe's interval covers chance where styles are shuffled."""
    content, style = np.indices((16, 4)).reshape(2, -1)

    def once(rng: np.random.Generator) -> dict[str, float]:
        x = rng.normal(size=(16, 3))[content] + rng.normal(size=(64, 3))
        found = probe(x, style, groups=content, rng=rng, strengths=(0.1,))
        return {"probe accuracy covers 1/S": inside(found, 0.25)}

    return repeated(once, rng, replicates)


# ------------------------------------------------------------------ the pipeline's null (8.2, 5)


def identical(rng: np.random.Generator, replicates: int) -> Values:
    """Return R, G and the number of supported claims where both arms are one network."""
    plan = load_plan()

    def once(rng: np.random.Generator) -> dict[str, float]:
        y, _ = arms(law("gaussian"), rng, (24, 8, 3), NOTHING)
        found = stats.removed_fraction(y, y)
        flat = stats.sign_flip_test(np.zeros(10))
        claims = [
            claim(plan, "H5a", found.estimate, found.low, found.high),
            claim(plan, "H5d", 0.0, 0.0, 0.0),
        ]
        curves = [claim(plan, h, 0.0, 0.0, 0.0, float(flat.pvalue)) for h in ("H1", "H2", "H3")]
        decisions = [*judge_family(plan, "F2", claims), *judge_family(plan, "F1", curves)]
        return {
            "R of identical arms": abs(found.estimate) + found.high - found.low,
            "G of identical arms": abs(float(flat.statistic)),
            "supported claims": float(sum(d.verdict == SUPPORTED for d in decisions)),
        }

    return repeated(once, rng, replicates)


def claim(
    plan: Any, hypothesis: str, estimate: float, low: float, high: float, pvalue: float = 1.0
) -> Candidate:
    """Return a claim whose parts all have one estimate."""
    parts = tuple(
        Part(rule=rule, estimate=estimate, low=low, high=high, pvalue=pvalue, p_min_effect=pvalue)
        for rule in plan.rules
        if rule.hypothesis == hypothesis
    )
    return Candidate(hypothesis=hypothesis, parts=parts)
