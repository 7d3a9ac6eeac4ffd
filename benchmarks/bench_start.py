"""Start-up: the help text, the first forward pass, and how well --dry-run foretells a run."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench_extract import Size, photographs, seconds
from timing import Row, row

from statsnorm.extraction import extract

FIRST_FORWARD = """
import sys, time
start = time.perf_counter()
from statsnorm.extraction import measure, extract
def stop(self, variant, x):
    print(time.perf_counter() - start, flush=True)
    raise SystemExit
measure.Meter._forward = stop
extract(sys.argv[1], out=sys.argv[2], size=256, networks=("vgg16",), device="cpu")
"""


def benchmark(scratch: Path, source: str, size: Size, device: str) -> Iterator[Row]:
    """Yield seconds of start-up and the errors of the preflight."""
    help_text = [sys.executable, "-m", "statsnorm", "--help"]
    yield row(
        "start", "statsnorm --help", [_process(help_text) for _ in range(3 + 2 * size.rounds)],
        unit="seconds", target="<= 0.3", setting="interpreter included",
    )  # fmt: skip
    images = photographs(scratch, source, size)
    command = [sys.executable, "-c", FIRST_FORWARD, str(images), str(scratch / "first")]
    said = [
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for _ in range(size.rounds)
    ]
    yield row(
        "start", "begin of the first forward pass", [float(s.split()[0]) for s in said],
        unit="seconds", target="<= 6", setting="VGG-16 at 256 px, CPU, not compiled",
    )  # fmt: skip
    yield from _preflight(scratch, images, size, device)


def _process(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - start


def _preflight(scratch: Path, images: Path, size: Size, device: str) -> Iterator[Row]:
    conditions = ("original", "contrast", "style")
    several = (
        ("VGG-16", {"networks": ("vgg16",)}),
        ("VGG-16, three conditions", {"networks": ("vgg16",), "conditions": conditions}),
        ("VGG-16 to relu2_1", {"networks": ("vgg16",), "taps": ("relu1_1", "relu2_1")}),
        ("cin26 and VGG of its output", {"networks": ("cin26",)}),
        ("cin26, two untrained", {"networks": ("cin26",), "untrained": 2}),
    )
    for name, options in several if size.rounds > 1 else several[:1]:
        yield from _one_preflight(scratch, images, size, device, name, options)


def _one_preflight(
    scratch: Path, images: Path, size: Size, device: str, name: str, options: dict[str, Any]
) -> Iterator[Row]:
    given: dict[str, Any] = {
        "images": images, "out": scratch / "preflight", "size": size.pixels,
        "batch_size": size.batch, "device": device, "restart": True, **options,
    }  # fmt: skip
    guess = extract(**given, dry_run=True)
    spent = seconds(lambda: extract(**given), device)
    written = sum(f.stat().st_size for f in (scratch / "preflight").rglob("moments/*.parquet"))
    for what, ratio in (("seconds", guess.seconds / spent), ("bytes", guess.bytes / written)):
        off = max(ratio, 1 / ratio)
        yield row(
            "preflight", f"{what} foretold / true, or its inverse", [off], target="<= 1.2",
            setting=f"{name}, {size.images} images at {size.pixels} px ({ratio:.2f})",
        )  # fmt: skip
