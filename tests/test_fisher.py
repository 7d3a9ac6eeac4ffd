import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.covariance import ledoit_wolf as sklearn_ledoit_wolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from statsnorm.errors import StatsnormError
from statsnorm.stats.fisher import fisher_ratio, ledoit_wolf


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.mark.parametrize(("n", "d"), [(40, 7), (20, 60), (5, 1), (2, 3)])
def test_ledoit_wolf_against_sklearn(rng, n, d):
    x = rng.normal(size=(n, d)) * np.arange(1, d + 1)
    covariance, shrinkage = sklearn_ledoit_wolf(x, assume_centered=True)
    ours = ledoit_wolf(x)
    assert_allclose(ours.covariance, covariance, rtol=1e-9, atol=1e-12)
    assert_allclose(ours.shrinkage, shrinkage, rtol=1e-9, atol=1e-12)


def test_shrinkage_stops_at_one():
    x = np.random.default_rng(1).normal(size=(3, 2))
    assert ledoit_wolf(x).shrinkage == sklearn_ledoit_wolf(x, assume_centered=True)[1] == 1


def test_fisher_ratio_against_its_definition(rng):
    x, labels = rng.normal(size=(60, 6)), np.arange(60) % 4
    x += rng.normal(size=(4, 6))[labels]
    means = np.array([x[labels == j].mean(0) for j in range(4)])
    between = sum(0.25 * np.outer(m, m) for m in means - x.mean(0))
    within, _ = sklearn_ledoit_wolf(x - means[labels], assume_centered=True)
    expected = np.trace(np.linalg.solve(within, between))
    assert_allclose(fisher_ratio(x, labels).statistic, expected)


def test_fisher_ratio_one_column_is_f():
    # J = (J-1) / (n-J) F when there is one column, where nothing is shrunk
    from scipy.stats import f_oneway

    x = np.array([1.0, 2, 4, 3, 6, 5, 9, 8, 8])
    f = f_oneway(x[:3], x[3:6], x[6:]).statistic
    result = fisher_ratio(x, np.repeat([0, 1, 2], 3))
    assert_allclose(result.statistic, f * 2 / 6)
    assert_allclose(result.corrected, (f - 1) * 2 / 6)


def test_fisher_ratio_unchanged_by_rotation_and_gain(rng):
    x, labels = rng.normal(size=(50, 8)), np.arange(50) % 5
    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    moved = fisher_ratio(7 * x @ rotation + 3, labels)
    assert_allclose(moved.statistic, fisher_ratio(x, labels).statistic)


def test_corrected_ratio_is_near_zero_without_an_effect(rng):
    labels = np.arange(80) % 4
    results = [fisher_ratio(rng.normal(size=(80, 5)), labels) for _ in range(400)]
    corrected = np.array([r.corrected for r in results])
    plain = np.mean([r.statistic for r in results])
    assert abs(corrected.mean()) < 0.1 * plain  # the noise is taken off, to first order
    assert plain > 0.1


def test_separable_groups_with_fewer_rows_than_columns(rng):
    labels = np.repeat([0, 1], 10)
    x = rng.normal(size=(20, 100)) + 2 * labels[:, None]
    result = fisher_ratio(x, labels)
    assert 0 < result.shrinkage <= 1
    noise = fisher_ratio(rng.normal(size=(20, 100)), labels)
    assert result.corrected > 10 * abs(noise.corrected)
    lda = LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto").fit(x, labels)
    assert lda.score(x, labels) == 1


def test_bad_input(rng):
    x = rng.normal(size=(6, 2))
    with pytest.raises(StatsnormError, match="labels must have at least 2 levels, got 1"):
        fisher_ratio(x, np.zeros(6))
    with pytest.raises(StatsnormError, match="every one of the 6 groups has one row"):
        fisher_ratio(x, np.arange(6))
    with pytest.raises(StatsnormError, match="do not vary within groups"):
        fisher_ratio(np.repeat(np.eye(2), 3, axis=0), np.repeat([0, 1], 3))
    with pytest.raises(StatsnormError, match="one label a row"):
        fisher_ratio(x, [0, 1])
