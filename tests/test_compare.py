"""`statsnorm compare`: networks side by side, from synthetic tables and by the command."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from numpy.testing import assert_allclose
from PIL import Image
from synthetic_networks import planted_networks
from synthetic_tables import planted_study

from analyses import side_by_side
from statsnorm import figures
from statsnorm.cli import main
from statsnorm.decisions import load_plan
from statsnorm.errors import StatsnormError
from statsnorm.extraction import extract
from statsnorm.report import verify
from statsnorm.report.discover import find_analyses
from statsnorm.report.encode import parquet_bytes, read_parquet
from statsnorm.training import train

PLAN = load_plan()
PLACE = f"mean over {PLAN.primary['mean_over']}"
TINY = {"images": 6, "styles": 4, "levels": 2, "channels": 3}
NO_CURVES = pd.DataFrame(columns=["cell", "seed", "split", "bn_mode", "iteration"])


def compared(tables, by, curves=NO_CURVES):
    tables.curves = lambda: curves
    frames = side_by_side.summarise(tables, by=by)
    stored = {n: read_parquet(parquet_bytes(f), n) for n, f in frames.items()}
    return side_by_side.run(stored, PLAN, np.random.default_rng(0))


def row_of(table, **where):
    for name, value in where.items():
        table = table[table[name] == value]
    assert len(table) == 1, (where, len(table))
    return table.iloc[0]


def curves_of(blocks, rng, *, gap=0.5):
    """Held-out losses of cells: batch normalisation `gap` above in logs at the end."""
    rows = []
    for block in range(blocks):
        for norm in ("in", "bn"):
            for iteration, drop in ((0, 0.0), (50, 1.0), (100, 2.0)):
                loss = np.exp(3 - drop + (norm == "bn") * (drop > 0) * gap + 0.05 * rng.normal())
                rows.append({
                    "cell": f"b{block:02d}-t{block}-{norm}-original", "norm": norm,
                    "condition": "original", "target": f"/somewhere/t{block}.png",
                    "seed": 100 + block, "iteration": iteration, "split": "heldout",
                    "bn_mode": "train", "style_loss": loss, "content_loss": 2 * loss,
                    "total_loss": 3 * loss,
                })  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def by_norm():
    rng = np.random.default_rng(1)
    return compared(planted_networks(rng, **TINY), "norm", curves_of(8, rng))


def test_norms_are_paired_by_block(by_norm):
    table = by_norm.tables["differences"]
    row = row_of(table, quantity="V_S", place=PLACE)
    assert (row["first"], row["second"], row["n"]) == ("texture in", "texture bn", "8")
    assert row["low"] < math.log(0.2) < row["high"]
    loss = row_of(table, quantity="log style loss")
    assert_allclose(loss["estimate"], -0.5, atol=0.1)
    assert (loss["n"], loss["paired"], loss["status"]) == ("8", True, "")
    assert loss["within"] == "texture, trained on original"
    assert loss["low"] < -0.5 < loss["high"] < -0.3
    assert_allclose([loss["low"], loss["high"]], [loss["networks_low"], loss["networks_high"]])
    assert loss["pvalue"] < 1e-4
    (said,) = (text for text in by_norm.findings if "log style loss" in text)
    assert "8 pairs; p = " in said
    assert "nan" not in said
    assert "no interval" not in said
    assert by_norm.headline.startswith("2 groups of networks side by side, by norm")
    assert by_norm.scope["groups"] == "texture, trained on original: texture bn, texture in"
    assert "V_S / V_I" in set(table["quantity"])
    assert "the larger V_S / V_I, the more style" in by_norm.methods[0]


def test_checkpoints_are_paired_by_cell():
    rng = np.random.default_rng(2)
    keep = {0: (0.7, 0.6, 0.01), 100: (0.7, 0.2, 0.01)}
    report = compared(planted_networks(rng, keep=keep, **TINY), "checkpoint", curves_of(8, rng))
    table = report.tables["differences"]
    group = "texture, in, trained on original, restore luminance, strength 1.0, contrast gain"
    row = row_of(table, within=group, quantity="Psi", place=PLACE)
    assert (row["first"], row["second"], row["n"]) == ("iteration 100", "iteration 0", "8")
    assert_allclose(row["estimate"], math.log(0.2 / 0.6), atol=0.05)
    loss = row_of(table, within="texture, in, trained on original", quantity="log style loss")
    assert_allclose(loss["estimate"], -2, atol=0.1)


def test_cells_side_by_side_have_no_test_between_them():
    report = compared(planted_networks(np.random.default_rng(3), blocks=2, **TINY), "cell")
    means, table = report.tables["means"], report.tables["differences"]
    assert means["group"].nunique() == 4
    assert table["first"].nunique() == 3  # against the first cell
    assert table["status"].str.startswith("not testable: one network each").all()
    row = row_of(table, first="b00-t0-in-original", quantity="V_S", place=PLACE)
    assert row["low"] < row["estimate"] < row["high"]  # over images and styles


def test_networks_that_share_no_block_are_compared_as_they_are():
    rng = np.random.default_rng(4)
    tables = planted_study(rng, conditions=False, untrained=0, **TINY)
    other = planted_study(
        rng, conditions=False, untrained=0, network="other", keep=(0.7, 0.4, 0.0), **TINY
    )
    tables.blocks += [b for b in other.blocks if b[0]["norm"] != "none"]
    report = compared(tables, "network")
    row = row_of(report.tables["differences"], quantity="R_S", place=PLACE)
    assert (row["first"], row["second"]) == ("cin26, index 0", "other, cin, index 0")
    assert_allclose(row["estimate"], 0.2, atol=0.05)
    assert not row["paired"]


def test_unpaired_norms_are_compared_by_welch():
    rng = np.random.default_rng(5)
    tables = planted_networks(rng, blocks=3, norms=("in",), **TINY)
    other = planted_networks(rng, blocks=4, norms=("bn",), **TINY)
    for row, *_ in other.blocks:
        row["seed"] += 50
    tables.blocks += other.blocks
    tables.configs.clear()
    row = row_of(compared(tables, "norm").tables["differences"], quantity="V_S", place=PLACE)
    assert (row["n"], row["paired"]) == ("3 + 4", False)
    assert row["status"] == "not testable: 3 networks in the smaller group < 8"


@pytest.mark.parametrize("by", ["norm", "cell", "checkpoint"])
def test_every_figure_draws(by):
    report = compared(planted_networks(np.random.default_rng(6), blocks=2, **TINY), by)
    assert report.figures
    for figure in report.figures:
        drawn = getattr(figures, figure.draw)(report.tables[figure.table], **figure.options)
        assert drawn.get_axes()


def test_groups_of_two_training_conditions_keep_apart_in_the_figure():
    curves = curves_of(2, np.random.default_rng(9))
    other = curves.assign(
        condition="contrast", cell=curves["cell"].str.replace("original", "contrast")
    )
    tables = planted_networks(np.random.default_rng(9), blocks=2, **TINY)
    report = compared(tables, "norm", pd.concat([curves, other], ignore_index=True))
    (figure,) = (f for f in report.figures if f.name == "differences")
    points = report.tables[figure.table]
    assert not points.duplicated(["label", "group"]).any()
    groups = set(points.loc[points["label"].str.startswith("log style loss"), "group"])
    assert groups == {
        f"texture, trained on {c}: texture in against texture bn" for c in ("original", "contrast")
    }
    assert getattr(figures, figure.draw)(points, **figure.options).get_axes()


def test_a_cell_that_ended_in_infinity_is_left_out_of_the_losses():
    curves = curves_of(3, np.random.default_rng(7))
    last = (curves["cell"] == "b01-t1-in-original") & (curves["iteration"] == 100)
    curves.loc[last, "style_loss"] = np.inf
    tables = planted_networks(np.random.default_rng(7), blocks=3, **TINY)
    row = row_of(compared(tables, "norm", curves).tables["differences"], quantity="log style loss")
    assert row["n"] == "2"


def test_nothing_to_compare_says_which_group_is_there():
    tables = planted_networks(np.random.default_rng(8), blocks=2, norms=("in",), **TINY)
    with pytest.raises(StatsnormError, match=r"nothing to compare by norm: .*\(texture in\)"):
        compared(tables, "norm")
    with pytest.raises(StatsnormError, match=r"unknown comparison by 'nrm'.*'norm'"):
        compared(tables, "nrm")


def test_it_runs_only_when_it_was_asked_for():
    assert "side_by_side" not in [a.name for a in find_analyses()]
    assert [a.name for a in find_analyses(["side_by_side"])] == ["side_by_side"]


# By the command, on real runs.


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two blocks of two norms, trained for four iterations, and a design through all of them."""
    folder = tmp_path_factory.mktemp("compare")
    photos = folder / "photos"
    photos.mkdir()
    for seed in range(4):
        coarse = np.random.default_rng(seed).integers(30, 226, (5, 6, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((24, 20), Image.Resampling.BICUBIC)
        picture.save(photos / f"{seed}.png")
    trained = train(
        photos, target=[photos / "0.png", photos / "1.png"], out=folder / "trained",
        condition=("original",), size=16, batch_size=2, iterations=4, width=4,
        residual_blocks=1, heldout=2, device="cpu", keep_checkpoints=(0,),
    ).path  # fmt: skip
    extract(
        photos, out=folder / "design", generators=(trained,), size=16, device="cpu",
        design={
            "restore": "none",
            "styles": {"generator": "filters"},
            "contrast": {"family": "gain", "values": [0.5, 1.0]},
        },
        treatments=("none", "frozen:prefix"), reference="embedded", vgg_of_output=None,
        taps=("next_pre_norm", "post_act"),
    )  # fmt: skip
    return folder


def cli(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


@pytest.mark.parametrize("by", ["norm", "checkpoint"])
def test_the_command_writes_a_report_that_verifies(runs, tmp_path, by):
    out = tmp_path / "report"
    ran = cli("compare", runs / "design", runs / "trained", "--by", by, "--out", out)
    assert ran.exit_code == 0, ran.output
    assert str(out / "report.html") in ran.stdout
    assert f"groups of networks side by side, by {by}; " in ran.stdout
    assert "not testable: too few networks" in ran.stdout
    assert "summarising" in ran.stderr
    assert "summarising" not in ran.stdout
    differences = pd.read_parquet(out / "tables" / "side_by_side.differences.parquet")
    assert {"V_S", "log style loss"} <= set(differences["quantity"])
    assert verify(out).equal
    assert verify(out, [runs / "design", runs / "trained"]).equal  # the grouping is recorded


def test_curves_alone_can_be_compared(runs, tmp_path):
    ran = cli("compare", runs / "trained", "--out", tmp_path / "report")
    assert ran.exit_code == 0, ran.output


def test_a_design_alone_and_the_default_place(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = cli("compare", runs / "design", "--by", "cell")
    assert ran.exit_code == 0, ran.output
    assert (tmp_path / "reports" / "design-by-cell" / "report.html").is_file()


def test_what_cannot_be_compared_is_listed_with_status_1(runs, tmp_path):
    ran = cli("compare", runs / "design", "--by", "network", "--out", tmp_path / "r")
    assert ran.exit_code == 0, ran.output  # in and bn are two networks
    out = tmp_path / "one"
    extract(
        runs / "photos", out=out, networks=("pixels",), size=16, device="cpu",
    )  # fmt: skip
    ran = cli("compare", out, "--out", tmp_path / "report")
    assert ran.exit_code == 1
    assert "side_by_side: the runs hold neither a crossed design" in ran.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere",), "nowhere is no run directory"),
        (("RUN", "--by", "colour"), "'colour'"),
        (("RUN", "RUN"), "is given twice"),
        ((), "Missing argument"),
    ],
)
def test_bad_requests_are_one_line_with_status_2(runs, tmp_path, arguments, words):
    given = [str(runs / "design") if a == "RUN" else a for a in arguments]
    ran = CliRunner().invoke(main, ["compare", *given, "--out", str(tmp_path / "out")])
    assert ran.exit_code == 2
    assert ran.stdout == ""
    assert words in ran.stderr
    assert len([x for x in ran.stderr.splitlines() if "summarising" not in x]) == 1
    assert not (tmp_path / "out").exists()
