"""Measure statsnorm against the limit and against others; ratios, side by side, in one run.

    python benchmarks/bench.py                          CPU, the whole set
    python benchmarks/bench.py --quick                  seconds: that it works, no claim
    python benchmarks/bench.py --device cuda            the same on a CUDA machine
    python benchmarks/bench.py --only extract,train     some of it

Results go to OUT/<device>.csv and .md, the name of the device with them. A part that was measured
replaces its own rows there and leaves the others. With --time-limit no row is begun after it.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import bench_extract
import bench_memory
import bench_start
import bench_stats
import bench_tables
import bench_train
import pandas as pd
import roofline
import torch
from timing import Row, device_name

PARTS = ("start", "extract", "train", "tables", "memory", "roofline", "statistics")
GPU_PARTS = ("extract", "train", "kernels", "roofline", "tables", "memory", "start")


def parts(given: argparse.Namespace, scratch: Path) -> dict[str, Callable[[], Iterator[Row]]]:
    """Return what each part runs, at the size that was asked for."""
    quick, device, source = given.quick, given.device, given.images
    gpu = device.startswith("cuda")
    rounds = given.rounds
    whole = bench_extract.Size(*((2048, 256, 128) if gpu else (48, 256, 16)), rounds)
    size = bench_extract.Size(6, 64, 4, 1) if quick else whole
    shards = bench_extract.Size(6, 32, 4, 1) if quick else bench_extract.Size(256, 128, 16, rounds)
    steps = (
        bench_train.Size(4, 32, 2, 2, 1)
        if quick
        else bench_train.Size(256, 256, 4, 100, rounds)
        if gpu
        else bench_train.Size(16, 256, 4, 3, rounds)
    )
    precisions = ("fp32", "tf32", "bf16") if gpu else ("fp32",)
    roof = "tf32" if gpu else "fp32"
    return {
        "start": lambda: bench_start.benchmark(scratch, source, size, device),
        "extract": lambda: bench_extract.benchmark(
            scratch, source, size, device, precisions, given.thingsvision
        ),
        "train": lambda: bench_train.benchmark(steps, device),
        "tables": lambda: bench_tables.benchmark(
            scratch, source, size if gpu else shards, device, 500 if quick else 100_000
        ),
        "memory": lambda: bench_memory.benchmark(
            scratch, source, device, (8, 16) if quick else tuple(given.counts), 32
        ),
        "roofline": lambda: roofline.benchmark(
            batch=2 if quick else 128 if gpu else 8,
            pixels=32 if quick else 256,
            source=source,
            device=device,
            precision=roof,
            rounds=2 if quick else 5,
        ),
        "statistics": lambda: bench_stats.benchmark(
            channels=16 if quick else 256,
            permutations=19 if quick else 999,
            rounds=1 if quick else 5,
        ),
        "kernels": lambda: _kernels(8 if quick else 128, 64 if quick else 256),
    }


def _kernels(batch: int, pixels: int) -> Iterator[Row]:
    import kernels  # needs Triton

    return kernels.benchmark(batch=batch, pixels=pixels, rounds=5)


def write(rows: list[Row], out: Path, name: str, title: str) -> pd.DataFrame:
    """Write the table, keeping the parts of an earlier one that were not measured again."""
    out.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame([{**asdict(r), "met": r.met} for r in rows])
    path = out / f"{name}.csv"
    if path.exists():
        before = pd.read_csv(path, keep_default_na=False)
        kept = before[~before["benchmark"].isin(set(table["benchmark"]))]
        table = pd.concat([kept, table], ignore_index=True)
    table.to_csv(path, index=False, float_format="%.4g")
    lines = [f"# {title}", "", *_markdown(table), ""]
    (out / f"{name}.md").write_text("\n".join(lines), encoding="utf-8")
    return table


def _markdown(table: pd.DataFrame) -> Iterator[str]:
    yield "| what | value | range | rounds | target | met | setting |"
    yield "|---|---|---|---|---|---|---|"
    for r in table.to_dict("records"):
        unit = "" if r["unit"] == "ratio" else f" {r['unit']}"
        spread = f"{float(r['low']):.3g} to {float(r['high']):.3g}" if int(r["rounds"]) > 1 else ""
        yield (
            f"| {r['quantity']} | {float(r['value']):.3g}{unit} | {spread} | {r['rounds']} | "
            f"{r['target']} | {r['met']} | {r['setting']} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="toy sizes: that it works")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="", help=", ".join(dict.fromkeys(PARTS + GPU_PARTS)))
    parser.add_argument("--images", default="embedded", help="photographs to measure with")
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks"))
    parser.add_argument("--thingsvision", default="", metavar="PYTHON", help="its own environment")
    parser.add_argument("--time-limit", type=float, default=math.inf, metavar="SECONDS")
    parser.add_argument("--rounds", type=int, default=3, help="of extract, train and start")
    parser.add_argument(
        "--counts", type=int, nargs="+", default=[100, 1000, 10_000], help="images, for memory"
    )
    given = parser.parse_args()
    kind = given.device.partition(":")[0]
    there = GPU_PARTS if kind == "cuda" else PARTS
    asked = given.only.split(",") if given.only else there
    if unknown := set(asked) - set(there):
        parser.error(f"unknown parts {sorted(unknown)}; there are {', '.join(there)}")
    until = time.monotonic() + given.time_limit
    about = f"{device_name(given.device)}, torch {torch.__version__}"
    with tempfile.TemporaryDirectory() as scratch:
        everything = parts(given, Path(scratch))
        for name in asked:
            rows: list[Row] = []
            for found in everything[name]():
                print(f"{found.quantity}: {found.value:.3g} {found.unit} {found.met}", flush=True)
                rows.append(found)
                write(rows, given.out, kind, about)  # at once: a killed call loses no row
                if time.monotonic() > until:
                    print(f"out of time in {name}")
                    return


if __name__ == "__main__":
    main()
