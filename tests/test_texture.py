from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from statsnorm.errors import StatsnormError
from statsnorm.networks import load_network, normalisers
from statsnorm.networks.norms import NORMS, norm_kind
from statsnorm.networks.texture import TextureGenerator, texture_network
from statsnorm.networks.weights import save_checkpoint

RUN = {"target": "wave", "cell": "b03-in-a", "seed": 3, "iteration": 2000}


def generator(*args, **options):
    torch.manual_seed(0)
    return TextureGenerator(*args, **{"width": 4, "blocks": 2} | options)


def reference(x, state):
    """The published generator, instance-normalised, written out with functional calls."""

    def p(name, part):
        return state[f"{name}.{part}"]

    def norm(y, name):
        return F.instance_norm(y, weight=p(name, "norm.weight"), bias=p(name, "norm.bias"))

    def conv(y, name, reflect=0, **how):
        y = F.pad(y, (reflect,) * 4, mode="reflect") if reflect else y
        return F.conv2d(y, p(name, "conv.weight"), p(name, "conv.bias"), **how)

    def up(y, name):
        weight, bias = p(name, "conv.weight"), p(name, "conv.bias")
        return F.conv_transpose2d(y, weight, bias, stride=2, padding=1, output_padding=1)

    x = F.relu(norm(conv(x, "conv1", reflect=4), "conv1"))
    x = F.relu(norm(conv(x, "conv2", stride=2, padding=1), "conv2"))
    x = F.relu(norm(conv(x, "conv3", stride=2, padding=1), "conv3"))
    for i in (1, 2):
        y = F.relu(norm(conv(x, f"res{i}.conv1", reflect=1), f"res{i}.conv1"))
        x = x + norm(conv(y, f"res{i}.conv2", reflect=1), f"res{i}.conv2")
    x = F.relu(norm(up(x, "up1"), "up1"))
    x = F.relu(norm(up(x, "up2"), "up2"))
    return F.conv2d(F.pad(x, (1,) * 4, mode="reflect"), state["out.weight"], state["out.bias"])


def test_against_the_published_layers():
    module = generator("in").double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 3, 16, 20, dtype=torch.float64)
    torch.testing.assert_close(module(x), reference(x, module.state_dict()))


def test_size_of_the_reference_setting():
    shapes = {k: tuple(v.shape) for k, v in TextureGenerator("in").state_dict().items()}
    assert shapes["conv1.conv.weight"] == (32, 3, 9, 9)
    assert shapes["res5.conv2.conv.weight"] == (128, 128, 3, 3)
    assert shapes["up1.conv.weight"] == (128, 64, 3, 3)
    assert shapes["out.weight"] == (3, 32, 3, 3)
    assert "res6.conv1.conv.weight" not in shapes


@pytest.mark.parametrize(
    ("norm_at", "rest", "kinds"),
    [
        ("all", "none", ["in"] * 9),
        ("first", "none", ["in"]),
        ("last", "bn", ["bn"] * 8 + ["in"]),
    ],
)
def test_where_the_norm_stands(norm_at, rest, kinds):
    module = generator("in", norm_at=norm_at, rest=rest)
    found = normalisers(module.eval(), torch.rand(1, 3, 16, 16))
    assert [norm_kind(m) for m in found.values()] == kinds
    names = list(found)
    assert names[0] == "conv1.norm" if norm_at != "last" else names[-1] == "up2.norm"


def test_blocks_of_all_norms_share_their_first_convolutions():
    weights = [generator(norm).state_dict()["conv3.conv.weight"] for norm in NORMS]
    assert all(torch.equal(weights[0], w) for w in weights)


@pytest.mark.parametrize(
    ("norm", "styles"), [*((norm, 1) for norm in NORMS), ("cin", 3), ("frozen", 3)]
)
def test_checkpoint_round_trip(norm, styles, tmp_path):
    module, path = generator(norm, styles=styles), tmp_path / "g.safetensors"
    for value in module.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5)
    digest = save_checkpoint(path, module, module.architecture | RUN)
    network = load_network(str(path))
    assert (network.name, network.norm, network.sha256) == ("texture", norm, digest)
    assert (network.cell, network.seed, network.iteration) == ("b03-in-a", 3, 2000)
    conditional = norm == "cin" or styles > 1
    assert network.indices == (tuple("012"[:styles]) if conditional else ())
    assert not network.module.training
    assert not any(p.requires_grad for p in network.module.parameters())
    x = torch.rand(2, 3, 16, 16)
    index = network.indices[-1] if network.indices else ""
    torch.testing.assert_close(
        network.forward(x, index), texture_network(module).forward(x, index), rtol=0, atol=0
    )


def test_a_fresh_generator_makes_a_grey_image_in_the_right_units():
    network = texture_network(TextureGenerator("in", width=8, blocks=1))
    x = torch.rand(2, 3, 32, 32)
    for parameter in network.module.out.parameters():
        nn.init.zeros_(parameter)
    grey = network.postprocess(network.forward(x))
    expected = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1).expand_as(grey)
    torch.testing.assert_close(grey, expected)
    torch.testing.assert_close(network.postprocess(network.preprocess(x)), x)  # one unit in = out


def test_batch_size_one_batch_norm_is_instance_norm():
    ours, other = generator("bn").train(), generator("in").train()
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(ours(x), other(x), atol=1e-4, rtol=1e-4)


def test_gradients_reach_every_parameter():
    for norm in ("in", "bn", "cin", "gn", "none", "in-whiten"):
        module = generator(norm, styles=2 if norm == "cin" else 1).train()
        index = [torch.tensor([0, 1])] if norm == "cin" else []
        module(torch.randn(2, 3, 16, 16), *index).square().mean().backward()
        assert all(p.grad is not None for p in module.parameters())


def test_bad_checkpoints_and_arguments_are_named(tmp_path):
    path, module = tmp_path / "g.safetensors", generator("in")
    save_checkpoint(path, module, module.architecture | RUN | {"width": 8})
    with pytest.raises(
        StatsnormError,
        match=r"'conv1.conv.weight' has shape \(4, 3, 9, 9\), expected \(8, 3, 9, 9\)",
    ):
        load_network(str(path))
    save_checkpoint(path, module, module.architecture | {"blocks": "two"})
    with pytest.raises(StatsnormError, match="bad metadata: invalid literal"):
        load_network(str(path))
    save_checkpoint(path, module, module.architecture | {"width": 10**9})
    with pytest.raises(StatsnormError, match="at most 1024, got 1000000000"):
        load_network(str(path))
    save_file(load_file(path), path, {"architecture": "textur"})
    with pytest.raises(StatsnormError, match="metadata `architecture` is 'textur'"):
        load_network(str(path))
    with pytest.raises(StatsnormError, match="unknown norm_at 'frist'; did you mean 'first'"):
        TextureGenerator("in", norm_at="frist")
    with pytest.raises(StatsnormError, match="blocks at least 0, got width=32, styles=1, blocks=-"):
        TextureGenerator("in", blocks=-1)
    with pytest.raises(StatsnormError, match="one set of parameters, got styles=2"):
        TextureGenerator("in", styles=2)
    with pytest.raises(StatsnormError, match="unknown norm"):
        TextureGenerator("instance")
