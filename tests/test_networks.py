from __future__ import annotations

import math
import sys

import pytest
import torch
from torch import nn

from statsnorm.errors import StatsnormError
from statsnorm.networks import Network, load_network, normalisers, untrained
from statsnorm.networks.blocks import Residual
from statsnorm.networks.colour import ColourInput, ColourOutput, unchanged
from statsnorm.networks.network import norm_of, state_sha256, study
from statsnorm.networks.texture import TextureGenerator, texture_network

FACTORY = """
import torch
from torch import nn
from statsnorm.networks import Network

def plain():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.InstanceNorm2d(4))

def pair():
    return plain(), lambda x: 2 * x

def whole():
    return Network(name="mine", module=nn.Identity(), norm="none", preprocess=lambda x: x)

def number():
    return 3

value = 3
"""


@pytest.fixture
def factory(tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("my_nets", None)


@pytest.mark.usefixtures("factory")
def test_a_dotted_factory_brings_any_module():
    before = list(sys.path)
    network = load_network("my_nets:plain")
    assert sys.path == before
    assert (network.name, network.norm, network.layout) == ("plain", "bn+in", "nchw")
    assert network.postprocess is None
    assert not network.module.training
    assert not any(p.requires_grad for p in network.module.parameters())
    assert network.sha256 == state_sha256(network.module)
    pair = load_network("my_nets:pair")
    x = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(pair.forward(x), pair.module(2 * x))
    assert load_network("my_nets:whole").name == "mine"


@pytest.mark.usefixtures("factory")
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("my_nets:plan", "has no attribute 'plan'"),
        ("my_netz:plain", "No module named 'my_netz'"),
        ("my_nets:value", "is not a function"),
        ("my_nets:number", "must return an nn.Module, .* got int"),
        (":plain", "cannot import network factory ':plain'"),
        ("vgg61", "unknown network 'vgg61'; did you mean 'vgg16', 'vgg19'"),
        ("gone.safetensors", "no weights file at 'gone.safetensors'"),
    ],
)
def test_unknown_networks_are_named(spec, message):
    with pytest.raises(StatsnormError, match=message):
        load_network(spec)


def test_weights_only_where_they_mean_something():
    with pytest.raises(StatsnormError, match="--weights 'torchvision' is for vgg16"):
        load_network("pixels", weights="torchvision")


def test_pixels_and_their_luminance():
    network = load_network("pixels")
    x = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]).view(4, 3, 1, 1)
    luma = network.forward(x).flatten()
    torch.testing.assert_close(luma, torch.tensor([0.299, 0.587, 0.114, 1.0]))
    assert network.forward(x.double()).dtype == torch.float64
    assert list(dict(network.module.named_children())) == ["rgb", "luminance"]


def test_colour_maps_undo_each_other_and_keep_the_dtype():
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    settings = {"mean": (1.0, 2.0, 3.0), "sd": (4.0, 5.0, 6.0), "scale": 255.0, "bgr": True}
    fed = ColourInput(**settings)(x)
    torch.testing.assert_close(fed[:, 0], (255 * x[:, 2] - 3) / 6)
    torch.testing.assert_close(ColourOutput(**settings)(fed), x)
    assert fed.dtype == torch.float64


def test_colour_constants_first_used_in_inference_can_be_trained_with():
    settings = {"mean": (0.11, 0.12, 0.13), "sd": (0.7, 0.8, 0.9)}
    with torch.inference_mode():
        ColourOutput(**settings)(torch.rand(1, 3, 2, 2))
    y = torch.rand(1, 3, 2, 2, requires_grad=True)
    ColourOutput(**settings)(y).sum().backward()
    torch.testing.assert_close(y.grad[0, :, 0, 0], torch.tensor([0.7, 0.8, 0.9]))


class Backwards(nn.Module):
    """Registered in another order than run; one normaliser never runs, one runs twice."""

    def __init__(self):
        super().__init__()
        self.last = nn.BatchNorm2d(3)
        self.unused = nn.BatchNorm2d(3)
        self.first = nn.InstanceNorm2d(3)
        self.fail = False

    def forward(self, x):
        y = self.first(self.first(x))
        if self.fail:
            raise RuntimeError("broken")
        return self.last(y)


def test_normalisers_come_in_running_order_and_hooks_go():
    module, x = Backwards().eval(), torch.rand(1, 3, 4, 4)
    found = normalisers(module, x)
    assert list(found) == ["first", "last"]
    assert found["last"] is module.last
    module.fail = True
    with pytest.raises(RuntimeError, match="broken"):
        normalisers(module, x)
    assert not any(m._forward_pre_hooks for m in module.modules())


def test_untrained_is_pytorchs_default_from_the_seed_alone():
    network = texture_network(TextureGenerator("in", width=16, blocks=1), seed=4, iteration=9)
    with torch.no_grad():
        network.module.conv1.norm.weight.fill_(7)
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    fresh = untrained(network, 5)
    assert torch.equal(torch.rand(3), expected)  # the global generator was not touched
    assert (fresh.name, fresh.seed, fresh.iteration) == ("texture", 5, 0)
    assert (network.seed, network.iteration) == (4, 9)
    assert float(network.module.conv1.norm.weight[0]) == 7
    assert torch.equal(fresh.module.conv1.norm.weight, torch.ones(16))
    assert torch.equal(fresh.module.conv1.norm.bias, torch.zeros(16))
    weight = fresh.module.res1.conv1.conv.weight
    bound = 1 / math.sqrt(64 * 9)  # Kaiming uniform, a = sqrt(5): 1 / sqrt(fan in)
    assert 0.99 * bound < float(weight.abs().max()) <= bound
    assert abs(float(weight.var()) - bound**2 / 3) < 0.02 * bound**2 / 3
    assert not weight.requires_grad
    again, other = untrained(network, 5), untrained(network, 6)
    assert again.sha256 == fresh.sha256 != other.sha256
    torch.manual_seed(5)
    same = TextureGenerator("in", width=16, blocks=1)  # as PyTorch would have made it
    assert torch.equal(same.conv1.conv.weight, fresh.module.conv1.conv.weight)


def test_untrained_resets_running_statistics_styles_and_loose_parameters():
    class Loose(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.full((1, 64), 9.0))
            self.attention = nn.MultiheadAttention(8, 2)

    network = load_network("cin26")
    fresh = untrained(network, 0)
    assert torch.equal(fresh.module.expand[0].norm.weight, torch.ones(26, 8))
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(fresh.forward(x, "0"), fresh.forward(x, "25"))
    assert not torch.equal(network.forward(x, "0"), network.forward(x, "25"))
    bn = nn.BatchNorm2d(2)
    bn(torch.rand(2, 2, 2, 2) + 5)
    loose = Loose()
    attention = loose.attention.in_proj_weight.clone()
    module = nn.ModuleList([bn, loose])
    foreign = Network(name="f", module=study(module), norm="bn", preprocess=unchanged)
    one, two = untrained(foreign, 1).module, untrained(foreign, 1).module
    assert torch.equal(one[0].running_mean, torch.zeros(2))
    assert 0.01 < float(one[1].token.std()) < 0.03
    assert torch.equal(one[1].token, two[1].token)
    assert not torch.equal(one[1].attention.in_proj_weight, attention)


def test_residual_adds_and_names_its_sum():
    block = Residual({"a": nn.Conv2d(2, 2, 1), "b": nn.ReLU()})
    x = torch.randn(1, 2, 3, 3)
    torch.testing.assert_close(block(x), x + block.b(block.a(x)))
    assert list(dict(block.named_children())) == ["a", "b", "sum"]


def test_norm_of_nothing_is_none():
    assert norm_of(nn.Conv2d(3, 3, 1)) == "none"


def test_an_index_for_an_unconditioned_network_is_refused():
    with pytest.raises(StatsnormError, match="takes no index, got '3'"):
        load_network("pixels").forward(torch.rand(1, 3, 4, 4), "3")
