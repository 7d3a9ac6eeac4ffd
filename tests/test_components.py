import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from statsnorm import stats
from statsnorm.errors import StatsnormError
from statsnorm.stats.components import (
    BASE,
    FACTORS,
    component_replicates,
    component_shares,
    crossed_components,
    style_leverage,
)
from statsnorm.stats.replicated import replicated_components
from statsnorm.stats.ustatistic import (
    ustatistic_components,
    ustatistic_replicates,
    weighted_component,
)

# R: with(lme4::Penicillin, tapply(diameter, list(plate, sample), c)); plates a-x, samples A-F
PENICILLIN = np.array(
    [
        [27, 23, 26, 23, 23, 21],
        [27, 23, 26, 23, 23, 21],
        [25, 21, 25, 24, 24, 20],
        [26, 23, 25, 23, 23, 20],
        [25, 22, 26, 22, 23, 20],
        [24, 22, 25, 23, 22, 19],
        [24, 20, 23, 21, 22, 19],
        [26, 22, 26, 24, 24, 21],
        [24, 21, 24, 22, 22, 20],
        [24, 21, 24, 23, 22, 19],
        [26, 23, 26, 24, 24, 21],
        [25, 22, 26, 24, 24, 20],
        [26, 24, 26, 24, 25, 22],
        [26, 23, 26, 23, 23, 20],
        [26, 23, 25, 24, 24, 22],
        [25, 22, 25, 23, 23, 20],
        [25, 21, 24, 23, 23, 20],
        [25, 22, 24, 23, 23, 19],
        [24, 21, 23, 21, 21, 19],
        [26, 23, 26, 24, 24, 21],
        [25, 21, 24, 22, 22, 18],
        [25, 22, 25, 22, 22, 20],
        [24, 21, 24, 22, 24, 19],
        [24, 21, 24, 22, 21, 18],
    ]
)
# R: nlme::Machines, 6 workers x machines A, B, C x 3 replicates
MACHINES = np.array(
    [
        [[52.0, 52.8, 53.1], [62.1, 62.6, 64.0], [67.5, 67.2, 66.9]],
        [[51.8, 52.8, 53.1], [59.7, 60.0, 59.0], [61.5, 61.7, 62.3]],
        [[60.0, 60.2, 58.4], [68.6, 65.8, 69.7], [70.8, 70.6, 71.0]],
        [[51.1, 52.3, 50.3], [63.2, 62.8, 62.2], [64.1, 66.2, 64.0]],
        [[50.9, 51.8, 51.4], [64.8, 65.0, 65.4], [72.1, 72.0, 71.1]],
        [[46.4, 44.8, 49.2], [43.7, 44.2, 43.0], [62.0, 61.4, 60.5]],
    ]
)
SDS = dict(zip(BASE, (1.5, 1.0, 0.8, 0.7, 0.5, 0.6, 0.4), strict=True))


def planted(rng, shape, *, fixed=None, sds=SDS):
    """Draw a design (I, S, K, C); `fixed` holds the contrast effects (K,) of a fixed factor."""
    i, s, k, c = shape
    axes = {
        "content": (i, 1, 1, c),
        "style": (1, s, 1, c),
        "contrast": (1, 1, k, c),
        "content_style": (i, s, 1, c),
        "content_contrast": (i, 1, k, c),
        "style_contrast": (1, s, k, c),
        "residual": (i, s, k, c),
    }
    y = np.zeros(shape)
    for name, size in axes.items():
        effect = sds[name] * rng.normal(size=size)
        if fixed is not None and "contrast" in name:
            effect -= effect.mean(axis=2, keepdims=True)  # sums to zero over fixed levels
        if fixed is not None and name == "residual":
            effect -= effect.mean(axis=2, keepdims=True)
        if fixed is not None and name == "contrast":
            effect = np.broadcast_to(np.asarray(fixed)[None, None, :, None], size)
        y += effect
    return y


def anova(y):
    """Mean squares of one channel by least squares on dummies: the oracle, no closed form."""
    shape = y.shape
    codes = np.indices(shape).reshape(3, -1)
    known, squares = np.ones((y.size, 1)), {}
    for name, axes in zip(BASE, ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)), strict=True):
        label = np.ravel_multi_index(codes[list(axes)], [shape[a] for a in axes])
        both = np.hstack([known, np.eye(label.max() + 1)[label]])
        rss = [
            np.square(y.ravel() - x @ np.linalg.lstsq(x, y.ravel(), rcond=None)[0]).sum()
            for x in (known, both)
        ]
        dof = np.linalg.matrix_rank(both) - np.linalg.matrix_rank(known)
        squares[name], known = (rss[0] - rss[1]) / dof, both
    return squares


def test_penicillin_against_lme4_anova():
    # R 4.2, lme4 1.1-31: method of moments of anova(lm(diameter ~ plate + sample, Penicillin))
    found = crossed_components(PENICILLIN[:, :, None, None])
    assert_allclose(found.content, 0.7169082126, rtol=1e-8)
    assert_allclose(found.style, 3.7309178744, rtol=1e-8)
    assert_allclose(found.content_style, 0.3024154589, rtol=1e-8)
    # lmer(diameter ~ (1|plate) + (1|sample)), REML
    assert_allclose(found.content, 0.716905, rtol=1e-3)
    assert_allclose(found.style, 3.731132, rtol=1e-3)
    assert np.isnan(found.contrast).all()  # one level: no contrast factor


def test_machines_against_r_anova():
    # R: anova(lm(score ~ Worker * Machine, nlme::Machines)); expected mean squares by hand
    y = MACHINES[..., None]
    random, fixed = (replicated_components(y, style=s) for s in ("random", "fixed"))
    assert_allclose(random.content, 22.858444, rtol=1e-7)
    assert_allclose(random.style, 46.387704, rtol=1e-7)
    assert_allclose(random.content_style, 13.909457, rtol=1e-7)
    assert_allclose(random.residual, 0.9246296, rtol=1e-7)
    assert_allclose(fixed.content, 27.494930, rtol=1e-7)
    within = random.residual + 3 * random.content_style  # mean squares from their expectations
    assert_allclose(within, 42.653, rtol=1e-5)
    assert_allclose(within + 9 * random.content, 248.379, rtol=1e-5)
    assert_allclose(within + 18 * random.style, 877.6317, rtol=1e-7)
    assert_allclose(fixed.content, random.content + random.content_style / 3, rtol=1e-12)


def test_against_least_squares_anova():
    y = planted(np.random.default_rng(7), (5, 4, 3, 2)) + np.array([100.0, -3.0])
    for channel in range(2):
        ms = anova(y[..., channel])
        one = y[..., channel, None]
        fixed, random = (crossed_components(one, contrast=c) for c in ("fixed", "random"))
        rest = ms["residual"]
        expected = {
            "residual": rest,
            "content_contrast": (ms["content_contrast"] - rest) / 4,
            "style_contrast": (ms["style_contrast"] - rest) / 5,
            "contrast": (ms["contrast"] - ms["content_contrast"] - ms["style_contrast"] + rest)
            / 20,
        }
        for name, value in expected.items():
            assert_allclose(getattr(fixed, name), value, rtol=1e-8)
            assert_allclose(getattr(random, name), value, rtol=1e-8)
        both = ms["content_style"]
        assert_allclose(fixed.style, (ms["style"] - both) / 15, rtol=1e-8)
        assert_allclose(fixed.content, (ms["content"] - both) / 12, rtol=1e-8)
        assert_allclose(fixed.content_style, both / 3, rtol=1e-8)
        assert_allclose(random.content_style, (both - rest) / 3, rtol=1e-8)
        assert_allclose(
            random.style, (ms["style"] - both - ms["style_contrast"] + rest) / 15, rtol=1e-8
        )
        assert_allclose(
            random.content, (ms["content"] - both - ms["content_contrast"] + rest) / 12, rtol=1e-8
        )


def test_conventions_are_related_as_cornfield_and_tukey_say():
    y = planted(np.random.default_rng(1), (6, 5, 4, 7))
    fixed, random = (crossed_components(y, contrast=c) for c in ("fixed", "random"))
    assert_allclose(fixed.style, random.style + random.style_contrast / 4, atol=1e-12)
    assert_allclose(fixed.content, random.content + random.content_contrast / 4, atol=1e-12)
    assert_allclose(fixed.content_style, random.content_style + random.residual / 4, atol=1e-12)
    assert (fixed.convention, random.convention) == ("fixed", "random")


@pytest.mark.parametrize("contrast", ["fixed", "random"])
def test_replicates_against_recomputing_without_each_level(contrast):
    y = planted(np.random.default_rng(2), (5, 4, 3, 6)) * 3 + 50
    found = component_replicates(y, contrast=contrast)
    assert set(found) == set(FACTORS)
    for name in FACTORS:
        brute = [crossed_components(y, contrast=contrast)]
        brute += [crossed_components(np.delete(y, i, 0), contrast=contrast) for i in range(5)]
        brute += [crossed_components(np.delete(y, s, 1), contrast=contrast) for s in range(4)]
        expected = np.array([getattr(b, name) for b in brute])
        assert found[name].shape == (1 + 5 + 4, 6)
        assert found[name].dtype == np.float64
        assert_allclose(found[name], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("contrast", ["fixed", "random"])
def test_ustatistic_equals_mean_squares_when_balanced(contrast):
    y = planted(np.random.default_rng(3), (6, 5, 3, 8)) + 10
    ems, u = (f(y, contrast=contrast) for f in (crossed_components, ustatistic_components))
    scale = crossed_components(y).content.max()
    for name in FACTORS:
        assert_allclose(getattr(u, name), getattr(ems, name), rtol=0, atol=1e-12 * scale)


def brute_style(y, w, u):
    """Style component of y (I, S, K), fixed contrast: a loop over tables of available cells."""
    images, styles, levels = y.shape
    blocks = []
    for k in range(levels):
        for m in range(levels):
            top = bottom = 0.0
            for i in range(images):
                for j in range(images):
                    for s in range(styles):
                        for t in range(styles):
                            d = 0.5 * (y[i, s, k] - y[i, t, k]) * (y[j, s, m] - y[j, t, m])
                            if i != j and s != t and np.isfinite(d):
                                weight = w[i] * w[j] * u[s] * u[t]
                                top, bottom = top + weight * d, bottom + weight
            blocks.append(top / bottom)
    return np.mean(blocks)


def test_ustatistic_against_a_loop_over_tables():
    rng = np.random.default_rng(4)
    y = planted(rng, (4, 4, 2, 1))
    y[1, 2, 0] = y[3, 0, 1] = y[0, 3] = np.nan
    w, u = np.array([1.0, 2.0, 0.5, 1.0]), np.array([1.0, 1.0, 3.0, 2.0])
    found = ustatistic_components(y, image_weights=w, style_weights=u)
    assert_allclose(found.style, brute_style(y[..., 0], w, u), rtol=1e-12)
    turned = ustatistic_components(y.swapaxes(0, 1), image_weights=u, style_weights=w)
    assert_allclose(found.content, turned.style, rtol=1e-12)  # two independent formulas
    complete = planted(rng, (4, 4, 2, 1))
    weighted = ustatistic_components(complete, image_weights=w, style_weights=u)
    assert_allclose(weighted.style, brute_style(complete[..., 0], w, u), rtol=1e-12)


def test_weights_agree_with_the_path_for_missing_cells():
    from statsnorm.stats.incomplete import incomplete_components

    y = planted(np.random.default_rng(5), (5, 4, 3, 6))
    w, u = np.array([2.0, 0.0, 1.0, 3.0, 1.0]), np.array([1.0, 2.0, 0.0, 1.0])
    for contrast in ("fixed", "random"):
        by_table = incomplete_components(y, contrast, w, u, leave_out=False)
        by_form = ustatistic_components(y, contrast=contrast, image_weights=w, style_weights=u)
        for name in FACTORS:
            assert_allclose(by_table[name][0], getattr(by_form, name), atol=1e-12)


def test_weight_zero_is_the_level_left_out():
    y = planted(np.random.default_rng(6), (5, 4, 3, 2))
    w = np.array([1.0, 1.0, 0.0, 1.0, 1.0])
    found = ustatistic_components(y, image_weights=w)
    expected = crossed_components(np.delete(y, 2, 0))
    for name in FACTORS:
        assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-12)


def test_incomplete_replicates_against_recomputing():
    y = planted(np.random.default_rng(8), (5, 4, 3, 2))
    y[0, 1, 2] = y[3, 3] = np.nan
    found = ustatistic_replicates(y)
    for name in FACTORS:
        rows = [ustatistic_components(y)]
        rows += [ustatistic_components(np.delete(y, i, 0)) for i in range(5)]
        rows += [ustatistic_components(np.delete(y, s, 1)) for s in range(4)]
        assert_allclose(found[name], [getattr(r, name) for r in rows], atol=1e-12)


def test_ustatistic_does_not_change_with_a_constant_when_cells_are_missing():
    y = planted(np.random.default_rng(9), (6, 5, 3, 2))
    y[2, 1, 0] = y[4, 4] = np.nan
    plain, moved = ustatistic_components(y), ustatistic_components(y + 1e4)
    for name in FACTORS:
        assert_allclose(getattr(moved, name), getattr(plain, name), atol=1e-8)


def unbiased(draws, truth):
    """Assert |mean - truth| < 4 Monte-Carlo standard errors (8.2 asks 3 of the slow version)."""
    error = draws.std(ddof=1) / np.sqrt(draws.size)
    assert abs(draws.mean() - truth) < 4 * error


@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_all_components_are_unbiased_with_contrast_random(missing):
    rng = np.random.default_rng(10)
    shape = (6, 5, 3, 400) if missing else (6, 5, 3, 4000)
    y = planted(rng, shape)
    if missing:
        y[rng.random(shape[:3]) < missing] = np.nan
    found = ustatistic_components(y, contrast="random")
    for name in BASE:
        unbiased(getattr(found, name), SDS[name] ** 2)


def test_components_are_unbiased_with_contrast_fixed():
    levels = np.array([-1.0, 0.2, 0.8])
    y = planted(np.random.default_rng(11), (6, 5, 3, 4000), fixed=levels)
    found = crossed_components(y, contrast="fixed")
    unbiased(found.style, SDS["style"] ** 2)
    unbiased(found.content, SDS["content"] ** 2)
    unbiased(found.content_style, SDS["content_style"] ** 2)
    unbiased(found.contrast, levels.var(ddof=1))
    # centred effects with divisor K - 1 have the variance they were drawn with
    unbiased(found.content_contrast, SDS["content_contrast"] ** 2)
    unbiased(found.style_contrast, SDS["style_contrast"] ** 2)


@pytest.mark.slow
@pytest.mark.parametrize("contrast", ["fixed", "random"])
def test_unbiasedness_of_all_seven_within_three_standard_errors(contrast):
    rng, draws = np.random.default_rng(12), []
    levels = np.array([-1.0, -0.2, 0.4, 0.8])
    for _ in range(2000):
        y = planted(rng, (12, 6, 4, 10), fixed=levels if contrast == "fixed" else None)
        found = crossed_components(y, contrast=contrast)
        draws.append([getattr(found, name).mean() for name in BASE])
    truth = [SDS[name] ** 2 for name in BASE]
    if contrast == "fixed":
        truth[BASE.index("contrast")] = levels.var(ddof=1)
    error = np.std(draws, axis=0, ddof=1) / np.sqrt(len(draws))
    assert (np.abs(np.mean(draws, axis=0) - truth) < 3 * error).all()


def test_negative_estimates_are_kept():
    y = np.random.default_rng(13).normal(size=(5, 4, 3, 400))  # no effect at all
    found = crossed_components(y)
    assert (found.style < 0).any()
    unbiased(found.style, 0.0)


def test_shares_sum_to_one_and_may_be_negative():
    y = np.random.default_rng(14).normal(size=(5, 4, 3, 30))
    shares = component_shares(crossed_components(y))
    assert_allclose(sum(shares[name] for name in BASE), 1)
    assert min(shares[name].min() for name in BASE) < 0
    assert_allclose(shares["style_given_content"], shares["style"] + shares["content_style"])
    flat = component_shares(crossed_components(y[:, :, :1]))
    assert_allclose(flat["style"] + flat["content"] + flat["content_style"], 1)


@settings(max_examples=25, deadline=None)
@given(
    scale=st.floats(1e-3, 1e3),
    shift=st.floats(-1e3, 1e3),
    sign=st.sampled_from([-1, 1]),
    contrast=st.sampled_from(["fixed", "random"]),
)
def test_components_scale_with_the_square_and_ignore_shifts(scale, shift, sign, contrast):
    y = planted(np.random.default_rng(15), (4, 4, 3, 2))
    plain = crossed_components(y, contrast=contrast)
    moved = crossed_components(sign * scale * y + shift * scale, contrast=contrast)
    for name in FACTORS:
        assert_allclose(
            getattr(moved, name) / scale**2, getattr(plain, name), rtol=1e-10, atol=1e-10
        )


def test_order_of_images_and_styles_does_not_matter():
    rng = np.random.default_rng(16)
    y = planted(rng, (7, 5, 3, 4))
    turned = y[rng.permutation(7)][:, rng.permutation(5)]
    for name in FACTORS:
        assert_allclose(
            getattr(crossed_components(turned), name),
            getattr(crossed_components(y), name),
            atol=1e-12,
        )


def test_blocks_of_images_do_not_matter(monkeypatch):
    y = planted(np.random.default_rng(17), (7, 5, 3, 4))
    whole = component_replicates(y)
    monkeypatch.setattr("statsnorm.stats.balanced.BLOCK", 1)
    for name, value in component_replicates(y).items():
        assert_allclose(value, whole[name], rtol=1e-12, atol=1e-14)


def test_nan_and_infinity_stay_in_their_channel():
    y = planted(np.random.default_rng(18), (5, 4, 3, 4))
    clean = crossed_components(y[..., 2:])
    y[0, 1, 2, 0], y[3, 2, 1, 1] = np.nan, np.inf
    found = crossed_components(y)
    assert found.n_nan == 2
    assert np.isnan(found.style[:2]).all()
    assert_allclose(found.style[2:], clean.style, rtol=1e-12)
    assert np.isnan(component_replicates(y)["content"][:, :2]).all()


def test_constant_channel_has_no_variance_whatever_its_rounding():
    y = planted(np.random.default_rng(19), (5, 4, 3, 3))
    y[..., 0] = 0.1
    y[..., 1] = 0.1 + 1e-17 * np.arange(3)
    found = component_replicates(y)
    for name in FACTORS:
        assert_array_equal(found[name][:, :2], 0.0)


def test_single_precision_input_is_computed_in_double():
    y = planted(np.random.default_rng(20), (6, 5, 3, 4)).astype(np.float32) + 1000
    found = crossed_components(y)
    assert found.style.dtype == np.float64
    assert_allclose(found.style, crossed_components(y.astype(np.float64)).style, rtol=1e-12)


def test_style_leverage_finds_the_style_that_makes_the_effect():
    y = 0.01 * np.random.default_rng(21).normal(size=(5, 6, 2, 3))
    y[:, 4] += 1
    leverage = style_leverage(y)
    assert_allclose(leverage.sum(), 1)
    assert leverage.argmax() == 4
    assert_allclose(leverage[4], 5 / 6, rtol=0.05)  # (5/6)^2 / ((5/6)^2 + 5/36)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.zeros((4, 4, 3)), r"4 axes .* got shape \(4, 4, 3\)"),
        (np.zeros((1, 4, 3, 2)), "1 images .* at least 2"),
        (np.zeros((4, 1, 3, 2)), "1 styles .* at least 2"),
        (np.zeros((4, 4, 0, 2)), "no levels"),
        (np.full((4, 4, 3, 2), "a"), "real numbers"),
        (np.zeros((4, 4, 3, 2), dtype=complex), "real numbers"),
        ([[1, 2], [3]], "rectangular"),
    ],
)
def test_bad_designs_are_refused_with_the_rule(y, message):
    with pytest.raises(StatsnormError, match=message):
        crossed_components(y)


def test_bad_choices_are_refused():
    y = np.zeros((4, 4, 1, 2))
    with pytest.raises(StatsnormError, match="contrast must be one of fixed, random; got 'mixed'"):
        crossed_components(y, contrast="mixed")
    with pytest.raises(StatsnormError, match="random' needs at least 2 levels"):
        crossed_components(y, contrast="random")
    with pytest.raises(StatsnormError, match="at least 3"):
        component_replicates(np.zeros((2, 4, 3, 2)))
    with pytest.raises(StatsnormError, match=">= 0, got -1"):
        ustatistic_components(y, image_weights=[1, 1, 1, -1])
    with pytest.raises(StatsnormError, match=r"shape \(4,\)"):
        ustatistic_components(y, style_weights=[1, 1])
    with pytest.raises(StatsnormError, match="needs at least 2 levels"):
        weighted_component(y, "contrast", np.ones((1, 4)), np.ones((1, 4)))
    with pytest.raises(StatsnormError, match="do not differ"):
        style_leverage(y)
    with pytest.raises(StatsnormError, match="at least two"):
        replicated_components(np.zeros((4, 4, 1, 2)), style="random")


def test_memory_stays_below_the_input():
    y = np.random.default_rng(22).normal(size=(32, 8, 5, 64))
    component_replicates(y)
    tracemalloc.start()
    component_replicates(y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * y.nbytes


def test_every_public_name_resolves_also_after_its_module_was_imported():
    import statsnorm.stats.permanova
    import statsnorm.stats.scale_free  # noqa: F401

    for name in stats.__all__:
        assert getattr(stats, name) is not None
    assert callable(stats.scale_free)
    assert callable(stats.permanova)
    assert "holm" in dir(stats)
    with pytest.raises(AttributeError, match="did you mean 'holm'"):
        _ = stats.hollm


def test_stats_loads_no_torch_pandas_or_matplotlib():
    code = (
        "import sys, statsnorm.stats as s\n"
        "[getattr(s, n) for m, ns in s.NAMES.items() if m != 'statsnorm.probes' for n in ns]\n"
        "print(*sys.modules)"
    )
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    heavy = {"torch", "pandas", "matplotlib", "sklearn", "statsmodels", "pyarrow"}
    assert not heavy & set(loaded)
