"""Re-emergence: planted variance by depth and over training, networks as units."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy import stats
from synthetic_networks import planted_networks
from synthetic_tables import SyntheticTables, planted_study

from analyses import reemergence
from statsnorm import figures
from statsnorm.decisions import load_plan
from statsnorm.removal.depth import STEPS, kept_interval
from statsnorm.report.encode import parquet_bytes, read_parquet
from statsnorm.stats.jackknife import jackknife_replicates

PLAN = load_plan()
PLACE = f"mean over {PLAN.primary['mean_over']}"
TINY = {"images": 6, "styles": 4, "levels": 2, "channels": 3}
LEARNING = {0: (0.7, 0.7, 0.01), 10: (0.7, 0.4, 0.01), 100: (0.7, 0.2, 0.01)}


def report_of(tables):
    frames = reemergence.summarise(tables)
    stored = {n: read_parquet(parquet_bytes(f), n) for n, f in frames.items()}
    return frames, reemergence.run(stored, PLAN, np.random.default_rng(0))


@pytest.fixture(scope="module")
def learned():
    tables = planted_networks(
        np.random.default_rng(2), iterations=(0, 10, 100), keep=LEARNING, **TINY
    )
    return report_of(tables)


@pytest.fixture(scope="module")
def shipped():
    tables = planted_study(np.random.default_rng(1), conditions=False, channels=4)
    return report_of(tables)


def row_of(table, **where):
    for name, value in where.items():
        table = table[table[name] == value]
    assert len(table) == 1, (where, len(table))
    return table.iloc[0]


def test_planted_learning_is_found_and_paired_by_cell(learned):
    _, report = learned
    table = report.tables["learned"]
    group = "texture, in, trained on original"
    row = row_of(table, group=group, place=PLACE, quantity="Psi", iteration="100")
    assert_allclose(row["estimate"], math.log(0.2 / 0.7), atol=0.05)
    assert (row["n"], row["paired"], row["status"]) == ("8", True, "")
    assert row["p_sign_flip"] == pytest.approx(2 / 2**8)
    early = row_of(table, group=group, place=PLACE, quantity="Psi", iteration="10")
    assert_allclose(early["estimate"], math.log(0.4 / 0.7), atol=0.05)
    trend = row_of(report.tables["trend"], group=group, place=PLACE)
    assert (trend["cells"], trend["iterations"], trend["rank_correlation"]) == (8, 3, 1.0)
    assert trend["pvalue"] < 1e-4
    assert trend["status"] == ""


def test_batch_normalisation_has_no_psi_to_learn(learned):
    _, report = learned
    rows = report.tables["learned"]
    rows = rows[(rows["group"] == "texture, bn, trained on original") & (rows["quantity"] == "Psi")]
    assert_allclose(rows["estimate"], 0, atol=1e-9)
    assert set(report.tables["trend"]["group"]) == {"texture, in, trained on original"}
    assert set(report.tables["selectivity"]["group"]) == {"texture, in, trained on original"}


def test_iteration_0_of_a_block_counts_once_for_all_training_conditions():
    rng = np.random.default_rng(3)
    tables = planted_networks(rng, blocks=3, norms=("in",), **TINY)
    other = planted_networks(rng, blocks=3, norms=("in",), condition="style", **TINY)
    tables.blocks += other.blocks
    tables.configs += other.configs
    _, report = report_of(tables)
    rows = report.tables["selectivity"]
    assert set(rows["n_untrained"]) == {3}
    assert set(rows["group"]) == {f"texture, in, trained on {c}" for c in ("original", "style")}
    assert set(rows["n"]) == {3}


def test_few_networks_are_not_testable():
    tables = planted_networks(
        np.random.default_rng(4), blocks=3, iterations=(0, 10, 100), keep=LEARNING, **TINY
    )
    _, report = report_of(tables)
    assert set(report.tables["learned"]["status"]) == {"not testable: 3 pairs < 8"}
    assert set(report.tables["trend"]["status"]) == {"not testable: 3 cells < 8"}
    assert report.tables["trend"]["pvalue"].isna().all()
    assert report.tables["learned"][["pvalue", "p_sign_flip"]].isna().all(axis=None)
    assert all(
        "not testable: 3" in text for text in report.findings if "Psi" in text and "in" in text
    )


def test_a_shipped_network_stands_against_its_untrained_ones(shipped):
    _, report = shipped
    row = row_of(report.tables["selectivity"], place=PLACE)
    assert (row["n"], row["n_untrained"]) == (1, 8)
    assert row["low"] < math.log(0.2 / 0.7) < row["high"]  # images and styles
    assert_allclose(row["untrained"], math.log(0.5 / 0.6), atol=0.1)
    assert row["learned_low"] < math.log(0.2 / 0.7) - math.log(0.5 / 0.6) < row["learned_high"]
    assert "learned" not in report.tables
    assert report.picture == "by_depth_0"
    assert report.headline.startswith("cin26, index 0 (1 trained): in front of the next normaliser")
    assert "training changed" not in report.headline  # one shipped network: nobody trained it here
    assert "Psi at mean over next_pre_norm less that of random weights -1." in report.headline


def test_the_share_in_the_headline_has_the_jackknife_of_images_and_styles(shipped):
    frames, report = shipped
    row = row_of(report.tables["steps"], stage="trained", factor="S",
                 step="in front of the next normaliser")  # fmt: skip
    kept = frames["replicates"]
    kept = kept[(kept["component"] == "style") & (kept["moment"] == "v")]
    designs = frames["designs"].set_index("design")["source"]
    kept = kept[kept["design"].map(designs) == "input"]
    points = frames["components"].drop_duplicates(["design", "tap"])
    kinds = points.set_index(["design", "tap"])["tap_kind"]
    ratios = []
    for at, own in kept.groupby(["design", "tap"]):
        if kinds[at] == "next_pre_norm":
            v = own.set_index("treatment")["values"]
            ratios.append(np.asarray(v["none"]) / np.asarray(v["frozen:prefix"]))
    images, styles = (int(frames["designs"][n].iloc[0]) for n in ("images", "styles"))
    log = np.log(np.mean(ratios, axis=0))
    found = jackknife_replicates(log, images, styles)
    assert_allclose([row["kept"], row["low"], row["high"]],
                    np.exp([found.estimate, found.low, found.high]), rtol=1e-9)  # fmt: skip
    share = f"{100 * row['kept']:.0f} % ({100 * row['low']:.0f} to {100 * row['high']:.0f})"
    assert f"normaliser {share} of the style variance" in report.headline


def test_kept_interval_over_networks_is_students_t_of_jackknifed_logs():
    one = kept_interval([np.array([0.2])], (24, 8))
    assert one.estimate == 0.2
    assert math.isnan(one.low)
    rng = np.random.default_rng(0)
    kept = rng.uniform(0.1, 0.4, 8)
    found = kept_interval([np.array([k]) for k in kept], (24, 8))
    without = np.log([np.delete(kept, i).mean() for i in range(8)])
    se = np.sqrt(7 / 8 * ((without - without.mean()) ** 2).sum())
    ends = np.log(kept.mean()) + stats.t.ppf([0.025, 0.975], 7) * se
    assert_allclose([found.estimate, found.low, found.high], [kept.mean(), *np.exp(ends)])
    kept[0] = -0.01  # a negative estimate is kept, and there is no log
    assert kept_interval([np.array([k]) for k in kept], (24, 8)).low < 0.3


def test_depth_profile_recovers_planted_variance(shipped):
    frames, report = shipped
    profile = report.tables["profile"]
    row = row_of(profile, stage="trained", tap="b.norm.in", factor="S")
    points = frames["components"]
    points = points[(points["tap"] == "b.norm.in") & (points["moment"] == "v")]
    number = frames["designs"].query("iteration == -1 and source == 'input'")["design"].iloc[0]
    mine = points[points["design"] == number].set_index("treatment")["style"]
    assert_allclose(row["at_work"], mine["none"], rtol=1e-6)
    assert_allclose(row["kept"], mine["none"] / mine["frozen:prefix"], rtol=1e-6)
    assert_allclose(row["kept"], 0.2, atol=0.03)
    assert row["low"] < row["at_work"] < row["high"]
    fresh = row_of(profile, stage="untrained", tap="b.norm.in", factor="S")
    assert fresh["n"] == 8
    assert_allclose(fresh["kept"], 0.5, atol=0.05)


def test_distance_to_the_next_normaliser_and_steps_behind_one():
    rng, tables = np.random.default_rng(5), SyntheticTables()
    labels = {"image": list("abcdef"), "style": ["g:1", "g:2", "g:3", "g:4"], "level": [0, 1]}
    inputs = {"contrast": "gain", "restore": "none", "strength": 1.0}
    kept = {"n1": 0.0, "act": 0.25, "n2.in": 0.5, "out": 1.0}
    taps = [
        ("n1.in", "pre_norm", 1.0), ("n1", "post_norm", 0.0), ("act", "post_act", 0.25),
        ("n2.in", "next_pre_norm", 0.5), ("out", "output", 1.0),
    ]  # fmt: skip
    y = (
        rng.normal(size=(6, 1, 1, 3))
        + rng.normal(size=(1, 4, 1, 3))
        + rng.normal(size=(1, 1, 2, 3))
    )
    for depth, (tap, kind, share) in enumerate(taps):
        for treatment, factor in (("frozen:prefix", 1.0), ("none", math.sqrt(share))):
            net = {"network": "net", "norm": "in", "tap": tap, "tap_kind": kind, "depth": depth}
            by = kind == "post_norm" and treatment == "none"
            tables.add(
                {**inputs, **net, "treatment": treatment, "by_construction": by},
                labels, 0 * y, np.exp(2 * 0.3 * factor * y),
            )  # fmt: skip
    _, report = report_of(tables)
    profile = report.tables["profile"]
    ahead = profile[profile["factor"] == "S"].set_index("tap")["to_next"].to_dict()
    assert ahead == {"n1.in": 0, "n1": 2, "act": 1, "n2.in": 0, "out": -1}
    steps = report.tables["steps"]
    steps = steps[steps["factor"] == "S"].set_index("step")["kept"]
    expected = {STEPS[k]: kept[t] for t, k, _ in taps[1:]}
    assert list(steps.index) == list(expected)
    assert_allclose(steps.to_numpy(), list(expected.values()), atol=1e-9)


@pytest.mark.parametrize("which", ["learned", "shipped"])
def test_every_figure_draws(which, request):
    _, report = request.getfixturevalue(which)
    assert report.figures
    for figure in report.figures:
        drawn = getattr(figures, figure.draw)(report.tables[figure.table], **figure.options)
        assert drawn.get_axes()
        assert figure.name in ("over_training", "by_depth_0")  # none of batch normalisation
    assert report.picture in {figure.name for figure in report.figures}


def test_tables_without_a_design_or_a_normaliser_are_left_out():
    tables = planted_study(np.random.default_rng(6), conditions=False, **TINY, untrained=0)
    tables.blocks = [b for b in tables.blocks if b[0]["norm"] == "none"]
    assert reemergence.summarise(tables) == {}


def test_same_frames_same_report(learned):
    frames, report = learned
    again = reemergence.run(frames, PLAN, np.random.default_rng(0))
    assert again.findings == report.findings
    for name, table in report.tables.items():
        pd.testing.assert_frame_equal(table, again.tables[name], rtol=1e-6)
