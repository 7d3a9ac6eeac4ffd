import json
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic import moments_of, planted, write_conditions_run, write_design_run

import statsnorm
from statsnorm import stats
from statsnorm.cells import InputCell, NetworkCell
from statsnorm.errors import SchemaError, StatsnormError, UnfinishedRunError
from statsnorm.load import Tables, load_curves, load_design, load_moments
from statsnorm.reader import axis_codes
from statsnorm.rows import Block, CellRows, TapColumns, moments_table
from statsnorm.rundir import finish, record_shard
from statsnorm.tables import CURVES_SCHEMA, write_table

ONE = {"tap": "contract.1.norm.in", "treatment": "frozen:prefix"}


def record_again(run):
    """Let a changed table count as what was written."""
    record_shard(run, 0, run.expected.of_shard(0), {})
    assert finish(run)


@pytest.fixture(scope="module")
def design_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("design") / "r"
    write_design_run(out, images=12, styles=11, levels=3, channels=5, shard_size=5)
    return out


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("plain") / "r"
    write_conditions_run(out, images=7, shard_size=3, attributes={"domain": ["photo", "paint"]})
    return out


def test_nested_is_the_table_as_stored(plain_run):
    frame = load_moments(plain_run, tap="relu2_1", condition="style")
    raw = pd.read_parquet(plain_run / "moments")
    raw = raw[(raw["tap"] == "relu2_1") & (raw["condition"] == "style")].reset_index(drop=True)
    pd.testing.assert_frame_equal(
        frame.drop(columns=["mean", "var"]), raw.drop(columns=["mean", "var"])
    )
    np.testing.assert_array_equal(np.stack(frame["var"]), np.stack(raw["var"]))
    assert len(frame) == 7


def test_the_three_layouts_hold_the_same_numbers(plain_run):
    nested = load_moments(plain_run, tap="relu2_1")
    keys, mean, var = load_moments(plain_run, tap="relu2_1", layout="matrix")
    tidy = load_moments(plain_run, tap="relu2_1", layout="tidy")
    assert mean.dtype == var.dtype == np.float32
    assert mean.shape == (7 * 4, 16)
    np.testing.assert_array_equal(np.stack(nested["mean"]), mean)
    assert list(tidy["channel"]) == list(range(16)) * 28
    np.testing.assert_array_equal(tidy["var"].to_numpy().reshape(28, 16), var)
    pd.testing.assert_series_equal(
        tidy["image"].astype(str)[::16].reset_index(drop=True),
        keys["image"].astype(str),
        check_dtype=False,
    )


def test_tidy_takes_taps_of_different_width(plain_run):
    tidy = load_moments(plain_run, network="pixels", layout="tidy")
    counts = tidy.groupby("tap", observed=True)["channel"].max()
    assert counts.to_dict() == {"luminance": 0, "rgb": 2}
    rgb = tidy[tidy["tap"] == "rgb"]["mean"].to_numpy().reshape(-1, 3)
    np.testing.assert_array_equal(rgb, load_moments(plain_run, tap="rgb", layout="matrix").mean)
    with pytest.raises(SchemaError, match=r"rows have \[1, 3\] channels"):
        load_moments(plain_run, network="pixels", layout="matrix")


def test_keys_against_pandas_groupby(design_run, plain_run):
    for run in (design_run, plain_run):
        keys = Tables(run).keys()
        raw = pd.read_parquet(run / "moments").drop(columns=["mean", "var"])
        columns = [c for c in keys.columns if c != "n_images"]
        want = raw.groupby(columns, as_index=False)["image"].count()
        got = keys.sort_values(columns, ignore_index=True)
        want = want.sort_values(columns, ignore_index=True).rename(columns={"image": "n_images"})
        pd.testing.assert_frame_equal(got, want[got.columns], check_dtype=False)


def test_array_against_a_loop_over_rows(design_run):
    cells = Tables(design_run).array(ONE)
    assert cells.mean.shape == (12, 11, 3, 5)
    assert cells.labels["style"] == [f"cin26:{s}" for s in range(11)]  # 2 before 10
    assert cells.labels["level"] == [0, 1, 2]
    assert cells.missing == 0
    frame = load_moments(design_run, tap=ONE["tap"])
    for row in frame[frame["treatment"] == "frozen:prefix"].itertuples():
        place = tuple(cells.labels[a].index(getattr(row, a)) for a in ("image", "style", "level"))
        np.testing.assert_array_equal(cells.mean[place], row.mean.astype(float))
        np.testing.assert_array_equal(cells.var[place], row.var.astype(float))
    assert cells.keys["network"] == "cin26"
    assert cells.keys["tap_kind"] == "next_pre_norm"


def test_axis_codes_are_sorted_whatever_the_order_of_rows():
    column = pa.chunked_array([["b:10", "a", "b:9", "b:10"], ["b:x", "a"]])
    codes, labels = axis_codes(column)
    assert labels == ["a", "b:x", "b:9", "b:10"]
    assert [labels[c] for c in codes] == column.to_pylist()
    codes, labels = axis_codes(pa.chunked_array([[3, 1, 2, 3]]))
    assert (labels, list(codes)) == ([1, 2, 3], [2, 0, 1, 2])


def test_array_over_other_axes(plain_run):
    cells = Tables(plain_run).array({"tap": "relu1_1"}, axes=("condition", "image"))
    assert cells.labels["condition"] == ["ck", "contrast", "original", "style"]
    assert cells.mean.shape == (4, 7, 16)


def test_load_design_of_a_run_without_a_design_says_so(plain_run):
    with pytest.raises(StatsnormError, match=r"holds no crossed design .* --design FILE"):
        load_design(plain_run, tap="relu2_1")


def test_load_design_is_scale_free_and_recovers_what_was_planted(design_run):
    found = load_design(design_run, moment="v", **ONE)
    assert found.y.shape == (12, 11, 3, 5)
    assert found.y.dtype == np.float64
    assert (found.dropped, found.missing) == (0, 0)
    cells = Tables(design_run).array(ONE)
    np.testing.assert_allclose(found.y, 0.5 * np.log(cells.var), rtol=1e-12)
    scale = np.sqrt(cells.var.reshape(-1, 5).mean(axis=0))
    m = load_design(design_run, moment="m", **ONE)
    np.testing.assert_allclose(m.y, cells.mean / scale, rtol=1e-12)


def test_round_trip_of_planted_moments():
    rng = np.random.default_rng(3)
    m, v = planted(rng, (4, 3, 2, 6), {"I": 1.0}), planted(rng, (4, 3, 2, 6), {"S": 1.0})
    got_m, got_v = stats.scale_free(*moments_of(m, v, scale=7.0))
    np.testing.assert_allclose(got_m, m, atol=1e-5)
    np.testing.assert_allclose(np.diff(got_v, axis=1), np.diff(v, axis=1), atol=1e-5)


def test_what_is_ambiguous_is_listed(design_run):
    with pytest.raises(StatsnormError, match=r"treatment has 2 values .*'frozen:prefix', 'none'"):
        load_design(design_run, tap=ONE["tap"])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"tap": "relu9_9"}, r"no rows with tap='relu9_9'; there are 'contract.1.norm.in'"),
        ({"tap": "relu3_1", "network": "cin26"}, "together"),
        ({"tap": "relu3_1", "netwrok": "cin26"}, "unknown key column 'netwrok'; did you mean"),
        ({"tap": "relu3_1", "level": "high"}, "level must be int16"),
    ],
)
def test_wrong_keys(design_run, keys, message):
    with pytest.raises(StatsnormError, match=message):
        load_design(design_run, **keys)


def test_missing_cells_are_nan_and_counted(design_run, tmp_path):
    out = tmp_path / "r"
    run = write_design_run(out, images=4, styles=3, levels=2, channels=5, shard_size=4)
    file = out / "moments" / "shard-00000.parquet"
    table = pq.read_table(file)
    keep = np.ones(len(table), bool)
    image, style = (table[c].to_pandas() for c in ("image", "style"))
    keep[((image == "photo-002.jpg") & (style == "cin26:1")).to_numpy()] = False
    part = table.filter(pa.array(keep))
    write_table(file, part, metadata=run.metadata)
    record_again(run)
    found = load_design(out, **ONE)
    assert found.missing == 2
    assert np.isnan(found.y[2, 1]).all()
    assert np.isnan(found.y).sum() == 2 * 5


def test_dead_channels_are_left_out_and_counted(tmp_path):
    run = write_design_run(tmp_path / "r", images=4, styles=3, levels=2, channels=5, shard_size=4)
    file = run.path / "moments" / "shard-00000.parquet"
    frame = pq.read_table(file).to_pandas()
    frame["var"] = [np.where(np.arange(5) == 3, 0, v).astype(np.float32) for v in frame["var"]]
    table = pa.Table.from_pandas(frame, schema=pq.read_schema(file), preserve_index=False)
    write_table(file, table, metadata=run.metadata)
    record_again(run)
    found = load_design(run.path, **ONE)
    assert found.dropped == 1
    assert list(found.channels) == [0, 1, 2, 4]
    assert np.isfinite(found.y).all()


def test_images_of_two_sizes_are_not_one_sample(tmp_path):
    run = write_design_run(tmp_path / "r", images=4, styles=3, levels=2, channels=5, shard_size=4)
    file = run.path / "moments" / "shard-00000.parquet"
    frame = pq.read_table(file).to_pandas()
    frame.loc[frame["image"] == "photo-002.jpg", "pixels"] *= 4
    table = pa.Table.from_pandas(frame, schema=pq.read_schema(file), preserve_index=False)
    write_table(file, table, metadata=run.metadata)
    record_again(run)
    with pytest.raises(StatsnormError, match="several sizes"):
        Tables(run.path).array(ONE)


def test_one_run_twice_is_not_silently_pooled(design_run):
    with pytest.raises(StatsnormError, match="several rows"):
        Tables([design_run, design_run]).array(ONE)


def test_an_unfinished_run_is_refused_unless_asked_for(tmp_path):
    run = write_conditions_run(tmp_path / "r", images=4, shard_size=2)
    (run.path / "done.json").unlink()
    (run.path / "moments" / "shard-00001.parquet").unlink()
    with pytest.raises(UnfinishedRunError, match="same command again"):
        load_moments(run.path)
    part = Tables(run.path, unfinished=True)
    assert part.moments(tap="relu1_1").mean.shape == (2 * 4, 16)


def test_the_other_tables(plain_run, design_run):
    tables = Tables([plain_run, design_run])
    images = tables.images()
    assert list(images[images["domain"] != ""]["domain"]) == ["photo", "paint"] * 3 + ["photo"]
    assert set(tables.content()["condition"]) == {"original", "contrast", "style", "ck"}
    assert list(tables.levels()["value"]) == pytest.approx([1, 5 / 6, 2 / 3])
    taps = tables.taps()
    by = taps[(taps["tap"] == "res.0.0.norm") & (taps["treatment"] == "none")]
    assert by["by_construction"].tolist() == [(True,) * 5]
    assert len(tables.skipped()) == len(tables.invariance()) == len(tables.curves()) == 0
    hashes = [json.loads((r / "run.json").read_text())["hash"] for r in (plain_run, design_run)]
    assert [r["hash"] for r in tables.provenance()["runs"]] == hashes


def test_curves(tmp_path):
    run = write_conditions_run(tmp_path / "r", images=2, shard_size=2)
    row = {f.name: ("" if f.type == pa.string() else 1) for f in CURVES_SCHEMA}
    table = pa.Table.from_pylist([row, row], schema=CURVES_SCHEMA)
    write_table(run.path / "curves" / "a.parquet", table, metadata=run.metadata)
    curves = load_curves(run.path)
    assert list(curves.columns) == CURVES_SCHEMA.names
    assert len(curves) == 2


def test_unknown_layout_and_no_run(plain_run, tmp_path):
    with pytest.raises(StatsnormError, match="layout must be nested, tidy or matrix"):
        load_moments(plain_run, layout="wide")
    with pytest.raises(StatsnormError, match="no run given"):
        Tables([])
    with pytest.raises(StatsnormError, match="no run directory"):
        load_moments(tmp_path)


def test_a_flipped_bit_is_found_when_the_tap_is_read(tmp_path):
    run = write_conditions_run(tmp_path / "r", images=4, shard_size=4)
    file = run.path / "moments" / "shard-00000.parquet"
    found = pq.ParquetFile(file)
    taps = [found.read_row_group(g)["tap"][0].as_py() for g in range(found.num_row_groups)]
    place = taps.index("relu1_1")
    chunk = found.metadata.row_group(place).column(len(found.schema_arrow) - 2)
    content = bytearray(file.read_bytes())
    content[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(SchemaError, match="damaged"):
        Tables(run.path).moment("mean", tap="relu1_1")
    Tables(run.path).moment("mean", tap="relu2_1")


def test_public_names():
    assert statsnorm.load_moments is load_moments
    assert statsnorm.load_design is load_design
    assert statsnorm.load_curves is load_curves


@pytest.mark.slow
def test_one_moment_of_one_tap_of_100_000_images_in_a_second(tmp_path):
    rng = np.random.default_rng(0)
    n, channels, shard = 100_000, 512, 4096
    run = write_conditions_run(tmp_path / "r", images=2, shard_size=2)
    folder = run.path / "moments"
    for file in folder.iterdir():
        file.unlink()
    scale = rng.lognormal(size=channels)
    for k, start in enumerate(range(0, n, shard)):
        rows = min(shard, n - start)
        cells = CellRows(
            images=tuple(f"{start + i:012d}.jpg" for i in range(rows)),
            cells=(InputCell(),),
            image=np.arange(rows),
            cell=np.zeros(rows, int),
        )
        values = (scale * rng.lognormal(sigma=0.5, size=(rows, channels))).astype(np.float32)
        blocks = [
            Block(
                network=NetworkCell(network="vgg16"),
                tap=TapColumns(tap=tap, tap_kind="post_act", depth=depth, pixels=1024),
                rows=cells,
                mean=values,
                var=values,
            )
            for depth, tap in enumerate(("relu3_1", "relu4_1"))
        ]
        table, groups = moments_table(blocks)
        write_table(folder / f"shard-{k:05d}.parquet", table, metadata=run.metadata, groups=groups)
    seconds, wall = [], []
    for _ in range(3):
        start, clock = time.process_time(), time.perf_counter()
        found = Tables(run.path).moment("mean", tap="relu4_1")
        seconds.append(time.process_time() - start)  # of all threads; other jobs do not count
        wall.append(time.perf_counter() - clock)
        assert found.shape == (n, channels)
    print(f"{n} x {channels}: {min(seconds):.2f} s of CPU, {min(wall):.2f} s")  # noqa: T201
    assert min(seconds) < 1
