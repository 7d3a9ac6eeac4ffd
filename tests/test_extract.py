import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from statsnorm.decisions import load_plan
from statsnorm.errors import NonFiniteError, StatsnormError
from statsnorm.extraction import extract, measure
from statsnorm.images.colour import equalise_luminance
from statsnorm.images.decode import decode
from statsnorm.load import Tables, load_moments
from statsnorm.networks import load_network, untrained
from statsnorm.report.provenance import plan_note, run_facts
from statsnorm.rundir import info

TINY = "tiny_networks:instance_norm"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
QUICK = {"size": 16, "device": "cpu", "batch_size": 4, "shard_size": 3, "vgg_of_output": None}
DESIGN = """
restore = "luminance"
[styles]
generator = "filters"
indices = ["sepia", "grain", "halftone"]
[contrast]
family = "gain"
values = [0.5, 1.0]
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"), range(8))


def make_photos(folder: Path, seeds) -> Path:
    for seed in seeds:
        rng = np.random.default_rng(seed)
        coarse = rng.integers(30, 226, (5, 6, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((40, 30), Image.Resampling.BICUBIC)
        image.save(folder / f"{seed}.png")
    return folder


def tree(run: Path) -> dict[str, str]:
    """Return the hash of every file that must not depend on who made it."""
    files = (p for p in sorted(run.rglob("*")) if p.is_file() and "log" not in p.parts)
    return {
        str(p.relative_to(run)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in files
        if p.name != ".guard"
    }


def test_rows_against_a_float64_loop_over_the_layers(photos, tmp_path):
    extract(photos, out=tmp_path / "r", networks=["vgg16"], **QUICK)
    vgg = load_network("vgg16")
    vgg.module.double()
    for name in ("0.png", "7.png"):
        x = decode(photos / name, size=16).pixels.double()[None]
        x = vgg.preprocess(x)
        for layer, module in vgg.module.named_children():
            x = module(x)
            if not layer.startswith("relu"):
                continue
            flat = x[0].flatten(1).numpy()
            row = load_moments(tmp_path / "r", tap=layer)
            row = row[row["image"] == name].iloc[0]
            assert row["pixels"] == flat.shape[1]
            scale = np.median(flat.mean(1))
            np.testing.assert_allclose(row["mean"], flat.mean(1), rtol=1e-4, atol=1e-5 * scale)
            np.testing.assert_allclose(row["var"], flat.var(1), rtol=1e-4, atol=1e-5 * scale**2)


def test_batch_size_changes_nothing_but_rounding(photos, tmp_path):
    found = {}
    for size in (1, 3, 16):
        out = tmp_path / str(size)
        extract(photos, out=out, networks=[TINY], **{**QUICK, "batch_size": size})
        frame = load_moments(out)
        found[size] = frame
    for size in (1, 3):
        for moment in ("mean", "var"):
            for a, b in zip(found[size][moment], found[16][moment], strict=True):
                scale = np.abs(b).max()
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * scale)


def test_a_row_does_not_depend_on_its_neighbours(photos, tmp_path):
    options = {**QUICK, "networks": [TINY, "vgg16"], "taps": ["post_act"]}
    extract(photos, out=tmp_path / "all", **options)
    alone = tmp_path / "alone.txt"
    alone.write_text(f"{photos}/5.png\n{photos}/2.png\n")
    extract(alone, out=tmp_path / "two", **options)
    whole, part = load_moments(tmp_path / "all"), load_moments(tmp_path / "two")
    whole = whole[whole["image"].isin(["2.png", "5.png"])].reset_index(drop=True)
    order = ["network", "depth", "image"]
    whole, part = (f.sort_values(order, ignore_index=True) for f in (whole, part))
    for moment in ("mean", "var"):
        assert all(np.array_equal(a, b) for a, b in zip(whole[moment], part[moment], strict=True))


def test_three_shares_of_a_run_give_the_bytes_of_one(photos, tmp_path):
    options = {**QUICK, "networks": [TINY], "conditions": ["original", "contrast"]}
    done = extract(photos, out=tmp_path / "one", **options)
    assert done.missing == 0
    for i in (2, 0):
        part = extract(photos, out=tmp_path / "many", shard=f"{i}/3", **options)
        assert part.missing == (8 if i == 2 else 4)
        assert not (tmp_path / "many" / "done.json").exists()
    assert extract(photos, out=tmp_path / "many", shard="1/3", **options).missing == 0
    assert tree(tmp_path / "one") == tree(tmp_path / "many")
    assert len(tree(tmp_path / "one")) == 3 * 4 + 4


def test_moments_that_come_back_late_give_the_same_bytes(photos, tmp_path, monkeypatch):
    """As on a GPU, where the host is ahead of the networks."""
    options = {**QUICK, "networks": (TINY, "vgg16"), "conditions": ("original", "contrast")}
    plain = extract(photos, out=tmp_path / "plain", **options).path
    monkeypatch.setattr(measure, "_ahead", lambda _kind: 2)
    late = extract(photos, out=tmp_path / "late", **options).path
    assert tree(plain) == tree(late)


def test_rows_stand_by_image_then_cell(photos, tmp_path):
    conditions = ["original", "whiten", "contrast"]
    extract(photos, out=tmp_path / "r", networks=[TINY], conditions=conditions, **QUICK)
    frame = load_moments(tmp_path / "r", tap="2")
    assert list(frame["image"]) == [f"{i}.png" for i in range(8) for _ in range(3)]
    assert list(frame["condition"]) == conditions * 8


def test_finished_shards_are_not_made_again_and_damaged_ones_are(photos, tmp_path):
    out = tmp_path / "r"
    extract(photos, out=out, networks=[TINY], **QUICK)
    before = tree(out)
    files = sorted((out / "moments").iterdir())
    times = [f.stat().st_mtime_ns for f in files]
    content = bytearray(files[1].read_bytes())
    content[len(content) // 2] ^= 1
    files[1].write_bytes(content)
    assert info(out).damaged == ("moments/shard-00001.parquet",)
    extract(photos, out=out, networks=[TINY], **QUICK)
    assert [f.stat().st_mtime_ns == t for f, t in zip(files, times, strict=True)] == [
        True,
        False,
        True,
    ]
    assert tree(out) == before
    assert info(out).finished


def test_another_configuration_is_refused_until_restart(photos, tmp_path):
    out = tmp_path / "r"
    extract(photos, out=out, networks=[TINY], **QUICK)
    with pytest.raises(StatsnormError, match="seed: 0 there, 1 here"):
        extract(photos, out=out, networks=[TINY], seed=1, **QUICK)
    with pytest.raises(StatsnormError, match="resume it, or restart"):
        extract(photos, out=out, networks=[TINY], resume=False, **QUICK)
    extract(photos, out=out, networks=[TINY], seed=1, restart=True, **QUICK)
    # How it is executed is no configuration.
    extract(photos, out=out, networks=[TINY], seed=1, workers=1, **{**QUICK, "batch_size": 2})


@pytest.fixture
def some_bad(tmp_path):
    folder = tmp_path / "some_bad"
    folder.mkdir()
    make_photos(folder, range(3))
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:60])
    (folder / "empty.jpg").write_bytes(b"")
    return folder


def test_an_unreadable_image_leaves_all_conditions(some_bad, tmp_path):
    out = tmp_path / "r"
    options = {**QUICK, "networks": [TINY], "conditions": ["original", "contrast"]}
    done = extract(some_bad, out=out, **options)
    assert [line.split(" ")[0] for line in done.skipped] == ["1.png", "empty.jpg"]
    assert "left out: 1.png (decode)" in done.summary()
    frame = load_moments(out, tap="2")
    assert sorted(zip(frame["image"], frame["condition"], strict=True)) == [
        (i, c) for i in ("0.png", "2.png") for c in ("contrast", "original")
    ]
    assert list(Tables(out).skipped()["stage"]) == ["decode", "decode"]
    assert info(out).images == 2


def test_too_many_unreadable_images(some_bad, tmp_path):
    with pytest.raises(StatsnormError, match="2 images cannot be used, more than max-skipped 1"):
        extract(some_bad, out=tmp_path / "r", networks=[TINY], max_skipped=1, **QUICK)
    extract(some_bad, out=tmp_path / "r", networks=[TINY], max_skipped=2, **QUICK)


def test_no_readable_image_at_all(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.jpg").write_text("text")
    with pytest.raises(StatsnormError, match=r"none of 1 images could be used; a\.jpg"):
        extract(tmp_path / "p", out=tmp_path / "r", networks=[TINY], **QUICK)


def test_own_conditions_are_paired_and_an_incomplete_pair_is_dropped(photos, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    make_photos(mine, [3, 5, 6])
    (mine / "5.png").rename(mine / "0.png")
    out = tmp_path / "r"
    options = {**QUICK, "networks": ["pixels"]}
    done = extract(photos, out=out, conditions=["original", f"mine={mine}"], **options)
    assert len(done.skipped) == 5
    (reason,) = set(pd.read_parquet(out / "skipped")["reason"])
    assert reason == "version 'mine': No such file or directory"
    frame = load_moments(out, tap="rgb").set_index(["image", "condition"])["mean"]
    assert sorted({i for i, _ in frame.index}) == ["0.png", "3.png", "6.png"]
    np.testing.assert_array_equal(frame["3.png", "mine"], frame["3.png", "original"])
    want = decode(photos / "5.png", size=16).pixels.flatten(1).mean(1).numpy()
    np.testing.assert_allclose(frame["0.png", "mine"], want, rtol=1e-6)


@pytest.mark.parametrize("late", [0, 2])
def test_a_nan_stops_the_shard_and_is_named(photos, tmp_path, monkeypatch, late):
    monkeypatch.setattr(measure, "_ahead", lambda _kind: late)
    folder = tmp_path / "p"
    folder.mkdir()
    make_photos(folder, range(4))
    Image.new("RGB", (16, 16)).save(folder / "black.png")
    with pytest.raises(NonFiniteError, match=r"'black.png' \(condition 'original'\).*tap 'act'"):
        extract(folder, out=tmp_path / "r", networks=["tiny_networks:broken"], **QUICK)
    there = info(tmp_path / "r")
    assert [m for m in there.missing if m.startswith("moments")] == ["moments/shard-00001.parquet"]
    assert there.running == ()
    assert not list((tmp_path / "r").rglob("*.tmp"))


@pytest.fixture(scope="module")
def designed(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("designed")
    (folder / "d.toml").write_text(DESIGN)
    extract(
        photos,
        out=folder / "r",
        networks=[TINY, "pixels"],
        design=folder / "d.toml",
        conditions=["original", "contrast"],
        treatments=["none", "frozen:prefix", "frozen:4"],
        reference=photos,
        untrained=2,
        **{**QUICK, "vgg_of_output": "vgg16", "vgg_taps": ["relu1_1", "relu2_1"]},
    )
    return folder / "r"


def test_a_design_is_crossed_with_networks_treatments_and_seeds(designed):
    keys = Tables(designed).keys()
    assert (keys["n_images"] == 8).all()
    tiny = keys[(keys["network"] == "tiny_in") & (keys["tap"] == "1.in")]
    want = 3 * 2 * 2 * 3 * 3  # styles, levels, conditions, treatments, seeds
    assert len(tiny) == want
    assert set(zip(tiny["seed"], tiny["iteration"], strict=True)) == {(-1, -1), (0, 0), (1, 0)}
    seen = keys[keys["source"] == "tiny_in"]
    assert set(seen["tap_kind"]) == {"vgg_of_output"}
    assert set(seen["network"]) == {"vgg16"}
    assert set(seen["norm"]) == {"in"}
    assert len(seen) == 2 * want
    pixels = keys[keys["network"] == "pixels"]
    assert len(pixels) == 2 * 12
    assert set(pixels["treatment"]) == {"none"}
    levels = Tables(designed).levels()
    assert list(zip(levels["level"], levels["value"], strict=True)) == [(0, 0.5), (1, 1.0)]


def test_frozen_rows_are_the_affine_map_of_the_reference(designed, photos):
    """The map's mean over the tested cells is not exactly the rows' own: it is held out."""
    tables = Tables(designed)
    where = {"condition": "original", "seed": -1, "treatment": "frozen:prefix"}
    before = tables.array({**where, "tap": "1.in"})
    after = tables.array({**where, "tap": "1"})
    norm = load_network(TINY).module[1]
    gamma, beta = norm.weight.numpy(), norm.bias.numpy()
    scale = np.sqrt(after.var / before.var)  # the same in every cell
    np.testing.assert_allclose(scale, np.broadcast_to(scale[0, 0, 0], scale.shape), rtol=1e-4)
    sd = gamma / scale[0, 0, 0]
    shift = (after.mean - beta) * sd / gamma - before.mean
    np.testing.assert_allclose(shift, np.broadcast_to(shift[0, 0, 0], shift.shape), atol=2e-5)
    reference = json.loads((designed / "run.json").read_text())["config"]["reference"]
    assert not set(reference["styles"]) & {"filters:sepia", "filters:grain", "filters:halftone"}
    assert reference["shared_contents"] == 8
    assert not np.allclose(-shift[0, 0, 0], before.mean.mean(axis=(0, 1, 2)), rtol=1e-3)


def test_normaliser_rows_are_by_construction_unless_frozen(designed):
    taps = Tables(designed).keys()
    post = taps[(taps["tap"] == "1") & (taps["tap_kind"] == "post_norm")]
    assert post.groupby("treatment")["by_construction"].all().to_dict() == {
        "frozen:4": True,
        "frozen:prefix": False,
        "none": True,
    }
    assert not taps[taps["tap"] == "1.in"]["by_construction"].any()


def test_vgg_of_the_output_sees_the_postprocessed_image(photos, tmp_path):
    options = {**QUICK, "vgg_of_output": "vgg16", "vgg_taps": ["relu2_1"]}
    extract(photos, out=tmp_path / "r", networks=[TINY], **options)
    tiny, vgg = load_network(TINY), load_network("vgg16")
    x = decode(photos / "4.png", size=16).pixels[None]
    fed = vgg.preprocess(torch.sigmoid(tiny.module(x)))
    for layer, module in vgg.module.named_children():
        fed = module(fed)
        if layer == "relu2_1":
            break
    frame = load_moments(tmp_path / "r", tap="relu2_1").set_index("image")
    want = fed[0].flatten(1)
    np.testing.assert_allclose(frame["mean"]["4.png"], want.mean(1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        frame["var"]["4.png"], want.var(1, correction=0), rtol=1e-4, atol=1e-2
    )


def test_untrained_rows_are_those_of_the_random_network(photos, tmp_path):
    extract(photos, out=tmp_path / "r", networks=[TINY], untrained=1, seed=5, **QUICK)
    keys, mean, _ = Tables(tmp_path / "r").moments(tap="4.in", seed=5)
    module = untrained(load_network(TINY), 5).module
    x = torch.stack([decode(photos / name, size=16).pixels for name in keys["image"]])
    np.testing.assert_allclose(mean, module[:4](x).mean((2, 3)), rtol=1e-4, atol=1e-5)


def test_batch_statistics_satisfy_their_identity(photos, tmp_path):
    """method.md 2.6: behind BN gamma^2 V / (V + eps) = mean_n var + Var_n(mean)."""
    out = tmp_path / "r"
    options = {**QUICK, "batch_size": 4, "shard_size": 8, "treatments": ["none", "bn_train"]}
    extract(photos, out=out, networks=["tiny_networks:batch_norm"], **options)
    keys, mean, var = Tables(out).moments(tap="1", treatment="bn_train")
    assert set(keys["bn_mode"]) == {"train"}
    norm = load_network("tiny_networks:batch_norm").module[1]
    _, mean_in, var_in = Tables(out).moments(tap="1.in", treatment="bn_train")
    for batch in (slice(0, 4), slice(4, 8)):
        total = var[batch].mean(0) + mean[batch].astype(float).var(0)
        before = var_in[batch].mean(0) + mean_in[batch].astype(float).var(0)
        want = norm.weight.numpy() ** 2 * before / (before + norm.eps)
        np.testing.assert_allclose(total, want, rtol=1e-4)
        np.testing.assert_allclose(mean[batch].mean(0), norm.bias.numpy(), atol=1e-5)
    again, _, still = Tables(out).moments(tap="1", treatment="none")
    assert set(again["bn_mode"]) == {"eval"}
    assert not np.allclose(still, var)


def test_content_distances_against_the_features_themselves(photos, tmp_path):
    options = {**QUICK, "shard_size": 8}
    for taps in (None, ["relu1_1"]):  # the pass may stop before relu4_2
        out = tmp_path / str(bool(taps))
        extract(
            photos,
            out=out,
            networks=["vgg16"],
            conditions=["contrast", "original"],
            taps=taps,
            **options,
        )
        vgg = load_network("vgg16")
        names = [f"{i}.png" for i in range(8)]
        x = torch.stack([decode(photos / name, size=16).pixels for name in names])
        f, g = (vgg.module(vgg.preprocess(y)) for y in (x, equalise_luminance(x)))
        scale = f.square().sum((1, 2, 3))
        own = (g - f).square().sum((1, 2, 3)) / scale
        other = (g - f.roll(-1, 0)).square().sum((1, 2, 3)) / scale
        found = Tables(out).content()
        made = found[found["condition"] == "contrast"].set_index("image").loc[names]
        np.testing.assert_allclose(made["distance"], own, rtol=1e-3)
        np.testing.assert_allclose(made["random_distance"], other, rtol=1e-3)
        originals = found[found["condition"] == "original"]
        assert (originals["distance"] == 0).all()
        assert (originals["random_distance"] > 0).all()


def test_content_distances_cost_no_second_pass_and_originals_alone_have_none(photos, tmp_path):
    calls = Counter()
    options = {**QUICK, "shard_size": 8, "networks": ["vgg16"], "taps": ["relu3_1"]}
    forward = nn.Conv2d.forward

    def counted(self, x):
        calls[self.in_channels, self.out_channels] += 1
        return forward(self, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Conv2d, "forward", counted)
        extract(photos, out=tmp_path / "two", conditions=["original", "contrast"], **options)
        assert calls[3, 64] == calls[256, 512] > 0  # conv1_1 as often as conv4_1
        calls.clear()
        extract(photos, out=tmp_path / "one", conditions=["original"], **options)
    assert calls[256, 512] == 1 < calls[3, 64]  # the look at the network before the run
    assert not (tmp_path / "one" / "content").exists()


def test_manifest_attributes_travel_with_the_images(photos, tmp_path):
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"image,domain,width\n{photos}/1.png,photo,wide\n{photos}/0.png,paint,\n")
    extract(manifest, out=tmp_path / "r", networks=["pixels"], **QUICK)
    images = Tables(tmp_path / "r").images()
    assert list(images["image"]) == ["0.png", "1.png"]
    assert list(images["domain"]) == ["paint", "photo"]
    assert list(images["manifest_width"]) == ["", "wide"]
    assert list(images["width"]) == [40, 40]
    digest = hashlib.sha256((photos / "0.png").read_bytes()).hexdigest()
    assert images["sha256"][0] == digest


def test_dry_run_writes_nothing_and_counts_right(photos, tmp_path):
    options = {**QUICK, "networks": [TINY, "vgg16"], "conditions": ["original", "contrast"]}
    found = extract(photos, out=tmp_path / "r", dry_run=True, **options)
    assert not (tmp_path / "r").exists()
    done = extract(photos, out=tmp_path / "r", **options)
    assert (found.images, found.rows) == (8, done.rows)
    assert found.seconds > 0
    moments = sum(f.stat().st_size for f in (tmp_path / "r" / "moments").iterdir())
    assert 0.8 < found.bytes / moments < 1.2  # though footers weigh in a run this small
    assert "would be" in found.summary()


def test_batches_of_a_group_are_even(photos, tmp_path, monkeypatch):
    sizes = []
    real = measure.Meter._forward

    def counted(self, variant, x):
        sizes.append(len(x))
        return real(self, variant, x)

    monkeypatch.setattr(measure.Meter, "_forward", counted)
    options = {**QUICK, "shard_size": 6, "batch_size": 5, "networks": [TINY]}
    extract(photos, out=tmp_path / "r", **options)
    assert sizes == [3, 3, 3]  # 6 and 2 images: not 5, 5 and 5 with 7 repeated


def test_shards_are_smaller_where_images_have_many_cells(photos, tmp_path):
    options = {**QUICK, "shard_size": None, "networks": [TINY]}
    extract(photos, out=tmp_path / "plain", **options)
    design = {"styles": {"generator": "filters", "indices": ["sepia", "grain"]}}
    extract(photos, out=tmp_path / "crossed", design=design, **options)
    found = [json.loads((tmp_path / n / "run.json").read_text()) for n in ("plain", "crossed")]
    assert [run["config"]["shard_size"] for run in found] == [128, 32]


def test_progress_counts_every_forward_pass(photos, tmp_path):
    seen = []
    extract(
        photos,
        out=tmp_path / "r",
        networks=[TINY, "pixels"],
        progress=lambda *call: seen.append(call),
        **QUICK,
    )
    assert seen[-1][:2] == (16, 16)
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)


def test_invariance_rows_are_written_once(photos, tmp_path):
    extract(photos, out=tmp_path / "r", networks=[TINY], invariance=True, **QUICK)
    rows = Tables(tmp_path / "r").invariance()
    assert set(rows["network"]) == {"tiny_in"}
    assert {"hold", "fail"} == set(rows["must"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"networks": ["vgg61"]}, "vgg61"),
        ({"conditions": ["orignal"]}, "did you mean 'original'"),
        ({"conditions": ["style=somewhere"]}, "NAME=DIR with a name of your own"),
        ({"conditions": ["mine=/nowhere"]}, "does not exist"),
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
        ({"taps": ["relu9_9"]}, "relu9_9"),
        ({"treatments": ["frozen"], "reference": "embedded"}, "unknown treatment 'frozen'"),
        ({"treatments": ["frozen:prefix"]}, "needs reference images"),
        ({"treatments": ["frozen:nine"], "reference": "embedded"}, "unknown normaliser 'nine'"),
        ({"treatments": ["bn_train"]}, "fits none of the networks tiny_in"),
        ({"indices": ["3"]}, "no network takes an index"),
        ({"networks": [TINY, TINY]}, "two networks are both called 'tiny_in'"),
        ({"engine": "spark"}, "unknown engine"),
        ({"device": "tpu9"}, "device 'tpu9' cannot be used"),
        ({"shard": "3/3"}, "i must be 0 to n-1"),
        ({"shard": "one"}, "shard must be i/n"),
        ({"batch_kind": "content-homogeneous"}, "needs a design"),
        ({"shard_size": 0}, "shard_size must be at least 1"),
        ({"vgg_of_output": "vgg16", "vgg_taps": ["relu9_1"]}, "relu9_1"),
        ({"networks": ["cin26"], "size": 18}, "multiples of 4"),
        ({"conditions": ["style"], "style_index": "99"}, "'99'"),
    ],
)
def test_bad_requests_write_nothing(photos, tmp_path, options, message):
    with pytest.raises(StatsnormError, match=message):
        extract(photos, out=tmp_path / "r", **{"networks": [TINY], **QUICK, **options})
    assert not (tmp_path / "r").exists() or not list((tmp_path / "r").rglob("*.parquet"))


def test_reference_images_must_not_be_the_tested_cells(photos, tmp_path):
    options = {**QUICK, "networks": [TINY], "treatments": ["frozen:prefix"]}
    with pytest.raises(StatsnormError, match="8 of 8 reference images are tested too"):
        extract(photos, out=tmp_path / "r", reference=photos, **options)
    other = tmp_path / "other"
    other.mkdir()
    extract(photos, out=tmp_path / "r", reference=make_photos(other, [20, 21]), **options)


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_run_that_goes_on(photos, tmp_path, signal_number):
    out = tmp_path / "r"
    code = (
        "import sys, time; from statsnorm.extraction import extract\n"
        "from statsnorm.errors import UnfinishedRunError\n"
        "def progress(done, total, word): print(done, flush=True); time.sleep(0.2)\n"
        "try:\n"
        f"    extract({str(photos)!r}, out={str(out)!r}, networks=[{TINY!r}], size=16,"
        " device='cpu', batch_size=2, shard_size=2, progress=progress)\n"
        "except UnfinishedRunError as error: print(error); sys.exit(7)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while process.stdout.readline().strip() != "4":
        assert process.poll() is None
    process.send_signal(signal_number)
    rest = process.communicate()[0]
    assert process.returncode == 7, rest
    assert "give the same command again" in rest
    there = info(out)
    assert not there.finished
    assert there.running == there.damaged == ()
    assert not list(out.rglob("*.tmp"))
    options = {"networks": [TINY], "size": 16, "device": "cpu", "shard_size": 2}
    extract(photos, out=out, batch_size=2, **options)
    extract(photos, out=tmp_path / "whole", batch_size=2, **options)
    assert tree(out) == tree(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
def test_compiled_passes_agree(photos, tmp_path):
    options = {**QUICK, "networks": [TINY], "vgg_of_output": "vgg16", "vgg_taps": ["relu1_1"]}
    options["conditions"] = ["original", "contrast"]
    extract(photos, out=tmp_path / "a", **options)
    done = extract(photos, out=tmp_path / "b", compile=True, **options)
    assert done.missing == 0
    a, b = load_moments(tmp_path / "a"), load_moments(tmp_path / "b")
    for moment in ("mean", "var"):
        for x, y in zip(a[moment], b[moment], strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5 * np.abs(x).max())
    log = json.loads((tmp_path / "b" / "log" / "shard-00000.json").read_text())["execution"]
    assert log["compile"] is True


def test_a_missing_compiler_is_one_line(photos, tmp_path, monkeypatch):
    def refuse(*_args, **_options):
        raise RuntimeError("no C++ compiler found\nlong trace")

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(
        StatsnormError, match=r"compile is not possible here: no C\+\+ compiler found$"
    ):
        extract(photos, out=tmp_path / "r", networks=[TINY], compile=True, **QUICK)
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
def test_killed_at_random_points_the_tables_are_the_same(photos, tmp_path):
    options = {"networks": [TINY], "size": 64, "device": "cpu", "batch_size": 2, "shard_size": 1}
    options["conditions"] = ["original", "contrast"]
    extract(photos, out=tmp_path / "whole", **options)
    code = (
        "import json, sys; from statsnorm.extraction import extract\n"
        f"extract({str(photos)!r}, out={str(tmp_path / 'r')!r}, **json.loads(sys.argv[1]))"
    )
    rng = np.random.default_rng(0)
    command = [sys.executable, "-c", code, json.dumps(options)]
    for _ in range(10):
        process = subprocess.Popen(command, env=ENVIRONMENT)
        time.sleep(float(rng.uniform(2.0, 6.0)))
        process.kill()
        process.wait()
    extract(photos, out=tmp_path / "r", **options)
    assert tree(tmp_path / "r") == tree(tmp_path / "whole")


def test_a_run_records_the_decision_rules_that_held_for_it(photos, tmp_path):
    extract(photos, out=tmp_path / "r", networks=[TINY], **QUICK)
    (run,) = Tables(tmp_path / "r").runs
    (execution,) = run_facts(run)["executions"]
    assert execution["plan_sha256"] == load_plan().sha256
    assert "not changed" in plan_note(load_plan().sha256, [run_facts(run)])
