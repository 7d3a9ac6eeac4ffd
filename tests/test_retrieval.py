"""Same-image retrieval: brute force, chance, ties, and where it stands in a report."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from statsnorm.errors import StatsnormError
from statsnorm.removal import retrieval
from statsnorm.stats.effects import clopper_pearson


@pytest.fixture
def rng():
    return np.random.default_rng(4)


def test_against_brute_force(rng):
    gallery = rng.normal(size=(30, 6)) * np.arange(1, 7) + 100
    query = gallery + rng.normal(size=(30, 6)) * np.arange(1, 7)
    sd = gallery.std(axis=0)
    nearest = [np.argmin([np.linalg.norm((q - g) / sd) for g in gallery]) for q in query]
    found = retrieval.own_nearest(query, gallery)
    assert found.tolist() == [n == i for i, n in enumerate(nearest)]
    assert 0 < found.mean() < 1


def test_itself_unrelated_and_identical_images(rng):
    x = rng.normal(size=(40, 5))
    assert retrieval.own_nearest(x, x).all()
    rates = [
        retrieval.own_nearest(rng.normal(size=(40, 5)), rng.normal(size=(40, 5))).mean()
        for _ in range(200)
    ]
    assert abs(np.mean(rates) - 1 / 40) < 4 * np.std(rates) / np.sqrt(200)
    twins = x.copy()
    twins[1] = twins[0]
    assert retrieval.own_nearest(twins, twins).tolist() == [False, False] + [True] * 38


def test_scale_and_shift_of_a_column_do_not_matter(rng):
    gallery = rng.normal(size=(20, 4))
    query = gallery + 0.7 * rng.normal(size=(20, 4))
    a, b = np.array([1e3, 1e-3, 5, 1]), np.array([7.0, 0, -1e3, 2])
    expected = retrieval.own_nearest(query, gallery)
    assert (retrieval.own_nearest(query * a + b, gallery * a + b) == expected).all()
    flat = np.column_stack([gallery, np.full(20, 0.1)])  # constant in the gallery: left out
    assert (retrieval.own_nearest(np.column_stack([query, query[:, 0]]), flat) == expected).all()


def test_interval_against_taking_every_image_away_by_hand(rng):
    galleries = [rng.normal(size=(12, 3)) for _ in range(3)]
    queries = [g + 0.6 * rng.normal(size=g.shape) for g in galleries]
    distances = [
        np.array([[np.linalg.norm((a - b) / g.std(axis=0)) for b in g] for a in q])
        for q, g in zip(queries, galleries, strict=True)
    ]

    def hits(keep):
        return np.mean([d[np.ix_(keep, keep)].argmin(axis=1) == np.arange(len(keep))
                        for d in distances])  # fmt: skip

    everyone = np.arange(12)
    without = np.array([hits(np.delete(everyone, i)) for i in everyone])
    pairs = zip(queries, galleries, strict=True)
    found = retrieval.share([retrieval.rivals(q, g) for q, g in pairs])
    p = hits(everyone)
    se = np.sqrt(11 / 12 * ((without - without.mean()) ** 2).sum())
    shrink = (stats.t.ppf(0.975, 35) / stats.t.ppf(0.975, 11)) ** 2
    effective = min(p * (1 - p) / se**2, 36) * shrink
    low = stats.beta.ppf(0.025, p * effective, (1 - p) * effective + 1)
    high = stats.beta.ppf(0.975, p * effective + 1, (1 - p) * effective)
    assert_allclose(found["estimate"], p)
    assert_allclose([found["both_low"], found["both_high"]], [low, high])
    assert found["method"] == "by image"
    assert (found["images"], found["queries"], found["chance"]) == (12, 36, 1 / 12)


def test_all_or_none_found_is_exact_at_the_number_of_images(rng):
    x = rng.normal(size=(20, 4))
    every = retrieval.share([retrieval.rivals(x, x)] * 5)
    oracle = clopper_pearson(20, 20)
    assert_allclose((every["estimate"], every["both_low"], every["both_high"]), (1, oracle.low, 1))
    assert_allclose((every["low"], every["high"]), (oracle.low, 1))


def test_interval_covers_over_draws_of_all_images():
    """Queries share a gallery: images, not queries, are drawn again."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(600):
        image = rng.normal(size=(24, 3))
        query = image + 0.45 * rng.normal(size=(24, 3))
        found.append(retrieval.share(retrieval.rivals(query, image)))
    truth = np.mean([f["estimate"] for f in found])
    covered = {
        name: np.mean([f[f"{name}low"] <= truth <= f[f"{name}high"] for f in found])
        for name in ("", "both_")
    }
    assert 0.2 < truth < 0.8
    assert 0.94 < covered[""] < 0.99  # exact intervals are a little wide
    assert covered["both_"] > 0.98


def test_styles_hide_images_where_they_move_them_apart(rng):
    content, style = rng.normal(size=(24, 1, 1, 8)), rng.normal(size=(1, 5, 1, 8))
    both = 0.8 * rng.normal(size=(24, 5, 1, 8))
    before, after = content + 4 * style + both, content + 0.1 * both
    frozen, work = retrieval.across_styles(before), retrieval.across_styles(after)
    assert work["estimate"] == 1 > frozen["high"]
    assert frozen["queries"] == 24 * 5 * 4
    pairs = [(s, t) for s in range(5) for t in range(5) if s != t]
    by_hand = [retrieval.own_nearest(before[:, s, 0], before[:, t, 0]).mean() for s, t in pairs]
    assert_allclose(frozen["estimate"], np.mean(by_hand))
    across = retrieval.across_treatments(before, before + 0.01 * after)
    assert across["estimate"] == 1
    assert across["queries"] == 24 * 5


def test_moment_rows_put_m_and_v_side_by_side():
    mean, var = np.array([[2.0, 1.0], [4.0, 1.0]]), np.array([[4.0, 1.0], [4.0, 0.0]])
    rows = retrieval.moment_rows(mean, var)
    assert_allclose(rows[:, [0, 2]], [[1, np.log(2)], [2, np.log(2)]])
    assert np.isfinite(rows).all()


def test_bad_input():
    with pytest.raises(StatsnormError, match=r"\(3, 2\), \(2, 2\)"):
        retrieval.own_nearest(np.zeros((3, 2)), np.zeros((2, 2)))
    with pytest.raises(StatsnormError, match="all 2 columns"):
        retrieval.own_nearest(np.eye(2), np.ones((2, 2)))
