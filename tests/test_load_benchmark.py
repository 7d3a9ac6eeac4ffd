"""The load run at toy size: killed, resumed, checked, reported on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/load.py"), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_large_run_survives_a_kill_and_its_report_stays_small(tmp_path):
    said = run("--out", str(tmp_path / "r"), "--images", "13000")
    assert "rows 832000, shards_made_twice 0" in said
    assert re.search(r"checked: .* bytes_a_pair 6\.", said)
    assert int(re.search(r"html_bytes (\d+)", said)[1]) < 5_000_000


def test_the_same_sizes_give_the_same_run_and_nothing_is_made_twice(tmp_path):
    words = ("--write-only", "--out", str(tmp_path / "r"), "--images", "5000", "--channels", "2")
    assert run(*words) == "shard 0\nshard 1\n"
    assert run(*words) == ""
