"""The same bytes, whoever made them and wherever; other bytes with another seed."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from commands import TESTS, run, tree
from test_extract import QUICK, TINY, make_photos

import statsnorm
from statsnorm.extraction import extract
from statsnorm.load import load_curves, load_moments
from statsnorm.training import train

EXTRACT = (
    *("--network", f"{TINY},vgg16", "--size", "32", "--device", "cpu", "--vgg-of-output", "none"),
    *("--condition", "original,contrast,style,ck,placebo,clahe,whiten", "--shard-size", "3"),
    *("--treatment", "none,frozen:prefix", "--reference", "embedded", "--untrained", "1"),
)
TRAIN = (
    *("--norm", "in,bn", "--condition", "original,contrast", "--iterations", "3", "--width", "4"),
    *("--size", "32", "--residual-blocks", "1", "--heldout", "2", "--batch-size", "2"),
    *(
        "--device",
        "cpu",
    ),
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"), range(5))


@dataclass(frozen=True)
class Threads:
    """Compute with so many threads."""

    count: int

    def __call__(self) -> None:
        import torch

        torch.set_num_threads(self.count)


def test_thread_counts_do_not_change_a_byte_of_an_extraction(photos, tmp_path):
    trees = []
    for count in (1, 3):
        out = tmp_path / str(count)
        words = ("extract", "--images", photos, "--out", out, *EXTRACT)
        assert run(tmp_path / "said", *words, before=[Threads(count)]).status == 0
        trees.append(tree(out))
    assert trees[0] == trees[1]


def test_thread_counts_do_not_change_a_byte_of_a_deterministic_training(photos, tmp_path):
    """Without --deterministic the gradients of weights are sums over threads."""
    trees = []
    for count in (1, 3):
        out = tmp_path / str(count)
        words = ("train", "--images", photos, "--target", photos / "0.png", "--out", out, *TRAIN)
        words += ("--deterministic",)
        assert run(tmp_path / "said", *words, before=[Threads(count)]).status == 0
        trees.append(tree(out))
    assert trees[0] == trees[1]


def test_locale_zone_hash_seed_and_place_do_not_change_a_byte(photos, tmp_path):
    """Extraction, training and report, each in an interpreter of its own."""
    code = (
        "import sys; from statsnorm.cli import main\n"
        "for words in map(str.split, sys.stdin.read().splitlines()):\n"
        "    main(words, prog_name='statsnorm', standalone_mode=False)\n"
    )
    trees = []
    for name, seed, zone, locale in (("a", "1", "UTC", "C"), ("b", "2", "Asia/Kolkata", "tr_TR")):
        out = tmp_path / name
        out.mkdir()
        lines = [
            ("extract", "--images", photos, "--out", "run", *EXTRACT),
            ("train", "--images", photos, "--target", photos / "0.png", "--out", "t", *TRAIN),
            ("report", "run", "--analysis", "divergence", "--analysis", "invariance"),
        ]
        ran = subprocess.run(
            [sys.executable, "-c", code],
            input="\n".join(" ".join(map(str, words)) for words in lines),
            capture_output=True,
            text=True,
            cwd=out,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(
                    [str(TESTS), str(Path(statsnorm.__file__).parents[1])]
                ),
                **{"PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": locale, "LANG": locale},
            },
            check=False,
        )
        assert ran.returncode == 0, ran.stderr[-2000:]
        trees.append([tree(out / folder) for folder in ("run", "t", "reports/run")])
    assert trees[0] == trees[1]
    assert len(trees[0][2]) > 5


def test_the_order_of_the_file_system_does_not_matter(photos, tmp_path, monkeypatch):
    options = {**QUICK, "networks": [TINY], "conditions": ["original", "placebo"]}
    options |= {"style_generator": "filters"}
    extract(photos, out=tmp_path / "a", **options)
    scandir = os.scandir

    class Shuffled:
        def __init__(self, path="."):
            with scandir(path) as entries:
                self.entries = list(entries)
            np.random.default_rng(len(str(path))).shuffle(self.entries)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            return None

        def __iter__(self):
            return iter(self.entries)

        def close(self):
            return None

    monkeypatch.setattr(os, "scandir", Shuffled)
    extract(photos, out=tmp_path / "b", **options)
    assert load_moments(tmp_path / "b").equals(load_moments(tmp_path / "a"))
    monkeypatch.undo()
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_another_seed_is_another_draw_and_the_same_seed_the_same(photos, tmp_path):
    options = {**QUICK, "networks": ["pixels", TINY], "conditions": ["original", "placebo"]}
    options |= {"style_generator": "filters", "untrained": 1}
    frames = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        extract(photos, out=tmp_path / name, seed=seed, **options)
        frames.append(load_moments(tmp_path / name, tap="rgb").set_index(["condition", "image"]))
    a, b, c = (frame["mean"].map(tuple) for frame in frames)
    assert a.equals(b)
    assert a["original"].equals(c["original"])  # nothing is drawn for it
    assert not a["placebo"].equals(c["placebo"])
    assert set(load_moments(tmp_path / "a")["seed"]) == {-1, 3}
    assert set(load_moments(tmp_path / "c")["seed"]) == {-1, 4}


def test_another_seed_trains_from_other_weights_in_another_order(photos, tmp_path):
    options = {"target": [photos / "0.png"], "norm": ("in",), "condition": ("original",)}
    options |= {"size": 16, "iterations": 2, "width": 4, "residual_blocks": 0, "device": "cpu"}
    found = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run_ = train(photos, out=tmp_path / name, seed=seed, **options)
        found.append(load_curves(run_.path)[["split", "iteration", "style_loss"]])
    assert found[0].equals(found[1])
    assert not np.isclose(found[0]["style_loss"], found[2]["style_loss"]).any()
