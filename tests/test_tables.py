import json
import os
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic import write_design_run

from statsnorm import atomic, reader, tables
from statsnorm.cells import KEYS
from statsnorm.errors import SchemaError
from statsnorm.tables import (
    CURVES_SCHEMA,
    MOMENTS_SCHEMA,
    SKIPPED_SCHEMA,
    float_lists,
    float_matrix,
    images_schema,
    read_table,
    write_table,
)

# the published columns, one by one
MOMENTS_COLUMNS = {
    **dict.fromkeys(["image", "condition", "style"], "string"),
    "strength": "double",
    **dict.fromkeys(["restore", "contrast"], "string"),
    "level": "int16",
    **dict.fromkeys(["network", "norm", "treatment", "index", "source"], "string"),
    **dict.fromkeys(["bn_mode", "batch_kind", "cell"], "string"),
    **dict.fromkeys(["seed", "iteration"], "int64"),
    "tap": "string",
    "call": "int16",
    "tap_kind": "string",
    "depth": "int16",
    "pixels": "int32",
    "by_construction": "bool",
    "mean": "list<element: float not null>",
    "var": "list<element: float not null>",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_design_run(tmp_path_factory.mktemp("run") / "r", images=6, shard_size=3)


def _shard(run):
    return pq.ParquetFile(run.path / "moments" / "shard-00000.parquet")


def test_moments_columns_are_those_of_the_design():
    assert {f.name: str(f.type) for f in MOMENTS_SCHEMA} == MOMENTS_COLUMNS


def test_curves_columns_are_those_of_the_design():
    assert CURVES_SCHEMA.names == [
        *["cell", "block", "target", "norm", "condition", "seed", "iteration", "split", "bn_mode"],
        *["style_loss", "content_loss", "total_loss", "lr", "seconds"],
    ]


def test_stored_as_promised(run):
    file = _shard(run)
    for column in range(file.metadata.num_columns):
        chunk = file.metadata.row_group(0).column(column)
        assert chunk.compression == "ZSTD"
        name = chunk.path_in_schema
        if name.endswith(".element"):
            assert "BYTE_STREAM_SPLIT" in chunk.encodings, name
        elif name != "by_construction":
            assert "RLE_DICTIONARY" in chunk.encodings, name
        if "." not in name:
            assert chunk.statistics.has_min_max, name


def test_keys_are_plain_strings_not_arrow_dictionaries(run):
    schema = _shard(run).schema_arrow
    assert all(schema.field(k).type == MOMENTS_SCHEMA.field(k).type for k in (*KEYS, "tap"))
    assert not any(pa.types.is_dictionary(f.type) for f in schema)


def test_footer_holds_schema_version_and_run_hash(run):
    footer = _shard(run).schema_arrow.metadata
    assert footer[b"statsnorm.schema"] == str(tables.SCHEMA_VERSION).encode()
    assert footer[b"statsnorm.table"] == b"moments"
    there = json.loads((run.path / "run.json").read_text())["hash"]
    assert footer[b"statsnorm.run"].decode() == there


def test_one_row_group_per_network_source_and_tap(run):
    file = _shard(run)
    found = []
    for group in range(file.num_row_groups):
        rows = file.read_row_group(group, columns=["network", "source", "tap"]).to_pandas()
        found.append(tuple(rows.drop_duplicates().itertuples(index=False, name=None)))
    assert all(len(keys) == 1 for keys in found)
    assert len(set(found)) == len(found) == 5


def test_a_tap_filter_reads_its_row_groups_only(run):
    files = sorted((run.path / "moments").glob("*.parquet"))
    dataset = reader.moments_dataset(files)
    want = [
        (f.name, g)
        for f in files
        for g in range(5)
        if pq.ParquetFile(f).read_row_group(g, columns=["tap"])["tap"][0].as_py() == "relu3_1"
    ]
    assert reader.matching_row_groups(dataset, {"tap": "relu3_1"}) == want
    assert len(want) == 2
    both = reader.matching_row_groups(dataset, {"tap": ["relu3_1", "relu1_1"]})
    assert len(both) == 4
    assert reader.matching_row_groups(dataset, {"tap": "relu3_1", "network": "cin26"}) == []
    assert len(reader.matching_row_groups(dataset, {})) == 10


def test_readable_without_us(run):
    folder = run.path / "moments"
    frame = pd.read_parquet(folder)
    assert list(frame.columns) == list(MOMENTS_COLUMNS)
    n = 6 * 24 * 5 * 2
    assert len(frame) == n
    polars = pl.read_parquet(folder)
    assert polars.height == n
    files = f"{folder}/*.parquet"
    count, mean = duckdb.sql(f"select count(*), sum(list_sum(mean)) from '{files}'").fetchall()[0]
    assert count == n
    want = float(np.stack(frame["mean"]).sum(dtype=np.float64))
    assert mean == pytest.approx(want, rel=1e-4)
    assert polars["mean"].list.sum().sum() == pytest.approx(want, rel=1e-4)


def test_seven_bytes_a_pair_on_real_moments(tmp_path):
    torch = pytest.importorskip("torch")
    from statsnorm.images.decode import decode
    from statsnorm.images.sources import find_images
    from statsnorm.networks import load_network
    from statsnorm.taps import find_taps, forward_moments

    vgg = load_network("vgg16")
    photos = find_images("embedded")
    x = torch.stack([decode(ref, size=48).pixels for ref in photos])  # noqa: PD013
    x = torch.cat([x, 0.8 * x])  # as many rows as a small run has
    moments, _ = forward_moments(vgg, x, find_taps(vgg, x[:1]))
    pairs = size = 0
    for tap, m in moments.items():
        if tap.channels < 64:
            continue
        lists = {"mean": float_lists(m.mean.numpy()), "var": float_lists(m.var.numpy())}
        schema = pa.schema([MOMENTS_SCHEMA.field(c) for c in lists], MOMENTS_SCHEMA.metadata)
        write_table(tmp_path / "t.parquet", pa.table(lists, schema=schema), metadata={})
        pairs += m.mean.numel()
        group = pq.read_metadata(tmp_path / "t.parquet").row_group(0)
        size += sum(group.column(k).total_compressed_size for k in range(2))
    assert size / pairs <= 7


def test_list_arrays_round_trip_through_slices():
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    lists = float_lists(x)
    assert lists.type == MOMENTS_SCHEMA.field("mean").type
    np.testing.assert_array_equal(float_matrix(lists), x)
    np.testing.assert_array_equal(float_matrix(lists.slice(1, 2)), x[1:3])
    chunks = pa.chunked_array([lists.slice(2), lists.slice(0, 1)])
    np.testing.assert_array_equal(float_matrix(chunks), x[[2, 3, 0]])
    assert float_matrix(chunks).dtype == np.float32


def test_rows_of_different_width_are_refused():
    mixed = pa.chunked_array([float_lists(np.ones((2, 3))), float_lists(np.ones((1, 4)))])
    with pytest.raises(SchemaError, match=r"rows have \[3, 4\] channels"):
        float_matrix(mixed)


def _skipped(reason):
    return pa.Table.from_pylist(
        [{"image": "a.jpg", "stage": "decode", "reason": reason}], schema=SKIPPED_SCHEMA
    )


def test_a_failing_write_leaves_the_old_file_and_no_temporary(tmp_path, monkeypatch):
    path = tmp_path / "t.parquet"
    write_table(path, _skipped("old"), metadata={})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_table(path, _skipped("new"), metadata={})
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]
    assert read_table(path, SKIPPED_SCHEMA)["reason"].to_pylist() == ["old"]


def test_file_then_directory_are_synced_around_the_rename(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(atomic.os, "fsync", lambda fd: (events.append("sync"), fsync(fd)))
    monkeypatch.setattr(
        Path, "replace", lambda self, to: (events.append("rename"), replace(self, to))[1]
    )
    write_table(tmp_path / "t.parquet", _skipped("x"), metadata={})
    assert events == ["sync", "rename", "sync"]


def test_same_table_same_bytes(tmp_path):
    for name in "ab":
        write_table(tmp_path / name, _skipped("x"), metadata={"statsnorm.run": "h"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_another_schema_version_is_refused(tmp_path, monkeypatch):
    old = SKIPPED_SCHEMA.with_metadata({**SKIPPED_SCHEMA.metadata, b"statsnorm.schema": b"0"})
    write_table(tmp_path / "t.parquet", _skipped("x").cast(old), metadata={})
    with pytest.raises(SchemaError, match="schema '0', this statsnorm reads '1'"):
        read_table(tmp_path / "t.parquet", SKIPPED_SCHEMA)


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "another table"])
def test_damaged_tables_are_schema_errors(tmp_path, damage):
    path = tmp_path / "t.parquet"
    write_table(path, _skipped("x"), metadata={})
    content = path.read_bytes()
    if damage == "another table":
        write_table(path, MOMENTS_SCHEMA.empty_table(), metadata={})
    else:
        path.write_bytes({"empty": b"", "text": b"hello", "truncated": content[:-9]}[damage])
    with pytest.raises(SchemaError, match=r"t\.parquet"):
        read_table(path, SKIPPED_SCHEMA)


def test_a_flipped_bit_in_a_page_is_found(tmp_path):
    path = tmp_path / "t.parquet"
    rows = [{"image": f"{i}.jpg", "stage": "decode", "reason": str(i)} for i in range(500)]
    write_table(path, pa.Table.from_pylist(rows, schema=SKIPPED_SCHEMA), metadata={})
    content = bytearray(path.read_bytes())
    chunk = pq.read_metadata(path).row_group(0).column(0)
    content[chunk.data_page_offset + chunk.total_compressed_size // 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(SchemaError, match="damaged"):
        read_table(path, SKIPPED_SCHEMA)


def test_attributes_never_shadow_our_columns():
    assert images_schema(["domain", "path"]).names[-2:] == ["domain", "manifest_path"]
