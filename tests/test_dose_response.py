"""Dose-response: planted lines, what is too little to test, and a run from training to report."""

import io

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy import stats
from synthetic_curves import Planted

from analyses import dose_response
from statsnorm import figures
from statsnorm.curves.doses import dose_table, planned_order, series_of
from statsnorm.curves.slopes import lines, slopes_table
from statsnorm.curves.summary import curve_frames
from statsnorm.decisions import load_plan
from statsnorm.errors import StatsnormError
from statsnorm.report.encode import parquet_bytes, read_parquet

PLAN = load_plan()
DOSES = {
    "original": 0.0, "style": -2.0, "styles-2": -1.4, "styles-4": -0.8, "styles-8": -0.3,
    "placebo": 0.2, "gains-30": 0.15, "gains-60": 0.5, "contrast": 0.1,
}  # fmt: skip
SLOPE, AT_ZERO = 0.2, 0.5


def moments(doses=DOSES, images=30, taps=("relu1_1", "relu3_1"), spread=0.0):
    """Traces as the manipulation checks leave them; taps and moments differ around the dose."""
    rows = []
    for condition, dose in doses.items():
        for i, tap in enumerate(taps):
            for j, moment in enumerate(("m", "v")):
                shift = spread * ((i + j) % 2 * 2 - 1) * (condition != "original")
                base = 0.1 * (1 + i + 2 * j)
                jitter = 1 + 0.01 * np.sin(np.arange(1 + images) + len(condition))
                jitter[0] = 1
                rows.append(
                    {
                        "network": "vgg16", "tap": tap, "condition": condition, "moment": moment,
                        "images": images, "channels": 8,
                        "values": base * np.exp(dose + shift) * jitter,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def gaps(slope=SLOPE, contrast=0.0):
    """Gaps on the line for all but the contrast doses, whose own slope is `contrast`."""
    flat = {c for c in DOSES if series_of(c) == "contrast dose"}
    return {c: AT_ZERO + (contrast if c in flat else slope) * x for c, x in DOSES.items()}


def report(planted, traces=None):
    frames = curve_frames([(planted.run_config(), planted.curves())])
    frames[dose_response.TRACES] = moments(spread=0.3) if traces is None else traces
    stored = {n: read_parquet(parquet_bytes(f), n) for n, f in frames.items()}
    return dose_response.run(stored, PLAN, np.random.default_rng(0))


def verdicts(found):
    return {claim.hypothesis: claim.verdict for claim in found.claims}


def near(row, truth):
    """Within twice the half-width of the interval: 4.5 standard errors at ten blocks."""
    return abs(row["estimate"] - truth) < row["high"] - row["low"]


@pytest.fixture(scope="module")
def planted():
    return report(Planted(gaps=gaps(), spread=0.02))


def test_planted_line_is_recovered_and_contrast_is_flat(planted):
    assert verdicts(planted) == {"D1": "supported", "D2": "supported"}
    rows = planted.tables["slopes"].set_index("series")
    style, contrast = rows.loc["style dose"], rows.loc["contrast dose"]
    assert near(style, SLOPE)
    assert style["low"] > 0
    assert near(contrast, 0)
    assert style["p_flip"] == 2 / 2**10
    assert contrast["conditions"] == "original, gains-30, gains-60"
    assert_allclose(style["range"], 2.2)
    parts = planted.effects.set_index("statistic")["estimate"]
    for sign in "-+":
        margin = float(f"{sign}0.25") * style["estimate"]
        statistic = f"slope for contrast {sign} 0.25 slope for style"
        assert_allclose(parts[statistic], contrast["estimate"] + margin)
    assert set(planted.effects["n_units"]) == {"10 blocks"}


def test_other_conditions_lie_on_the_line_and_contrast_doses_off_it(planted):
    rows = planted.tables["off_line"].set_index("condition")
    assert set(rows.index) == {"original", "contrast", "gains-30", "gains-60"}
    for condition in ("original", "contrast"):
        assert near(rows.loc[condition], 0)
    assert rows.loc["gains-60", "high"] < 0  # flat: below a rising line
    moved = report(Planted(gaps={**gaps(), "contrast": gaps()["contrast"] + 0.3}, spread=0.02))
    assert moved.tables["off_line"].set_index("condition").loc["contrast", "low"] > 0.2


def test_trend_is_pages_in_the_planned_order(planted):
    row = planted.tables["trend"].iloc[0]
    assert row["order"] == "style, styles-2, styles-4, styles-8, placebo"
    points = planted.tables["points"]
    table = points.pivot_table(index="block", columns="condition", values="gap")
    oracle = stats.page_trend_test(table[row["order"].split(", ")].to_numpy())
    assert_allclose((row["statistic"], row["pvalue"]), (oracle.statistic, oracle.pvalue))


def test_slopes_against_polyfit(planted):
    points = planted.tables["points"]
    mine = points[points["series"] == "style dose"]
    found = lines(points, list(dict.fromkeys(mine["condition"]))).set_index("block")
    for block, own in mine.groupby("block"):
        slope, intercept = np.polyfit(own["dose"], own["gap"], 1)
        assert_allclose(found.loc[block], [slope, intercept])
    row = planted.tables["slopes"].iloc[0]
    t = stats.ttest_1samp(found["slope"], 0).confidence_interval()
    assert_allclose((row["low"], row["high"]), (t.low, t.high))


def test_no_slope_is_not_supported_and_a_contrast_slope_contradicts():
    flat = report(Planted(gaps=gaps(slope=0.0), spread=0.05, seed=2))
    assert verdicts(flat)["D1"] != "supported"
    same = report(Planted(gaps=gaps(contrast=SLOPE), spread=0.01))
    assert verdicts(same) == {"D1": "supported", "D2": "contradicted"}
    falling = report(Planted(gaps=gaps(slope=-0.2), spread=0.02))
    assert verdicts(falling)["D1"] == "contradicted"


def test_what_is_too_little_to_test():
    few = report(Planted(gaps=gaps(), blocks=3))
    assert set(verdicts(few).values()) == {"not testable"}
    wanted = "To be testable D1 needs 8 blocks with every style dose ("
    assert sum(text.startswith(wanted) for text in few.findings) == 1
    assert not {"p_t", "p_flip", "pvalue"} & {c for t in few.tables.values() for c in t.columns}
    assert not any("one-sided p" in text for text in few.findings)
    assert all("3 blocks" in text for text in few.left_out)
    assert np.isfinite(few.tables["slopes"]["estimate"]).all()
    kept = ("original", "style", "placebo", "styles-4")
    three = report(Planted(gaps={c: g for c, g in gaps().items() if c in kept}))
    assert verdicts(three)["D1"] == "not testable"
    assert any("3 style doses < 4" in text for text in three.left_out)
    narrow = {c: 0.05 * x for c, x in DOSES.items()}
    close = report(Planted(gaps=gaps()), moments(narrow))
    assert any("span a factor of 1.12" in text for text in close.left_out)


def test_a_block_without_one_dose_is_left_out_of_the_line():
    p = Planted(gaps=gaps(), spread=0.02)
    curves = p.curves()
    gone = curves["cell"].str.startswith("b04-") & (curves["condition"] == "styles-2")
    frames = curve_frames([(p.run_config(), curves[~gone])])
    frames[dose_response.TRACES] = moments()
    found = dose_response.run(frames, PLAN, np.random.default_rng(0))
    assert found.tables["slopes"]["n"].tolist() == [9, 10]


def test_dose_is_the_mean_log_ratio_with_its_jackknife():
    table = dose_table(moments(spread=0.4), "vgg16").set_index("condition")
    assert_allclose(table["dose"].reindex(DOSES), list(DOSES.values()), atol=1e-12)
    assert (table.loc["original", ["dose_low", "dose_high"]] == 0).all()
    own = table.loc["style"]
    n = np.arange(31)
    left = np.log((1 + 0.01 * np.sin(n + 5)) / (1 + 0.01 * np.sin(n + 8)))[1:]
    se = np.sqrt(29 / 30 * ((left - left.mean()) ** 2).sum())
    assert_allclose(own["dose_high"] - own["dose"], stats.t.ppf(0.975, 29) * se)
    with pytest.raises(StatsnormError, match="no moments of the originals"):
        dose_table(moments({"style": 1.0}), "vgg16")


def test_planned_order_of_blends_runs_from_styled_to_plain():
    given = ["original", "blend-25", "style", "blend-75", "blend-50", "placebo"]
    assert planned_order(given) == ["style", "blend-75", "blend-50", "blend-25", "original"]
    assert planned_order(["placebo", "styles-8", "styles-2"]) == ["styles-2", "styles-8", "placebo"]


def test_figure_is_drawn_and_names_its_units(planted):
    figure = planted.figures[0]
    drawn = getattr(figures, figure.draw)(planted.tables[figure.table], **figure.options)
    drawn.savefig(io.BytesIO(), format="png")
    assert "10 blocks" in figure.caption
    assert "30 images" in figure.caption


def test_slopes_need_two_doses():
    assert not len(slopes_table(pd.DataFrame(
        {"block": ["a"], "condition": ["style"], "series": ["style dose"], "dose": [0.0],
         "gap": [1.0]}), np.random.default_rng(0)))  # fmt: skip


class Runs:
    """Runs with configurations alone."""

    def __init__(self, *configs):
        self.runs = [type("Run", (), {"config": c, "path": None})() for c in configs]


def test_runs_without_doses_moments_or_one_seed():
    train = {"kind": "train", "train": {"conditions": ["original", "style"], "seed": 0}}
    assert dose_response.summarise(Runs(train)) == {}
    train["train"]["conditions"].append("styles-2")
    with pytest.raises(StatsnormError, match="--condition original,style,styles-2"):
        dose_response.summarise(Runs(train))
