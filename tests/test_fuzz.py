"""A few hundred bent inputs a run, and properties that hypothesis tries to break; `make fuzz` does
ten thousand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fuzz.__main__ import one
from fuzz.surfaces import SURFACES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from statsnorm.errors import ImageError, StatsnormError
from statsnorm.images.decode import decode
from statsnorm.images.design import design_from
from statsnorm.images.names import original_name, safe_name
from statsnorm.limits import LIMITS, check_limit, check_size

CASES = {"images": 120, "safetensors": 60, "designs": 80, "plans": 20, "lists": 40}
CASES |= {"tables": 6, "directories": 15, "options": 15}
FEW = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("name", SURFACES)
@pytest.mark.filterwarnings("ignore")  # a result from odd numbers may warn; it may not raise
def test_a_few_bent_inputs(name):
    for seed in range(CASES[name]):
        ended = one(name, seed)
        assert ended in ("result", "refused"), f"{name} --case {seed}: {ended}"


@pytest.mark.slow
def test_ten_thousand_bent_inputs():
    command = [sys.executable, "-m", "fuzz", "--cases", "10000"]
    ran = subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-2000:]


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
design_keys = st.sampled_from(["styles", "contrast", "restore", "strength", "limit", "seed", "x"])
table_keys = st.sampled_from(["generator", "indices", "family", "values", "k", "restore", "x"])
odd_designs = st.dictionaries(design_keys, json_like | st.dictionaries(table_keys, json_like))


@FEW
@given(odd_designs)
def test_any_mapping_is_a_design_or_refused(raw):
    try:
        design = design_from(raw)
    except StatsnormError:
        return
    cells = design.cells()
    assert len(cells) == len(set(cells)) > 0


@FEW
@given(st.text() | st.binary().map(lambda b: b.decode("utf-8", "surrogateescape")))
def test_any_name_is_shown_on_one_line_and_told_from_every_other(text):
    name = safe_name(text)
    name.encode()
    assert len(name.splitlines()) <= 1
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in name)
    assert original_name(name) == text


@FEW
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([1, 2, 7, 16, 33]),
    st.integers(0, 2**32 - 1),
)
def test_every_image_of_any_sides_becomes_that_square(tmp_path_factory, height, width, size, seed):
    path = tmp_path_factory.getbasetemp() / "square.png"
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    found = decode(path, size=size).pixels
    assert found.shape == (3, size, size)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1


@FEW
@given(st.binary(max_size=200))
def test_any_bytes_are_an_image_or_one_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.png"
    path.write_bytes(data)
    with pytest.raises(ImageError):
        decode(path, size=16)


@pytest.mark.parametrize("name", LIMITS)
def test_limits_hold_at_both_ends(name):
    least, most = LIMITS[name]
    check_limit(name, least)
    check_limit(name, most)
    for value in (least - 1, most + 1):
        with pytest.raises(StatsnormError, match=f"{name} must be {least} to {most}, got {value}"):
            check_limit(name, value)


def test_a_size_beyond_the_pixel_limit_is_refused_before_anything_is_made():
    check_size(100, 10_000)
    with pytest.raises(StatsnormError, match=r"size 101 .* 10201 pixels, more than .* 10000"):
        check_size(101, 10_000)


def test_a_strip_that_would_be_enormous_before_it_is_cut_is_refused(tmp_path):
    Image.new("L", (1, 99)).save(tmp_path / "strip.png")
    assert decode(tmp_path / "strip.png", size=512).pixels.shape == (3, 512, 512)
    with pytest.raises(ImageError, match=r"198000 x 2000 pixels before it is cut square"):
        decode(tmp_path / "strip.png", size=2000)
