"""Group tests: against the library, brute force over all relabellings, and planted differences."""

from itertools import permutations, product
from math import comb

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy import stats as scipy_stats
from synthetic_tables import SyntheticTables

from analyses import group_tests
from statsnorm import group_differences as differ
from statsnorm.decisions import load_plan
from statsnorm.stats.distances import median_bandwidth
from statsnorm.stats.permanova import permanova
from statsnorm.stats.permutation import step_down_maxt

PLAN = load_plan()
IMAGES = [f"{i:03d}.jpg" for i in range(16)]


def paired(x):
    """Return rows of x (J, I, d): I images, each in J groups."""
    groups, images, d = x.shape
    codes = np.repeat(np.arange(groups), images)
    return rows_of(x.reshape(-1, d), codes, np.tile(np.arange(images), groups))


def rows_of(x, codes, blocks=None):
    reference = codes == 0 if blocks is not None else np.ones(len(x), bool)
    standard = (x - x[reference].mean(axis=0)) / x[reference].std(axis=0, ddof=1)
    return differ.Rows(
        moments=x, standard=standard, codes=codes, blocks=blocks, reference=reference
    )


def unpaired(seed=0, sizes=(7, 9, 5), shift=0.6):
    rng, codes = np.random.default_rng(seed), np.repeat(np.arange(len(sizes)), sizes)
    return rows_of(rng.normal(size=(len(codes), 4)) + shift * codes[:, None], codes)


def pairs(seed=0, images=6, groups=2, d=3, shift=0.7):
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(1, images, d))
    return paired(base + rng.normal(size=(groups, images, d)) + shift * np.eye(groups)[:, :1, None])


@pytest.mark.parametrize("make", [pairs, unpaired, lambda: pairs(groups=3)])
def test_the_share_is_that_of_permanova(make):
    rows = make()
    factors = {} if rows.blocks is None else {"image": rows.blocks}
    rng = np.random.default_rng(1)
    oracle = permanova(rows.moments, {**factors, "group": rows.codes}, rng=rng, permutations=9)
    share = differ.share_of_variation(rows)
    assert_allclose(share.omega2, oracle.omega2[-1])
    assert_allclose(share.r2, oracle.r2[-1])
    assert_allclose(share.f, oracle.statistic[-1])
    assert (share.dof, share.residual_dof) == (oracle.dof[-1], oracle.residual_dof)


def test_one_column_gives_the_f_and_r2_of_the_textbook():
    rows = unpaired()
    one = rows_of(rows.moments[:, :1], rows.codes)
    groups = [one.moments[one.codes == j, 0] for j in range(3)]
    assert_allclose(differ.share_of_variation(one).f, scipy_stats.f_oneway(*groups).statistic)
    two = pairs(d=1)
    t = scipy_stats.ttest_rel(*two.moments.reshape(2, -1)).statistic
    assert_allclose(differ.share_of_variation(two).f, t**2)


@pytest.mark.parametrize("make", [pairs, unpaired, lambda: pairs(groups=3)])
def test_left_out_shares_against_recomputation(make):
    rows = make()
    left = differ.left_out_shares(rows)
    if rows.blocks is not None:
        kept = [[rows.blocks != i for i in range(rows.images)]]
    else:
        every = np.arange(len(rows.codes))
        kept = [[every != i for i in every[rows.codes == j]] for j in range(3)]
    assert len(left) == len(kept)
    for values, masks in zip(left, kept, strict=True):
        blocks = rows.blocks
        again = [
            rows_of(rows.moments[m], rows.codes[m], None if blocks is None else blocks[m])
            for m in masks
        ]
        assert_allclose(values, [float(differ.share_of_variation(r).omega2) for r in again])


def relabellings(rows):
    """Yield the labels of every relabelling: within images, or over all rows."""
    groups, images = len(rows.sizes), rows.images
    if rows.blocks is None:
        for order in set(permutations(rows.codes.tolist())):
            yield np.array(order)
        return
    for chosen in product(permutations(range(groups)), repeat=images):
        yield np.array(chosen).T.ravel()


def exact(rows, statistic):
    """Return the share of all relabellings whose statistic is not below that of the labels."""
    member = [codes[:, None] == np.arange(len(rows.sizes)) for codes in relabellings(rows)]
    null = np.concatenate([statistic(np.array([m], float)) for m in member])
    observed = statistic(rows.member[None])[0]
    return (null >= observed - 1e-9 * np.abs(observed)).mean(axis=0), null


def pair_distances(rows):
    """Return Frechet, MMD and energy of two groups by loops over the images."""
    x, y = (rows.standard[rows.codes == j] for j in (0, 1))
    width = median_bandwidth(rows.standard[rows.reference])

    def mean(a, b, kernel, *, same=False):
        values = [
            kernel(np.linalg.norm(p - q))
            for i, p in enumerate(a)
            for k, q in enumerate(b)
            if not (same and i == k)
        ]
        return np.mean(values)

    def k(r):
        return np.exp(-(r**2) / (2 * width**2))

    gap = (x.mean(0) - y.mean(0)) ** 2 + (x.std(0, ddof=1) - y.std(0, ddof=1)) ** 2
    cross = mean(x, y, lambda r: r)
    within = [mean(a, a, lambda r: r) for a in (x, y)]
    mmd2 = mean(x, x, k, same=True) + mean(y, y, k, same=True) - 2 * mean(x, y, k)
    return [gap.mean(), mmd2, (2 * cross - sum(within)) / (2 * cross)]


@pytest.mark.parametrize("rows", [pairs(), unpaired(sizes=(4, 5))], ids=["paired", "unpaired"])
def test_distances_against_loops(rows):
    sums = differ.distance_statistic(rows)(rows.member[None])[0]
    assert_allclose(sums, pair_distances(rows))
    assert_allclose(list(differ.distances(rows).values()), pair_distances(rows))


def test_distances_of_three_groups_are_means_over_pairs():
    rows = pairs(groups=3)
    sums = differ.distance_statistic(rows)(rows.member[None])[0]
    assert_allclose(list(differ.distances(rows).values()), sums)


ROWS = [pairs(shift=1.0), unpaired(sizes=(4, 4), shift=0.9), pairs(images=4, groups=3)]


@pytest.mark.parametrize("rows", ROWS, ids=["pairs", "two samples", "three conditions"])
def test_p_values_are_those_of_all_relabellings(rows):
    draws = {"permutations": 4000}
    bound = 4 * np.sqrt(0.25 / 4000)
    p, null = exact(rows, differ.distance_statistic(rows))
    if rows.blocks is None:
        assert len(null) == comb(len(rows.codes), int(rows.sizes[0]))
    found = differ.relabelled_distances(rows, rng=np.random.default_rng(2), **draws)
    assert np.abs(found.pvalue - p).max() < bound
    assert_allclose(found.null_mean, null.mean(axis=0), atol=0.1 * null.std(axis=0).max())

    def share(member):
        again = rows_of(rows.moments, member[0].argmax(axis=1), rows.blocks)
        x = rows.moments - rows.moments.mean(axis=0)
        sums = again.member.T @ x
        return np.array([[(np.square(sums).sum(axis=1) / again.sizes).sum()]])

    p, _ = exact(rows, share)
    found = differ.share_pvalue(rows, rng=np.random.default_rng(3), **draws)
    assert abs(found - p[0]) < bound


def column_f(rows, codes):
    """Return the F (d,) of each column from sums of squares written out."""
    x, groups = rows.moments, range(len(rows.sizes))
    means = np.array([x[codes == j].mean(axis=0) for j in groups])
    within = (x - means[codes]) ** 2
    dof = len(x) - len(means)
    if rows.blocks is not None:
        images = np.array([x[rows.blocks == i].mean(axis=0) for i in range(rows.images)])
        within = (x - means[codes] - images[rows.blocks] + x.mean(axis=0)) ** 2
        dof = (len(means) - 1) * (len(images) - 1)
    between = sum((codes == j).sum() * (means[j] - x.mean(axis=0)) ** 2 for j in groups)
    return between / (len(means) - 1) / (within.sum(axis=0) / dof)


@pytest.mark.parametrize("rows", ROWS, ids=["pairs", "two samples", "three conditions"])
def test_columns_against_all_relabellings_and_step_down_by_hand(rows):
    found = differ.column_tests(rows, rng=np.random.default_rng(4), permutations=4000)
    f = column_f(rows, rows.codes)
    assert_allclose(found.f, f)
    null = np.array([column_f(rows, codes) for codes in relabellings(rows)])
    assert np.abs(found.pvalue - (null >= f * (1 - 1e-9)).mean(axis=0)).max() < 0.032
    order, by_hand = np.argsort(-f), np.empty(len(f))
    for i, column in enumerate(order):
        largest = null[:, order[i:]].max(axis=1)
        by_hand[column] = (largest >= f[column] * (1 - 1e-9)).mean()
    by_hand[order] = np.maximum.accumulate(by_hand[order])
    assert np.abs(found.p_maxt - by_hand).max() < 0.032


def test_two_conditions_have_the_maxt_of_sign_flips():
    rows = pairs(images=10, d=6, shift=0.9)
    found = differ.column_tests(rows, rng=np.random.default_rng(5), permutations=9999)
    first, second = rows.moments.reshape(2, 10, 6)
    oracle = step_down_maxt(second - first)
    assert_allclose(found.f, oracle.statistic**2)
    assert np.abs(found.pvalue - oracle.pvalue).max() < 0.02
    assert np.abs(found.p_maxt - oracle.p_adjusted).max() < 0.02


def test_listed_columns_are_ordered_by_strictness():
    rng = np.random.default_rng(6)
    shift = np.where(np.arange(40) < 20, 1.2, 0.0)
    x = rng.normal(size=(2, 16, 40)) + np.array([0, 1])[:, None, None] * shift
    tests = differ.column_tests(paired(x), rng=rng, permutations=1999)
    listed = differ.listed_columns(tests)
    assert listed["columns_bh"] >= listed["columns_by"] > 0
    assert listed["columns_bh"] > listed["columns_maxt"] > 0
    assert (tests.p_maxt >= tests.pvalue).all()


def test_without_a_difference_omega2_is_0_on_average_and_p_uniform():
    omega2, r2, p = [], [], []
    for seed in range(200):
        rows = pairs(seed, images=10, d=4, shift=0.0)
        share = differ.share_of_variation(rows)
        omega2.append(float(share.omega2))
        r2.append(float(share.r2))
        rng = np.random.default_rng(seed)
        p.append(differ.share_pvalue(rows, rng=rng, permutations=99))
    assert abs(np.mean(omega2)) < 4 * np.std(omega2) / np.sqrt(200)
    assert np.mean(r2) > 10 * abs(np.mean(omega2))
    assert abs(np.mean(np.array(p) <= 0.1) - 0.1) < 4 * np.sqrt(0.09 / 200)


def test_intervals_cover_the_omega2_of_many_images():
    truth = float(differ.share_of_variation(pairs(99, images=20_000, d=12, shift=1.0)).omega2)
    bars = [differ.share_interval(pairs(s, images=24, d=12, shift=1.0)) for s in range(300)]
    covered = np.mean([bar.low <= truth <= bar.high for bar in bars])
    assert 0.90 < covered < 0.985


def test_spread_is_that_of_the_second_group_over_the_first():
    rng = np.random.default_rng(7)
    x = rng.normal(size=(2, 40, 5)) * np.array([1.0, 3.0])[:, None, None]
    ratio, f, p = differ.spread(paired(x), rng=rng, permutations=199)
    assert abs(ratio - np.log(3)) < 0.15
    away = [np.linalg.norm(g - g.mean(axis=0), axis=1) for g in x]
    assert_allclose(f, scipy_stats.f_oneway(*away).statistic)
    assert p == 1 / 200


def test_spread_is_compared_within_images():
    """A tenth more in every image is sure within images, and drowns between unequal ones."""
    rng = np.random.default_rng(17)
    far = rng.normal(size=(1, 20, 4)) * np.geomspace(0.2, 5, 20)[:, None]
    first, second = far[0], 1.1 * far[0]
    within = differ.spread(paired(np.stack([first, second])), rng=rng, permutations=999)
    apart = rows_of(np.concatenate([first, second]), np.repeat([0, 1], 20))
    between = differ.spread(apart, rng=rng, permutations=999)
    assert_allclose(within[0], np.log(1.1))
    assert within[2] < 0.01 < 0.3 < between[2]


def add(tables, x, *, tap="relu1_1", depth=1, labels=None, **keys):
    """Add a tap with m = x[..., 0, :] (but for its unit) and v = x[..., 1, :]."""
    var = np.exp(2 * x[:, 1])
    keys = {"network": "vgg16", "tap": tap, "tap_kind": "post_act", "depth": depth, **keys}
    tables.add(keys, labels or {"image": IMAGES[: len(x)]}, x[:, 0], var)


def report(tables, monkeypatch, permutations=199, **options):
    monkeypatch.setattr(group_tests, "PERMUTATIONS", permutations)
    frames = group_tests.summarise(tables, **options)
    return group_tests.run(frames, PLAN, np.random.default_rng(0))


def planted(rng, kind, n=16):
    """Return originals and others (n, 2, 8) that differ in the centre, in spread or not at all."""
    base = 0.5 * rng.normal(size=(n, 2, 8))
    noise = [0.2 * rng.normal(size=base.shape) for _ in range(2)]
    if kind == "centre":
        return base + noise[0], base + noise[1] + 0.4
    if kind == "spread":
        return base + noise[0], 3 * (base + noise[1] - base.mean(axis=0)) + base.mean(axis=0)
    return base + noise[0], base + noise[1]


def test_centre_and_spread_are_told_apart(monkeypatch):
    rng, tables = np.random.default_rng(8), SyntheticTables()
    for depth, kind in enumerate(("centre", "spread", "neither")):
        first, second = planted(rng, kind)
        add(tables, first, tap=kind, depth=depth)
        add(tables, second, tap=kind, depth=depth, condition="style")
    found = report(tables, monkeypatch)
    table = found.tables["by_tap"].set_index("tap")
    assert (table["p_centre"] < 0.05).tolist() == [True, False, False]
    assert (table["p_spread"] < 0.05).tolist() == [False, True, False]
    assert (table["p_energy"] < 0.05).tolist() == [True, True, False]
    assert table.loc["centre", "low"] > 0
    assert table.loc["spread", "spread"] > 2
    assert table.loc["centre", "columns_maxt"] > 8 > table.loc["neither", "columns_maxt"]
    assert found.findings[0].startswith("vgg16, original | style, 16 images, 3 taps. Centre: ")
    assert "Holm p < 0.05 at 1 of 3" in found.findings[0]
    assert not found.claims
    assert not found.gates
    assert not len(found.effects)


def test_holm_runs_over_the_taps_of_each_comparison(monkeypatch):
    rng, tables = np.random.default_rng(9), SyntheticTables()
    for depth in (1, 2):
        base = rng.normal(size=(16, 2, 4))
        for condition in ("original", "style", "contrast"):
            x = base + 0.3 * rng.normal(size=base.shape)
            add(tables, x, tap=f"relu{depth}_1", depth=depth, condition=condition)
    table = report(tables, monkeypatch).tables["statistics"]
    one = table[(table["groups"] == "original | style") & (table["statistic"] == "omega2")]
    assert len(one) == 2
    low, high = sorted(one["pvalue"])
    assert_allclose(sorted(one["p_holm"]), [min(2 * low, 1), max(min(2 * low, 1), high)])
    assert table.loc[table["statistic"] == "fisher", "p_holm"].isna().all()


def test_labels_of_a_manifest_are_unpaired_groups(monkeypatch):
    rng, tables = np.random.default_rng(10), SyntheticTables()
    names = [f"{i:03d}.jpg" for i in range(30)]
    domain = np.array(["photo"] * 12 + ["painting"] * 9 + ["sketch"] * 3 + [""] * 6)
    x = rng.normal(size=(30, 2, 4)) + 1.5 * (domain == "painting")[:, None, None]
    add(tables, x, labels={"image": names})
    tables.attributes = pd.DataFrame({"image": names, "domain": domain})
    found = report(tables, monkeypatch)
    table = found.tables["statistics"].set_index("statistic")
    row = table.loc["omega2"]
    assert (row["kind"], row["groups"], row["images"]) == ("domain", "painting | photo", 21)
    assert (row["dof"], row["residual_dof"]) == (1, 19)
    kept = np.r_[12:21, 0:12]
    var = np.exp(2 * x[:, 1])
    m = x[:, 0] / np.sqrt(var[kept].mean(axis=0))
    rows = np.concatenate([m, x[:, 1]], axis=1)[kept]
    codes = np.repeat([0, 1], [9, 12])
    oracle = permanova(rows, {"g": codes}, rng=np.random.default_rng(0), permutations=199)
    assert_allclose(row["estimate"], oracle.omega2[0])
    assert row["pvalue"] == oracle.pvalue[0]
    assert any("what they show" in text for text in found.limitations)


def test_conditions_without_originals_are_compared_together(monkeypatch):
    rng, tables = np.random.default_rng(11), SyntheticTables()
    base = rng.normal(size=(16, 2, 4))
    for condition in ("a", "b", "c"):
        add(tables, base + 0.3 * rng.normal(size=base.shape), condition=condition)
    table = report(tables, monkeypatch).tables["statistics"].set_index("statistic")
    assert set(table["groups"]) == {"a | b | c"}
    assert (table.loc["omega2", "dof"], table.loc["omega2", "residual_dof"]) == (2, 30)


def test_the_order_of_rows_changes_nothing(monkeypatch):
    rng = np.random.default_rng(12)
    first, second = planted(rng, "centre")
    tables, turned = SyntheticTables(), SyntheticTables()
    order = rng.permutation(16)
    for t, o in ((tables, np.arange(16)), (turned, order)):
        add(t, first[o], labels={"image": [IMAGES[i] for i in o]})
        add(t, second, condition="style")
    one, other = (report(t, monkeypatch).tables["statistics"] for t in (tables, turned))
    pd.testing.assert_frame_equal(one, other)
    again = report(tables, monkeypatch, seed=1).tables["statistics"]
    assert not again["pvalue"].equals(one["pvalue"])
    pd.testing.assert_series_equal(again["estimate"], one["estimate"])


def test_dead_and_constant_columns_are_dropped_and_counted(monkeypatch):
    rng, tables = np.random.default_rng(13), SyntheticTables()
    first, second = rng.normal(size=(2, 16, 2, 4))
    first[:, 1, 2] = -30.0  # a variance below the floor: m and v go
    first[:, 1, 3] = 0.25  # v is constant in the originals, m is not
    add(tables, first)
    add(tables, second, condition="style")
    row = report(tables, monkeypatch).tables["statistics"].iloc[0]
    assert (row["columns"], row["dropped"]) == (5, 3)


def test_taps_fixed_by_a_normaliser_designs_and_few_images_are_left_out():
    rng, tables = np.random.default_rng(14), SyntheticTables()
    for condition in ("original", "style"):
        x = rng.normal(size=(16, 2, 4))
        add(tables, x, tap="a.norm", condition=condition, by_construction=True)
        add(tables, x, tap="styled", condition=condition, style="cin26:1")
        add(tables, x[:7], tap="few", condition=condition)
    assert group_tests.summarise(tables) == {}


def test_large_groups_are_thinned_and_the_report_says_so(monkeypatch):
    rng, tables = np.random.default_rng(15), SyntheticTables()
    first, second = planted(rng, "centre")
    add(tables, first)
    add(tables, second, condition="style")
    monkeypatch.setattr(group_tests, "MOST_ROWS", 20)
    found = report(tables, monkeypatch)
    assert set(found.tables["statistics"]["images"]) == {10}
    assert any("evenly spaced" in text for text in found.methods)
    monkeypatch.undo()
    whole = report(tables, monkeypatch)
    assert set(whole.tables["statistics"]["images"]) == {16}
    assert not any("evenly spaced" in text for text in whole.methods)


def test_every_arm_has_a_figure_and_a_caution(monkeypatch):
    rng, tables = np.random.default_rng(16), SyntheticTables()
    for depth in range(4):
        for treatment in ("none", "frozen:prefix"):
            first, second = planted(rng, "centre")
            place = {"tap": f"t{depth}", "depth": depth, "treatment": treatment}
            add(tables, first, **place)
            add(tables, second, **place, condition="style")
    found = report(tables, monkeypatch)
    captions = [figure.caption for figure in found.figures]
    assert captions[0].startswith("vgg16, conditions of the same images")
    assert captions[1].startswith("vgg16, frozen:prefix, conditions")
    largest = found.tables["by_tap"].groupby("arm", sort=True)["omega2"].max()
    assert found.picture == found.figures[int(largest.argmax())].name
    for figure in found.figures:
        assert found.tables[figure.table]["tap"].tolist() == ["t0", "t1", "t2", "t3"]
        assert figure.name not in found.appendix
    assert any("removed_variance" in text for text in found.limitations)
    most = found.tables["by_tap"].sort_values("omega2").iloc[-1]
    assert f"at {most['tap']}: omega2 = {most['omega2']:.3f}" in found.headline
    assert "the largest of 2 comparisons; 16 images" in found.headline


def test_no_sentence_says_minus_zero():
    assert group_tests._number(-0.0003) == "0.000"
    assert group_tests._number(-0.0006) == "-0.001"
