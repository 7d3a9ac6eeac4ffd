"""Luminance and colour against plain numpy and scipy references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import rankdata
from torch import Tensor

from statsnorm.images import colour
from statsnorm.images.decode import decode
from statsnorm.images.sources import find_images

Array = NDArray[np.float64]
WEIGHTS = np.array([0.299, 0.587, 0.114])


@pytest.fixture(scope="module")
def photos() -> Tensor:
    return torch.stack([decode(ref, size=96).pixels for ref in find_images("embedded")])


def noise(n: int = 3, h: int = 20, w: int = 24, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(seed))


def luma(x: Tensor) -> Array:
    r, g, b = np.moveaxis(x.numpy().astype(np.float64), -3, 0)
    return 0.299 * r + 0.587 * g + 0.114 * b


def equalised_reference(image: Tensor) -> Array:
    """Method, Definition of (b), for one image, written out in Y'CbCr."""
    r, g, b = image.numpy().astype(np.float64)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    cb, cr = (b - y) / 1.772, (r - y) / 1.402
    ranks = rankdata(np.round(y * 2**20), method="average").reshape(y.shape)
    new = (ranks - 0.5) / y.size
    red, blue = new + 1.402 * cr, new + 1.772 * cb
    return np.stack([red, (new - 0.299 * red - 0.114 * blue) / 0.587, blue])


def test_ycbcr_against_pillow_jpeg_matrix():
    rgb = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    x = torch.from_numpy(rgb).permute(2, 0, 1)[None].double() / 255
    pillow = np.asarray(Image.fromarray(rgb).convert("YCbCr")).astype(float)
    ours = colour.to_ycbcr(x)[0].permute(1, 2, 0).numpy() * 255 + [0, 128, 128]
    np.testing.assert_allclose(ours, np.clip(pillow, 0, 255), atol=1.01)  # Pillow rounds
    torch.testing.assert_close(colour.from_ycbcr(colour.to_ycbcr(x)), x, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equalise_luminance_against_scipy_rankdata(photos, dtype):
    x = torch.cat([photos, noise(4, 96, 96)]).to(dtype)
    result = colour.equalise_luminance(x)
    assert result.dtype == dtype
    for image, ours in zip(x, result, strict=True):
        np.testing.assert_allclose(ours.numpy(), equalised_reference(image), rtol=0, atol=1e-6)


def test_equalise_ties_share_their_average_rank():
    # Grey plateaus at float32 values whose 2^20-fold lies on a rounding boundary, in odd sizes.
    values = torch.tensor([0.1, 0.5 + 2**-21, 0.7, 0.7 + 2**-24, 0.9])
    x = values[torch.randint(0, 5, (1, 1, 17, 13), generator=torch.Generator().manual_seed(2))]
    x = x.expand(1, 3, 17, 13).contiguous()
    y = colour.luminance(colour.equalise_luminance(x.double()))[0, 0].numpy()
    for value in values.unique():
        plateau = y[(x[0, 0] == value).numpy()]
        assert np.ptp(plateau) < 1e-12  # one plateau stays one plateau
    np.testing.assert_allclose(
        colour.equalise_luminance(x)[0].numpy(), equalised_reference(x[0]), rtol=0, atol=1e-6
    )
    assert abs(y.mean() - 0.5) < 1e-12  # average ranks keep the mean of ranks


def test_float_rounding_does_not_split_a_plateau():
    flat = torch.full((1, 3, 8, 8), 0.3)
    flat[..., ::2] += 3e-8  # less than the resolution of 2^-20
    y = colour.luminance(colour.equalise_luminance(flat))
    torch.testing.assert_close(y, torch.full_like(y, 0.5), rtol=0, atol=1e-6)


def test_equalise_keeps_chroma_and_does_not_depend_on_the_batch(photos):
    batch = colour.equalise_luminance(photos)
    torch.testing.assert_close(
        colour.to_ycbcr(batch)[:, 1:], colour.to_ycbcr(photos)[:, 1:], rtol=0, atol=1e-6
    )
    for i in (0, 7):
        assert torch.equal(batch[i : i + 1], colour.equalise_luminance(photos[i : i + 1]))


def test_equalise_is_invariant_to_monotone_maps_of_grey():
    order = torch.randperm(400, generator=torch.Generator().manual_seed(5)).double() / 400
    grey = order.view(1, 1, 20, 20).expand(1, 3, 20, 20)
    once = colour.equalise_luminance(grey)
    again = colour.equalise_luminance(0.1 + 0.6 * (grey + 0.1) ** 1.5)
    torch.testing.assert_close(once, again, rtol=0, atol=1e-12)


def test_256_bins_against_the_cumulative_histogram():
    rgb = np.random.default_rng(1).integers(0, 256, (16, 16), dtype=np.uint8)
    x = torch.from_numpy(rgb)[None, None].expand(1, 3, -1, -1).float() / 255
    counts = np.bincount(rgb.ravel(), minlength=256)
    middle = (np.cumsum(counts) - counts / 2) / rgb.size
    y = colour.luminance(colour.equalise_luminance(x, bins=256))[0, 0]
    np.testing.assert_allclose(y.numpy(), middle[rgb], atol=1e-6)


def test_equalise_channels_against_scipy(photos):
    x = photos[:3]
    expected = [
        [(rankdata(np.round(c.double().numpy() * 2**20)) - 0.5) / c.numel() for c in image]
        for image in x
    ]
    np.testing.assert_allclose(
        colour.equalise_channels(x).flatten(2).numpy(), np.reshape(expected, (3, 3, -1)), atol=1e-6
    )


def test_m1_equalisation_cuts_between_image_variance_of_luminance_moments(photos):
    """Method M1: at least 90 % of the variance of (mean, sd) of luminance is gone."""
    before, after = luma(photos), luma(colour.equalise_luminance(photos))
    for moment in (np.mean, np.std):
        cut = 1 - moment(after, axis=(1, 2)).var(ddof=1) / moment(before, axis=(1, 2)).var(ddof=1)
        assert cut >= 0.9


def test_mid_ranks_of_a_constant_row_and_of_extreme_integers():
    rows = torch.tensor([[5, 5, 5, 5], [2**31 - 1, -(2**31), 0, 0]], dtype=torch.int32)
    expected = torch.tensor([[0.5] * 4, [0.875, 0.125, 0.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(colour.mid_ranks(rows), expected, rtol=0, atol=0)


def test_standardise_luminance_gives_its_targets_and_keeps_chroma(photos):
    result = colour.standardise_luminance(photos.double())
    y = luma(result)
    np.testing.assert_allclose(y.mean((1, 2)), colour.MEAN, atol=1e-12)
    np.testing.assert_allclose(y.std((1, 2)), colour.SD, atol=1e-12)
    torch.testing.assert_close(
        colour.to_ycbcr(result)[:, 1:], colour.to_ycbcr(photos.double())[:, 1:], rtol=0, atol=1e-12
    )


def test_standardise_channels_against_numpy(photos):
    x = photos.numpy().astype(np.float64)
    centred = x - x.mean((2, 3), keepdims=True)
    expected = colour.MEAN + colour.SD * centred / x.std((2, 3), keepdims=True)
    np.testing.assert_allclose(colour.standardise_channels(photos).numpy(), expected, atol=1e-6)


def test_restore_luminance(photos):
    content, styled = photos[:6].double(), photos[6:12].double().flip(-1)
    result = colour.restore_luminance(styled, content)
    y, target = luma(result), luma(content)
    np.testing.assert_allclose(y.mean((1, 2)), target.mean((1, 2)), atol=1e-12)
    np.testing.assert_allclose(y.std((1, 2)), target.std((1, 2)), atol=1e-12)
    correlation = np.corrcoef(y[0].ravel(), luma(styled)[0].ravel())[0, 1]
    assert correlation > 1 - 1e-9  # one gain and offset of the styled luminance
    torch.testing.assert_close(
        colour.to_ycbcr(result)[:, 1:], colour.to_ycbcr(styled)[:, 1:], rtol=0, atol=1e-12
    )
    torch.testing.assert_close(colour.restore_luminance(content, content), content)
    assert result.min() < 0 or result.max() > 1  # unclipped


def test_match_luminance_takes_over_the_histogram():
    content, styled = noise(2, 12, 15, seed=1).double(), noise(2, 12, 15, seed=2).double()
    y = luma(colour.match_luminance(styled, content))
    for i in range(2):
        np.testing.assert_allclose(np.sort(y[i], None), np.sort(luma(content)[i], None), atol=1e-12)
        assert (rankdata(y[i]) == rankdata(luma(styled)[i])).all()


def test_match_luminance_of_another_size_against_numpy_interpolation():
    content, styled = noise(1, 9, 8, seed=3).double(), noise(1, 12, 15, seed=4).double()
    u = (rankdata(np.round(luma(styled)[0] * 2**20)) - 0.5) / 180
    expected = np.interp(u, (np.arange(72) + 0.5) / 72, np.sort(luma(content)[0], None))
    y = luma(colour.match_luminance(styled, content))[0].ravel()
    np.testing.assert_allclose(y, expected, atol=1e-12)


def test_match_rgb_takes_over_mean_and_covariance(photos):
    content, styled = photos[:5].double(), photos[5:10].double()
    result = colour.match_rgb(styled, content).flatten(2).numpy()
    target = content.flatten(2).numpy()
    np.testing.assert_allclose(result.mean(2), target.mean(2), atol=1e-12)
    for ours, wanted in zip(result, target, strict=True):
        np.testing.assert_allclose(np.cov(ours), np.cov(wanted), atol=6e-3 * np.cov(wanted).max())


def test_whiten_gives_the_target_covariance(photos):
    result = colour.whiten(photos.double()).flatten(2).numpy()
    np.testing.assert_allclose(result.mean(2), colour.MEAN, atol=1e-12)
    for image, before in zip(result, photos.flatten(2).numpy(), strict=True):
        values = np.linalg.eigvalsh(np.cov(before.astype(np.float64), ddof=0))
        damped = np.sort(values / (values + colour.NOISE)) * colour.SD**2
        ours = np.linalg.eigvalsh(np.cov(image, ddof=0))
        np.testing.assert_allclose(ours, damped, atol=1e-10)


def test_degenerate_images():
    flat = torch.full((1, 3, 6, 6), 0.25)
    grey = noise(1, 6, 6)[:, :1].expand(1, 3, 6, 6)
    for treatment in (
        colour.equalise_luminance,
        colour.equalise_channels,
        colour.standardise_luminance,
        colour.standardise_channels,
        colour.whiten,
    ):
        assert torch.isfinite(treatment(flat)).all()
        assert torch.isfinite(treatment(flat[..., :1, :1])).all()
        spread = treatment(grey).std(dim=1).max()  # grey stays grey: no colour noise blown up
        assert spread < 1e-3
    torch.testing.assert_close(colour.whiten(flat), torch.full_like(flat, colour.MEAN))
    assert torch.isfinite(colour.match_rgb(noise(1, 6, 6), flat)).all()
    assert torch.isfinite(colour.restore_luminance(flat, noise(1, 6, 6))).all()


def test_out_of_gamut_counts_pixels():
    x = torch.full((2, 3, 2, 2), 0.5)
    x[0, 0, 0, 0], x[0, 2, 0, 0], x[0, 1, 1, 1], x[1, 0, 0, 0] = 1.5, -1, -0.1, 1 + 1e-8
    assert colour.out_of_gamut(x).tolist() == [0.5, 0]
