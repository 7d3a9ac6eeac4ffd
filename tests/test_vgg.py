from __future__ import annotations

import pytest
import torch
from goldens import assert_matches_golden
from safetensors.torch import save_file
from shared_data import SHARED, needs_shared
from torchvision.models.vgg import cfgs, make_layers

from statsnorm.errors import StatsnormError
from statsnorm.networks import load_network
from statsnorm.networks.vgg import build_vgg
from statsnorm.networks.weights import read_embedded


def random_state(config, convolutions):
    """Return weights of the first convolutions with torchvision's keys, of unit gain."""
    layers = make_layers(cfgs[config], batch_norm=False)
    kept = [k for k in layers.state_dict() if k.endswith("weight")][:convolutions]
    state = {}
    generator = torch.Generator().manual_seed(2)
    for key in kept:
        shape = layers.state_dict()[key].shape
        scale = (2 / shape[1:].numel()) ** 0.5
        state[f"features.{key}"] = scale * torch.randn(shape, generator=generator)
        state[f"features.{key.replace('weight', 'bias')}"] = torch.randn(shape[0]) / 10
    return state


@pytest.mark.parametrize(("name", "config", "last"), [("vgg16", "D", "5_3"), ("vgg19", "E", "5_4")])
def test_layers_are_torchvisions(name, config, last):
    module, layers = build_vgg(name), make_layers(cfgs[config], batch_norm=False)
    theirs = layers.state_dict()
    assert [v.shape for v in module.state_dict().values()] == [v.shape for v in theirs.values()]
    assert [type(m) for m in module] == [type(m) for m in layers][:-1]  # but the last pooling
    assert list(dict(module.named_children()))[-1] == f"relu{last}"
    assert [name for name, _ in module.named_children()][:6] == [
        "conv1_1",
        "relu1_1",
        "conv1_2",
        "relu1_2",
        "pool1",
        "conv2_1",
    ]


def test_embedded_against_torchvision_layers_and_golden():
    network = load_network("vgg16")
    assert list(dict(network.module.named_children()))[-1] == "relu4_2"
    layers = make_layers(cfgs["D"], batch_norm=False)[:21]
    embedded = read_embedded("vgg16").state
    layers.load_state_dict({k.removeprefix("features."): v for k, v in embedded.items()})
    x = torch.rand(2, 3, 40, 24, generator=torch.Generator().manual_seed(0))
    mean = torch.tensor([123.68, 116.779, 103.939]).view(1, 3, 1, 1)
    torch.testing.assert_close(network.forward(x), layers(255 * x - mean))
    assert_matches_golden(network, "vgg16 embedded")


@pytest.mark.parametrize(
    ("stated", "transform"),
    [
        ("RGB, 0..255, minus mean (123.68, 116.779, 103.939)", "caffe"),
        ("BGR, 0..255, minus mean [103.939, 116.779, 123.68]", "bgr"),
        ("RGB 0..1, (x-mean)/std", "imagenet"),
    ],
)
def test_a_file_says_what_it_is_fed(tmp_path, stated, transform):
    state = random_state("E", 3)
    save_file(state, tmp_path / "v.safetensors", {"input": stated})
    network = load_network("vgg19", weights=str(tmp_path / "v.safetensors"))
    assert list(dict(network.module.named_children()))[-1] == "relu2_1"
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    caffe = torch.tensor([123.68, 116.779, 103.939]).view(1, 3, 1, 1)
    mean, sd = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 1, 3, 1, 1)
    fed = {
        "caffe": 255 * x - caffe,
        "bgr": (255 * x - caffe)[:, [2, 1, 0]],
        "imagenet": (x - mean) / sd,
    }[transform]
    layers = make_layers(cfgs["E"], batch_norm=False)[:7]
    layers.load_state_dict({k.removeprefix("features."): v for k, v in state.items()})
    torch.testing.assert_close(network.forward(x), layers(fed), atol=1e-4, rtol=1e-5)


def test_adain_encoder_pads_by_reflection(tmp_path):
    state = random_state("E", 2)
    stated = {"input": "BGR, 0..255, minus mean; reflection padding in AdaIN"}
    save_file(state, tmp_path / "v.safetensors", stated)
    network = load_network("vgg19", weights=str(tmp_path / "v.safetensors"))
    x = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    y = network.preprocess(x)
    for key in ("features.0", "features.2"):
        y = torch.nn.functional.pad(y, (1, 1, 1, 1), mode="reflect")
        y = torch.nn.functional.conv2d(y, state[f"{key}.weight"], state[f"{key}.bias"]).relu()
    torch.testing.assert_close(network.forward(x), y, atol=1e-4, rtol=1e-5)


@needs_shared
@pytest.mark.parametrize(
    ("name", "file"),
    [("vgg16", "vgg16_torchvision"), ("vgg19", "vgg19_normalised_bgr_relu4_1")],
)
def test_real_weights_against_golden(name, file):
    network = load_network(name, weights=str(SHARED / "vgg" / f"{file}.safetensors"))
    assert_matches_golden(network, file)


def test_bad_weights_are_named(tmp_path):
    path = tmp_path / "v.safetensors"
    state = random_state("D", 2)
    with pytest.raises(
        StatsnormError, match="unknown weights of vgg16 'embeded'; did you mean 'em"
    ):
        load_network("vgg16", weights="embeded")
    with pytest.raises(StatsnormError, match="vgg19 is not embedded; use --weights torchvision"):
        load_network("vgg19", weights="embedded")
    with pytest.raises(StatsnormError, match="no weights file at"):
        load_network("vgg16", weights="nowhere.safetensors")
    save_file(state, path)
    with pytest.raises(StatsnormError, match="metadata `input` beginning"):
        load_network("vgg16", weights=str(path))
    stated = {"input": "RGB 0..1"}
    save_file(state | {"features.2.weight": torch.zeros(64, 64, 1, 1)}, path, stated)
    with pytest.raises(
        StatsnormError,
        match=r"'features.2.weight' has shape \(64, 64, 1, 1\), expected \(64, 64, 3, 3\)",
    ):
        load_network("vgg16", weights=str(path))
    save_file({"a": torch.zeros(1)}, path, stated)
    with pytest.raises(StatsnormError, match="holds no VGG weights"):
        load_network("vgg16", weights=str(path))
    save_file(random_state("E", 9), path, stated)  # vgg19's conv3_4 under vgg16's name
    with pytest.raises(StatsnormError, match=r"holds 'features.16.bias', which"):
        load_network("vgg16", weights=str(path))
