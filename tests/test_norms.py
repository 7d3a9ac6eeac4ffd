from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from statsnorm.errors import StatsnormError
from statsnorm.networks.norms import NORMS, ActNorm, FrozenAffine, make_norm, norm_kind


@pytest.fixture
def x():
    generator = torch.Generator().manual_seed(3)
    gains = torch.tensor([0.2, 1.0, 3.0, 10.0]).view(1, 4, 1, 1)
    return (torch.randn(3, 4, 6, 5, generator=generator, dtype=torch.float64) + 0.7) * gains


def fresh(kind, channels=4, **options):
    """Return a normaliser with a scale and shift that are not 1 and 0."""
    norm = make_norm(kind, channels, **options).double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
    return norm


def affine(y, norm):
    weight, bias = (p.detach().numpy().reshape(-1, 1, 1) for p in (norm.weight, norm.bias))
    return y * weight + bias


@pytest.mark.parametrize(
    ("kind", "axes"), [("in", (2, 3)), ("ln", (1, 2, 3)), ("bn", (0, 2, 3)), ("cin", (2, 3))]
)
def test_against_population_moments(kind, axes, x):
    norm, index = fresh(kind), [torch.zeros(3, dtype=torch.long)] if kind == "cin" else []
    a = x.numpy()
    expected = (a - a.mean(axes, keepdims=True)) / np.sqrt(a.var(axes, keepdims=True) + 1e-5)
    got = norm(x, *index)
    assert got.dtype == torch.float64
    np.testing.assert_allclose(got.detach().numpy(), affine(expected, norm), atol=1e-12)


def test_group_norm_against_population_moments_of_its_groups(x):
    norm = fresh("gn", 8)
    assert norm.num_groups == 2  # 8 groups of one channel would be instance normalisation
    a = torch.cat([x, x.flip(1) ** 2], dim=1).numpy()
    groups = a.reshape(3, 2, 4, 6, 5)
    mean, var = (f(groups, axis=(2, 3, 4), keepdims=True) for f in (np.mean, np.var))
    expected = affine(((groups - mean) / np.sqrt(var + 1e-5)).reshape(a.shape), norm)
    np.testing.assert_allclose(norm(torch.from_numpy(a)).detach().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("channels", "groups"), [(32, 8), (128, 8), (64, 8), (8, 2), (4, 1), (6, 1), (3, 1), (24, 6)]
)
def test_groups_hold_at_least_four_channels(channels, groups):
    assert make_norm("gn", channels).num_groups == groups


def test_conditional_chooses_the_style_of_each_image(x):
    norm = fresh("cin", styles=5)
    index = torch.tensor([4, 0, 4])
    together = norm(x, index)
    for i, style in enumerate(index):
        alone = nn.functional.instance_norm(
            x[i : i + 1], weight=norm.weight[style], bias=norm.bias[style]
        )
        torch.testing.assert_close(together[i : i + 1], alone)
    with pytest.raises(StatsnormError, match="has 5 styles"):
        norm(x)


def test_mean_only_and_sd_only_fix_what_their_names_say(x):
    centred, scaled = make_norm("in-mean", 4)(x), make_norm("in-sd", 4, eps=0.0)(x)
    np.testing.assert_allclose(centred.detach().mean(dim=(2, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(
        centred.detach().var(dim=(2, 3), correction=0), x.var(dim=(2, 3), correction=0)
    )
    np.testing.assert_allclose(scaled.detach().var(dim=(2, 3), correction=0), 1)
    sd = x.numpy().std(axis=(2, 3))
    np.testing.assert_allclose(scaled.detach().mean(dim=(2, 3)), x.numpy().mean((2, 3)) / sd)
    torch.testing.assert_close(make_norm("in-sd", 4, eps=0.0)(0.3 * x), scaled)
    torch.testing.assert_close(make_norm("in-mean", 4)(x + 2.0), centred)


def test_whitening_against_scipy_matrix_root(x):
    got = fresh("in-whiten")
    for image, white in zip(x.numpy(), got(x).detach().numpy(), strict=True):
        flat = image.reshape(4, -1)
        root = np.linalg.inv(sqrtm(np.cov(flat, ddof=0) + 1e-5 * np.eye(4)))
        centred = flat - flat.mean(axis=1, keepdims=True)
        expected = affine((root @ centred).reshape(image.shape), got)
        np.testing.assert_allclose(white, expected, atol=1e-9)


def test_whitened_covariance_is_the_identity(x):
    white = make_norm("in-whiten", 4, eps=0.0)(x).detach().flatten(2).numpy()
    for image in white:
        np.testing.assert_allclose(np.cov(image, ddof=0), np.eye(4), atol=1e-9)


def test_frozen_map_is_the_normaliser_where_it_was_calibrated(x):
    norm, frozen = fresh("in"), make_norm("frozen", 4).double()
    frozen.load_state_dict(norm.state_dict(), strict=False)
    frozen.mean.copy_(x[0].mean(dim=(1, 2)))
    frozen.sd.copy_(torch.sqrt(x[0].var(dim=(1, 2), correction=0) + norm.eps))
    torch.testing.assert_close(frozen(x)[0], norm(x)[0])
    assert not torch.allclose(frozen(x)[1], norm(x)[1])


def test_frozen_map_of_tokens_and_of_styles(x):
    tokens = x.flatten(2).mT  # (N, T, C)
    frozen = FrozenAffine(4, channel_axis=-1).double()
    frozen.mean.copy_(torch.arange(4.0))
    frozen.sd.copy_(torch.arange(1.0, 5.0))
    expected = (tokens.numpy() - np.arange(4.0)) / np.arange(1.0, 5.0)
    np.testing.assert_allclose(frozen(tokens).detach().numpy(), expected)
    styled = fresh("frozen", styles=2)
    out = styled(x, torch.tensor([1, 0, 1])).detach().numpy()
    weight, bias = styled.weight.detach().numpy(), styled.bias.detach().numpy()
    np.testing.assert_allclose(
        out[0], x[0].numpy() * weight[1][:, None, None] + bias[1][:, None, None]
    )


def test_actnorm_calibrates_on_its_first_training_batch_and_never_again(x):
    norm = make_norm("actnorm", 4).double()
    torch.testing.assert_close(norm.eval()(x), x)  # untouched before training
    out = norm.train()(x).detach()
    np.testing.assert_allclose(out.mean(dim=(0, 2, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(
        out.var(dim=(2, 3), correction=0).mean(0), 1, atol=1e-3
    )  # eps counts in channel 0
    mean = norm.mean.clone()
    norm(5 * x + 3)
    torch.testing.assert_close(norm.mean, mean)
    again = ActNorm(4).double().train()
    again.load_state_dict(norm.state_dict())
    again(5 * x + 3)
    torch.testing.assert_close(again.mean, mean)  # a resumed run does not calibrate anew


@pytest.mark.parametrize("kind", NORMS)
def test_every_kind_is_recognised_keeps_shape_and_backpropagates(kind):
    norm = make_norm(kind, 8).train()
    x = torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    out = norm(x, torch.zeros(2, dtype=torch.long)) if kind == "cin" else norm(x)
    out.square().sum().backward()
    assert out.shape == x.shape
    assert torch.isfinite(x.grad).all()
    assert norm_kind(norm) == ("" if kind == "none" else kind)


def test_foreign_normalisers_are_recognised_by_class_name():
    class LayerNorm2d(nn.LayerNorm):
        pass

    class BatchNormAct(nn.Module):  # a leaf that says what it is
        pass

    class NormalHead(nn.Module):
        pass

    kinds = [
        norm_kind(m) for m in (FrozenBatchNorm2d(4), LayerNorm2d(4), BatchNormAct(), NormalHead())
    ]
    assert kinds == ["frozen", "ln", "bn", ""]
    assert norm_kind(nn.GroupNorm(8, 8)) == "in"
    assert norm_kind(nn.RMSNorm(8)) == "ln"


def test_bad_input_is_named():
    with pytest.raises(StatsnormError, match=r"unknown norm 'inn'; did you mean .*'in'"):
        make_norm("inn", 4)
    with pytest.raises(StatsnormError, match="one set of parameters, got styles=3"):
        make_norm("bn", 4, styles=3)
