"""Peak memory of an extraction: flat from many images to ten times as many."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench_extract import Size, photographs
from timing import Row, row

CHILD = """
import json, resource, sys
import torch
from statsnorm.extraction import extract
torch.set_num_threads(1)
images, out, pixels, device = sys.argv[1:]
extract(images, out=out, size=int(pixels), networks=("vgg16",), taps=("relu1_1", "relu2_1"),
        conditions=("original", "contrast"), device=device, batch_size=16, workers=2)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
gpu = torch.cuda.max_memory_allocated() if device.startswith("cuda") else 0
print(json.dumps([peak, gpu]))
"""


def benchmark(
    scratch: Path, source: str, device: str, few: int, many: int, pixels: int
) -> Iterator[Row]:
    """Yield peak memory of `many` images over that of `few`, each in a process of its own."""
    folder = photographs(scratch, source, Size(min(few, 100), pixels, 16, 1))
    names = sorted(folder.glob("*.jpg"))
    peaks = []
    for count in (few, many):
        made = scratch / f"memory-{count}"
        made.mkdir(exist_ok=True)
        for k in range(count):
            link = made / f"{k:06d}.jpg"
            if not link.exists():
                link.symlink_to(names[k % len(names)])
        command = [sys.executable, "-c", CHILD, made, scratch / f"run-{count}", pixels, device]
        said = subprocess.run(
            [str(c) for c in command], capture_output=True, text=True, check=True
        ).stdout
        peaks.append(json.loads(said.splitlines()[-1]))
    about = f"VGG-16 to relu2_1, two conditions, {pixels} px"
    host = [peaks[1][0] / peaks[0][0]]
    yield row(
        "memory", f"peak resident memory, {many} / {few} images", host, target="<= 1.05",
        setting=f"{about}; {peaks[0][0] // 1024} MiB with {few}",
    )  # fmt: skip
    if peaks[0][1]:
        yield row(
            "memory", f"peak device memory, {many} / {few} images", [peaks[1][1] / peaks[0][1]],
            target="<= 1.05", setting=about,
        )  # fmt: skip
