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
    yield from _preflight(scratch, source, size, device)


def _process(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - start


def _preflight(scratch: Path, source: str, size: Size, device: str) -> Iterator[Row]:
    """Two networks at three sizes each, three conditions at one of them."""
    conditions = ("original", "contrast", "style")
    settings: list[tuple[int, str, dict[str, Any]]] = [
        (part, name, {"networks": (network,)})
        for part in (4, 2, 1)
        for name, network in (("VGG-16", "vgg16"), ("cin26 and VGG of its output", "cin26"))
    ]
    three = {"networks": ("vgg16",), "conditions": conditions}
    settings.append((2, "VGG-16, three conditions", three))
    for part, name, options in settings if size.rounds > 1 else settings[4:5]:
        at = Size(size.images * (1 + part) // 2, size.pixels // part, size.batch, size.rounds)
        images = photographs(scratch, source, at)
        yield from _one_preflight(scratch, images, at, device, name, options)


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
        yield row(
            "preflight", f"{what} foretold / true, or its inverse: {name}, {size.pixels} px",
            [max(ratio, 1 / ratio)], target="<= 1.2",
            setting=f"{size.images} images; foretold / true {ratio:.2f}",
        )  # fmt: skip
