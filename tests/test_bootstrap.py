import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from statsnorm.errors import StatsnormError
from statsnorm.stats.bootstrap import (
    pigeonhole_bootstrap,
    pigeonhole_removed,
    pigeonhole_weights,
)
from statsnorm.stats.components import crossed_components
from statsnorm.stats.removed import removed_fraction
from statsnorm.stats.ustatistic import ustatistic_components, weighted_component


def design(rng, images=14, styles=12, channels=6):
    image, style = (
        rng.normal(size=(images, 1, 1, channels)),
        rng.normal(size=(1, styles, 1, channels)),
    )
    noise = 0.3 * rng.normal(size=(2, images, styles, 2, channels))
    return image + style + noise[0], 0.9 * image + 0.5 * style + noise[1]


def test_weights_are_independent_multinomials():
    w, u = pigeonhole_weights(6, 4, 4000, rng=np.random.default_rng(1))
    assert (w.sum(axis=1) == 6).all()
    assert (u.sum(axis=1) == 4).all()
    assert_allclose(w.mean(axis=0), 1, atol=0.06)
    assert_allclose(w.var(axis=0), 1 - 1 / 6, atol=0.08)
    assert abs(np.corrcoef(w[:, 0], u[:, 0])[0, 1]) < 0.06


def test_many_weights_agree_with_one_at_a_time():
    y, _ = design(np.random.default_rng(2))
    w, u = pigeonhole_weights(14, 12, 5, rng=np.random.default_rng(3))
    for factor in ("style", "content", "contrast", "style_given_content"):
        together = weighted_component(y, factor, w, u)
        alone = [
            getattr(ustatistic_components(y, image_weights=a, style_weights=b), factor)
            for a, b in zip(w, u, strict=True)
        ]
        assert_allclose(together, alone, atol=1e-12)


def test_weighted_components_are_unbiased_where_naive_ones_are_not():
    # mean squares of a resample pair duplicated styles with themselves: V_S falls by 1/S
    rng = np.random.default_rng(4)
    y = rng.normal(size=(1, 10, 1, 2000)) + 0.1 * rng.normal(size=(10, 10, 1, 2000))
    truth = crossed_components(y).style.mean()
    w, u = pigeonhole_weights(10, 10, 200, rng=rng)
    right = weighted_component(y, "style", w, u).mean(axis=1)
    assert abs(right.mean() - truth) < 4 * right.std() / np.sqrt(200)
    naive = []
    for a, b in zip(w.astype(int), u.astype(int), strict=True):
        resample = y[np.repeat(np.arange(10), a)][:, np.repeat(np.arange(10), b)]
        naive.append(crossed_components(resample).style.mean())
    assert_allclose(np.mean(naive), 0.9 * truth, rtol=0.02)


def test_too_few_distinct_levels_are_nan():
    y, _ = design(np.random.default_rng(5))
    w = np.zeros((1, 14))
    w[0, 3] = 14
    assert np.isnan(weighted_component(y, "style", w, np.ones((1, 12)))).all()


def test_bootstrap_of_a_mean_against_theory():
    # two-way additive table: var of the pigeonhole mean is known up to the interaction
    x = np.add.outer(
        np.random.default_rng(6).normal(size=20), np.random.default_rng(7).normal(size=15)
    )
    found = pigeonhole_bootstrap(
        lambda w, u: w @ x @ u / (w.sum() * u.sum()), 20, 15,
        rng=np.random.default_rng(8), replicates=4000,
    )  # fmt: skip
    expected = x.mean(axis=1).var() / 20 + x.mean(axis=0).var() / 15
    assert_allclose(found.se, np.sqrt(expected), rtol=0.05)
    half = stats.t.ppf(0.975, 14) * found.se
    assert_allclose([found.low, found.high], [x.mean() - half, x.mean() + half])


def test_removed_trace_is_close_to_the_jackknife():
    before, after = design(np.random.default_rng(9), images=24, styles=20)
    jack = removed_fraction(before, after)
    boot = pigeonhole_removed(
        before, after, aggregate="trace", rng=np.random.default_rng(10), replicates=400
    )
    assert_allclose(boot.estimate, jack.estimate)
    assert_allclose(boot.se, (1 - jack.estimate) * jack.se, rtol=0.35)


def test_median_over_channels():
    before, after = design(np.random.default_rng(11))
    before[0, 0, 0, 2] = np.nan  # a lost channel
    found = pigeonhole_removed(before, after, rng=np.random.default_rng(12), replicates=100)
    keep = [0, 1, 3, 4, 5]
    parts = [crossed_components(y[..., keep]).style for y in (before, after)]
    assert_allclose(found.estimate, 1 - np.median(parts[1]) / np.median(parts[0]))
    assert found.low < found.estimate < found.high
    again = pigeonhole_removed(before, after, rng=np.random.default_rng(12), replicates=100)
    assert again == found


def test_bad_input_is_refused():
    before, after = design(np.random.default_rng(13))
    rng = np.random.default_rng(14)
    with pytest.raises(StatsnormError, match="only 0 of 100"):
        pigeonhole_bootstrap(lambda w, u: np.nan, 5, 5, rng=rng, replicates=100)
    with pytest.raises(StatsnormError, match="rng must be"):
        pigeonhole_removed(before, after, rng=1)
    with pytest.raises(StatsnormError, match="aggregate must be one of"):
        pigeonhole_removed(before, after, rng=rng, aggregate="mode")
    after[2, 3] = np.nan
    with pytest.raises(StatsnormError, match="2 of 336 cells are missing"):
        pigeonhole_removed(before, after, rng=rng)
