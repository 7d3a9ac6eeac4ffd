from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from statsnorm.invariance import invariance_holds, invariance_rows
from statsnorm.networks import Network, load_network
from statsnorm.networks.blocks import Chain
from statsnorm.networks.network import study
from statsnorm.networks.norms import make_norm
from statsnorm.networks.texture import TextureGenerator, texture_network

COLUMNS = {
    *("network", "scope", "transform", "dtype", "eps_mode", "padding"),
    *("relative_change", "ratio_observed", "ratio_formula", "must"),
}


@pytest.fixture(scope="module")
def images():
    """Smooth coloured images in [0.05, 0.95]: every transform stays near [0, 1]."""
    generator = torch.Generator().manual_seed(6)
    coarse = torch.rand(2, 3, 6, 6, generator=generator)
    fine = nn.functional.interpolate(coarse, size=40, mode="bicubic").clamp(0, 1)
    return 0.05 + 0.8 * fine + 0.1 * torch.rand(2, 3, 40, 40, generator=generator)


def network(module, **kwargs):
    kwargs = {"name": "net", "norm": "in", "preprocess": lambda x: x} | kwargs
    return Network(module=study(module), **kwargs)


def first_layer(padding=2, mode="reflect", bias=True):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        conv = nn.Conv2d(3, 8, 5, padding=padding, padding_mode=mode, bias=bias)
    return nn.Sequential(conv, nn.InstanceNorm2d(8), nn.ReLU(inplace=True))


def pick(rows, **where):
    found = [r for r in rows if all(r[k] == v for k, v in where.items())]
    assert found, f"no row {where}"
    return found


@pytest.mark.parametrize(
    ("module", "padding"),
    [
        (first_layer(), "reflect"),
        (first_layer(mode="replicate"), "replicate"),
        (first_layer(padding=0), "valid"),
        (first_layer(mode="zeros"), "zeros"),
        (nn.Sequential(nn.ReflectionPad2d(2), *first_layer(padding=0)), "reflect"),
        (nn.Sequential(nn.ZeroPad2d(2), *first_layer(padding=0)), "zeros"),
    ],
)
def test_every_padding_holds_and_fails_where_it_must(module, padding, images):
    rows = invariance_rows(network(module), images)
    assert all(set(row) == COLUMNS for row in rows)
    assert rows[0]["padding"] == padding
    assert all(invariance_holds(row) for row in rows)
    own = [r for r in rows if r["padding"] == padding and r["scope"] == "first_layer"]
    must = {(r["transform"], r["must"]) for r in own}
    shifts = "fail" if padding == "zeros" else "hold"
    assert must == {
        ("gain 0.5", "hold"),
        ("offset 0.1", shifts),
        ("offset per channel", shifts),
        ("gain per channel", "fail"),
        ("gamma 0.6", "fail"),
        ("gamma 1.6", "fail"),
        ("luminance equalisation", "fail"),
        ("gain 0.5, 8 bit", "fail"),
    }
    if padding not in ("zeros", "valid"):  # the same layer padded with zeros
        row = pick(rows, padding="zeros", transform="offset 0.1", scope="first_layer")[0]
        assert row["must"] == "fail"
        assert row["relative_change"] > 1e-3


def test_float64_without_eps_is_exact(images):
    rows = invariance_rows(load_network("cin26"), images)
    exact = pick(rows, must="hold", eps_mode="0")
    assert {r["scope"] for r in exact} == {"first_layer", "output"}
    assert {r["dtype"] for r in exact} == {"float64"}
    assert max(r["relative_change"] for r in exact) < 1e-10
    assert all(invariance_holds(row) for row in rows)


def test_ratio_against_numpy(images):
    """The eps of the layer: sd ratio sqrt((v + eps) / (v + eps / g^2)), from scratch."""
    module = first_layer(bias=False)
    module[1].eps = 0.02  # large enough to see
    conv = module[0].weight.detach().double().numpy()
    padded = np.pad(images.double().numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(2, 3))
    y = np.einsum("nchwij,dcij->ndhw", windows, conv)

    def normalised_sd(z):
        return (z / np.sqrt(z.var((2, 3), keepdims=True) + 0.02)).std((2, 3))

    ratios = normalised_sd(0.5 * y) / normalised_sd(y)  # (N, C)
    rows = invariance_rows(network(module), images)
    row = pick(rows, transform="gain 0.5", eps_mode="trained", scope="first_layer")[0]
    assert row["dtype"] == "float32"
    assert np.abs(ratios / row["ratio_observed"] - 1).min() < 1e-5
    assert row["ratio_observed"] == pytest.approx(row["ratio_formula"], rel=1e-4)
    assert row["ratio_observed"] < 0.95  # below 1: the weaker image loses more to eps
    assert row["relative_change"] > 1e-3
    assert invariance_holds(row)


def test_a_gain_of_the_image_may_shift_the_input_of_the_network(images):
    def centred(x):
        return x - 0.5

    zeros = network(first_layer(mode="zeros"), preprocess=centred)
    row = pick(invariance_rows(zeros, images), transform="gain 0.5", eps_mode="0")[0]
    assert (row["must"], invariance_holds(row)) == ("fail", True)
    reflect = network(first_layer(), preprocess=centred)
    rows = pick(invariance_rows(reflect, images), transform="gain 0.5", padding="reflect")
    assert {r["must"] for r in rows} == {"hold"}


def test_a_path_around_the_first_layer_shows_at_the_output(images):
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = first_layer()

        def forward(self, x):
            return self.layers(x) + x.mean(1, keepdim=True)

    rows = invariance_rows(network(Around()), images)
    gain = pick(rows, transform="gain 0.5", eps_mode="0", padding="reflect")
    assert {r["scope"]: invariance_holds(r) for r in gain} == {"first_layer": True, "output": False}


def test_texture_generators(images):
    net = texture_network(TextureGenerator("in", width=8, blocks=1))
    assert all(invariance_holds(row) for row in invariance_rows(net, images))


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)),
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(1, 8)),
        nn.Sequential(nn.Conv2d(3, 8, 3), make_norm("in-whiten", 8)),
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()),
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.InstanceNorm2d(8)),
        nn.Sequential(nn.InstanceNorm2d(3), nn.Conv2d(3, 8, 3)),
    ],
)
def test_without_a_normalised_first_layer_nothing_is_claimed(module, images):
    assert invariance_rows(network(module), images) == []


def test_the_network_is_left_as_it_was(images):
    module = Chain(dict(first_layer().named_children()))
    net = network(module)
    before = net.forward(images)
    invariance_rows(net, images)
    assert torch.equal(net.forward(images), before)
    assert (module[0].padding_mode, module[1].eps) == ("reflect", 1e-5)


def test_limits():
    row = {"must": "hold", "eps_mode": "0", "relative_change": 9e-11}
    assert invariance_holds(row)
    assert not invariance_holds(row | {"relative_change": 2e-10})
    assert not invariance_holds(row | {"relative_change": np.nan})
    trained = {"must": "hold", "eps_mode": "trained", "relative_change": 0.1}
    assert invariance_holds(trained | {"ratio_observed": 0.90005, "ratio_formula": 0.9})
    assert not invariance_holds(trained | {"ratio_observed": 0.9002, "ratio_formula": 0.9})
    assert invariance_holds({"must": "fail", "eps_mode": "0", "relative_change": 2e-3})
    assert not invariance_holds({"must": "fail", "eps_mode": "0", "relative_change": 5e-4})
