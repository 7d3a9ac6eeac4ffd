"""What `statsnorm info` says of a training run, finished or not."""

from __future__ import annotations

import pyarrow as pa
from click.testing import CliRunner

from statsnorm.cli.info import info as command
from statsnorm.rundir import Expected, finish, open_run, read_run, record_shard
from statsnorm.tables import CURVES_SCHEMA, SCHEMAS, write_table
from statsnorm.trained import trained_cells

CELLS = ("b00-a-in-original", "b00-a-bn-original", "b01-b-in-original", "b01-b-bn-original")


def write_training(path, *, done=CELLS, status="done"):
    files = tuple(f for c in CELLS for f in (f"curves/{c}.parquet", f"generators/{c}.safetensors"))
    train = {"targets": ["a.png", "b.png"], "norms": ["in", "bn"], "conditions": ["original"]}
    config = {"kind": "train", "images": {"n": 24}, "train": {**train, "iterations": 300}}
    expected = Expected(files=(*files, "skipped/shard-00000.parquet"))
    run = open_run(path, config, expected=expected)
    skipped = pa.Table.from_pylist([], schema=SCHEMAS["skipped"])
    write_table(path / "skipped/shard-00000.parquet", skipped, metadata={})
    (path / "generators").mkdir(exist_ok=True)
    blank = dict.fromkeys(CURVES_SCHEMA.names)
    for field in CURVES_SCHEMA:
        blank[field.name] = "x" if pa.types.is_string(field.type) else 0
    for cell in done:
        rows = [{**blank, "cell": cell, "iteration": i} for i in (0, 3, 6, 300)]
        table = pa.Table.from_pylist(rows, schema=CURVES_SCHEMA)
        name = f"curves/{cell}.parquet"
        write_table(path / name, table, metadata={"statsnorm.status": status})
        (path / f"generators/{cell}.safetensors").write_bytes(b"x")
        record_shard(run, cell, (name, f"generators/{cell}.safetensors"), {"status": status})
    finish(run)
    return path


def test_a_finished_run_says_cells_iterations_and_curves(tmp_path):
    ran = CliRunner().invoke(command, [str(write_training(tmp_path / "run"))])
    assert ran.exit_code == 0, ran.output
    assert "cells 4: 2 targets x 2 norms (in, bn) x 1 condition (original), 300 iter" in ran.stdout
    assert "  done 4, ended early 0, begun 0, to do 0" in ran.stdout
    assert "curves: 16 rows, 4 recorded iterations a cell, the last 300" in ran.stdout
    assert "generators 4, checkpoints on the way 0; images 24" in ran.stdout


def test_an_unfinished_run_names_what_is_begun_and_to_do(tmp_path):
    path = write_training(tmp_path / "run", done=CELLS[:2])
    (path / "generators" / f"{CELLS[2]}.part.safetensors").write_bytes(b"x")
    ran = CliRunner().invoke(command, [str(path)])
    assert ran.exit_code == 1
    assert "  done 2, ended early 0, begun 1, to do 1" in ran.stdout
    assert f"begun: {CELLS[2]}\n" in ran.stdout
    assert f"to do: {CELLS[3]}\n" in ran.stdout
    assert "generators 2, " in ran.stdout  # the part of the third is none


def test_a_cell_that_ended_early_says_why_and_damaged_curves_are_to_do(tmp_path):
    path = write_training(tmp_path / "run", done=CELLS[:1], status="diverged at iteration 6")
    (path / f"curves/{CELLS[1]}.parquet").write_bytes(b"PAR1 no")
    cells = trained_cells(read_run(path))
    assert cells.ended == (f"{CELLS[0]}: diverged at iteration 6",)
    assert cells.to_do == CELLS[1:]
