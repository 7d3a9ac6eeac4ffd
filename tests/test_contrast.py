"""Contrast families: formulas, range rules, messages."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from statsnorm.errors import StatsnormError
from statsnorm.images.colour import equalise_luminance
from statsnorm.images.contrast import FAMILIES, Level, apply_level, levels

X = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_families():
    assert FAMILIES == ("gain", "offset", "gamma", "equalise", "channel-gain")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_defaults_are_ordered_levels_that_stay_in_range(family, k):
    made = levels(family, k=k)
    assert [level.level for level in made] == list(range(k))
    assert all(level.family == family for level in made)
    if family == "equalise":
        return  # may leave RGB through kept chroma; its own rule is on the strength
    for level in made:
        y = apply_level(X.round(), level)  # corners of the cube
        assert y.min() >= -1e-12
        assert y.max() <= 1 + 1e-12


@pytest.mark.parametrize(
    ("family", "value", "expected"),
    [
        ("gain", 0.4, lambda x: 0.5 + 0.4 * (x - 0.5)),
        ("offset", [0.5, -0.25], lambda x: 0.5 + 0.5 * (x - 0.5) - 0.25),
        ("gamma", 1.7, lambda x: x**1.7),
        ("channel-gain", [0.2, 0.9, 1], lambda x: x * np.reshape([0.2, 0.9, 1], (3, 1, 1))),
    ],
)
def test_formulas(family, value, expected):
    (level,) = levels(family, [value])
    np.testing.assert_allclose(apply_level(X, level).numpy(), expected(X.numpy()), atol=1e-14)


def test_equalise_strength():
    half, full = levels("equalise", [0.5, 1])
    equalised = equalise_luminance(X)
    torch.testing.assert_close(apply_level(X, half), (X + equalised) / 2)
    torch.testing.assert_close(apply_level(X, full), equalised)


def test_gamma_acts_on_the_positive_part_and_the_rest_is_not_clipped():
    x = torch.tensor([-0.5, 0.0, 1.5]).view(1, 1, 1, 3).expand(1, 3, 1, 3)
    (gamma,), (gain,) = levels("gamma", [2.0]), levels("gain", [0.8])
    assert apply_level(x, gamma)[0, 0, 0].tolist() == [0, 0, 2.25]
    torch.testing.assert_close(apply_level(x, gain)[0, 0, 0], torch.tensor([-0.3, 0.1, 1.3]))


def test_float32_stays_float32():
    for family in FAMILIES:
        assert apply_level(X.float(), levels(family)[0]).dtype == torch.float32


@pytest.mark.parametrize(
    ("family", "value", "message"),
    [
        ("gain", 1.2, "level 1 of 'gain' .1.2. maps .0, 1. beyond itself: use a gain of at most 1"),
        ("offset", [0.8, 0.11], r"use an offset of at most \(1 - gain\) / 2"),
        ("offset", [0.8, -0.11], r"at most \(1 - gain\) / 2"),
        ("equalise", 1.5, "a strength of at most 1"),
        ("channel-gain", [1.1, 1, 1], "use gains of at most 1"),
    ],
)
def test_widening_levels_are_refused_unless_allowed(family, value, message):
    inside = {"offset": [0.5, 0.1], "channel-gain": [1, 0.9, 0.8]}.get(family, 0.5)
    values = [inside, value]
    with pytest.raises(StatsnormError, match=message):
        levels(family, values)
    assert len(levels(family, values, allow_out_of_range=True)) == 2


def test_an_offset_exactly_at_the_bound_is_inside():
    assert levels("offset", [[0.7, 0.15], [0.7, -0.15], [1, 0]])


@pytest.mark.parametrize(
    ("family", "values", "message"),
    [
        ("gian", None, "did you mean 'channel-gain', 'gain'|unknown contrast family 'gian'"),
        ("gain", [0], "greater than 0"),
        ("gain", [-1], "greater than 0"),
        ("gain", [float("nan")], "finite"),
        ("gain", [float("inf")], "finite"),
        ("gain", ["0.5"], "one number"),
        ("gain", [True], "one number"),
        ("gain", [[0.5, 0.1]], "one number"),
        ("gain", [None], "one number"),
        ("gain", [{"gain": 0.5}], "one number"),
        ("offset", [0.5], "a pair"),
        ("offset", ["ab"], "a pair"),
        ("channel-gain", [[1, 1]], "a triple"),
        ("gamma", [0], "greater than 0"),
        ("gamma", [1e5], "at most 100"),
        ("equalise", [-0.1], "not negative"),
        ("gain", [0.5, 0.7, 0.5], "levels 0 and 2 of 'gain' are the same"),
        ("gain", [], "1 to 1000 levels"),
    ],
)
def test_bad_values(family, values, message):
    with pytest.raises(StatsnormError, match=message):
        levels(family, values, allow_out_of_range=True)


def test_bad_k_and_bad_level():
    with pytest.raises(StatsnormError, match="k must be 1 to 1000"):
        levels("gain", k=0)
    with pytest.raises(StatsnormError, match="unknown contrast family"):
        apply_level(X, Level("gains", 0, {}))
