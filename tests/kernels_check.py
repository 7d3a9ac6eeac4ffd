"""The Triton candidates in Triton's interpreter against float64; `test_kernels.py` runs this."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def kernels():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        import kernels

        yield kernels


def activation(shape, dtype=torch.float32, seed=0, shift=0.0):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + shift
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def close(mean, var, x):
    wide = x.double().flatten(2)
    exact = wide.var(2, correction=0)
    torch.testing.assert_close(var.double(), exact, rtol=1e-5, atol=1e-12)
    scale = wide.square().mean(2).sqrt()
    assert ((mean.double() - wide.mean(2)).abs() / scale).max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 70, 50, 46), (2, 64, 16, 16)])
def test_moments_against_float64(kernels, shape, dtype):
    x = activation(shape, dtype)
    close(*kernels.relu_moments(x), x)


def test_a_small_variance_beside_a_large_mean(kernels):
    x = activation((1, 4, 64, 50), shift=3000.0)
    close(*kernels.relu_moments(x), x)


def test_half_precision_squares_do_not_overflow(kernels):
    x = (60000 * torch.rand(1, 4, 16, 16)).half().contiguous(memory_format=torch.channels_last)
    mean, var = kernels.relu_moments(x)
    assert var.min() > 65504
    close(mean, var, x)


def test_relu_is_applied_and_stored_only_when_asked(kernels):
    x = activation((2, 5, 9, 8))
    before = x.clone()
    close(*kernels.relu_moments(x, relu=True), before.relu())
    assert torch.equal(x, before)
    kernels.relu_moments(x, relu=True, store=True)
    assert torch.equal(x, before.relu())


@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (1, 66, 48, 50)])
def test_pooled_relu_and_its_moments(kernels, shape):
    x = activation(shape)
    y, mean, var = kernels.relu_moments_pool(x)
    assert torch.equal(y, torch.nn.functional.max_pool2d(x.relu(), 2))
    close(mean, var, x.relu())


def test_fused_vgg_has_the_moments_of_the_hooks(kernels):
    from statsnorm.networks import load_network
    from statsnorm.taps import find_taps, forward_moments

    vgg = load_network("vgg16")
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    taps = [t for t in find_taps(vgg, x) if t.name.startswith("relu")]
    expected, _ = forward_moments(vgg, x, taps)
    with torch.inference_mode():
        found = kernels.fused_vgg(vgg, x)
    assert list(found) == [t.name for t in taps]
    for tap, m in expected.items():
        torch.testing.assert_close(found[tap.name][0], m.mean, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(found[tap.name][1], m.var, rtol=1e-4, atol=1e-3)
