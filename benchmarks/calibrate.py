"""Simulate every interval and test of statsnorm: coverage, size, bias, with Monte-Carlo error.

    python benchmarks/calibrate.py --out reports/calibration
    python benchmarks/calibrate.py --out reports/calibration --run RUN --tap relu3_1

One result file a cell, so an interrupted run goes on where it stopped; every cell has its own
seed, so the number of processes changes nothing.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # processes, not threads

import argparse
import hashlib
import sys
import zlib
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import pandas as pd
from calibration_cells import Cell, cells
from simulate import save_pools

SEED = 20170320
REPLICATES = 2000
COLUMNS = ["cell", "check", "quantity", "value", "mc_se", "replicates", "low", "high", "passed"]


def calibrate(cell: Cell, replicates: int, seed: int) -> pd.DataFrame:
    """Return one row a quantity of a cell."""
    count = max(2, round(replicates * cell.share))
    rng = np.random.default_rng([seed, zlib.crc32(cell.name.encode())])
    values = cell.run(rng, count, **cell.options)
    rows = [judged(cell, quantity, v) for quantity, v in values.items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def judged(cell: Cell, quantity: str, values: np.ndarray) -> tuple[object, ...]:
    """Return the row of one quantity: what came out, its Monte-Carlo error, the bars."""
    n = len(values)
    value, se = float(values.mean()), float(values.std(ddof=1) / np.sqrt(n))
    low, high = cell.low, cell.high
    if cell.check == "bias":
        low, high = -3 * se, 3 * se
    elif cell.check == "exact":
        value, se = float(values.max()), 0.0
    elif cell.check == "size":
        high = cell.high + 2 * np.sqrt(cell.high * (1 - cell.high) / n)
    passed = bool(low <= value <= high)
    return cell.name, cell.check, quantity, value, se, n, low, high, passed


def finished(path: Path) -> pd.DataFrame | None:
    """Return the result of a cell that was run before."""
    return pd.read_csv(path) if path.is_file() else None


def run_cell(cell: Cell, replicates: int, seed: int, path: Path) -> pd.DataFrame:
    """Run one cell and write its file, all at once."""
    table = calibrate(cell, replicates, seed)
    part = path.with_suffix(f".{os.getpid()}.part")
    table.to_csv(part, index=False, float_format="%.6g")
    part.replace(path)
    return pd.read_csv(path)


def run_all(
    chosen: list[Cell], out: Path, replicates: int, seed: int, workers: int
) -> pd.DataFrame:
    """Run the cells that have no file yet and return all rows in the order of the list."""
    folder = out / "cells"
    folder.mkdir(parents=True, exist_ok=True)
    paths = {c.name: folder / f"{c.name}-n{replicates}-seed{seed}.csv" for c in chosen}
    tables = {c.name: finished(paths[c.name]) for c in chosen}
    todo = [c for c in chosen if tables[c.name] is None]
    with ProcessPoolExecutor(max_workers=workers) as pool:
        jobs = {pool.submit(run_cell, c, replicates, seed, paths[c.name]): c for c in todo}
        for done, job in enumerate(as_completed(jobs), start=1):
            name = jobs[job].name
            tables[name] = job.result()
            print(f"[{done}/{len(todo)}] {name}", file=sys.stderr, flush=True)
    return pd.concat([tables[c.name] for c in chosen], ignore_index=True)


def real_source(run: Path, tap: str, moment: str, out: Path) -> str:
    """Write the pools of a run's design and return their path, named after their content."""
    from statsnorm import load_design

    design = load_design(run, tap=tap, moment=moment)
    digest = hashlib.sha256(np.ascontiguousarray(design.y)).hexdigest()[:12]
    path = out / "cells" / f"pools-{digest}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_pools(path, design.y)
    return str(path)


def show(table: pd.DataFrame) -> None:
    """Print the rows by check, and how many passed."""
    for check, rows in table.groupby("check", sort=False):
        print(f"\n{check}")
        for r in rows.itertuples():
            mark = "ok  " if r.passed else "FAIL"
            print(
                f"  {mark} {r.cell:<24} {r.quantity:<36} {r.value:9.4g} +- {r.mc_se:.2g}"
                f"  (n {r.replicates}; bars {r.low:.3g} to {r.high:.3g})"
            )
    print(f"\n{int(table['passed'].sum())} of {len(table)} within their bars")


def main() -> int:
    """Run the calibration; 1 if a number is outside its bars."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("reports/calibration"))
    parser.add_argument("--replicates", type=int, default=REPLICATES)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", help="cells whose name holds this text")
    parser.add_argument("--run", type=Path, help="a run with a crossed design: real moments")
    parser.add_argument("--tap", default="relu3_1", help="tap of --run")
    parser.add_argument("--moment", default="v", choices=("m", "v"), help="moment of --run")
    given = parser.parse_args()
    sources = ("gaussian", "t5")
    if given.run:
        sources += (real_source(given.run, given.tap, given.moment, given.out),)
    chosen = [c for c in cells(sources) if given.only in c.name]
    if not chosen:
        parser.error(f"no cell holds {given.only!r}")
    table = run_all(chosen, given.out, given.replicates, given.seed, given.workers)
    for check, rows in table.groupby("check"):
        rows.to_csv(given.out / f"{check}.csv", index=False, float_format="%.6g")
    show(table)
    return 0 if table["passed"].all() else 1


if __name__ == "__main__":
    raise SystemExit(main())
