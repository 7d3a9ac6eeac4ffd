"""Trained networks as units: means, paired differences, populations in the H5 analysis."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy import stats as scipy_stats
from synthetic_networks import planted_networks

from analyses import removed_variance
from statsnorm.decisions import CONTRADICTED, NOT_TESTABLE, load_plan
from statsnorm.errors import StatsnormError
from statsnorm.removal.between import difference_table, mean_table
from statsnorm.removal.populations import on_the_way
from statsnorm.removal.ratios import mean_over_networks, ratio
from statsnorm.removal.units import (
    QUANTITIES,
    Unit,
    difference,
    over_networks,
    paired,
    units_of,
    welch,
)

PLAN = load_plan()
PLACE = f"mean over {PLAN.primary['mean_over']}"
KEEP = {0: (0.7, 0.5, 0.01), 100: (0.7, 0.2, 0.01)}
TINY = {"images": 6, "styles": 4, "levels": 2, "channels": 3}


def judge(tables):
    frames = removed_variance.summarise(tables)
    return frames, removed_variance.run(frames, PLAN, np.random.default_rng(0))


@pytest.fixture(scope="module")
def whole():
    return judge(planted_networks(np.random.default_rng(3), channels=4, keep=KEEP))


@pytest.fixture(scope="module")
def few():
    return judge(planted_networks(np.random.default_rng(4), blocks=3, keep=KEEP, **TINY))


def row_of(table, **where):
    for name, value in where.items():
        table = table[table[name] == value]
    assert len(table) == 1, where
    return table.iloc[0]


def unit(block, values, *, norm="in", iteration=5, condition="original", groups=(3, 3)):
    key = {"net": "texture", "norm": norm, "index": "", "bn_mode": "eval", "batch_kind": "mixed"}
    key |= {"cell": f"b{block}-{norm}", "seed": block, "iteration": iteration}
    key |= {"restore": "luminance", "strength": 1.0, "contrast": "gain"}
    return Unit(
        key=key,
        condition=condition,
        block=(block, f"t{block}", condition),
        groups=groups,
        measured={(PLACE, name): np.atleast_1d(np.asarray(v)) for name, v in values.items()},
    )


# The statistics, against scipy.


def test_over_networks_alone_is_student_t():
    x = np.array([0.31, -0.12, 0.58, 0.44, 0.07])
    found = over_networks([np.array([v]) for v in x], (6, 4))
    oracle = scipy_stats.ttest_1samp(x, 0)
    low, high = oracle.confidence_interval(0.95)
    assert_allclose([found.all.estimate, found.all.low, found.all.high], [x.mean(), low, high])
    assert_allclose(found.pvalue, oracle.pvalue)
    assert (found.n, found.networks) == (5, found.all)


def test_losses_have_no_images_or_styles_and_keep_the_interval_over_networks():
    x = np.array([0.31, -0.12, 0.58, 0.44, 0.07])
    found = over_networks([np.array([v]) for v in x], (0, 0))
    oracle = scipy_stats.ttest_1samp(x, 0)
    low, high = oracle.confidence_interval(0.95)
    assert_allclose([found.all.low, found.all.high, found.pvalue], [low, high, oracle.pvalue])
    alone = over_networks([x[:1]], (0, 0))
    assert math.isnan(alone.all.low)
    assert math.isnan(alone.pvalue)


def test_three_factors_add_their_jackknife_variances():
    rng = np.random.default_rng(0)
    n, images, styles = 5, 7, 4
    vectors = [rng.normal(size=1 + images + styles) for _ in range(n)]
    found = over_networks(vectors, (images, styles))
    mean = np.mean(vectors, axis=0)
    first = np.array([v[0] for v in vectors])
    variance = first.var(ddof=1) / n  # by hand, from method.md 3.1
    for part in (mean[1 : 1 + images], mean[1 + images :]):
        k = len(part)
        variance += (k - 1) / k * ((part - part.mean()) ** 2).sum()
    assert_allclose(found.all.se, math.sqrt(variance))
    assert_allclose(found.networks.se, first.std(ddof=1) / math.sqrt(n))
    assert found.all.se > found.networks.se


def test_without_spread_over_networks_the_interval_is_that_of_one():
    rng = np.random.default_rng(1)
    top, bottom = rng.uniform(0.24, 0.26, 12), rng.uniform(0.98, 1.02, 12)
    one = ratio(top, bottom, (7, 4), confidence=0.95)
    many = mean_over_networks([one, one, one], confidence=0.95)
    assert_allclose([many.estimate, many.low, many.high], [one.estimate, one.low, one.high])
    assert many.groups == (3, 7, 4)


def test_a_mean_over_networks_needs_two_on_one_design():
    one = ratio(np.ones(8), np.ones(8), (4, 3), confidence=0.95)
    other = ratio(np.ones(9), np.ones(9), (5, 3), confidence=0.95)
    with pytest.raises(StatsnormError, match="two or more on one design, got 1"):
        mean_over_networks([one], confidence=0.95)
    with pytest.raises(StatsnormError, match="got 2 on"):
        mean_over_networks([one, other], confidence=0.95)
    with pytest.raises(StatsnormError, match="at least one network, got none"):
        over_networks([], (4, 3))


def test_unpaired_groups_are_compared_by_welch():
    a, b = np.array([1.0, 2.5, 3.0]), np.array([0.0, 0.2, 0.1, 0.4])
    found = welch([a[i : i + 1] for i in range(3)], [b[i : i + 1] for i in range(4)])
    low, high = scipy_stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert_allclose([found.low, found.high], [low, high])
    assert math.isnan(welch([a[:1]], [b[:1]]).low)


def test_pairs_share_a_block_and_differences_are_the_paired_t():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=9), rng.normal(size=9)
    ins = [unit(i, {"V_S": a[i]}) for i in range(9)]
    bns = [unit(i, {"V_S": b[i]}, norm="bn") for i in reversed(range(9))]
    pairs = paired(ins, bns)
    found = over_networks(difference(pairs, PLACE, "V_S"), (3, 3))
    oracle = scipy_stats.ttest_rel(a, b)
    assert_allclose([found.all.estimate, found.pvalue], [(a - b).mean(), oracle.pvalue])
    row = difference_table({"in": ins, "bn": bns}, PLAN, rng=rng).iloc[0]
    assert_allclose(row["pvalue"], oracle.pvalue)
    assert row["status"] == ""
    flips = np.array(np.meshgrid(*[[-1, 1]] * 9)).reshape(9, -1).T @ (a - b)
    assert_allclose(row["p_sign_flip"], (np.abs(flips) >= abs((a - b).sum()) - 1e-12).mean())


def test_a_block_with_two_networks_on_one_side_pairs_none():
    ins = [unit(1, {"V_S": 0.0}), unit(1, {"V_S": 1.0}), unit(2, {"V_S": 0.0})]
    bns = [unit(1, {"V_S": 0.0}, norm="bn"), unit(2, {"V_S": 0.0}, norm="bn")]
    assert [a.key["seed"] for a, _ in paired(ins, bns)] == [2]


# Size: networks as units, where channels of one network go together.


def rejections(rng, *, correlation, repeats=600, n=8, channels=32):
    """Return how often each unit of analysis rejects: networks (t), networks (flips), channels."""
    found = {"networks": 0, "flips": 0, "channels": 0}
    for _ in range(repeats):
        common, own = rng.normal(size=(2, n, 2, 1)), rng.normal(size=(2, n, 2, channels))
        z = np.sqrt(correlation) * common[0] + np.sqrt(1 - correlation) * own[0]  # (n, 2, C)
        block = rng.normal(size=(n, 1, 1))
        logs = np.log(np.exp(block + 0.5 * z).mean(axis=2))  # trace of V, no norm effect
        groups = {
            name: [unit(i, {"V_S": logs[i, k]}, norm=name) for i in range(n)]
            for k, name in enumerate(("in", "bn"))
        }
        row = difference_table(groups, PLAN, rng=rng).iloc[0]
        found["networks"] += row["pvalue"] < 0.05
        found["flips"] += row["p_sign_flip"] < 0.05
        d = (z[:, 0] - z[:, 1]).mean(axis=0)  # channel means, taken as independent
        found["channels"] += scipy_stats.ttest_1samp(d, 0).pvalue < 0.05
    return {name: count / repeats for name, count in found.items()}


def test_size_with_correlated_channels():
    rates = rejections(np.random.default_rng(5), correlation=0.9)
    bound = 0.05 + 2 * math.sqrt(0.05 * 0.95 / 600)
    assert rates["networks"] <= bound
    assert rates["flips"] <= bound
    assert rates["networks"] >= 0.02  # not by never rejecting
    assert rates["channels"] > 0.5  # what the unit is for


# The analysis.


def test_planted_truth_of_two_norms(whole):
    _, report = whole
    means, between = report.tables["network_means"], report.tables["between_norms"]
    group = "texture in, trained on original"
    for name, truth in (("R_S", 0.8), ("R_I", 0.3), ("R_K", 0.99)):
        row = row_of(means, group=group, place=PLACE, quantity=name)
        assert row["n"] == 8
        assert_allclose(row["estimate"], truth, atol=0.02)
    row = row_of(between, place=PLACE, quantity="V_S")
    assert (row["first"], row["second"]) == (group, "texture bn, trained on original")
    assert row["low"] < math.log(0.2) < row["high"]
    assert (row["n"], row["paired"], row["status"]) == ("8", True, "")
    assert row["p_sign_flip"] == pytest.approx(2 / 2**8)
    assert row_of(between, place=PLACE, quantity="V_I")["high"] < 0
    balance = row_of(between, place=PLACE, quantity="V_S / V_I")
    assert_allclose(balance["estimate"], math.log(0.2 / 0.7), atol=0.05)


def test_a_population_is_judged_once_and_fixed_norms_not_at_all(whole):
    frames, report = whole
    assert len(frames["training"]) == 16
    assert [c.hypothesis for c in report.claims] == ["H5a", "H5b", "H5c", "H5d"]
    assert all("8 networks" in c.scope for c in report.claims)
    rows = report.effects[report.effects["statistic"] == "R_S"]
    assert rows["n_units"].str.startswith("8 trained networks, 24 images, 8 styles").all()
    assert any("norm bn" in line and "adapts to none" in line for line in report.left_out)


def test_what_training_added_is_the_difference_of_means(whole):
    # Random weights keep .5 of the style variance, trained ones .2: R rises by .3, above .1.
    _, report = whole
    row = report.effects[report.effects["statistic"] == "R_S - R_S(untrained)"].iloc[0]
    assert_allclose(row["estimate"], 0.3, atol=0.02)
    assert row["low"] > 0.1
    assert report.claims[0].verdict == "supported"


def test_random_weights_that_do_as_well_contradict_what_training_added():
    keep = {0: (0.7, 0.2, 0.01), 100: (0.7, 0.2, 0.01)}
    tables = planted_networks(np.random.default_rng(8), channels=4, keep=keep, norms=("in",))
    _, report = judge(tables)
    assert report.claims[0].verdict == CONTRADICTED
    assert "between_norms" not in report.tables


def test_few_networks_are_not_testable(few):
    _, report = few
    for claim in report.claims:
        assert claim.verdict == NOT_TESTABLE
        assert "3 trained networks < 8" in claim.sentence
    assert set(report.tables["between_norms"]["status"]) == {"not testable: 3 pairs < 8"}
    assert any("not testable: 3 pairs < 8" in text for text in report.findings)


def test_the_spread_of_networks_widens_the_interval():
    def width(spread):
        tables = planted_networks(
            np.random.default_rng(6), blocks=4, norms=("in",), iterations=(100,), spread=spread,
            block_spread=0.0, **TINY,
        )  # fmt: skip
        frames = removed_variance.summarise(tables)
        row = row_of(mean_table({"in": units_of(frames, PLAN)}), place=PLACE, quantity="V_S")
        return row["networks_high"] - row["networks_low"]

    assert width(0.0) < 1e-9
    assert width(0.5) > 0.3


def test_checkpoints_on_the_way_make_no_claims():
    tables = planted_networks(np.random.default_rng(7), blocks=2, iterations=(0, 30, 100), **TINY)
    keys = tables.keys()
    assert set(keys.loc[on_the_way(keys), "iteration"]) == {30}
    frames, report = judge(tables)
    assert set(frames["designs"]["iteration"]) == {0, 100}
    assert set(report.tables["networks"]["iteration"]) == {100}


def test_one_cell_alone_stays_a_network_of_its_own():
    tables = planted_networks(np.random.default_rng(9), blocks=1, norms=("in",), **TINY)
    _, report = judge(tables)
    assert all("b00-t0-in-original" in claim.scope for claim in report.claims)
    row = row_of(report.tables["network_means"], place=PLACE, quantity="V_S")
    assert math.isnan(row["networks_low"])
    assert row["low"] < row["estimate"] < row["high"]  # images and styles


def test_networks_without_facts_of_their_training_are_grouped_by_norm():
    tables = planted_networks(np.random.default_rng(10), blocks=2, **TINY)
    tables.configs.clear()
    frames, report = judge(tables)
    assert "training" not in frames
    assert set(report.tables["network_means"]["group"]) == {"texture in", "texture bn"}
    assert set(report.tables["between_norms"]["n"]) == {"2"}


def test_every_quantity_is_explained():
    tables = planted_networks(np.random.default_rng(11), blocks=2, **TINY)
    frames = removed_variance.summarise(tables)
    names = {name for u in units_of(frames, PLAN) for _, name in u.measured}
    assert names == set(QUANTITIES)


def test_frames_survive_parquet(few):
    from statsnorm.report.encode import parquet_bytes, read_parquet

    frames, report = few
    again = {n: read_parquet(parquet_bytes(f), n) for n, f in frames.items()}
    second = removed_variance.run(again, PLAN, np.random.default_rng(0))
    for name in ("removed", "network_means", "between_norms"):
        table = report.tables[name]
        pd.testing.assert_frame_equal(table, second.tables[name], rtol=1e-6)
