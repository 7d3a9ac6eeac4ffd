"""What is no unit: a label that is missing, an image or style without a cell, a negative weight."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from statsnorm import stats
from statsnorm.errors import StatsnormError

ROWS = np.random.default_rng(0).normal(size=(10, 3))
TEXT = ["a"] * 4 + ["b"] * 4
DATES = np.array(["2020"] * 4 + ["2021"] * 4 + ["NaT"] * 2, "datetime64[Y]")


def design(seed, images=6, styles=5, levels=3, channels=4):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(images, styles, levels, channels))
    return y + 3 * rng.normal(size=(1, styles, 1, channels))


@pytest.mark.parametrize(
    "labels",
    [
        [*TEXT, np.nan, np.nan],
        [*TEXT, None, None],
        np.array([*TEXT, np.nan, None], dtype=object),
        pd.Series([*TEXT, None, None]),
        pd.Categorical([*TEXT, None, None]),
        pd.Series([*TEXT, None, None], dtype="string"),
        DATES,
    ],
)
def test_a_missing_label_is_no_group(labels):
    with pytest.raises(StatsnormError, match=r"groups must not hold nan, None or NaT, got 2"):
        stats.one_way(ROWS, labels)


def test_labels_of_several_types_are_refused():
    mixed = np.array(["a"] * 4 + [3] * 6, dtype=object)
    with pytest.raises(StatsnormError, match=r"groups must hold labels of one type, got int, str"):
        stats.one_way(ROWS, mixed)


def test_the_text_nan_is_a_label():
    found = stats.one_way(ROWS, np.array(["nan"] * 5 + ["b"] * 5))
    assert found.n_groups == 2


@pytest.mark.parametrize(("axis", "name"), [(0, "images"), (1, "styles")])
def test_a_level_without_any_cell_is_no_unit(axis, name):
    before, after = design(1), design(2)
    gone = before.copy()
    gone[(slice(None),) * axis + (2,)] = np.nan
    words = rf"{name} \[2\] have no cell \(1 of {before.shape[axis]}\); leave them out"
    for call in (
        lambda: stats.removed_fraction(gone, after),
        lambda: stats.selectivity(before, np.where(np.isnan(gone), np.nan, after)),
        lambda: stats.ustatistic_replicates(gone),
        lambda: stats.ustatistic_components(gone),
    ):
        with pytest.raises(StatsnormError, match=words):
            call()


def test_a_level_without_any_cell_and_without_weight_changes_nothing():
    y = design(3)
    y[1, 2] = np.nan
    gone = y.copy()
    gone[4] = np.nan
    found = stats.ustatistic_components(gone, image_weights=[1, 1, 1, 1, 0, 1])
    assert_allclose(found.style, stats.ustatistic_components(np.delete(y, 4, 0)).style)


@pytest.mark.parametrize("weight", [-1.0, np.nan])
def test_a_weight_that_is_no_weight_is_refused(weight):
    y = design(4)
    with pytest.raises(StatsnormError, match="image_weights must be finite and >= 0"):
        stats.weighted_component(y, "style", [weight, 1, 1, 1, 1, 1], np.ones(5))


def test_scores_leave_out_a_channel_with_an_infinity():
    y = design(5)
    y[0, 0, 0, 1] = np.inf
    found, expected = stats.level_scores(y), stats.level_scores(np.delete(y, 1, axis=3))
    assert_allclose(found["style"], expected["style"])
