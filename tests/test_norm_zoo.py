from __future__ import annotations

import io
import itertools

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from synthetic_zoo import KEEP, moments, zoo_tables

from analyses import norm_zoo
from statsnorm import figures
from statsnorm.decisions import (
    CONTRADICTED,
    INCONCLUSIVE,
    NOT_INTERPRETABLE,
    NOT_TESTABLE,
    SUPPORTED,
    load_plan,
)
from statsnorm.errors import StatsnormError
from statsnorm.removal.ratios import ratio, ratio_from, standard_error
from statsnorm.stats.components import crossed_components
from statsnorm.zoo.arms import Arm
from statsnorm.zoo.between import between_share, between_variance, identity_error, share_replicates
from statsnorm.zoo.results import reading
from statsnorm.zoo.summary import joined, with_networks

PLAN = load_plan()
STYLE = ("bn", "train", "style-homogeneous")


def report(tables):
    frames = norm_zoo.summarise(tables)
    return norm_zoo.run(frames, PLAN, np.random.default_rng(0))


def verdicts(found):
    return {claim.hypothesis: claim.verdict for claim in found.claims}


@pytest.fixture(scope="module")
def planted():
    return report(zoo_tables(np.random.default_rng(0)))


def rows(found, **where):
    table = found.tables["removed"]
    defaults = {"moment": "v", "baseline": "own frozen map", "condition": ""}
    for name, value in (defaults | where).items():
        table = table[table[name] == value]
    return table


def test_planted_fractions_are_recovered_in_every_arm(planted):
    for (norm, mode, kind), keep in KEEP.items():
        if norm == "none" or kind == "style-homogeneous":
            continue  # the latter has one tap of its own, see below
        arm = Arm(norm, kind if mode == "train" else "").label
        table = rows(planted, arm=arm).set_index("quantity")
        for quantity, share in zip(("R_I", "R_S", "R_K"), keep, strict=True):
            row = table.loc[quantity]
            assert_allclose(row["estimate"], 1 - share, atol=0.03)
            assert row["low"] - 1e-9 <= row["estimate"] <= row["high"] + 1e-9
        if norm == "in":
            assert table.loc["Psi", "low"] < np.log(0.2 / 0.7) < table.loc["Psi", "high"]
            perp = rows(planted, arm=arm, condition="match-luminance").iloc[0]
            assert_allclose(perp["estimate"], 1 - 0.5 * 0.2, atol=0.03)


def test_a_fixed_map_removes_exactly_nothing():
    """A per-channel affine map, the same for all images: R = 0 in m and v (method.md 2.6)."""
    tables = zoo_tables(np.random.default_rng(1), keep={k: KEEP[k] for k in list(KEEP)[1:3]})
    rng = np.random.default_rng(2)
    for row, _, mean, var in tables.blocks:
        if row["treatment"] == "none" and row["bn_mode"] == "eval":
            frozen = next(
                b for b in tables.blocks
                if b[0] == {**row, "treatment": "frozen:prefix"}
            )  # fmt: skip
            scale, shift = rng.normal(size=(2, mean.shape[-1]))
            mean[:] = frozen[2] * scale + shift
            var[:] = frozen[3] * scale**2
    found = report(tables)
    for moment in ("m", "v"):
        table = rows(found, arm="BN (eval mode)", moment=moment)
        exact = table[table["quantity"].isin(["R_S", "R_I", "R_K"])]
        assert len(exact) == 3
        assert_allclose(exact[["estimate", "low", "high"]], 0, atol=1e-9)
        assert_allclose(table[table["quantity"] == "Psi"]["estimate"], 0, atol=1e-9)


def test_one_channel_a_group_is_in_and_reads_the_same():
    keep = {k: KEEP[k] for k in KEEP if k[0] in ("none", "in")}
    tables = zoo_tables(np.random.default_rng(3), keep=keep)
    for row, labels, mean, var in list(tables.blocks):
        if row["norm"] == "in":
            tables.add({**row, "norm": "gn12", "network": "vgg16+gn12"}, labels, mean, var)
    found = report(tables)
    one, other = (
        rows(found, arm=arm)[["quantity", "estimate", "low", "high"]].reset_index(drop=True)
        for arm in ("IN", "GN12")
    )
    pd.testing.assert_frame_equal(one, other)


def test_the_one_table_has_a_row_an_arm_and_says_who_is_selective(planted):
    zoo = planted.tables["zoo"].set_index("arm")
    assert list(zoo.index) == [
        "none", "frozen map", "BN (eval mode)", "BN (mixed batches)",
        "BN (content-homogeneous batches)", "BN (style-homogeneous batches)", "LN", "GN8", "IN",
    ]  # fmt: skip
    said = zoo["removes more of"]
    assert said["IN"] == said["BN (style-homogeneous batches)"] == "style"
    assert said["BN (content-homogeneous batches)"] == "content"
    assert said["none"] == said["frozen map"] == "nothing removed"
    assert zoo.loc["frozen map", "R_S"] == "0 (by definition)"
    assert zoo.loc["IN", "R_S"].startswith("0.8")
    assert "R_S_perp (match-luminance)" in zoo
    assert "IN remove style more thoroughly than content" in planted.headline


def test_against_no_normaliser_the_frozen_map_has_a_number(planted):
    table = rows(planted, baseline="no normaliser", arm="frozen map").set_index("quantity")
    assert_allclose(table.loc["R_S", "estimate"], 1 - 1 / 1.5, atol=0.02)
    plane = planted.tables["plane"]
    assert set(plane["baseline"]) == {"no normaliser"}
    row = plane.set_index("arm").loc["IN"]
    assert_allclose([row["style"], row["content"]], [0.2 / 1.5, 0.7 / 1.5], atol=0.02)


def test_planted_h7_is_supported(planted):
    assert verdicts(planted) == {"H7a": SUPPORTED, "H7b": SUPPORTED}
    assert {c.family for c in planted.claims} == {"F3"}
    assert all(c.scope.startswith("(cin26 styles)") for c in planted.claims)
    gate = planted.gates[0]
    assert gate.passed
    assert gate.value < 1e-9
    effects = planted.effects
    assert {"omega_BN", "R_S(style-homogeneous)", "R_I(mixed)"} <= set(effects["statistic"])
    beside = effects[effects["statistic"] == "R_I(mixed)"].iloc[0]
    assert beside["verdict"] == "not required"
    assert np.isnan(beside["p_adjusted"])
    assert beside["threshold"].startswith("p < alpha")
    assert beside["threshold"].endswith(f"; not required, own p = {beside['pvalue']:.2g}")
    assert "(not required)" in next(c.sentence for c in planted.claims if c.hypothesis == "H7b")
    p = effects.drop_duplicates("hypothesis").set_index("hypothesis")["p_adjusted"]
    assert (p < 0.05).all()


def test_holm_keeps_a_slot_for_h6(planted):
    effects = planted.effects[planted.effects["statistic"].isin(
        ["omega_BN", "omega_BN(mixed) - omega_BN(style-homogeneous)",
         "R_S(style-homogeneous)", "R_I(style-homogeneous)"])]  # fmt: skip
    largest = effects.groupby("hypothesis")["pvalue"].max().sort_values()
    adjusted = effects.groupby("hypothesis")["p_adjusted"].first()
    first, second = largest.index
    assert_allclose(adjusted[first], min(1, 3 * largest[first]))
    assert_allclose(adjusted[second], min(1, max(3 * largest[first], 2 * largest[second])))


def test_content_that_goes_too_contradicts():
    keep = {**KEEP, STYLE: (0.2, 0.05, 0.01)}
    tables = zoo_tables(np.random.default_rng(4), keep=keep, identity=False)
    assert verdicts(report(tables))["H7b"] == CONTRADICTED


def test_without_its_identity_a_claim_is_not_supported():
    found = report(zoo_tables(np.random.default_rng(0), identity=False))
    assert set(verdicts(found).values()) <= {INCONCLUSIVE, CONTRADICTED}
    assert any("identity behind batch normalisation" in c.sentence for c in found.claims)


def test_batches_other_than_recorded_are_not_interpretable():
    tables = zoo_tables(np.random.default_rng(5))
    behind = next(b for b in tables.blocks if b[0]["tap_kind"] == "post_norm")
    behind[3][:12] *= 1.5  # half of the images moved by another map
    found = report(tables)
    assert set(verdicts(found).values()) == {NOT_INTERPRETABLE}
    assert not found.gates[0].passed


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ({"images": 20}, "20 images < 24"),
        ({"styles": 6}, "6 styles < 8"),
        ({"levels": 2}, "2 levels < 3"),
        ({"seeds": 4}, "4 random initialisations < 8"),
        ({"batch": 6}, "6 contents a batch < 8"),
        ({"batch": None}, "the batch size is not recorded"),
    ],
)
def test_small_designs_are_not_testable(size, reason):
    found = report(zoo_tables(np.random.default_rng(6), channels=6, **size))
    assert set(verdicts(found).values()) == {NOT_TESTABLE}
    assert reason in found.claims[0].sentence
    assert any(reason in text for text in found.left_out)


def test_a_missing_kind_of_batch_is_named():
    keep = {k: v for k, v in KEEP.items() if k != STYLE}
    found = report(zoo_tables(np.random.default_rng(7), keep=keep))
    reasons = {c.hypothesis: c.sentence for c in found.claims}
    assert verdicts(found) == {"H7a": NOT_TESTABLE, "H7b": NOT_TESTABLE}
    assert "not measured: omega_BN(mixed) - omega_BN(style-homogeneous)" in reasons["H7a"]
    assert "not measured: R_S(style-homogeneous), R_I(style-homogeneous)" in reasons["H7b"]


def test_generators_are_judged_at_both_places():
    found = report(zoo_tables(np.random.default_rng(8), host="toy", vgg=True))
    assert verdicts(found)["H7b"] == SUPPORTED
    parts = found.effects[found.effects["hypothesis"] == "H7b"]
    assert len(parts) == 8
    assert sum("VGG of output relu3_1" in tap for tap in parts["tap"]) == 4
    assert set(found.tables["zoo"]["place"]) == {
        "mean over next_pre_norm", "VGG of output relu3_1",
    }  # fmt: skip


def test_a_generator_without_vgg_of_its_output_is_not_testable():
    """Both places are primary (method.md 3.3): leaving one out would pick the other."""
    found = report(zoo_tables(np.random.default_rng(8), host="toy"))
    assert verdicts(found) == {"H7a": SUPPORTED, "H7b": NOT_TESTABLE}
    sentence = next(c.sentence for c in found.claims if c.hypothesis == "H7b")
    assert "not measured at VGG of output relu3_1" in sentence
    assert "R_S(style-homogeneous) = 0.9" in sentence  # the numbers stay
    assert any("not measured at VGG of output relu3_1" in text for text in found.left_out)


def test_random_networks_are_units_beside_images_and_styles():
    found = report(zoo_tables(np.random.default_rng(9), seeds=8, channels=6, identity=False))
    assert set(found.tables["removed"]["networks"]) == {8}
    assert set(found.tables["zoo"]["host"]) == {"vgg16, random weights"}
    assert "8 random initialisations of vgg16" in found.claims[0].scope
    assert "8 networks" in found.claims[0].sentence


def test_tables_without_a_second_arm_hold_nothing_for_it():
    keep = {("in", "eval", "mixed"): KEEP["in", "eval", "mixed"]}
    assert norm_zoo.summarise(zoo_tables(np.random.default_rng(10), keep=keep)) == {}


def test_without_bn_there_is_a_table_and_no_claim():
    keep = {k: v for k, v in KEEP.items() if k[0] in ("ln", "in")}
    found = report(zoo_tables(np.random.default_rng(11), keep=keep, perp=False))
    assert found.claims == ()
    assert set(found.tables["plane"]["baseline"]) == {"own frozen map"}
    assert any("match-luminance: not extracted" in text for text in found.left_out)
    assert any("no network was run with BN" in text for text in found.left_out)
    assert "frozen map" in set(found.tables["zoo"]["arm"])
    assert not any(name.startswith("R_S_perp") for name in found.tables["zoo"])


def test_images_that_one_arm_lacks_leave_all_arms():
    tables = zoo_tables(np.random.default_rng(12), perp=False)
    for row, _, mean, var in tables.blocks:
        if row["norm"] == "ln":
            mean[5, 2, 1], var[5, 2, 1] = np.nan, np.nan
    frames = norm_zoo.summarise(tables)
    assert frames["hosts"]["images"].tolist() == [23]
    assert {len(v) for v in frames["kept"]["values"]} == {1 + 23 + 8}


def test_dead_channels_leave_all_arms_and_are_counted():
    tables = zoo_tables(np.random.default_rng(13), perp=False)
    for row, _, _, var in tables.blocks:
        if row["norm"] == "gn8":
            var[..., 3] = 0.0
    found = report(tables)
    assert set(found.tables["components"]["dropped"]) == {1}
    assert any("(1 dropped at most" in text for text in found.methods)


def test_eps_is_a_floor_only_where_a_layer_adapts():
    """A frozen map of low variance once cost a whole network (100 eps = 1e-3 in the stand-in)."""
    tables = zoo_tables(np.random.default_rng(21), perp=False)
    for row, _, mean, var in tables.blocks:
        if row["treatment"] == "frozen:prefix":
            mean *= 1e-2
            var *= 1e-4
    assert set(norm_zoo.summarise(tables)["components"]["dropped"]) == {0}
    for row, _, _, var in tables.blocks:
        if row["norm"] == "ln" and row["treatment"] == "none":
            var[..., :2] *= 1e-4
    assert set(norm_zoo.summarise(tables)["components"]["dropped"]) == {2}


def test_rows_right_behind_a_normaliser_are_never_evidence(planted):
    assert set(planted.tables["components"]["tap_kind"]) == {"next_pre_norm"}


def test_arms_by_name():
    arms = [Arm("in"), Arm("gn32"), Arm("bn", "style-homogeneous"), Arm("gn8"), Arm("none")]
    labels = [arm.label for arm in sorted(arms, key=lambda a: a.rank)]
    assert labels == ["none", "BN (style-homogeneous batches)", "GN8", "GN32", "IN"]


# --- statistics against brute force -----------------------------------------------------------


def test_joined_replicates_are_a_three_way_jackknife():
    """Every replicate against recomputing the mean ratio on the arrays themselves."""
    rng = np.random.default_rng(14)
    nets, taps, images, styles = 3, 2, 5, 4
    before = rng.normal(size=(nets, taps, images, styles, 2, 3))
    before += 3 * rng.normal(size=(nets, taps, 1, styles, 1, 3))
    after = 0.5 * before + 0.1 * rng.normal(size=before.shape)

    def style(y):
        return crossed_components(y).style.mean()

    def statistic(a, b):
        pairs = itertools.product(range(len(a)), range(taps))
        return np.mean([style(a[n, t]) / style(b[n, t]) for n, t in pairs])

    def replicates(y):
        return [style(y)] + [
            style(np.delete(y, i, axis)) for axis in (0, 1) for i in range(y.shape[axis])
        ]

    top, bottom = (
        np.array([[replicates(y[n, t]) for t in range(taps)] for n in range(nets)])
        for y in (after, before)
    )
    found = joined(top, bottom)
    oracle = [statistic(after, before)]
    for axis in (2, 3, 0):
        for i in range(before.shape[axis]):
            oracle.append(statistic(np.delete(after, i, axis), np.delete(before, i, axis)))
    assert_allclose(found["values"], oracle, rtol=1e-12)
    groups = (images, styles, nets)
    kept = ratio_from(
        found["values"], found["above"], found["below"], groups, confidence=0.95, log=True
    )
    each = np.split(np.log(np.array(oracle))[1:], np.cumsum(groups)[:-1])
    if kept.method == "log":
        assert_allclose(kept.se**2, sum((len(x) - 1) * x.var() for x in each))
    contrast = found["above"] - found["values"][0] * found["below"]
    assert_allclose(contrast[0], 0, atol=1e-12)


def test_one_network_joins_to_the_ratio_over_taps():
    rng = np.random.default_rng(15)
    bottom = 2 + 0.1 * rng.normal(size=(1, 3, 1 + 6 + 5))
    top = bottom * 0.4 + 0.01 * rng.normal(size=bottom.shape)
    found = joined(top, bottom)
    mine = ratio_from(found["values"], found["above"], found["below"], (6, 5), confidence=0.95)
    other = ratio(top[0], bottom[0], (6, 5), confidence=0.95)
    assert_allclose(
        [mine.estimate, mine.low, mine.high, mine.dof],
        [other.estimate, other.low, other.high, other.dof],
    )
    assert mine.method == other.method


def test_networks_left_out():
    each = np.array([[1.0, 2.0], [3.0, 5.0], [8.0, 2.0]])
    assert_allclose(with_networks(each), [4, 3, 5.5, 4.5, 2])
    assert_allclose(with_networks(each[:1]), [1, 2])


@pytest.mark.parametrize("kind", ["mixed", "style-homogeneous", "content-homogeneous"])
def test_between_variance_against_all_pairs(kind):
    rng = np.random.default_rng(16)
    y = rng.normal(size=(4, 3, 2, 5)) + 7
    cells = list(itertools.product(range(4), range(3), range(2)))
    wanted = {
        "mixed": lambda a, b: a[0] != b[0] and a[1:] != b[1:],
        "style-homogeneous": lambda a, b: a[0] != b[0] and a[1:] == b[1:],
        "content-homogeneous": lambda a, b: a[0] == b[0] and a[1:] != b[1:],
    }[kind]
    pairs = [(y[a] - y[b]) ** 2 / 2 for a in cells for b in cells if wanted(a, b)]
    assert_allclose(between_variance(y, kind), np.mean(pairs, axis=0), rtol=1e-12)


def test_between_variance_finds_planted_variances():
    rng = np.random.default_rng(17)
    y = 2 * rng.normal(size=(400, 1, 1, 30)) + 0.5 * rng.normal(size=(1, 60, 2, 30))
    found = [between_variance(y, k).mean() for k in ("style-homogeneous", "content-homogeneous",
                                                     "mixed")]  # fmt: skip
    assert_allclose(found, [4, 0.25, 4.25], rtol=0.06)


def test_share_is_one_half_where_both_variances_are_equal_and_replicates_are_recomputed():
    rng = np.random.default_rng(18)
    mean, var = rng.normal(size=(6, 4, 2, 3)), np.ones((6, 4, 2, 3))
    scale = np.sqrt(between_variance(mean, "mixed"))
    assert_allclose(between_share(mean / scale, var, "mixed"), 0.5)
    found = share_replicates(mean, var, "mixed")
    assert_allclose(found[3], between_share(np.delete(mean, 2, 0), np.delete(var, 2, 0), "mixed"))
    assert_allclose(found[-1], between_share(mean[:, :3], var[:, :3], "mixed"))
    assert standard_error(found, (6, 4))[0] > 0


def test_between_variance_refuses():
    with pytest.raises(StatsnormError, match="unknown batch kind 'mixd'"):
        between_variance(np.zeros((3, 2, 2, 1)), "mixd")
    with pytest.raises(StatsnormError, match="at least 2 contents"):
        between_variance(np.zeros((1, 2, 2, 1)), "mixed")


def test_identity_holds_for_batches_whose_members_are_not_known():
    rng = np.random.default_rng(19)
    before = np.exp(rng.normal(size=(12, 3, 2, 4)))
    batch = rng.permutation(np.repeat([0, 1], 6))  # which images shared a batch
    maps = np.exp(rng.normal(size=(2, 3, 2, 4)))
    after = before * maps[batch]
    assert identity_error(before, after, 6) < 1e-12
    assert identity_error(before, after, 12) > 0.1
    after[0] *= 1.01  # one image outside
    assert_allclose(identity_error(before, after, 6), 0.5 * np.log(1.01), rtol=1e-6)


@pytest.mark.parametrize(
    ("psi", "removed", "said"),
    [
        ((-1.0, -1.5, -0.5), (0.9, 0.5), "style"),
        ((1.0, 0.5, 1.5), (0.2, 0.8), "content"),
        ((0.1, -0.5, 0.7), (0.6, 0.6), "neither, as far as shown"),
        ((-1.0, -1.5, -0.5), (0.99, 0.97), "a ratio of remainders"),
        ((np.nan, np.nan, np.nan), (0.9, 0.5), "not measured"),
        ((0.4, 0.2, 0.6), (-0.2, 0.1), "removes little"),
    ],
)
def test_reading(psi, removed, said):
    by = {"Psi": dict(zip(("estimate", "low", "high"), psi, strict=True))}
    by |= {q: {"estimate": r} for q, r in zip(("R_S", "R_I"), removed, strict=True)}
    assert reading(by, little=0.2) == said


# --- figures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["norm_panels", "selectivity_plane", "forest"])
def test_every_figure_of_the_report_draws(planted, name):
    figure = next(f for f in planted.figures if f.name == name)
    drawn = getattr(figures, figure.draw)(planted.tables[figure.table], **figure.options)
    assert drawn.get_figwidth() * 96 == pytest.approx(700, abs=2)
    sink = io.BytesIO()
    drawn.savefig(sink, format="svg")
    assert sink.tell() > 5000


def test_panels_hold_the_estimates_and_cut_what_lies_outside():
    rows_ = [
        {"host": h, "arm": a, "quantity": q, "estimate": e, "low": e - 0.1, "high": np.inf}
        for h in ("x", "y") for a in ("none", "IN") for q, e in (("R_S", 0.5), ("Psi", -9.0))
    ]  # fmt: skip
    figure = figures.norm_panels(pd.DataFrame(rows_))
    assert len(figure.axes) == 2
    values = {}
    for axis, quantity in zip(figure.axes, ("R_S", "Psi"), strict=True):
        lines = [line for line in axis.lines if line.get_marker() in ("o", "s")]
        values[quantity] = np.concatenate([np.asarray(x.get_xdata(), float) for x in lines])
    assert_allclose(values["R_S"], 0.5)
    assert_allclose(values["Psi"], -4)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["none", "IN"]


def test_plane_draws_what_is_gone_at_its_edge():
    row = {"host": "x", "arm": "IN", "style": -0.01, "style_low": -0.1, "style_high": 0.02,
           "content": 0.5, "content_low": 0.4, "content_high": np.inf}  # fmt: skip
    figure = figures.selectivity_plane(pd.DataFrame([row]))
    assert figure.axes[0].get_xscale() == figure.axes[0].get_yscale() == "log"
    point = next(line for line in figure.axes[0].lines if line.get_marker() == "o")
    assert_allclose(np.asarray(point.get_ydata(), float), [1e-3])


def test_moments_of_the_stand_in_are_what_they_say():
    y = np.random.default_rng(20).normal(size=(5, 4, 2, 3))
    mean, var = moments(y)
    assert_allclose(0.5 * np.log(var), y)
    assert_allclose(mean / np.sqrt(var.mean(axis=(0, 1, 2))), y)
