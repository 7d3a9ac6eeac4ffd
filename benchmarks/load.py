"""A run of a million image rows x 16 taps: written, killed, resumed, checked, reported on.

No network runs: moments are drawn, with a planted effect of the condition, and go through the
same writer, locks, records and reader as those of `statsnorm extract`. Prints rows, bytes,
seconds and the largest resident memory of each stage::

    python benchmarks/load.py --out runs/load                   # 1,000,000 x 16, about 2 GB
    python benchmarks/load.py --out runs/load --images 2000     # a quick look
"""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pyarrow as pa

from statsnorm.cells import InputCell, NetworkCell
from statsnorm.errors import StatsnormError
from statsnorm.rows import Block, CellRows, TapColumns, moments_table
from statsnorm.rundir import (
    Expected,
    Run,
    begin_shard,
    end_shard,
    finish,
    info,
    open_run,
    record_shard,
    shard_is_finished,
)
from statsnorm.tables import (
    IMAGES_SCHEMA,
    LEVELS_SCHEMA,
    SKIPPED_SCHEMA,
    TAPS_SCHEMA,
    write_table,
)

CONDITIONS = ("original", "contrast", "style", "ck")
SPREAD = {"original": 1.0, "contrast": 0.9, "style": 0.3, "ck": 0.5}  # sd between images
TAPS = 16
SHARD = 4096  # images
KILL_AFTER = 0.4  # of the shards


def open_load(out: Path, images: int, channels: int) -> Run:
    """Open the run; the same sizes give the same run."""
    config = {
        "kind": "extract",
        "images": {"count": images, "sha256": ""},
        "conditions": list(CONDITIONS),
        "channels": channels,
        "made_by": "benchmarks/load.py",
    }
    expected = Expected(
        shards=-(-images // SHARD),
        sharded=("images", "skipped", "moments"),
        files=("taps.parquet", "levels.parquet"),
    )
    run = open_run(out, config, expected=expected)
    rows = [_tap_row(tap, channels) for tap in range(TAPS)]
    write_table(
        out / "taps.parquet", pa.Table.from_pylist(rows, TAPS_SCHEMA), metadata=run.metadata
    )
    write_table(out / "levels.parquet", LEVELS_SCHEMA.empty_table(), metadata=run.metadata)
    return run


def write_all(run: Run, images: int, channels: int) -> int:
    """Write every shard that is not there yet; return how many were made."""
    made = 0
    for shard in range(run.expected.shards):
        if shard_is_finished(run, shard) or not begin_shard(run, shard):
            continue
        first = shard * SHARD
        names = [f"{i:09d}.jpg" for i in range(first, min(images, first + SHARD))]
        tables = {
            "images": (_images(names), None),
            "skipped": (SKIPPED_SCHEMA.empty_table(), None),
            "moments": moments_table(_blocks(names, shard, channels)),
        }
        files = run.expected.of_shard(shard)
        for name in files:
            table, groups = tables[name.partition("/")[0]]
            write_table(run.path / name, table, metadata=run.metadata, groups=groups)
        record_shard(run, shard, files, {})
        end_shard(run, shard)
        made += 1
        print(f"shard {shard}", flush=True)
    finish(run)
    return made


def _blocks(names: list[str], shard: int, channels: int) -> list[Block]:
    """Return one block a tap: condition c has sd SPREAD[c] between images, in every channel."""
    n, m = len(names), len(CONDITIONS)
    rows = CellRows(
        images=tuple(names),
        cells=tuple(InputCell(condition=c) for c in CONDITIONS),
        image=np.repeat(np.arange(n), m),
        cell=np.tile(np.arange(m), n),
    )
    spread = np.array([SPREAD[c] for c in CONDITIONS], np.float32)[rows.cell, None]
    blocks = []
    for tap in range(TAPS):
        rng = np.random.default_rng([shard, tap])
        own, level = rng.standard_normal((2, n, channels), np.float32)
        mean = 5 + spread * own[rows.image]
        var = np.exp(0.5 * spread * level[rows.image])
        columns = TapColumns(tap=f"relu{tap + 1}", tap_kind="post_act", depth=tap, pixels=4096)
        blocks.append(
            Block(network=NetworkCell(network="vgg16"), tap=columns, rows=rows, mean=mean, var=var)
        )
    return blocks


def _images(names: list[str]) -> pa.Table:
    n = len(names)
    columns = [names, [256] * n, [256] * n, [""] * n, names]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, IMAGES_SCHEMA, strict=True)]
    return pa.table(arrays, schema=IMAGES_SCHEMA)


def _tap_row(tap: int, channels: int) -> dict[str, object]:
    return {
        **{"network": "vgg16", "norm": "none", "treatment": "none", "source": "input"},
        **{"tap": f"relu{tap + 1}", "call": 0, "tap_kind": "post_act", "depth": tap},
        **{"module": f"relu{tap + 1}", "module_type": "ReLU", "channels": channels},
        **{"height": 64, "width": 64, "layout": "nchw", "drop_tokens": 0, "eps": float("nan")},
        "by_construction": [False] * channels,
    }


def killed_and_resumed(words: list[str]) -> int:
    """Write until some shards are there, kill -9, write the rest; return the shards made twice."""
    command = [sys.executable, __file__, "--write-only", *words]
    shards = len(range(0, int(words[words.index("--images") + 1]), SHARD))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = []
    for line in process.stdout:
        first.append(line)
        if len(first) >= max(1, int(KILL_AFTER * shards)):
            process.send_signal(signal.SIGKILL)
            break
    first += process.stdout.readlines()
    process.wait()
    again = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return len({*first} & {*again.splitlines(keepends=True)})


def stage(name: str, began: float, **found: object) -> None:
    """Print one line about a stage."""
    who = resource.RUSAGE_CHILDREN if name == "written" else resource.RUSAGE_SELF
    peak = resource.getrusage(who).ru_maxrss / 1024
    rest = ", ".join(f"{key} {value}" for key, value in found.items())
    print(f"{name}: {time.monotonic() - began:.1f} s, peak {peak:.0f} MB, {rest}", flush=True)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Run directory.")
@click.option("--images", default=250_000, show_default=True, help="Images; four rows each.")
@click.option("--channels", default=16, show_default=True, help="Channels of every tap.")
@click.option("--write-only", is_flag=True, help="Write and stop: what the first stage runs.")
def main(out: Path, images: int, channels: int, write_only: bool) -> None:
    """Write, kill, resume, check and report on a large run."""
    if write_only:
        write_all(open_load(out, images, channels), images, channels)
        return
    if out.exists():
        raise click.BadParameter(f"{out} is there already", param_hint="--out")
    began = time.monotonic()
    twice = killed_and_resumed(
        ["--out", str(out), "--images", str(images), "--channels", str(channels)]
    )
    stage("written", began, rows=images * len(CONDITIONS) * TAPS, shards_made_twice=twice)

    began = time.monotonic()
    found = info(out)
    if not found.finished or found.rows["moments"] != images * len(CONDITIONS) * TAPS:
        raise StatsnormError(f"{out} is not what was written: {found}")
    pairs = images * len(CONDITIONS) * TAPS * channels
    stage("checked", began, bytes=found.bytes, bytes_a_pair=f"{found.bytes / pairs:.2f}")

    from statsnorm.report import write_report

    began = time.monotonic()
    write_report([out], out=out.with_name(out.name + "-report"))
    html = out.with_name(out.name + "-report") / "report.html"
    stage("reported", began, html_bytes=html.stat().st_size)


if __name__ == "__main__":
    main()
