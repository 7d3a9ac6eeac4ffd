"""The calibration at toy size: that it runs, resumes, repeats, and plants what it says."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from statsnorm.stats.components import crossed_components

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def simulate(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return pytest.importorskip("simulate")


def calibrate(out, *options):
    command = [sys.executable, str(FOLDER / "calibrate.py"), "--out", str(out), "--replicates", "6"]
    return subprocess.run([*command, *options], capture_output=True, text=True, check=False)


def test_runs_resumes_and_repeats(tmp_path):
    first = calibrate(tmp_path / "a", "--workers", "1", "--only", "size-blocks-6")
    assert first.returncode in (0, 1), first.stderr
    assert "[1/1] size-blocks-6" in first.stderr
    assert "sign-flip, t5" in first.stdout
    table = pd.read_csv(tmp_path / "a" / "size.csv")
    assert table["replicates"].eq(6).all()
    assert table["value"].between(0, 1).all()
    again = calibrate(tmp_path / "a", "--workers", "1", "--only", "size-blocks-6")
    assert "size-blocks-6" not in again.stderr  # nothing was run again
    assert again.stdout == first.stdout
    (tmp_path / "a" / "cells").rename(tmp_path / "old")
    other = calibrate(tmp_path / "a", "--workers", "2", "--only", "size-blocks-6")
    assert other.stdout == first.stdout


def test_unknown_cell_is_refused(simulate, monkeypatch, capsys):
    calibrate = pytest.importorskip("calibrate")
    monkeypatch.setattr(sys, "argv", ["calibrate.py", "--only", "nothing"])
    with pytest.raises(SystemExit, match="2"):
        calibrate.main()
    assert "no cell holds 'nothing'" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["gaussian", "t5", "real"])
def test_simulated_moments_have_the_stated_components(simulate, tmp_path, source):
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
    for _ in range(200):
        for arm, y in zip(found, simulate.arms(law, rng, (10, 8, 3), removed), strict=True):
            c = crossed_components(y)
            arm.append([c.style.mean(), c.content.mean(), c.contrast.mean()])
    before, after = (np.array(arm) for arm in found)
    for j, factor in enumerate(("style", "content", "contrast")):
        for values, share in ((before[:, j], 1.0), (after[:, j], 1 - removed[factor])):
            error = values.std() / np.sqrt(200)
            assert abs(values.mean() - share * truth[factor]) < 4 * error


def test_pools_are_the_effects_of_the_design(simulate, tmp_path):
    y = np.random.default_rng(7).normal(size=(6, 5, 3, 4))
    simulate.save_pools(tmp_path / "p.npz", y)
    pools = simulate.law(str(tmp_path / "p.npz")).pools
    for values in pools.values():
        assert_allclose(values.mean(axis=0), 0, atol=1e-12)
    assert_allclose(pools["style"], y.mean(axis=(0, 2)) - y.mean(axis=(0, 1, 2)))
    assert pools["content_style"].shape == (30, 4)
