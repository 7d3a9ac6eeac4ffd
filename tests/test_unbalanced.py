"""Unbalanced domain x class designs: mean squares, exact expectations, every replicate anew."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from test_components import MACHINES, PENICILLIN

from statsnorm.errors import StatsnormError
from statsnorm.stats.oneway import one_way, one_way_replicates
from statsnorm.stats.replicated import replicated_components
from statsnorm.stats.unbalanced import unbalanced_components, unbalanced_replicates

NAMES = ("content", "style", "content_style", "residual")


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def labels(counts):
    """Contents and styles of the images of a table of counts (A, B)."""
    i, s = np.indices(np.shape(counts))
    return np.repeat(i.ravel(), np.ravel(counts)), np.repeat(s.ravel(), np.ravel(counts))


COUNTS = np.array([[2, 5, 3, 0], [4, 2, 2, 6], [0, 3, 7, 2], [3, 0, 2, 2], [2, 2, 4, 0]])


def test_machines_against_expected_mean_squares():
    # R: anova(lm(score ~ Worker * Machine, nlme::Machines)); all random, expected mean squares:
    # Worker 22.858444, Machine 46.387704, W:M 13.909457, residual .9246296
    contents, styles = labels(np.full((6, 3), 3))
    r = unbalanced_components(MACHINES.reshape(-1), contents, styles)
    found = [getattr(r, name)[0] for name in NAMES]
    assert_allclose(found, [22.858444, 46.387704, 13.909457, 0.9246296], rtol=1e-7)
    oracle = replicated_components(MACHINES[..., None], style="random")
    assert_allclose(found, [getattr(oracle, name)[0] for name in NAMES], rtol=1e-10)
    assert (r.n, r.n_contents, r.n_styles, r.n_cells) == (54, 6, 3, 18)


def test_penicillin_doubled_has_the_components_of_the_crossed_design():
    # lme4::Penicillin, crossed (1|plate) + (1|sample): .7169082126, 3.7309178744, resid
    # .3024154589; each value twice, so that the residual of the cells is 0 and the old one is
    # the interaction
    contents, styles = labels(np.full(PENICILLIN.shape, 2))
    r = unbalanced_components(np.repeat(PENICILLIN.ravel(), 2), contents, styles)
    found = [getattr(r, name)[0] for name in NAMES]
    assert_allclose(found, [0.7169082126, 3.7309178744, 0.3024154589, 0], atol=1e-9)


def test_expectations_are_exact_quadratic_forms():
    # an estimator y'Qy has expectation tr(Q V): the sum over the columns of a root of V
    contents, styles = labels(COUNTS)
    cell = contents * 4 + styles
    roots = [(c[:, None] == np.unique(c)).astype(float) for c in (contents, styles, cell)]
    for root, truth in zip([*roots, np.eye(len(cell))], np.eye(4), strict=True):
        r = unbalanced_components(root, contents, styles)
        assert_allclose([getattr(r, name).sum() for name in NAMES], truth, atol=1e-10)


def test_unbalanced_estimates_recover_planted_variances(rng):
    contents, styles = labels(COUNTS)
    channels = 20_000
    parts = [rng.normal(size=(k, channels)) for k in (5, 4, 20)]
    y = 1.2 * parts[0][contents] + 0.7 * parts[1][styles] + 0.5 * parts[2][contents * 4 + styles]
    y += 0.9 * rng.normal(size=y.shape)
    r = unbalanced_components(y, contents, styles)
    for name, truth in zip(NAMES, (1.44, 0.49, 0.25, 0.81), strict=True):
        values = getattr(r, name)
        assert abs(values.mean() - truth) < 4 * values.std() / np.sqrt(channels), name
    assert (r.style < 0).any()


def planted(rng, channels=5):
    contents, styles = labels(COUNTS)
    y = rng.normal(size=(5, channels))[contents] + rng.normal(size=(4, channels))[styles]
    return y + rng.normal(size=(len(contents), channels)), contents, styles


def test_every_replicate_against_recomputation(rng):
    y, contents, styles = planted(rng)
    mixed = rng.permutation(len(y))
    r = unbalanced_replicates(y[mixed], contents[mixed], styles[mixed])
    assert r.units == (5, 4)
    assert r.sizes == tuple(COUNTS[COUNTS > 0])

    def traces(keep):
        found = unbalanced_components(y[keep], contents[keep], styles[keep])
        return [getattr(found, name).mean() for name in NAMES]

    every = np.ones(len(y), bool)
    left = [every] + [contents != i for i in range(5)] + [styles != s for s in range(4)]
    assert_allclose(np.transpose([r.levels[n] for n in NAMES]), [traces(k) for k in left])
    cells = contents * 4 + styles
    by_image = [every] + [every & (np.arange(len(y)) != i) for i in range(len(y))]
    assert (np.diff(cells) >= 0).all()
    found = np.transpose([r.images[n] for n in NAMES])
    oracle = np.array([traces(k) for k in by_image])
    for k in np.unique(cells):  # order within a cell is that of the rows
        at = 1 + np.flatnonzero(cells == k)
        assert_allclose(np.sort(found[at], axis=0), np.sort(oracle[at], axis=0))
    assert_allclose(found[0], oracle[0])


def test_two_domains_have_no_replicates_of_levels(rng):
    y, contents, styles = planted(rng)
    two = (contents < 2) & (styles < 2)
    r = unbalanced_replicates(y[two], contents[two], styles[two])
    assert np.isfinite(r.levels["style"][0])
    assert np.isnan(r.levels["style"][1:]).all()
    assert np.isfinite(r.images["style"]).all()


def test_one_way_replicates_against_recomputation(rng):
    sizes = [2, 5, 3, 9]
    groups = np.repeat(np.arange(4), sizes)
    y = 5 + rng.normal(size=(4, 6))[groups] + rng.normal(size=(19, 6))
    r = one_way_replicates(y, groups)
    assert (r.units, r.sizes) == ((4,), tuple(sizes))

    def traces(keep):
        found = one_way(y[keep], groups[keep])
        return [found.between.mean(), found.within.mean()]

    every = np.ones(19, bool)
    left = [every, *(groups != g for g in range(4))]
    assert_allclose(np.transpose([r.levels["between"], r.levels["within"]]), [*map(traces, left)])
    left = [every, *(np.arange(19) != i for i in range(19))]
    assert_allclose(np.transpose([r.images["between"], r.images["within"]]), [*map(traces, left)])
    two = one_way_replicates(y[:7], groups[:7])
    assert np.isnan(two.levels["between"][1:]).all()
    assert np.isfinite(two.images["between"]).all()


def test_constant_channel_is_nan_alone(rng):
    y, contents, styles = planted(rng, 2)
    y[:, 1] = 0.1
    r = unbalanced_components(y, contents, styles)
    assert np.isfinite([getattr(r, name)[0] for name in NAMES]).all()
    assert np.isnan([getattr(r, name)[1] for name in NAMES]).all()


def test_scale_shift_and_order(rng):
    y, contents, styles = planted(rng)
    order = rng.permutation(len(y))
    a = unbalanced_components(y, contents, styles)
    b = unbalanced_components(3 * y[order] - 1e4, contents[order], styles[order])
    for name in NAMES:
        assert_allclose(getattr(b, name), 9 * getattr(a, name), rtol=1e-7, atol=1e-9)


def test_bad_input(rng):
    y = rng.normal(size=12)
    with pytest.raises(StatsnormError, match="confounded: no two contents"):
        unbalanced_components(y, np.repeat([0, 1, 2], 4), np.repeat([0, 1, 2], 4))
    with pytest.raises(StatsnormError, match="every one of the 12 cells has one image"):
        unbalanced_components(y, np.repeat([0, 1, 2], 4), np.tile(np.arange(4), 3))
    with pytest.raises(StatsnormError, match="at least 2 levels, got 1"):
        unbalanced_components(y, np.repeat([0, 1], 6), np.zeros(12))
    contents, styles = labels([[2, 2], [2, 1], [3, 2]])
    with pytest.raises(StatsnormError, match="1 of 6 cells have one image"):
        unbalanced_replicates(y[:, None], contents, styles)
    with pytest.raises(StatsnormError, match="1 of 3 groups have one row"):
        one_way_replicates(y[:5, None], [0, 0, 1, 2, 2])
