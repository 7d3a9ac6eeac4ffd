"""Bad input to every public function of statsnorm.stats: an error with the value and the rule.

What cannot be told from one channel (a nan, a constant) is nan in that channel and counted.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from statsnorm import stats
from statsnorm.errors import StatsnormError
from statsnorm.tidy import tidy

N, S, K, C = 6, 5, 3, 4
_EFFECTS = np.random.default_rng(0)
MAIN = 2 * (_EFFECTS.normal(size=(N, 1, 1, C)) + _EFFECTS.normal(size=(1, S, 1, C)))
Y = MAIN + np.random.default_rng(1).normal(size=(N, S, K, C))
Z = MAIN + np.random.default_rng(2).normal(size=(N, S, K, C))
ROWS, OTHER = Y[:, 0, 0], Z[:, 1, 1]  # (6, 4)
D = Y[:, 0, 0, 0]  # (6,)
TRACE = 1 + np.random.default_rng(3).random(1 + N + S)
LABELS = np.array(list("aabbcc"))
INNER = np.array(list("uvuvuv"))
LONG, GROUPS = np.random.default_rng(4).normal(size=(24, 3)), np.repeat(list("abcd"), 6)
WITHIN = np.tile(list("uuuvvv"), 4)
TIMES, EVENTS = np.arange(1.0, 7.0), np.ones(6, bool)
NAN = np.where(np.arange(6) == 2, np.nan, D)


def rng():
    """Return a fresh generator."""
    return np.random.default_rng(5)


def with_nan(x):
    """Return a copy whose first number is nan."""
    y = np.array(x, float)
    y.flat[0] = np.nan
    return y


DESIGN = [
    ({0: Y[0]}, r"4 axes.*got shape \(5, 3, 4\)"),
    ({0: Y[:1]}, "has 1 images"),
    ({0: Y[:, :1]}, "has 1 styles"),
    ({0: Y[..., :0]}, "no levels or no channels"),
    ({0: Y.astype(str)}, "must hold real numbers, got dtype"),
    ({0: Y * 1j}, "must hold real numbers, got dtype complex128"),
    ({0: [[1.0, 2.0], [3.0]]}, "rectangular"),
]
PAIR = [
    ({1: Z[:, :4]}, r"same cells and channels, got shapes \(6, 5, 3, 4\) and \(6, 4, 3, 4\)"),
    ({0: Y[:2], 1: Z[:2]}, "2 images.*at least 3"),
    ({"contrast": "both"}, "fixed, random; got 'both'"),
    ({"confidence": 1.0}, "strictly between 0 and 1, got 1.0"),
]
CONVENTION = [
    ({"contrast": "free"}, "fixed, random; got 'free'"),
    ({0: Y[:, :, :1], "contrast": "random"}, "at least 2 levels, got 1"),
]
LENGTHS = [
    ({0: TRACE[:-1]}, "rows|shape"),
    ({2: 1}, "needs 2 images and 2 styles"),
    ({4: 0.0}, "strictly between 0 and 1, got 0.0"),
]
UNITS = [
    ({0: D[:1]}, "has 1 units; at least 2"),
    ({0: Y}, r"shape \(n,\) or \(n, C\), got \(6, 5, 3, 4\)"),
    ({0: ["a", "b"]}, "must hold real numbers"),
]
SAMPLES = [
    ({0: ROWS[:1]}, "at least 2 rows, got 1"),
    ({0: with_nan(ROWS)}, "finite, got 1 nan"),
    ({1: OTHER[:, :2]}, "same number of columns, got 4 and 2"),
]
GROUPED = [
    ({1: LABELS[:5]}, r"one label a row \(6\), got shape \(5,\)"),
    ({1: np.repeat("a", 6)}, "at least 2 levels, got 1"),
    ({0: with_nan(ROWS)}, "finite, got 1 nan"),
]
PVALUES = [
    ({0: [0.1, 1.5]}, "1.5"),
    ({0: [[0.1], [-0.2]]}, "-0.2|shape"),
]
NO_RNG = ({"rng": 7}, r"numpy.random.Generator.*got 7")
FEW = ({"permutations": 0}, "not less than 1, got 0")

GOOD = {
    "benjamini_hochberg": (([0.1, 0.2],), {}),
    "benjamini_yekutieli": (([0.1, 0.2],), {}),
    "block_permutation_test": ((Y,), {"rng": rng(), "permutations": 19}),
    "channel_statistics": ((Y[0, 0],), {}),
    "clopper_pearson": ((3, 10), {}),
    "component_replicates": ((Y,), {}),
    "component_shares": (({"style": np.ones(2), "content": np.ones(2)},), {}),
    "crossed_components": ((Y,), {}),
    "design_replicates": ((Y,), {}),
    "difference_from_replicates": ((TRACE, TRACE[::-1], N, S, 0.95), {}),
    "energy_distance": ((ROWS, OTHER), {}),
    "explained_fraction": ((D, D + 3), {}),
    "feature_divergence": ((ROWS, OTHER), {}),
    "fisher_ratio": ((ROWS, LABELS), {}),
    "frechet": ((ROWS, OTHER), {}),
    "gaussian_divergence": (([0.0], [1.0], [1.0], [2.0]), {}),
    "gaussian_frechet": (([0.0], [[1.0]], [1.0], [[2.0]]), {}),
    "group_distances": ((ROWS, LABELS), {"distance": lambda a, b: 1.0}),
    "hedges_gz": ((D,), {}),
    "holm": (([0.1, 0.2],), {}),
    "intersection_union": (([0.1, 0.2],), {}),
    "is_constant": ((ROWS,), {}),
    "iterations_to_threshold": (
        (ROWS[:, :4] ** 2,),
        {"iterations": np.arange(4), "threshold": 1.0, "window": 1},
    ),
    "jackknife_replicates": ((TRACE, N, S, 0.95), {}),
    "ledoit_wolf": ((ROWS,), {}),
    "level_scores": ((Y,), {}),
    "live_channels": (([Y**2],), {}),
    "log_rank": ((TIMES, EVENTS, TIMES + 1, EVENTS), {}),
    "mean_removed_from_replicates": (
        (np.stack([TRACE, TRACE], 1), np.stack([TRACE, TRACE], 1), N, S, 0.95),
        {},
    ),
    "median_bandwidth": ((ROWS,), {}),
    "minimum_effect": ((), {"n": 10, "alpha": 0.05}),
    "mmd": ((ROWS, OTHER), {"bandwidth": 1.0}),
    "nested": ((LONG, GROUPS, WITHIN), {}),
    "noninferiority_paired": ((D,), {"margin": 1.0}),
    "one_way": ((LONG, GROUPS), {}),
    "one_way_replicates": ((LONG, GROUPS), {}),
    "page_trend": ((ROWS,), {}),
    "paired_power": ((), {"n": 10, "effect": 1.0, "alpha": 0.05}),
    "paired_t": ((D,), {}),
    "permanova": ((ROWS, {"style": LABELS}), {"rng": rng(), "permutations": 19}),
    "permdisp": ((LONG, GROUPS), {"rng": rng(), "permutations": 19}),
    "pigeonhole_bootstrap": (
        (lambda w, u: float(w.sum()), N, S),
        {"rng": rng(), "replicates": 20},
    ),
    "pigeonhole_removed": ((Y, Z), {"rng": rng(), "replicates": 20}),
    "pigeonhole_weights": ((N, S, 20), {"rng": rng()}),
    "probe": (
        (LONG, np.tile(list("uvw"), 8)),
        {"groups": np.repeat(np.arange(8), 3), "rng": rng(), "strengths": (0.1,)},
    ),
    "removed_difference_from_replicates": ((TRACE, TRACE, TRACE, TRACE, N, S), {}),
    "removed_fraction": ((Y, Z), {}),
    "removed_from_replicates": ((TRACE, TRACE, N, S, 0.95), {}),
    "removed_replicates": ((TRACE, TRACE), {}),
    "replicated_components": ((Y,), {"style": "fixed"}),
    "required_pairs": ((), {"effect": 1.0, "alpha": 0.05}),
    "restricted_mean": ((TIMES, EVENTS), {"horizon": 3.0}),
    "restricted_mean_difference": (
        (TIMES, EVENTS, TIMES + 1, EVENTS),
        {"horizon": 3.0, "paired": True},
    ),
    "scale_free": ((Y, Z**2), {}),
    "selectivity": ((Y, Z), {}),
    "selectivity_from_replicates": ((TRACE, TRACE, TRACE, TRACE, N, S, 0.95), {}),
    "selectivity_replicates": ((TRACE, TRACE, TRACE, TRACE), {}),
    "shapley_values": (([0.0, 1.0, 1.0, 3.0],), {}),
    "sign_flip_test": ((D,), {}),
    "simultaneous_band": ((ROWS,), {}),
    "simultaneous_intervals": ((np.stack([TRACE] * 2, 1), N, S), {}),
    "standardise": ((ROWS,), {"reference": OTHER}),
    "step_down_maxt": ((ROWS,), {}),
    "style_leverage": ((Y,), {}),
    "tost_paired": ((D,), {"low": -1.0, "high": 1.0}),
    "trace_replicates": (({"style": np.stack([TRACE] * C, 1)},), {}),
    "two_way_jackknife": ((TRACE[0], TRACE[1 : 1 + N], TRACE[1 + N :], 0.95), {}),
    "unbalanced_components": ((LONG, GROUPS, np.tile(list("uv"), 12)), {}),
    "unbalanced_replicates": ((LONG, GROUPS, np.tile(list("uv"), 12)), {}),
    "ustatistic_components": ((Y,), {}),
    "ustatistic_replicates": ((Y,), {}),
    "weighted_component": ((Y, "style", np.ones((2, N)), np.ones((2, S))), {}),
    "welch_tost": ((ROWS, OTHER), {"margin": 1.0}),
}

BAD = {
    "benjamini_hochberg": PVALUES,
    "benjamini_yekutieli": PVALUES,
    "block_permutation_test": [*DESIGN, NO_RNG, FEW, ({0: np.ones_like(Y)}, "nothing varies")],
    "channel_statistics": [({0: D[0]}, "shape|axes"), ({0: with_nan(Y[0, 0])}, "nan")],
    "clopper_pearson": [
        *[({0: x}, f"successes must be an integer.*got {x!r}") for x in (np.nan, "3", None, 2.5)],
        ({1: np.inf}, "n must be an integer.*got inf"),
        ({0: 11}, "11"),
        ({1: 0}, "0"),
        ({"confidence": 2.0}, "got 2.0"),
    ],
    "component_replicates": [*DESIGN, *CONVENTION, ({0: Y[:2]}, "2 images.*at least 3")],
    "component_shares": [({0: {}}, "no component given")],
    "crossed_components": [*DESIGN, *CONVENTION],
    "design_replicates": [*DESIGN, *CONVENTION],
    "difference_from_replicates": LENGTHS,
    "energy_distance": SAMPLES,
    "explained_fraction": [({0: D[:5]}, r"paired \(n,\), got \(5,\)"), ({0: NAN}, "1 of 6 blocks")],
    "feature_divergence": SAMPLES,
    "fisher_ratio": GROUPED,
    "frechet": [*SAMPLES, ({"covariance": "half"}, "half")],
    "gaussian_divergence": [({1: [-1.0]}, "-1")],
    "gaussian_frechet": [({1: [[1.0, 2.0]]}, r"must agree, got .*\(1, 2\)")],
    "group_distances": GROUPED,
    "hedges_gz": [
        ({0: D[:2]}, "at least 3 differences, got 2"),
        ({0: ROWS}, r"must have 1 axes, got shape \(6, 4\)"),
        ({0: with_nan(D)}, "finite, got 1 nan"),
    ],
    "holm": PVALUES,
    "intersection_union": PVALUES,
    "is_constant": [({0: ["a"]}, "real numbers")],
    "iterations_to_threshold": [
        ({"window": 0}, "got 0"),
        ({"iterations": [0, 1]}, "shape|iterat"),
        ({"threshold": np.nan}, "threshold must not be nan"),
    ],
    "jackknife_replicates": [({0: TRACE[:-1]}, "rows"), ({1: 1}, "2 images and 2 styles")],
    "ledoit_wolf": SAMPLES[:2],
    "level_scores": [*DESIGN, ({0: np.full_like(Y, np.nan)}, "all 4 channels hold a nan")],
    "live_channels": [({0: []}, "one|least|no "), ({0: [Y**2, Y[..., :2] ** 2]}, "channel|shape")],
    "log_rank": [({0: -TIMES}, "-"), ({1: EVENTS[:3]}, "shape|event")],
    "mean_removed_from_replicates": [({0: TRACE}, r"\(1 \+ I \+ S, T\)"), ({2: 1}, "2 images")],
    "median_bandwidth": SAMPLES[:2],
    "minimum_effect": [({"n": 1}, "1"), ({"alpha": 0.0}, "0.0")],
    "mmd": [*SAMPLES, ({"bandwidth": 0.0}, "0.0")],
    "nested": [({1: np.repeat("a", 24)}, "2 levels, got 1"), ({0: with_nan(LONG)}, "finite")],
    "noninferiority_paired": [
        *UNITS,
        ({"margin": None}, "margin"),
        ({"margin": np.inf}, "inf"),
        ({"margin": "1"}, "margin must be a finite number, got '1'"),
    ],
    "one_way": [({1: np.repeat("a", 24)}, "2 levels, got 1"), ({1: np.arange(24)}, "24 groups")],
    "one_way_replicates": [({1: np.repeat("a", 24)}, "levels|groups")],
    "page_trend": [({0: ROWS[:, :1]}, "1"), ({0: with_nan(ROWS)}, "nan")],
    "paired_power": [({"n": 1}, "1"), ({"alpha": 1.0}, "1.0")],
    "paired_t": UNITS,
    "permanova": [
        NO_RNG,
        FEW,
        ({1: {"style": LABELS[:5]}}, r"one label a row \(6\)"),
        ({1: {"style": np.repeat("a", 6)}}, "2 levels, got 1"),
        ({0: with_nan(ROWS)}, "finite, got 1 nan"),
    ],
    "permdisp": [
        NO_RNG,
        FEW,
        ({1: np.repeat("a", 24)}, "2 levels, got 1"),
        ({0: np.ones((24, 3))}, "no row of the 4 groups lies off its group's centre"),
        ({0: np.repeat(0.1 * np.eye(4), 6, 0)}, "no row of the 4 groups lies off"),
    ],
    "pigeonhole_bootstrap": [NO_RNG, ({1: 1}, "got 1"), ({"replicates": 1}, "got 1")],
    "pigeonhole_removed": [
        *PAIR,
        NO_RNG,
        ({"aggregate": "mode"}, "got 'mode'"),
        ({0: np.where(np.arange(N)[:, None, None, None] == 0, np.nan, Y)}, "cells are missing"),
    ],
    "pigeonhole_weights": [NO_RNG, ({0: 1}, "not less than 2, got 1")],
    "probe": [
        NO_RNG,
        ({1: np.repeat("u", 24)}, "2 levels, got 1"),
        ({"groups": np.repeat(0, 24)}, "group"),
        ({"strengths": (0.0,)}, "0"),
    ],
    "removed_difference_from_replicates": [({2: TRACE[:-1]}, "shape"), ({4: 1}, "2 images")],
    "removed_fraction": [
        *PAIR,
        ({"factor": "mood"}, "got 'mood'"),
        ({"interval": "exact"}, "exact"),
    ],
    "removed_from_replicates": LENGTHS,
    "removed_replicates": [({1: TRACE[:-1]}, "must both be")],
    "replicated_components": [({0: Y[:1]}, "at least two"), ({"style": "both"}, "got 'both'")],
    "required_pairs": [({"effect": 0.0}, "0.0"), ({"power": 1.0}, "1.0")],
    "restricted_mean": [({"horizon": 0.0}, "0.0"), ({1: EVENTS[:2]}, "shape|event")],
    "restricted_mean_difference": [({"horizon": -1.0}, "-1"), ({2: TIMES[:3]}, "shape|pair|event")],
    "scale_free": [({1: -(Z**2)}, "negative|below|>= 0|-"), ({1: Z[:3] ** 2}, "shape")],
    "selectivity": [*PAIR, ({"against": "style"}, "'style' twice"), ({"of": "mood"}, "got 'mood'")],
    "selectivity_from_replicates": [({0: TRACE[:-1]}, "rows"), ({4: 1}, "2 images")],
    "selectivity_replicates": [({0: TRACE[:-1]}, "share one shape")],
    "shapley_values": [({0: [0.0, 1.0, 2.0]}, "3")],
    "sign_flip_test": [
        *UNITS,
        ({"alternative": "up"}, "got 'up'"),
        ({0: np.arange(17.0)}, "17 units.*rng"),
        ({"clusters": np.repeat("a", 6)}, "2 levels, got 1"),
    ],
    "simultaneous_band": [({0: D}, r"\(n, m\), got \(6,\)"), ({"confidence": 0.0}, "got 0.0")],
    "simultaneous_intervals": [({1: 1}, "2 im"), ({"confidence": 1.0}, "got 1.0")],
    "standardise": [({"reference": OTHER[:, :2]}, "columns")],
    "step_down_maxt": [({0: D}, r"\(n, m\), got \(6,\)"), ({0: np.ones((17, 2))}, "17 units")],
    "style_leverage": [*DESIGN, ({0: np.ones_like(Y)}, "do not differ")],
    "tost_paired": [*UNITS, ({"low": None}, "low"), ({"low": 2.0}, "2"), ({"alpha": 0.0}, "0.0")],
    "trace_replicates": [({"weights": -np.ones(C)}, "weights"), ({"channels": [True]}, "shape")],
    "two_way_jackknife": [({1: TRACE[:1]}, "1 replicates; at least 2"), ({1: ROWS}, "shape")],
    "unbalanced_components": [({1: np.repeat("a", 24)}, "levels|contents")],
    "unbalanced_replicates": [({2: np.repeat("a", 24)}, "levels|styles")],
    "ustatistic_components": [
        *DESIGN,
        *CONVENTION,
        ({"image_weights": -np.ones(N)}, "finite and >= 0, got -1"),
        ({"style_weights": np.ones(2)}, r"shape \(5,\), got \(2,\)"),
    ],
    "ustatistic_replicates": [*DESIGN, *CONVENTION],
    "weighted_component": [
        *DESIGN,
        ({1: "mood"}, "got 'mood'"),
        ({2: np.ones((2, 3))}, r"\(B, 6\)"),
    ],
    "welch_tost": [
        ({0: ROWS[:1]}, "has 1 units"),
        ({1: OTHER[:, :2]}, "share their channels"),
        ({"margin": None}, "got None"),
        ({"margin": "1"}, "got '1'"),
        ({"margin": -1.0}, "got -1.0"),
    ],
}

TAKES_ANYTHING = {
    "fieller_interval": "five numbers; any of them describes a set",
    "gram_split": "two ChannelStatistics, which were checked when they were made",
}


def call(name, changes):
    """Call a function with some of its good arguments replaced."""
    args, options = GOOD[name]
    args = [changes.get(i, value) for i, value in enumerate(args)]
    options = {**options, **{k: v for k, v in changes.items() if isinstance(k, str)}}
    return getattr(stats, name)(*args, **options)


def test_every_public_function_is_here():
    functions = {name for name in stats.__all__ if callable(getattr(stats, name))}
    assert functions - TAKES_ANYTHING.keys() == GOOD.keys() == BAD.keys()


@pytest.mark.parametrize("name", sorted(GOOD))
def test_the_good_call_is_good(name):
    call(name, {})


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        pytest.param(name, changes, message, id=f"{name}-{i}")
        for name, cases in sorted(BAD.items())
        for i, (changes, message) in enumerate(cases)
    ],
)
def test_bad_input_is_refused_with_value_and_rule(name, changes, message):
    with pytest.raises(StatsnormError, match=message):
        call(name, changes)


def one_nan(y):
    """Return y with a nan in its second channel."""
    y = np.array(y, float)
    y[(0,) * (y.ndim - 1) + (1,)] = np.nan
    return y


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("crossed_components", "style"),
        ("ustatistic_components", "style"),
        ("removed_fraction", "per_channel"),
        ("pigeonhole_removed", None),
        ("selectivity", None),
        ("block_permutation_test", None),
        ("replicated_components", "style"),
        ("sign_flip_test", "pvalue"),
        ("paired_t", "pvalue"),
        ("tost_paired", "pvalue"),
        ("noninferiority_paired", "pvalue"),
        ("welch_tost", "pvalue"),
        ("simultaneous_band", "low"),
        ("step_down_maxt", "p_adjusted"),
    ],
)
def test_a_nan_costs_its_own_channel_only(name, field):
    first = GOOD[name][0][0]
    wide = ROWS if np.ndim(first) == 1 else first
    clean, found = (call(name, {0: x}) for x in (wide, one_nan(wide)))
    if field is None:
        assert np.isfinite(getattr(found, "estimate", getattr(found, "pvalue", np.nan)))
    else:
        values, whole = getattr(found, field), getattr(clean, field)
        assert_array_equal(np.isnan(values), np.isnan(whole) | (np.arange(len(whole)) == 1))
    if hasattr(found, "n_nan"):
        assert found.n_nan == 1
        assert clean.n_nan == 0


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("paired_t", "pvalue"),
        ("tost_paired", "pvalue"),
        ("welch_tost", "pvalue"),
        ("noninferiority_paired", "pvalue"),
        ("simultaneous_band", "low"),
        ("one_way", "icc"),
        ("nested", "within"),
    ],
)
def test_a_constant_channel_is_untestable_not_zero(name, field):
    args = GOOD[name][0]
    wide = [np.array(ROWS if np.ndim(x) == 1 and name != "one_way" else x) for x in args[:1]]
    if name in ("one_way", "nested"):
        wide = [np.array(LONG)]
    wide[0][:, 1] = 0.1
    changes = {0: wide[0]}
    if name == "welch_tost":
        other = np.array(OTHER)
        other[:, 1] = 0.1
        changes[1] = other
    values = np.asarray(getattr(call(name, changes), field))
    assert np.isnan(values[1])
    assert np.isfinite(np.delete(values, 1)).all()


def test_constant_channels_have_no_variance_and_no_ratio():
    y, z = np.array(Y), np.array(Z)
    y[..., 1], z[..., 1] = 0.1, 0.1
    parts = stats.crossed_components(y)
    assert parts.style[1] == parts.content[1] == parts.residual[1] == 0
    found = stats.removed_fraction(y, z)
    assert np.isnan(found.per_channel[1])
    assert np.isfinite(np.delete(found.per_channel, 1)).any()
    table = tidy(parts)
    assert len(table) == C
