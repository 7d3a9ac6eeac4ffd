"""Style statistics in the plane: axes fitted before, applied after; t-SNE beside the report."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn.decomposition import PCA
from synthetic_tables import planted_study

from statsnorm.decisions import load_plan
from statsnorm.errors import StatsnormError
from statsnorm.figures import neighbour_map, style_projection
from statsnorm.figures.canvas import style_marks
from statsnorm.neighbours import tsne
from statsnorm.removal import projection
from statsnorm.removal.crossed import find_designs, load_members
from statsnorm.removal.neighbours import neighbour_table
from statsnorm.removal.summary import sufficient_statistics
from statsnorm.shipped import shipped_plan_path

PLAN = load_plan(shipped_plan_path())
PAIR = [("original", "frozen:prefix"), ("original", "none")]


@pytest.fixture(scope="module")
def study():
    return planted_study(np.random.default_rng(3), untrained=0, conditions=False)


@pytest.fixture(scope="module")
def members(study):
    design = next(d for d in find_designs(study.keys()) if d.net == "cin26")
    found, _ = load_members(study, design, "b.norm.in", 0, PAIR)
    return found


@pytest.fixture(scope="module")
def rows(members):
    live = np.ones(12, dtype=bool)
    return pd.DataFrame(projection.projection_rows(members, live, PLAN))


def flat(cells) -> np.ndarray:
    points = projection.style_points(cells, np.ones(12, dtype=bool))
    return points.reshape(-1, points.shape[-1])


def test_axes_and_shares_against_scikit_learn(members, rows):
    before, after = (flat(members[member]) for member in PAIR)
    fitted = PCA(2).fit(before)
    frozen = rows[rows["panel"] == "frozen"]
    shares = frozen[["share_1", "share_2"]].iloc[0]
    assert_allclose(shares, fitted.explained_variance_ratio_, rtol=1e-9)
    mine = np.abs(np.stack(frozen["pc1"]).T.ravel())  # images within style -> image by style
    assert_allclose(mine, np.abs(fitted.transform(before)[:, 0]), rtol=1e-4, atol=1e-5)
    normalised = rows[rows["panel"] == "normalised"]
    along = ((after - after.mean(axis=0)) @ fitted.components_.T).var(axis=0)
    assert_allclose(
        normalised[["share_1", "share_2"]].iloc[0], along / after.var(axis=0).sum(), rtol=1e-9
    )
    assert_allclose(normalised["kept"].iloc[0], after.var(axis=0).sum() / before.var(axis=0).sum())
    assert normalised["kept"].iloc[0] < 0.8


def test_equal_arms_give_equal_clouds(members):
    same = dict.fromkeys(PAIR, members[PAIR[0]])
    rows = pd.DataFrame(projection.projection_rows(same, np.ones(12, dtype=bool), PLAN))
    halves = [rows[rows["panel"] == panel].reset_index(drop=True) for panel in projection.PANELS]
    pd.testing.assert_frame_equal(*(half.drop(columns="panel") for half in halves))
    assert (rows["kept"] == 1).all()


def test_a_shift_or_scale_that_all_images_share_moves_nothing(members):
    changed = dict(members)
    cells = changed[PAIR[1]]
    changed[PAIR[1]] = type(cells)(3 * cells.mean + 7, 9 * cells.var, cells.labels)
    live = np.ones(12, dtype=bool)
    both = [pd.DataFrame(projection.projection_rows(m, live, PLAN)) for m in (members, changed)]
    pd.testing.assert_frame_equal(*both, rtol=1e-3)  # coordinates have five digits
    assert_allclose(both[0]["kept"], both[1]["kept"], rtol=1e-9)


def test_axes_do_not_flip_with_the_sign_of_the_data():
    points = np.random.default_rng(0).normal(size=(40, 5)) * [5, 3, 1, 1, 1]
    assert_allclose(projection.principal_axes(points), projection.principal_axes(-points))


def test_taps_and_images_of_the_picture_are_few(study):
    frame = sufficient_statistics(study)["projection"]
    assert set(frame["tap"]) == {"b.norm.in", "c.norm.in", "relu3_1"}
    assert len(projection.drawn_images(24)) == 24
    assert len(projection.drawn_images(5000)) == projection.MOST_IMAGES
    assert projection.drawn_images(5000)[[0, -1]].tolist() == [0, 4999]


def test_an_arm_that_is_missing_gives_no_picture(members):
    live = np.ones(12, dtype=bool)
    assert list(projection.projection_rows({PAIR[1]: members[PAIR[1]]}, live, PLAN)) == []


def test_panels_of_a_tap_have_the_same_limits_and_say_what_is_left(rows):
    figure = style_projection(rows.assign(tap="b.norm.in", tap_kind="next_pre_norm"))
    upper, lower = figure.axes
    assert upper.get_xlim() == lower.get_xlim()
    assert upper.get_ylim() == lower.get_ylim()
    share = rows["share_1"].iloc[0]
    assert upper.get_xlabel() == f"PC 1: {100 * share:.2g} %"
    assert lower.get_title() == f"{100 * rows['kept'].iloc[-1]:.2g} % of variance left"


def test_neighbouring_styles_differ_in_colour_and_in_marker():
    marks = style_marks(64)
    assert len(set(marks)) == 64
    assert all(a[0] != b[0] and a[1] != b[1] for a, b in pairwise(marks))


def test_tsne_keeps_two_clusters_apart_and_refuses_too_little():
    rng = np.random.default_rng(1)
    x = np.vstack([rng.normal(0, 1, (30, 8)), rng.normal(40, 1, (30, 8))])
    layout = tsne(x, rng=np.random.default_rng(2))
    near = np.linalg.norm(layout[:, None] - layout[None], axis=-1)
    np.fill_diagonal(near, np.inf)
    assert ((near.argmin(axis=1) < 30) == (np.arange(60) < 30)).all()
    for bad in (x[:5], x[0], np.full((20, 3), np.nan)):
        with pytest.raises(StatsnormError, match="finite matrix"):
            tsne(bad, rng=rng)


def test_neighbours_of_the_first_network_and_a_clear_word_without_one(study):
    table = neighbour_table(study, PLAN, np.random.default_rng(0))
    assert len(table) == 2 * 8
    assert len(table["x"].iloc[0]) == 24
    assert len(neighbour_map(table).axes) == 2
    bare = planted_study(np.random.default_rng(3), untrained=0, conditions=False)
    bare.blocks = [b for b in bare.blocks if b[0]["treatment"] == "none"]
    with pytest.raises(StatsnormError, match="no trained network has a crossed design"):
        neighbour_table(bare, PLAN, np.random.default_rng(0))
