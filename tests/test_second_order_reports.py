"""From photographs to verified reports: correlations and swaps through the whole pipeline."""

import numpy as np
import pandas as pd
import pytest
from test_extract import DESIGN, QUICK, TINY, make_photos

from statsnorm.extraction import extract
from statsnorm.load import Tables
from statsnorm.report import verify, write_report

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"), range(9))


def test_where_style_lives(photos, tmp_path):
    design = tmp_path / "design.toml"
    design.write_text(DESIGN)
    extract(photos, out=tmp_path / "r", networks=[TINY], design=design, correlations=6,
            treatments=["none", "frozen:prefix"], reference=photos, **QUICK)  # fmt: skip
    write_report([tmp_path / "r"], analyses=["where_style_lives"], out=tmp_path / "report")
    assert verify(tmp_path / "report").equal
    text = (tmp_path / "report/report.md").read_text()
    assert "correlations alone still hold" in text
    assert "Correlations in front of and behind 2 normalisers differ by at most" in text
    keys = Tables(tmp_path / "r").correlation_keys()
    assert set(keys["style"]) == {"filters:sepia", "filters:grain", "filters:halftone"}


def test_cin_map(photos, tmp_path):
    asked = {**QUICK, "vgg_of_output": "vgg16", "vgg_taps": ["relu1_1", "relu2_1"]}
    treatments = ["none", "swap:gamma:to=others", "swap:beta:to=others", "blend:0.5:to=others"]
    treatments += ["swap:both@each:to=others", "swap:both@orders-2:to=others"]
    extract(photos, out=tmp_path / "r", networks=["cin26"], indices=["2", "5", "9"],
            taps=["post_norm", "output"], treatments=treatments, **asked)  # fmt: skip
    write_report([tmp_path / "r"], analyses=["cin_map", "cin_style"], out=tmp_path / "report")
    assert verify(tmp_path / "report").equal
    text = (tmp_path / "report/report.md").read_text()
    assert "a style is 990 numbers" in text
    shapley = pd.read_parquet(tmp_path / "report/tables/cin_map.shapley.parquet")
    np.testing.assert_allclose(shapley["share"].sum(), 1, atol=1e-4)
    assert next(iter(shapley.sort_values("depth")["layer"])) == "contract.0.norm"
