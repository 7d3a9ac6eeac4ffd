import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from statsnorm.errors import StatsnormError
from statsnorm.stats.fieller import explained_fraction, fieller_interval
from statsnorm.stats.jackknife import (
    jackknife_replicates,
    simultaneous_intervals,
    tail_dof,
    two_way_jackknife,
)


def test_against_the_formula_written_out():
    rng = np.random.default_rng(1)
    theta, by_image, by_style = 2.0, rng.normal(size=7), rng.normal(size=5)
    v_i = 6 / 7 * sum((x - by_image.mean()) ** 2 for x in by_image)
    v_s = 4 / 5 * sum((x - by_style.mean()) ** 2 for x in by_style)
    dof = (v_i + v_s) ** 2 / (v_i**2 / 6 + v_s**2 / 4)
    half = stats.t.ppf(0.95, dof) * np.sqrt(v_i + v_s)
    found = two_way_jackknife(theta, by_image, by_style, 0.90)
    assert_allclose(found.se, np.sqrt(v_i + v_s))
    assert_allclose(found.dof, dof)
    assert_allclose([found.low, found.high], [theta - half, theta + half])


def test_jackknife_of_a_mean_is_its_standard_error():
    x = np.random.default_rng(2).normal(size=(9, 6))  # additive: rows and columns
    rows = [np.delete(x, i, 0).mean() for i in range(9)]
    columns = [np.delete(x, s, 1).mean() for s in range(6)]
    found = two_way_jackknife(x.mean(), rows, columns)
    expected = x.mean(1).var(ddof=1) / 9 + x.mean(0).var(ddof=1) / 6
    assert_allclose(found.se**2, expected)


def test_arrays_agree_with_one_at_a_time():
    rows = np.random.default_rng(3).normal(size=(1 + 6 + 4, 3))
    together = jackknife_replicates(rows, 6, 4)
    for c in range(3):
        alone = jackknife_replicates(rows[:, c], 6, 4)
        assert_allclose([together.low[c], together.dof[c]], [alone.low, alone.dof])


def test_what_nothing_moves_has_no_width_and_nan_stays_where_it_is():
    rows = np.ones((1 + 6 + 4, 2))
    rows[3, 1] = np.nan
    found = jackknife_replicates(rows, 6, 4)
    assert (found.se[0], found.low[0], found.high[0], found.dof[0]) == (0, 1, 1, 8)
    assert np.isnan(found.low[1])


def test_tiny_variances_do_not_underflow():
    rows = 1 + 1e-170 * np.random.default_rng(4).normal(size=1 + 6 + 4)
    rows = rows - 1 + 1e-170 * np.arange(11)
    assert 4 <= jackknife_replicates(rows, 6, 4).dof <= 8


def test_bad_input_is_refused():
    with pytest.raises(StatsnormError, match="confidence must lie strictly between 0 and 1, got 1"):
        two_way_jackknife(1.0, [1, 2], [1, 2], 1)
    with pytest.raises(StatsnormError, match="95"):
        two_way_jackknife(1.0, [1, 2], [1, 2], 95)
    with pytest.raises(StatsnormError, match="leave_style_out has 1"):
        two_way_jackknife(1.0, [1, 2], [1])
    with pytest.raises(StatsnormError, match="leave_image_out must have shape"):
        two_way_jackknife([1.0, 2.0], [1, 2], [1, 2])
    with pytest.raises(StatsnormError, match=r"1 \+ 6 \+ 4 = 11 rows"):
        jackknife_replicates(np.zeros(10), 6, 4)
    with pytest.raises(StatsnormError, match=r"shape \(1 \+ I \+ S, T\), got \(11,\)"):
        simultaneous_intervals(np.zeros(11), 6, 4)


def test_simultaneous_intervals_are_single_ones_at_bonferronis_level():
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(1 + 6 + 4, 3)) * [1, 2, 9]
    found = simultaneous_intervals(rows, 6, 4, confidence=0.9)
    one = jackknife_replicates(rows, 6, 4)
    quantile = stats.t.ppf(1 - 0.1 / 3 / 2, one.dof)
    assert_allclose(found.high - found.estimate, quantile * one.se)
    assert_allclose(found.estimate - found.low, quantile * one.se)
    assert found.count == 3
    alone = simultaneous_intervals(rows[:, :1], 6, 4)
    assert_allclose(alone.low, one.low[:1])


def test_simultaneous_intervals_leave_out_nan_and_keep_fixed_columns():
    rows = np.random.default_rng(6).normal(size=(1 + 6 + 4, 3))
    rows[2, 0], rows[:, 1] = np.nan, 5.0
    found = simultaneous_intervals(rows, 6, 4)
    assert np.isnan(found.low[0])
    assert found.low[1] == found.high[1] == 5
    assert found.count == 1
    assert_allclose(found.high[2], jackknife_replicates(rows, 6, 4).high[2])  # one that counts


def test_tail_dof_against_the_variance_of_sample_variances():
    # a chi-squared of these dof over its dof varies as s^2 / sigma^2 does, var = 2 / n + g / n
    rng = np.random.default_rng(9)
    x = rng.standard_t(9, size=(400, 30_000))  # excess kurtosis 6 / 5
    spread = x.var(axis=0, ddof=1) / (9 / 7)
    assert_allclose(np.mean(1 / tail_dof(x)) * 2, spread.var(), rtol=0.05)
    normal = rng.normal(size=(400, 2000))
    assert_allclose(tail_dof(normal).mean(), 399, rtol=0.1)


def test_tail_dof_is_at_most_n_less_one_and_falls_with_one_far_value():
    flat = np.array([-1.0, 1.0] * 4)
    assert tail_dof(flat) == 7
    assert tail_dof(np.full(8, 2.0)) == 7
    assert tail_dof(np.arange(3.0)) == 2
    far = np.array([0.0, 0.1, -0.1, 0.0, 0.1, -0.1, 0.0, 50.0])
    assert tail_dof(far) < 2
    assert_allclose(tail_dof(np.stack([flat, far], axis=1)), [7, tail_dof(far)])
    # G2 of R: e1071::kurtosis(x, type = 2); here scipy's
    x = np.random.default_rng(2).standard_t(3, 12)
    excess = stats.kurtosis(x, bias=False)
    assert excess > 0
    assert_allclose(tail_dof(x), 2 / (2 / 11 + excess / 12))


def test_heavy_tails_keep_the_standard_error_and_lower_the_dof():
    rng = np.random.default_rng(3)
    rows = rng.standard_t(3, size=(1 + 12 + 8, 2))
    plain, heavy = (jackknife_replicates(rows, 12, 8, tails=t) for t in ("normal", "heavy"))
    assert_allclose(plain.se, heavy.se)
    v = [(len(x) - 1) * x.var(axis=0) for x in (rows[1:13], rows[13:])]
    each = [tail_dof(x) for x in (rows[1:13], rows[13:])]
    assert_allclose(heavy.dof, (v[0] + v[1]) ** 2 / (v[0] ** 2 / each[0] + v[1] ** 2 / each[1]))
    assert (heavy.dof < plain.dof).all()
    with pytest.raises(StatsnormError, match="normal, heavy; got 'fat'"):
        jackknife_replicates(rows, 12, 8, tails="fat")


def test_fieller_against_a_grid():
    a, b, vaa, vab, vbb, q = 1.0, 3.0, 0.2, 0.05, 0.3, 2.1
    low, high = fieller_interval(
        a, b, var_numerator=vaa, covariance=vab, var_denominator=vbb, quantile=q
    )
    r = np.linspace(-5, 5, 2_000_001)
    kept = r[(a - r * b) ** 2 <= q**2 * (vaa - 2 * r * vab + r**2 * vbb)]
    assert_allclose([low, high], [kept.min(), kept.max()], atol=1e-5)


def test_fieller_is_unbounded_where_the_denominator_may_be_zero():
    ends = fieller_interval(1, 1, var_numerator=0.1, covariance=0, var_denominator=1, quantile=2)
    assert ends == (-np.inf, np.inf)


def test_explained_fraction_against_the_t_test_it_inverts():
    rng = np.random.default_rng(8)
    reference = 1 + 0.2 * rng.normal(size=10)
    gap = 0.3 * reference + 0.05 * rng.normal(size=10)
    found = explained_fraction(gap, reference)
    assert_allclose(found.estimate, 1 - gap.mean() / reference.mean())
    for phi in (found.low, found.high):  # at each end the paired t test has p = 0.05
        assert_allclose(stats.ttest_1samp(gap - (1 - phi) * reference, 0).pvalue, 0.05)
    assert found.bounded
    assert not explained_fraction(gap, reference - reference.mean() + 0.01).bounded


def test_explained_fraction_covers():
    rng, hits = np.random.default_rng(9), []
    for _ in range(2000):
        reference = 1 + 0.4 * rng.normal(size=8)
        gap = 0.4 * reference + 0.3 * rng.normal(size=8)
        found = explained_fraction(gap, reference)
        hits.append(found.low <= 0.6 <= found.high)
    assert abs(np.mean(hits) - 0.95) < 4 * np.sqrt(0.05 * 0.95 / 2000)


def test_explained_fraction_refuses_unpaired_and_lost_blocks():
    with pytest.raises(StatsnormError, match="paired"):
        explained_fraction([1, 2, 3], [1, 2])
    with pytest.raises(StatsnormError, match="1 of 3 blocks"):
        explained_fraction([1, 2, np.nan], [1, 2, 3])
