import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import special
from scipy import stats as distributions
from synthetic_tables import SyntheticTables

from analyses import cin_style
from statsnorm.decisions import CONTRADICTED, NOT_TESTABLE, SUPPORTED, load_plan
from statsnorm.removal.indexed import (
    clustered_proportion,
    filled,
    nearest_index,
    proportion_pvalue,
    share_interval,
    three_way_replicates,
)
from statsnorm.removal.parts import share_part
from statsnorm.removal.ratios import standard_error, t_pvalue
from statsnorm.stats.components import crossed_components

PLAN = load_plan()


def study(rng, *, images=24, indices=8, inputs=4, s=3.0, u=0.3, frozen=0.2, channels=20):
    tables = SyntheticTables()
    labels = {
        "image": [f"{i}.jpg" for i in range(images)],
        "index": [str(i) for i in range(indices)],
        "style": [f"cin26:{i}" for i in range(inputs)],
        "level": [0],
    }
    for treatment, strength in (("none", s), ("frozen:prefix", frozen)):
        y = 0.3 * rng.normal(size=(images, 1, 1, 1, channels))
        y = y + 0.3 * strength * rng.normal(size=(1, indices, 1, 1, channels))
        y = y + 0.3 * u * rng.normal(size=(1, 1, inputs, 1, channels))
        y = y + 0.05 * rng.normal(size=(images, indices, inputs, 1, channels))
        keys = {"network": "vgg16", "source": "cin26", "norm": "cin", "treatment": treatment}
        keys |= {"tap": "relu3_1", "tap_kind": "vgg_of_output", "contrast": "gain"}
        tables.add(keys, labels, y, np.exp(2 * y))
    return tables


def report(tables):
    return cin_style.run(cin_style.summarise(tables), PLAN, np.random.default_rng(0))


def test_index_sets_the_style():
    found = report(study(np.random.default_rng(0)))
    by = {c.hypothesis: c for c in found.claims}
    assert by["H6"].verdict == SUPPORTED
    assert by["H6"].family == "F3"
    assert by["H6b"].verdict == CONTRADICTED
    assert by["H6b"].family == ""
    shares = found.tables["shares"].query("treatment == 'none' and moment == 'v'")
    omega = shares.set_index("factor")["estimate"]
    assert_allclose(omega.sum(), 1)
    truth = 9 / (9 + 1 + 0.09 + (0.05 / 0.3) ** 2)
    row = shares[shares["factor"] == "index"].iloc[0]
    assert row["low"] <= truth <= row["high"]


def test_input_style_that_shows_contradicts():
    found = report(study(np.random.default_rng(1), s=1.0, u=3.0))
    assert {c.hypothesis: c.verdict for c in found.claims}["H6"] == CONTRADICTED


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ({"images": 20}, "20 images < 24"),
        ({"indices": 6}, "6 indices < 8"),
    ],
)
def test_small_designs_are_not_testable(size, reason):
    found = report(study(np.random.default_rng(2), **size))
    assert {c.verdict for c in found.claims} == {NOT_TESTABLE}
    assert reason in found.claims[0].sentence


def test_too_few_input_styles_are_not_summarised():
    assert cin_style.summarise(study(np.random.default_rng(3), inputs=2)) == {}


def test_three_way_replicates_against_recomputation():
    rng = np.random.default_rng(4)
    y = rng.normal(size=(5, 4, 6, 3))
    found = three_way_replicates(y)

    def oracle(x):
        parts = crossed_components(x, contrast="random")
        return {
            "content": parts.content, "index": parts.style, "input_style": parts.contrast,
            "content_index": parts.content_style, "content_input_style": parts.content_contrast,
            "index_input_style": parts.style_contrast, "residual": parts.residual,
        }  # fmt: skip

    subsets = [y] + [np.delete(y, i, axis) for axis in range(3) for i in range(y.shape[axis])]
    for name, values in found.items():
        assert_allclose(values, [oracle(x)[name].mean() for x in subsets], atol=1e-12)


def test_share_interval_has_the_shares_at_its_ends():
    rng = np.random.default_rng(5)
    y = 2 * rng.normal(size=(1, 6, 1, 30)) + rng.normal(size=(8, 6, 5, 30))
    parts = three_way_replicates(y)
    x = share_interval(parts, "index", (8, 6, 5))
    assert 0 < x.low < x.estimate < x.high < 1
    assert_allclose(x.estimate, parts["index"][0] / sum(v[0] for v in parts.values()))


def test_nearest_index_leaves_the_content_out():
    rng = np.random.default_rng(6)
    x = rng.normal(size=(6, 3, 2, 4))
    hits = nearest_index(x)
    for i in range(6):
        others = np.delete(x, i, axis=0).mean(axis=(0, 2))  # (S, D)
        for s in range(3):
            for u in range(2):
                nearest = ((x[i, s, u] - others) ** 2).sum(axis=1).argmin()
                assert hits[i, s, u] == (nearest == s)


def test_retrieval_of_noise_is_at_chance():
    hits = nearest_index(np.random.default_rng(7).normal(size=(200, 5, 2, 30)))
    assert abs(hits.mean() - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 2000)


def test_perfect_clusters_count_as_one_observation_each():
    found = clustered_proportion(np.ones(24), 64)
    assert_allclose(found.low, distributions.beta.ppf(0.025, 24, 1))
    assert found.high == 1
    assert_allclose(proportion_pvalue(found, found.low), 0.05, rtol=1e-6)


def test_independent_cells_give_the_binomial_interval():
    rng = np.random.default_rng(8)
    hits = rng.binomial(50, 0.7, size=2000) / 50
    found = clustered_proportion(hits, 50)
    assert_allclose(found.dof, 100_000, rtol=0.15)
    assert found.low < 0.7 < found.high


def test_clustered_cells_widen_the_interval():
    rng = np.random.default_rng(9)
    hits = rng.binomial(1, 0.7, size=60).astype(float)
    found = clustered_proportion(hits, 50)
    oracle = distributions.binomtest(int(hits.sum()), 60).proportion_ci(method="exact")
    assert_allclose(found.low, oracle.low, atol=0.005)


def test_an_index_on_another_design_is_not_mixed_in():
    tables = study(np.random.default_rng(10))
    alone = cin_style.summarise(tables)
    row, labels, mean, _ = tables.blocks[0]
    wide = {**labels, "style": [f"cin26:{i}" for i in range(6)], "level": [0, 1, 2]}
    shape = (24, 1, 6, 3, mean.shape[-1])
    other = np.random.default_rng(11).normal(size=shape)
    keys = {k: v for k, v in row.items() if k != "index"}
    tables.add({**keys, "depth": 0}, {**wide, "index": ["25"]}, other, np.exp(other))
    found = cin_style.summarise(tables)
    for name in alone:
        assert set(found[name]["n_indices"]) == {8}
        assert_allclose(
            np.stack(found[name].iloc[:, -1]), np.stack(alone[name].iloc[:, -1]), rtol=1e-12
        )


def test_one_channel_mask_for_all_treatments_counted():
    tables = study(np.random.default_rng(12))
    tables.blocks[1][3][..., 4] = 1e-14  # dead with the normalisers frozen
    frames = cin_style.summarise(tables)
    assert set(frames["components"]["dropped"]) == {1}
    assert any("1 channels at most" in text for text in report(tables).methods)


def test_a_cell_without_variance_takes_the_least_of_its_channel():
    v = np.array([[-1.0, 5.0], [-np.inf, 3.0]]).reshape(2, 1, 1, 2)
    assert_allclose(filled(v)[:, 0, 0], [[-1, 5], [-1, 3]])


def test_dominance_shows_the_log_scale_beside_it_and_its_scope():
    found = report(study(np.random.default_rng(13)))
    assert "sensitivity, log scale: " in found.claims[0].sentence
    assert found.claims[0].scope.startswith("(cin26 styles)")
    assert any("Power rests on the number of indices" in text for text in found.limitations)


def test_tables_without_outputs_have_nothing_for_it():
    tables = study(np.random.default_rng(14), images=3, indices=3, inputs=3)
    for row, *_ in tables.blocks:
        row["source"] = "input"
    assert cin_style.summarise(tables) == {}


def test_swapped_parameters_are_no_treatment_of_this_question():
    tables = study(np.random.default_rng(14))
    alone = cin_style.summarise(tables)
    row, labels, mean, var = tables.blocks[0]
    treated = {k: v for k, v in row.items() if k not in labels} | {"treatment": "swap:beta:to=3"}
    tables.add(treated, labels, 3 * mean, var)
    found = cin_style.summarise(tables)
    assert set(found["components"]["treatment"]) == {"none", "frozen:prefix"}
    assert_allclose(
        np.stack(found["components"]["values"]), np.stack(alone["components"]["values"])
    )


def test_the_claim_and_the_table_print_one_interval_of_the_share():
    found = report(study(np.random.default_rng(3)))
    claimed = found.effects.query("hypothesis == 'H6' and statistic == 'omega2_s'").iloc[0]
    rows = found.tables["shares"].query("treatment == 'none' and moment == 'v'")
    row = rows[(rows["factor"] == "index") & (rows["tap"] == "relu3_1")].iloc[0]
    assert_allclose(claimed[["low", "high"]].astype(float), row[["low", "high"]].astype(float))


@pytest.mark.parametrize("outside", [0.0, 0.9])
def test_a_share_is_judged_with_the_degrees_of_freedom_of_heavy_tails(outside):
    # one image carries the variance; with `outside` the logit is not defined everywhere
    share = np.concatenate([[0.3], 0.3 + np.r_[0.1, np.zeros(23)], np.linspace(0.28, 0.32, 8)])
    part = share_part(PLAN.rule("H6", "share"), share - outside, (24, 8), "")
    scaled = share - outside if outside else special.logit(share)
    se, dof = standard_error(scaled, (24, 8), tails="heavy")
    null = PLAN.rule("H6", "share").null
    p = t_pvalue(scaled[0] - (null if outside else special.logit(null)), se, dof)
    assert_allclose([part.dof, part.pvalue], [dof, p])
    assert dof < standard_error(scaled, (24, 8))[1] / 2
