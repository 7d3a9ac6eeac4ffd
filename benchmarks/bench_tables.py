"""Tables: bytes a moment pair, reading one moment of one tap, the share of time spent writing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from bench_extract import Size, photographs, run_extract
from timing import Row, row

from statsnorm.cells import InputCell, NetworkCell
from statsnorm.extraction import shard as shard_module
from statsnorm.reader import read_matrix
from statsnorm.rows import Block, CellRows, TapColumns, moments_table
from statsnorm.tables import write_table


def benchmark(scratch: Path, source: str, size: Size, device: str, rows: int) -> Iterator[Row]:
    """Yield bytes a pair, seconds of a read, the writer's share."""
    yield from _a_real_run(scratch, source, size, device)
    yield from _a_long_table(scratch, rows)


def _a_real_run(scratch: Path, source: str, size: Size, device: str) -> Iterator[Row]:
    images = photographs(scratch, source, size)
    run = scratch / "tables"
    writing = []
    real = shard_module.write_table

    def timed(*args: Any, **options: Any) -> None:
        start = time.perf_counter()
        real(*args, **options)
        writing.append(time.perf_counter() - start)

    shard_module.write_table = timed
    try:
        start = time.perf_counter()
        run_extract(images, run, size, device, "fp32", networks=("vgg16",))()
        whole = time.perf_counter() - start
    finally:
        shard_module.write_table = real
    about = f"VGG-16, 9 taps, {size.images} images at {size.pixels} px"
    yield row(
        "tables", "share of wall time spent writing", [sum(writing) / whole],
        unit="share", target="<= 0.05", setting=about,
    )  # fmt: skip
    files = list(run.glob("moments/*.parquet"))
    pairs = sum(len(values) for f in files for values in pq.read_table(f, columns=["mean"])["mean"])
    size_on_disk = sum(f.stat().st_size for f in files)
    yield row(
        "tables", "bytes a pair of moments", [size_on_disk / pairs],
        unit="bytes", target="<= 7", setting=f"{about}, keys and footer included",
    )  # fmt: skip


def _a_long_table(
    scratch: Path, rows: int, channels: int = 512, shard: int = 5000
) -> Iterator[Row]:
    """Write moments of two taps of `rows` images and read one moment of one of them."""
    run = scratch / f"long-{rows}"
    rng = np.random.default_rng(0)
    taps = [
        TapColumns(
            tap=f"relu{k}", call=0, tap_kind="act", depth=k, pixels=1024, by_construction=False
        )
        for k in (1, 2)
    ]
    cell = NetworkCell(network="vgg16", norm="none")
    for number in range(-(-rows // shard)):
        n = min(shard, rows - number * shard)
        names = tuple(f"{number * shard + i:06d}.jpg" for i in range(n))
        at = CellRows(
            images=names, cells=(InputCell(),), image=np.arange(n), cell=np.zeros(n, np.int64)
        )
        blocks = []
        for tap in taps:
            mean = rng.lognormal(size=(n, channels)).astype(np.float32)
            var = rng.lognormal(size=(n, channels)).astype(np.float32)
            blocks.append(Block(network=cell, tap=tap, rows=at, mean=mean, var=var))
        table, groups = moments_table(blocks)
        path = run / "moments" / f"shard-{number:05d}.parquet"
        write_table(path, table, metadata={}, groups=groups)
    files = sorted(run.glob("moments/*.parquet"))
    spent = []
    for _ in range(3):
        start = time.perf_counter()
        found = read_matrix(files, {"tap": "relu2"}, "mean")
        spent.append(time.perf_counter() - start)
        assert found.shape == (rows, channels)
    yield row(
        "tables", f"one moment of one tap, {rows} x {channels}, into (n, C)", spent,
        unit="seconds", target="<= 1",
        setting=f"warm page cache, {-(-rows // shard)} files of 2 taps",
    )  # fmt: skip
