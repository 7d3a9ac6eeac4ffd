"""Simulate every interval and test of statsnorm: coverage, size, bias, with Monte-Carlo error.

    python benchmarks/calibrate.py                     # all of it, and reports/calibration
    python benchmarks/calibrate.py --replicates 100 --only bootstrap --out /tmp/look

The effects are normal, heavy-tailed (t5), or resampled from the moments of a real run: 24 embedded
photographs in 16 styles at 5 gains (calibration_design.toml), extracted first. One result file a
cell under --work, so an interrupted run goes on where it stopped; every cell has its own seed, so
the number of processes changes nothing.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # processes, not threads

import argparse
import hashlib
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from calibration_cells import Cell, cells
from calibration_report import LIMIT, write_calibration
from simulate import save_pools

SEED = 20170320
REPLICATES = 2000
DESIGN = Path(__file__).with_name("calibration_design.toml")
TAP, MOMENT, SIZE = "relu3_1", "v", 64
COLUMNS = [
    *("check", "title", "law", "quantity", "value", "mc_se", "replicates", "low", "high", "passed")
]


def calibrate(cell: Cell, replicates: int, seed: int) -> pd.DataFrame:
    """Return one row a quantity of a cell."""
    rng = np.random.default_rng([seed, zlib.crc32(cell.name.encode())])
    values = cell.run(rng, max(2, min(replicates, cell.most)), **cell.options)
    rows = [judged(cell, quantity, v) for quantity, v in values.items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def judged(cell: Cell, quantity: str, values: np.ndarray) -> tuple[object, ...]:
    """Return the row of one quantity: what came out, its Monte-Carlo error, the bars."""
    n = len(values)
    value, se = float(values.mean()), float(values.std(ddof=1) / np.sqrt(n))
    low, high = cell.bar_of(quantity)
    if cell.check == "bias":
        low, high = -3 * se, 3 * se
    elif cell.check == "exact":
        value, se = float(values.max()), 0.0
    elif cell.check == "size":
        high += 2 * np.sqrt(high * (1 - high) / n)
    passed = bool(low <= value <= high)
    return cell.check, cell.title, cell.law, quantity, value, se, n, low, high, passed


def run_cell(cell: Cell, replicates: int, seed: int, path: Path) -> float:
    """Run one cell and write its file, all at once; return the seconds that it took."""
    start = time.perf_counter()
    table = calibrate(cell, replicates, seed)
    part = path.with_suffix(f".{os.getpid()}.part")
    table.to_csv(part, index=False, float_format="%.9g")
    part.replace(path)
    return time.perf_counter() - start


def run_all(
    chosen: Sequence[Cell], work: Path, replicates: int, seed: int, workers: int
) -> pd.DataFrame:
    """Run the cells that have no file yet and return all rows in the order of the list."""
    folder = work / "cells"
    folder.mkdir(parents=True, exist_ok=True)
    paths = {c.name: folder / f"{c.name}-n{replicates}-seed{seed}.csv" for c in chosen}
    todo = [c for c in chosen if not paths[c.name].is_file()]
    jobs = [(c, replicates, seed, paths[c.name]) for c in todo]
    for done, (name, seconds) in enumerate(_each(jobs, workers), start=1):
        print(f"[{done}/{len(todo)}] {name}: {seconds:.1f} s", file=sys.stderr, flush=True)
    tables = [pd.read_csv(paths[c.name], keep_default_na=False) for c in chosen]
    return pd.concat(tables, ignore_index=True).astype({"low": float, "high": float})


def _each(jobs: Sequence[tuple[Cell, int, int, Path]], workers: int) -> Iterator[tuple[str, float]]:
    """Run the jobs, here or in processes, and yield the name and seconds of each that is done."""
    if workers == 1:
        for job in jobs:
            yield job[0].name, run_cell(*job)
        return
    with ProcessPoolExecutor(max_workers=workers) as pool:
        running = {pool.submit(run_cell, *job): job[0].name for job in jobs}
        for job in as_completed(running):
            yield running[job], job.result()


def real_pools(run: Path, work: Path) -> tuple[str, dict[str, Any]]:
    """Return the file of pools of a run's design, named after its content, and its origin."""
    from statsnorm import load_design
    from statsnorm.rundir import read_run

    y = load_design(run, tap=TAP, moment=MOMENT).y
    digest = hashlib.sha256(np.ascontiguousarray(y)).hexdigest()
    path = work / f"pools-{digest[:12]}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_pools(path, y)
    shape = " x ".join(map(str, y.shape))
    origin = {"tap": TAP, "moment": MOMENT, "shape": shape, "sha256": digest}
    return str(path), {**origin, "run": read_run(run).hash}


def extract_real(run: Path) -> None:
    """Extract the run of real moments, or finish it."""
    from statsnorm import extract

    extract(
        images="embedded",
        design=DESIGN,
        networks=["vgg16"],
        taps=["relu1_1", "relu2_1", "relu3_1", "relu4_1"],
        size=SIZE,
        out=run,
        resume=True,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the calibration and write its report; 1 if a number is outside its bars."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("reports/calibration"))
    parser.add_argument("--work", type=Path, default=Path("runs/calibration"))
    parser.add_argument("--replicates", type=int, default=REPLICATES)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", help="cells whose name holds this text")
    parser.add_argument("--no-real", action="store_true", help="without the real moments")
    given = parser.parse_args(arguments)
    pools, origin = None, {}
    if not given.no_real:
        extract_real(given.work / "run")
        pools, origin = real_pools(given.work / "run", given.work)
    chosen = [c for c in cells(pools) if given.only in c.name]
    if not chosen:
        parser.error(f"no cell holds {given.only!r}")
    rows = run_all(chosen, given.work, given.replicates, given.seed, given.workers)
    write_calibration(rows, given.out, seed=given.seed, real=origin)
    barred = rows[rows["check"] != LIMIT]
    inside = int(barred["passed"].sum())
    print(f"{inside} of {len(barred)} within their bars: {given.out}/report.md")
    return 0 if rows["passed"].all() else 1


if __name__ == "__main__":
    raise SystemExit(main())
