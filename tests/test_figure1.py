import io
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from synthetic_curves import GAPS, Planted, write_run
from test_manipulation import study as checks

from analyses import figure1, manipulation
from statsnorm import figures
from statsnorm.curves.claims import flips, judge, judged
from statsnorm.curves.contrasts import block_numbers
from statsnorm.curves.study import Study, study_of
from statsnorm.curves.summary import curve_frames
from statsnorm.decisions import load_plan
from statsnorm.load import Tables
from statsnorm.report.encode import parquet_bytes, read_parquet

PLAN = load_plan()


def gates(**changes):
    frames = manipulation.summarise(checks(np.random.default_rng(0), **changes))
    return {figure1.GATES + name: frame for name, frame in frames.items()}


GOOD = gates()


def report(*planted, checked=GOOD, curves=None):
    runs = [(p.run_config(), p.curves()) for p in planted] if curves is None else curves
    frames = curve_frames(runs) | checked
    return figure1.run(frames, PLAN, np.random.default_rng(0))


def decided(p, checked=GOOD):
    """The decisions alone, by hypothesis: quicker than a whole report."""
    rng = np.random.default_rng(0)
    passed = figure1._gates(checked, PLAN, rng)
    study = study_of(curve_frames([(p.run_config(), p.curves())]), PLAN)
    return {d.hypothesis: d for d in judged(study, passed, PLAN, rng).decisions}


def verdicts(found):
    if isinstance(found, dict):
        return {name: decision.verdict for name, decision in found.items()}
    return {claim.hypothesis: claim.verdict for claim in found.claims}


@pytest.fixture(scope="module")
def planted():
    return report(Planted(minibatch=True))


def test_ten_blocks_with_planted_gaps_support_all(planted):
    assert verdicts(planted) == dict.fromkeys(("H1", "H2", "H3", "H4"), "supported")
    rows = planted.effects.set_index("statistic")
    assert_allclose(rows["estimate"]["G_a"], 0.5, atol=0.06)
    assert_allclose(rows["estimate"]["G_b - G_ck"], 0.35, atol=0.06)
    assert (rows["pvalue"][["G_a", "G_b"]] == 2 / 2**10).all()
    assert (rows["p_adjusted"][["G_a", "G_b"]] == 4 * 2 / 2**10).all()
    assert set(rows["n_units"]) == {"10 blocks"}
    assert planted.headline.startswith("In 10 blocks the style loss of BN was, on average over 500")
    phi = planted.tables["explained"].set_index("condition")
    assert phi.loc["c", "low"] < 1 - 0.04 / 0.5 < phi.loc["c", "high"]
    assert phi.loc["b", "low"] < 0.1 < phi.loc["b", "high"]


def test_every_specification_is_judged(planted):
    table = planted.tables["specifications"]
    assert set(table["source"]) == {"heldout", "minibatch", "running"}
    assert len(table) == 4 * 10
    primary = table.iloc[:4]
    assert primary["verdict"].tolist() == ["supported"] * 4
    assert primary["agrees"].all()
    running = table.query("source == 'running' and hypothesis == 'H1'")["estimate"].item()
    assert_allclose(running - primary["estimate"].iloc[0], np.log(1.05), atol=0.01)
    content = table.query("loss == 'content'")
    assert content["agrees"].all()
    assert (content.query("hypothesis != 'H4'")["verdict"] != "supported").all()


def test_flips_count_the_specifications_that_disagree(planted):
    table = planted.tables["specifications"].copy()
    decision = judge(planted.tables["blocks"], PLAN, np.random.default_rng(0))[0]
    assert decision.verdict == "supported"
    assert flips(table, decision) == ""
    other = (table["hypothesis"] == "H1") & (table["source"] != "heldout")
    table.loc[other, "agrees"] = False
    assert flips(table, decision) == "2 of 8 specifications disagree"


def test_effects_agree_with_scipy(planted):
    from scipy import stats

    d = planted.tables["blocks"]["G_a"].to_numpy()
    row = planted.tables["statistics"].iloc[0]
    t = stats.ttest_1samp(d, 0)
    interval = t.confidence_interval(0.95)
    assert_allclose([row["low"], row["high"], row["p_t"]], [*interval, t.pvalue])
    flip = stats.permutation_test(
        (d, np.zeros_like(d)), lambda x, y: np.mean(x - y), permutation_type="samples"
    )
    assert_allclose(row["p_flip"], flip.pvalue)
    assert_allclose(row["g_z"], d.mean() / d.std(ddof=1) * (1 - 3 / (4 * 9 - 1)))


@pytest.mark.parametrize("n", [1, 2, 7])
def test_few_blocks_are_not_testable(n):
    found = decided(Planted(blocks=n))
    assert set(verdicts(found).values()) == {"not testable"}
    blocks = "complete block" if n == 1 else "complete blocks"
    assert all(d.reason == f"{n} {blocks}, 8 are needed" for d in found.values())


def test_eight_blocks_are_enough():
    assert verdicts(decided(Planted(blocks=8)))["H1"] == "supported"


def test_identical_cells_have_no_gap_at_all():
    p = Planted(gaps=dict.fromkeys(GAPS, 0.0), spread=0, noise=0)
    found = report(p)
    numbers = found.tables["blocks"].filter(regex="^(G_|D|late)").to_numpy(float)
    assert (numbers == 0).all()
    assert "supported" not in verdicts(found).values()
    assert verdicts(found)["H1"] == "contradicted"
    assert "not evaluated, since H1 is contradicted" in found.claims[3].sentence


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"style": 0.35}, "0.5 G_a - G_c"),
        ({"ck": 0.45}, "G_b - G_ck"),
        ({"placebo-matched": 0.2}, "G_pstar - 0.5 G_a"),
    ],
)
def test_h3_needs_every_part(change, part):
    found = decided(Planted(gaps={**GAPS, **change}))
    assert verdicts(found)["H1"] == "supported"
    assert verdicts(found)["H3"] != "supported"
    assert [p.rule.statistic for p in found["H3"].parts if p.estimate < 0.05] == [part]


def test_conditions_that_were_not_trained_are_not_testable():
    gaps = {c: GAPS[c] for c in ("original", "contrast", "style")}
    found = decided(Planted(gaps=gaps))
    assert verdicts(found) == {
        "H1": "supported", "H2": "supported", "H3": "not testable", "H4": "supported",
    }  # fmt: skip
    assert found["H3"].reason == "not measured: G_b - G_ck, G_pstar - 0.5 G_a"
    assert report(Planted(gaps=gaps)).left_out == (
        "H3: not measured: G_b - G_ck, G_pstar - 0.5 G_a; "
        "train IN and BN on ck, placebo-matched too",
    )


def test_one_block_is_called_one_block():
    found = report(Planted(blocks=1))
    assert "1 complete block, 8 are needed" in " ".join(found.left_out)
    assert "1 block on 1 target style: conclusions hold for no other style." in found.limitations
    said = [*found.limitations, *found.findings, *found.left_out, found.headline]
    said += [figure.caption for figure in found.figures]
    assert not [text for text in said if "1 blocks" in text]
    beside = found.effects["threshold"][found.effects["threshold"].str.contains("not required")]
    assert len(beside) == 3
    assert beside.str.contains("own p = not computed").all()


def test_h4_fails_where_bn_on_style_normalised_images_lags():
    assert verdicts(decided(Planted(d=0.2)))["H4"] in ("contradicted", "inconclusive")
    table = report(Planted(d=-0.04)).tables["equivalence"].set_index("claim")["pvalue"]
    assert (table < 0.05).all()


@pytest.mark.parametrize(
    ("change", "gate", "blocked"),
    [
        ({"luminance": 0.2}, "M1 failed", ("H2", "H3")),
        ({"style": 0.6}, "M2 failed", ("H2", "H3")),
        ({"nearer": 37}, "M3 failed", ("H2", "H3")),
        ({"matched": 0.5}, "pstar_matched failed", ("H3",)),
    ],
)
def test_a_failed_gate_blocks_what_it_guards(change, gate, blocked):
    for hypothesis, d in decided(Planted(), checked=gates(**change)).items():
        assert d.verdict == ("not interpretable" if hypothesis in blocked else "supported")
        assert (gate in d.reason) == (hypothesis in blocked)


def test_unmeasured_gates_block_h2_and_h3_only():
    found = report(Planted(), checked={})
    assert verdicts(found) == {
        "H1": "supported", "H2": "not interpretable", "H3": "not interpretable", "H4": "supported",
    }  # fmt: skip
    assert "M1 not measured, M2 not measured, M3 not measured" in found.claims[1].sentence
    assert not found.tables["gates"]["passed"].any()


def test_a_gap_of_one_sign_on_each_scale_is_scale_dependent():
    p = Planted(
        gaps=dict.fromkeys(GAPS, 0.0),
        shape=lambda u: np.where(u < 0.15, -1.5, 0.4),
        config={"style_weight": 1e4},
    )
    found = report(p)
    rows = found.tables["statistics"].query("statistic == 'G_a' and window == 'whole'")
    assert rows["estimate"].iloc[0] > 0.1
    assert rows["estimate"].iloc[1] < -0.1
    assert verdicts(found)["H1"] == "scale-dependent"
    assert "differ in the sign of G_a" in found.claims[0].sentence


def test_a_total_loss_that_contradicts_h1_is_flagged():
    found = report(Planted(content=-3.0, config={"style_weight": 0.1}))
    assert verdicts(found)["H1"] == "not interpretable"
    assert "the total loss contradicts it: G_a(total) = -" in found.claims[0].sentence
    assert "content may be traded for style" in found.claims[0].sentence
    assert verdicts(found)["H4"] == "not testable"


def test_h2_says_which_contrast_normalisation_it_is_about(planted):
    assert planted.claims[1].scope.startswith("luminance equalisation only")
    found = report(Planted(gaps={**GAPS, "contrast-rgb": 0.4, "clahe": 0.4}))
    assert not found.claims[1].scope.startswith("luminance")
    assert found.tables["strong_contrast"]["verdict"].tolist() == ["supported"] * 2
    gone = report(Planted(gaps={**GAPS, "clahe": 0.0}))
    assert "supported by none" in gone.claims[1].scope


def test_a_diverged_cell_drops_its_block_and_stays_in_the_survival():
    p = Planted()
    curves = p.curves()
    bad = (curves["block"] == "b03") & (curves["norm"] == "bn")
    bad &= (curves["condition"] == "original") & (curves["iteration"] >= 100)
    curves["style_loss"] = curves["style_loss"].where(~bad)
    curves = curves[~(bad & (curves["iteration"] > 100))]  # such a cell ends there
    found = report(curves=[(p.run_config(), curves)])
    assert found.tables["dropped"]["block"].tolist() == ["b03"]
    assert any("block b03 (style3.jpg): bn on original diverged" in x for x in found.left_out)
    assert any("Diverged cells: 1 of BN" in x for x in found.findings)
    assert set(found.effects["n_units"]) == {"9 blocks"}
    assert (found.tables["passage"]["blocks"] == 10).all()
    times = found.tables["passage_times"].query("block == 'b03' and condition == 'a'")
    assert not times.query("norm == 'bn'")["reached"].any()
    assert times.query("norm == 'in'")["reached"].any()


def test_one_target_style_confines_the_conclusion():
    found = report(Planted(targets=("wave.jpg",) * 8))
    assert verdicts(found)["H1"] == "supported"
    assert "only for this one target style" in found.claims[0].scope
    assert any("8 blocks on 1 target style" in x for x in found.limitations)


def test_skewed_differences_are_told_with_the_size_that_was_measured():
    from statsnorm.curves.tables import medcouple
    from statsnorm.curves.words import SKEWED, skewed

    found = report(Planted())
    table = found.tables["statistics"]
    primary = table[(table["scale"] == "log") & (table["window"] == "whole")]
    told = [x for x in found.limitations if x.startswith("Skewed over blocks")]
    names = primary.loc[primary["medcouple"].abs() > SKEWED, "statistic"]
    assert len(told) == bool(len(names))
    assert all(f"{name} (" in told[0] for name in names)
    for value, said in ((0.5, True), (-0.5, True), (0.3, False), (np.nan, False)):
        (*text,) = skewed(primary.head(1).assign(medcouple=value))
        assert bool(text) is said
    assert "G_a (0.50). Sign flips" in next(skewed(primary.head(1).assign(medcouple=0.5)))
    assert not list(skewed(table[table["scale"] == "raw"].assign(medcouple=0.9)))
    many = np.random.default_rng(1).exponential(size=(20, 2001))
    assert abs(np.mean([medcouple(x) for x in many]) - SKEWED) < 0.01


def test_the_sizes_told_are_those_of_the_calibration():
    from statsnorm.curves.words import SKEWED_SIZES
    from statsnorm.report.encode import read_parquet

    path = Path(__file__).resolve().parents[1] / "reports/calibration/inputs/rows.parquet"
    rows = read_parquet(path.read_bytes(), "rows").query("check == 'limit'")
    for quantity, ends in zip(("sign flips", "long tail beyond it"), SKEWED_SIZES, strict=True):
        sizes = 100 * rows.loc[rows["quantity"].str.endswith(quantity), "value"]
        assert len(sizes) == 3
        assert_allclose((sizes.min(), sizes.max()), ends, atol=0.051)  # told to one decimal


def null_study(rng, n=10):
    """Blocks in which neither norm is better on any condition, built without files."""
    grid = np.arange(0.0, 110, 10)
    loss, names = {}, list(GAPS)
    for c in names:
        for norm in ("in", "bn"):
            y = 2 + 0.5 * rng.normal(size=(n, 1)) + 0.1 * rng.normal(size=(n, len(grid)))
            for kind, weight in (("style", 1.0), ("total", 5.0), ("content", 3.0)):
                loss["heldout", kind, norm, c] = weight * np.exp(y)
    blocks = pd.DataFrame({"block": range(n), "target": [f"{i}.jpg" for i in range(n)],
                           "seed": 1, "kept": True})  # fmt: skip
    empty = pd.DataFrame()
    return Study(setting=0, config={}, horizon=100, grids={"heldout": grid}, loss=loss,
                 blocks=blocks, cells=empty, dropped=empty, rates=empty)  # fmt: skip


def test_null_studies_are_rarely_supported():
    rng = np.random.default_rng(5)
    passed = manipulation.run(
        {k.removeprefix(figure1.GATES): v for k, v in GOOD.items()}, PLAN, rng
    ).gates
    found = [judged(null_study(rng), passed, PLAN, rng).decisions for _ in range(200)]
    wrong = sum(any(d.verdict == "supported" for d in study) for study in found)
    assert wrong <= 200 * (0.05 + 3 * math.sqrt(0.05 * 0.95 / 200))
    p = np.array([study[0].parts[0].pvalue for study in found])
    assert 0.01 <= (p < 0.05).mean() <= 0.10
    assert abs(p.mean() - 0.5) < 0.08


def test_raw_thresholds_are_relative_differences():
    units = block_numbers(study_of(curve_frames([_run(Planted())]), PLAN), scale="raw")
    rules = judge(units, PLAN, np.random.default_rng(0), raw=True)[0].parts[0].rule
    assert_allclose([rules.null, rules.min_effect], [0, 0.10])


def _run(p):
    return p.run_config(), p.curves()


def test_inputs_are_small_and_survive_parquet(tmp_path, planted):
    frames = curve_frames([_run(Planted(config={"iterations": 2000}, minibatch=True))])
    assert len(frames["cells"]) == 100
    assert frames["minibatch"].groupby("cell").size().max() <= 200
    stored = {name: parquet_bytes(frame) for name, frame in frames.items()}
    assert sum(map(len, stored.values())) < 1_000_000
    back = {name: read_parquet(content, name) for name, content in stored.items()}
    again = figure1.run(back | GOOD, PLAN, np.random.default_rng(0))
    assert verdicts(again) == verdicts(planted)
    text = " ".join(map(str, [*again.findings, *again.methods, *again.left_out]))
    assert "/somewhere" not in text
    assert not any("/somewhere" in str(t.to_dict()) for t in again.tables.values())


def test_summarise_reads_run_directories(tmp_path):
    p = Planted(blocks=2, gaps={"original": 0.3, "style": 0.1})
    path = write_run(tmp_path / "run", p)
    frames = figure1.summarise(Tables(path))
    expected = curve_frames([_run(p)])
    for name, frame in expected.items():
        pd.testing.assert_frame_equal(frames[name], frame)
    found = figure1.run(frames, PLAN, np.random.default_rng(0))
    assert set(verdicts(found).values()) == {"not testable"}


def test_same_inputs_same_report(planted):
    again = report(Planted(minibatch=True))
    assert again.findings == planted.findings
    for name, table in planted.tables.items():
        pd.testing.assert_frame_equal(again.tables[name], table)


def test_every_figure_draws(planted):
    arms = Planted(blocks=3, gaps={"original": 0.2}, norms=("bn",), config={"batch": 16})
    found = report(Planted(gaps={**GAPS, "clahe": 0.3}), arms)
    names = {"curves", "gaps", "survival", "forest", "arms", "trade_off", "curves_raw"}
    assert {f.name for f in found.figures} == names | {"further_curves"}
    assert found.picture in names
    tables = {f.table for f in found.figures} - {"arms"}
    assert tables <= set(found.appendix)  # sources are shown there, the figures are not
    assert names & set(found.appendix) == {"curves_raw"}
    for f in found.figures:
        table = found.tables[f.table]
        figure = getattr(figures, f.draw)(table, **f.options)
        assert figure.get_figwidth() * 96 == pytest.approx(700, abs=2)
        sink = io.BytesIO()
        figure.savefig(sink, format="svg")
        assert sink.tell() > 5000


def test_one_block_still_draws():
    found = report(Planted(blocks=1))
    for f in found.figures:
        assert getattr(figures, f.draw)(found.tables[f.table], **f.options).axes


def test_the_curves_drawn_are_those_of_the_table(planted):
    table = planted.tables["curve_traces"]
    figure = figures.training_curves(table)
    first = figure.axes[0]
    rows = table[(table["condition"] == "(a) original") & (table["panel"] == "loss")]
    mean = rows[(rows["trace"] == "geometric mean") & (rows["norm"] == "in")]["value"]
    thick = [line for line in first.lines if line.get_linewidth() > 1]
    assert_allclose(thick[0].get_ydata(), mean)
    assert len(first.lines) == 2 * (10 + 1)
    limits = {axis.get_ylim() for axis in figure.axes[:5]}
    assert len(limits) == 1  # one scale for all conditions
    band = table[(table["panel"] == "ratio") & (table["trace"] == "mean")]
    assert (band["low"] < band["value"]).all()


def test_few_blocks_have_no_band():
    found = report(Planted(blocks=3))
    band = found.tables["curve_traces"].query("panel == 'ratio' and trace == 'mean'")
    assert not np.isfinite(band["low"]).any()
    figure = figures.training_curves(found.tables["curve_traces"])
    labels = [t.get_text() for t in figure.legends[0].get_texts()]
    assert "95 % band" not in labels
    assert "no band: fewer than 6 blocks" in found.figures[0].caption
