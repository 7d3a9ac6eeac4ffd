import io
import math
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_allclose
from scipy import stats as distributions
from synthetic_tables import planted_study

from analyses import removed_variance
from statsnorm import figures
from statsnorm.decisions import (
    CONTRADICTED,
    FACTOR_DEPENDENT,
    INCONCLUSIVE,
    NOT_INTERPRETABLE,
    NOT_TESTABLE,
    SUPPORTED,
    load_plan,
)
from statsnorm.errors import StatsnormError
from statsnorm.removal import specifications
from statsnorm.removal.claims import style_scope
from statsnorm.removal.crossed import find_designs, load_members
from statsnorm.removal.evidence import removed_spread, spread
from statsnorm.removal.ratios import ratio, ratio_of_ratios, standard_error
from statsnorm.removal.study import kept_ratio, studies, untrained_ratios
from statsnorm.removal.words import percent
from statsnorm.stats.components import component_replicates, crossed_components
from statsnorm.stats.jackknife import two_way_jackknife

PLAN = load_plan()


def report(tables, seed=0):
    frames = removed_variance.summarise(tables)
    return removed_variance.run(frames, PLAN, np.random.default_rng(seed))


def verdicts(found):
    return {claim.hypothesis: claim.verdict for claim in found.claims}


@pytest.fixture(scope="module")
def planted():
    tables = planted_study(np.random.default_rng(0))
    frames = removed_variance.summarise(tables)
    return tables, frames, removed_variance.run(frames, PLAN, np.random.default_rng(0))


def test_planted_truth_is_recovered(planted):
    _, _, found = planted
    table = found.tables["removed"]
    table = table[(table["baseline"] == "frozen:prefix") & (table["moment"] == "v")]
    for factor, truth in (("S", 0.8), ("I", 0.3), ("K", 1.0)):
        rows = table[(table["factor"] == factor) & table["low"].notna()]
        assert len(rows) == 4
        assert_allclose(rows["estimate"], truth, atol=0.02)
        assert (rows["simultaneous_low"] <= truth).all()
        assert (rows["simultaneous_high"] >= truth).all()
        assert (rows["simultaneous_low"] <= rows["low"]).all()


def test_planted_verdicts(planted):
    _, _, found = planted
    assert verdicts(found) == {
        **dict.fromkeys(("H5a", "H5b", "H5c"), SUPPORTED),
        "H5d": INCONCLUSIVE,  # its sign under other blends was not looked at
    }
    sentence = next(c.sentence for c in found.claims if c.hypothesis == "H5d")
    assert "sign under blended styles not checked" in sentence.lower()
    assert all(c.scope.startswith("(cin26 styles)") for c in found.claims)
    assert any("Caution: 8 styles" in text for text in found.limitations)


def test_untrained_column_is_the_prediction_interval(planted):
    _, frames, found = planted
    study = studies(frames, PLAN)[0]
    row = found.tables["removed"].query(
        "tap == 'relu3_1' and moment == 'v' and factor == 'S' and baseline == 'frozen:prefix'"
    )
    kept = untrained_ratios(
        study, study.of_kind("vgg_of_output"), "style", moment="v", before="frozen:prefix"
    )
    assert len(kept) == 8
    logs = np.log(kept)
    half = distributions.t.ppf(0.975, 7) * logs.std(ddof=1) * math.sqrt(1 + 1 / 8)
    assert_allclose(row["untrained_low"], 1 - np.exp(logs.mean() + half))
    assert_allclose(row["untrained_high"], 1 - np.exp(logs.mean() - half))
    assert_allclose(row["untrained"], (1 - kept).mean())
    assert (row["untrained_dropped"] == 0).all()


def test_prediction_intervals_of_untrained_networks_stay_below_one():
    kept = np.array([0.001, 0.1, 0.02, 0.3, 0.01])
    assert spread(1 - kept).high > 1 > removed_spread(kept).high
    assert removed_spread(kept).mean == spread(1 - kept).mean
    assert removed_spread([0.5, -0.1, 0.2]) == spread([0.5, 1.1, 0.8])


def test_untrained_networks_without_a_ratio_are_counted_and_said():
    tables = planted_study(np.random.default_rng(24), conditions=False, untrained=9)
    for i, (row, labels, mean, var) in enumerate(tables.blocks):
        if row["seed"] == 3 and row["treatment"] == "frozen:prefix":  # nothing there to remove
            noise = np.exp(0.1 * np.random.default_rng(i).normal(size=var.shape))
            flat = noise - noise.mean(axis=(0, 2), keepdims=True) + 1
            tables.blocks[i] = (row, labels, mean, flat)
    found = report(tables)
    table = found.tables["removed"]
    rows = table[(table["tap"] == "relu3_1") & (table["factor"] == "S") & (table["moment"] == "v")]
    assert rows["untrained_dropped"].tolist() == [1]
    assert rows["n_untrained"].tolist() == [8]
    sentence = next(c.sentence for c in found.claims if c.hypothesis == "H5a")
    assert "1 of 9 untrained networks left out: no positive ratio there" in sentence
    said = "8 to 9 of 9 untrained networks (the others have no positive ratio) on"
    assert said in found.headline


def test_appendix_holds_levels_and_specifications(planted):
    _, frames, found = planted
    qq = found.tables["level_scores"]
    assert set(qq["factor"]) == {"style", "content"}
    assert set(qq["arm"]) == {"frozen", "at work"}
    assert set(qq["tap"]) == {"c.norm.in", "relu3_1"}
    style = qq[(qq["tap"] == "relu3_1") & (qq["arm"] == "frozen") & (qq["factor"] == "style")]
    assert len(style) == 8
    assert_allclose(style["score"].std(), 1)
    assert_allclose(style["normal"], distributions.norm.ppf((np.arange(1, 9) - 0.375) / 8.25))
    shares = found.tables["agreement"].set_index("hypothesis")
    flips = next(c.flips for c in found.claims if c.hypothesis == "H5a")
    against, of = map(int, re.match(r"(\d+) of (\d+) specifications", flips).groups())
    assert_allclose(shares.loc["H5a", "share_agreeing"], 1 - against / of)
    assert shares.loc["H5a", "specifications"] == of
    assert math.isnan(shares.loc["H5d", "share_agreeing"])  # inconclusive: nothing to agree with
    assert {"level_qq", "specification_curve", "agreement"} <= set(found.appendix)
    older = {name: frame for name, frame in frames.items() if name != "blups"}
    assert "level_scores" not in removed_variance.run(older, PLAN, np.random.default_rng(0)).tables


def test_reml_agrees_with_mean_squares(planted):
    _, frames, found = planted
    table = found.tables["reml"]
    assert set(table["treatment"]) == {"none", "frozen:prefix"}
    assert table.groupby(["tap", "treatment"])["channel"].nunique().eq(3).all()
    free = table[~table["at_bound"]]
    assert len(free) > len(table) / 2
    assert_allclose(free["mean_squares"], free["reml"], rtol=1e-3, atol=1e-6)
    assert any("REML on 6 random channels" in text for text in found.findings)
    moved = {**frames, "reml": frames["reml"].assign(reml=2 * frames["reml"]["reml"])}
    texts = removed_variance.run(moved, PLAN, np.random.default_rng(0)).findings
    text = next(t for t in texts if t.startswith("REML"))
    assert float(re.search(r"within ([\d.e-]+)", text)[1]) > 0.1


def test_kinds_of_batches_are_networks_of_their_own():
    tables = planted_study(
        np.random.default_rng(12), images=6, styles=4, levels=2, channels=3, conditions=False,
        untrained=0,
    )  # fmt: skip
    plain = list(tables.blocks)
    for kind in ("mixed", "style-homogeneous", "content-homogeneous"):
        for row, *rest in plain:
            tables.blocks.append(({**row, "bn_mode": "train", "batch_kind": kind}, *rest))
    found = report(tables)
    by_depth = found.tables["by_depth"]
    assert not by_depth.duplicated(["tap", "factor"]).any()
    assert set(found.tables["removed"]["net"]) == {
        "cin26, index 0", "cin26, index 0, mixed batches",
        "cin26, index 0, style-homogeneous batches",
        "cin26, index 0, content-homogeneous batches",
    }  # fmt: skip
    assert found.headline.count("normalisation removed") == 1
    assert " 3 more below: cin26, index 0, content-homogeneous batches, " in found.headline
    for figure in found.figures:
        getattr(figures, figure.draw)(found.tables[figure.table], **figure.options)


def test_pipeline_null_gives_zero_and_no_support():
    tables = planted_study(
        np.random.default_rng(1), keep=(1, 1, 1), keep_untrained=(1, 1, 1), pixel=1.0
    )
    for i, (row, labels, _, _) in enumerate(tables.blocks):
        if row["treatment"] == "none":  # the very arrays of the frozen arm
            twin = next(
                b for b in tables.blocks
                if b[0] == {**row, "treatment": "frozen:prefix"}
            ) if row["norm"] == "cin" and not row["by_construction"] else None  # fmt: skip
            if twin is not None:
                tables.blocks[i] = (row, labels, twin[2], twin[3])
    found = report(tables)
    removed = found.tables["removed"]
    known = removed[~removed["by_construction"] & removed["estimate"].notna()]
    assert (known["estimate"] == 0).all()
    assert SUPPORTED not in verdicts(found).values()
    assert verdicts(found)["H5a"] == CONTRADICTED


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ({"images": 12}, "12 images < 24"),
        ({"styles": 6}, "6 styles < 8"),
        ({"levels": 2}, "2 levels < 3"),
    ],
)
def test_small_designs_are_not_testable(size, reason):
    found = report(planted_study(np.random.default_rng(2), **size))
    assert set(verdicts(found).values()) == {NOT_TESTABLE}
    assert all(reason in claim.sentence for claim in found.claims)


def test_too_few_untrained_networks_block_the_learned_claims():
    found = report(planted_study(np.random.default_rng(3), untrained=5))
    by = verdicts(found)
    assert (by["H5a"], by["H5d"]) == (NOT_TESTABLE, NOT_TESTABLE)
    assert (by["H5b"], by["H5c"]) == (SUPPORTED, SUPPORTED)


def test_missing_conditions_block_only_their_claims():
    found = report(planted_study(np.random.default_rng(4), conditions=False))
    by = verdicts(found)
    assert by["H5a"] == SUPPORTED
    assert (by["H5b"], by["H5c"]) == (NOT_TESTABLE, NOT_TESTABLE)
    assert any("standardise" in text for text in found.left_out)


def test_a_ratio_of_remainders_is_not_interpretable():
    found = report(planted_study(np.random.default_rng(5), keep=(0.03, 0.01, 0.0)))
    assert verdicts(found)["H5d"] == NOT_INTERPRETABLE
    assert verdicts(found)["H5a"] == SUPPORTED


def test_starved_content_makes_selectivity_factor_dependent():
    tables = planted_study(np.random.default_rng(6))
    for i, (row, labels, mean, var) in enumerate(tables.blocks):
        if row["network"] == "vgg16" and row["source"] == "input":
            flat = var.mean(axis=0, keepdims=True) * np.exp(0.05 * np.log(var))
            tables.blocks[i] = (row, labels, mean, flat)
    found = report(tables)
    assert verdicts(found)["H5d"] == FACTOR_DEPENDENT
    gate = found.gates[0]
    assert not gate.passed
    assert gate.value < 0.2


def test_opposite_sign_under_another_strength_is_factor_dependent():
    tables = planted_study(np.random.default_rng(7))
    other = planted_study(np.random.default_rng(8), keep=(0.2, 0.7, 0.0), untrained=0)
    for row, labels, mean, var in other.blocks:
        tables.blocks.append(({**row, "strength": 0.7, "restore": "none"}, labels, mean, var))
    found = report(tables)
    assert verdicts(found)["H5d"] == FACTOR_DEPENDENT
    assert verdicts(found)["H5a"] == SUPPORTED
    assert len(found.claims) == 4  # the other strength is a sensitivity analysis, not a claim


def test_weak_pixel_gain_is_contradicted():
    found = report(planted_study(np.random.default_rng(9), pixel=0.2))
    assert verdicts(found)["H5b"] == CONTRADICTED


def test_one_generator_that_disagrees_is_factor_dependent():
    rng = np.random.default_rng(10)
    tables = planted_study(rng, styles=16, generators=("cin26", "filters"))
    for i, (row, labels, mean, var) in enumerate(tables.blocks):
        if row["treatment"] == "none" and row["norm"] == "cin" and row["condition"] == "original":
            before = next(
                (b for b in tables.blocks if b[0] == {**row, "treatment": "frozen:prefix"}), None
            )
            if before is None:
                continue
            keep = np.array([s.startswith("filters") for s in labels["style"]])
            mean, var = mean.copy(), var.copy()
            mean[:, keep], var[:, keep] = before[2][:, keep], before[3][:, keep]
            tables.blocks[i] = (row, labels, mean, var)
    found = report(tables)
    assert verdicts(found)["H5a"] == FACTOR_DEPENDENT
    sentence = next(c.sentence for c in found.claims if c.hypothesis == "H5a")
    assert "filters contradicted" in sentence


@pytest.mark.parametrize(("styles", "scope"), [(24, ""), (21, "(cin26, filters, gram styles)")])
def test_a_general_verdict_needs_three_generators_with_styles_enough(styles, scope):
    tables = planted_study(
        np.random.default_rng(13),
        styles=styles,  # 8 a generator, or 7
        generators=("cin26", "filters", "gram"),
        channels=4,
        conditions=False,
    )
    frames = removed_variance.summarise(tables)
    assert style_scope(studies(frames, PLAN)[0], PLAN) == scope


def test_a_generator_of_two_styles_does_not_stop_the_others():
    rng = np.random.default_rng(14)
    made = planted_study(rng, styles=5, generators=("cin26", "filters"), channels=4)
    frames = removed_variance.summarise(made)
    assert set(frames["components"]["generators"]) == {"all", "cin26"}
    assert set(verdicts(report(made)).values()) == {NOT_TESTABLE}


def test_affine_maps_of_channels_change_nothing(planted):
    _, _, found = planted
    moved = planted_study(np.random.default_rng(0))
    rng = np.random.default_rng(11)
    for i, (row, labels, mean, var) in enumerate(moved.blocks):
        gain = rng.uniform(0.5, 2, mean.shape[-1])
        moved.blocks[i] = (row, labels, gain * mean + rng.normal(), gain**2 * var)
    other = report(moved)
    for name in ("removed", "derived"):
        a, b = (r.tables[name].select_dtypes("number") for r in (found, other))
        assert_allclose(a, b, rtol=1e-8, atol=1e-10)
    assert verdicts(other) == verdicts(found)


def test_replicates_are_those_of_the_data_without_a_level():
    rng = np.random.default_rng(12)
    before = rng.normal(size=(9, 6, 3, 40)) + 3 * rng.normal(size=(1, 6, 1, 40))
    after = 0.5 * before + 0.1 * rng.normal(size=before.shape)

    def v(y):
        return crossed_components(y).style.mean()

    logs = [math.log(v(after) / v(before))]
    for axis, n in ((0, 9), (1, 6)):
        for i in range(n):
            left = [np.delete(y, i, axis=axis) for y in (after, before)]
            logs.append(math.log(v(left[0]) / v(left[1])))
    oracle = two_way_jackknife(logs[0], logs[1:10], logs[10:])
    parts = [component_replicates(y)["style"].mean(axis=1) for y in (after, before)]
    found = ratio(*parts, (9, 6), confidence=0.95)
    assert found.method == "log"
    assert_allclose(found.log().estimate, oracle.estimate)
    assert_allclose([found.log().low, found.log().high], [oracle.low, oracle.high])
    assert_allclose([found.se, found.dof], [oracle.se, oracle.dof])
    assert_allclose(found.pvalue(math.exp(float(oracle.high))), 0.05)


def test_fieller_bounds_are_where_the_contrast_test_turns():
    rng = np.random.default_rng(13)
    y = rng.normal(size=(10, 8, 2, 20))
    small = 0.02 * rng.normal(size=y.shape)  # nothing left but noise
    parts = [
        component_replicates(x)["style"].mean(axis=1)
        for x in (small, y + rng.normal(size=(1, 8, 1, 20)))
    ]
    found = ratio(*parts, (10, 8), confidence=0.95)
    assert found.method == "fieller"
    for bound in (found.low, found.high):
        values = parts[0] - bound * parts[1]
        oracle = two_way_jackknife(values[0], values[1:11], values[11:])
        assert_allclose(min(abs(oracle.low), abs(oracle.high)), 0, atol=1e-8)
        if bound > 0:
            assert_allclose(found.pvalue(bound), 0.05, rtol=1e-5)


@pytest.mark.parametrize(("spread", "method"), [(0.1, "log"), (0.2, "fieller")])
def test_fieller_takes_over_below_three_standard_errors(spread, method):
    left = np.array([1 - spread, 1 + spread, 1 - spread, 1 + spread])
    top = np.concatenate([[1.0], left, np.ones(3)])
    se, _ = standard_error(top, (4, 3))
    assert (1 / se > 3) == (method == "log")
    assert ratio(top, np.full(8, 2.0), (4, 3), confidence=0.95).method == method


def test_few_levels_are_no_reason_for_fieller():
    spread = 0.2  # both below three standard errors, moved by the same levels: their ratio is 1/2
    left = np.array([1 - spread, 1 + spread, 1 - spread, 1 + spread])
    top = np.concatenate([[1.0], left, np.ones(3)])
    assert 1 / standard_error(top, (4, 3))[0] < 3
    found = ratio(top, 2 * top, (4, 3), confidence=0.95)
    assert found.method == "log"
    assert_allclose([found.low, found.high], 0.5)


def test_no_variance_before_is_unknown_not_zero():
    found = ratio([1.0] * 8, [0.0] * 8, (4, 3), confidence=0.95)
    assert math.isnan(found.estimate)
    assert math.isnan(found.removed().estimate)
    assert math.isnan(found.pvalue(0.5))


def test_ratios_of_unlike_designs_do_not_pair():
    a = ratio([1.0] * 8, [2.0] * 8, (4, 3), confidence=0.95)
    b = ratio([1.0] * 8, [2.0] * 8, (3, 4), confidence=0.95)
    with pytest.raises(StatsnormError, match="do not pair"):
        ratio_of_ratios(a, b, confidence=0.95)
    with pytest.raises(StatsnormError, match=r"1 \+ 4\+3 values"):
        standard_error([1.0, 2.0], (4, 3))


def test_three_factor_jackknife_with_one_idle_factor_is_the_two_way_one():
    rng = np.random.default_rng(14)
    values = np.concatenate([[1.0], rng.normal(1, 0.1, 7), rng.normal(1, 0.1, 5)])
    oracle = two_way_jackknife(values[0], values[1:8], values[8:])
    assert_allclose(standard_error(values, (7, 5)), (oracle.se, oracle.dof))
    idle = np.concatenate([values, np.ones(4)])
    assert_allclose(standard_error(idle, (7, 5, 4)), (oracle.se, oracle.dof))


def test_random_convention_from_stored_components(planted):
    tables, frames, _ = planted
    study = studies(frames, PLAN)[0]
    tap = study.of_kind("next_pre_norm")[0]
    members = [("original", "none"), ("original", "frozen:prefix")]
    design = find_designs(tables.keys())[tap[0]]
    cells, _ = load_members(tables, design, tap[1], 0, members)
    components = [
        crossed_components(0.5 * np.log(cells[m].var), contrast="random").style.mean()
        for m in members
    ]
    found = kept_ratio(
        study, [tap], "style", moment="v", before=members[1], after=members[0], convention="random"
    )
    assert_allclose(found.estimate, components[0] / components[1], rtol=1e-10)


def test_image_missing_in_one_member_leaves_all():
    tables = planted_study(np.random.default_rng(15), untrained=0)
    for row, _, mean, var in tables.blocks:
        if row["condition"] == "clahe":
            mean[3, 0, 0], var[3, 0, 0] = np.nan, np.nan
    frames = removed_variance.summarise(tables)
    assert set(frames["designs"].query("norm == 'cin'")["images"]) == {23}


def test_member_of_another_study_is_left_out_and_said():
    tables = planted_study(np.random.default_rng(16), untrained=0)
    for i, (row, labels, mean, var) in enumerate(tables.blocks):
        if row["condition"] == "clahe":
            few = {**labels, "image": labels["image"][:10]}
            tables.blocks[i] = (row, few, mean[:10], var[:10])
    found = report(tables)
    assert any("'clahe'" in text and "42% of the images" in text for text in found.left_out)
    assert verdicts(found)["H5b"] == NOT_TESTABLE


def test_by_construction_is_never_evidence(planted):
    _, frames, found = planted
    assert "a.norm" in set(found.tables["removed"]["tap"])  # shown, greyed
    assert "a.norm" not in set(frames["replicates"]["tap"])
    assert "a.norm" not in set(found.tables["by_depth"]["tap"])


def test_dead_channels_are_dropped_everywhere_and_counted():
    tables = planted_study(np.random.default_rng(17), untrained=0)
    for row, _, _, var in tables.blocks:
        if row["tap"] == "b.norm.in" and row["condition"] == "whiten":
            var[..., 4] = 1e-9
    found = report(tables)
    row = found.tables["removed"].query("tap == 'b.norm.in'").iloc[0]
    assert row["channels"] == 11
    assert found.tables["diagnostics"].query("tap == 'b.norm.in'")["dropped"].item() == 1


def test_specification_curve_flags_disagreement(planted):
    _, _, found = planted
    curve = found.tables["specifications"]
    mine = curve[curve["hypothesis"] == "H5c"]
    assert mine["met"].all()
    assert next(c.flips for c in found.claims if c.hypothesis == "H5c") == ""
    h5a = curve[curve["hypothesis"] == "H5a"]
    assert 0 < h5a["met"].mean() < 1  # raw means move with the frozen network's scale
    flips = next(c.flips for c in found.claims if c.hypothesis == "H5a")
    axes = [name for name in specifications.AXES if name != "place"]
    by = h5a.groupby(axes)
    whole = by["met"].all()[by["place"].nunique() == 2]  # both places are needed
    assert flips.startswith(f"{(~whole).sum()} of {len(whole)} specifications disagree")
    assert flips.endswith("not measured at every place: 12 with baseline frozen:all")
    assert specifications.flips(curve, "H5a", NOT_TESTABLE) == ""


def test_frames_survive_parquet_and_are_small(planted):
    _, frames, found = planted
    back, size = {}, 0
    for name, frame in frames.items():
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), sink, compression="zstd")
        size += sink.tell()
        back[name] = pq.read_table(io.BytesIO(sink.getvalue())).to_pandas()
    again = removed_variance.run(back, PLAN, np.random.default_rng(0))
    assert again.claims == found.claims
    assert again.findings == found.findings
    for name, table in found.tables.items():
        pd.testing.assert_frame_equal(table, again.tables[name], check_dtype=False)
    assert size < 2_000_000


def test_sentences_come_from_the_tables(planted):
    _, frames, found = planted
    changed = frames["replicates"].copy()
    style = (changed["component"] == "style") & (changed["treatment"] == "none")
    changed.loc[style, "values"] = changed.loc[style, "values"].map(lambda v: 2 * np.asarray(v))
    other = removed_variance.run({**frames, "replicates": changed}, PLAN, np.random.default_rng(0))
    assert "80 % (80 to 80) of style" in found.headline
    assert "60 % (60 to 60) of style" in other.headline
    assert other.claims[0].sentence != found.claims[0].sentence


def test_same_seed_same_report(planted):
    tables, _, found = planted
    again = report(tables)
    pd.testing.assert_frame_equal(again.tables["removed"], found.tables["removed"])
    other = report(tables, seed=1)  # nothing in this table is drawn
    pd.testing.assert_frame_equal(other.tables["removed"], found.tables["removed"])


def test_no_crossed_design_is_left_out():
    tables = planted_study(np.random.default_rng(19), untrained=0)
    for row, *_ in tables.blocks:
        row["contrast"] = ""
    assert removed_variance.summarise(tables) == {}


def test_spread_of_too_few_networks_has_no_interval():
    assert math.isnan(spread([0.5]).low)
    assert math.isnan(spread([]).mean)


def test_a_blend_with_the_same_sign_frees_selectivity():
    tables = planted_study(np.random.default_rng(20))
    other = planted_study(np.random.default_rng(21), untrained=0)
    for row, labels, mean, var in other.blocks:
        tables.blocks.append(({**row, "strength": 0.7}, labels, mean, var))
    assert verdicts(report(tables))["H5d"] == SUPPORTED


def test_reference_cells_are_described_from_the_configuration():
    tables = planted_study(np.random.default_rng(22), untrained=0, conditions=False)
    reference = {"count": 30, "shared_contents": 24, "styles": ["cin26:90", "cin26:91"]}
    tables.configs = [{"reference": reference, "design": {"styles": ["cin26:0"]}}]
    found = report(tables)
    text = "reference cells in 2 held-out styles, 24 of 30 reference contents are also test images"
    assert any(text in line for line in found.methods)
    assert any(text in line for line in found.limitations)
    tables.configs[0]["reference"] = {**reference, "shared_contents": 0}
    assert not any("know the test contents" in line for line in report(tables).limitations)


def test_pixel_part_has_the_interval_of_the_best_treatment(planted):
    _, _, found = planted
    rows = found.tables["pixel"]
    for place, mine in rows.groupby("place"):
        best = mine.sort_values(["gain", "condition"]).iloc[0]
        effects = found.effects.query("hypothesis == 'H5b'")
        row = effects[effects["tap"].str.contains(place)].iloc[0]
        assert_allclose([row["low"], row["high"]], [best["gain_low"], best["gain_high"]])
        assert row["se"] > 0
    sentence = next(c.sentence for c in found.claims if c.hypothesis == "H5b")
    assert "largest p over the 6 treatments" in sentence
    assert "sensitivity, log scale of what is kept" in sentence


def test_rule_and_sentence_name_the_p_that_decides():
    found = report(planted_study(np.random.default_rng(9), pixel=0.2))
    h5b = next(c for c in found.claims if c.hypothesis == "H5b")
    assert "p against = " in h5b.sentence
    assert "(Holm, times parts): R_S - max R_S(pixel) at mean over next_pre_norm" in h5b.sentence
    assert " does not reach 0.2." in h5b.sentence
    assert any("H5b is about style as it is made here" in text for text in found.limitations)
    assert "Holm-adjusted p" not in h5b.sentence
    rules = found.effects.set_index("hypothesis")["threshold"]
    assert "p against = " in rules["H5b"].iloc[0]
    assert rules["H5a"].iloc[0] == "adjusted p < alpha for > 0.5"
    units = found.effects.query("hypothesis == 'H5a'")["n_units"].tolist()
    assert units[1] == "24 images, 8 styles, 3 levels, 8 untrained networks"


def test_headline_gives_untrained_networks_an_interval(planted):
    _, frames, found = planted
    assert "(cin26 styles), against frozen affine maps" in found.headline
    study = studies(frames, PLAN)[0]
    kept = untrained_ratios(
        study, study.of_kind("next_pre_norm"), "style", moment="v", before="frozen:prefix"
    )
    half = distributions.t.ppf(0.975, 7) * kept.std(ddof=1) / math.sqrt(8)
    low, high = (f"{100 * (1 - kept.mean() + s * half):.0f}" for s in (-1, 1))
    assert f"({low} to {high})" in found.headline


def test_every_vgg_tap_of_the_inputs_is_judged():
    tables = planted_study(np.random.default_rng(23), untrained=0, conditions=False)
    row, labels, mean, var = next(b for b in tables.blocks if b[0]["tap_kind"] == "post_act")
    starved = np.exp(0.05 * np.log(var) + np.log(var).mean((0, 2), keepdims=True))
    tables.blocks.append(({**row, "tap": "relu1_1"}, labels, mean, starved))
    found = report(tables)
    assert not found.gates[0].passed
    assert "relu1_1, relu3_1" in found.gates[0].rule
    assert any("at vgg16 relu1_1," in text for text in found.findings)


def test_additivity_names_the_worst_tap_and_arm(planted):
    _, _, found = planted
    table = found.tables["diagnostics"]
    arms = {"at work": "residual_share", "frozen": "residual_share_frozen"}
    arm = max(arms, key=lambda a: table[arms[a]].max())
    tap = table.loc[table[arms[arm]].idxmax(), "tap"]
    assert any(f"(at {tap}, {arm})" in text for text in found.findings)


@pytest.mark.parametrize(
    ("value", "text"), [(1e-8, "< 0.01"), (-1e-8, "> -0.01"), (0.0, "0"), (0.99999, "> 99.9")]
)
def test_percent_is_never_rounded_to_an_end(value, text):
    assert percent(value) == text


def test_same_image_retrieval_stands_beside_selectivity(planted):
    tables = planted_study(np.random.default_rng(12), untrained=2, conditions=False)
    for row, labels, mean, var in list(tables.blocks):
        if row["tap_kind"] == "vgg_of_output":
            tables.blocks.append(({**row, "tap": "relu4_2", "depth": 9}, labels, mean, var))
    found = report(tables)
    table = found.tables["retrieval"].set_index("across")
    assert set(table.index) == {"treatments", "styles, none", "styles, frozen:prefix"}
    assert (table["tap"] == "relu4_2").all()
    assert (table["untrained_networks"] == 2).all()
    assert np.allclose(table["chance"], 1 / 24)
    # style variance is cut to a fifth, content kept at .7: images are told apart across styles
    assert table.loc["styles, none", "low"] > table.loc["styles, frozen:prefix", "estimate"]
    assert sum("same-image retrieval" in text for text in found.findings) == 1
    assert "retrieval" not in planted[2].tables
