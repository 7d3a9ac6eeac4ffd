from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from statsnorm.errors import StatsnormError
from statsnorm.freeze import batch_statistics, freeze
from statsnorm.moments import channel_moments
from statsnorm.networks import Network, load_network
from statsnorm.networks.blocks import Chain
from statsnorm.networks.network import study
from statsnorm.networks.norms import FrozenAffine, make_norm
from statsnorm.networks.texture import TextureGenerator, texture_network
from statsnorm.taps import find_taps, forward_moments, record_moments

NORMS = ["in", "cin", "bn", "gn", "ln"]


def images(n, seed=0, size=24):
    """Images that differ in brightness and contrast, so that their moments do."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 3, size, size, generator=generator)
    low = 0.5 * torch.rand(n, 3, 1, 1, generator=generator)
    return low + x * (1 - low) * (0.2 + 0.8 * torch.rand(n, 1, 1, 1, generator=generator))


def scrambled(module, seed=1):
    """Give every normaliser a gamma, beta and running statistics of its own."""
    generator = torch.Generator().manual_seed(seed)
    for m in module.modules():
        if isinstance(getattr(m, "eps", None), float) and getattr(m, "weight", None) is not None:
            for values, low in ((m.weight, 0.5), (m.bias, -0.5)):
                values.data = low + torch.rand(values.shape, generator=generator)
        if getattr(m, "running_mean", None) is not None:
            m.running_mean.copy_(torch.rand(m.running_mean.shape, generator=generator))
            m.running_var.copy_(0.5 + torch.rand(m.running_var.shape, generator=generator))
    return module


def texture(norm, blocks=1):
    styles = 3 if norm == "cin" else 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        generator = TextureGenerator(norm, width=8, blocks=blocks, styles=styles)
    return texture_network(scrambled(generator))


def two_layers(norm, styles=1):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        parts = {
            "a": nn.Conv2d(3, 8, 3),
            "norm1": make_norm(norm, 8, styles=styles),
            "act": nn.ReLU(),
            "b": nn.Conv2d(8, 8, 3),
            "norm2": make_norm(norm, 8, styles=styles),
        }
    indices = tuple(map(str, range(styles))) if styles > 1 else ()
    chain = study(scrambled(Chain(parts)))
    return Network(name="two", module=chain, norm=norm, preprocess=lambda x: x, indices=indices)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.InstanceNorm2d(3)

    def forward(self, x):
        return self.norm(self.norm(x).relu())


def bare(module):
    """A network of one module that takes images as they are."""
    return Network(name="bare", module=study(module), norm="in", preprocess=lambda x: x)


def index_of(network):
    return network.indices[1] if network.indices else ""


def maps(network):
    return {n: m for n, m in network.module.named_modules() if isinstance(m, FrozenAffine)}


# --- calibration ------------------------------------------------------------------------------


@pytest.mark.parametrize("treatment", ["frozen:prefix", "frozen:all", "frozen:norm2"])
def test_against_a_plain_float64_calculation(treatment):
    net, reference, x = two_layers("in"), images(6), images(3, seed=9)
    frozen = freeze(net, treatment, lambda: [reference])
    a, first, b, second = (net.module.get_submodule(n) for n in ("a", "norm1", "b", "norm2"))

    def weights(norm):
        return (p.detach().double().numpy().reshape(1, -1, 1, 1) for p in (norm.weight, norm.bias))

    def conv(layer, y):
        return F.conv2d(torch.tensor(y), layer.weight.double(), layer.bias.double()).numpy()

    def instance(y, norm):
        gamma, beta = weights(norm)
        mean, var = y.mean((2, 3), keepdims=True), y.var((2, 3), keepdims=True)
        return gamma * (y - mean) / np.sqrt(var + 1e-5) + beta

    def fixed(y, norm, like):
        gamma, beta = weights(norm)
        mean = like.mean((2, 3)).mean(0).reshape(1, -1, 1, 1)
        var = like.var((2, 3)).mean(0).reshape(1, -1, 1, 1)
        return gamma * (y - mean) / np.sqrt(var + 1e-5) + beta

    with torch.inference_mode():
        r1 = conv(a, reference.double().numpy())
        x1 = conv(a, x.double().numpy())
        if treatment == "frozen:norm2":
            r2 = conv(b, np.maximum(instance(r1, first), 0))
            x2 = conv(b, np.maximum(instance(x1, first), 0))
        else:
            before = fixed(r1, first, r1) if treatment == "frozen:prefix" else instance(r1, first)
            r2 = conv(b, np.maximum(before, 0))
            x2 = conv(b, np.maximum(fixed(x1, first, r1), 0))
        expected = fixed(x2, second, r2)
        assert_close(frozen.forward(x).double().numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["in", "cin", "gn", "ln"])
@pytest.mark.parametrize("treatment", ["frozen:prefix", "frozen:all"])
def test_frozen_on_one_image_is_the_network_itself_on_that_image(norm, treatment):
    net, x = texture(norm), images(1)
    frozen = freeze(net, treatment, lambda: [x], index=index_of(net))
    with torch.inference_mode():
        plain, other = net.forward(x, index_of(net)), frozen.forward(x, index_of(net))
        assert_close(other, plain, rtol=1e-4, atol=1e-4)
        y = images(1, seed=5)
        assert not torch.allclose(
            net.forward(y, index_of(net)), frozen.forward(y, index_of(net)), atol=1e-2
        )


def test_batches_of_references_agree_with_one_batch(monkeypatch):
    net, reference = texture("in"), images(7)
    together = freeze(net, "frozen:prefix", lambda: iter(reference.split(3)))
    monkeypatch.setattr("statsnorm.freeze._ONE_PASS", 1)
    apart = freeze(net, "frozen:prefix", lambda: iter(reference.split(3)))
    assert list(maps(together)) == list(maps(apart))
    assert len(maps(apart)) == 7
    for name, frozen in maps(together).items():
        assert_close(maps(apart)[name].mean, frozen.mean, rtol=1e-4, atol=1e-5)
        assert_close(maps(apart)[name].sd, frozen.sd, rtol=1e-4, atol=1e-6)


def test_each_style_index_has_its_own_maps():
    net, reference = two_layers("cin", styles=3), images(5)
    frozen = {s: freeze(net, "frozen:prefix", lambda: [reference], index=s) for s in "02"}
    first = [maps(frozen[s])["norm1"] for s in "02"]
    second = [maps(frozen[s])["norm2"] for s in "02"]
    assert_close(first[0].mean, first[1].mean)  # nothing conditional before the first
    assert not torch.allclose(second[0].mean, second[1].mean)
    assert first[0].weight.shape == (3, 8)
    assert torch.equal(first[0].weight, net.module.norm1.weight)
    x = images(2, seed=3)
    assert not torch.allclose(frozen["0"].forward(x, "0"), frozen["2"].forward(x, "2"))


def test_a_single_layer_leaves_the_others():
    net = texture("in")
    for which in ("res1.conv1.norm", "res1.conv1.norm.in"):
        frozen = freeze(net, f"frozen:{which}", lambda: [images(4)])
        assert list(maps(frozen)) == ["res1.conv1.norm"]
    assert not maps(net)
    assert maps(freeze(net, "frozen:all", lambda: [images(4)])).keys() == {
        t.module for t in find_taps(net, images(1)) if t.kind == "post_norm"
    }


@pytest.mark.parametrize("norm", NORMS)
def test_taps_keep_their_names_and_kinds(norm):
    net = texture(norm)
    frozen = freeze(net, "frozen:prefix", lambda: [images(4)], index=index_of(net))
    plain, other = find_taps(net, images(1)), find_taps(frozen, images(1))
    assert [(t.name, t.kind, t.eps) for t in plain] == [(t.name, t.kind, t.eps) for t in other]
    assert not any(any(t.by_construction) for t in other)


def test_tokens_and_channels_last_layer_norms():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(3)

        def forward(self, x):
            return self.norm(x.flatten(2).movedim(1, 2))  # (N, T, C)

    net = Network(name="t", module=study(scrambled(Tokens())), norm="ln", preprocess=lambda x: x)
    reference, x = images(5), images(2, seed=8)
    frozen = freeze(net, "frozen:norm", lambda: [reference])
    tokens = reference.flatten(2).double()  # (N, C, T)
    mean = tokens.mean(1).mean()
    sd = torch.sqrt(tokens.var(1, correction=0).mean() + 1e-5)
    norm = net.module.norm
    expected = norm.weight.double() * (x.flatten(2).mT.double() - mean) / sd + norm.bias.double()
    assert_close(frozen.forward(x).double(), expected, rtol=1e-5, atol=1e-5)


def test_cin26_frozen_runs_and_adapts_no_more():
    net = load_network("cin26")
    frozen = freeze(net, "frozen:prefix", lambda: [images(4, size=32)], index="3")
    assert len(maps(frozen)) == 18
    x = images(2, seed=4, size=32)
    tap = [t for t in find_taps(net, x) if t.name == "contract.0.norm"]
    plain, _ = forward_moments(net, x, tap, index="3")
    other, _ = forward_moments(frozen, x, tap, index="3")
    spread = [m[tap[0]].mean.std(0).mean().item() for m in (plain, other)]
    assert spread[0] < 1e-4 < 1e-2 < spread[1]


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("treatment", "message"),
    [
        ("frozen:conv1.nrom", r"unknown normaliser 'conv1.nrom'; did you mean 'conv1.norm'"),
        ("frozen", "unknown treatment 'frozen'"),
        ("thawed:all", "unknown treatment 'thawed:all'"),
    ],
)
def test_bad_treatment(treatment, message):
    with pytest.raises(StatsnormError, match=message):
        freeze(texture("in"), treatment, lambda: [images(1)])


def test_networks_that_cannot_be_frozen():
    with pytest.raises(StatsnormError, match="has no normaliser to freeze"):
        freeze(texture("none"), "frozen:all", lambda: [images(1)])
    with pytest.raises(StatsnormError, match="no reference images"):
        freeze(texture("in"), "frozen:all", lambda: [])
    with pytest.raises(StatsnormError, match="type RMSNorm cannot be frozen"):
        freeze(bare(nn.Sequential(nn.RMSNorm(24))), "frozen:all", lambda: [images(1)])
    with pytest.raises(StatsnormError, match="over the channels can be frozen"):
        freeze(bare(nn.Sequential(nn.LayerNorm([3, 24, 24]))), "frozen:all", lambda: [images(1)])
    twice = bare(Twice())
    with pytest.raises(StatsnormError, match="'norm' runs more than once"):
        freeze(twice, "frozen:all", lambda: [images(1)])
    with pytest.raises(StatsnormError, match="'bn_train' needs batch normalisation"):
        batch_statistics(texture("in"))


# --- identities of method.md 2.6 --------------------------------------------------------------


def between(moments, reference_var=None):
    """Between-image variance (C,) of the scale-free moments m and v (method.md 0.5)."""
    mean, var = moments.mean.double(), moments.var.double()
    scale = var.mean(0).sqrt()
    return (mean / scale).var(0), (0.5 * var.log()).var(0)


def omega(moments):
    """Between-sample share of the variance: law of total variance."""
    mean, var = moments.mean.double(), moments.var.double()
    return mean.var(0, correction=0) / (mean.var(0, correction=0) + var.mean(0))


@pytest.mark.parametrize("norm", NORMS)
def test_a_frozen_map_removes_nothing_at_the_tap_behind_it(norm):
    net = texture(norm)
    frozen = freeze(net, "frozen:prefix", lambda: [images(6)], index=index_of(net))
    x = images(12, seed=7)
    names = ["conv2.norm.in", "conv2.norm"]
    with torch.inference_mode(), record_moments(frozen, names) as moments:
        frozen.forward(x, index_of(net))
    before, after = (between(moments[name]) for name in names)
    for y, z in zip(before, after, strict=True):
        assert_close(z, y, rtol=1e-4, atol=1e-9)  # R_f = 1 - after / before = 0
    assert_close(omega(moments[names[1]]), omega(moments[names[0]]), rtol=1e-4, atol=1e-6)
    with torch.inference_mode(), record_moments(net, names) as moments:
        net.forward(x, index_of(net))
    if norm in ("in", "cin"):
        assert omega(moments[names[1]]).max() < 1e-6
    if norm in ("gn", "ln"):
        assert not torch.allclose(
            between(moments[names[1]])[1], between(moments[names[0]])[1], rtol=1e-2
        )


def test_batch_norm_in_training_mode_keeps_the_law_of_total_variance():
    norm = nn.BatchNorm2d(8, affine=False, eps=1e-30)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), norm).double()
    net = Network(name="b", module=study(module), norm="bn", preprocess=lambda x: x)
    treated = batch_statistics(net)
    x = images(9).double()
    with torch.inference_mode(), record_moments(treated, ["1.in", "1"]) as moments:
        treated.forward(x)
    after = moments["1"]
    total = after.var.mean(0) + after.mean.var(0, correction=0)
    assert_close(total, torch.ones_like(total), rtol=1e-12, atol=0)
    assert_close(omega(after), omega(moments["1.in"]), rtol=1e-10, atol=1e-12)
    for y, z in zip(between(moments["1.in"]), between(after), strict=True):
        assert_close(z, y, rtol=1e-9, atol=1e-12)  # one affine map for the batch: R_f = 0


def test_batch_statistics_change_nothing_that_is_kept():
    net = texture("bn")
    state = {k: v.clone() for k, v in net.module.state_dict().items()}
    treated = batch_statistics(net)
    x = images(4)
    with torch.inference_mode():
        assert not torch.allclose(treated.forward(x), net.forward(x), atol=1e-2)
        assert not torch.allclose(treated.forward(x)[:1], treated.forward(x[:1]), atol=1e-2)
        once = treated.forward(x)
        assert torch.equal(once, treated.forward(x))
    assert not any(m.training for m in treated.module.modules())
    for key, value in net.module.state_dict().items():
        assert torch.equal(value, state[key])


def test_batch_norm_with_batch_one_is_instance_norm():
    batch, x = batch_statistics(texture("bn")), images(1)
    instance = texture("in")
    instance.module.load_state_dict(batch.module.state_dict(), strict=False)
    with torch.inference_mode():
        assert_close(batch.forward(x), instance.forward(x), rtol=1e-4, atol=1e-5)


def test_group_norm_at_its_ends_is_instance_and_layer_norm():
    x = torch.randn(3, 8, 9, 11, dtype=torch.float64)
    instance, groups = make_norm("in", 8).double(), nn.GroupNorm(8, 8).double()
    layer = make_norm("ln", 8).double()
    assert_close(groups(x), instance(x), rtol=1e-12, atol=1e-12)
    assert_close(layer(x), F.layer_norm(x, x.shape[1:]), rtol=1e-12, atol=1e-12)
    # ... and so are their frozen maps.
    for one, other in ((nn.GroupNorm(8, 8), make_norm("in", 8)), (nn.GroupNorm(1, 8), layer)):
        nets = [
            Network(
                name="g",
                module=study(nn.Sequential(nn.Conv2d(3, 8, 1), norm.float())),
                norm="gn",
                preprocess=lambda x: x,
            )
            for norm in (one, other)
        ]
        nets[1].module[0].load_state_dict(nets[0].module[0].state_dict())
        a, b = (maps(freeze(n, "frozen:all", lambda: [images(4)]))["1"] for n in nets)
        assert_close(a.mean, b.mean)
        assert_close(a.sd, b.sd)


def correlation(x):
    """Channel correlations over space (N, C, C), in numpy."""
    return np.stack([np.corrcoef(image.reshape(len(image), -1)) for image in x.numpy()])


def test_instance_norm_keeps_channel_correlations_and_whitening_removes_them():
    generator = torch.Generator().manual_seed(8)
    mixing = torch.eye(6) + 0.2 * torch.randn(6, 6, generator=generator)
    x = torch.einsum("dc,nchw->ndhw", mixing, torch.randn(2, 6, 20, 20, generator=generator))
    x = x.double()
    norm = scrambled(make_norm("in", 6)).double()
    norm.weight.data[2] *= -1  # a negative gamma flips the sign of its row and column
    signs = norm.weight.detach().sign().numpy()
    expected = signs[:, None] * signs * correlation(x)
    assert_close(correlation(norm(x).detach()), expected, rtol=1e-9, atol=1e-9)
    whitened = make_norm("in-whiten", 6).double()(x).detach()
    assert np.abs(correlation(whitened) - np.eye(6)).max() < 1e-3
    assert channel_moments(whitened).mean.abs().max() < 1e-9
