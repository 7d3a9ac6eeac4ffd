"""The confirmatory run at toy size: prepared, stopped, carried to another folder, finished."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def figure1(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import figure1

    return figure1


def pictures(folder, count):
    folder.mkdir()
    for seed in range(count):
        coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((96, 72), Image.Resampling.BICUBIC).save(
            folder / f"{seed:02d}.png"
        )
    return folder


def test_prepare_writes_square_jpegs_and_draws_targets_by_name(figure1, tmp_path):
    photos, paintings = pictures(tmp_path / "a", 5), pictures(tmp_path / "b", 14)
    (photos / "broken.jpg").write_bytes(b"no picture")
    counts = figure1.prepare(photos, paintings, tmp_path / "data", size=32)
    assert counts == {"photographs": 5, "targets": 10, "pilot": 2}
    files = {d: {f.name for f in (tmp_path / "data" / d).iterdir()} for d in counts}
    assert not files["targets"] & files["pilot"]
    with Image.open(tmp_path / "data" / "photographs" / "00.jpg") as image:
        assert image.size == (32, 32)
    figure1.prepare(photos, paintings, tmp_path / "again", size=32)
    assert {f.name for f in (tmp_path / "again" / "targets").iterdir()} == files["targets"]


@pytest.mark.slow
def test_the_run_goes_on_on_another_machine_and_can_be_reported(figure1, tmp_path, monkeypatch):
    from statsnorm.report import write_report

    monkeypatch.setattr(figure1, "BLOCKS", 2)
    monkeypatch.setattr(figure1, "PILOTS", 1)
    monkeypatch.setattr(figure1, "CONDITIONS", ("original", "contrast", "ck", "style"))
    monkeypatch.setattr(figure1, "PART", 1000)
    photos, paintings = pictures(tmp_path / "a", 8), pictures(tmp_path / "b", 3)
    figure1.prepare(photos, paintings, tmp_path / "data", size=32)
    options = {
        "iterations": 3, "pilot_iterations": 2, "size": 32, "width": 4, "residual_blocks": 0,
        "heldout": 4, "batch_size": 2, "device": "cpu",
    }  # fmt: skip
    state: Path | None = None
    seen: set[str] = set()
    for sitting in range(20):
        here = tmp_path / f"machine-{sitting}"
        before = figure1.unpack(state, here) if state else []
        until = figure1.time.monotonic() + 12
        done = figure1.run(tmp_path / "data", here, until=until, **options)
        state = tmp_path / f"out-{sitting}"
        figure1.pack(here, state, before)
        names = {n for t in state.glob("generators-*.tar") for n in _names(t)}
        assert not names & seen, "a generator is handed over once"
        seen |= names
        shutil.copytree(here, tmp_path / "home", dirs_exist_ok=True)
        for archive in state.glob("generators-*.tar"):
            archive.unlink()  # not carried back to the next machine
        if done:
            break
    assert done
    assert len(seen) == 4
    curves = pd.read_parquet(here / "main" / "curves")
    assert curves["cell"].nunique() == 16
    assert set(curves["lr"]) <= set(figure1.RATES)
    report = write_report([here / "pilot", here / "main"], out=tmp_path / "report")
    assert report is not None
    text = (tmp_path / "report" / "report.md").read_text()
    assert "not testable" in text


def _names(archive):
    import tarfile

    with tarfile.open(archive) as file:
        return {Path(n).name for n in file.getnames()}


@pytest.mark.slow
def test_the_command_stops_in_time_and_says_so(tmp_path):
    photos, paintings = pictures(tmp_path / "a", 8), pictures(tmp_path / "b", 12)
    script = [sys.executable, str(FOLDER / "figure1.py")]
    made = subprocess.run(
        [*script, "prepare", "--photographs", photos, "--paintings", paintings, "--data",
         tmp_path / "data", "--size", "32"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert made.stdout == "8 photographs, 10 targets, 2 pilot\n"
    given = ["--data", tmp_path / "data", "--out", tmp_path / "out", "--size", "32", "--toy"]
    given += ["--iterations", "2", "--pilot-iterations", "1", "--device", "cpu"]
    said = subprocess.run(
        [*script, "run", *given, "--time-limit", "20"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert said.stdout.splitlines()[-1].endswith("of 100 cells; the same call goes on")
    assert (tmp_path / "out" / "figure1.tar").exists()
