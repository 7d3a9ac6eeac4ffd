from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.testing import assert_allclose

from statsnorm.errors import StatsnormError
from statsnorm.stats.distances import energy_distance, feature_divergence
from statsnorm.stats.oneway import one_way
from statsnorm.stats.permanova import permanova
from statsnorm.tidy import tidy


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_scalars_make_one_row_with_labels_first(rng):
    result = energy_distance(rng.normal(size=(5, 2)), rng.normal(size=(6, 2)))
    table = tidy(result, tap="relu3_1", moment="v")
    assert list(table.columns) == ["tap", "moment", "statistic", "normalised", "unbiased"]
    assert len(table) == 1
    assert table["statistic"].item() == result.statistic


def test_arrays_make_one_row_a_channel(rng):
    result = one_way(rng.normal(size=(12, 3)), np.arange(12) % 4)
    table = tidy(result, tap="relu1_1")
    assert table["channel"].tolist() == [0, 1, 2]
    assert_allclose(table["icc"], result.icc)
    assert table["n_groups"].tolist() == [4, 4, 4]
    assert "unit" in tidy(result, index="unit")


def test_named_entries_need_no_number(rng):
    factors = {"a": np.repeat([0, 1, 2], 8), "b": np.tile([0, 1], 12)}
    result = permanova(rng.normal(size=(24, 2)), factors, rng=rng, permutations=9)
    table = tidy(result)
    assert table["terms"].tolist() == ["a", "b"]
    assert "channel" not in table


def test_scalars_beside_arrays_are_repeated(rng):
    table = tidy(feature_divergence(rng.normal(size=(9, 4)), rng.normal(size=(9, 4))))
    assert len(table) == 4
    assert table["estimate"].nunique() == 1
    assert_allclose(table["per_channel"].mean(), table["estimate"][0])


@dataclass(frozen=True, slots=True)
class Odd:
    a: np.ndarray
    b: np.ndarray = field(metadata={"tidy": False})


def test_fields_can_be_left_out():
    assert list(tidy(Odd(np.arange(2), np.eye(3))).columns) == ["channel", "a"]
    assert tidy(Odd(np.array(3.0), np.eye(3)))["a"].tolist() == [3.0]


def test_empty_arrays_do_not_swallow_the_scalars():
    # a removed fraction from traces has no channels: its estimate must stay
    table = tidy(Mixed(0.5, np.array([])), tap="relu3_1")
    assert table.to_dict("records") == [{"tap": "relu3_1", "estimate": 0.5}]


def test_scalars_alone_on_request():
    table = tidy(Mixed(0.5, np.arange(3)), arrays=False)
    assert table.to_dict("records") == [{"estimate": 0.5}]
    assert len(tidy(Mixed(0.5, np.arange(3)))) == 3


@dataclass(frozen=True, slots=True)
class Mixed:
    estimate: float
    per_channel: np.ndarray


@dataclass(frozen=True, slots=True)
class Pair:
    a: np.ndarray
    b: np.ndarray


def test_bad_input(rng):
    with pytest.raises(StatsnormError, match=r"must have one length, got \{'a': 2, 'b': 3\}"):
        tidy(Pair(np.arange(2), np.arange(3)))
    with pytest.raises(StatsnormError, match=r"field 'a' has shape \(2, 2\)"):
        tidy(Pair(np.eye(2), np.arange(3)))
    with pytest.raises(StatsnormError, match="label 'a' is a field"):
        tidy(Pair(np.arange(2), np.arange(2)), a=1)
    with pytest.raises(StatsnormError, match="takes a result"):
        tidy({"a": 1})
    with pytest.raises(StatsnormError, match="takes a result"):
        tidy(Pair)


def test_results_show_themselves(rng):
    result = one_way(np.column_stack([rng.normal(size=6), np.ones(6)]), [0, 0, 0, 1, 1, 1])
    html = result._repr_html_()
    assert "<caption>OneWayResult</caption>" in html
    assert "<th>icc</th><td>(2,): median " in html
    assert "1 nan" in html
    factors = {"<a>": [0, 0, 0, 1, 1, 1]}
    shown = permanova(rng.normal(size=6), factors, rng=rng, permutations=9)._repr_html_()
    assert "&lt;a&gt;" in shown
    assert "<a>" not in shown
