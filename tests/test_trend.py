import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from statsnorm.errors import StatsnormError
from statsnorm.stats.trend import page_trend


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_against_scipy_and_enumeration(rng):
    y = rng.normal(size=(4, 3)) + np.arange(3)
    result = page_trend(y)
    assert result.method == "exact"
    theirs = stats.page_trend_test(y)
    assert_allclose((result.statistic, result.pvalue), (theirs.statistic, theirs.pvalue))
    orders = [np.dot(p, (1, 2, 3)) for p in itertools.permutations((1, 2, 3))]
    null = np.array([sum(c) for c in itertools.product(orders, repeat=4)])
    assert_allclose(result.pvalue, (null >= result.statistic).mean())


def test_ties_follow_the_permutation_law(rng):
    # exact law of the tied table by enumeration within blocks
    y = np.array([[1, 1, 2], [1, 2, 2], [1, 2, 3], [2, 2, 3]])
    ranks = stats.rankdata(y, axis=1)
    rows = [[np.dot(p, (1, 2, 3)) for p in itertools.permutations(r)] for r in ranks]
    null = np.array([sum(c) for c in itertools.product(*rows)])
    exact = (null >= (ranks @ [1, 2, 3]).sum() - 1e-9).mean()
    result = page_trend(y, rng=rng, permutations=9999)
    assert result.method == "permutation"
    assert abs(result.pvalue - exact) < 4 * np.sqrt(exact * (1 - exact) / 9999) + 1e-4


def test_estimate_is_the_mean_spearman(rng):
    y = rng.normal(size=(6, 5))
    expected = np.mean([stats.spearmanr(row, range(5)).statistic for row in y])
    assert_allclose(page_trend(y).estimate, expected)


def test_predicted_order_and_monotone_maps(rng):
    y = rng.normal(size=(5, 4)) + np.arange(4)
    assert page_trend(np.exp(y)).pvalue == page_trend(y).pvalue
    shuffled = page_trend(y[:, [2, 0, 3, 1]], predicted=[3, 1, 4, 2])
    assert shuffled == page_trend(y)
    assert page_trend(-y).estimate == -page_trend(y).estimate


def test_all_tied_says_nothing(rng):
    result = page_trend(np.ones((3, 4)), rng=rng, permutations=19)
    assert result.pvalue == 1
    assert result.estimate == 0


def test_size(rng):
    p = np.array([page_trend(rng.standard_t(2, (8, 4))).pvalue for _ in range(1000)])
    assert (p <= 0.05).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1000)


@pytest.mark.slow
def test_size_with_ties_at_length(rng):
    p = [
        page_trend(rng.integers(0, 3, (8, 4)), rng=rng, permutations=199).pvalue
        for _ in range(2000)
    ]
    assert np.mean(np.array(p) <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2000)


def test_bad_input():
    with pytest.raises(StatsnormError, match=r"got shape \(1, 4\)"):
        page_trend([[1, 2, 3, 4]])
    with pytest.raises(StatsnormError, match=r"each rank 1..3 once, got \[1, 1, 2\]"):
        page_trend(np.arange(6).reshape(2, 3), predicted=[1, 1, 2])
    with pytest.raises(StatsnormError, match="rng must be"):
        page_trend([[1, 1, 2], [1, 2, 3]])
    with pytest.raises(StatsnormError, match="finite"):
        page_trend([[1, np.nan, 2], [1, 2, 3]])
