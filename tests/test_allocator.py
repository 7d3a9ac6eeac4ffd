from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, torch
from statsnorm.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(20):
    torch.empty(2**24).fill_(1.0)  # 64 MiB, freed at once
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_not_cleared_again():
    faults = {}
    for how in ("keep", "return"):
        out = subprocess.run(
            [sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True
        )
        faults[how] = int(out.stdout)
    assert faults["keep"] < faults["return"] - 10 * 2**24 * 4 / 2**21  # ten blocks of huge pages
