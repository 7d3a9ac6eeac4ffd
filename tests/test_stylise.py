"""Style generators: cin26, networks in folders, filters, Gram optimisation."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from statsnorm.errors import StatsnormError
from statsnorm.images.colour import luminance, restore_luminance
from statsnorm.images.decode import decode
from statsnorm.images.filters import FILTERS, apply_filter
from statsnorm.images.gram import load_gram_styles
from statsnorm.images.sources import EMBEDDED, ImageRef, find_images
from statsnorm.images.styles import check_strength, generator_name, style_indices
from statsnorm.images.stylise import FilterStyles, NetworkStyles, load_style_generator, style_image
from statsnorm.networks import load_network
from statsnorm.networks.perceptual import CONTENT_TAP, STYLE_TAPS, features, gram

SHARED = Path(
    os.environ.get("STATSNORM_SHARED", Path(__file__).resolve().parents[2] / "shared" / "data")
)


@pytest.fixture(scope="module")
def photos() -> Tensor:
    return torch.stack([decode(ref, size=64).pixels for ref in find_images("embedded")[:6]])


@pytest.fixture(scope="module")
def cin26() -> NetworkStyles:
    generator = load_style_generator("cin26")
    assert isinstance(generator, NetworkStyles)
    return generator


def test_cin26_renders_what_its_network_renders(photos, cin26):
    assert cin26.indices == tuple(str(i) for i in range(26)) == style_indices("cin26")
    network = load_network("cin26")
    with torch.inference_mode():
        expected = network.postprocess(network.forward(photos[:2], "7"))
        torch.testing.assert_close(cin26(photos[:2], "7"), expected)
        assert (cin26(photos[:2], "8") - expected).abs().mean() > 0.01


@pytest.mark.parametrize("shape", [(64, 64), (61, 50), (16, 19)])
def test_sides_need_not_be_multiples(cin26, shape):
    x = torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(0))
    assert cin26(x, "0").shape == x.shape
    with pytest.raises(StatsnormError, match="16 x 16 pixels or more, got 19 x 15"):
        cin26(x[..., :15, :1].expand(1, 3, 15, 19), "0")


def test_style_does_not_depend_on_the_batch(photos, cin26):
    with torch.inference_mode():
        batch = cin26(photos, "3")
        torch.testing.assert_close(batch[2:3], cin26(photos[2:3], "3"), rtol=0, atol=1e-5)


def test_strength_blends_and_restore_comes_last(photos):
    generator = FilterStyles()
    styled = generator(photos, "cyanotype")
    options = {"generator": generator, "index": "cyanotype"}
    blend = style_image(photos, **options, strength=0.25, restore="none")
    torch.testing.assert_close(blend, 0.75 * photos + 0.25 * styled)
    restored = style_image(photos, **options, strength=0.25, restore="luminance")
    torch.testing.assert_close(restored, restore_luminance(blend, photos))
    torch.testing.assert_close(style_image(photos, **options, strength=1, restore="none"), styled)


def test_style_image_refuses(photos):
    for options, message in (
        ({"index": "sepiaa", "strength": 1.0, "restore": "none"}, "did you mean 'sepia'"),
        ({"index": "sepia", "strength": 0.0, "restore": "none"}, "above 0 and at most 1"),
        ({"index": "sepia", "strength": 1.01, "restore": "none"}, "above 0 and at most 1"),
        ({"index": "sepia", "strength": 1.0, "restore": "rgb"}, "unknown restore 'rgb'"),
    ):
        with pytest.raises(StatsnormError, match=message):
            style_image(photos, FilterStyles(), **options)


def test_names_and_strengths():
    assert generator_name("gram:/a/b:c") == "gram"
    assert generator_name("a/b/my net.safetensors") == "my net"
    assert check_strength(1) == 1.0
    for bad in (True, None, "x", float("inf")):
        with pytest.raises(StatsnormError):
            check_strength(bad)
    for spec in ("cin", "", "vgg16", "texture_bn:", "johnson:/no/such", "gram:", "x.safetensors"):
        with pytest.raises(StatsnormError):
            load_style_generator(spec)


@pytest.mark.parametrize("name", FILTERS)
def test_filters(photos, name):
    y = apply_filter(photos * 1.5 - 0.2, name)
    assert y.shape == photos.shape
    assert y.dtype == photos.dtype
    assert y.min() >= 0
    assert y.max() <= 1
    assert (y - photos).abs().mean() > 0.02  # a style, not a touch
    assert torch.equal(y, apply_filter(photos * 1.5 - 0.2, name))
    assert apply_filter(photos[..., :1, :1], name).shape == (6, 3, 1, 1)


def test_filters_differ_from_each_other(photos):
    assert len(FILTERS) >= 8
    rendered = {name: apply_filter(photos, name) for name in FILTERS}
    for a in rendered:
        for b in rendered:
            assert a == b or (rendered[a] - rendered[b]).abs().mean() > 0.02, (a, b)


def test_grain_is_drawn_from_the_image_and_not_from_the_batch(photos):
    batch = apply_filter(photos, "grain")
    assert torch.equal(batch[3:4], apply_filter(photos[3:4], "grain"))
    flat = torch.full((2, 3, 16, 16), 0.5)
    flat[1, :, 0, 0] = 0.4  # one other pixel, quite another grain
    grained = apply_filter(flat, "grain")
    assert (grained[0] - grained[1])[:, 4:].abs().mean() > 0.02
    state = torch.random.get_rng_state()
    apply_filter(photos, "grain")
    assert torch.equal(state, torch.random.get_rng_state())  # the global stream is left alone


def test_filters_against_hand_made_values():
    grey = torch.full((1, 3, 4, 4), 0.5)
    sepia = apply_filter(grey, "sepia")[0, :, 0, 0]
    torch.testing.assert_close(sepia, torch.tensor([1.351, 1.203, 0.937]) / 2)
    torch.testing.assert_close(
        apply_filter(grey, "cyanotype")[0, :, 0, 0], torch.tensor([0.475, 0.535, 0.65])
    )
    torch.testing.assert_close(apply_filter(grey, "solarise")[0, :, 0, 0], torch.ones(3))
    faded = apply_filter(torch.full_like(grey, 0.625), "faded")[0, :, 0, 0]
    torch.testing.assert_close(faded, torch.tensor([0.63, 0.605, 0.555]))
    assert luminance(apply_filter(grey, "sketch")).std() < 1e-6  # no edges, no ink


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("targets")
    stripes = torch.zeros(48, 48, 3, dtype=torch.uint8)
    stripes[::6, :, 0] = stripes[:, ::6, 2] = 255
    Image.fromarray(stripes.numpy()).save(folder / "stripes.png")
    return folder


def test_gram_lowers_the_loss_and_is_deterministic(photos, target):
    refs = find_images(target)
    generator = load_gram_styles(refs, steps=12, size=48)
    x = photos[:2, :, :48, :48]
    with torch.inference_mode():  # as extraction runs; the optimiser must still have gradients
        first = generator(x, "stripes.png")
        again = generator(x[1:], "stripes.png")
    assert torch.equal(first[1:], again)
    assert first.shape == x.shape

    both = (*STYLE_TAPS, CONTENT_TAP)
    wanted = features(generator.vgg, decode(refs[0], size=48).pixels[None], both)

    def loss(image: Tensor, content: Tensor) -> float:
        taps, plain = (features(generator.vgg, x[None], both) for x in (image, content))
        style = sum(((gram(taps[t]) - gram(wanted[t])) ** 2).mean() for t in STYLE_TAPS)
        return float(5 * style + ((taps[CONTENT_TAP] - plain[CONTENT_TAP]) ** 2).mean())

    with torch.no_grad():
        for styled, content in zip(first, x, strict=True):
            assert loss(styled, content) < 0.5 * loss(content, content)


def test_gram_hash_depends_on_target_and_steps(target):
    refs = find_images(target)
    one = load_gram_styles(refs, steps=1, size=32).sha256
    assert one == load_gram_styles(refs, steps=1, size=32).sha256
    assert one != load_gram_styles(refs, steps=2, size=32).sha256
    other = [ImageRef("stripes.png", EMBEDDED / "fig.jpg")]
    assert one != load_gram_styles(other, steps=1, size=32).sha256


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared networks are not beside the checkout")
@pytest.mark.parametrize(
    ("spec", "indices"),
    [
        ("texture_bn:{}/texture_nets_bn/starry_style.safetensors", ("starry",)),
        ("johnson:{}/style_nets", ("scream", "udnie", "wave")),
        ("{}/style_nets/johnson_wave.safetensors", ("0",)),
    ],
)
def test_shared_networks(photos, spec, indices):
    spec = spec.format(SHARED)
    generator = load_style_generator(spec)
    assert generator.indices == indices == style_indices(spec)
    if spec.startswith("texture_bn"):
        folder = f"texture_bn:{SHARED}/texture_nets_bn"
        assert style_indices(folder) == ("mosaic", "pleades", "starry", "turner")
    with torch.inference_mode():
        styled = generator(photos[:2], indices[-1])
        assert torch.equal(styled, generator(photos[:2], indices[-1]))  # no hidden noise
        alone = generator(photos[1:2], indices[-1])
    assert styled.shape == (2, 3, 64, 64)
    torch.testing.assert_close(styled[1:], alone, rtol=0, atol=1e-4)
    assert (styled - photos[:2]).abs().mean() > 0.02
