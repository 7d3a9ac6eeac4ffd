"""The share of input values outside [0, 1]: measured at extraction, read back, said in reports."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from numpy.testing import assert_allclose
from scipy import stats

from statsnorm import extract
from statsnorm.cells import InputCell
from statsnorm.extraction.outside import RangeRows, range_of
from statsnorm.load import Tables
from statsnorm.removal.outside import outside_sentence, outside_statistics

DESIGN = """
limit = 2
restore = "luminance"
[styles]
generator = "cin26"
indices = [1, 4]
[contrast]
family = "gain"
values = [1.0, 0.4]
"""


def test_against_a_count():
    x = torch.full((2, 3, 4, 4), 0.5)
    x[0, 0, 0, :2] = -0.25  # 2 of 48 values
    x[0, 2, 1, 1] = 1.5
    x[1, 0, 0, 0], x[1, 1, 0, 0] = 0.0, 1.0  # the ends lie inside
    found = range_of(x)
    assert found.dtype == torch.float64
    assert_allclose(found.numpy(), [[3 / 48, -0.25, 1.5], [0, 0, 1]])


def test_cells_pass_unchanged_and_are_forgotten_once_read():
    cells = (InputCell(), InputCell(condition="contrast", style="cin26:1"))
    watched = RangeRows(cells=cells)
    made = [(1, torch.full((2, 3, 2, 2), 2.0)), (0, torch.zeros(2, 3, 2, 2))]
    assert [place for place, _ in watched.watch(made, ("a", "b"))] == [1, 0]
    rows = watched.finish()
    assert [(r["image"], r["condition"], r["outside"]) for r in rows] == [
        ("a", "contrast", 1), ("b", "contrast", 1), ("a", "original", 0), ("b", "original", 0),
    ]  # fmt: skip
    assert watched.finish() == []


def test_a_run_holds_one_row_an_input_whatever_the_networks(tmp_path):
    (tmp_path / "design.toml").write_text(DESIGN)
    run = tmp_path / "run"
    extract(
        "embedded",
        design=tmp_path / "design.toml",
        size=32,
        networks=["cin26", "pixels"],
        indices=["0"],
        taps=["contract.0.norm.in", "rgb"],
        vgg_of_output=None,
        out=run,
    )
    rows = Tables(run).outside()
    assert len(rows) == 2 * 2 * 2  # images x styles x levels
    pixels = pd.read_parquet(run / "moments", filters=[("tap", "==", "rgb")])
    assert len(pixels) == len(rows)
    at_gain_1 = rows[rows["level"] == 0]
    assert (at_gain_1["outside"] > 0).any()  # restored luminance leaves [0, 1]
    assert at_gain_1["least"].min() < 0
    reduced = rows[rows["level"] == 1]  # gain .4 about mid-grey
    for end in ("least", "greatest"):
        assert_allclose(reduced[end], 0.5 + 0.4 * (at_gain_1[end].to_numpy() - 0.5), atol=1e-6)
    assert (rows["restore"] == "luminance").all()
    table = outside_statistics(rows)
    assert table["images"].tolist() == [2, 2]
    assert_allclose(table["outside"], rows.groupby("level")["outside"].mean())
    (sentence,) = outside_sentence(table)
    assert "kept and not clipped" in sentence
    assert "luminance restored" in sentence


def test_a_run_begun_without_the_table_goes_on_without_it(tmp_path):
    options = {"images": "embedded", "networks": ["pixels"], "size": 16, "out": tmp_path / "run"}
    extract(**options)
    there = json.loads((tmp_path / "run/run.json").read_text())
    there["expected"]["sharded"].remove("outside")
    (tmp_path / "run/run.json").write_text(json.dumps(there))
    for path in [tmp_path / "run/done.json", *(tmp_path / "run/outside").iterdir()]:
        path.unlink()
    (tmp_path / "run/outside").rmdir()
    before = pq.read_table(tmp_path / "run/moments")
    found = extract(**options)
    assert not found.missing
    assert not (tmp_path / "run/outside").exists()
    assert pq.read_table(tmp_path / "run/moments").equals(before)
    assert Tables(tmp_path / "run").outside().empty


def test_intervals_are_over_images_not_over_inputs():
    rng = np.random.default_rng(0)
    share = np.repeat(rng.uniform(0, 0.2, 12), 3)
    rows = pd.DataFrame(
        {
            "image": np.repeat([f"{i}" for i in range(12)], 3), "condition": "original",
            "style": ["cin26:1", "cin26:2", "cin26:3"] * 12, "strength": 1.0, "restore": "none",
            "contrast": "", "level": 0, "outside": share, "least": -0.1, "greatest": 1.2,
        }
    )  # fmt: skip
    (row,) = outside_statistics(rows).to_dict("records")
    low, high = stats.t.interval(0.95, 11, share[::3].mean(), stats.sem(share[::3]))
    assert_allclose([row["low"], row["high"]], [low, high])
    assert (row["images"], row["inputs"], row["touched"]) == (12, 36, 1.0)


def test_nothing_outside_and_nothing_recorded():
    rows = pd.DataFrame(
        {"image": ["a", "b"], "condition": "original", "style": "", "strength": 1.0,
         "restore": "none", "contrast": "", "level": 0, "outside": 0.0, "least": 0.0,
         "greatest": 1.0}
    )  # fmt: skip
    (sentence,) = outside_sentence(outside_statistics(rows))
    assert sentence.startswith("No value of any input lay outside")
    assert not list(outside_sentence(outside_statistics(rows.iloc[:0])))
