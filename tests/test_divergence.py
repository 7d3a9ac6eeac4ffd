import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy import stats as distributions
from synthetic_tables import SyntheticTables

from analyses import divergence
from statsnorm.decisions import load_plan
from statsnorm.stats.distances import feature_divergence

PLAN = load_plan()
IMAGES = [f"{i:03d}.jpg" for i in range(20)]


def add(tables, tap, depth, mean, *, labels=None, **keys):
    var = np.ones_like(mean)
    tables.add(
        {"network": "vgg16", "tap": tap, "tap_kind": "post_act", "depth": depth, **keys},
        labels or {"image": IMAGES},
        mean,
        var,
    )


def report(tables):
    frames = divergence.summarise(tables)
    return divergence.run(frames, PLAN, np.random.default_rng(0))


@pytest.mark.parametrize("paired", [True, False])
def test_leave_one_out_against_recomputation(paired):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 5)), rng.normal(1, 2, size=(9 if paired else 7, 5))
    full, plug_in, left, sizes = divergence.leave_one_out(x, y, paired=paired)
    oracle = feature_divergence(x, y)
    assert_allclose(plug_in, oracle.estimate)
    if paired:
        pairs = [(np.delete(x, i, 0), np.delete(y, i, 0)) for i in range(9)]
        values = [feature_divergence(a, b).estimate for a, b in pairs]
        assert_allclose(full, 9 * oracle.estimate - 8 * np.mean(values))
    else:
        pairs = [(np.delete(x, i, 0), y) for i in range(9)]
        pairs += [(x, np.delete(y, i, 0)) for i in range(7)]
        values = [feature_divergence(a, b).unbiased for a, b in pairs]
        assert_allclose(full, oracle.unbiased)
    assert sizes == ([9] if paired else [9, 7])
    assert_allclose(left, values)


@pytest.mark.parametrize("paired", [True, False])
def test_blocks_of_channels_change_nothing(monkeypatch, paired):
    rng = np.random.default_rng(9)
    x, y = rng.normal(size=(9, 7)), rng.normal(1, 2, size=(9, 7))
    whole = divergence._in_blocks(x, y, paired=paired)
    assert_allclose(whole[2], divergence.leave_one_out(x, y, paired=paired)[2])
    monkeypatch.setattr(divergence, "MOST_VALUES", 27)  # three channels, three, one
    for one, other in zip(divergence._in_blocks(x, y, paired=paired), whole, strict=True):
        assert_allclose(one, other)


def test_the_energy_distance_of_large_groups_is_that_of_a_spread_of_images(monkeypatch):
    rng, tables = np.random.default_rng(10), SyntheticTables()
    base = rng.normal(size=(20, 8))
    add(tables, "a", 1, base)
    add(tables, "a", 1, base + 1, condition="style")
    every = report(tables)
    monkeypatch.setattr(divergence, "MOST_FOR_ENERGY", 10)
    some = report(tables)
    a, b = (r.tables["divergence"].iloc[0] for r in (every, some))
    assert a["estimate"] == b["estimate"]
    assert a["energy"] != b["energy"]
    assert abs(a["energy"] - b["energy"]) < 0.2
    assert not any("evenly spaced" in text for text in every.methods)
    assert any("of 10 of their images" in text for text in some.methods)


def test_sentences_name_the_index_and_pass_over_taps_without_a_number():
    rng, tables = np.random.default_rng(11), SyntheticTables()
    base = rng.normal(size=(20, 8))
    for tap, depth, moved in (("a", 1, base + 1), ("b", 2, base + 2), ("c", 3, 0 * base)):
        add(tables, tap, depth, base, index="7")
        add(tables, tap, depth, moved, index="7", condition="style")
    (said,) = report(tables).findings
    assert said.startswith("vgg16, index 7, original | style: ")
    assert "nats at a, " in said
    assert "energy distance from " in said
    assert said.endswith(" at b.")
    assert "nan" not in said


def test_equal_groups_have_no_divergence():
    x = np.random.default_rng(8).normal(size=(9, 5))
    full, plug_in, left, _ = divergence.leave_one_out(x, x.copy(), paired=True)
    assert (full, plug_in, np.abs(left).max()) == (0, 0, 0)


def test_conditions_by_depth():
    rng, tables = np.random.default_rng(1), SyntheticTables()
    for depth, shift in ((1, 2.0), (2, 0.0)):
        base = rng.normal(size=(20, 8))
        add(tables, f"relu{depth}_1", depth, base, condition="original")
        moved = base + shift + 0.1 * rng.normal(size=base.shape)
        add(tables, f"relu{depth}_1", depth, moved, condition="style")
    table = report(tables).tables["divergence"].set_index("tap")
    assert table.loc["relu1_1", "low"] > 1
    assert abs(table.loc["relu2_1", "estimate"]) < 0.1
    assert table.loc["relu2_1", "images"] == 20


def test_interval_is_the_one_way_jackknife():
    rng, tables = np.random.default_rng(2), SyntheticTables()
    x, y = rng.normal(size=(20, 4)), rng.normal(1, 1, size=(20, 4))
    add(tables, "relu1_1", 1, x, condition="original")
    add(tables, "relu1_1", 1, y, condition="contrast")
    row = report(tables).tables["divergence"].iloc[0]
    left = [feature_divergence(np.delete(x, i, 0), np.delete(y, i, 0)).estimate for i in range(20)]
    se = np.sqrt(19 / 20 * ((left - np.mean(left)) ** 2).sum())
    half = distributions.t.ppf(0.975, 19) * se
    assert_allclose(row["high"] - row["estimate"], half)


def test_styles_are_averaged_over_pairs_at_the_first_level():
    rng, tables = np.random.default_rng(3), SyntheticTables()
    labels = {"image": IMAGES, "style": ["a:0", "a:1", "a:2"], "level": [0, 1]}
    mean = rng.normal(size=(20, 3, 2, 4)) + np.arange(3)[None, :, None, None]
    mean[:, :, 1] += 100  # the other level must not matter
    keys = {"contrast": "gain", "restore": "luminance", "strength": 1.0}
    add(tables, "relu1_1", 1, mean, labels=labels, **keys)
    row = report(tables).tables["divergence"].iloc[0]
    pairs = [(0, 1), (0, 2), (1, 2)]
    oracle = [feature_divergence(mean[:, a, 0], mean[:, b, 0]).estimate for a, b in pairs]
    assert_allclose(row["plug_in"], np.mean(oracle))
    assert row["group"].startswith("pairs of 3 styles")


def test_domains_of_a_manifest_are_unpaired():
    rng, tables = np.random.default_rng(4), SyntheticTables()
    mean = rng.normal(size=(20, 4))
    mean[:12] += 3
    add(tables, "relu1_1", 1, mean, condition="original")
    tables.attributes = pd.DataFrame({"image": IMAGES, "domain": ["photo"] * 12 + ["painting"] * 8})
    row = report(tables).tables["divergence"].iloc[0]
    assert (row["kind"], row["group"], row["images"]) == ("domain", "painting | photo", 20)
    assert_allclose(row["estimate"], feature_divergence(mean[12:], mean[:12]).unbiased)


def test_constant_channels_are_dropped_and_counted():
    rng, tables = np.random.default_rng(5), SyntheticTables()
    x, y = rng.normal(size=(2, 20, 4))
    x[:, 1] = 0.1
    add(tables, "relu1_1", 1, x, condition="original")
    add(tables, "relu1_1", 1, y, condition="style")
    row = report(tables).tables["divergence"].iloc[0]
    assert (row["channels"], row["dropped"]) == (3, 1)


def test_by_construction_taps_are_left_out():
    rng, tables = np.random.default_rng(6), SyntheticTables()
    for tap, fixed in (("a.norm", True), ("a.act", False)):
        for condition in ("original", "style"):
            y = rng.normal(size=(20, 4))
            add(tables, tap, 1, y, condition=condition, by_construction=fixed)
    found = report(tables)
    assert set(found.tables["divergence"]["tap"]) == {"a.act"}


def test_one_group_is_nothing_to_compare():
    tables = SyntheticTables()
    add(tables, "relu1_1", 1, np.random.default_rng(7).normal(size=(20, 4)), condition="original")
    assert divergence.summarise(tables) == {}


def test_a_channel_alive_in_one_image_only_is_dropped():
    rng, tables = np.random.default_rng(9), SyntheticTables()
    x, y = rng.normal(size=(2, 20, 4))
    y[:, 2] = 0
    y[7, 2] = 1.0
    add(tables, "relu1_1", 1, x, condition="original")
    add(tables, "relu1_1", 1, y, condition="style")
    row = report(tables).tables["divergence"].iloc[0]
    assert (row["channels"], row["dropped"]) == (3, 1)
    assert 0 <= row["energy"] <= 1


def test_styles_are_compared_at_the_neutral_level():
    rng, tables = np.random.default_rng(10), SyntheticTables()
    labels = {"image": IMAGES, "style": ["a:0", "a:1"], "level": [0, 1]}
    mean = rng.normal(size=(20, 2, 2, 4))
    keys = {"contrast": "gain", "restore": "luminance", "strength": 1.0}
    add(tables, "relu1_1", 1, mean, labels=labels, **keys)
    levels = {"contrast": "gain", "level": [0, 1], "parameter": "gain", "value": [0.4, 1.0]}
    tables.level_rows = pd.DataFrame(levels)
    row = report(tables).tables["divergence"].iloc[0]
    assert row["group"].endswith("gain 1)")
    assert_allclose(row["plug_in"], feature_divergence(mean[:, 0, 1], mean[:, 1, 1]).estimate)
