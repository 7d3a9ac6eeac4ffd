import time

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from statsnorm.errors import StatsnormError
from statsnorm.stats.components import component_replicates, crossed_components
from statsnorm.stats.differences import (
    difference_from_replicates,
    removed_difference_from_replicates,
)
from statsnorm.stats.jackknife import jackknife_replicates
from statsnorm.stats.removed import (
    mean_removed_from_replicates,
    removed_fraction,
    removed_from_replicates,
    removed_replicates,
)
from statsnorm.stats.selectivity import (
    selectivity,
    selectivity_from_replicates,
    selectivity_replicates,
)
from statsnorm.stats.traces import design_replicates, paired_designs, trace_replicates


def arms(rng, *, images=12, styles=9, levels=3, channels=8, kept=None, spread=0.0, noise=0.3):
    """Draw (before, after): `after` keeps a share of each factor's variance.

    With `spread` > 0 the kept effects are partly new, so that the true ratio is not
    the sample's own.
    """
    kept = {"content": 0.7, "style": 0.2, "contrast": 0.01} | (kept or {})
    sizes = {
        "content": (images, 1, 1, channels),
        "style": (1, styles, 1, channels),
        "contrast": (1, 1, levels, channels),
    }
    before = noise * rng.normal(size=(images, styles, levels, channels))
    after = noise * rng.normal(size=before.shape)
    for name, size in sizes.items():
        effect, other = rng.normal(size=(2, *size))
        before = before + effect
        mixed = np.sqrt(1 - spread**2) * effect + spread * other
        after = after + np.sqrt(kept[name]) * mixed
    return before, after


def brute_interval(before, after, factor, confidence=0.95):
    """Jackknife by dropping and recomputing everything, with scipy's t."""

    def log_ratio(b, a):
        return np.log(
            getattr(crossed_components(a), factor).mean()
            / getattr(crossed_components(b), factor).mean()
        )

    n_i, n_s = before.shape[:2]
    full = log_ratio(before, after)
    parts = [
        np.array([log_ratio(np.delete(before, j, x), np.delete(after, j, x)) for j in range(n)])
        for x, n in ((0, n_i), (1, n_s))
    ]
    v = [(len(p) - 1) / len(p) * np.square(p - p.mean()).sum() for p in parts]
    dof = sum(v) ** 2 / (v[0] ** 2 / (n_i - 1) + v[1] ** 2 / (n_s - 1))
    half = stats.t.ppf(0.5 + confidence / 2, dof) * np.sqrt(sum(v))
    return 1 - np.exp(full), 1 - np.exp(full + half), 1 - np.exp(full - half), dof


@pytest.mark.parametrize("factor", ["style", "content", "style_given_content"])
def test_against_a_brute_force_jackknife(factor):
    before, after = arms(np.random.default_rng(1), spread=0.5)
    found = removed_fraction(before, after, factor=factor)
    assert found.method == "jackknife-t"
    expected = brute_interval(before, after, factor)
    assert_allclose([found.estimate, found.low, found.high, found.dof], expected, rtol=1e-9)
    each = 1 - getattr(crossed_components(after), factor) / getattr(
        crossed_components(before), factor
    )
    assert_allclose(found.per_channel, each, rtol=1e-10)


def test_missing_cells_against_a_brute_force_jackknife():
    before, after = arms(np.random.default_rng(2), images=8, styles=6, channels=4)
    before[2, 1, 0], after[5, 3] = np.nan, np.nan  # missing in one arm: dropped from both
    found = removed_fraction(before, after)
    paired = paired_designs(before, after)
    assert_allclose(np.isnan(paired[0]), np.isnan(paired[1]))
    traces = [trace_replicates(design_replicates(arm))["style"] for arm in paired]
    again = removed_from_replicates(*traces, 8, 6)
    assert_allclose([found.estimate, found.low], [again.estimate, again.low])
    dropped = [np.delete(arm, 4, 0) for arm in paired]  # one replicate, recomputed
    ratio = [design_replicates(arm)["style"][0].mean() for arm in dropped]
    assert_allclose([t[5] for t in traces], ratio, rtol=1e-10)
    full = removed_fraction(*arms(np.random.default_rng(2), images=8, styles=6, channels=4))
    assert abs(full.estimate - found.estimate) < 0.1


def test_identical_arms_remove_exactly_nothing():
    before, _ = arms(np.random.default_rng(3))
    for factor in ("style", "content", "contrast", "content_style", "residual"):
        found = removed_fraction(before, before, factor=factor)
        assert found.estimate == found.low == found.high == 0
    assert selectivity(before, before).estimate == 0


def test_everything_removed_is_exactly_one():
    before, _ = arms(np.random.default_rng(4), noise=0.01)
    found = removed_fraction(before, np.full_like(before, 0.1))
    assert (found.estimate, found.low, found.high, found.method) == (1, 1, 1, "fieller")


@pytest.mark.parametrize("factor", ["style", "content", "contrast", "style_given_content"])
def test_constants_per_channel_change_nothing(factor):
    rng = np.random.default_rng(5)
    before, after = arms(rng, spread=0.5)
    shift_b, shift_a = rng.normal(scale=100, size=(2, 8))
    sign = rng.choice([-1.0, 1.0], size=8)
    plain = removed_fraction(before, after, factor=factor)
    moved = removed_fraction(sign * before + shift_b, after + shift_a, factor=factor)
    for field in ("estimate", "low", "high", "dof", "share_before", "share_after"):
        assert_allclose(getattr(moved, field), getattr(plain, field), rtol=1e-10, atol=1e-10)
    scale = 7.3  # one unit for all channels and arms
    scaled = removed_fraction(scale * before, scale * after, factor=factor)
    assert_allclose([scaled.low, scaled.high], [plain.low, plain.high], rtol=1e-10)


def test_scale_free_moments_make_any_affine_map_harmless():
    from statsnorm.stats.scale_free import scale_free

    rng = np.random.default_rng(6)
    shape = (8, 6, 3, 5)
    mean, var = rng.normal(size=(2, *shape)), np.exp(rng.normal(size=(2, *shape)))
    gain, shift = rng.choice([-1, 1], 5) * np.exp(rng.normal(size=5)), rng.normal(size=5)
    plain = [scale_free(m, v) for m, v in zip(mean, var, strict=True)]
    moved = [plain[0], scale_free(gain * mean[1] + shift, gain**2 * var[1])]
    for moment in (0, 1):
        for factor in ("style", "content", "contrast"):
            a, b = (
                removed_fraction(p[0][moment], p[1][moment], factor=factor) for p in (plain, moved)
            )
            assert_allclose([b.estimate, b.low, b.high], [a.estimate, a.low, a.high], atol=1e-10)


def test_fieller_ends_are_where_the_jackknife_t_test_turns():
    rng = np.random.default_rng(7)
    before, after = arms(rng, kept={"style": 0.004}, styles=12, noise=0.6, channels=4)
    found = removed_fraction(before, after)
    assert found.method == "fieller"
    b, a = (component_replicates(y)["style"].mean(axis=1) for y in (before, after))
    for r in (found.low, found.high):  # L(r) is a linear statistic: test it by itself
        line = jackknife_replicates(a - (1 - r) * b, 12, 12)
        assert_allclose(abs(line.estimate) / line.se, stats.t.ppf(0.975, line.dof), rtol=1e-6)
    inside = jackknife_replicates(a - (1 - found.estimate) * b, 12, 12)
    assert abs(inside.estimate) < 1e-12
    assert np.isnan(found.se)


def test_interval_choice():
    rng = np.random.default_rng(8)
    b = 1 + 0.01 * rng.normal(size=1 + 10 + 10)
    well, nearly = 0.5 * b, 0.001 + 0.001 * rng.normal(size=21)
    assert removed_from_replicates(b, well, 10, 10).method == "jackknife-t"
    assert removed_from_replicates(b, nearly, 10, 10).method == "fieller"
    assert removed_from_replicates(b, well, 10, 10, interval="fieller").method == "fieller"
    negative = np.where(np.arange(21) == 4, -0.001, well)
    assert removed_from_replicates(b, negative, 10, 10).method == "fieller"
    forced = removed_from_replicates(b, negative, 10, 10, interval="jackknife-t")
    assert np.isnan(forced.low)
    few = np.abs(1 + 0.3 * rng.normal(size=21))  # both below 3 SE: styles are too few
    few = removed_from_replicates(few, 0.5 * few, 10, 10)
    assert few.method == "jackknife-t"
    assert_allclose(few.low, 0.5)
    nothing = removed_from_replicates(-b, well, 10, 10)
    assert np.isnan(nothing.estimate)
    noise = removed_from_replicates(rng.normal(size=21), b, 10, 10)
    assert (noise.low, noise.high) == (-np.inf, np.inf)


def test_caution_with_few_styles():
    before, after = arms(np.random.default_rng(9), styles=8)
    assert "8 styles" in removed_fraction(before, after).caution
    before, after = arms(np.random.default_rng(9), styles=9)
    assert removed_fraction(before, after).caution == ""


def test_shares_and_traces_are_those_of_the_components():
    before, after = arms(np.random.default_rng(10))
    found = removed_fraction(before, after)
    parts = crossed_components(before)
    names = ("content", "style", "contrast", "content_style", "content_contrast",
             "style_contrast", "residual")  # fmt: skip
    total = sum(getattr(parts, name).mean() for name in names)
    assert_allclose(found.before, parts.style.mean())
    assert_allclose(found.share_before, parts.style.mean() / total)


def test_a_share_may_rise_while_the_variance_falls():
    kept = {"style": 0.31, "content": 0.05, "contrast": 1e-6}
    found = removed_fraction(*arms(np.random.default_rng(11), kept=kept, noise=0.05))
    assert found.estimate > 0.5
    assert found.share_after > found.share_before


def test_weights_are_channel_weights():
    before, after = arms(np.random.default_rng(12))
    weights = np.zeros(8)
    weights[3] = 5
    one = removed_fraction(before[..., 3:4], after[..., 3:4])
    assert_allclose(removed_fraction(before, after, weights=weights).low, one.low)
    with pytest.raises(StatsnormError, match="not all 0"):
        removed_fraction(before, after, weights=np.zeros(8))
    with pytest.raises(StatsnormError, match=r"weights must have shape \(8,\)"):
        removed_fraction(before, after, weights=[1, 2])


def test_nan_channels_are_left_out_of_both_arms_and_counted():
    before, after = arms(np.random.default_rng(13))
    clean = removed_fraction(before[..., 2:], after[..., 2:])
    before[1, 2, 0, 0] = after[3, 1, 1, 1] = np.nan
    found = removed_fraction(before, after)
    assert (found.n_nan, found.n_channels) == (2, 6)
    assert np.isnan(found.per_channel[:2]).all()
    assert_allclose([found.low, found.high], [clean.low, clean.high])


def test_constant_channels_add_nothing():
    before, after = arms(np.random.default_rng(14))
    before[..., 0] = after[..., 0] = 0.1
    found = removed_fraction(before, after)
    assert np.isnan(found.per_channel[0])  # 0 / 0
    assert found.n_nan == 0
    rest = removed_fraction(before[..., 1:], after[..., 1:])
    assert_allclose([found.estimate, found.low], [rest.estimate, rest.low])


def test_planted_truth_is_recovered():
    kept = {"style": 0.2, "content": 0.7, "contrast": 0.0}
    before, after = arms(
        np.random.default_rng(15), images=40, styles=24, channels=32, kept=kept, spread=0.6
    )
    found = {f: removed_fraction(before, after, factor=f) for f in ("style", "content")}
    assert found["style"].low < 0.8 < found["style"].high
    assert found["content"].low < 0.3 < found["content"].high
    assert_allclose(removed_fraction(before, after, factor="contrast").estimate, 1, atol=1e-2)
    psi = selectivity(before, after)
    assert psi.low < np.log(0.2 / 0.7) < psi.high


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"factor": "styles"}, "factor must be one of .*got 'styles'"),
        ({"confidence": 95}, "got 95"),
        ({"interval": "bootstrap"}, "interval must be one of"),
        ({"contrast": "mixed"}, "contrast must be one of"),
    ],
)
def test_bad_choices_are_refused(kwargs, message):
    before, after = arms(np.random.default_rng(16), images=4, styles=4)
    with pytest.raises(StatsnormError, match=message):
        removed_fraction(before, after, **kwargs)


def test_bad_arms_are_refused():
    before, after = arms(np.random.default_rng(17), images=4, styles=4)
    with pytest.raises(StatsnormError, match=r"same cells and channels, got shapes .*3, 8.*3, 7"):
        removed_fraction(before, after[..., :7])
    with pytest.raises(StatsnormError, match="before has 2 images"):
        removed_fraction(before[:2], after[:2])
    with pytest.raises(StatsnormError, match="needs at least 2 levels, got 1"):
        removed_fraction(before[:, :, :1], after[:, :, :1], factor="contrast")
    with pytest.raises(StatsnormError, match="no channel is left"):
        removed_fraction(before * np.nan, after)
    with pytest.raises(StatsnormError, match=r"1 \+ 4 \+ 4 = 9 rows"):
        removed_from_replicates(np.ones(8), np.ones(8), 4, 4)
    with pytest.raises(StatsnormError, match="two factors"):
        selectivity(before, after, of="style", against="style")


def traces(rng, n, *, images=12, styles=10, **kwargs):
    """Draw trace replicates of n taps: dicts of (1 + I + S, n) before and after."""
    designs = [arms(rng, images=images, styles=styles, **kwargs) for _ in range(n)]
    return tuple(
        {
            f: np.stack([component_replicates(d[arm])[f].mean(axis=1) for d in designs], axis=1)
            for f in ("style", "content", "contrast")
        }
        for arm in (0, 1)
    )


def test_mean_over_taps_is_jackknifed_as_one_number():
    b, a = traces(np.random.default_rng(18), 3, spread=0.5)
    found = mean_removed_from_replicates(b["style"], a["style"], 12, 10)
    assert found.method == "jackknife-t"
    left = (a["style"] / b["style"]).mean(axis=1)
    log = jackknife_replicates(np.log(left), 12, 10)
    assert_allclose(found.estimate, 1 - left[0])
    assert_allclose([found.low, found.high], [1 - np.exp(log.high), 1 - np.exp(log.low)])
    one = mean_removed_from_replicates(b["style"][:, :1], a["style"][:, :1], 12, 10)
    alone = removed_from_replicates(b["style"][:, 0], a["style"][:, 0], 12, 10)
    assert_allclose([one.low, one.high, one.se], [alone.low, alone.high, alone.se])
    gone = mean_removed_from_replicates(b["style"], a["style"] - a["style"][0] + 1e-4, 12, 10)
    assert gone.method == "jackknife-t linear"
    assert_allclose(gone.high - gone.estimate, gone.estimate - gone.low)
    with pytest.raises(StatsnormError, match=r"\(1 \+ I \+ S, T\)"):
        mean_removed_from_replicates(b["style"][:, 0], a["style"][:, 0], 12, 10)


def test_difference_of_two_removed_fractions_is_paired():
    b, a = traces(np.random.default_rng(19), 1, spread=0.5)
    b, a = b["style"][:, 0], a["style"][:, 0]
    found = removed_difference_from_replicates(b, a, b, 1.5 * a, 12, 10)
    line = jackknife_replicates(1.5 * a / b - a / b, 12, 10)
    assert_allclose([found.estimate, found.se, found.dof], [line.estimate, line.se, line.dof])
    assert_allclose([found.low, found.high], [line.low, line.high])
    t = found.estimate / found.se
    assert_allclose(found.pvalue, 2 * stats.t.sf(t, found.dof))
    same = removed_difference_from_replicates(b, a, b, a, 12, 10)
    assert (same.estimate, same.low, same.high, same.pvalue) == (0, 0, 0, 1)


def test_reference_networks_add_their_own_spread():
    rng = np.random.default_rng(20)
    value = 0.9 + 0.01 * rng.normal(size=23)
    reference = rng.normal(0.6, 0.05, size=8) + np.zeros((23, 1))  # networks differ, cells do not
    found = difference_from_replicates(value, reference, 12, 10)
    parts = jackknife_replicates(value, 12, 10).se ** 2, reference[0].var(ddof=1) / 8
    assert_allclose(found.se**2, sum(parts))
    assert found.n_networks == 8
    assert_allclose([found.reference_low, found.reference_high],
                    [reference.min(), reference.max()])  # fmt: skip
    exact = difference_from_replicates(np.full(23, 0.9), reference, 12, 10)
    welch = stats.ttest_1samp(reference[0], 0.9)  # only the networks vary: one-sample t
    assert_allclose(exact.pvalue, welch.pvalue)
    ci = welch.confidence_interval()
    assert_allclose([0.9 - exact.high, 0.9 - exact.low], [ci.low - 0, ci.high - 0])


def test_networks_and_taps_together():
    rng = np.random.default_rng(21)
    b, a = traces(rng, 3, spread=0.5)
    b, a = b["style"], a["style"]
    many_b = np.stack([b, b, b], axis=-1)
    many_a = np.stack([a, 1.2 * a, 1.4 * a], axis=-1)
    found = removed_difference_from_replicates(b, a, many_b, many_a, 12, 10)
    rs = [removed_replicates(b, f * a) for f in (1, 1.2, 1.4)]
    again = difference_from_replicates(rs[0], np.stack(rs, axis=1), 12, 10)
    assert_allclose([found.low, found.high], [again.low, again.high])
    with pytest.raises(StatsnormError, match="one axis of networks"):
        removed_difference_from_replicates(b, a, b[:, :2], a[:, :2], 12, 10)


def test_selectivity_against_the_formula():
    before, after = arms(np.random.default_rng(22), spread=0.4)
    for of, against in (("style", "content"), ("style", "contrast")):
        found = selectivity(before, after, of=of, against=against)
        b, a = (component_replicates(y) for y in (before, after))
        logs = [np.log(x.mean(axis=1)) for x in (a[of], b[of], a[against], b[against])]
        line = jackknife_replicates(logs[0] - logs[1] - logs[2] + logs[3], 12, 9)
        assert_allclose([found.estimate, found.low, found.high],
                        [line.estimate, line.low, line.high])  # fmt: skip
        assert_allclose(found.removed_of, removed_fraction(before, after, factor=of).estimate)
    turned = selectivity(before, after, of="content", against="style")
    psi = selectivity(before, after)
    assert_allclose([turned.low, turned.high], [-psi.high, -psi.low])


def test_selectivity_of_remainders_is_not_interpretable():
    b, a = traces(np.random.default_rng(23), 1, noise=0.05)
    x = [t[f][:, 0] for f in ("style", "content") for t in (b, a)]
    assert selectivity_from_replicates(*x, 12, 10).interpretable
    gone = selectivity_from_replicates(x[0], 0.01 * x[1], x[2], 0.01 * x[3], 12, 10)
    assert not gone.interpretable
    negative = selectivity_from_replicates(x[0], -x[1], x[2], x[3], 12, 10)
    assert np.isnan(negative.estimate)
    assert not negative.interpretable
    two = [np.stack([v, v], axis=1) for v in x]
    assert_allclose(selectivity_replicates(*two), selectivity_replicates(*x))


def coverage(draws, *, images, styles, seed, interval="auto", dims=4):
    """Share of intervals that hold the true R_S and Psi, with dependent channels."""
    rng, hits = np.random.default_rng(seed), []
    for _ in range(draws):
        loads = rng.normal(size=(2, dims, 32))
        loads /= np.sqrt(np.square(loads).sum(axis=1).mean(axis=1))[:, None, None]
        design = []
        a, s = rng.normal(size=(images, dims)), rng.normal(size=(styles, dims))
        for keep_a, keep_s in ((1.0, 1.0), (0.7, 0.4)):
            new = 0.7 * s + np.sqrt(1 - 0.49) * rng.normal(size=s.shape)
            y = np.sqrt(keep_a) * (a @ loads[0])[:, None, None]
            y = y + np.sqrt(keep_s) * (new @ loads[1])[None, :, None]
            y = y + 0.5 * rng.normal(size=(images, styles, 1, 32))
            design.append(y + 0.2 * rng.normal(size=(images, styles, 3, 32)))
        reps = [component_replicates(y) for y in design]
        t = [{f: r[f].mean(axis=1) for f in ("style", "content")} for r in reps]
        r = removed_from_replicates(t[0]["style"], t[1]["style"], images, styles, interval=interval)
        psi = selectivity_from_replicates(
            t[0]["style"], t[1]["style"], t[0]["content"], t[1]["content"], images, styles
        )
        hits.append((r.low <= 0.6 <= r.high, psi.low <= np.log(0.4 / 0.7) <= psi.high))
    return np.mean(hits, axis=0)


def test_coverage_is_near_nominal():
    found = coverage(300, images=16, styles=16, seed=24)
    assert (found > 0.95 - 4 * np.sqrt(0.05 * 0.95 / 300)).all()


@pytest.mark.slow
@pytest.mark.parametrize(("styles", "least"), [(8, 0.92), (16, 0.93)])
def test_coverage_of_log_ratios(styles, least):
    found = coverage(2000, images=40, styles=styles, seed=25)
    assert (found >= least).all()
    assert (found <= 0.985).all()


@pytest.mark.slow
def test_coverage_of_fieller():
    assert coverage(600, images=24, styles=8, seed=26, interval="fieller")[0] >= 0.94


def test_speed_and_memory_of_the_full_size():
    import tracemalloc

    rng = np.random.default_rng(27)
    before = rng.normal(size=(64, 16, 5, 512))
    after = before * 0.5
    started = time.process_time()
    removed_fraction(before, after)
    assert time.process_time() - started < 4  # measured 0.04 s; generous for a busy machine
    tracemalloc.start()
    removed_fraction(before, after)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * before.nbytes
