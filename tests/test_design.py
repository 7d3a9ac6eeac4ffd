"""Design files: keys, order of cells, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from statsnorm.cells import InputCell
from statsnorm.errors import StatsnormError
from statsnorm.images import design as module
from statsnorm.images.design import Design, StyleSpec, design_from, load_design_file
from statsnorm.images.filters import FILTERS
from statsnorm.images.sources import ImageRef

GAIN = {"family": "gain", "values": [0.4, 0.7, 1.0]}


def docstring_example() -> str:
    assert module.__doc__ is not None
    block = module.__doc__.split("::\n", 1)[1].split("\n\nWithout", 1)[0]
    return "\n".join(line.removeprefix("    ") for line in block.splitlines())


def test_the_example_of_the_docstring_loads(tmp_path):
    path = tmp_path / "design.toml"
    path.write_text(docstring_example())
    design = load_design_file(path)
    assert len(design.styles) == 6
    assert len(design.cells()) == 18
    assert (design.limit, design.restore, design.strengths) == (24, "luminance", (1.0,))


def test_cells_are_in_fixed_order():
    design = design_from(
        {
            "strength": [0.4, 1.0],
            "styles": [
                {"generator": "cin26", "indices": [7, 3]},
                {"generator": "filters", "indices": ["sepia"]},
            ],
            "contrast": GAIN,
        }
    )
    cells = design.cells()
    assert cells[0] == InputCell(
        style="cin26:7", strength=0.4, restore="luminance", contrast="gain", level=0
    )
    assert [c.style for c in cells[::6]] == ["cin26:7", "cin26:3", "filters:sepia"]
    assert [c.strength for c in cells[:6]] == [0.4] * 3 + [1.0] * 3
    assert [c.level for c in cells[:6]] == [0, 1, 2] * 2
    assert len(set(cells)) == 18


def test_single_styles_table_may_hold_strength_and_restore():
    design = design_from(
        {"styles": {"generator": "cin26", "indices": [0], "restore": "none", "strength": 0.7}}
    )
    assert (design.restore, design.strengths, design.family) == ("none", (0.7,), "")
    assert [(c.contrast, c.level) for c in design.cells()] == [("", 0)]


def test_without_indices_all_styles_are_used():
    design = design_from({"styles": [{"generator": "cin26"}, {"generator": "filters"}]})
    assert len(design.styles) == 26 + len(FILTERS)


def test_contrast_alone_keeps_the_images_plain():
    cells = design_from({"contrast": {"family": "gamma", "k": 4}, "strength": [0.4, 1]}).cells()
    assert [(c.style, c.strength, c.restore) for c in cells] == [("", 1.0, "none")] * 4


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"styles": {"generator": "cin26", "indices": [1, 2, 3]}, "contrast": GAIN}, ""),
        ({"styles": {"generator": "cin26", "indices": [1, 2]}, "contrast": GAIN}, "2 styles and"),
        ({"styles": {"generator": "cin26", "indices": [1]}}, "1 style and 1 contrast level;"),
        ({"styles": {"generator": "cin26", "indices": [1]}, "contrast": GAIN}, "1 style and 3"),
        ({"contrast": GAIN}, "0 styles and 3 contrast levels; removed_variance"),
    ],
)
def test_what_a_design_lacks_for_a_split_of_variance(raw, words):
    found = design_from(raw).shortfall()
    assert words in found
    assert bool(words) == bool(found)


def test_paths_are_relative_to_the_design_file(tmp_path, monkeypatch):
    targets = tmp_path / "targets"
    targets.mkdir()
    Image.new("RGB", (8, 8)).save(targets / "wave.png")
    path = tmp_path / "d.toml"
    path.write_text('[styles]\ngenerator = "gram:targets"\n')
    monkeypatch.chdir("/")
    design = load_design_file(path)
    assert design.styles == (StyleSpec(f"gram:{targets}", "wave.png"),)
    assert design.cells()[0].style == "gram:wave.png"
    assert str(tmp_path) not in str(design.as_dict())


def test_limit_draws_by_seed_and_not_by_order():
    refs = [ImageRef(f"{i}.jpg", Path(f"{i}.jpg")) for i in range(30)]
    draws = [
        {ref.image for ref in Design(limit=5, seed=seed).choose(order)}
        for seed in (0, 1)
        for order in (refs, refs[::-1])
    ]
    assert draws[0] == draws[1]
    assert draws[2] == draws[3]
    assert draws[0] != draws[2]
    assert len(draws[0]) == 5
    assert Design().choose(refs) == refs
    with pytest.raises(StatsnormError, match="asks for 31 images, there are 30"):
        Design(limit=31).choose(refs)


CIN = {"generator": "cin26", "indices": [0]}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({}, r"needs \[styles\] or \[contrast\]"),
        ({"style": CIN}, "unknown design key 'style'; did you mean .*'styles'"),
        ({"styles": {"generator": "cin26", "index": [1]}}, "did you mean 'indices'"),
        ({"styles": {"generator": "cin27"}}, "did you mean 'cin26'"),
        ({"styles": {"indices": [1]}}, "unknown style generator"),
        ({"styles": {"generator": 26}}, "generator must be of type str"),
        ({"styles": {"generator": "cin26", "indices": [26]}}, "'26'"),
        ({"styles": {"generator": "cin26", "indices": 3}}, "must be a list"),
        ({"styles": {"generator": "cin26", "indices": []}}, "must be a list"),
        ({"styles": {"generator": "cin26", "indices": [1.5]}}, "a number or a name"),
        ({"styles": {"generator": "cin26", "indices": [True]}}, "a number or a name"),
        ({"styles": {"generator": "cin26", "indices": [1, "1"]}}, "'cin26:1' stands twice"),
        ({"styles": {"generator": "filters", "indices": ["sepiaa"]}}, "did you mean 'sepia'"),
        ({"styles": {"generator": "texture_bn"}}, "texture_bn:PATH"),
        ({"styles": {"generator": "gram:/no/such"}}, "does not exist"),
        ({"styles": {"generator": "/no/such.safetensors"}}, "does not exist"),
        ({"styles": {"generator": "cin26:x"}}, "takes no path"),
        ({"styles": "cin26"}, "must be a table"),
        ({"styles": CIN, "restore": "luma"}, "unknown restore 'luma'"),
        ({"styles": CIN | {"restore": "none"}, "restore": "none"}, "stands twice"),
        ({"styles": [CIN | {"strength": 1.0}, CIN]}, "put it on top"),
        ({"styles": CIN, "strength": 0}, "above 0 and at most 1"),
        ({"styles": CIN, "strength": "1"}, "above 0 and at most 1"),
        ({"styles": CIN, "strength": float("nan")}, "above 0 and at most 1"),
        ({"styles": CIN, "strength": []}, "one number or a list"),
        ({"styles": CIN, "strength": [1, 1.0]}, "without repeats"),
        ({"contrast": GAIN | {"k": 3}}, "both `values` and `k`"),
        ({"contrast": {"values": [0.5]}}, "unknown contrast family ''"),
        ({"contrast": {"family": "gain", "values": 0.5}}, "values must be of type list"),
        ({"contrast": {"family": "gain", "k": True}}, "k must be of type int"),
        ({"contrast": {"family": "gain", "values": [0.5, 1.2]}}, "level 1 of 'gain' .1.2."),
        ({"contrast": GAIN | {"allow_out_of_range": 1}}, "of type bool"),
        ({"contrast": GAIN, "limit": -1}, "whole number from 0"),
        ({"contrast": GAIN, "seed": "x"}, "seed must be of type int"),
    ],
)
def test_refused(raw, message):
    with pytest.raises(StatsnormError, match=message):
        design_from(raw)


def test_widening_levels_pass_when_allowed():
    raw = {"family": "gain", "values": [0.5, 1.2], "allow_out_of_range": True}
    assert [level.parameters["gain"] for level in design_from({"contrast": raw}).levels] == [
        0.5,
        1.2,
    ]


@pytest.mark.parametrize(
    "content", [b"[styles", b"\xff\xfe", b"a = " + b"[" * 5000, b"a = 1\na = 2", b'restore = "x"']
)
def test_bad_files(tmp_path, content):
    path = tmp_path / "d.toml"
    path.write_bytes(content)
    with pytest.raises(StatsnormError, match=r"d\.toml"):
        load_design_file(path)
    with pytest.raises(StatsnormError, match="cannot read design"):
        load_design_file(tmp_path / "none.toml")
