import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist, pdist
from sklearn.metrics.pairwise import rbf_kernel

from statsnorm.errors import StatsnormError
from statsnorm.stats import distances
from statsnorm.stats.distances import (
    energy_distance,
    feature_divergence,
    frechet,
    group_distances,
    median_bandwidth,
    mmd,
    standardise,
)
from statsnorm.stats.gaussian import gaussian_divergence, gaussian_frechet


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def groups(rng):
    return rng.normal(size=(30, 5)), rng.normal(0.5, 2.0, size=(41, 5))


def test_divergence_of_two_normal_laws_golden():
    # N(0, 1) against N(1, 2^2)
    d = gaussian_divergence(0, 1, 1, 4)
    assert_allclose(d.forward, 0.4431471806, rtol=1e-9)
    assert_allclose(d.reverse, 1.3068528194, rtol=1e-9)
    assert_allclose(d.symmetric, 1.75, rtol=1e-12)


def test_divergence_against_integration():
    from scipy.integrate import quad

    p, q = stats.norm(0.3, 1.2), stats.norm(-0.4, 0.7)
    forward, _ = quad(lambda t: p.pdf(t) * (p.logpdf(t) - q.logpdf(t)), -12, 12)
    assert_allclose(gaussian_divergence(0.3, 1.44, -0.4, 0.49).forward, forward, rtol=1e-6)


def test_feature_divergence_is_the_channel_mean_of_the_normal_divergence(groups):
    x, y = groups
    moments = (x.mean(0), x.var(0, ddof=1), y.mean(0), y.var(0, ddof=1))
    result = feature_divergence(x, y)
    assert_allclose(result.per_channel, gaussian_divergence(*moments).symmetric)
    assert_allclose(result.estimate, result.per_channel.mean())
    assert_allclose(feature_divergence(y, x).per_channel, result.per_channel)
    assert_allclose(feature_divergence(3 * x - 1, 3 * y - 1).unbiased, result.unbiased)


def test_feature_divergence_unbiased_and_its_stated_bias(rng):
    n, m = 9, 12
    x, y = rng.normal(0, 1, (n, 200_000)), rng.normal(1, 2, (m, 200_000))
    values = feature_divergence(x, y).per_channel_unbiased
    assert abs(values.mean() - 1.75) < 4 * values.std() / np.sqrt(values.size)
    values = feature_divergence(rng.normal(size=(n, 200_000)), y / 2).per_channel
    same = feature_divergence(rng.normal(size=(n, 200_000)), rng.normal(size=(m, 200_000)))
    bias = ((n - 1) / (n - 3) + (m - 1) / (m - 3)) * (1 + 1 / n + 1 / m) / 2 - 1
    spread = same.per_channel.std() / np.sqrt(200_000)
    assert abs(same.estimate - bias) < 4 * spread


def test_feature_divergence_leaves_out_a_dead_channel(groups):
    x, y = (np.column_stack([g, np.full(len(g), 0.1)]) for g in groups)
    result = feature_divergence(x, y)
    assert result.dropped == 1
    assert np.isnan(result.per_channel[-1])
    assert_allclose(result.estimate, feature_divergence(*groups).estimate)
    everything = feature_divergence(np.ones((5, 2)), np.ones((5, 2)))
    assert everything.dropped == 2
    assert np.isnan(everything.estimate)


def test_feature_divergence_of_three_images_has_no_unbiased_value(rng):
    result = feature_divergence(rng.normal(size=(3, 2)), rng.normal(size=(9, 2)))
    assert np.isfinite(result.estimate)
    assert np.isnan(result.unbiased)


def test_frechet_of_two_normal_laws_golden():
    assert_allclose(gaussian_frechet([0], [[1]], [1], [[4]]).estimate, 2.0)


def test_frechet_against_scipy_sqrtm(groups):
    x, y = groups
    a, b = np.cov(x.T), np.cov(y.T)
    gap = ((x.mean(0) - y.mean(0)) ** 2).sum()
    expected = gap + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert_allclose(frechet(x, y).estimate, expected, rtol=1e-10)
    assert_allclose(gaussian_frechet(x.mean(0), a, y.mean(0), b).estimate, expected, rtol=1e-10)
    assert_allclose(frechet(x, y).mean_term, gap)


def test_frechet_with_fewer_images_than_channels(rng):
    # two point sets on lines: covariances of rank 1, closed form |s_x u|^2 + |s_y v|^2 - 2 |..|
    u, v = np.eye(50)[0], (np.eye(50)[0] + np.eye(50)[1]) / np.sqrt(2)
    t, s = rng.normal(size=4), rng.normal(size=5)
    t, s = (t - t.mean()) / t.std(ddof=1), 3 * (s - s.mean()) / s.std(ddof=1)
    expected = 1 + 9 - 2 * 3 * abs(u @ v)
    assert_allclose(frechet(np.outer(t, u), np.outer(s, v)).estimate, expected, rtol=1e-10)
    x = rng.normal(size=(6, 50))
    assert frechet(x, x).estimate < 1e-10


def test_frechet_diagonal_closed_form(groups):
    x, y = groups
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + (
        (x.std(0, ddof=1) - y.std(0, ddof=1)) ** 2
    ).sum()
    assert_allclose(frechet(x, y, covariance="diagonal").estimate, expected)
    assert_allclose(frechet(x, y).estimate, frechet(y, x).estimate)


def test_frechet_refuses_what_is_no_covariance():
    with pytest.raises(StatsnormError, match="symmetric"):
        gaussian_frechet([0, 0], [[1, 1], [0, 1]], [0, 0], np.eye(2))
    with pytest.raises(StatsnormError, match="semidefinite"):
        gaussian_frechet([0, 0], [[1, 2], [2, 1]], [0, 0], np.eye(2))
    with pytest.raises(StatsnormError, match="one of full, diagonal; got 'ful'"):
        frechet(np.eye(3), np.eye(3), covariance="ful")


def test_mmd_against_sklearn(groups):
    x, y = groups
    h = 1.7
    kx, ky, kxy = (rbf_kernel(a, b, gamma=1 / (2 * h * h)) for a, b in ((x, x), (y, y), (x, y)))
    result = mmd(x, y, bandwidth=h)
    assert_allclose(result.biased, kx.mean() + ky.mean() - 2 * kxy.mean())
    n, m = len(x), len(y)
    unbiased = (kx.sum() - n) / n / (n - 1) + (ky.sum() - m) / m / (m - 1) - 2 * kxy.mean()
    assert_allclose(result.unbiased, unbiased)


def test_mmd_is_unbiased_for_equal_groups(rng):
    values = [mmd(*rng.normal(size=(2, 8, 3)), bandwidth=1.5).unbiased for _ in range(1000)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(1000)
    assert min(values) < 0
    x = rng.normal(size=(9, 3))
    assert mmd(x, x, bandwidth=1.0).biased == 0


def test_median_bandwidth_against_scipy(rng, monkeypatch):
    for n in (2, 3, 20, 151):
        x = rng.normal(size=(n, 4))
        assert median_bandwidth(x) == np.median(pdist(x))
    monkeypatch.setattr(distances, "BLOCK", 1000)
    assert median_bandwidth(x) == np.median(pdist(x))
    with pytest.raises(StatsnormError, match="at least half of all pairs"):
        median_bandwidth(np.ones((5, 2)))


def test_energy_against_scipy_in_one_dimension(groups):
    x, y = groups[0][:, 0], groups[1][:, 0]
    assert_allclose(energy_distance(x, y).statistic, stats.energy_distance(x, y) ** 2)


def test_energy_in_one_dimension_against_all_pairs(rng):
    # sorted values instead of pairs; ties, unequal sizes, far from 0
    x, y = rng.integers(0, 9, 40) + 1e3, rng.normal(1004, 2, 31)
    xy, xx, yy = (cdist(a[:, None], b[:, None]) for a, b in ((x, y), (x, x), (y, y)))
    result = energy_distance(x, y)
    assert_allclose(result.statistic, 2 * xy.mean() - xx.mean() - yy.mean(), rtol=1e-10)
    assert_allclose(result.normalised, result.statistic / (2 * xy.mean()), rtol=1e-10)
    unbiased = 2 * xy.mean() - xx.sum() / (40 * 39) - yy.sum() / (31 * 30)
    assert_allclose(result.unbiased, unbiased, rtol=1e-10)


def test_energy_against_full_matrices(groups, monkeypatch):
    x, y = groups
    xy, xx, yy = cdist(x, y), cdist(x, x), cdist(y, y)
    statistic = 2 * xy.mean() - xx.mean() - yy.mean()
    monkeypatch.setattr(distances, "BLOCK", 100)  # many blocks
    result = energy_distance(x, y)
    assert_allclose(result.statistic, statistic)
    assert_allclose(result.normalised, statistic / (2 * xy.mean()))
    assert_allclose(result.unbiased, 2 * xy.mean() - pdist(x).mean() - pdist(y).mean(), rtol=1e-12)


def test_energy_scale_and_degenerate(groups):
    x, y = groups
    assert_allclose(
        energy_distance(5 * x + 1, 5 * y + 1).normalised, energy_distance(x, y).normalised
    )
    assert energy_distance(np.zeros((3, 2)), np.ones((4, 2))).normalised == 1
    assert energy_distance(x, x).statistic == 0
    assert np.isnan(energy_distance(np.ones((3, 2)), np.ones((4, 2))).normalised)


def test_group_distances_symmetric_and_named(rng):
    x = np.concatenate([rng.normal(k, 1, (10, 2)) for k in range(3)])
    levels, matrix = group_distances(
        x, np.repeat(["a", "b", "c"], 10), distance=lambda a, b: energy_distance(a, b).statistic
    )
    assert levels == ["a", "b", "c"]
    assert_allclose(matrix, matrix.T)
    assert_allclose(matrix[0, 2], energy_distance(x[:10], x[20:]).statistic)
    assert matrix[0, 2] > matrix[0, 1] > 0 == matrix[1, 1]


def test_standardise_uses_the_reference_only(rng):
    reference = np.column_stack([rng.normal(3, 2, 20), np.full(20, 0.1), rng.normal(size=20)])
    z = standardise(reference, reference=reference)
    assert z.shape == (20, 2)
    assert_allclose(z.mean(0), 0, atol=1e-12)
    assert_allclose(z.std(0, ddof=1), 1)
    assert_allclose(
        standardise(reference + 1, reference=reference) - z,
        1 / np.std(reference[:, [0, 2]], axis=0, ddof=1) * np.ones((20, 1)),
    )


@pytest.mark.parametrize("function", [feature_divergence, frechet, energy_distance])
def test_bad_input(function, groups):
    x, y = groups
    with pytest.raises(StatsnormError, match="same number of columns, got 5 and 3"):
        function(x, y[:, :3])
    with pytest.raises(StatsnormError, match="x must be finite, got 1 nan"):
        function(np.where(x == x[0, 0], np.nan, x), y)
    with pytest.raises(StatsnormError, match="at least 2 rows, got 1"):
        function(x[:1], y)
    with pytest.raises(StatsnormError, match="real numbers"):
        function(x.astype(str), y)


def test_bad_bandwidth(groups):
    for width in (0.0, -1.0, np.nan):
        with pytest.raises(StatsnormError, match="bandwidth must be positive"):
            mmd(*groups, bandwidth=width)
