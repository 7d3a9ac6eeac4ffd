"""Conditions: references for blur and CLAHE, the placebos, and batch independence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from statsnorm.errors import StatsnormError
from statsnorm.images.blur import gaussian_blur, matching_sigma, radial_power
from statsnorm.images.clahe import clahe
from statsnorm.images.colour import (
    equalise_luminance,
    luminance,
    match_luminance,
    restore_luminance,
    to_ycbcr,
)
from statsnorm.images.conditions import (
    BUILT_IN,
    NEEDS_PARAMETERS,
    NEEDS_STYLE,
    apply_condition,
    check_condition,
    draws_style,
    needs_style,
    placebo_index,
)
from statsnorm.images.decode import decode
from statsnorm.images.doses import dose_of, dose_styles
from statsnorm.images.placebo import tune_placebo_strength
from statsnorm.images.sources import find_images
from statsnorm.images.stylise import FilterStyles
from statsnorm.networks import load_network

NAMES = [ref.image for ref in find_images("embedded")]
PARAMETERS = {"blur_sigma": 1.2, "placebo_strength": 0.6}


@pytest.fixture(scope="module")
def photos() -> Tensor:
    return torch.stack([decode(ref, size=64).pixels for ref in find_images("embedded")])


def treated(name: str, x: Tensor, *, content: Tensor | None = None, seed: int = 0) -> Tensor:
    return apply_condition(
        name,
        x,
        content=x if content is None else content,
        stylise=FilterStyles(),
        index="sepia",
        images=NAMES[: len(x)],
        seed=seed,
        parameters=PARAMETERS,
    )


def test_names_are_those_of_the_method():
    assert set(BUILT_IN) == {
        *("original", "contrast", "style", "ck", "placebo", "placebo-matched", "blur"),
        *("contrast-rgb", "standardise", "standardise-rgb", "whiten", "clahe"),
        *("match-luminance", "match-rgb"),
    }


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_condition_keeps_shape_and_dtype_and_input(photos, name, dtype):
    x = photos[:4].to(dtype)
    before = x.clone()
    y = treated(name, x, content=x.flip(0))
    assert y.shape == x.shape
    assert y.dtype == dtype
    assert torch.isfinite(y).all()
    assert torch.equal(x, before)
    assert torch.equal(y, x) == (name == "original")


@pytest.mark.parametrize("name", BUILT_IN)
def test_no_condition_depends_on_the_batch(photos, name):
    x, content = photos[:6], photos[6:12]
    whole = treated(name, x, content=content)
    for i in (0, 3, 5):
        alone = apply_condition(
            name,
            x[i : i + 1],
            content=content[i : i + 1],
            stylise=FilterStyles(),
            index="sepia",
            images=NAMES[i : i + 1],
            seed=0,
            parameters=PARAMETERS,
        )
        torch.testing.assert_close(whole[i : i + 1], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (13, 7)])
def test_small_and_odd_images(name, shape):
    x = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    y = treated(name, x)
    assert y.shape == x.shape
    assert torch.isfinite(y).all()


def test_conditions_are_what_their_names_say(photos):
    x, content = photos[:3], photos[3:6]
    styled = FilterStyles()(x, "sepia")
    torch.testing.assert_close(treated("contrast", x), equalise_luminance(x))
    torch.testing.assert_close(treated("style", x), styled)
    ck = treated("ck", x, content=content)  # the light of the cell's own image
    torch.testing.assert_close(ck, restore_luminance(styled, x))
    torch.testing.assert_close(treated("blur", x), gaussian_blur(x, 1.2))
    matched = treated("match-luminance", x, content=content)
    torch.testing.assert_close(matched, match_luminance(x, content))
    placebo, blended = treated("placebo", x), treated("placebo-matched", x)
    torch.testing.assert_close(blended, x + 0.6 * (placebo - x))


def test_ck_keeps_contrast_and_removes_style(photos):
    """The two factors of the central 2 x 2: ck has the luminance moments of the original."""
    y, plain = luminance(treated("ck", photos.double())), luminance(photos.double())
    for moment in (torch.mean, torch.std):
        torch.testing.assert_close(moment(y, dim=(2, 3)), moment(plain, dim=(2, 3)))


def test_placebo_draws_by_name_and_seed(photos):
    indices = FilterStyles().indices
    drawn = [placebo_index(name, indices, seed=0) for name in NAMES]
    assert len(set(drawn)) > 8
    assert drawn != [placebo_index(name, indices, seed=1) for name in NAMES]
    y = treated("placebo", photos)
    for i in (0, 11, 23):
        expected = FilterStyles()(photos[i : i + 1], drawn[i])
        torch.testing.assert_close(y[i : i + 1], expected)
    assert not torch.equal(y, treated("placebo", photos, seed=1))


def test_placebo_draw_is_uniform():
    indices = tuple("abcd")
    drawn = [placebo_index(f"{i}.jpg", indices, seed=7) for i in range(4000)]
    counts = np.array([drawn.count(index) for index in indices])
    assert ((counts - 1000) ** 2 / 1000).sum() < 16.3  # chi-squared, 3 dof, p = .001


@pytest.mark.parametrize("name", sorted(NEEDS_STYLE))
def test_missing_generator(photos, name):
    with pytest.raises(StatsnormError, match=f"{name!r} needs a style generator"):
        apply_condition(
            name, photos[:1], content=photos[:1], stylise=None, index="", images=["a"], seed=0
        )


@pytest.mark.parametrize("name", sorted(NEEDS_PARAMETERS))
def test_missing_parameter_and_unknown_name(photos, name):
    options = {"content": photos[:1], "stylise": FilterStyles(), "images": ["a"], "seed": 0}
    with pytest.raises(StatsnormError, match=f"{name!r} needs the parameter"):
        apply_condition(name, photos[:1], index="sepia", **options)
    with pytest.raises(StatsnormError, match="did you mean 'contrast'"):
        apply_condition("contrats", photos[:1], index="sepia", **options)


@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.7, 30.0])
def test_gaussian_blur_against_scipy(photos, sigma):
    x = photos[:2].double()
    expected = ndimage.gaussian_filter(x.numpy(), (0, 0, sigma, sigma), mode="mirror", truncate=4.0)
    np.testing.assert_allclose(gaussian_blur(x, sigma).numpy(), expected, atol=1e-12)


def test_blur_of_nothing():
    x = torch.rand(1, 3, 5, 5)
    assert torch.equal(gaussian_blur(x, 0.0), x)
    for sigma in (-1.0, float("nan"), float("inf")):
        with pytest.raises(StatsnormError, match="0 pixels or more"):
            gaussian_blur(x, sigma)


@pytest.mark.parametrize("sigma", [0.7, 1.0, 1.6])
def test_matching_sigma_finds_a_known_blur(photos, sigma):
    x = photos.double()
    assert matching_sigma(x, gaussian_blur(x, sigma)) == pytest.approx(sigma, rel=0.05)
    faint = 0.5 + 0.3 * (gaussian_blur(x, sigma) - 0.5)  # contrast is not smoothness
    assert matching_sigma(x, faint) == pytest.approx(sigma, rel=0.05)


def test_matching_sigma_of_something_rougher_is_zero(photos):
    rough = photos + 0.1 * torch.randn(photos.shape, generator=torch.Generator().manual_seed(0))
    assert matching_sigma(photos, rough) == 0
    assert matching_sigma(photos, photos) == 0
    for x, message in ((photos[..., :8, :8], "at least 16 x 16"), (photos * 0, "with detail")):
        with pytest.raises(StatsnormError, match=message):
            matching_sigma(x, x)


def test_radial_power_finds_a_sine():
    columns = torch.arange(64, dtype=torch.float64)
    wave = 0.5 + 0.2 * torch.sin(2 * torch.pi * 10 / 64 * columns)
    frequency, power = radial_power(wave.expand(1, 3, 64, 64))
    assert frequency[power.argmax()] == pytest.approx(10 / 64)


def clahe_reference(y: NDArray[np.float64], tiles: int, limit: float) -> NDArray[np.float64]:
    """Pixel by pixel, for one luminance image whose sides divide by `tiles`."""
    height, width = y.shape[0] // tiles, y.shape[1] // tiles
    functions = np.empty((tiles, tiles), dtype=object)
    for i in range(tiles):
        for j in range(tiles):
            tile = y[i * height : (i + 1) * height, j * width : (j + 1) * width]
            counts, edges = np.histogram(tile, bins=256, range=(0, 1))
            ceiling = limit * tile.size / 256
            cut = np.minimum(counts, ceiling)
            cut = cut + (counts - cut).sum() / 256
            functions[i, j] = (edges, np.concatenate([[0], np.cumsum(cut)]) / tile.size)
    result = np.empty_like(y)
    for row, column in np.ndindex(y.shape):
        u = np.clip((row + 0.5) / height - 0.5, 0, tiles - 1)
        v = np.clip((column + 0.5) / width - 0.5, 0, tiles - 1)
        total = 0.0
        for i in {int(u), min(int(u) + 1, tiles - 1)}:
            for j in {int(v), min(int(v) + 1, tiles - 1)}:
                weight = max(0, 1 - abs(u - i)) * max(0, 1 - abs(v - j))
                total += weight * np.interp(y[row, column], *functions[i, j])
        result[row, column] = total
    return result


@pytest.mark.parametrize(("tiles", "limit"), [(8, 2.0), (4, 1.0), (2, 300.0), (1, 3.0)])
def test_clahe_against_a_plain_reference(photos, tiles, limit):
    x = photos[[0, 9]].double()
    x[1] = 0.3 + 0.4 * x[1]
    result = luminance(clahe(x, tiles=tiles, clip_limit=limit))[:, 0].numpy()
    for image, ours in zip(luminance(x)[:, 0].numpy(), result, strict=True):
        np.testing.assert_allclose(ours, clahe_reference(image, tiles, limit), atol=1e-10)


def test_clahe_limit_one_is_nearly_the_identity_and_chroma_is_kept(photos):
    x = photos[:2].double()
    gentle = luminance(clahe(x, clip_limit=1.0))
    strong = luminance(clahe(x, clip_limit=8.0))
    assert (gentle - luminance(x)).abs().mean() < (strong - luminance(x)).abs().mean()
    torch.testing.assert_close(to_ycbcr(clahe(x))[:, 1:], to_ycbcr(x)[:, 1:], rtol=0, atol=1e-12)
    assert clahe(x[..., :61, :35]).shape == (2, 3, 61, 35)
    with pytest.raises(StatsnormError, match="1 or more"):
        clahe(x, clip_limit=0.5)


def test_placebo_strength_is_tuned_on_the_pilot(photos):
    match = tune_placebo_strength(
        photos[:10],
        generator=FilterStyles(),
        images=NAMES[:10],
        seed=0,
        vgg=load_network("vgg16"),
        strengths=(0.2, 1.0),
    )
    assert match.strength == 0.2  # filters at full strength add variance
    assert len(match.ratios) == 8
    assert match.ratio == pytest.approx(np.exp(np.mean(np.log(list(match.ratios.values())))))
    assert match.matched == (0.8 <= match.ratio <= 1.25)
    with pytest.raises(StatsnormError, match="at least 3 pilot images"):
        tune_placebo_strength(
            photos[:2],
            generator=FilterStyles(),
            images=NAMES[:2],
            seed=0,
            vgg=load_network("vgg16"),
        )


def test_placebo_ratios_against_numpy(photos):
    vgg, x = load_network("vgg16"), photos[:9]
    match = tune_placebo_strength(
        x, generator=FilterStyles(), images=NAMES[:9], seed=0, vgg=vgg, strengths=(1.0,)
    )

    def variance(images: Tensor) -> tuple[float, float]:
        with torch.no_grad():
            taps = vgg.module[:2](vgg.preprocess(images)).double().numpy()  # relu1_1
        mean, var = taps.mean((2, 3)), taps.var((2, 3))
        live = (var > 1e-10).all(0)
        m = mean[:, live] / np.sqrt(var[:, live].mean(0))
        return m.var(0, ddof=1).mean(), np.log(np.sqrt(var[:, live])).var(0, ddof=1).mean()

    plain, placebo = variance(x), variance(treated("placebo", x))
    assert match.ratios["relu1_1.m"] == pytest.approx(placebo[0] / plain[0], rel=1e-4)
    assert match.ratios["relu1_1.v"] == pytest.approx(placebo[1] / plain[1], rel=1e-4)


class Unchanged:
    """A generator whose only style is the image itself."""

    name, indices, sha256 = "unchanged", ("0",), ""

    def to(self, device: object) -> Unchanged:
        return self

    def __call__(self, x: Tensor, index: str) -> Tensor:
        return x.clone()


def test_placebo_that_changes_nothing_has_ratio_one_and_full_strength(photos):
    match = tune_placebo_strength(
        photos[:4], generator=Unchanged(), images=NAMES[:4], seed=0, vgg=load_network("vgg16")
    )
    assert match.strength == 1.0
    assert match.matched
    assert match.ratio == pytest.approx(1, abs=1e-5)


DOSES = ("styles-1", "styles-3", "blend-40", "gains-60")


@pytest.mark.parametrize("name", DOSES)
def test_doses_keep_shape_and_do_not_depend_on_the_batch(photos, name):
    x = photos[:6]
    whole = treated(name, x)
    assert whole.shape == x.shape
    assert torch.isfinite(whole).all()
    one = apply_condition(
        name, x[4:5], content=x[4:5], stylise=FilterStyles(), index="sepia", images=[NAMES[4]],
        seed=0,
    )  # fmt: skip
    torch.testing.assert_close(one, whole[4:5], rtol=0, atol=1e-6)


def test_the_ends_of_the_doses_are_the_conditions_themselves(photos):
    x = photos[:6]
    style = treated("style", x)
    assert torch.equal(treated("styles-1", x), style)
    assert torch.equal(treated("blend-100", x), style)
    torch.testing.assert_close(treated("blend-25", x), x + 0.25 * (style - x))


def test_more_styles_are_drawn_and_each_is_one_of_the_set(photos):
    generator = FilterStyles()
    x = photos[:12]
    among = dose_styles(generator.indices, 3, first="sepia", seed=0)
    assert among[0] == "sepia"
    assert len(set(among)) == 3
    assert dose_styles(generator.indices, 5, first="sepia", seed=0)[:3] == among
    assert dose_styles(generator.indices, 5, first="sepia", seed=1)[:3] != among
    y = treated("styles-3", x)
    rendered = {index: generator(x, index) for index in among}
    chosen = {
        next(index for index in among if torch.equal(y[i], rendered[index][i])) for i in range(12)
    }
    assert len(chosen) == 3


def test_gains_scale_about_mid_grey_by_less_than_their_spread(photos):
    x = photos[:8]
    y = treated("gains-60", x)
    gain = ((y - 0.5) * (x - 0.5)).sum(dim=(1, 2, 3)) / (x - 0.5).square().sum(dim=(1, 2, 3))
    assert ((gain > 0.4) & (gain <= 1)).all()
    assert gain.std() > 0.05
    torch.testing.assert_close(y, 0.5 + gain.view(-1, 1, 1, 1) * (x - 0.5))
    assert not torch.equal(y, treated("gains-60", x, seed=1))


def test_dose_names_are_told_from_others():
    assert [needs_style(name) for name in DOSES] == [True, True, True, False]
    assert [draws_style(name) for name in DOSES] == [True, True, False, False]
    for name in (
        "styles-0",
        "styles-",
        "styles-04",
        "style-4",
        "blend-2.5",
        "gains--3",
        "styles-4x",
    ):
        assert dose_of(name) is None
        with pytest.raises(StatsnormError, match="unknown condition"):
            check_condition(name)
    with pytest.raises(StatsnormError, match="must be 1 to 90, got 95"):
        check_condition("gains-95")


def test_more_styles_than_there_are_is_an_error(photos):
    with pytest.raises(StatsnormError, match="needs 99 styles, the generator has"):
        treated("styles-99", photos[:2])
