"""The benchmarks at toy size: that they run and what they write; no bound on time."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_quick_mode_writes_every_part(tmp_path, benchmarks):
    command = [sys.executable, str(FOLDER / "bench.py"), "--quick", "--out", str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    table = pd.read_csv(tmp_path / "cpu.csv", keep_default_na=False)
    import bench

    assert set(table["benchmark"]) >= {*bench.PARTS, "preflight"}
    assert (table["value"].astype(float) > 0).all()
    text = (tmp_path / "cpu.md").read_text()
    assert text.startswith("# ")
    assert text.count("\n| ") == len(table) + 1


def test_a_part_measured_again_replaces_its_rows_alone(tmp_path, benchmarks):
    import bench
    from timing import row

    def made(part, value, **options):
        return row(part, "a / b", [value], **options)

    bench.write([made("one", 1.0), made("two", 2.0)], tmp_path, "cpu", "here")
    table = bench.write([made("one", 3.0, target="<= 2")], tmp_path, "cpu", "here")
    assert dict(zip(table["benchmark"], table["value"].astype(float), strict=True)) == {
        "one": 3.0,
        "two": 2.0,
    }
    assert dict(zip(table["benchmark"], table["met"], strict=True)) == {"one": "no", "two": ""}


def test_ratios_are_of_pairs_and_who_is_first_takes_turns(benchmarks, monkeypatch):
    import timing

    clock, order = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def spend(name, seconds):
        def run():
            order.append(name)
            clock[0] += seconds

        return run

    ratios = timing.side_by_side(spend("ours", 3.0), spend("theirs", 2.0), rounds=2, warm=False)
    assert list(ratios) == [1.5, 1.5]
    assert ratios.inverse()[0] == pytest.approx(2 / 3)
    assert order == ["ours", "theirs", "theirs", "ours"]
    found = timing.row("x", "y", [1.0, 4.0, 2.0], target=">= 1.3")
    assert (found.value, found.low, found.high, found.met) == (2.0, 1.0, 4.0, "yes")


def test_plain_loop_is_the_step_that_it_is_compared_with(benchmarks):
    """Both do the same updates: the ratio compares like with like."""
    import bench_train
    import torch

    from statsnorm.networks import load_network
    from statsnorm.training.fresh import fresh_generator
    from statsnorm.training.plan import TrainConfig
    from statsnorm.training.step import Execution

    vgg = load_network("vgg16")
    config = TrainConfig(targets=("t",), size=16, batch=2, iterations=3, width=4, residual_blocks=1)
    problem = bench_train.problem_of(config, vgg, 4, "cpu")
    a, b = (fresh_generator(config, "in", 5) for _ in range(2))
    bench_train.plain_loop(problem, a, 3)()
    bench_train.our_steps(problem, b, 3, Execution())()
    x = problem.pool.images[:2]
    with torch.no_grad():  # not the weights: where a gradient is 0, Adam's step is its rounding
        before = fresh_generator(config, "in", 5).forward(x)
        plain, ours = a.forward(x), b.forward(x)
    assert (plain - ours).norm() < 0.05 * (plain - before).norm()


def test_precision_errors_are_small_and_grow_with_coarser_numbers(benchmarks):
    import precision

    table = precision.precision_table("embedded", size=32, images=2, device="cpu")
    assert table["finite"].all()
    worst = table.groupby("precision")["p95"].max()
    assert worst["fp32"] < 1e-3
    assert worst["fp32"] < worst["fp16"] < worst["bf16"] < 0.5
    assert set(table["network"]) == {"vgg16", "cin26"}
    assert np.isfinite(table["largest"]).all()
    assert len(precision.summary(table)) == 2 * 2 * 3


@pytest.mark.slow
def test_memory_is_flat_from_a_hundred_to_a_thousand_images(tmp_path, benchmarks):
    import bench_memory

    (found,) = bench_memory.benchmark(tmp_path, "embedded", "cpu", 100, 1000, 32)
    assert found.value <= 1.05
