from itertools import product

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from statsnorm.errors import StatsnormError
from statsnorm.stats.components import crossed_components
from statsnorm.stats.permutation import (
    block_permutation_test,
    sign_flip_test,
    simultaneous_band,
    step_down_maxt,
)

MAIZE = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]  # Darwin; Fisher 1935
SLEEP = [1.2, 2.4, 1.3, 1.3, 0, 1, 1.8, 0.8, 4.6, 1.4]  # R: with(sleep, extra[11:20] - extra[1:10])


def test_darwins_maize_against_fisher():
    # the table's Wilcoxon p, .0412598, has no counterpart: statsnorm has no signed-rank test
    found = sign_flip_test(MAIZE)
    assert found.pvalue == 1726 / 32768  # 835 sums above, 28 ties, both sides
    assert found.exact
    assert found.flips == 32768
    assert found.statistic == np.mean(MAIZE)


def test_sleep_has_four_extreme_sign_vectors():
    assert sign_flip_test(SLEEP).pvalue == 4 / 1024  # the zero may have either sign


def test_against_scipy_and_a_plain_loop():
    d = np.random.default_rng(1).normal(0.4, 1, 9)
    found = sign_flip_test(d)
    oracle = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert_allclose(found.pvalue, oracle.pvalue)
    sums = np.array([np.dot(s, d) for s in product([-1, 1], repeat=9)])
    for alternative, p in (
        ("two-sided", np.mean(np.abs(sums) >= abs(d.sum()) - 1e-9)),
        ("greater", np.mean(sums >= d.sum() - 1e-9)),
        ("less", np.mean(sums <= d.sum() + 1e-9)),
    ):
        assert_allclose(sign_flip_test(d, alternative=alternative).pvalue, p)


def test_rounding_does_not_break_ties():
    d = np.array([0.1, 0.2, 0.3, -0.3, 0.4, 0.7])  # 0.1 + 0.2 != 0.3 in floating point
    assert sign_flip_test(d).pvalue == sign_flip_test(np.round(10 * d)).pvalue
    assert sign_flip_test(d * 1e-9).pvalue == sign_flip_test(d).pvalue


def test_smallest_attainable_pvalue():
    for n, least in ((5, 0.0625), (8, 0.0078125), (10, 0.001953125)):
        found = sign_flip_test(np.arange(1.0, n + 1))
        assert found.pvalue == found.min_pvalue == least


def test_monte_carlo_agrees_with_exact_and_is_never_zero():
    d = np.random.default_rng(2).normal(0.4, 1, 16)
    from statsnorm.stats import permutation

    exact = sign_flip_test(d).pvalue
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(permutation, "EXACT", 10)
        drawn = sign_flip_test(d, rng=np.random.default_rng(3), flips=40_000)
    assert not drawn.exact
    assert abs(drawn.pvalue - exact) < 4 * np.sqrt(exact * (1 - exact) / 40_000)
    sure = sign_flip_test(np.ones(40), rng=np.random.default_rng(4), flips=999)
    assert sure.pvalue == sure.min_pvalue == 1 / 1000


def test_same_seed_same_pvalue_and_global_state_is_not_touched():
    d = np.random.default_rng(5).normal(size=30)
    a, b = (sign_flip_test(d, rng=np.random.default_rng(6), flips=2000).pvalue for _ in range(2))
    assert a == b
    assert a != sign_flip_test(d, rng=np.random.default_rng(7), flips=2000).pvalue


def test_channels_agree_with_one_at_a_time():
    d = np.random.default_rng(8).normal(0.3, 1, (8, 5))
    together = sign_flip_test(d)
    assert_allclose(together.pvalue, [sign_flip_test(d[:, c]).pvalue for c in range(5)])
    assert_allclose(together.statistic, d.mean(axis=0))
    d[2, 1], d[:, 3] = np.nan, 0
    found = sign_flip_test(d)
    assert np.isnan(found.pvalue[1])
    assert found.pvalue[3] == 1
    assert_allclose(found.pvalue[[0, 2, 4]], together.pvalue[[0, 2, 4]])


def test_whole_clusters_are_flipped():
    d = np.random.default_rng(9).normal(0.5, 1, 12)
    styles = np.repeat(["a", "b", "c", "d", "e", "f"], 2)
    found = sign_flip_test(d, clusters=styles)
    assert found.pvalue == sign_flip_test(d.reshape(6, 2).sum(axis=1)).pvalue
    assert found.n == 6
    assert_allclose(found.statistic, d.mean())


def test_bad_input_is_refused():
    with pytest.raises(StatsnormError, match=r"17 units .* rng=np.random.default_rng"):
        sign_flip_test(np.ones(17))
    with pytest.raises(StatsnormError, match="1 units"):
        sign_flip_test([1.0])
    with pytest.raises(StatsnormError, match="alternative must be one of"):
        sign_flip_test(SLEEP, alternative="bigger")
    with pytest.raises(StatsnormError, match="rng must be"):
        sign_flip_test(np.ones(17), rng=7)
    with pytest.raises(StatsnormError, match="one label"):
        sign_flip_test(SLEEP, clusters=[1, 2])
    with pytest.raises(StatsnormError, match=r"shape \(n, m\)"):
        step_down_maxt(SLEEP)


@pytest.mark.parametrize(("n", "size"), [(6, 0.027), (8, 0.045), (10, 0.043)])
def test_size_is_that_of_the_method(n, size):
    # method 1.1: attainable level below 5 % by discreteness; Gaussian blocks
    d = np.random.default_rng(10).normal(size=(n, 4000))
    rate = (sign_flip_test(d).pvalue <= 0.05).mean()
    assert rate <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 4000)
    exact_level = np.floor(0.05 * 2**n / 2) * 2 / 2**n
    assert abs(rate - exact_level) < 4 * np.sqrt(0.05 * 0.95 / 4000)
    assert abs(rate - size) < 0.01


def test_skewless_heavy_tails_keep_the_size():
    d = np.random.default_rng(11).standard_t(2, size=(9, 4000))
    assert (sign_flip_test(d).pvalue <= 0.05).mean() <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 4000)


def test_block_permutation_against_all_labelings():
    y = np.random.default_rng(12).normal(size=(2, 3, 2, 4))
    found = block_permutation_test(y, rng=np.random.default_rng(13), permutations=4000)
    from itertools import permutations

    blocks = y.swapaxes(1, 2).reshape(4, 3, 4)
    orders = [list(p) for p in permutations(range(3))]
    values = []
    for choice in product(orders, repeat=4):
        mean = np.mean([blocks[b, o] for b, o in enumerate(choice)], axis=0)
        values.append(np.square(mean - mean.mean(axis=0)).sum())
    exact = np.mean(np.array(values) >= values[0] * (1 - 1e-9))
    assert abs(found.pvalue - exact) < 4 * np.sqrt(exact * (1 - exact) / 4000)
    within = np.square(blocks - blocks.mean(axis=1, keepdims=True)).sum()
    assert_allclose(found.expected, np.mean(values) * 4 / within, rtol=1e-6)
    ms = crossed_components(y)  # SS_S from the components: style = (MS_S - MS_IS)/(IK)
    ss = ((ms.style * 4 + ms.content_style * 2) * 2).sum()
    assert_allclose(found.statistic, ss / within)


def test_block_permutation_keeps_its_size_and_sees_an_effect():
    rng, p = np.random.default_rng(14), []
    for _ in range(400):
        y = rng.normal(size=(4, 3, 2, 3)) + rng.normal(size=(4, 1, 2, 3))
        p.append(block_permutation_test(y, rng=rng, permutations=99).pvalue)
    assert np.mean(np.array(p) <= 0.05) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 400)
    assert np.mean(np.array(p) <= 0.5) > 0.4  # not merely conservative
    y += np.arange(3.0)[None, :, None, None]
    assert block_permutation_test(y, rng=rng, permutations=99).pvalue == 0.01


def test_block_permutation_leaves_nan_out_and_refuses_nothing():
    rng = np.random.default_rng(15)
    y = rng.normal(size=(4, 3, 2, 3))
    clean = block_permutation_test(y[..., 1:], rng=np.random.default_rng(1), permutations=99)
    y[0, 0, 0, 0] = np.nan
    found = block_permutation_test(y, rng=np.random.default_rng(1), permutations=99)
    assert (found.n_nan, found.pvalue) == (1, clean.pvalue)
    with pytest.raises(StatsnormError, match="nothing varies"):
        block_permutation_test(np.ones((4, 3, 2, 3)), rng=rng)
    with pytest.raises(StatsnormError, match="rng must be"):
        block_permutation_test(y, rng=None)


def test_maxt_against_a_plain_step_down():
    d = np.random.default_rng(16).normal(0.5, 1, (7, 4))
    found = step_down_maxt(d)
    assert_allclose(found.statistic, stats.ttest_1samp(d, 0).statistic)
    flips = [np.array(s)[:, None] * d for s in product([-1, 1], repeat=7)]
    null = np.abs([stats.ttest_1samp(f, 0).statistic for f in flips])  # (128, 4)
    size, worst = np.abs(found.statistic), 0.0
    for rank, column in enumerate(np.argsort(-size)):
        others = np.argsort(-size)[rank:]
        p = np.mean(null[:, others].max(axis=1) >= size[column] * (1 - 1e-9))
        worst = max(worst, p)
        assert_allclose(found.p_adjusted[column], worst)
        assert_allclose(found.pvalue[column], np.mean(null[:, column] >= size[column] * (1 - 1e-9)))
    assert (found.p_adjusted >= found.pvalue).all()


def test_maxt_never_gives_the_weaker_of_two_a_smaller_pvalue():
    d = np.random.default_rng(1).normal(0.4, 1, 8)
    found = step_down_maxt(np.stack([d, d[::-1] - 1e-6], axis=1))  # nearly the same t
    assert found.p_adjusted[1] >= found.p_adjusted[0] > found.pvalue[1]


def test_maxt_gains_from_dependence_and_drops_nan():
    d = np.random.default_rng(17).normal(0.6, 1, (10, 1))
    copies = step_down_maxt(np.repeat(d, 6, axis=1))
    assert_allclose(copies.p_adjusted, copies.pvalue)
    lost = np.hstack([d, np.full((10, 1), np.nan), np.zeros((10, 1))])
    found = step_down_maxt(lost)
    assert_allclose(found.p_adjusted[0], copies.pvalue[0])
    assert np.isnan(found.p_adjusted[1:]).all()


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1.1])
@pytest.mark.parametrize("n", [8, 10, 16])
def test_maxt_of_equal_differences_is_the_least_pvalue_not_zero(value, n):
    # t is infinite, or a rounding error short of it: which of the two must not matter
    found = step_down_maxt(np.full((n, 1), value))
    assert found.pvalue == found.p_adjusted == 2 / 2**n


def test_infinite_differences_have_no_pvalue():
    d = np.column_stack([[np.inf, 1, 2, 3, 4], [1.0, 2, 3, 4, 5]])
    assert_array_equal(np.isnan(sign_flip_test(d).pvalue), [True, False])


def correlated(rng, n, draws, points=30, width=5.0):
    x = np.arange(points)
    root = np.linalg.cholesky(
        np.exp(-0.5 * ((x[:, None] - x) / width) ** 2) + 1e-6 * np.eye(points)
    )
    return rng.normal(size=(draws, n, points)) @ root.T


def test_maxt_holds_the_family_wise_error_of_correlated_layers():
    d = correlated(np.random.default_rng(18), 9, 400)
    wrong = np.mean([step_down_maxt(x).p_adjusted.min() <= 0.05 for x in d])
    assert wrong <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 400)
    assert wrong > 0.02


@pytest.mark.parametrize("mean", [0.0, 3.0])
def test_band_covers_the_whole_curve(mean):
    d = mean + correlated(np.random.default_rng(19), 9, 400)
    inside = []
    for x in d:
        band = simultaneous_band(x)
        inside.append(((band.low <= mean) & (mean <= band.high)).all())
    assert abs(np.mean(inside) - 0.95) < 4 * np.sqrt(0.05 * 0.95 / 400)


def test_band_at_one_point_is_close_to_t():
    d = np.random.default_rng(20).normal(size=(14, 1))
    band = simultaneous_band(d)
    assert_allclose(band.critical, stats.t.ppf(0.975, 13), rtol=0.1)
    assert_allclose((band.low + band.high) / 2, d.mean(axis=0))


def test_band_of_few_blocks_is_infinite_and_of_fixed_points_nan():
    rng = np.random.default_rng(21)
    assert np.isinf(simultaneous_band(rng.normal(size=(5, 3))).high).all()
    d = rng.normal(size=(8, 3))
    d[:, 0], d[2, 1] = 0.7, np.nan
    band = simultaneous_band(d)
    assert np.isnan(band.low[:2]).all()
    assert np.isfinite(band.low[2])
    drawn = [
        simultaneous_band(rng_d, rng=np.random.default_rng(1), flips=999).critical
        for rng_d in [np.random.default_rng(22).normal(size=(20, 3))] * 2
    ]
    assert drawn[0] == drawn[1]


@pytest.mark.slow
def test_sign_flip_power_of_the_method():
    # method 1.1: power at d = 1.0, 1.5, 2.0: n = 8 .65 .94 1.0; n = 10 .80 .98 1.0
    rng = np.random.default_rng(23)
    for n, expected in ((8, (0.65, 0.94, 1.0)), (10, (0.80, 0.98, 1.0))):
        for effect, power in zip((1.0, 1.5, 2.0), expected, strict=True):
            d = rng.normal(effect, 1, (n, 8000))
            assert abs((sign_flip_test(d).pvalue <= 0.05).mean() - power) < 0.02
