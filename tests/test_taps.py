from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.testing import assert_close

from statsnorm.errors import StatsnormError
from statsnorm.moments import ChannelMoments
from statsnorm.networks import Network, load_network
from statsnorm.networks.blocks import Chain
from statsnorm.networks.network import study
from statsnorm.networks.norms import make_norm
from statsnorm.networks.texture import TextureGenerator, texture_network
from statsnorm.taps import (
    assert_by_construction,
    check_by_construction,
    find_taps,
    forward_moments,
    record_moments,
    select_taps,
)


def network(module, **kwargs):
    kwargs = {"name": "net", "norm": "none", "preprocess": lambda x: x} | kwargs
    return Network(module=study(module), **kwargs)


@pytest.fixture
def images():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def cin26():
    return load_network("cin26")


class Twice(nn.Module):
    """Runs one convolution and one ReLU twice, and adds."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.relu(self.conv(x))
        y = self.conv(y)
        y += x
        return self.relu(y)


class IBN(nn.Module):
    """Half instance, half batch normalisation, as in IBN-Net."""

    def __init__(self, channels):
        super().__init__()
        self.IN = nn.InstanceNorm2d(channels // 2, affine=True)
        self.BN = nn.BatchNorm2d(channels // 2)

    def forward(self, x):
        a, b = x.chunk(2, dim=1)
        return torch.cat([self.IN(a.contiguous()), self.BN(b.contiguous())], dim=1)


def hooks_in(module):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def summary(taps):
    return [(t.name, t.kind, t.call) for t in taps]


# --- recording --------------------------------------------------------------------------------


def test_reads_the_convolution_before_the_inplace_relu(images):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True))
    with torch.inference_mode(), record_moments(net, ["0", "1", "input"]) as moments:
        net(images)
    plain = net[0](images).detach().double()
    assert_close(moments["0"].mean.double(), plain.mean(dim=(2, 3)), rtol=1e-5, atol=1e-7)
    assert_close(moments["1"].mean.double(), plain.relu().mean(dim=(2, 3)), rtol=1e-5, atol=1e-7)
    assert_close(moments["input"].mean, images.mean(dim=(2, 3)))
    assert (moments["0"].mean < 0).any()


def test_a_module_that_runs_twice_gives_two_calls(images):
    net = Twice().eval()
    places = ["conv", "conv.in", "sum", "output", "relu"]
    with torch.inference_mode(), record_moments(net, places) as moments:
        net(images)
    assert {"conv", "conv#1", "conv.in", "conv.in#1", "relu", "relu#1", "output"} <= set(moments)
    first = net.conv(images)
    second = net.conv(first.relu())
    assert_close(moments["conv"].mean, first.mean(dim=(2, 3)), rtol=1e-5, atol=1e-6)
    assert_close(moments["conv#1"].mean, second.mean(dim=(2, 3)), rtol=1e-5, atol=1e-6)


def test_hooks_are_removed_when_the_forward_raises(images):
    class Broken(nn.Module):
        def forward(self, x):
            raise ZeroDivisionError

    net = nn.Sequential(nn.Conv2d(3, 4, 3), Broken())
    with pytest.raises(ZeroDivisionError), record_moments(net, ["0", "1.sum", "input"]) as moments:
        net(images)
    assert hooks_in(net) == 0
    assert list(moments) == ["input", "0"]


def test_gradients_flow_through_a_recorded_forward(images):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    with record_moments(net, ["0", "1"]) as moments:
        net(images).sum().backward()
    assert net[0].weight.grad is not None
    assert not moments["1"].mean.requires_grad


def test_unknown_tap_names_its_neighbours(cin26, images):
    with (
        pytest.raises(StatsnormError, match=r"unknown tap 'res.0.0.nrom'.*'res.0.0.norm'"),
        record_moments(cin26, ["res.0.0.nrom"]),
    ):
        pass
    with pytest.raises(StatsnormError, match=r"unknown tap 'res.0.sun'.*'res.0.sum'"):
        select_taps(find_taps(cin26, images), ["res.0.sun"])
    with pytest.raises(StatsnormError, match="no tap of kind 'vgg_of_output' here; kinds at hand"):
        select_taps(find_taps(cin26, images), ["vgg_of_output"])


def test_layouts_by_name():
    net = nn.Sequential(nn.Linear(6, 5))
    x = torch.randn(2, 10, 6)
    with torch.inference_mode(), record_moments(net, ["0"], layout="tokens", drop_tokens=1) as got:
        y = net(x)
    assert_close(got["0"].mean, y[:, 1:].mean(dim=1))


# --- finding ----------------------------------------------------------------------------------


def test_kinds_follow_the_order_of_execution(images):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.late = nn.InstanceNorm2d(4)  # defined first, runs last
            self.conv = nn.Conv2d(3, 4, 3)
            self.first = nn.InstanceNorm2d(4, affine=True)
            self.act = nn.ReLU(inplace=True)

        def forward(self, x):
            return self.late(self.act(self.first(self.conv(x))))

    taps = find_taps(network(Block()), images)
    assert summary(taps) == [
        ("input", "input", 0),
        ("first.in", "pre_norm", 0),
        ("first", "post_norm", 0),
        ("act", "post_act", 0),
        ("late.in", "next_pre_norm", 0),
        ("late", "post_norm", 0),
    ]  # the output is the last normaliser's: no image, so no tap of its own
    assert [t.depth for t in taps] == list(range(6))
    assert taps[1].eps == 1e-5
    assert taps[3].eps == 0


def test_cin26(cin26, images):
    taps = find_taps(cin26, images)
    kinds = [t.kind for t in taps]
    assert kinds.count("pre_norm") == 1
    assert kinds.count("post_norm") == 18 == kinds.count("next_pre_norm") + 1
    assert kinds.count("residual_sum") == 6
    assert next(t.name for t in taps if t.kind == "residual_sum") == "res.0.sum"
    assert (taps[-1].name, taps[-1].channels, taps[-1].width) == ("output", 3, 32)
    assert all(all(t.by_construction) == (t.kind == "post_norm") for t in taps)
    evidence = select_taps(taps, ["next_pre_norm", "res.*.sum", "output"])
    assert len(evidence) == 17 + 6 + 1
    assert [t.depth for t in evidence] == sorted(t.depth for t in evidence)


def test_vgg_pixels_and_extra_places(images):
    taps = find_taps(load_network("vgg16"), images, also=["conv1_*"])
    assert summary(taps)[:3] == [
        ("input", "input", 0),
        ("conv1_1", "module", 0),
        ("relu1_1", "post_act", 0),
    ]
    assert taps[-1].name == "relu4_2"
    assert summary(find_taps(load_network("pixels"), images)) == [
        ("rgb", "input", 0),
        ("luminance", "input", 0),
    ]


def test_foreign_sums_and_reused_modules(images):
    taps = find_taps(network(Twice()), images)
    assert summary(taps) == [
        ("input", "input", 0),
        ("relu", "post_act", 0),
        ("sum", "residual_sum", 0),
        ("relu", "post_act", 1),
    ]
    moments, _ = forward_moments(network(Twice()), images, taps[2:3])
    assert moments[taps[2]].mean.shape == (3, 3)


@pytest.mark.parametrize(
    ("module", "fixed"),
    [
        (make_norm("in", 8), True),
        (make_norm("cin", 8), True),
        (nn.GroupNorm(8, 8), True),
        (nn.GroupNorm(2, 8), False),
        (nn.GroupNorm(1, 8), False),
        (nn.BatchNorm2d(8), False),
        (make_norm("frozen", 8), False),
        (nn.InstanceNorm2d(8, track_running_stats=True), False),
    ],
)
def test_by_construction_by_type(module, fixed, images):
    indices = ("0",) if getattr(module, "styles", 0) else ()
    net = network(Chain({"0": nn.Conv2d(3, 8, 3), "1": module}), indices=indices)
    tap = find_taps(net, images)[2]
    assert tap.kind == "post_norm"
    assert tap.by_construction == (fixed,) * 8
    before = find_taps(net, images)[1]
    assert before.by_construction == (False,) * 8


def test_ibn_is_one_tap_with_a_mixed_mask(images):
    net = network(nn.Sequential(nn.Conv2d(3, 8, 3), IBN(8), nn.ReLU()))
    taps = find_taps(net, images)
    assert [t.name for t in taps] == ["input", "1.in", "1", "2"]
    assert taps[2].by_construction == (True,) * 4 + (False,) * 4
    assert taps[2].module_type == "IBN"
    moments, _ = forward_moments(net, images, taps)
    assert check_by_construction(net, moments) == 1


# --- foreign architectures, random weights ----------------------------------------------------


def test_resnet():
    net = network(torchvision.models.resnet18(weights=None))
    x = torch.rand(2, 3, 64, 64)
    taps = find_taps(net, x)
    assert [t.name for t in taps if t.kind == "residual_sum"] == [
        f"layer{i}.{j}.sum" for i in (1, 2, 3, 4) for j in (0, 1)
    ]
    assert not any(any(t.by_construction) for t in taps)
    assert not any(t.kind == "output" for t in taps)  # class scores have no space
    moments, _ = forward_moments(net, x, taps)
    total = select_taps(taps, ["layer1.0.sum"])[0]
    after = next(t for t in taps if t.name == "layer1.0.relu" and t.call == 1)
    module = net.module
    with torch.inference_mode():
        stem = module.maxpool(module.relu(module.bn1(module.conv1(x))))
        block = module.layer1[0]
        branch = block.bn2(block.conv2(block.bn1(block.conv1(stem)).relu()))
    expected = (stem + branch).double()
    assert_close(moments[total].mean.double(), expected.mean((2, 3)), rtol=1e-4, atol=1e-6)
    relu = expected.relu()
    assert_close(moments[after].var.double(), relu.var((2, 3), correction=0), rtol=1e-4, atol=1e-6)


def test_convnext_changes_its_layout_and_back():
    net = network(torchvision.models.convnext_tiny(weights=None))
    taps = {t.label: t for t in find_taps(net, torch.rand(1, 3, 64, 64))}
    first, inner, total = (
        taps[name] for name in ("features.0.1", "features.1.0.block.2", "features.1.0.sum")
    )
    assert (first.module_type, first.layout, first.channels) == ("LayerNorm2d", "nchw", 96)
    assert (inner.module_type, inner.layout, inner.channels) == ("LayerNorm", "nhwc", 96)
    assert (total.layout, total.channels, total.height) == ("nchw", 96, 16)
    hidden = taps["features.1.0.block.4"]
    assert (hidden.layout, hidden.channels, hidden.pixels) == ("nhwc", 384, 256)
    assert not any(any(t.by_construction) for t in taps.values())


def test_a_linear_layer_on_four_axes_is_channels_last():
    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear, self.act = nn.Conv2d(3, 4, 2, 2), nn.Linear(4, 6), nn.GELU()

        def forward(self, x):
            return self.act(self.linear(self.conv(x).movedim(1, -1)))

    taps = find_taps(network(Mixer()), torch.rand(1, 3, 16, 12))
    assert [(t.layout, t.channels, t.height, t.width) for t in taps] == [
        ("nchw", 3, 16, 12),
        ("nhwc", 6, 8, 6),
    ]


def test_vit_drops_its_class_token():
    vit = torchvision.models.VisionTransformer(
        image_size=64, patch_size=16, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64
    )
    net = network(vit)
    x = torch.rand(2, 3, 64, 64)
    taps = find_taps(net, x)
    tokens = [t for t in taps if t.layout == "tokens"]
    assert {t.drop_tokens for t in tokens} == {1}
    assert {t.pixels for t in tokens} == {16}
    assert taps[0].layout == "nchw"
    assert not any(any(t.by_construction) for t in taps)
    # One image: the position embedding has the shape of the activation, yet is no residual sum.
    assert [t.label for t in find_taps(net, x[:1])] == [t.label for t in taps]
    last = select_taps(taps, ["encoder.ln"])[0]
    moments, _ = forward_moments(net, x, [last])
    with torch.inference_mode():
        embedded = torch.cat([vit.class_token.expand(2, -1, -1), vit._process_input(x)], dim=1)
        encoded = vit.encoder(embedded)[:, 1:]
    assert_close(moments[last].mean, encoded.mean(1), rtol=1e-4, atol=1e-6)


# --- forward_moments --------------------------------------------------------------------------


def test_early_stop_gives_identical_moments(cin26, images):
    taps = select_taps(find_taps(cin26, images), ["contract.*", "res.1.sum"])
    stopped, none = forward_moments(cin26, images, taps, index="3")
    full, output = forward_moments(cin26, images, taps, index="3", stop=False)
    assert none is None
    assert_close(output, cin26.forward(images, "3"))
    assert list(stopped) == list(taps)
    for tap in taps:
        assert torch.equal(stopped[tap].mean, full[tap].mean)
        assert torch.equal(stopped[tap].var, full[tap].var)
    assert hooks_in(cin26.module) == 0


def test_early_stop_does_not_run_the_rest(images):
    class Bomb(nn.Module):
        def forward(self, x):
            raise AssertionError

    net = network(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Identity()))
    taps = select_taps(find_taps(net, images), ["1"])
    net.module[2] = Bomb()
    forward_moments(net, images, taps)
    with pytest.raises(AssertionError):
        forward_moments(net, images, taps, stop=False)


def test_rows_do_not_depend_on_the_batch(cin26, images):
    taps = select_taps(find_taps(cin26, images), ["next_pre_norm"])
    together, _ = forward_moments(cin26, images, taps, index="0")
    alone, _ = forward_moments(cin26, images[1:2], taps, index="0")
    for tap in taps:
        assert_close(alone[tap].mean[0], together[tap].mean[1], rtol=1e-4, atol=1e-4)
        assert_close(alone[tap].var[0], together[tap].var[1], rtol=1e-4, atol=1e-6)


def test_a_tap_that_is_not_reached_is_an_error(images):
    net = network(Twice())
    tap = replace(find_taps(net, images)[-1], call=2)
    with pytest.raises(StatsnormError, match="did not reach tap 'relu#2'"):
        forward_moments(net, images, [tap])


# --- by construction --------------------------------------------------------------------------


@pytest.mark.parametrize("index", ["0", "7"])
def test_cin26_fixes_its_moments(cin26, images, index):
    taps = select_taps(find_taps(cin26, images), ["pre_norm", "next_pre_norm", "post_norm"])
    moments, _ = forward_moments(cin26, images, taps, index=index)
    assert check_by_construction(cin26, moments, index=index) == 18
    alone = {t: m for t, m in moments.items() if t.kind == "post_norm"}
    assert check_by_construction(cin26, alone, index=index) == 18
    with pytest.raises(StatsnormError, match=r"tap 'contract.0.norm', image 0, channel 0: mean"):
        check_by_construction(cin26, moments, index="1")


@pytest.mark.parametrize("norm", ["in", "cin", "in-whiten"])
def test_texture_generators_fix_their_moments(norm, images):
    net = texture_network(TextureGenerator(norm, width=8, blocks=1))
    index = net.indices[0] if net.indices else ""
    moments, _ = forward_moments(net, images, find_taps(net, images), index=index)
    assert check_by_construction(net, moments, index=index) == 7


def test_whitening_of_dependent_channels_only_bounds_the_variance(images):
    net = network(nn.Sequential(nn.Conv2d(3, 8, 1), make_norm("in-whiten", 8)))  # rank 3 of 8
    moments, _ = forward_moments(net, images, find_taps(net, images))
    assert check_by_construction(net, moments) == 1


def test_by_construction_against_the_formula():
    rng = np.random.default_rng(5)
    gamma, beta, var_in = rng.normal(size=4), rng.normal(size=4), rng.uniform(1e-6, 1e-4, (2, 4))
    exact = gamma**2 * var_in / (var_in + 1e-5)  # eps matters here: var is far below gamma^2
    x = torch.rand(2, 3, 8, 8)
    tap = find_taps(network(nn.Sequential(nn.Conv2d(3, 4, 1), nn.InstanceNorm2d(4))), x)[2]
    weight, bias, before = (torch.tensor(a) for a in (gamma, beta, var_in))
    mean = bias.expand(2, 4).clone()
    good = ChannelMoments(mean, torch.tensor(exact), 64)
    assert_by_construction(tap, good, weight, bias, before, 1e-5)
    assert_by_construction(tap, good, weight, bias, None, 1e-5)
    without_eps = ChannelMoments(mean, weight.square().expand(2, 4), 64)
    with pytest.raises(StatsnormError, match=r"image 0, channel 0: variance is .* fixes it to"):
        assert_by_construction(tap, without_eps, weight, bias, before, 1e-5)
    too_wide = ChannelMoments(mean, 1.01 * weight.square().expand(2, 4), 64)
    with pytest.raises(StatsnormError, match="variance"):
        assert_by_construction(tap, too_wide, weight, bias, None, 1e-5)
    moved = ChannelMoments(mean + 0.01 * weight, torch.tensor(exact), 64)
    with pytest.raises(StatsnormError, match="mean is"):
        assert_by_construction(tap, moved, weight, bias, before, 1e-5)
    holed = ChannelMoments(mean * torch.nan, torch.tensor(exact), 64)
    with pytest.raises(StatsnormError, match="mean is nan"):
        assert_by_construction(tap, holed, weight, bias, before, 1e-5)
