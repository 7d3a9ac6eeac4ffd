from __future__ import annotations

import numpy as np
import pytest
import torch

from statsnorm.errors import StatsnormError
from statsnorm.moments import channel_moments

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(2, 3, 5, 7), (3, 8, 40, 41), (1, 1, 300, 500), (2, 600, 16, 16), (2, 64, 1, 1)]


def numpy_moments(x):
    """Float64 oracle on the very values of the activation: (N, C, ...) -> mean, var."""
    values = x.detach().double().numpy().reshape(x.shape[0], x.shape[1], -1)
    return values.mean(axis=2), values.var(axis=2, ddof=0)


def assert_close(moments, x, tolerance=1e-5):
    mean, var = numpy_moments(x)
    scale = np.sqrt(mean**2 + var) + 1e-30  # a mean of about 0 has no digits of its own
    assert np.max(np.abs(moments.mean.double().numpy() - mean) / scale) < tolerance
    assert np.max(np.abs(moments.var.double().numpy() - var) / (var + 1e-30)) < tolerance


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_against_numpy_in_float64(dtype, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    moments = channel_moments(x)
    assert_close(moments, x)
    assert moments.mean.shape == moments.var.shape == shape[:2]
    assert moments.pixels == shape[2] * shape[3]
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert moments.mean.dtype == moments.var.dtype == expected


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_large_mean_beside_a_small_variance(memory_format, dtype):
    generator = torch.Generator().manual_seed(2)
    x = 1000 + 0.099 * torch.randn(2, 16, 256, 200, generator=generator, dtype=torch.float64)
    x = x.to(dtype).contiguous(memory_format=memory_format)
    if dtype == torch.float32:
        assert numpy_moments(x)[1].mean() == pytest.approx(0.0098, rel=1e-2)
    assert_close(channel_moments(x), x)


@pytest.mark.parametrize("start", [0.0, 1e4, -3e6])
def test_a_beginning_far_from_the_rest(start):
    x = torch.randn(2, 64, 256, 256, generator=torch.Generator().manual_seed(3))
    x[:, :, :8] = start  # all of the first group, whose mean is the origin of the sums
    assert_close(channel_moments(x.contiguous(memory_format=torch.channels_last)), x)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_squares_do_not_overflow(memory_format, dtype):
    x = (60000 * torch.rand(2, 8, 64, 64)).to(dtype).contiguous(memory_format=memory_format)
    moments = channel_moments(x)
    assert moments.var.min() > 6e4  # beyond the largest float16
    assert_close(moments, x)


def test_channels_last_and_contiguous_agree():
    x = torch.randn(3, 32, 90, 70).relu_()
    a, b = channel_moments(x), channel_moments(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(a.mean, b.mean, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(a.var, b.var, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_row_does_not_depend_on_its_neighbours(memory_format):
    x = torch.randn(5, 3, 250, 250).contiguous(memory_format=memory_format)
    together = channel_moments(x)
    for i in range(5):
        alone = channel_moments(x[i : i + 1])
        assert torch.equal(alone.mean[0], together.mean[i])
        assert torch.equal(alone.var[0], together.var[i])


@pytest.mark.parametrize("pixels", [(1, 3), (2, 4), (3, 3), (181, 211), (1, 70001)])
def test_channels_last_of_any_number_of_pixels(pixels):
    x = torch.randn(2, 24, *pixels, generator=torch.Generator().manual_seed(4)) - 3
    assert_close(channel_moments(x.contiguous(memory_format=torch.channels_last)), x)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [3, 64, 300])
def test_the_number_of_threads_changes_nothing(memory_format, channels):
    x = torch.randn(2, channels, 120, 131).relu_().contiguous(memory_format=memory_format)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(channel_moments(x))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0].mean, m.mean) for m in found)
    assert all(torch.equal(found[0].var, m.var) for m in found)


@pytest.mark.parametrize("contiguous", [True, False])
def test_layouts_agree(contiguous):
    x = torch.randn(2, 12, 9, 11)
    last = x.movedim(1, -1).contiguous() if contiguous else x.movedim(1, -1)  # (N, H, W, C)
    tokens = torch.cat([torch.full((2, 3, 12), 1e6), last.flatten(1, 2)], dim=1)  # (N, 3 + T, C)
    assert_close(channel_moments(last, "nhwc"), x)
    moments = channel_moments(tokens, "tokens", drop_tokens=3)
    assert_close(moments, x)
    assert moments.pixels == 99


def test_strided_views_and_gradients():
    x = torch.randn(2, 8, 20, 22, requires_grad=True)
    moments = channel_moments(x[:, ::2, 1::2, ::3])
    assert_close(moments, x[:, ::2, 1::2, ::3])
    assert not moments.mean.requires_grad


def test_degenerate():
    constant = channel_moments(torch.full((1, 2, 30, 30), 0.1))
    assert float(constant.var.max()) < 1e-15
    one = channel_moments(torch.tensor([[[[3.0]]]]))
    assert (float(one.mean), float(one.var), one.pixels) == (3.0, 0.0, 1)
    holed = torch.zeros(1, 2, 4, 4)
    holed[0, 1, 0, 0] = torch.nan
    assert channel_moments(holed).mean.isnan().tolist() == [[False, True]]


def test_input_is_left_as_it_was():
    x = torch.randn(2, 4, 8, 8)
    before = x.clone()
    channel_moments(x)
    channel_moments(x.contiguous(memory_format=torch.channels_last))
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("shape", "layout", "drop", "message"),
    [
        ((2, 3, 4, 4), "nhcw", 0, "did you mean 'nchw', 'nhwc'"),
        ((2, 10), "nchw", 0, r"got \(2, 10\)"),
        ((2, 3, 4, 4), "tokens", 0, r"needs \(N, T, C\)"),
        ((2, 3, 4, 4), "nchw", 1, "drop_tokens=1 needs layout 'tokens'"),
        ((2, 3, 4), "tokens", 3, "nothing to reduce"),
    ],
)
def test_bad_input(shape, layout, drop, message):
    with pytest.raises(StatsnormError, match=message):
        channel_moments(torch.zeros(shape), layout, drop)
