"""Whole training runs: the pilot and its choice, arms of figure 1, stopping in time."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file
from test_vgg import random_state
from torchvision.models.vgg import cfgs, make_layers

from statsnorm.cli import main
from statsnorm.curves.study import pilot_losses
from statsnorm.curves.summary import curve_frames
from statsnorm.demo import demo_targets
from statsnorm.errors import StatsnormError
from statsnorm.images.decode import decode
from statsnorm.networks import load_network
from statsnorm.rundir import info
from statsnorm.training import train
from statsnorm.training.rates import pilot_rates


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    return demo_targets(tmp_path_factory.mktemp("targets"))


@pytest.fixture
def options(targets):
    return {
        "target": targets[:1],
        "norm": ("in", "bn"),
        "condition": ("original",),
        "size": 16,
        "batch_size": 2,
        "iterations": 3,
        "width": 4,
        "residual_blocks": 0,
        "heldout": 4,
        "device": "cpu",
    }


def curves_of(run):
    return pd.read_parquet(run.path / "curves").drop(columns="seconds")


def test_pilot_finds_each_arms_rate_and_the_study_uses_it(tmp_path, options, targets):
    rates = (1e-4, 1e-2, 3.0)
    pilot = train("embedded", **options, out=tmp_path / "pilot", pilot=True, lr=rates)
    assert len(list((pilot.path / "curves").glob("*.parquet"))) == 6
    assert (pilot.path / "curves" / "b00-cin26-2-in-original-lr0.01.parquet").exists()
    found, chosen = pilot_rates(pilot.path)
    frames = curve_frames(
        [
            (run.config, pd.read_parquet(run.path / "curves"))
            for run in (pilot, train("embedded", **options, out=tmp_path / "plain"))
        ]
    )
    losses = pilot_losses(frames)
    best = losses.loc[losses.groupby(["norm", "condition"])["loss"].idxmin()]
    assert {(n, c): lr for n, c, lr in chosen} == {
        (r["norm"], r["condition"]): r["lr"] for r in best.to_dict("records")
    }
    study = train(
        "embedded", **{**options, "target": targets[1:]}, out=tmp_path / "run", lr_from=pilot.path
    )
    curves = curves_of(study)
    for norm, _, lr in chosen:
        assert set(curves.loc[curves["norm"] == norm, "lr"]) == {lr}
    assert study.config["pilot_run"] == found.hash
    with pytest.raises(StatsnormError, match="is no pilot"):
        pilot_rates(study.path)
    with pytest.raises(StatsnormError, match="no learning rate for in on contrast"):
        train(
            "embedded",
            **{**options, "condition": ("original", "contrast")},
            out=tmp_path / "other",
            lr_from=pilot.path,
        )


@pytest.mark.parametrize("statistics", ["gram", "moments"])
def test_vgg19_is_the_loss_network_where_it_is_asked_for(tmp_path, options, targets, statistics):
    state = random_state("E", 10)  # up to relu4_2
    save_file(state, tmp_path / "v.safetensors", {"input": "RGB 0..1, (x-mean)/std"})
    images = sorted(tmp_path.glob("*.png"))
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)):
        images.append(tmp_path / f"{i}.png")
        Image.fromarray(pixels).save(images[-1])
    (tmp_path / "list.txt").write_text("\n".join(map(str, images)))
    run = train(
        tmp_path / "list.txt",
        **options | {"norm": ("in",), "heldout": 1, "batch_size": 1},
        loss="vgg19",
        weights=str(tmp_path / "v.safetensors"),
        statistics=statistics,
        keep_checkpoints=(0,),
        out=tmp_path / "run",
    )
    curves = curves_of(run)
    first = curves[(curves["split"] == "heldout") & (curves["iteration"] == 0)]["style_loss"]
    fresh = load_network(str(next(run.path.glob("checkpoints/*-0000000.safetensors"))))
    layers = make_layers(cfgs["E"], batch_norm=False)[:23]
    layers.load_state_dict({k.removeprefix("features."): v for k, v in state.items()})
    with torch.no_grad():
        target = statistics_of(layers, decode(targets[0], size=16).pixels[None], statistics)
        losses = []
        for path in images:
            made = fresh.postprocess(fresh.forward(decode(path, size=16).pixels[None]))
            found = statistics_of(layers, made, statistics)
            losses.append(
                sum(float(((a - b) ** 2).mean()) for a, b in zip(found, target, strict=True))
            )
    assert min(abs(first.item() / loss - 1) for loss in losses) < 1e-4  # one of them is held out


def statistics_of(layers, x, statistics):
    """Style statistics at relu1_1, 2_1, 3_1, 4_1 of VGG-19 by torchvision's layers."""
    mean, sd = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 1, 3, 1, 1)
    x, found = (x - mean) / sd, []
    for i, layer in enumerate(layers):
        x = layer(x)
        if i in (1, 6, 11, 20):
            flat = x.flatten(2)
            gram = torch.einsum("nci,ndi->ncd", flat, flat) / flat[0].numel()
            moments = torch.stack([flat.mean(2), (flat.var(2, correction=0) + 1e-5).sqrt()], 1)
            found.append(gram if statistics == "gram" else moments)
    return found


def test_weights_that_end_early_are_named_before_training(tmp_path, options):
    save_file(random_state("E", 9), tmp_path / "v.safetensors", {"input": "RGB 0..1, mean/std"})
    weights = str(tmp_path / "v.safetensors")
    with pytest.raises(StatsnormError, match=r"'relu4_2'.*end at 'relu4_1'"):
        train("embedded", **options, loss="vgg19", weights=weights, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_stopping_in_time_and_going_on_gives_the_same_tables(tmp_path, options, monkeypatch):
    from statsnorm.training import sitting as module

    whole = train("embedded", **options, out=tmp_path / "whole")
    first = train("embedded", **options, out=tmp_path / "parts", time_limit=1e-9)
    assert len(info(first.path).missing) == 4

    clock = iter(range(0, 10_000, 10))  # each look at the clock takes ten seconds
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    second = train("embedded", **options, out=tmp_path / "parts", time_limit=85)
    monkeypatch.undo()
    done = [p.name for p in (second.path / "curves").glob("*.parquet")]
    assert done == ["b00-cin26-2-in-original.parquet"]
    third = train("embedded", **options, out=tmp_path / "parts", together=2)
    assert info(third.path).finished
    few = train("embedded", **options, out=tmp_path / "few", keep_generators=("*-in-*",))
    assert [p.name[4:] for p in few.path.glob("generators/*")] == [
        "cin26-2-in-original.safetensors"
    ]
    assert info(few.path).finished
    pd.testing.assert_frame_equal(curves_of(whole), curves_of(third))
    assert not list(third.path.glob("generators/*.part.safetensors"))


@pytest.mark.parametrize("kind", ["mixed", "style-homogeneous", "content-homogeneous"])
def test_homogeneous_batches_are_trained_on(tmp_path, options, kind):
    run = train(
        "embedded",
        **{**options, "condition": ("placebo",), "size": 32},
        out=tmp_path / "run",
        renderings=3,
        batch_kind=kind,
    )
    curves = curves_of(run)
    held = curves[(curves["split"] == "heldout") & (curves["iteration"] == 0)]
    losses = held.groupby("norm")["style_loss"].first()
    assert np.isfinite(losses).all()
    assert losses["in"] != losses["bn"]


def test_renderings_are_the_photographs_in_styles_of_the_generator(tmp_path, options):
    import torch

    from statsnorm.images.sources import find_images
    from statsnorm.images.stylise import load_style_generator
    from statsnorm.networks import load_network
    from statsnorm.training.plan import TrainConfig
    from statsnorm.training.pool import Pools, decode_all, rendered_styles

    config = TrainConfig(
        targets=("t",), conditions=("placebo",), size=32, batch=2, heldout=4, renderings=2
    )
    stylise = load_style_generator("cin26", device="cpu")
    found = decode_all(find_images("embedded")[:3], size=32, pixel_limit=10**7)
    pools = Pools(
        config=config,
        images=found,
        vgg=load_network("vgg16"),
        stylise=stylise,
        device=torch.device("cpu"),
        parameters={},
    )
    x = torch.stack([d.pixels for d in found.decoded])
    styles = rendered_styles(config, stylise)
    assert len(set(styles)) == 2
    for s, index in enumerate(styles):
        torch.testing.assert_close(pools["placebo"].images[3 * s : 3 * s + 3], stylise(x, index))


@pytest.mark.parametrize(
    "arm",
    [
        {"norm": ("in", "in-mean", "in-sd", "actnorm", "cin", "ln", "gn", "none")},
        {"norm_at": "first"},
        {"norm_at": "last"},
        {"norm": ("bn",), "batch_size": 4},
        {"statistics": "moments"},
        {"condition": ("contrast-rgb", "standardise-rgb", "whiten", "clahe"), "norm": ("in",)},
    ],
)
def test_every_arm_of_figure_1_can_be_trained(tmp_path, options, arm):
    run = train("embedded", **{**options, **arm, "iterations": 1}, out=tmp_path / "run")
    curves = curves_of(run)
    assert info(run.path).finished
    assert np.isfinite(curves["style_loss"]).all()


def test_a_finite_but_growing_loss_ends_its_cell_and_the_others_go_on(tmp_path, options):
    from statsnorm.training import cell as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "DIVERGED", 1e-9)
        run = train("embedded", **options, out=tmp_path / "run")
    import pyarrow.parquet as pq

    for path in (run.path / "curves").glob("*.parquet"):
        status = pq.read_metadata(path).metadata[b"statsnorm.status"].decode()
        assert status.startswith("diverged by iteration 1: 1e-09 times")
    assert info(run.path).finished


def test_command_takes_rates_and_stops_in_time(tmp_path, targets):
    given = ["train", "--images", "embedded", "--target", str(targets[0]), "--norm", "in"]
    given += ["--size", "16", "--iterations", "1", "--width", "4", "--residual-blocks", "1"]
    given += ["--heldout", "4", "--device", "cpu", "--out", str(tmp_path / "run"), "--pilot"]
    given += ["--lr", "1e-3,2e-3", "--together", "2", "--deterministic"]
    stopped = CliRunner().invoke(main, [*given, "--time-limit", "1e-9"])
    assert (stopped.exit_code, "not finished: 4 files" in stopped.output) == (1, True)
    done = CliRunner().invoke(main, given)
    assert done.exit_code == 0, done.output
    bad = CliRunner().invoke(main, [*given, "--lr", "fast"])
    assert bad.exit_code == 2
    assert "'fast' is no number" in bad.output
