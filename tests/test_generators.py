"""Trained generators: checkpoints kept while training, and all of a run read by extract."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors import safe_open

from statsnorm.cli import main
from statsnorm.errors import StatsnormError
from statsnorm.extraction import extract
from statsnorm.generators import kept_iterations, trained_generators
from statsnorm.load import Tables
from statsnorm.networks import load_network
from statsnorm.rundir import info
from statsnorm.training import train

KEEP = (0, 2, 4)
SMALL = {
    "norm": ("in", "bn"),
    "condition": ("original",),
    "size": 16,
    "batch_size": 2,
    "iterations": 6,
    "width": 4,
    "residual_blocks": 1,
    "heldout": 2,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generators") / "photos"
    folder.mkdir()
    for seed in range(4):
        coarse = np.random.default_rng(seed).integers(30, 226, (5, 6, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((24, 20), Image.Resampling.BICUBIC)
        picture.save(folder / f"{seed}.png")
    return folder


def run_training(photos, out, **changes):
    targets = [photos / "0.png", photos / "1.png"]
    return train(photos, target=targets, out=out, **{**SMALL, **changes})


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "run"
    return run_training(photos, out, keep_checkpoints=KEEP).path


def test_checkpoints_are_the_generator_at_that_iteration(photos, trained, tmp_path):
    # The same cells with a budget of 4: what a kept checkpoint must be, by another way.
    shorter = run_training(photos, tmp_path / "run", iterations=4).path
    for norm in ("in", "bn"):
        cell = f"b01-1-{norm}-original"
        kept = load_network(str(trained / "checkpoints" / f"{cell}-0000004.safetensors"))
        last = load_network(str(shorter / "generators" / f"{cell}.safetensors"))
        assert (kept.cell, kept.norm, kept.iteration) == (cell, norm, 4)
        for key, value in last.module.state_dict().items():
            assert torch.equal(value, kept.module.state_dict()[key]), key


def test_iteration_0_of_a_block_is_one_untrained_network(trained):
    a, b = (
        load_network(str(trained / "checkpoints" / f"b00-0-{norm}-original-0000000.safetensors"))
        for norm in ("in", "bn")
    )
    assert (a.iteration, a.seed) == (0, b.seed)
    for (name, p), (_, q) in zip(
        a.module.named_parameters(), b.module.named_parameters(), strict=True
    ):
        assert torch.equal(p, q), name


def bytes_of(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*.safetensors"))}


@pytest.mark.parametrize("killed_at", [3, 5])
def test_a_killed_cell_goes_on_to_the_same_checkpoints(photos, trained, tmp_path, killed_at):
    from statsnorm.training.step import Stepper

    with pytest.MonkeyPatch.context() as patch:
        real, calls = Stepper.update, []

        def stop(self):
            calls.append(1)
            if len(calls) == killed_at:
                raise KeyboardInterrupt
            real(self)

        patch.setattr(Stepper, "update", stop)
        options = {"keep_checkpoints": KEEP, "checkpoint_every": 3}
        with pytest.raises(KeyboardInterrupt):
            run_training(photos, tmp_path / "run", **options)
    assert not (tmp_path / "run" / "done.json").exists()
    again = run_training(photos, tmp_path / "run", **options).path
    for name in ("checkpoints", "generators"):
        assert bytes_of(again / name) == bytes_of(trained / name)
    assert len(bytes_of(again / "checkpoints")) == 4 * len(KEEP)


def test_a_lost_checkpoint_is_made_anew_and_restart_clears_all(photos, trained, tmp_path):
    out = tmp_path / "run"
    options = {"keep_checkpoints": KEEP, "norm": ("in",)}
    run_training(photos, out, **options)
    lost = out / "checkpoints" / "b00-0-in-original-0000002.safetensors"
    content = lost.read_bytes()
    lost.unlink()
    with pytest.raises(StatsnormError, match=r"0000002\.safetensors is missing; give the train"):
        trained_generators(out)
    run_training(photos, out, **options)
    assert lost.read_bytes() == content
    with pytest.raises(StatsnormError, match="another configuration"):
        run_training(photos, out, norm=("in",))
    run_training(photos, out, norm=("in",), restart=True)
    assert not list(out.glob("checkpoints/*.safetensors"))
    assert info(out).finished


def test_all_of_a_run_in_the_order_of_its_cells(trained):
    found = trained_generators(trained)
    names = [file.name for file in found.files]
    assert len(names) == 16
    assert names[:4] == [
        *(f"b00-0-in-original-000000{k}.safetensors" for k in KEEP),
        "b00-0-in-original.safetensors",
    ]
    assert found.left_out == ()
    some = trained_generators(trained, cells=("b01-*", "*-bn-original")).files
    assert {file.name[:8] for file in some} == {"b00-0-bn", "b01-1-in", "b01-1-bn"}


def test_what_is_no_run_of_train_is_refused(photos, trained, tmp_path):
    with pytest.raises(StatsnormError, match="unknown cell '\\*-gn-\\*'"):
        trained_generators(trained, cells=("*-gn-*",))
    with pytest.raises(StatsnormError, match="is no run directory"):
        trained_generators(photos)
    extract(photos, out=tmp_path / "run", networks=("pixels",), size=16)
    with pytest.raises(StatsnormError, match="kind 'extract'; --generators needs one of train"):
        trained_generators(tmp_path / "run")


def test_a_cell_that_diverged_is_left_out_and_said(photos, tmp_path):
    out = tmp_path / "run"
    run_training(photos, out, norm=("none",), lr=1e30, keep_checkpoints=(0, 5))
    assert info(out).finished
    run_training(photos, out, norm=("none",), lr=1e30, keep_checkpoints=(0, 5))  # not trained anew
    with pytest.raises(StatsnormError, match="b00-0-none-original: diverged by iteration"):
        trained_generators(out)


def test_extract_fills_in_cell_norm_seed_and_iteration(photos, trained, tmp_path):
    arguments = [
        *("extract", "--images", photos, "--generators", trained, "--cells", "b00-*"),
        *("--size", 16, "--taps", "next_pre_norm", "--vgg-of-output", "none"),
        *("--device", "cpu", "--out", tmp_path / "run"),
    ]
    ran = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    tables = Tables(tmp_path / "run")
    keys = tables.keys()
    assert set(keys["network"]) == {"texture"}  # and no VGG, which was not asked for
    cells = keys[["cell", "norm", "iteration"]].drop_duplicates()
    expected = {(f"b00-0-{n}-original", n, t) for n in ("in", "bn") for t in (*KEEP, 6)}
    assert set(cells.itertuples(index=False, name=None)) == expected
    assert keys["seed"].nunique() == 1
    networks = tables.provenance()["runs"][0]["config"]["networks"]
    facts = [t for entry in networks.values() for t in entry["training"]]
    assert {(t["block"], t["target"], t["condition"]) for t in facts} == {
        ("b00", "0.png", "original")
    }
    # The rows are those of the file itself.
    x = tables.moments(cell="b00-0-in-original", iteration=2, tap="conv2.norm.in").mean
    extract(
        photos,
        out=tmp_path / "one",
        networks=(str(trained / "checkpoints" / "b00-0-in-original-0000002.safetensors"),),
        taps=("next_pre_norm",),
        vgg_of_output=None,
        size=16,
        device="cpu",
    )
    alone = Tables(tmp_path / "one").moments(tap="conv2.norm.in")
    np.testing.assert_allclose(x, alone.mean, rtol=1e-5, atol=1e-6)
    assert set(alone.keys["iteration"]) == {2}


def test_random_weights_are_drawn_once_however_many_cells(photos, trained, tmp_path):
    extract(
        photos,
        out=tmp_path / "run",
        generators=(trained,),
        cells=("*-in-original",),
        untrained=2,
        taps=("conv2.norm.in",),
        vgg_of_output=None,
        size=16,
        device="cpu",
    )
    keys = Tables(tmp_path / "run").keys()
    drawn = keys[keys["cell"] == ""]
    assert sorted(drawn["seed"]) == [0, 1]
    assert (drawn["n_images"] == 4).all()


def test_kept_iterations_lie_within_the_budget():
    assert kept_iterations([6, 2, 2, 0], 6) == (0, 2)
    with pytest.raises(StatsnormError, match="0 to 6 \\(the iterations\\), got 7"):
        kept_iterations([7], 6)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--keep-checkpoints", "0,1.5"), "'1.5' is no whole number"),
        (("--keep-checkpoints", "-1"), "'-1' is no whole number"),
        (("--keep-checkpoints", "9", "--iterations", "8"), "0 to 8 (the iterations), got 9"),
    ],
)
def test_bad_checkpoints_are_one_line(photos, tmp_path, arguments, word):
    given = ("--images", photos, "--target", photos / "0.png", "--out", tmp_path / "run")
    ran = CliRunner().invoke(main, [str(a) for a in ("train", *given, *arguments)])
    assert ran.exit_code == 2
    assert len(ran.stderr.splitlines()) == 1
    assert word in ran.stderr
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_says_what_it_is(trained):
    file = trained / "checkpoints" / "b01-1-bn-original-0000002.safetensors"
    with safe_open(file, framework="pt") as found:
        metadata = found.metadata()
    assert metadata["block"] == "b01"
    assert (metadata["condition"], metadata["iteration"]) == ("original", "2")
    curves = pq.read_metadata(trained / "curves" / "b01-1-bn-original.parquet")
    assert curves.metadata[b"statsnorm.status"] == b"done"
