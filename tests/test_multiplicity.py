import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from statsnorm.errors import StatsnormError
from statsnorm.stats.multiplicity import (
    benjamini_hochberg,
    benjamini_yekutieli,
    holm,
    intersection_union,
)

P = np.array(
    [.001, .008, .039, .041, .042, .06, .074, .205, .212, .216, .222, .251, .269, .275, .34,
     .341, .384, .569, .594, .696, .762, .94, .942, .975, .986]
)  # fmt: skip


def test_against_r_p_adjust():
    # R: p.adjust(p, "holm")[1:5]; p.adjust(p, "BH")[1:8]
    assert_allclose(holm(P)[:5], [0.025, 0.192, 0.897, 0.902, 0.902])
    expected = [0.025, 0.1, 0.21, 0.21, 0.21, 0.25, 0.2642857, 0.4910714]
    assert_allclose(benjamini_hochberg(P)[:8], expected, rtol=1e-6)


def test_against_scipy():
    p = np.random.default_rng(1).random(40) ** 2
    assert_allclose(benjamini_hochberg(p), stats.false_discovery_control(p, method="bh"))
    assert_allclose(benjamini_yekutieli(p), stats.false_discovery_control(p, method="by"))


def test_holm_against_closed_testing():
    # Holm is the shortcut of the closed test with Bonferroni for every intersection
    from itertools import combinations

    p = np.random.default_rng(2).random(6) ** 3
    for i in range(6):
        others = [j for j in range(6) if j != i]
        sets = [(i, *c) for r in range(6) for c in combinations(others, r)]
        closed = max(min(1, len(s) * min(p[list(s)])) for s in sets)
        assert_allclose(holm(p)[i], closed)


def test_nan_is_not_a_member_of_the_family():
    p = np.array([0.01, np.nan, 0.04])
    assert_allclose(holm(p), [0.02, np.nan, 0.04])
    assert_allclose(benjamini_hochberg(p), [0.02, np.nan, 0.04])
    assert holm([]).shape == (0,)
    assert benjamini_yekutieli(np.full((2, 3), 0.5)).shape == (2, 3)


def test_order_and_ties_do_not_matter():
    rng = np.random.default_rng(3)
    p = np.round(rng.random(30), 1)
    order = rng.permutation(30)
    for adjust in (holm, benjamini_hochberg, benjamini_yekutieli):
        assert_allclose(adjust(p[order]), adjust(p)[order])
        assert (adjust(p) >= p).all()


def test_intersection_union_is_the_largest():
    assert intersection_union([0.01, 0.2, 0.03]) == 0.2
    assert np.isnan(intersection_union([0.01, np.nan]))
    with pytest.raises(StatsnormError, match="empty"):
        intersection_union([])


@pytest.mark.parametrize("bad", [[-0.1, 0.5], [0.2, 1.5]])
def test_values_outside_0_1_are_refused(bad):
    for adjust in (holm, benjamini_hochberg, benjamini_yekutieli, intersection_union):
        with pytest.raises(StatsnormError, match=r"\[0, 1\], got"):
            adjust(bad)


def test_holm_holds_the_family_wise_error():
    rng = np.random.default_rng(4)
    p = rng.random((4000, 4))
    wrong = np.array([holm(row).min() < 0.05 for row in p])
    assert wrong.mean() < 0.05 + 2 * np.sqrt(0.05 * 0.95 / 4000)
