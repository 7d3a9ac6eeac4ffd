import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from statsnorm.errors import StatsnormError
from statsnorm.stats.oneway import nested, one_way

# R lme4::Dyestuff, yield by batch A-F
DYESTUFF = np.array(
    [
        [1545, 1440, 1440, 1520, 1580],
        [1540, 1555, 1490, 1560, 1495],
        [1595, 1550, 1605, 1510, 1560],
        [1445, 1440, 1595, 1465, 1545],
        [1595, 1630, 1515, 1635, 1625],
        [1520, 1455, 1450, 1480, 1445],
    ],
    dtype=float,
)
# R lme4::Pastes, strength: 10 batches x 3 casks x 2
PASTES = np.array(
    [
        [62.8, 62.6, 60.1, 62.3, 62.7, 63.1],
        [60.0, 61.4, 57.5, 56.9, 61.1, 58.9],
        [58.7, 57.5, 63.9, 63.1, 65.4, 63.7],
        [57.1, 56.4, 56.9, 58.6, 64.7, 64.5],
        [55.1, 55.1, 54.7, 54.2, 58.8, 57.5],
        [63.4, 64.9, 59.3, 58.1, 60.5, 60.0],
        [62.5, 62.6, 61.0, 58.7, 56.9, 57.7],
        [59.2, 59.4, 65.2, 66.0, 64.8, 64.1],
        [54.8, 54.8, 64.0, 64.0, 57.7, 56.8],
        [58.3, 59.3, 59.2, 59.2, 58.9, 56.6],
    ]
)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_dyestuff_against_lme4():
    # lmer(Yield ~ 1 + (1 | Batch), Dyestuff): Batch 1764.05, residual 2451.25 (balanced: REML)
    r = one_way(DYESTUFF.ravel(), np.repeat(list("ABCDEF"), 5))
    assert_allclose((r.between[0], r.within[0]), (1764.05, 2451.25), rtol=1e-8)
    assert_allclose(r.icc[0], 0.41849, atol=5e-6)
    assert_allclose((r.low[0], r.high[0]), (0.08384, 0.84788), atol=5e-6)
    f = stats.f_oneway(*DYESTUFF)
    assert_allclose((r.statistic[0], r.pvalue[0]), (f.statistic, f.pvalue))
    assert r.n0 == 5


def test_balanced_interval_is_the_closed_f_interval():
    r = one_way(DYESTUFF.ravel(), np.repeat(np.arange(6), 5), confidence=0.9)
    ratio = [(r.statistic[0] / stats.f.ppf(q, 5, 24) - 1) / 5 for q in (0.95, 0.05)]
    assert_allclose((r.low[0], r.high[0]), [v / (1 + v) for v in ratio], rtol=1e-12)


def test_jackknife_interval_against_leaving_out_groups_by_hand(rng):
    sizes = (2, 3, 9, 3, 1, 4)
    groups = np.repeat(np.arange(6), sizes)
    y = 3 + rng.normal(size=(22, 2)) + 2 * rng.normal(size=(6, 2))[groups]
    r = one_way(y, groups, interval="jackknife", confidence=0.9)
    full = one_way(y, groups)
    assert_allclose(r.icc, full.icc)

    def log(v):
        return np.log(1 + full.n0 * v.between / v.within)

    without = np.array([log(one_way(y[groups != j], groups[groups != j])) for j in range(6)])
    se = np.sqrt(5 * without.var(axis=0))
    excess = stats.kurtosis(without, bias=False).clip(min=0)
    half = stats.t.ppf(0.95, 2 / (2 / 5 + excess / 6)) * se
    for bound, side in ((r.low, -1), (r.high, 1)):
        ratio = (np.exp(log(full) + side * half) - 1) / full.n0
        assert_allclose(bound, ratio / (1 + ratio))
    moved = one_way(5 - 3 * y, groups, interval="jackknife", confidence=0.9)
    assert_allclose(moved.low, r.low)


def test_jackknife_interval_covers_heavy_tails_where_the_exact_one_does_not(rng):
    groups = np.repeat(np.arange(9), (2, 3, 9, 3, 4, 4, 12, 5, 6))
    y = rng.standard_t(5, (9, 3000))[groups] + 1.5 * rng.standard_t(5, (len(groups), 3000))
    covered = {}
    for how in ("exact", "jackknife"):
        r = one_way(y, groups, interval=how)
        covered[how] = ((r.low <= 1 / 3.25) & (r.high >= 1 / 3.25)).mean()
    assert covered["exact"] < 0.92
    assert 0.93 < covered["jackknife"] < 0.97


def test_pastes_against_lme4():
    # lmer(strength ~ 1 + (1 | batch) + (1 | batch:cask), Pastes)
    #  Groups     Name        Variance
    #  batch:cask (Intercept) 8.434     batch (Intercept) 1.657     Residual 0.678
    batch, cask = np.indices((10, 3, 2))[:2].reshape(2, -1)
    r = nested(PASTES.ravel(), batch, cask)
    assert_allclose((r.between[0], r.nested[0], r.within[0]), (1.657, 8.434, 0.678), atol=5e-4)
    assert (r.n, r.n_groups, r.n_subgroups) == (60, 10, 30)
    again = nested(PASTES.ravel(), batch, batch * 3 + cask)  # labels unique over batches
    assert_allclose(again.nested, r.nested)


def test_nested_residual_is_the_one_way_residual_of_the_cells(rng):
    y, outer, inner = unbalanced(rng, 3)
    assert_allclose(nested(y, outer, inner).within, one_way(y, outer * 3 + inner).within)


def unbalanced(rng, channels):
    outer = np.repeat(np.arange(5), [4, 7, 3, 9, 6])
    inner = np.array(
        [0, 0, 1, 1] + [0, 1, 1, 1, 2, 2, 2] + [0, 1, 1] + [0] * 5 + [1] * 4 + [0, 0, 1, 2, 2, 2]
    )
    cell = outer * 3 + inner
    y = rng.normal(0, 1.5, (5, channels))[outer] + rng.normal(0, 0.8, (15, channels))[cell]
    return y + rng.normal(0, 0.6, (29, channels)), outer, inner


def test_unbalanced_estimates_are_unbiased(rng):
    y, outer, inner = unbalanced(rng, 20_000)
    r = nested(y, outer, inner)
    for values, truth in ((r.between, 2.25), (r.nested, 0.64), (r.within, 0.36)):
        assert abs(values.mean() - truth) < 4 * values.std() / np.sqrt(20_000)


def test_expectations_are_exact_quadratic_forms(rng):
    # an estimator y'Qy has expectation tr(Q V): the sum over the columns of a root of V
    _, outer, inner = unbalanced(rng, 1)
    cell = outer * 3 + inner
    group_root, cell_root = ((c[:, None] == np.unique(c)).astype(float) for c in (outer, cell))
    for root, truth in ((group_root, (1, 0, 0)), (cell_root, (0, 1, 0)), (np.eye(29), (0, 0, 1))):
        r = nested(root, outer, inner)
        sums = [v.sum() for v in (r.between, r.nested, r.within)]
        assert_allclose(sums, truth, atol=1e-12)
    for root, truth in ((group_root, (1, 0)), (np.eye(29), (0, 1))):
        r = one_way(root, outer)
        assert_allclose([r.between.sum(), r.within.sum()], truth, atol=1e-12)


def test_unbalanced_one_way_is_unbiased_and_its_interval_exact(rng):
    groups = np.repeat(np.arange(7), [1, 2, 9, 3, 4, 4, 12])
    y = rng.normal(size=(7, 20_000))[groups] + rng.normal(0, 1.5, (35, 20_000))
    r = one_way(y, groups)
    assert abs(r.between.mean() - 1) < 4 * r.between.std() / np.sqrt(20_000)
    icc = 1 / 3.25
    covered = ((r.low <= icc) & (icc <= r.high)).mean()
    assert abs(covered - 0.95) < 4 * np.sqrt(0.05 * 0.95 / 20_000)
    assert (r.between < 0).any()


def test_scale_shift_and_order(rng):
    y, groups = rng.normal(size=(20, 4)), np.arange(20) % 6
    order = rng.permutation(20)
    a, b = one_way(y, groups), one_way(3 * y[order] - 8, groups[order])
    assert_allclose(b.between, 9 * a.between)
    assert_allclose((b.icc, b.low, b.high), (a.icc, a.low, a.high))


def test_constant_channel_is_nan_alone(rng):
    y = np.column_stack([rng.normal(size=12), np.full(12, 0.1)])
    groups = np.repeat([0, 1, 2], 4)
    r = one_way(y, groups)
    assert np.isfinite(r.icc[0])
    for values in (r.between, r.within, r.icc, r.low, r.high, r.statistic, r.pvalue):
        assert np.isnan(values[1])
    n = nested(y, groups, np.tile([0, 0, 1, 1], 3))
    assert np.isfinite(n.between[0])
    assert np.isnan([n.between[1], n.nested[1], n.within[1]]).all()


def test_groups_without_spread_inside():
    r = one_way([0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2])
    assert (r.icc[0], r.low[0], r.high[0], r.pvalue[0]) == (1, 1, 1, 0)


def test_bad_input(rng):
    y = rng.normal(size=8)
    with pytest.raises(StatsnormError, match="every one of the 8 groups has one row"):
        one_way(y, np.arange(8))
    with pytest.raises(StatsnormError, match="at least 2 levels, got 1"):
        one_way(y, np.zeros(8))
    with pytest.raises(StatsnormError, match="use one_way"):
        nested(y, np.repeat([0, 1], 4), np.zeros(8))
    with pytest.raises(StatsnormError, match="every subgroup has one row"):
        nested(y, np.repeat([0, 1], 4), np.arange(8))
    with pytest.raises(StatsnormError, match="one label a row"):
        one_way(y, [0, 1])
    with pytest.raises(StatsnormError, match="over groups needs at least 3, got 2"):
        one_way(y, np.repeat([0, 1], 4), interval="jackknife")
    with pytest.raises(StatsnormError, match="exact, jackknife; got 'wald'"):
        one_way(y, np.repeat([0, 1], 4), interval="wald")
