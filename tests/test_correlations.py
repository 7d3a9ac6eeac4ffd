import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose
from test_extract import QUICK, make_photos, tree

import statsnorm
from statsnorm.correlations import channel_correlations, drawn_channels
from statsnorm.errors import StatsnormError
from statsnorm.extraction import extract
from statsnorm.images.decode import decode
from statsnorm.load import Tables
from statsnorm.networks import load_network
from statsnorm.networks.norms import ConditionalInstanceNorm
from statsnorm.rundir import info
from statsnorm.tables import CORRELATIONS_SCHEMA, SCHEMAS, check_schema

TINY = "tiny_networks:instance_norm"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"), range(5))


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "r"
    extract(photos, out=out, networks=["vgg16"], taps=["relu1_2", "relu2_1"], correlations=16,
            **QUICK)  # fmt: skip
    return out


def upper(matrix):
    return matrix[np.triu_indices(len(matrix), 1)]


def test_against_numpy_corrcoef_image_by_image():
    x = torch.randn(3, 9, 5, 7) + torch.arange(9)[:, None, None] * 10
    channels = [0, 2, 3, 8]
    found = channel_correlations(x, channels)
    assert found.dtype == torch.float32
    assert found.shape == (3, 6)
    for image, rho in zip(x.double().numpy(), found.numpy(), strict=True):
        expected = np.corrcoef(image[channels].reshape(4, -1))
        assert_allclose(rho, upper(expected), atol=1e-6)


@pytest.mark.parametrize("layout", ["nhwc", "tokens"])
def test_layouts(layout):
    x = torch.randn(2, 6, 4, 5)
    moved = x.movedim(1, -1) if layout == "nhwc" else x.flatten(2).mT
    moved = torch.cat([moved[:, :2] * 50, moved], 1) if layout == "tokens" else moved
    found = channel_correlations(moved, range(6), layout, 2 if layout == "tokens" else 0)
    torch.testing.assert_close(found, channel_correlations(x, range(6)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_do_not_reach_the_products(dtype):
    x = (torch.randn(1, 8, 40, 40) * 200 + 300).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        found = channel_correlations(x, range(8))[0]
    assert_allclose(found, upper(np.corrcoef(x[0].double().flatten(1).numpy())), atol=1e-6)


def test_many_images_at_a_time_or_few(monkeypatch):
    x = torch.randn(5, 4, 6, 6)
    whole = channel_correlations(x, range(4))
    monkeypatch.setattr("statsnorm.correlations._VALUES", 2 * 4 * 36)
    torch.testing.assert_close(channel_correlations(x, range(4)), whole, atol=0, rtol=0)


def test_a_constant_channel_is_uncorrelated_whatever_its_rounding():
    x = torch.randn(1, 4, 30, 30)
    x[0, 1] = 0.1 + 1e-8 * torch.randn(30, 30)  # rounding of a repeated 0.1
    x[0, 2] = 0
    rho = channel_correlations(x, range(4))[0]
    assert_allclose(rho[[0, 1, 3, 4, 5]], 0)  # every pair with 1 or 2
    assert abs(rho[2]) > 0
    assert torch.isfinite(rho).all()


def test_instance_normalisation_leaves_correlations_alone_up_to_the_sign_of_gamma():
    """method.md 2.6; batch statistics of BN scale channels alike, whitening removes rho."""
    norm = ConditionalInstanceNorm(6, styles=2).double().requires_grad_(False)
    norm.weight.copy_(torch.randn(2, 6).double())
    norm.bias.copy_(torch.randn(2, 6).double())
    x = torch.randn(4, 6, 12, 12).double() @ torch.randn(12, 12).double()
    x[:, 1] += 0.7 * x[:, 0]
    before = channel_correlations(x, range(6))
    after = channel_correlations(norm(x, torch.tensor([0, 1, 1, 0])), range(6))
    sign = torch.stack([torch.outer(s, s) for s in norm.weight.sign()])
    pairs = torch.triu_indices(6, 6, 1)
    expected = before * sign[[0, 1, 1, 0]][:, pairs[0], pairs[1]]
    torch.testing.assert_close(after.double(), expected.double(), atol=1e-6, rtol=0)
    assert before.abs().max() > 0.3


def test_the_draw_is_fixed_sorted_and_the_same_at_every_tap_of_one_width():
    draw = drawn_channels(512, 64, seed=3)
    assert draw == drawn_channels(512, 64, seed=3)
    assert draw == tuple(sorted(set(draw)))
    assert len(draw) == 64
    assert max(draw) < 512
    assert draw != drawn_channels(512, 64, seed=4)
    assert drawn_channels(64, 64, seed=3) == tuple(range(64))
    with pytest.raises(StatsnormError, match="at least 2 channels a tap, got 1"):
        drawn_channels(8, 1, seed=0)


def test_every_channel_is_drawn_equally_often():
    counts = np.zeros(20)
    for seed in range(2000):
        counts[list(drawn_channels(20, 5, seed=seed))] += 1
    assert_allclose(counts / 2000, 0.25, atol=4 * np.sqrt(0.25 * 0.75 / 2000))


def test_the_table_against_a_float64_loop_over_the_layers(photos, run):
    vgg = load_network("vgg16")
    vgg.module.double()
    keys, channels, rho = statsnorm.load_correlations(run, tap="relu2_1")
    assert len(channels) == 16
    assert rho.shape == (5, 16, 16)
    for image, matrix in zip(keys["image"], rho, strict=True):
        x = vgg.preprocess(decode(photos / image, size=16).pixels.double()[None])
        for layer, module in vgg.module.named_children():
            x = module(x)
            if layer == "relu2_1":
                break
        flat = x[0, channels].flatten(1).numpy()
        live = flat.std(1) > 1e-6 * np.abs(flat).max(1)
        expected = np.eye(16)
        expected[np.ix_(live, live)] = np.corrcoef(flat[live])
        assert_allclose(matrix, expected, atol=2e-4)


def test_rows_match_those_of_moments_and_pandas_reads_them_alone(run):
    rows = pd.read_parquet(run / "correlations")
    moments = pd.read_parquet(run / "moments")
    names = [c for c in moments.columns if c not in ("mean", "var")]
    pd.testing.assert_frame_equal(rows[names], moments[names])
    assert set(rows["correlation"].map(len)) == {120}
    for file in (run / "correlations").glob("*.parquet"):
        assert check_schema(file, SCHEMAS["correlations"])["statsnorm.table"] == "correlations"
    found = info(run)
    assert found.finished
    assert found.rows["correlations"] == len(rows) == 10


def test_as_an_array_over_axes(run):
    tables = Tables(run)
    keys, channels, rho = tables.correlations(tap="relu1_2")
    cells = tables.correlation_array({"tap": "relu1_2"}, axes=("image",))
    assert cells.correlation.shape == (5, 120)
    assert list(cells.channels) == list(channels)
    assert cells.labels["image"] == sorted(keys["image"])
    first = rho[list(keys["image"]).index(cells.labels["image"][0])]
    assert_allclose(cells.correlation[0], upper(first))


def test_off_by_default_and_then_neither_hash_nor_files_change(photos, tmp_path):
    plain = extract(photos, out=tmp_path / "r", networks=[TINY], **QUICK)
    config = info(plain.path).config
    assert "correlations" not in config
    assert not (plain.path / "correlations").exists()
    with pytest.raises(StatsnormError, match="extract with --correlations N"):
        statsnorm.load_correlations(plain.path, tap="input")
    assert not len(Tables(plain.path).correlation_keys())


def test_only_at_the_taps_asked_for_and_those_of_the_output(photos, tmp_path):
    asked = {**QUICK, "vgg_of_output": "vgg16"}
    extract(photos, out=tmp_path / "r", networks=["cin26"], correlations=8,
            correlation_taps=["post_norm", "vgg_of_output"], **asked)  # fmt: skip
    keys = Tables(tmp_path / "r").correlation_keys()
    assert set(keys["tap_kind"]) == {"post_norm", "vgg_of_output"}
    assert len(set(keys["tap"])) == 18 + 5


def test_instance_normalisation_in_a_real_network_keeps_rho(photos, tmp_path):
    extract(photos, out=tmp_path / "r", networks=["cin26"], correlations=32,
            taps=["contract.0.norm.in", "contract.0.norm"], **QUICK)  # fmt: skip
    tables = Tables(tmp_path / "r")
    before, after = (
        tables.correlations(tap=name, network="cin26").correlation
        for name in ("contract.0.norm.in", "contract.0.norm")
    )
    assert_allclose(np.abs(after), np.abs(before), atol=1e-4)
    assert np.abs(before - np.eye(32)).max() > 0.5


def test_resume_is_equal_to_the_byte(photos, tmp_path):
    asked = {"networks": ["vgg16"], "taps": ["relu1_1"], "correlations": 8, **QUICK}
    extract(photos, out=tmp_path / "a", **asked)
    extract(photos, out=tmp_path / "b", shard="1/2", **asked)
    assert (tmp_path / "b/correlations/shard-00001.parquet").exists()
    assert not (tmp_path / "b/correlations/shard-00000.parquet").exists()
    extract(photos, out=tmp_path / "b", **asked)
    whole = tree(tmp_path / "a")
    assert whole == tree(tmp_path / "b")
    (tmp_path / "b/correlations/shard-00000.parquet").write_bytes(b"damaged")
    assert info(tmp_path / "b").damaged == ("correlations/shard-00000.parquet",)
    extract(photos, out=tmp_path / "b", **asked)
    assert whole == tree(tmp_path / "b")


def test_the_batch_changes_nothing_beyond_rounding(photos, tmp_path):
    asked = {"networks": ["vgg16"], "taps": ["relu2_1"], "correlations": 8}
    found = []
    for size in (1, 4):
        extract(photos, out=tmp_path / str(size), **asked, **{**QUICK, "batch_size": size})
        found.append(statsnorm.load_correlations(tmp_path / str(size), tap="relu2_1").correlation)
    assert_allclose(*found, atol=1e-4)


def test_rows_of_two_draws_are_not_mixed(photos, run, tmp_path):
    extract(photos, out=tmp_path / "r", networks=["vgg16"], taps=["relu2_1"], correlations=16,
            seed=1, **QUICK)  # fmt: skip
    with pytest.raises(StatsnormError, match="keep different channels"):
        statsnorm.load_correlations([run, tmp_path / "r"], tap="relu2_1")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"correlations": 1}, "0 \\(none\\) or at least 2 channels, got 1"),
        ({"correlations": 8, "correlation_taps": ["relu9_9"]}, "unknown tap 'relu9_9'"),
        ({"correlation_taps": ["relu1_1"]}, "'relu1_1' needs --correlations N"),
    ],
)
def test_bad_requests_write_nothing(photos, tmp_path, asked, message):
    with pytest.raises(StatsnormError, match=message):
        extract(photos, out=tmp_path / "r", networks=["vgg16"], **QUICK, **asked)
    assert not (tmp_path / "r").exists()


def test_dry_run_counts_their_bytes(photos, tmp_path):
    asked = {"networks": ["vgg16"], "taps": ["relu2_1"], **QUICK}
    foretold = extract(photos, out=tmp_path / "r", dry_run=True, correlations=64, **asked)
    extract(photos, out=tmp_path / "r", correlations=64, **asked)
    tables = [f for kind in ("moments", "correlations") for f in (tmp_path / "r" / kind).iterdir()]
    assert 0.8 < foretold.bytes / sum(f.stat().st_size for f in tables) < 1.2
    assert CORRELATIONS_SCHEMA.names[-2:] == ["channels", "correlation"]
