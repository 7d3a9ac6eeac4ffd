import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats
from statsmodels.stats.weightstats import ttost_ind, ttost_paired

from statsnorm.errors import StatsnormError
from statsnorm.stats.equivalence import noninferiority_paired, paired_t, tost_paired, welch_tost

SLEEP = np.array([1.2, 2.4, 1.3, 1.3, 0, 1, 1.8, 0.8, 4.6, 1.4])
MAIZE = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48])


def test_paired_t_against_r():
    # R: t.test(extra ~ group, data = sleep, paired = TRUE), signs turned
    found = paired_t(SLEEP)
    assert_allclose(found.statistic, 4.0621277, rtol=1e-7)
    assert_allclose(found.pvalue, 0.00283289, rtol=1e-5)
    assert_allclose([found.low, found.high], [0.7001142, 2.4598858], rtol=1e-6)
    assert_allclose(paired_t(MAIZE).pvalue, 0.0497029, rtol=1e-5)
    assert (found.n, found.dof) == (10, 9)


def test_tost_against_r_and_statsmodels():
    found = tost_paired(SLEEP, low=-2, high=3)
    assert_allclose(found.p_lower, 3.552344e-6, rtol=1e-6)
    assert_allclose(found.p_upper, 0.002655570, rtol=1e-6)
    assert found.pvalue == found.p_upper
    assert_allclose([found.low, found.high], [0.8669947, 2.2930053], rtol=1e-6)  # 90 %
    oracle = ttost_paired(SLEEP, np.zeros(10), -2, 3)
    assert_allclose(found.pvalue, oracle[0])


def test_welch_tost_against_statsmodels_and_r_equivalence():
    # R 'equivalence': tost(c(4,7,8,6,3,2), c(6,8,7,10,11,9), epsilon = 1)
    x, y = np.array([4, 7, 8, 6, 3, 2]), np.array([6, 8, 7, 10, 11, 9])
    assert_allclose(welch_tost(x, y, margin=1).pvalue, 0.9643479, rtol=1e-6)
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(20, 4)), rng.normal(0.2, 2, (30, 4))
    found = welch_tost(a, b, margin=1.5)
    oracle = [ttost_ind(a[:, c], b[:, c], -1.5, 1.5, usevar="unequal")[0] for c in range(4)]
    assert_allclose(found.pvalue, oracle)
    assert_allclose(found.dof, stats.ttest_ind(a, b, equal_var=False).df)


def test_equivalent_exactly_where_the_interval_lies_inside():
    rng = np.random.default_rng(2)
    found = tost_paired(rng.normal(0.3, 1, (12, 500)), low=-1, high=0.9)
    inside = (found.low > -1) & (found.high < 0.9)
    assert ((found.pvalue < 0.05) == inside).all()
    assert 0 < inside.mean() < 1


def test_smallest_margin_just_passes():
    found = tost_paired(SLEEP, low=-2, high=3)
    m = float(found.smallest_margin)
    assert_allclose(tost_paired(SLEEP, low=-m, high=m).pvalue, 0.05)


def test_noninferiority_against_scipy():
    found = noninferiority_paired(SLEEP, margin=2.5)
    assert_allclose(found.pvalue, stats.ttest_1samp(SLEEP, 2.5, alternative="less").pvalue)
    assert_allclose(noninferiority_paired(SLEEP, margin=float(found.high)).pvalue, 0.05)


def test_tost_is_symmetric():
    a = tost_paired(SLEEP, low=-2, high=3)
    b = tost_paired(-SLEEP, low=-3, high=2)
    assert_allclose([b.p_lower, b.p_upper, b.low], [a.p_upper, a.p_lower, -a.high])


def test_size_at_the_margin_is_alpha():
    rng = np.random.default_rng(7)  # true difference == margin: the worst null
    x, y = rng.normal(0.5, 1, (300, 4000)), rng.normal(0, 2, (500, 4000))
    rate = (welch_tost(x, y, margin=0.5).pvalue < 0.05).mean()
    assert abs(rate - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 4000)
    d = rng.normal(0.25, 1, (40, 4000))
    rate = (tost_paired(d, low=-2, high=0.25).pvalue < 0.05).mean()
    assert abs(rate - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 4000)


def test_size_with_a_margin_estimated_from_the_blocks():
    # method 1.1: TOST through D -/+ 0.25 G per block; 5.3 % (n = 8) at a nominal 5 %
    rng = np.random.default_rng(8)
    gap = 1 + 0.15 * rng.normal(size=(8, 8000))
    d = 0.25 + 0.12 * rng.normal(size=(8, 8000))
    upper = noninferiority_paired(d - 0.25 * gap, margin=0).pvalue
    assert abs((upper < 0.05).mean() - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 8000)


def test_constant_and_nan_channels_are_untestable_and_alone():
    d = np.random.default_rng(3).normal(size=(6, 3))
    d[:, 0], d[2, 1] = 0.1, np.nan
    for found in (tost_paired(d, low=-1, high=1), paired_t(d), noninferiority_paired(d, margin=0)):
        assert np.isnan(found.pvalue[:2]).all()
        assert np.isfinite(found.pvalue[2])
    x = np.zeros((5, 2))
    x[:, 1] = np.arange(5)
    found = welch_tost(x, np.zeros((5, 2)), margin=1)
    assert np.isnan(found.pvalue[0])
    assert np.isfinite(found.pvalue[1])  # constant in one group only


@pytest.mark.parametrize("margin", [None, 0, -1, np.nan, np.inf])
def test_welch_needs_a_positive_margin(margin):
    with pytest.raises(StatsnormError, match="margin must be positive"):
        welch_tost([1, 2], [1, 2], margin=margin)


def test_bad_input_is_refused():
    with pytest.raises(TypeError):
        tost_paired(SLEEP)  # margins have no default
    with pytest.raises(StatsnormError, match="low must be below high, got low=1, high=-1"):
        tost_paired(SLEEP, low=1, high=-1)
    with pytest.raises(StatsnormError, match="low must be a finite number, got None"):
        tost_paired(SLEEP, low=None, high=1)
    with pytest.raises(StatsnormError, match=r"alpha .* 0 and 0.5, got 0.9"):
        tost_paired(SLEEP, low=-1, high=1, alpha=0.9)
    with pytest.raises(StatsnormError, match="1 units"):
        paired_t([1.0])
    with pytest.raises(StatsnormError, match=r"shape \(n,\) or \(n, C\)"):
        paired_t(np.zeros((2, 2, 2)))
    with pytest.raises(StatsnormError, match="share their channels"):
        welch_tost(np.zeros((4, 2)), np.zeros((4, 3)), margin=1)
    with pytest.raises(StatsnormError, match="margin must be a finite number"):
        noninferiority_paired(SLEEP, margin=np.nan)
