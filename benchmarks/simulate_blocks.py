"""Simulations of what is computed from blocks, runs and groups (method.md 8.2, 3 and 4)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from simulate import ALPHA, Values, inside, rejects, repeated
from simulate_removal import Ends

from statsnorm import stats
from statsnorm.curves.claims import judge
from statsnorm.decisions import SUPPORTED, load_plan
from statsnorm.probes import cluster_proportion
from statsnorm.removal.evidence import spread
from statsnorm.removal.indexed import clustered_proportion
from statsnorm.stats.inputs import Array

BLOCKS = 10
GROUP_SIZES = (2, 3, 9, 3, 4, 4, 12, 5, 6)
CLUSTERS, CELLS = 24, 10
FLIPS = 9999  # sign vectors above 16 blocks: the size of the test does not depend on it


def units(rng: np.random.Generator, source: str, *shape: int) -> Array:
    """Return independent numbers of mean 0 and variance 1: normal, or t with 5 dof."""
    if source == "gaussian":
        return rng.normal(size=shape)
    return rng.standard_t(5, size=shape) * np.sqrt(3 / 5)


def block_intervals(rng: np.random.Generator, replicates: int, *, source: str) -> Values:
    """Return whether the intervals for ten blocks cover."""

    def once(rng: np.random.Generator) -> dict[str, float]:
        d = 0.8 + units(rng, source, BLOCKS)
        gap = 0.5 + 0.2 * units(rng, source, BLOCKS)
        other = 0.4 * gap + 0.1 * units(rng, source, BLOCKS)
        curve = units(rng, source, BLOCKS, 40).cumsum(axis=1)
        band = stats.simultaneous_band(curve)
        later = units(rng, source, 9)
        return {
            "paired t": inside(stats.paired_t(d), 0.8),
            "Hedges' g_z": inside(stats.hedges_gz(d), 0.8),
            "phi (Fieller)": inside(stats.explained_fraction(other, gap), 0.6),
            "simultaneous band": float(((band.low <= 0) & (band.high >= 0)).all()),
            "prediction of a further network": inside(spread(later[:8]), later[8]),
        }

    return repeated(once, rng, replicates)


def equivalence_intervals(rng: np.random.Generator, replicates: int, *, source: str) -> Values:
    """Return whether the 90 % intervals of equivalence tests cover."""

    def once(rng: np.random.Generator) -> dict[str, float]:
        d = units(rng, source, BLOCKS)
        x, y = units(rng, source, 24), 2 * units(rng, source, 15)
        low = stats.noninferiority_paired(d, margin=1.0)
        return {
            "paired equivalence": inside(stats.tost_paired(d, low=-1, high=1), 0.0),
            "Welch equivalence": inside(stats.welch_tost(x, y, margin=1.0), 0.0),
            "non-inferiority, both one-sided": inside(
                Ends(
                    -float(stats.noninferiority_paired(-d, margin=1.0).high),
                    float(low.high),
                ),
                0.0,
            ),
        }

    return repeated(once, rng, replicates)


def group_intervals(rng: np.random.Generator, replicates: int, *, source: str) -> Values:
    """Return whether the intervals for unbalanced groups and clusters of images cover."""
    groups = np.repeat(np.arange(len(GROUP_SIZES)), GROUP_SIZES)
    cluster = np.repeat(np.arange(CLUSTERS), CELLS)

    def once(rng: np.random.Generator) -> dict[str, float]:
        y = units(rng, source, len(GROUP_SIZES))[groups] + 1.5 * units(rng, source, len(groups))
        icc, robust = (stats.one_way(y, groups, interval=how) for how in ("exact", "jackknife"))
        hits = rng.binomial(1, np.repeat(rng.beta(3, 2, CLUSTERS), CELLS))
        share = hits.reshape(CLUSTERS, CELLS).mean(axis=1)
        return {
            "ICC, unbalanced": inside(Ends(icc.low[0], icc.high[0]), 1 / 3.25),
            "ICC, unbalanced, jackknife": inside(Ends(robust.low[0], robust.high[0]), 1 / 3.25),
            "accuracy, clustered": inside(cluster_proportion(hits, cluster), 0.6),
            "retrieval, clustered": inside(clustered_proportion(share, CELLS), 0.6),
        }

    return repeated(once, rng, replicates)


def survival_intervals(rng: np.random.Generator, replicates: int) -> Values:
    """Return whether restricted means of 10 blocks and of 60 runs cover."""

    def once(rng: np.random.Generator) -> dict[str, float]:
        block = rng.gamma(4, 0.25, BLOCKS)
        x, y = (block * rng.exponential(1, BLOCKS) for _ in range(2))
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
        k = int(rng.binomial(BLOCKS, 0.8))
        return {"Clopper-Pearson": inside(stats.clopper_pearson(k, BLOCKS), 0.8)}

    return repeated(once, rng, replicates)


# ------------------------------------------------------------------ sizes


def block_tests(rng: np.random.Generator, replicates: int, *, blocks: int, source: str) -> Values:
    """Return whether tests on independent blocks reject a true null."""

    def once(rng: np.random.Generator) -> dict[str, float]:
        d = units(rng, source, blocks)
        family = units(rng, source, 4, blocks)
        p = np.array([float(stats.sign_flip_test(f, rng=rng, flips=FLIPS).pvalue) for f in family])
        common = units(rng, source, blocks, 1) + 0.5 * units(rng, source, blocks, 12)
        return {
            "sign flips": rejects(stats.sign_flip_test(d, rng=rng, flips=FLIPS).pvalue),
            "paired t": rejects(stats.paired_t(d).pvalue),
            "equivalence at the margin": rejects(stats.tost_paired(d + 3, low=-3, high=3).pvalue),
            "non-inferiority at the margin": rejects(
                stats.noninferiority_paired(d, margin=0.0).pvalue
            ),
            "Holm over 4, family-wise": float((stats.holm(p) <= ALPHA).any()),
            "step-down maxT over 12, family-wise": float(
                (stats.step_down_maxt(common, rng=rng, flips=999).p_adjusted <= ALPHA).any()
            ),
            "intersection-union of 3, one null": rejects(
                stats.intersection_union([float(p[0]), 1e-4, 1e-4])
            ),
        }

    return repeated(once, rng, replicates)


def skewed_tests(rng: np.random.Generator, replicates: int, *, blocks: int) -> Values:
    """Return whether tests on blocks reject where differences are exponential less their mean.

    The mean is where the null says; the symmetry that sign flips and t tests rest on is not there.
    """

    def once(rng: np.random.Generator) -> dict[str, float]:
        d = rng.exponential(size=blocks) - 1
        beyond, within = (stats.tost_paired(x + 3, low=-3, high=3).pvalue for x in (d, -d))
        return {
            "sign flips": rejects(stats.sign_flip_test(d, rng=rng, flips=FLIPS).pvalue),
            "paired t": rejects(stats.paired_t(d).pvalue),
            "equivalence at the margin, long tail beyond it": rejects(beyond),
            "equivalence at the margin, long tail within it": rejects(within),
        }

    return repeated(once, rng, replicates)


def discoveries(rng: np.random.Generator, replicates: int, *, source: str) -> Values:
    """Return the share of false discoveries among 40 channels, half of them null."""
    null = np.arange(40) < 20

    def once(rng: np.random.Generator) -> dict[str, float]:
        d = units(rng, source, 20, 40) + 1.2 * ~null
        shared = d + 0.8 * units(rng, source, 20, 1)
        p, dependent = (stats.paired_t(x).pvalue for x in (d, shared))
        found = stats.benjamini_hochberg(p) <= ALPHA
        under = stats.benjamini_yekutieli(dependent) <= ALPHA
        return {
            "Benjamini-Hochberg, independent": float((found & null).sum() / max(found.sum(), 1)),
            "Benjamini-Yekutieli, dependent": float((under & null).sum() / max(under.sum(), 1)),
        }

    return repeated(once, rng, replicates)


def run_tests(rng: np.random.Generator, replicates: int) -> Values:
    """Return whether tests on times to a threshold and on doses reject a true null."""
    blocks = (np.arange(8), np.arange(8))

    def once(rng: np.random.Generator) -> dict[str, float]:
        shared = rng.normal(size=8)
        a, b = (np.exp(shared + 0.3 * rng.normal(size=8)) for _ in range(2))
        curves = (np.minimum(a, 2), a < 2, np.minimum(b, 2), b < 2)
        c, d = (rng.exponential(size=40) for _ in range(2))
        free = (np.minimum(c, 1.5), c < 1.5, np.minimum(d, 1.5), d < 1.5)
        return {
            "log-rank in 8 blocks": rejects(stats.log_rank(*curves, blocks=blocks).pvalue),
            "log-rank, 40 runs a group": rejects(stats.log_rank(*free).pvalue),
            "Page trend, 8 blocks of 4 doses": rejects(
                stats.page_trend(rng.standard_t(5, (8, 4)), rng=rng).pvalue
            ),
        }

    return repeated(once, rng, replicates)


def group_tests(rng: np.random.Generator, replicates: int, *, source: str) -> Values:
    """Return whether tests on groups of images reject a true null."""
    groups = np.repeat(np.arange(len(GROUP_SIZES)), GROUP_SIZES)

    def once(rng: np.random.Generator) -> dict[str, float]:
        x, y = 2 + units(rng, source, 24), 1.5 * units(rng, source, 24)
        flat = units(rng, source, len(groups))
        return {
            "Welch equivalence at the margin": rejects(stats.welch_tost(x, y, margin=2.0).pvalue),
            "one-way F": rejects(stats.one_way(flat, groups).pvalue[0]),
        }

    return repeated(once, rng, replicates)


def power(rng: np.random.Generator, replicates: int) -> Values:
    """Return rejections of the paired t test at effects with a planned power of 80 %."""
    effects = {n: stats.minimum_effect(n=n, alpha=ALPHA) for n in (8, 10)}

    def once(rng: np.random.Generator) -> dict[str, float]:
        return {
            f"paired t, {n} blocks": rejects(stats.paired_t(d + rng.normal(size=n)).pvalue)
            for n, d in effects.items()
        }

    return repeated(once, rng, replicates)


def family(rng: np.random.Generator, replicates: int) -> Values:
    """Return whether the decisions of F1 support anything where no condition has a gap."""
    plan = load_plan()
    letters = ("a", "b", "c", "ck", "pstar")

    def once(rng: np.random.Generator) -> dict[str, float]:
        gaps = {f"G_{x}": 0.3 * rng.normal(size=BLOCKS) for x in letters}
        table = pd.DataFrame({**gaps, "D": 0.3 * rng.normal(size=BLOCKS)})
        found = judge(table, plan, rng)
        return {"F1, any claim supported": float(any(d.verdict == SUPPORTED for d in found))}

    return repeated(once, rng, replicates)
