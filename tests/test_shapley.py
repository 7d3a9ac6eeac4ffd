import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose

from statsnorm.errors import StatsnormError
from statsnorm.stats.shapley import (
    ChannelStatistics,
    channel_statistics,
    gram,
    gram_split,
    shapley_values,
)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def by_orders(worth, players):
    shares = np.zeros(players)
    orders = list(itertools.permutations(range(players)))
    for order in orders:
        coalition = 0
        for player in order:
            shares[player] += worth[coalition | 1 << player] - worth[coalition]
            coalition |= 1 << player
    return shares / len(orders)


@pytest.mark.parametrize("players", [1, 2, 3, 5])
def test_shapley_against_all_orders(rng, players):
    worth = rng.normal(size=1 << players)
    shares = shapley_values(worth)
    assert_allclose(shares, by_orders(worth, players))
    assert_allclose(shares.sum(), worth[-1] - worth[0])


def test_shapley_axioms(rng):
    worth = rng.normal(size=(8, 4))
    other = rng.normal(size=(8, 4))
    assert_allclose(shapley_values(worth + other), shapley_values(worth) + shapley_values(other))
    dummy = np.concatenate([worth[:4], worth[:4] + 2])  # player 2 always adds 2
    assert_allclose(shapley_values(dummy)[2], 2)


def test_gram_identity(rng):
    x = rng.gamma(2, size=(3, 6, 50))
    statistics = channel_statistics(x)
    assert_allclose(gram(statistics), x @ x.transpose(0, 2, 1) / 50)
    assert_allclose(statistics.correlation[1], np.corrcoef(x[1]))
    assert statistics.mean.dtype == np.float64
    assert channel_statistics(x.astype(np.float32)).sd.dtype == np.float64


def test_parts_sum_to_the_distance(rng):
    x, y = (channel_statistics(rng.gamma(a, size=(4, 5, 30))) for a in (2.0, 3.0))
    split = gram_split(x, y)
    assert_allclose(split.total, ((gram(x) - gram(y)) ** 2).sum((1, 2)))
    assert_allclose(split.means + split.variances + split.correlations, split.total, rtol=1e-12)
    mirror = gram_split(y, x)
    for part in ("total", "means", "variances", "correlations"):
        assert_allclose(getattr(mirror, part), getattr(split, part))


def test_parts_against_explicit_orders(rng):
    x, y = (channel_statistics(rng.gamma(a, size=(5, 30))) for a in (2.0, 3.0))

    def worth(a, b):
        parts = ((a.mean, b.mean), (a.sd, b.sd), (a.correlation, b.correlation))
        return [
            (
                (gram(ChannelStatistics(*(p[k >> j & 1] for j, p in enumerate(parts)))) - gram(a))
                ** 2
            ).sum()
            for k in range(8)
        ]

    expected = (by_orders(worth(x, y), 3) + by_orders(worth(y, x), 3)) / 2
    split = gram_split(x, y)
    assert_allclose((split.means, split.variances, split.correlations), expected)


def test_only_what_differs_counts(rng):
    x = channel_statistics(rng.normal(size=(5, 40)))
    only_sd = ChannelStatistics(x.mean, 2 * x.sd, x.correlation)
    split = gram_split(x, only_sd)
    assert_allclose(split.variances, split.total)
    assert_allclose((split.means, split.correlations), 0, atol=1e-12)
    assert gram_split(x, x).total == 0


def test_a_part_can_be_negative():
    identity = np.eye(2)
    x = ChannelStatistics(np.array([1.0, 0.0]), np.array([1.0, 1.0]), identity)
    y = ChannelStatistics(np.array([2.0, 0.0]), np.array([0.1, 1.0]), identity)
    split = gram_split(x, y)  # a larger mean makes up for a smaller variance
    assert split.variances < 0 < split.means
    assert_allclose(split.means + split.variances, split.total)


def test_constant_channel_has_no_correlation():
    x = np.stack([np.full(20, 0.1), np.arange(20.0)])
    statistics = channel_statistics(x)
    assert statistics.sd[0] == 0
    assert_allclose(statistics.correlation, np.eye(2), atol=1e-12)
    assert_allclose(gram(statistics), x @ x.T / 20)


def test_bad_input(rng):
    with pytest.raises(StatsnormError, match=r"2\^P coalitions"):
        shapley_values(np.ones(6))
    with pytest.raises(StatsnormError, match="P >= 2"):
        channel_statistics(np.ones((3, 1)))
    with pytest.raises(StatsnormError, match="finite, got 1 nan"):
        channel_statistics([[1.0, np.nan], [1.0, 2.0]])
    a, b = (channel_statistics(rng.normal(size=(c, 9))) for c in (2, 3))
    with pytest.raises(StatsnormError, match=r"mean must have equal shapes, got \(2,\) and \(3,\)"):
        gram_split(a, b)


def test_a_draw_of_channels_estimates_the_split_of_all_without_bias(rng):
    x, y = (channel_statistics(rng.gamma(a, size=(7, 40))) for a in (2.0, 3.0))
    whole = gram_split(x, y)
    drawn = []
    for kept in itertools.combinations(range(7), 3):  # every draw, equally often
        at = list(kept)
        sides = [
            ChannelStatistics(z.mean[at], z.sd[at], z.correlation[np.ix_(at, at)]) for z in (x, y)
        ]
        split = gram_split(*sides, diagonal=2 / 6)
        drawn.append([split.total, split.means, split.variances, split.correlations])
    estimate = 7 * 6 / (3 * 2) * np.mean(drawn, axis=0)
    assert_allclose(
        estimate, [whole.total, whole.means, whole.variances, whole.correlations], rtol=1e-10
    )
    with pytest.raises(StatsnormError, match="diagonal must be positive"):
        gram_split(x, y, diagonal=0.0)
