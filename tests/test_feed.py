from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from statsnorm.cells import InputCell
from statsnorm.extraction.feed import (
    BatchedStyles,
    Feed,
    Group,
    composed_batches,
    padded,
    padded_batches,
)
from statsnorm.extraction.plan import ExtractConfig, plan_inputs
from statsnorm.images.colour import match_luminance, restore_luminance
from statsnorm.images.conditions import apply_condition, placebo_index
from statsnorm.images.contrast import apply_level
from statsnorm.images.design import design_from
from statsnorm.images.stylise import load_style_generator

DESIGN = {
    "strength": [0.5, 1.0],
    "restore": "luminance",
    "styles": {"generator": "filters", "indices": ["sepia", "grain"]},
    "contrast": {"family": "gain", "values": [0.5, 1.0]},
}


class Counting:
    """A generator that counts the images it renders, and in what batches."""

    name, indices, sha256 = "filters", ("sepia", "grain"), "x"

    def __init__(self):
        self.batches = []

    def to(self, device):
        return self

    def __call__(self, x, index):
        self.batches.append(len(x))
        return 0.5 * x if index == "sepia" else 1 - x


def _feed(conditions=("original",), design=None, **options):
    design = design and design_from(design)
    config = ExtractConfig(
        images="embedded", conditions=conditions, design=design, size=16, batch_size=4, **options
    )
    return Feed(config=config, inputs=plan_inputs(config, device="cpu"))


def _group(n=6):
    pixels = torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(n))
    return Group(images=tuple(f"{i}.jpg" for i in range(n)), pixels=pixels)


def test_cells_of_a_design_against_the_steps_by_hand():
    feed, group = _feed(("original", "contrast"), DESIGN), _group()
    cells = dict(feed.cells(group))
    assert sorted(cells) == list(range(2 * 2 * 2 * 2))
    filters = load_style_generator("filters")
    x = group.pixels
    for place, cell in enumerate(feed.inputs.cells):
        index = cell.style.partition(":")[2]
        want = restore_luminance(x + cell.strength * (filters(x, index) - x), x)
        level = next(lv for lv in feed.inputs.design.levels if lv.level == cell.level)
        want = apply_level(want, level)
        want = apply_condition(
            cell.condition, want, content=x, stylise=None, index="", images=group.images, seed=0
        )
        assert_close(cells[place], want, rtol=0, atol=1e-6)


def test_each_content_and_style_is_rendered_once():
    feed, group = _feed(("original", "contrast", "whiten"), DESIGN), _group(6)
    counting = Counting()
    feed.inputs.generators["filters"] = counting
    made = dict(feed.cells(group))
    assert len(made) == 24
    assert counting.batches == [4, 4, 4, 4]  # 6 images as 4 + 2 padded to 4, two styles


def test_every_condition_starts_from_the_same_tensor():
    feed, group = _feed(("style", "original", "ck")), _group()
    before = group.pixels.clone()
    cells = {feed.inputs.cells[p].condition: x for p, x in feed.cells(group)}
    assert list(cells) == ["original", "style", "ck"]
    assert cells["original"] is group.pixels
    assert torch.equal(group.pixels, before)
    styled = load_style_generator("cin26")(group.pixels, "0")
    assert_close(cells["style"], styled, rtol=0, atol=1e-5)
    assert_close(cells["ck"], restore_luminance(styled, group.pixels), rtol=0, atol=1e-5)


def test_conditions_on_a_design_look_at_the_plain_content():
    feed, group = _feed(("match-luminance",), {**DESIGN, "strength": 1.0}), _group()
    filters, x = load_style_generator("filters"), group.pixels
    for place, made in feed.cells(group):
        cell = feed.inputs.cells[place]
        styled = restore_luminance(filters(x, cell.style.partition(":")[2]), x)
        level = feed.inputs.design.levels[cell.level]
        want = match_luminance(apply_level(styled, level), x)
        assert_close(made, want, rtol=0, atol=1e-5)


def test_placebo_draws_by_name_and_is_rendered_without_padding():
    feed, group = _feed(("placebo",), style_generator="filters"), _group()
    counting = Counting()
    feed.inputs.generators["filters"] = counting
    ((_, made),) = feed.cells(group)
    assert sorted(counting.batches) == [1] * 6
    for image, x, got in zip(group.images, group.pixels, made, strict=True):
        drawn = placebo_index(image, counting.indices, seed=0)
        assert_close(got, 0.5 * x if drawn == "sepia" else 1 - x)


def test_batched_styles_blend_and_restore():
    x = _group().pixels
    filters = load_style_generator("filters")
    made = BatchedStyles(filters, 4, 0.5, "luminance")(x, "sepia")
    want = restore_luminance(x + 0.5 * (filters(x, "sepia") - x), x)
    assert_close(made, want, rtol=0, atol=1e-6)


def test_reference_cells_take_held_out_styles_and_all_levels_by_turns():
    design = {**DESIGN, "styles": {"generator": "filters", "indices": ["sepia", "grain"]}}
    feed = _feed(design=design, treatments=("frozen:all",), reference="embedded")
    group, held = _group(6), feed.inputs.reference_styles
    assert not {s.index for s in held} & {"sepia", "grain"}
    assert {s.generator for s in held} == {"filters"}
    made = feed.reference(group, offset=3)
    filters = load_style_generator("filters")
    for k in range(6):
        turn, x = 3 + k, group.pixels[k : k + 1]
        style, strength = held[turn % len(held)], (0.5, 1.0)[turn % 2]
        want = restore_luminance(x + strength * (filters(x, style.index) - x), x)
        want = apply_level(want, feed.inputs.design.levels[(turn + turn // len(held)) % 2])
        assert_close(made[k : k + 1], want, rtol=0, atol=1e-6)


def test_every_reference_style_meets_every_level(monkeypatch):
    design = {**DESIGN, "styles": {"generator": "filters", "indices": ["sepia", "grain"]}}
    feed = _feed(design=design, treatments=("frozen:all",), reference="embedded")
    held, levels = feed.inputs.reference_styles[:4], feed.inputs.design.levels
    assert (len(held), len(levels)) == (
        4,
        2,
    )  # an even number of styles: turn % 2 would couple them
    feed = replace(feed, inputs=replace(feed.inputs, reference_styles=held))
    seen = []

    def record(_self, x, one):
        seen.append((one.styles[0].index, one.levels[0].level))
        yield x

    monkeypatch.setattr(type(feed), "_bases", record)
    feed.reference(_group(8), offset=0)
    assert len(set(seen)) == 8


def test_reference_without_a_design_is_plain():
    feed, group = _feed(), _group()
    assert feed.reference(group, 0) is group.pixels


@pytest.mark.parametrize("size", [1, 3, 4, 7, 100])
def test_padded_batches_hold_every_row_once_at_one_size(size):
    xs = [
        torch.full((5, 3, 2, 2), float(p)) + torch.arange(5).view(5, 1, 1, 1) / 10 for p in range(4)
    ]
    batches = list(padded_batches(enumerate(xs), size))
    assert {len(b.pixels) for b in batches} == {size}
    pairs = [(c, i) for b in batches for c, i in zip(b.cell, b.image, strict=True)]
    assert sorted(pairs) == [(c, i) for c in range(4) for i in range(5)]
    for b in batches:
        for row, (c, i) in enumerate(zip(b.cell, b.image, strict=True)):
            assert_close(b.pixels[row], xs[c][i])


def test_padding_repeats_the_last_image():
    x = torch.arange(2.0).view(2, 1, 1, 1)
    assert padded(x, 4).flatten().tolist() == [0, 1, 1, 1]
    assert padded(x, 2) is x


@pytest.mark.parametrize("kind", ["mixed", "style-homogeneous", "content-homogeneous"])
def test_composed_batches(kind):
    feed = _feed(("original", "contrast"), DESIGN)
    n, size = 6, 4
    cells = [(p, torch.full((n, 3, 2, 2), float(p))) for p in range(len(feed.inputs.cells))]
    batches = list(composed_batches(cells, feed.inputs, kind, size))
    pairs = [(c, i) for b in batches for c, i in zip(b.cell, b.image, strict=True)]
    assert sorted(pairs) == [(c, i) for c in range(16) for i in range(n)]
    for b in batches:
        these = [feed.inputs.cells[c] for c in b.cell]
        assert len(b.pixels) == len(b.cell)  # never padded
        assert 2 <= len(b.cell) <= size
        assert len({(c.condition, c.strength) for c in these}) == 1
        styles = {c.style for c in these}
        if kind == "style-homogeneous":
            assert len(styles) == len({c.level for c in these}) == 1
            assert len(set(b.image.tolist())) == len(b.image)
        elif kind == "content-homogeneous":
            assert len(set(b.image.tolist())) == 1
        else:
            assert len(styles) == 2
            assert len(set(b.image.tolist())) == len(b.image)
        np.testing.assert_array_equal(b.pixels[:, 0, 0, 0].numpy(), b.cell.astype(np.float32))


def test_cells_are_listed_in_the_order_they_are_made():
    feed = _feed(("contrast", "original"), DESIGN)
    assert feed.inputs.cells[0] == InputCell(
        condition="original",
        style="filters:sepia",
        strength=0.5,
        restore="luminance",
        contrast="gain",
        level=0,
    )
    assert [c.condition for c in feed.inputs.cells[:3]] == ["original", "contrast", "original"]
    assert [c.level for c in feed.inputs.cells[:4]] == [0, 0, 1, 1]
