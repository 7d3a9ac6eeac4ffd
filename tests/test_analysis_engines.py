"""Analyses share their taps among workers: the bytes of a loop, also when a worker is killed."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from textwrap import dedent

import pytest
from synthetic import write_conditions_run, write_design_run
from test_engine_ray import CLUSTER, environment
from test_extract import tree

from statsnorm.decisions import load_plan
from statsnorm.engines.tasks import Engine, crew_of
from statsnorm.errors import ImageError, StatsnormError
from statsnorm.report import verify
from statsnorm.report.discover import find_analyses
from statsnorm.report.inputs import collect
from statsnorm.report.write import write_report
from statsnorm.shipped import shipped_plan_path

SHIPPED = ("reemergence", "divergence", "manipulation")

OWN = '''
"""Which mean has each tap? Only the engine is under test."""

import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from statsnorm.errors import StatsnormError
from statsnorm.report.model import Report

MARKER = Path({marker!r})


def summarise(tables, *, seed):
    keys = tables.keys()
    taps = sorted(set(keys["tap"]))
    found = tables.map_taps(partial(reduced, seed=seed), taps)
    return {{"means": pd.DataFrame(found)}}


def reduced(tables, tap, *, seed):
    {trouble}
    mean = tables.moment("mean", tap=tap)
    draw = np.random.default_rng([seed, len(tap)]).normal()
    return {{"tap": tap, "mean": float(mean.mean()), "draw": draw}}


def die(tap):
    if tap == "relu1_1" and not MARKER.exists():
        MARKER.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def run(inputs, plan, rng):
    return Report(
        name="own", title="Means", question=__doc__, headline="Means.", tables=dict(inputs)
    )
'''


def own(folder: Path, trouble: str) -> Path:
    path = folder / "own.py"
    path.write_text(dedent(OWN).format(marker=str(folder / "died"), trouble=trouble))
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write_design_run(folder / "design", images=8, styles=4, levels=2, channels=4, untrained=2)
    write_conditions_run(folder / "conditions", images=8, channels=4)
    return [folder / "design", folder / "conditions"]


def command(runs: list[Path], out: Path, *more: object) -> list[str]:
    words = [sys.executable, "-m", "statsnorm", "report", *runs, "--out", out, "--seed", "3"]
    return [str(word) for word in (*words, *more)]


def run(words: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, env=environment(**more), capture_output=True, text=True, check=False, timeout=300
    )


@pytest.fixture(scope="module")
def whole(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "r"
    words = [word for name in SHIPPED for word in ("--analysis", name)]
    done = run(command(runs, out, *words))
    assert done.returncode == 0, done.stderr
    for name in SHIPPED:
        assert list((out / "tables").glob(f"{name}.*.csv")), name
    return tree(out)


@pytest.fixture(scope="module")
def address():
    """Run two Ray nodes on this machine, with room for one worker each."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env=environment(RAY_USAGE_STATS_ENABLED="0"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    yield process.stdout.readline().strip()
    process.communicate("\n", timeout=60)


@pytest.mark.parametrize("workers", [2, 3])
def test_processes_write_what_a_loop_writes(runs, whole, tmp_path, workers):
    words = [word for name in SHIPPED for word in ("--analysis", name)]
    done = run(command(runs, tmp_path / "r", *words, "--workers", workers))
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "r") == whole


def test_every_design_is_reduced_as_by_a_loop(runs):
    found = [inputs_of(runs[:1], workers) for workers in (1, 2)]
    assert {"inputs/removed_variance.components.parquet", "inputs/plan.toml"} <= found[0].keys()
    assert found[1] == found[0]


def inputs_of(runs: list[Path], workers: int) -> dict[str, bytes]:
    made = collect(
        runs,
        find_analyses(["removed_variance", "side_by_side"]),
        seed=0,
        plan=shipped_plan_path(),
        plan_shipped=True,
        progress=lambda _line: None,
        engine=Engine(workers=workers),
    )
    return dict(made.files)


def test_two_ray_workers_write_what_a_loop_writes_though_one_is_killed(
    runs, whole, address, tmp_path
):
    words = [word for name in SHIPPED for word in ("--analysis", name)]
    words = command(runs, tmp_path / "r", *words, "--engine", "ray")
    process = subprocess.Popen(
        words, env=environment(RAY_ADDRESS=address), stderr=subprocess.PIPE, text=True
    )
    kill_an_actor()
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert tree(tmp_path / "r") == whole


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_the_tap_of_a_killed_worker_is_reduced_by_another(runs, address, tmp_path, engine):
    safe = own(tmp_path, "pass")
    done = run(command(runs, tmp_path / "a", "--analysis", safe))
    assert done.returncode == 0, done.stderr
    deadly = own(tmp_path, "die(tap)")
    words = command(runs, tmp_path / "b", "--analysis", deadly, "--engine", engine, "--workers", 2)
    done = run(words, RAY_ADDRESS=address)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "died").exists()
    assert means(tmp_path / "b") == means(tmp_path / "a")


def test_a_tap_that_kills_every_worker_is_given_up(runs, tmp_path):
    deadly = own(tmp_path, "os.kill(os.getpid(), signal.SIGKILL) if tap == 'relu1_1' else None")
    words = ["--analysis", deadly, "--workers", "2"]
    done = run(command(runs, tmp_path / "r", *words))
    assert done.returncode == 1
    assert "was given up: 4 workers died on it" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_what_a_tap_cannot_do_is_told_as_by_a_loop(runs, address, tmp_path, engine):
    bad = own(tmp_path, "if 'r' in tap: raise StatsnormError(f'{tap} has no mean')")
    plain = run(command(runs, tmp_path / "a", "--analysis", bad))
    words = command(runs, tmp_path / "b", "--analysis", bad, "--engine", engine, "--workers", 2)
    done = run(words, RAY_ADDRESS=address)
    assert plain.returncode == done.returncode == 1
    assert "has no mean" in plain.stdout
    assert done.stdout.replace(str(tmp_path / "b"), "") == plain.stdout.replace(
        str(tmp_path / "a"), ""
    )
    assert tree(tmp_path / "b") == tree(tmp_path / "a")


def test_a_fault_of_the_analysis_is_raised_as_by_a_loop(runs, tmp_path):
    bad = own(tmp_path, "if tap != 'rgb': raise ZeroDivisionError(tap)")
    with pytest.raises(ZeroDivisionError) as plain:
        write_report(runs, out=tmp_path / "r", analyses=[bad])
    with pytest.raises(ZeroDivisionError) as found:
        write_report(runs, out=tmp_path / "r", analyses=[bad], engine=Engine(workers=2))
    assert str(found.value) == str(plain.value)
    assert not (tmp_path / "r").exists()


def test_verify_makes_the_inputs_again_on_workers(runs, tmp_path):
    write_report(runs, out=tmp_path / "r", analyses=["divergence"])
    found = verify(tmp_path / "r", runs, engine=Engine(workers=2))
    assert found.equal, str(found)


def test_interrupted_the_workers_end_and_nothing_is_written(runs, tmp_path):
    (tmp_path / "died").touch()
    slow = own(tmp_path, f"import time; Path({str(tmp_path)!r}, str(os.getpid())).touch(); "
                         "time.sleep(60)")  # fmt: skip
    process = subprocess.Popen(
        command(runs, tmp_path / "r", "--analysis", slow, "--workers", "2"), env=environment()
    )
    deadline = time.monotonic() + 100
    while len(pids := [p for p in tmp_path.iterdir() if p.name.isdecimal()]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0
    assert not (tmp_path / "r").exists()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid.name), 0)


def half(context: float, item: float) -> float:
    if item < 0:
        raise StatsnormError(f"{item} is negative")
    return item / context


def test_a_crew_keeps_the_order_and_serves_several_maps():
    with crew_of(Engine(workers=2), partial(float, 2)) as crew:
        assert crew.map(half, range(20)) == [i / 2 for i in range(20)]
        assert crew.map(half, []) == []
        with pytest.raises(StatsnormError, match="-3 is negative"):
            crew.map(half, [4, -3, 2, -1])
        assert crew.map(half, [1]) == [0.5]


def test_a_context_that_cannot_be_opened_is_the_error_of_the_map():
    with (
        crew_of(Engine(workers=2), partial(float, "x")) as crew,
        pytest.raises(ValueError, match="'x'"),
    ):
        crew.map(half, [1, 2])


def test_a_result_that_cannot_be_sent_is_an_error():
    with (
        crew_of(Engine(workers=2), partial(float, 2)) as crew,
        pytest.raises(Exception, match=r"lambda|pickle"),
    ):
        crew.map(unsendable, [1, 2])


def unsendable(_context: float, _item: float) -> object:
    return lambda: None


def test_an_unknown_engine_is_named():
    with (
        pytest.raises(StatsnormError, match="unknown engine 'spark'"),
        crew_of(Engine("spark"), partial(float, 2)),
    ):
        pass


def test_plan_and_errors_survive_being_sent():
    plan = load_plan()
    again = pickle.loads(pickle.dumps(plan))
    assert again == plan
    with pytest.raises(TypeError):
        again.primary["before"] = "none"
    error = pickle.loads(pickle.dumps(ImageError("a.jpg", "decode", "cut off")))
    assert (error.image, error.stage, error.reason) == ("a.jpg", "decode", "cut off")
    assert str(error) == str(ImageError("a.jpg", "decode", "cut off"))


def means(report: Path) -> bytes:
    return (report / "tables" / "own.means.csv").read_bytes()


def kill_an_actor() -> None:
    """Kill -9 the first actor of the analyses that is seen at its work."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        for title in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if title.read_bytes().startswith(b"ray::FarBench.answer"):
                    os.kill(int(title.parent.name), signal.SIGKILL)
                    return
            except (FileNotFoundError, ProcessLookupError):
                continue
        time.sleep(0.005)
    raise AssertionError("no actor took a tap")
