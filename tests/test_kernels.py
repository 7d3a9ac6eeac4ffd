"""The Triton kernels of the benchmarks, in a process whose Triton interprets them on the CPU."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

CHECKS = Path(__file__).with_name("kernels_check.py")


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton comes with torch on Linux only")
def test_kernels_in_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    said = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(CHECKS)],
        capture_output=True, text=True, check=False, env=environment, cwd=CHECKS.parents[1],
    )  # fmt: skip
    assert said.returncode == 0, said.stdout[-3000:]
    assert " passed" in said.stdout
