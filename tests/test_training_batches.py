"""Composition of minibatches: what is homogeneous, what serves equally often, one set for all."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from statsnorm.errors import StatsnormError
from statsnorm.training.batches import composed_heldout, composed_minibatches
from statsnorm.training.plan import BATCH_KINDS, TrainConfig

N, STYLES, BATCH = 10, 6, 4
PHOTOS = [0, 2, 3, 5, 7, 8, 9]


def minibatches_of(kind, iterations=42, seed=3):
    numbers = composed_minibatches(
        PHOTOS, n=N, styles=STYLES, kind=kind, batch=BATCH, iterations=iterations, seed=seed
    )
    assert numbers.shape == (iterations, BATCH)
    return numbers // N, numbers % N  # styles, photographs


@pytest.mark.parametrize("kind", BATCH_KINDS)
def test_photographs_and_styles_serve_equally_often(kind):
    style, photo = minibatches_of(kind)
    count = 42 * BATCH
    assert Counter(photo.flatten().tolist()) == dict.fromkeys(PHOTOS, count // len(PHOTOS))
    used = Counter(style.flatten().tolist())
    assert set(used) == set(range(STYLES))
    if kind != "content-homogeneous":  # there a style is drawn anew for every batch
        assert set(used.values()) == {count // STYLES}


def test_a_homogeneous_batch_is_of_one_kind_only():
    style, photo = minibatches_of("style-homogeneous")
    assert all(len(set(line)) == 1 for line in style.tolist())
    assert sum(len(set(line)) == BATCH for line in photo.tolist()) > 21
    style, photo = minibatches_of("content-homogeneous")
    assert all(len(set(line)) == 1 for line in photo.tolist())
    assert all(len(set(line)) == BATCH for line in style.tolist())
    style, photo = minibatches_of("mixed")
    assert sum(len(set(line)) > 1 for line in style.tolist()) > 38
    assert sum(len(set(line)) == BATCH for line in photo.tolist()) > 21


@pytest.mark.parametrize("kind", BATCH_KINDS)
def test_the_order_depends_on_the_seed_alone(kind):
    assert torch.equal(minibatches_of(kind)[1], minibatches_of(kind)[1])
    assert not torch.equal(minibatches_of(kind)[1], minibatches_of(kind, seed=4)[1])


def test_heldout_sets_are_one_whatever_the_kind():
    photos = [1, 4, 6, 9] * 6
    sets = {}
    for kind in BATCH_KINDS:
        batches = composed_heldout(
            photos, n=N, styles=4, kind=kind, batch=2, device=torch.device("cpu")
        )
        sets[kind] = sorted(int(i) for b in batches for i in b)
        for batch in batches:
            styles, contents = set((batch // N).tolist()), set((batch % N).tolist())
            if kind == "style-homogeneous":
                assert len(styles) == 1
            elif kind == "content-homogeneous":
                assert len(contents) == 1
                assert len(styles) == 2
            else:
                assert len(styles) == 2
    assert sets["mixed"] == sets["style-homogeneous"] == sets["content-homogeneous"]
    assert len(sets["mixed"]) == 24


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_kind": "odd"}, "unknown batch kind 'odd'"),
        ({"batch_kind": "style-homogeneous"}, "needs renderings of every image"),
        ({"renderings": 8, "conditions": ("original",)}, "placebo or placebo-matched, got"),
        ({"renderings": 2, "batch_kind": "content-homogeneous"}, "as many renderings"),
        ({"lr_grid": (1e-3, 0.0)}, "positive and finite, got 0.0"),
    ],
)
def test_bad_compositions_are_refused(changes, message):
    options = {"targets": ("t.png",), "conditions": ("placebo",), "batch": 4}
    with pytest.raises(StatsnormError, match=message):
        TrainConfig(**{**options, **changes})
