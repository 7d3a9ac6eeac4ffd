"""Training: the loss against plain numpy, the controls of figure 1, resuming to the bit."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from numpy.testing import assert_allclose

from statsnorm.errors import StatsnormError
from statsnorm.networks import load_network
from statsnorm.networks.perceptual import STYLE_TAPS, features, gram
from statsnorm.rundir import info, read_run
from statsnorm.trained import trained_cells
from statsnorm.training import train
from statsnorm.training.batches import heldout_batches, minibatches
from statsnorm.training.cell import train_cell
from statsnorm.training.fresh import fresh_generator
from statsnorm.training.loss import content_features, losses, style_targets
from statsnorm.training.plan import (
    TrainConfig,
    TrainingCell,
    split_images,
    training_cells,
)
from statsnorm.training.step import Pool, Problem, Stepper, batch_statistics


@pytest.fixture(scope="module")
def vgg():
    return load_network("vgg16")


def tiny(**changes):
    options = {
        "targets": ("target.png",),
        "size": 16,
        "batch": 2,
        "iterations": 6,
        "width": 4,
        "residual_blocks": 1,
        "heldout": 2,
        "record_every": 2,
    }
    return TrainConfig(**{**options, **changes})


def problem_of(config, vgg, n=6):
    x = torch.rand(n, 3, config.size, config.size, generator=torch.Generator().manual_seed(1))
    target = torch.rand(1, 3, config.size, config.size, generator=torch.Generator().manual_seed(2))
    kept = content_features(vgg, x)
    train_numbers, held = split_images(n, config.heldout)
    pool = Pool(
        images=x,
        content=lambda numbers: kept[numbers],
        order=lambda seed: torch.tensor(train_numbers)[
            minibatches(
                len(train_numbers), batch=config.batch, iterations=config.iterations, seed=seed
            )
        ],
        heldout=heldout_batches(held, config.batch, torch.device("cpu")),
    )
    return Problem(
        config=config,
        pool=pool,
        vgg=vgg,
        targets=style_targets(vgg, target, config.statistics),
    )


def run_cell(config, vgg, norm="in", **options):
    cell = TrainingCell(
        block=0, target="t.png", norm=norm, condition="original", seed=5, lr=config.lr
    )
    return train_cell(
        cell, problem_of(config, vgg), fresh_generator(config, norm, cell.seed), **options
    )


@pytest.mark.parametrize("statistics", ["gram", "moments"])
def test_losses_against_numpy(vgg, statistics):
    rng = np.random.default_rng(3)
    output, target, plain = (
        torch.tensor(rng.random((n, 3, 24, 24)), dtype=torch.float32) for n in (2, 1, 2)
    )
    found = losses(
        vgg,
        output,
        style_targets(vgg, target, statistics),
        content_features(vgg, plain),
        statistics=statistics,
    )

    def style(x):  # (N, C, H, W) -> the statistics, in float64 and with einsum or var
        x = x.double().numpy()
        if statistics == "gram":
            return np.einsum("nchw,ndhw->ncd", x, x) / x[0].size
        return np.stack([x.mean((2, 3)), np.sqrt(x.var((2, 3)) + 1e-5)], axis=1)

    with torch.no_grad():
        a = features(vgg, output, (*STYLE_TAPS, "relu4_2"))
        b = features(vgg, target, STYLE_TAPS)
        c = features(vgg, plain, ("relu4_2",))["relu4_2"]
    expected = sum(np.mean((style(a[t]) - style(b[t])) ** 2) for t in STYLE_TAPS)
    assert_allclose(found.style.item(), expected, rtol=1e-4)
    expected = ((a["relu4_2"] - c).double() ** 2).mean().item()
    assert_allclose(found.content.item(), expected, rtol=1e-5)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gram_and_its_gradient_against_autograd(memory_format):
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64).contiguous(memory_format=memory_format)
    weight = torch.randn(2, 3, 3, dtype=torch.float64)  # not symmetric
    grads = []
    for make in (gram, lambda y: torch.einsum("nchw,ndhw->ncd", y, y) / 60):
        y = x.clone().requires_grad_(True)
        found = make(y)
        (found * weight).sum().backward()
        grads.append((found.detach(), y.grad))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(gram, x.requires_grad_(True))


def test_gradient_of_the_style_loss_vanishes_at_the_target(vgg):
    target = torch.rand(1, 3, 16, 16)
    x = target.clone().requires_grad_(True)
    found = losses(
        vgg,
        x,
        style_targets(vgg, target, "gram"),
        content_features(vgg, target),
        statistics="gram",
    )
    found.total(5.0, 1.0).backward()
    assert found.style.item() == pytest.approx(0, abs=1e-8)
    assert x.grad.abs().max() < 1e-6


def test_cells_of_a_block_share_weights_and_order_and_nothing_else():
    config = tiny(targets=("a.png", "b.png"))
    cells = training_cells(config)
    assert [c.name for c in cells[:3]] == [
        "b00-a-in-original",
        "b00-a-in-contrast",
        "b00-a-in-style",
    ]
    assert len({c.name for c in cells}) == len(cells) == 12
    assert len({c.seed for c in cells[:6]}) == 1
    assert cells[0].seed != cells[6].seed
    a, b = (fresh_generator(config, norm, cells[0].seed).module for norm in ("in", "bn"))
    for (name, p), (_, q) in zip(a.named_parameters(), b.named_parameters(), strict=True):
        assert torch.equal(p, q), name


def test_every_image_serves_equally_often():
    order = minibatches(5, batch=2, iterations=10, seed=4)
    assert order.shape == (10, 2)
    assert torch.bincount(order.flatten()).tolist() == [4] * 5
    assert torch.equal(order, minibatches(5, batch=2, iterations=10, seed=4))
    assert not torch.equal(order, minibatches(5, batch=2, iterations=10, seed=5))


@pytest.mark.parametrize(("n", "heldout"), [(2, 1), (5, 64), (24, 8), (101, 64), (740, 64)])
def test_split_is_disjoint_and_complete(n, heldout):
    train_numbers, held = split_images(n, heldout)
    assert sorted(train_numbers + held) == list(range(n))
    assert len(held) == min(heldout, n // 2)


def test_batch_norm_with_batch_one_is_instance_norm(vgg):
    config = tiny(batch=1, iterations=20, record_every=20, size=32)
    traces = [
        [r["style_loss"] for r in run_cell(config, vgg, norm).rows if r["split"] == "train"]
        for norm in ("in", "bn")
    ]
    assert len(traces[0]) == 20
    assert_allclose(traces[0], traces[1], rtol=1e-3)


def test_batch_norm_with_a_larger_batch_is_not(vgg):
    config = tiny(batch=3, iterations=3)
    a, b = (run_cell(config, vgg, norm).rows[-1]["style_loss"] for norm in ("in", "bn"))
    assert abs(a / b - 1) > 1e-3


def test_identical_cells_give_identical_curves(vgg):
    rows = [run_cell(tiny(), vgg, "bn").rows for _ in range(2)]
    for a, b in zip(*rows, strict=True):
        assert a["style_loss"] == b["style_loss"]
        assert a["content_loss"] == b["content_loss"]


@pytest.mark.parametrize("norm", ["in", "bn"])
def test_an_interrupted_cell_goes_on_to_the_same_bits(vgg, tmp_path, norm, monkeypatch):
    whole = run_cell(tiny(), vgg, norm)
    part = tmp_path / "cell.part.safetensors"
    real, calls = Stepper.update, []

    def stop_at_the_fifth(self):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        real(self)

    monkeypatch.setattr(Stepper, "update", stop_at_the_fifth)
    with pytest.raises(KeyboardInterrupt):
        run_cell(tiny(), vgg, norm, part=part, checkpoint_every=3)
    monkeypatch.setattr(Stepper, "update", real)
    resumed = run_cell(tiny(), vgg, norm, part=part, checkpoint_every=3)
    for key, value in whole.module.state_dict().items():
        assert torch.equal(value, resumed.module.state_dict()[key]), key
    for a, b in zip(whole.rows, resumed.rows, strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {
            k: v for k, v in b.items() if k != "seconds"
        } or math.isnan(a["style_loss"])


def test_a_diverging_cell_ends_with_the_reason(vgg):
    result = run_cell(tiny(lr=1e30), vgg, "none")
    assert result.status.startswith("diverged by iteration")
    assert result.iteration < 6


def test_evaluation_leaves_running_statistics_alone(vgg):
    config = tiny()
    generator = fresh_generator(config, "bn", 1)
    before = {k: v.clone() for k, v in generator.module.state_dict().items()}
    with torch.no_grad(), batch_statistics(generator.module, batch=True):
        generator.forward(torch.rand(2, 3, 16, 16))
    for key, value in generator.module.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_train_writes_curves_and_generators_and_skips_what_is_done(tmp_path, monkeypatch):
    from statsnorm.demo import demo_targets
    from statsnorm.training import sitting as module

    options = {
        "target": demo_targets(tmp_path / "targets")[:1],
        "out": tmp_path / "run",
        "condition": ("original", "contrast"),
        "size": 16,
        "iterations": 4,
        "width": 4,
        "residual_blocks": 1,
        "heldout": 4,
        "device": "cpu",
    }
    run = train("embedded", **options)
    assert info(run.path).finished
    cells = trained_cells(read_run(run.path))
    assert cells.design == "1 target x 2 norms (in, bn) x 2 conditions (original, contrast)"
    assert (len(cells.done), cells.ended, cells.begun, cells.to_do) == (4, (), (), ())
    assert (cells.iterations, cells.reached, cells.generators) == (4, 4, 4)
    curves = pd.read_parquet(run.path / "curves")
    assert set(curves["norm"]) == {"in", "bn"}
    assert set(curves["condition"]) == {"original", "contrast"}
    assert (curves[curves.split == "heldout"].groupby("cell")["iteration"].max() == 4).all()
    generator = load_network(str(run.path / "generators" / "b00-cin26-2-bn-original.safetensors"))
    assert (generator.norm, generator.iteration) == ("bn", 4)
    footer = pq.read_metadata(run.path / "curves" / "b00-cin26-2-bn-original.parquet").metadata
    assert footer[b"statsnorm.status"] == b"done"

    monkeypatch.setattr(module, "side_by_side", lambda *_a, **_k: pytest.fail("trained again"))
    train("embedded", **options)
    with pytest.raises(StatsnormError, match="another configuration"):
        train("embedded", **{**options, "lr": 0.01})


def test_every_condition_of_the_confirmatory_run_can_be_trained_on(tmp_path):
    from statsnorm.demo import demo_targets

    conditions = ("original", "contrast", "style", "ck", "placebo-matched", "blur")
    run = train(
        "embedded",
        target=demo_targets(tmp_path / "targets")[:1],
        out=tmp_path / "run",
        norm=("in",),
        condition=conditions,
        size=32,
        iterations=1,
        width=4,
        residual_blocks=0,
        heldout=4,
        device="cpu",
    )
    curves = pd.read_parquet(run.path / "curves")
    assert set(curves["condition"]) == set(conditions)
    tuned = run.config["condition_parameters"]
    assert 0.5 <= tuned["placebo_strength"] <= 1
    assert tuned["blur_sigma"] >= 0
    losses = curves[(curves["split"] == "heldout") & (curves["iteration"] == 0)]
    assert losses["content_loss"].nunique() == len(conditions) - (tuned["blur_sigma"] == 0)


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_tf32_is_used_only_where_it_was_asked_for(tmp_path, monkeypatch, precision):
    from statsnorm.demo import demo_targets
    from statsnorm.training import run as module

    seen = []
    switch = torch.backends.cudnn
    monkeypatch.setattr(module, "train_all", lambda *_: seen.append(switch.allow_tf32))
    before = switch.allow_tf32
    train(
        "embedded",
        target=demo_targets(tmp_path / "targets")[:1],
        out=tmp_path / "run",
        norm=("in",),
        condition=("original",),
        size=16,
        iterations=1,
        width=4,
        residual_blocks=0,
        precision=precision,
        device="cpu",
    )
    assert seen == [precision == "tf32"]
    assert switch.allow_tf32 == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ()}, "at least one --target"),
        ({"size": 30}, "multiple of 4, got 30"),
        ({"lr": 0.0}, "lr must be positive and finite, got 0.0"),
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
    ],
)
def test_bad_configurations_say_what_and_which(changes, message):
    with pytest.raises(StatsnormError, match=message):
        tiny(**changes)
