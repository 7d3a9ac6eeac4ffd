import math

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from synthetic_curves import GAPS, Planted

from statsnorm.curves.arms import arms_table, common_rates
from statsnorm.curves.claims import candidate, units_of
from statsnorm.curves.contrasts import LATE, block_numbers, letters_of, linear, window_mean
from statsnorm.curves.passage import (
    passage_table,
    passage_times,
    speed_up,
    survival_steps,
    thresholds,
)
from statsnorm.curves.study import pilot_losses, study_of
from statsnorm.curves.summary import curve_frames, status, thinned
from statsnorm.curves.tables import curves_source, effects_table, medcouple, speed_table
from statsnorm.decisions import load_plan
from statsnorm.errors import StatsnormError

PLAN = load_plan()
PAIR = {"original": 0.3}


def frames_of(*planted):
    return curve_frames([(p.run_config(), p.curves()) for p in planted])


def study(*planted):
    return study_of(frames_of(*planted), PLAN)


def five_points(losses, T=400):
    """A run recorded at 0, 100, ... 400 with the given style losses by (norm, condition)."""
    p = Planted(
        blocks=1,
        gaps=dict.fromkeys({c for _, c in losses}, 0.0),
        config={"iterations": T, "record_every": 100},
    )
    curves = p.curves()
    for (norm, condition), values in losses.items():
        at = (curves["norm"] == norm) & (curves["condition"] == condition)
        at &= (curves["bn_mode"] == "train") & (curves["split"] == "heldout")
        curves.loc[at, "style_loss"] = values
    return study_of(curve_frames([(p.run_config(), curves)]), PLAN)


def test_gap_by_hand_on_five_points():
    a_in, a_bn = [99, 8, 4, 2, 1.0], [7, 16, 16, 4, 4.0]
    c_in, c_bn = [50, 4, 4, 4, 2.0], [50, 8, 4, 4, 4.0]
    s = five_points({("in", "original"): a_in, ("bn", "original"): a_bn,
                     ("in", "style"): c_in, ("bn", "style"): c_bn})  # fmt: skip
    # t0 = 4, so from t = 100 on. log2 ratios (a): 1, 2, 1, 2; (c): 1, 0, 0, 1; D: 0, 0, 1, 2
    found = block_numbers(s).iloc[0]
    assert_allclose(found["G_a"], math.log(2) * (0.5 + 2 + 1 + 1) / 3, rtol=1e-12)
    assert_allclose(found["G_c"], math.log(2) * (0.5 + 0 + 0 + 0.5) / 3, rtol=1e-12)
    assert_allclose(found["D"], math.log(2) * (0 + 0 + 1 + 1) / 3, rtol=1e-12)
    # raw: IN on (a) has mean (4 + 4 + 2 + .5) / 3 = 3.5; differences 8, 12, 2, 3; D: 0, 0, 2, 3
    raw = block_numbers(s, scale="raw").iloc[0]
    assert_allclose(raw["G_a"], (4 + 12 + 2 + 1.5) / 3 / 3.5, rtol=1e-12)
    assert_allclose(raw["D"], (0 + 0 + 2 + 1.5) / 3 / 3.5, rtol=1e-12)


def test_late_gap_takes_the_last_fifth():
    p = Planted(blocks=2, gaps=PAIR, spread=0, noise=0, shape=lambda u: 0.2 * (u >= 0.8))
    s = study(p)
    assert_allclose(block_numbers(s, start=LATE)["G_a"], 0.5, rtol=1e-9)
    assert_allclose(block_numbers(s)["G_a"], 0.3 + 0.2 * 20.5 / 99, rtol=1e-9)


def test_window_mean_of_a_line_is_its_middle_on_any_grid():
    rng = np.random.default_rng(0)
    grid = np.sort(np.append(rng.uniform(0, 1, 20), [0.0, 1.0]))
    assert_allclose(window_mean(3 + 2 * grid, grid, start=0), 4)
    with pytest.raises(StatsnormError, match="needs 2 grid points from 0"):
        window_mean(grid, grid, start=0.99)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("G_a", {"G_a": 1}),
        ("D - 0.25 G_a", {"D": 1, "G_a": -0.25}),
        ("0.5 G_a - G_c + .5G_a", {"G_a": 1, "G_c": -1}),
        ("|D|", {"D": 1}),
        ("- G_pstar", {"G_pstar": -1}),
    ],
)
def test_linear(text, expected):
    assert linear(text) == expected


@pytest.mark.parametrize("text", ["G_a / G_b", "G_a G_b", "R_S", "2 * G_a"])
def test_linear_refuses_what_is_no_contrast(text):
    with pytest.raises(StatsnormError, match="no linear contrast"):
        linear(text)


def test_d_needs_both_conditions():
    assert letters_of("D - 0.25 G_b") == {"a", "b", "c"}


def test_thinned_keeps_the_mean_of_logs():
    rng = np.random.default_rng(1)
    loss = np.exp(rng.normal(size=2000))
    at, y = thinned(np.arange(2000.0), loss)
    assert len(y) == 200
    assert_allclose(np.log(y).mean(), np.log(loss).mean())
    assert_allclose(at[:2], [4.5, 14.5])
    at, y = thinned(np.arange(7.0), loss[:7])
    assert_allclose(y, loss[:7])
    loss[15] = np.nan
    assert np.flatnonzero(np.isnan(thinned(np.arange(2000.0), loss)[1])).tolist() == [1]


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ([3, 2, 1], "done"),
        ([3, np.nan, 1], "diverged by iteration 5 of 10"),
        ([3, 2, np.inf], "diverged by iteration 10 of 10"),
        ([3, 2, 0], "diverged by iteration 10 of 10"),
    ],
)
def test_status(loss, expected):
    assert status(loss, [0, 5, 10], 10) == expected


def test_a_cell_that_stopped_early_is_not_done():
    assert status([3, 2], [0, 5], 10) == "stopped at iteration 5 of 10"


def broken(p, how):
    """Curves in which block 1, BN on `how`'s condition is diverged, missing or short."""
    curves = p.curves()
    kind, condition = how
    at = (curves["block"] == "b01") & (curves["norm"] == "bn")
    at &= curves["condition"] == condition
    if kind == "missing":
        return curves[~at]
    late = at & (curves["iteration"] >= 250)
    if kind == "stopped":
        return curves[~late]
    if kind == "diverged":
        gone = late & (curves["iteration"] > 250)
        return curves.assign(style_loss=curves["style_loss"].where(~late))[~gone]
    return curves[~(at & (curves["iteration"] == 250))]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "not trained"),
        ("stopped", "stopped at iteration 245 of 500"),
        ("diverged", "diverged by iteration 250 of 500"),
        ("grid", "recorded at other iterations"),
    ],
)
def test_a_block_with_a_bad_cell_is_dropped_and_listed(kind, reason):
    p = Planted(blocks=4, gaps={"original": 0.3, "contrast": 0.3})
    frames = curve_frames([(p.run_config(), broken(p, (kind, "contrast")))])
    s = study_of(frames, PLAN)
    assert s.kept.tolist() == [True, False, True, True]
    assert s.dropped[["block", "norm", "condition", "reason"]].to_numpy().tolist() == [
        ["b01", "bn", "contrast", reason]
    ]
    assert block_numbers(s)["block"].tolist() == ["b00", "b02", "b03"]
    whole = block_numbers(study_of(frames_of(p), PLAN))
    assert_allclose(block_numbers(s)["G_a"], whole["G_a"].drop(1))


def test_an_exploratory_condition_drops_no_block():
    p = Planted(blocks=4, gaps={"original": 0.3, "clahe": 0.3})
    s = study_of(curve_frames([(p.run_config(), broken(p, ("diverged", "clahe")))]), PLAN)
    assert s.kept.all()
    numbers = block_numbers(s)
    assert numbers["G_a"].notna().all()
    assert numbers["G_b5"].isna().tolist() == [False, True, False, False]


def test_a_condition_added_for_few_blocks_in_a_second_run_joins_them():
    first = Planted(blocks=4, gaps=PAIR)
    second = Planted(blocks=2, gaps={"ck": 0.1}, spread=0, noise=0)
    s = study(first, second)
    assert s.blocks["block"].tolist() == ["b00", "b01", "b02", "b03"]
    assert_allclose(block_numbers(s)["G_ck"], [0.1, 0.1, np.nan, np.nan])


def test_blocks_of_runs_with_other_seeds_are_other_blocks():
    s = study(Planted(blocks=2, gaps=PAIR), Planted(blocks=2, gaps=PAIR, config={"seed": 9}))
    assert s.blocks["block"].tolist() == ["b00.1", "b01.1", "b00.2", "b01.2"]
    assert s.kept.all()


def test_repeated_target_styles_are_averaged_only_where_there_are_enough():
    def targets(n):
        return tuple(f"s{i}.jpg" for i in range(n)) * 2

    s = study(Planted(targets=targets(8), gaps=PAIR))
    numbers = block_numbers(s)
    units, word = units_of(numbers, PLAN)
    assert (len(numbers), len(units), word) == (16, 8, "target styles")
    assert_allclose(units["G_a"], (numbers["G_a"][:8] + numbers["G_a"][8:].to_numpy()) / 2)
    few = study(Planted(targets=targets(4), gaps=PAIR))
    units, word = units_of(block_numbers(few), PLAN)
    assert (len(units), word) == (8, "blocks")
    table = effects_table(few, PLAN, np.random.default_rng(0))
    assert table["p_styles"].iloc[0] == 2 / 2**4  # four styles, all gaps positive


def pilot(lr, level, **changes):
    """A pilot whose BN losses are `level` higher in log than IN's."""
    given = {"iterations": 500, "size": 64, "seed": 3, "pilot": True, "lr": lr}
    return Planted(blocks=2, gaps={"original": level}, config=given, spread=0, **changes)


def test_learning_rates_come_from_the_pilot():
    main = [
        Planted(blocks=3, gaps=PAIR, config={"lr": lr}, seed=k) for k, lr in enumerate((1e-3, 1e-2))
    ]
    pilots = [pilot(1e-3, 0.4, noise=0), pilot(1e-2, 0.1, noise=0)]
    frames = frames_of(*main, *pilots)
    table = pilot_losses(frames)
    by = table.set_index(["norm", "lr"])["loss"]
    assert_allclose(np.log(by["bn", 1e-3] / by["in", 1e-3]), 0.4)
    s = study_of(frames, PLAN)
    chosen = s.rates.set_index("norm")["lr"]
    assert chosen["bn"] == 1e-2
    assert chosen["in"] == 1e-3  # equal losses: the first
    own = [block_numbers(study(m))["G_a"] for m in main]
    assert not np.allclose(block_numbers(s)["G_a"], own[0])
    common = common_rates(frames, s).set_index("lr")
    assert_allclose(common["estimate"], [g.mean() for g in own])
    assert study_of(frames_of(*main), PLAN).rates["pilot_best"].isna().all()


def test_a_pilot_that_diverged_is_never_the_best():
    p = pilot(1e-2, -3.0, noise=0)
    curves = p.curves()
    last = (curves["norm"] == "bn") & (curves["iteration"] == 500)
    curves.loc[last, "style_loss"] = np.nan
    good = pilot(1e-3, 0.4, noise=0)
    main = Planted(blocks=2, gaps=PAIR)
    runs = [(q.run_config(), c) for q, c in
            ((main, main.curves()), (good, good.curves()), (p, curves))]  # fmt: skip
    s = study_of(curve_frames(runs), PLAN)
    assert s.rates.set_index("norm")["pilot_best"]["bn"] == 1e-3


def test_thresholds_come_from_pilots_where_there_are_any():
    main = Planted(blocks=4, gaps=PAIR, noise=0)
    frames = frames_of(main)
    s = study_of(frames, PLAN)
    own = thresholds(s, frames)
    curve = s.curve("in", "a")
    assert_allclose(own["tau"], [np.median(curve[:, k]) for k in (25, 50, 100)])
    assert set(own["source"]) == {"same runs, exploratory"}
    both = frames_of(main, pilot(1e-3, 0.4, seed=7))
    found = thresholds(study_of(both, PLAN), both)
    assert set(found["source"]) == {"pilot"}
    assert (found["blocks"] == 2).all()
    cells = both["cells"].query("pilot and norm == 'in'")["cell"]
    held = both["heldout"].query("iteration == 125")
    assert_allclose(found["tau"][0], held[held["cell"].isin(cells)]["style"].median())


def test_medcouple_against_statsmodels():
    import inspect

    from statsmodels.stats import stattools

    exact = (
        {"use_fast": False}
        if "use_fast" in inspect.signature(stattools.medcouple).parameters
        else {}
    )
    rng = np.random.default_rng(2)
    tied = np.array([0.0, 0, 0, 1, 2, 5, -1, -1])
    for d in (rng.normal(size=9), rng.gamma(1, size=10), tied):
        assert_allclose(medcouple(d), stattools.medcouple(d, **exact))
        assert_allclose(medcouple(-d), -medcouple(d))
    assert math.isnan(medcouple(np.ones(5)))


def test_passage_of_known_curves():
    # IN passes tau = e^-1 e-fold earlier; the trailing median of 5 lags by 2 records
    p = Planted(blocks=3, gaps=PAIR, spread=0, noise=0)
    curves = p.curves()
    held = (curves["split"] == "heldout") & (curves["bn_mode"] == "train")
    rate = curves["norm"].map({"in": 1 / 50, "bn": 1 / 100})
    curves.loc[held, "style_loss"] = np.exp(-rate * curves["iteration"])[held]
    stuck = held & (curves["norm"] == "bn") & (curves["block"] == "b02")
    curves.loc[stuck & (curves["iteration"] >= 50), "style_loss"] = np.nan
    s = study_of(curve_frames([(p.run_config(), curves)]), PLAN)
    taus = pd.DataFrame({"threshold": ["tau"], "tau": [math.exp(-1) * (1 + 1e-9)]})
    times = passage_times(s, taus, ["a"])
    assert times.query("norm == 'in'")["time"].tolist() == [60, 60, 60]
    assert times.query("norm == 'bn'")["time"].tolist() == [110, 110, 500]
    assert times.query("norm == 'bn'")["reached"].tolist() == [True, True, False]
    table = passage_table(times, 500, np.random.default_rng(0)).iloc[0]
    assert_allclose([table["in_mean"], table["bn_mean"]], [60, 720 / 3])
    assert table["pvalue"] == 2 / 2**3
    steps = survival_steps(times, 500)
    bn = steps[steps["norm"] == "bn"][["iteration", "share"]].to_numpy()
    assert_allclose(bn, [[0, 1], [110, 1 / 3], [500, 1 / 3]])


def scaled(p, factors):
    """Curves with BN's style loss times a factor a block."""
    curves = p.curves()
    factor = curves["block"].map(factors).where(curves["norm"] == "bn", 1.0)
    return curves.assign(style_loss=curves["style_loss"] * factor)


def test_speed_up():
    p = Planted(blocks=3, gaps={"original": 0.0, "style": -0.5}, spread=0, noise=0)
    s = study(p)
    assert_allclose(speed_up(s, "a")["q"], 1)  # identical curves
    never = speed_up(s, "c")
    assert never["q"].isna().all()
    table = speed_table(s).set_index("condition")
    assert table["never"].to_dict() == {"a": 0, "c": 3}
    assert math.isnan(table["median"]["c"])
    factors = {"b00": 0.1, "b01": 1.0, "b02": 2.0}  # never, Q = 1, Q > 1
    mixed = study_of(curve_frames([(p.run_config(), scaled(p, factors))]), PLAN)
    row = speed_table(mixed).set_index("condition").loc["a"]
    assert (row["never"], row["median"]) == (1, 1)
    assert row["most"] > 1.5
    assert math.isnan(row["least"])
    # BN ends where IN was at half of T: exp(-8 * 0.5) + 0.05 against exp(-8) + 0.05
    gap = math.log((math.exp(-4) + 0.05) / (math.exp(-8) + 0.05))
    q = speed_up(study(Planted(blocks=1, gaps={"original": gap}, spread=0, noise=0)), "a")["q"]
    assert_allclose(q, 2, rtol=0.05)


def test_arms_are_paired_within_blocks():
    main = Planted(blocks=4, gaps=PAIR, spread=0, noise=0)
    first = Planted(blocks=3, gaps=PAIR, norms=("in",), config={"norm_at": "first"},
                    spread=0, noise=0, d=0)  # fmt: skip
    curves = first.curves()
    curves["style_loss"] *= np.exp(0.2)
    other = Planted(blocks=2, gaps={"original": 0.7}, spread=0, noise=0, config={"size": 32})
    runs = [(main.run_config(), main.curves()), (first.run_config(), curves),
            (other.run_config(), other.curves())]  # fmt: skip
    frames = curve_frames(runs)
    table = arms_table(frames, study_of(frames, PLAN)).set_index("arm")
    assert table.index.tolist() == ["BN", "IN, first norm only", "BN, size 32"]
    assert_allclose(table["estimate"], [0.3, 0.2, 0.7])
    assert table["n"].tolist() == [4, 3, 2]
    assert table["reference"].tolist() == ["IN", "IN", "IN, size 32"]


def test_an_arm_without_in_of_its_own_is_compared_with_the_nearest_that_has_the_same_loss():
    rendered = {"renderings": 4}
    pair = {"placebo": 0.2}
    mixed = Planted(blocks=3, gaps=pair, config=rendered, spread=0, noise=0)
    far = Planted(
        blocks=3, gaps=pair, config=rendered | {"batch": 2, "width": 8}, spread=0, noise=0
    )
    alike = rendered | {"batch_kind": "style-homogeneous"}
    alone = Planted(blocks=3, gaps=pair, norms=("bn",), config=alike, spread=0, noise=0)
    frames = frames_of(Planted(blocks=4, gaps=PAIR), far, mixed, alone)
    table = arms_table(frames, study_of(frames, PLAN)).set_index("arm")
    row = table.loc["BN, style-homogeneous batches, 4 styles an image"]
    assert (row["reference"], row["n"]) == ("IN, 4 styles an image", 3)
    assert_allclose(row["estimate"], 0.2)


def test_arms_of_another_seed_have_no_partner():
    main = Planted(blocks=3, gaps=PAIR)
    other = Planted(blocks=3, gaps=PAIR, norms=("ln",), config={"seed": 9}, extra={"ln": 0.2})
    frames = frames_of(main, other)
    assert arms_table(frames, study_of(frames, PLAN))["arm"].tolist() == ["BN"]


def test_parts_of_a_claim_rest_on_the_same_blocks():
    first = Planted(blocks=5, gaps={c: g for c, g in GAPS.items() if c != "ck"})
    s = study(first, Planted(blocks=3, gaps={"ck": 0.1}))
    found = candidate(block_numbers(s), "H3", PLAN, np.random.default_rng(0))
    assert [part.dof for part in found.parts if part.rule.required] == [2, 2, 2, 2]
    assert found.not_testable == "3 complete blocks, 8 are needed"


def test_predicted_sign_is_that_of_the_rule():
    table = effects_table(study(Planted(blocks=3, d=-0.2)), PLAN, np.random.default_rng(0))
    shares = table.drop_duplicates("statistic").set_index("statistic")["predicted"]
    assert shares["D - 0.25 G_a"] == 1  # below 0, as predicted
    assert shares["G_a"] == 1
    assert shares["D"] == 0


def test_the_ratio_and_its_band_begin_at_t0():
    source = curves_source(study(Planted(blocks=6, gaps=PAIR)), np.random.default_rng(0), ["a"])
    first = source.groupby("panel")["iteration"].min()
    assert (first["loss"], first["ratio"]) == (0, 5)
    band = source.query("panel == 'ratio' and trace == 'mean'")
    assert np.isfinite(band["low"]).all()
    assert (band["low"] < band["value"]).all()


def test_the_primary_setting_has_most_finished_blocks():
    small = Planted(blocks=2, gaps=PAIR, config={"batch": 16})
    large = Planted(blocks=3, gaps=PAIR)
    assert study(small, large).config["batch"] == 4
    assert study(large, Planted(blocks=4, gaps=PAIR, config={"batch": 16})).config["batch"] == 16


def test_no_pair_is_an_error_that_says_what_there_is():
    with pytest.raises(StatsnormError, match="there are in on original"):
        frames_of(Planted(blocks=2, gaps=PAIR, norms=("in",)))
    with pytest.raises(StatsnormError, match="no pilots"):
        frames_of(pilot(1e-3, 0.4))
    assert curve_frames([]) == {}
    p = Planted(blocks=2, gaps=PAIR)
    short = p.curves().query("iteration < 400")
    with pytest.raises(StatsnormError, match="needs a finished cell"):
        study_of(curve_frames([(p.run_config(), short)]), PLAN)
