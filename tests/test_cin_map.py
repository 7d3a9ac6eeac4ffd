import re
from itertools import combinations, permutations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.isotonic import IsotonicRegression
from synthetic_tables import SyntheticTables

from analyses import cin_map
from statsnorm import figures
from statsnorm.decisions import load_plan
from statsnorm.errors import StatsnormError
from statsnorm.stats.shapley import shapley_values
from statsnorm.swap_names import expand_swap, parse_swap
from statsnorm.swaps.distances import (
    isotonic_fit,
    monte_carlo_variance,
    order_values,
    replicates,
    style_features,
    style_unit,
)
from statsnorm.swaps.outputs import Outputs, measured_swaps

PLAN = load_plan()
LAYERS = ("contract.0.norm", "res.0.norm", "expand.0.norm")
WEIGHTS = (0.1, 0.3, 0.6)  # of the squared distance, by layer
STYLES = ["1", "4", "10"]
CONTENTS = 6


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_the_unit_is_the_mean_distance_of_two_styles(rng):
    mean, var = rng.normal(size=(5, 4, 3)), rng.gamma(2, size=(5, 4, 3))
    x = style_features(mean, var)
    pairs = [
        ((x[i, s] - x[i, t]) ** 2).sum() for i in range(5) for s, t in combinations(range(4), 2)
    ]
    assert_allclose(np.mean(pairs), 1)
    assert_allclose(style_unit(10 * mean, 100 * var), 10 * style_unit(mean, var))
    with pytest.raises(StatsnormError, match="4 styles do not differ"):
        style_unit(mean[:, :1].repeat(4, 1), var[:, :1].repeat(4, 1))


def test_replicates_leave_a_style_out_on_both_sides(rng):
    values = rng.normal(size=(5, 4, 4))
    values[:, range(4), range(4)] = np.nan
    rows = replicates(values)
    assert len(rows) == 1 + 5 + 4
    assert_allclose(rows[0], np.nanmean(values))
    assert_allclose(rows[1 + 2], np.nanmean(np.delete(values, 2, 0)))
    kept = [0, 1, 3]
    assert_allclose(rows[1 + 5 + 2], np.nanmean(values[:, kept][:, :, kept]))


def game(rng, players=3):
    """Return distances (I,) of every set of names; 0 with all of them."""
    names = [f"n{k}" for k in range(players)]
    worth = {frozenset(c): rng.random(2) for k in range(players) for c in combinations(names, k)}
    worth[frozenset(names)] = np.zeros(2)
    return names, worth


def steps_of(worth, names):
    return {line[:k]: worth[frozenset(line[:k])] for line in permutations(names) for k in (1, 2)}


def test_all_orders_give_the_exact_shapley_values_and_each_adds_up(rng):
    names, worth = game(rng)
    start, steps = worth[frozenset()], steps_of(worth, names)
    lines = list(permutations(names))
    found = [order_values(line, steps, start) for line in lines]
    for one in found:
        assert_allclose(sum(one.values()), start)
    coalitions = [
        -worth[frozenset(n for k, n in enumerate(names) if bits >> k & 1)] for bits in range(8)
    ]
    exact = shapley_values(np.stack(coalitions))
    assert_allclose([np.mean([one[n] for one in found], axis=0) for n in names], exact)
    with pytest.raises(StatsnormError, match="lacks its step 2 of 3"):
        order_values(lines[0], {lines[0][:1]: start}, start)


def test_the_monte_carlo_variance_is_that_of_repeated_draws(rng):
    names, worth = game(rng)
    steps, lines = steps_of(worth, names), list(permutations(names))
    estimates, variances = [], []
    for _ in range(3000):
        orders = []
        for _ in range(3):
            line = lines[rng.integers(6)]
            orders += [line, line[::-1]]
        each = [order_values(line, steps, worth[frozenset()]) for line in orders]
        values = np.array([[one[n][0] for n in names] for one in each])
        estimates.append(values.mean(axis=0))
        variances.append(monte_carlo_variance(orders, values))
    assert_allclose(np.mean(variances, axis=0), np.var(estimates, axis=0), rtol=0.15)
    single = monte_carlo_variance([lines[0]], np.zeros((1, 3)))
    assert np.isnan(single).all()


def test_isotonic_fit_against_scikit_learn(rng):
    rows = rng.normal(size=(4, 5))
    fit, chance = isotonic_fit(rows)
    for row, found in zip(rows, fit, strict=True):
        best = IsotonicRegression(increasing=False).fit_transform(np.arange(5), row)
        assert_allclose(found, 1 - ((row - best) ** 2).sum() / ((row - row.mean()) ** 2).sum())
    falling = np.array([[5.0, 3.0, 2.5, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0, 4.0], [1.0] * 5])
    fit, _ = isotonic_fit(falling)
    assert_allclose(fit, [1, 0, np.nan], atol=1e-12)
    assert (chance > 0.1).all()
    assert (chance < 0.7).all()
    many, chance = isotonic_fit(np.linspace(1, 0, 9)[None])
    assert_allclose(many, 1)
    assert 0.05 < chance[0] < 0.6


def treatments(own):
    given = {"index": own, "indices": STYLES, "known": STYLES, "seed": 0}
    asked = ["swap:gamma:to=others", "swap:beta:to=others", "swap:both:to=others"]
    asked += ["swap:both@each:to=others", "swap:both@orders-4:to=others"]
    asked += ["blend:0.25:to=others", "blend:0.5:to=others", "blend:0.75:to=others"]
    made = [one for a in asked for one in expand_swap(a, LAYERS, **given)]
    return list(dict.fromkeys(made))


def planted(rng, noise=0.05):
    """Return outputs (I, S, 18), the layer of each dimension, and whether gamma moves it.

    Three styles on a circle in every pair of dimensions, so all pairs of styles are equally far
    apart; a layer owns six dimensions and its weight of the distance, two thirds of that gamma's.
    """
    scale = np.sqrt(np.repeat(WEIGHTS, 3) / 6) * np.tile([2, 1, 1], 3)  # (9,)
    turn = 2 * np.pi * np.arange(3)[:, None] / 3
    style = np.concatenate([scale * np.cos(turn), scale * np.sin(turn)], axis=1)  # (S, 18)
    plain = style + noise * rng.normal(size=(CONTENTS, 1, 18))
    layer, gamma = np.tile(np.repeat(np.arange(3), 3), 2), np.tile([1, 0, 0], 6).astype(bool)
    return plain, layer, gamma


def swapped(plain, own, to, treatment, layer, gamma):
    asked = parse_swap(treatment)
    mask = np.ones(18, bool)
    if asked.where:
        mask = np.isin(layer, [LAYERS.index(n) for n in asked.where])
    mask &= {"gamma": gamma, "beta": ~gamma, "both": gamma | True}[asked.what]
    a, b = plain[:, STYLES.index(own)], plain[:, STYLES.index(to)]
    return np.where(mask, (1 - asked.share) * a + asked.share * b, a)


def outputs(rng):
    plain, layer, gamma = planted(rng)
    made = {
        (own, t): swapped(plain, own, t.rpartition("=")[2], t, layer, gamma)
        for own in STYLES for t in treatments(own)
    }  # fmt: skip
    return Outputs(plain, STYLES, made)


def test_what_was_planted_is_found_exactly(rng):
    rows = measured_swaps(outputs(rng))
    shares = {r["swapped"]: r["values"][0] for r in rows["shares"]}
    assert_allclose([shares["gamma"], shares["beta"], shares["both"]], [2 / 3, 1 / 3, 1])
    assert_allclose([shares[name] for name in LAYERS], WEIGHTS)
    shapley = {r["layer"]: r for r in rows["shapley"]}
    assert_allclose([shapley[name]["values"][0] for name in LAYERS], WEIGHTS)
    assert_allclose([shapley[name]["mc_se"] for name in LAYERS], 0, atol=1e-12)  # additive
    assert {r["pairs"] for r in rows["shapley"]} == {6}
    way = {(r["kind"], r["share"]): r["values"][0] for r in rows["blends"]}
    for a in (0.0, 0.25, 0.5, 0.75, 1.0):
        assert_allclose([way["target", a], way["own", a]], [(1 - a) ** 2, a**2], atol=1e-12)
    assert_allclose([way["fit", 3.0], way["falls", 3.0]], 1)
    hits = {(r["swapped"], r["as"]): np.mean(r["values"]) for r in rows["recognised"]}
    assert hits["both", "target"] == 1
    assert hits["gamma", "target"] == 1
    assert hits["beta", "own"] == 1
    assert all(np.isnan(r["values"]).sum() == 0 for r in rows["shares"])


def tables(rng, *, only=None):
    """Return tables of VGG of the output whose means are the planted ones, variances all 1."""
    made, found = outputs(rng), SyntheticTables()
    keys = {"network": "vgg16", "source": "cin26", "norm": "cin", "tap": "relu2_1"}
    keys |= {"tap_kind": "vgg_of_output"}
    images = [f"{i}.jpg" for i in range(CONTENTS)]
    own = dict(keys, network="cin26", source="input", tap_kind="post_norm", by_construction=True)
    found.add({**own, "tap": "contract.0.norm", "index": "1"}, {"image": images},
              np.zeros((CONTENTS, 7)), np.ones((CONTENTS, 7)))  # fmt: skip
    plain = {"image": images, "index": STYLES}
    found.add({**keys, "treatment": "none"}, plain, made.plain, np.ones_like(made.plain))
    for style in STYLES:
        names = [t for (o, t) in made.swapped if o == style and (only is None or only in t)]
        if names:
            mean = np.stack([made.swapped[style, t] for t in names], axis=1)
            labels = {"image": images, "treatment": names}
            found.add({**keys, "index": style}, labels, mean, np.ones_like(mean))
    return found


class WithKinds(SyntheticTables):
    def taps(self):
        rows = self.keys()
        return rows.assign(channels=7)


def with_kinds(found):
    return WithKinds(found.blocks)


def test_a_report_from_tables(rng):
    frames = cin_map.summarise(with_kinds(tables(rng)))
    report = cin_map.run(frames, PLAN, rng)
    shares = report.tables["shares"].set_index("swapped")
    assert_allclose(shares.loc["gamma", "share"], 2 / 3)
    assert_allclose(report.tables["shapley"]["share"].sum(), 1)
    assert_allclose(report.tables["shapley"].set_index("layer").loc[list(LAYERS), "share"], WEIGHTS)
    assert set(report.tables["matrix"]["swapped"]) == {"gamma", "beta", "both", *LAYERS}
    text = " ".join(report.findings)
    assert "gamma alone brings the output 67 %" in text
    assert "expand 60 % (60 to 60), res 30 % (30 to 30), contract 10 % (10 to 10)" in text
    stages = report.tables["stages"].set_index("part")
    assert_allclose(stages["share"].sum(), 1)
    assert set(stages["layers"]) <= {1, 2, 3}
    assert "falls at every step in 100 %" in text
    assert "a style is 14 numbers" in text
    seen = report.tables["recognised"].set_index(["swapped", "as"]).loc[("gamma", "target")]
    share, low, high = (f"{100 * seen[name]:.0f}" for name in ("share", "low", "high"))
    assert f"{share} % ({low} to {high}) of the outputs are recognised as the target" in text
    assert "styles (a verdict would need 8); its intervals rest on few" in report.limitations[0]
    shown = report.tables["recognised"].set_index(["swapped", "as"])["share"]
    assert_allclose(shown["gamma", "target"], shown["beta", "own"])
    assert any("one finding, not two" in text for text in report.limitations)
    methods = " ".join(report.methods)
    assert re.search(r"\d+ random orders of all 3 normalisers over 6 ordered pairs", methods)
    for figure in report.figures:
        drawn = getattr(figures, figure.draw)(report.tables[figure.table], **figure.options)
        assert drawn.axes
    assert [f.draw for f in report.figures] == ["dots", "swap_matrix", "blend_curve"]


def test_swaps_alone_make_a_report_without_shapley_or_blends(rng):
    frames = cin_map.summarise(with_kinds(tables(rng, only="swap:gamma")))
    report = cin_map.run(frames, PLAN, rng)
    assert "shapley" not in report.tables
    assert not any("one finding" in text for text in report.limitations)
    assert [f.draw for f in report.figures] == ["swap_matrix"]


def test_runs_without_swaps_say_what_to_do(rng):
    with pytest.raises(StatsnormError, match=r"no swaps between 3 styles.*--treatment none,swap"):
        cin_map.summarise(with_kinds(tables(rng, only="nothing")))
    plain = with_kinds(tables(rng))
    plain.blocks = plain.blocks[:1]  # no VGG of the output at all
    with pytest.raises(StatsnormError, match="no swaps between"):
        cin_map.summarise(plain)
