from __future__ import annotations

import numpy as np
import pytest
import torch
from goldens import assert_matches_golden
from numpy_nets import johnson, tf_same, tf_transposed
from safetensors.torch import save_file
from shared_data import SHARED, needs_shared

from statsnorm.errors import StatsnormError
from statsnorm.networks import load_network
from statsnorm.networks.johnson import SameConv2d, SameConvTranspose2d, build_johnson

META = {"output": "150*tanh(out)+127.5, clip 0..255", "input": "RGB 0..255 float"}
FILES = ("johnson_scream", "johnson_udnie", "johnson_wave")


def random_file(path):
    """Write a network of random weights with the keys of the published files."""
    generator = torch.Generator().manual_seed(11)
    state = {}
    for key, value in build_johnson().state_dict().items():
        drawn = torch.randn(value.shape, generator=generator) / max(1, value[0].numel()) ** 0.5
        state[key.replace(".conv.weight", ".weight")] = drawn
    save_file(state, path, META)
    return state


@pytest.mark.parametrize("side", [8, 9, 11])
@pytest.mark.parametrize(("kernel", "stride"), [(9, 1), (3, 1), (3, 2), (4, 2), (3, 3)])
def test_same_convolution_against_tensorflows_definition(side, kernel, stride):
    conv = SameConv2d(2, 3, kernel, stride, bias=False).double()
    x = torch.randn(1, 2, side, side + 1, dtype=torch.float64)
    expected = tf_same(x.numpy(), conv.weight.detach().numpy(), stride)
    np.testing.assert_allclose(conv(x).detach().numpy(), expected, atol=1e-12)
    assert conv(x).shape[2] == -(-side // stride)


def test_transposed_convolution_against_the_definition_and_the_gradient():
    conv = SameConvTranspose2d(3, 2, 3, stride=2, bias=False).double()
    x = torch.randn(1, 3, 5, 4, dtype=torch.float64)
    expected = tf_transposed(x.numpy(), conv.weight.detach().numpy())
    np.testing.assert_allclose(conv(x).detach().numpy(), expected, atol=1e-12)
    # TensorFlow defines it as the gradient of the SAME convolution with the same kernel
    forward = SameConv2d(2, 3, 3, stride=2, bias=False).double()
    forward.weight = conv.weight
    image = torch.zeros(1, 2, 10, 8, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad((forward(image) * x).sum(), image)
    torch.testing.assert_close(conv(x), gradient)


def test_whole_network_of_random_weights_against_numpy(tmp_path):
    state = random_file(tmp_path / "johnson_random.safetensors")
    network = load_network(str(tmp_path / "johnson_random.safetensors"))
    assert (network.name, network.norm, network.multiple) == ("johnson_random", "in", 4)
    x = torch.rand(2, 3, 16, 12, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    network.module.double()
    found = {}
    for tap in ("conv3.act", "res1.sum", "res5.sum"):
        network.module.get_submodule(tap).register_forward_hook(
            lambda _m, _i, out, tap=tap: found.update({tap: out.clone()})
        )
    found["output"] = network.postprocess(network.forward(x))
    arrays = {k: v.double().numpy() for k, v in state.items()}
    expected = johnson(255 * x.numpy(), arrays)
    for tap, value in found.items():
        np.testing.assert_allclose(value.numpy(), expected[tap], atol=1e-8, err_msg=tap)


@needs_shared
@pytest.mark.parametrize("name", FILES)
def test_real_weights_against_golden(name):
    network = load_network(str(SHARED / "style_nets" / f"{name}.safetensors"))
    assert network.name == name
    assert_matches_golden(network, name)


def test_a_file_of_the_wrong_shape_is_named(tmp_path):
    path = tmp_path / "johnson_odd.safetensors"
    state = random_file(path)
    save_file(state | {"conv2.weight": torch.zeros(64, 32, 5, 5)}, path, META)
    with pytest.raises(
        StatsnormError,
        match=r"'conv2.weight' has shape \(64, 32, 5, 5\), expected \(64, 32, 3, 3\)",
    ):
        load_network(str(path))
    del state["res3.conv1.norm.bias"]
    save_file(state, path)  # recognised by its keys alone
    with pytest.raises(StatsnormError, match=r"lacks 'res3.conv1.norm.bias', expected shape"):
        load_network(str(path))
