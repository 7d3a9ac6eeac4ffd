"""The Ray engine writes the bytes of the local one, also when a worker is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from test_extract import make_photos, tree

from statsnorm.rundir import info

TESTS = Path(__file__).parent
SOURCE = TESTS.parent


def command(photos: Path, out: Path, *more: str) -> list[str]:
    options = ["--images", str(photos), "--out", str(out), "--size", "16", "--batch-size", "4"]
    options += ["--shard-size", "2", "--vgg-of-output", "none", "--device", "cpu"]
    return [sys.executable, "-m", "statsnorm", "extract", *options, *more]


def environment(**more: str) -> dict[str, str]:
    paths = os.pathsep.join([str(SOURCE), str(TESTS)])
    known = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return {**known, "PYTHONPATH": paths, **more}


def run(words: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, env=environment(**more), capture_output=True, text=True, check=False, timeout=300
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"), range(12))


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("local") / "r"
    done = run(command(photos, out, "--network", "tiny_networks:slow"))
    assert done.returncode == 0, done.stderr
    return tree(out)


CLUSTER = """
from ray.cluster_utils import Cluster
nodes = Cluster(True, head_node_args={"num_cpus": 1, "include_dashboard": False})
nodes.add_node(num_cpus=1)
print(nodes.address, flush=True)
input()
nodes.shutdown()
"""


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


@pytest.mark.slow
def test_two_nodes_write_what_one_process_writes(photos, whole, address, tmp_path):
    words = command(photos, tmp_path / "r", "--network", "tiny_networks:slow", "--engine", "ray")
    done = run(words, RAY_ADDRESS=address)
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "r") == whole
    assert "12 images" in done.stdout
    assert "extract: " in done.stderr


def test_the_shard_of_a_killed_worker_is_made_elsewhere(photos, whole, address, tmp_path):
    out = tmp_path / "r"
    words = command(photos, out, "--network", "tiny_networks:slow", "--engine", "ray")
    process = subprocess.Popen(words, env=environment(RAY_ADDRESS=address))
    killed = kill_an_owner(out)
    assert process.wait(300) == 0
    assert tree(out) == whole
    assert not list((out / "locks").glob("*.json"))
    assert killed not in {os.getpid(), process.pid}


def test_what_a_worker_cannot_do_is_one_line(address, tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "black.png")
    words = command(
        tmp_path, tmp_path / "r", "--network", "tiny_networks:broken", "--engine", "ray"
    )
    done = run(words, RAY_ADDRESS=address)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("statsnorm:")]
    assert len(lines) == 1
    assert "has a nan or infinity at tap" in lines[0]
    assert "Traceback" not in done.stderr
    assert info(tmp_path / "r").running == ()


@pytest.mark.slow
def test_an_address_without_a_cluster_is_one_line(photos, tmp_path):
    words = command(photos, tmp_path / "r", "--network", "tiny_networks:slow", "--engine", "ray")
    done = run(words, RAY_ADDRESS="127.0.0.1:1")
    assert done.returncode == 2
    assert "no Ray cluster at '127.0.0.1:1'" in done.stderr


@pytest.mark.parametrize("times", ["once", pytest.param("always", marks=pytest.mark.slow)])
def test_a_decoder_that_crashes_is_tried_again_and_then_its_images_are_named(
    address, tmp_path, times
):
    photos = tmp_path / "photos"
    photos.mkdir()
    make_photos(photos, range(6))
    marker = photos / "3.crash"
    marker.write_text(times)
    out = tmp_path / "r"
    words = command(photos, out, "--network", "tiny_networks:crashing", "--engine", "ray")
    done = run(words, RAY_ADDRESS=address)
    if times == "always":
        assert done.returncode == 2
        assert "shard 1 ('2.png' to '3.png') was given up: 4 workers died on it" in done.stderr
        assert "Traceback" not in done.stderr
        assert info(out).damaged == info(out).running == ()
        marker.unlink()
        done = run(words, RAY_ADDRESS=address)
    assert done.returncode == 0, done.stderr
    assert not marker.exists()
    assert info(out).finished


def kill_an_owner(out: Path) -> int:
    """Kill -9 whoever holds the first lock that is seen, and return who that was."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        for lock in (out / "locks").glob("shard-*.json"):
            try:
                pid = int(json.loads(lock.read_text())["pid"])
                os.kill(pid, signal.SIGKILL)
            except (FileNotFoundError, ProcessLookupError, ValueError):
                continue
            return pid
        time.sleep(0.01)
    raise AssertionError("no worker took a shard")
