"""Peak memory of an extraction: flat from many images to ten times as many."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
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
    scratch: Path, source: str, device: str, counts: Sequence[int], pixels: int
) -> Iterator[Row]:
    """Yield peak memory of each count of images over that of the first, each in its own process."""
    folder = photographs(scratch, source, Size(min(counts[0], 100), pixels, 16, 1))
    names = sorted(folder.glob("*.jpg"))
    peaks = []
    for count in counts:
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
    few, (host, gpu) = counts[0], peaks[0]
    for many, (more, more_gpu) in zip(counts[1:], peaks[1:], strict=True):
        yield row(
            "memory", f"peak resident memory, {many} / {few} images", [more / host],
            target="<= 1.05", setting=f"{about}; {host // 1024} MiB with {few}",
        )  # fmt: skip
        if gpu:
            yield row(
                "memory", f"peak device memory, {many} / {few} images", [more_gpu / gpu],
                target="<= 1.05", setting=about,
            )  # fmt: skip
