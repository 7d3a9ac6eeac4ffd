import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from statsnorm.errors import StatsnormError
from statsnorm.stats.effects import clopper_pearson, hedges_gz

SLEEP = [1.2, 2.4, 1.3, 1.3, 0, 1, 1.8, 0.8, 4.6, 1.4]


@pytest.mark.parametrize(("k", "n"), [(0, 8), (3, 10), (9, 10), (10, 10)])
def test_clopper_pearson_solves_its_tail_equations(k, n):
    r = clopper_pearson(k, n)
    if k:
        assert_allclose(stats.binom.sf(k - 1, n, r.low), 0.025)
    if k < n:
        assert_allclose(stats.binom.cdf(k, n, r.high), 0.025)
    assert (r.low == 0) == (k == 0)
    assert (r.high == 1) == (k == n)
    mirror = clopper_pearson(n - k, n)
    assert_allclose((mirror.low, mirror.high), (1 - r.high, 1 - r.low), atol=1e-12)


def test_clopper_pearson_covers_everywhere():
    n = 12
    bounds = [clopper_pearson(k, n) for k in range(n + 1)]
    for share in np.linspace(0.01, 0.99, 50):
        inside = [b.low <= share <= b.high for b in bounds]
        assert stats.binom.pmf(np.arange(n + 1), n, share) @ inside >= 0.95 - 1e-9


def test_hedges_of_the_sleep_data():
    # t = 4.0621277, n = 10: d_z = t / sqrt(10), correction 1 - 3/35
    r = hedges_gz(SLEEP)
    assert_allclose(r.uncorrected, 4.0621277 / np.sqrt(10), rtol=1e-7)
    assert_allclose(r.estimate, r.uncorrected * (1 - 3 / 35))
    # the bounds are where the observed t is a 2.5 % value of the noncentral law
    t = r.uncorrected * np.sqrt(10)
    assert_allclose(stats.nct.sf(t, 9, r.low * np.sqrt(10)), 0.025, rtol=1e-6)
    assert_allclose(stats.nct.cdf(t, 9, r.high * np.sqrt(10)), 0.025, rtol=1e-6)


def test_hedges_sign_scale_and_duality():
    r, mirror = hedges_gz(SLEEP), hedges_gz(-7 * np.array(SLEEP))
    assert_allclose(
        (mirror.estimate, mirror.low, mirror.high), (-r.estimate, -r.high, -r.low), rtol=1e-8
    )
    rng = np.random.default_rng(7)
    for _ in range(20):  # the interval excludes 0 where the paired t test rejects
        d = rng.normal(0.7, 1, 9)
        r = hedges_gz(d)
        assert (r.low > 0 or r.high < 0) == (stats.ttest_1samp(d, 0).pvalue < 0.05)


def test_hedges_coverage():
    rng = np.random.default_rng(7)
    hits = [r.low <= 0.8 <= r.high for r in map(hedges_gz, rng.normal(0.8, 1, (1000, 8)))]
    assert abs(np.mean(hits) - 0.95) < 4 * np.sqrt(0.05 * 0.95 / 1000)


def test_hedges_large_effect_and_degenerate():
    rng = np.random.default_rng(7)
    r = hedges_gz(100 + rng.normal(size=100))
    assert r.low < r.uncorrected < r.high
    assert np.isnan(hedges_gz([0.1] * 5).low)


def test_bad_input():
    with pytest.raises(StatsnormError, match="successes must not exceed n, got 4 of 3"):
        clopper_pearson(4, 3)
    with pytest.raises(StatsnormError, match="n must be an integer not less than 1, got 0"):
        clopper_pearson(0, 0)
    with pytest.raises(StatsnormError, match="confidence must lie strictly"):
        clopper_pearson(1, 3, confidence=95)
    with pytest.raises(StatsnormError, match="at least 3 differences, got 2"):
        hedges_gz([1.0, 5.0])  # no small-sample correction, and no interval, with one degree
