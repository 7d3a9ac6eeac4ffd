"""The calibration at toy size: that it runs, resumes, repeats, and plants what it says."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from statsnorm.report import provenance
from statsnorm.report.compare import compare_files
from statsnorm.report.verification import report_files
from statsnorm.stats import removed_fraction, selectivity
from statsnorm.stats.components import crossed_components

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks"
REPORT = ROOT / "reports" / "calibration"


@pytest.fixture
def bench(monkeypatch):
    """Import a module of benchmarks/ by name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return pytest.importorskip


def options(work, workers):
    given = {"work": work, "out": work / "report", "replicates": 6, "workers": workers}
    return ["--no-real", "--only=6-blocks-size", *(f"--{k}={v}" for k, v in given.items())]


def test_runs_resumes_and_repeats(bench, tmp_path, capsys):
    calibrate = bench("calibrate")
    calibrate.main(options(tmp_path / "a", 1))
    assert "[1/2] 6-blocks-size-gaussian" in capsys.readouterr().err
    table = pd.read_csv(tmp_path / "a" / "report" / "tables" / "size.csv")
    assert "sign flips" in set(table["quantity"])
    assert table["replicates"].eq(6).all()
    assert table["value"].between(0, 1).all()
    page = (tmp_path / "a" / "report" / "report.md").read_bytes()
    calibrate.main(options(tmp_path / "a", 1))
    assert "6-blocks" not in capsys.readouterr().err  # nothing was run again
    command = [sys.executable, str(FOLDER / "calibrate.py"), *options(tmp_path / "b", 2)]
    other = subprocess.run(command, capture_output=True, text=True, check=False)
    assert other.returncode in (0, 1), other.stderr
    for work in ("a", "b"):
        assert (tmp_path / work / "report" / "report.md").read_bytes() == page


def test_unknown_cell_is_refused(bench, capsys):
    with pytest.raises(SystemExit, match="2"):
        bench("calibrate").main(["--only", "nothing", "--no-real"])
    assert "no cell holds 'nothing'" in capsys.readouterr().err


def test_cells_have_their_own_names(bench):
    names = [cell.name for cell in bench("calibration_cells").cells("pools.npz")]
    assert len(set(names)) == len(names) > 80


def test_a_miss_is_shown_with_its_reason(bench):
    report = bench("calibration_report")
    head = ("check", "title", "law", "quantity", "value", "mc_se", "replicates", "low", "high")
    rows = pd.DataFrame(
        [
            ("coverage", "intervals, 40 x 16 x 3", "t5", "Psi", 0.91, 0.006, 2000, 0.93, 0.97),
            ("size", "10 blocks", "t5", "paired t", 0.04, 0.004, 2000, -np.inf, 0.06),
        ],
        columns=list(head),
    ).assign(passed=[False, True])
    about = {"seed": 1, "real": {}, "environment": provenance.environment(), "code": {}}
    page = report.build_calibration(rows, about)["report.md"].decode()
    assert "**1 of 2 numbers lie within their bars.**" in page
    assert "Psi: 91.0 ± 0.6 % (bar 93 to 97 %). No reason is known." in page
    assert "**91.0 ± 0.6 %**" in page


@pytest.mark.skipif(not REPORT.is_dir(), reason="no calibration is committed")
def test_the_committed_calibration_is_made_from_its_rows(bench):
    report = bench("calibration_report")
    rows, about = report.read_calibration(REPORT)
    rebuilt = report.build_calibration(rows, about)
    now, then = provenance.environment(), about["environment"]
    exact = now["libraries"] == then["libraries"] and now["python"] == then["python"]
    assert compare_files(report_files(REPORT), rebuilt, exact=exact) == []
    assert set(rows["law"]) == {"gaussian", "t5", "real", ""}
    assert rows.loc[rows["check"] != "exact", "replicates"].max() == 2000


@pytest.mark.parametrize("source", ["gaussian", "t5", "t5:2", "real"])
def test_simulated_moments_have_the_stated_components(bench, tmp_path, source):
    simulate = bench("simulate")
    rng = np.random.default_rng(7)
    if source == "real":
        y = rng.gamma(2, size=(15, 9, 3, 40)) + rng.normal(size=(15, 1, 1, 40))
        path = tmp_path / "pools.npz"
        simulate.save_pools(path, y)
        source = str(path)
    law = simulate.law(source)
    removed = {"style": 0.8, "content": 0.3, "contrast": 1.0}
    truth = simulate.true_components(law, 3, "fixed")
    found = [[], []]
    for _ in range(20):
        pair = simulate.arms(law, rng, (10, 8, 3), removed, batch=10)
        for arm, y in zip(found, pair, strict=True):
            c = crossed_components(y)
            parts = [c.style, c.content, c.contrast]
            arm += [[p.reshape(10, -1)[j].mean() for p in parts] for j in range(10)]
    before, after = (np.array(arm) for arm in found)
    for j, factor in enumerate(("style", "content", "contrast")):
        for values, share in ((before[:, j], 1.0), (after[:, j], 1 - removed[factor])):
            error = values.std() / np.sqrt(200)
            assert abs(values.mean() - share * truth[factor]) < 4 * error


def test_the_simulated_intervals_are_those_of_the_public_functions(bench, monkeypatch):
    simulate, removal = bench("simulate"), bench("simulate_removal")
    intervals = []

    def inside(result, truth):
        intervals.append((float(result.low), float(result.high)))
        return 1.0

    monkeypatch.setattr(removal, "inside", inside)
    given = {"source": "gaussian", "images": 12, "styles": 8, "removed": removal.HALF}
    removal.removal(np.random.default_rng(3), 1, **given)
    pair = simulate.arms(
        simulate.law("gaussian"), np.random.default_rng(3), (12, 8, 3), removal.HALF
    )
    for found in (removed_fraction(*pair), selectivity(*pair)):
        assert any(np.allclose((found.low, found.high), v, rtol=1e-12) for v in intervals)


def test_pools_are_the_effects_of_the_design(bench, tmp_path):
    simulate = bench("simulate")
    y = np.random.default_rng(7).normal(size=(6, 5, 3, 4))
    simulate.save_pools(tmp_path / "p.npz", y)
    pools = simulate.law(str(tmp_path / "p.npz")).pools
    for values in pools.values():
        assert_allclose(values.mean(axis=0), 0, atol=1e-12)
    assert_allclose(pools["style"], y.mean(axis=(0, 2)) - y.mean(axis=(0, 1, 2)))
    assert pools["content_style"].shape == (30, 4)
