from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from goldens import assert_matches_golden
from numpy_nets import torch7
from safetensors.torch import save_file
from shared_data import SHARED, needs_shared
from torch import nn

from statsnorm.errors import StatsnormError
from statsnorm.networks import load_network
from statsnorm.networks.texture_nets import FixedNoise, estimate_population

META = {"source": "texture_nets, random"}


def conv(key, pad=1):
    padding = {"type": "nn.SpatialCircularPadding", "pad": pad}
    inner = [padding, {"type": "nn.SpatialConvolution", "key": f"{key}.1"}]
    return {"type": "nn.Sequential", "modules": inner}


def norm(key, channels):
    return {
        "type": "nn.SpatialBatchNormalization",
        "key": key,
        "eps": 1e-5,
        "channels": channels,
    }


def branch(prefix, pool, ups):
    leaky = {"type": "nn.LeakyReLU", "slope": 0.01}
    modules = [
        {"type": "nn.SpatialAveragePooling", "k": pool},
        {"type": "nn.GenNoise"},
        conv(f"{prefix}.2"),
        norm(f"{prefix}.3", 4),
        leaky,
    ]
    if ups:
        modules += [{"type": "nn.SpatialUpSamplingNearest", "scale": 2}, norm(f"{prefix}.6", 4)]
    return {"type": "nn.Sequential", "modules": modules}


ARCHITECTURE = {
    "type": "nn.Sequential",
    "modules": [
        {"type": "nn.Concat", "modules": [branch("0.0", 2, True), branch("0.1", 1, False)]},
        conv("1"),
        norm("2", 8),
        {"type": "nn.LeakyReLU", "slope": 0.01},
        conv("4", pad=0),
    ],
}


def write(folder, architecture=None, **changed):
    """Write a two-scale pyramid of random weights; one normaliser lacks running statistics."""
    shapes = {"0.0.2.1": (4, 6, 3, 3), "0.1.2.1": (4, 6, 3, 3)}
    shapes |= {"1.1": (8, 8, 3, 3), "4.1": (3, 8, 1, 1)}
    generator = torch.Generator().manual_seed(8)
    state = {}
    for key, shape in shapes.items():
        state[f"{key}.weight"] = torch.randn(shape, generator=generator)
        state[f"{key}.bias"] = torch.randn(shape[0], generator=generator)
    for key, channels in {"0.0.3": 4, "0.0.6": 4, "0.1.3": 4, "2": 8}.items():
        for part in ("weight", "bias", "running_mean", "running_var"):
            if (key, part[:7]) != ("0.0.6", "running"):
                state[f"{key}.{part}"] = torch.rand(channels, generator=generator)
    path = folder / "small_style.safetensors"
    save_file(state | changed, path, META)
    text = json.dumps(architecture or ARCHITECTURE)
    (folder / "architecture.json").write_text(text, encoding="utf-8")
    return str(path)


def noise_of(module):
    layers = iter([m for m in module.modules() if isinstance(m, FixedNoise)])
    return lambda shape: next(layers)(torch.zeros(shape, dtype=torch.float64))[
        :, shape[1] :
    ].numpy()


def test_small_pyramid_against_numpy(tmp_path):
    network = load_network(write(tmp_path))
    assert (network.name, network.norm) == ("texture_nets_bn/small", "bn")
    x = torch.rand(2, 3, 32, 16, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    module = network.module.double()
    state = {k: v.numpy() for k, v in module.state_dict().items()}
    raw = torch7(ARCHITECTURE, x.numpy(), state, noise_of(module))
    np.testing.assert_allclose(network.forward(x).numpy(), raw, atol=1e-9)
    picture = network.postprocess(network.forward(x)).numpy()
    blue_green_red = raw + np.array([103.939, 116.779, 123.68])[:, None, None]
    np.testing.assert_allclose(picture, blue_green_red[:, ::-1] / 255, atol=1e-9)


def test_rows_depend_on_their_image_alone(tmp_path):
    path = write(tmp_path)
    network, again = load_network(path), load_network(path)
    x = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    together = network.forward(x)
    for i in range(3):
        torch.testing.assert_close(network.forward(x[i : i + 1]), together[i : i + 1])
    network.forward(torch.rand(1, 3, 16, 48))  # another size in between
    assert torch.equal(network.forward(x), together)
    assert torch.equal(again.forward(x), together)


def test_noise_is_uniform_and_differs_between_layers():
    x = torch.zeros(2, 3, 64, 64)
    first, second = FixedNoise(1)(x), FixedNoise(2)(x)
    assert first.shape == (2, 6, 64, 64)
    assert torch.equal(first[:, :3], x)
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first, second)
    drawn = first[0, 3:]
    assert 0 <= float(drawn.min()) < 0.01 < 0.99 < float(drawn.max()) < 1
    assert abs(float(drawn.mean()) - 0.5) < 0.01
    assert abs(float(drawn.var()) - 1 / 12) < 0.002


def test_population_statistics_against_numpy():
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=None), nn.ReLU(), nn.BatchNorm2d(4)
    )
    module = module.double().eval()
    x = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    estimate_population(module, x)
    assert not any(m.training for m in module)
    assert [m.momentum for m in module if isinstance(m, nn.BatchNorm2d)] == [None, 0.1]
    y = module[0](x).detach().numpy()
    np.testing.assert_allclose(module[1].running_mean, y.mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(module[1].running_var, y.var(axis=(0, 2, 3), ddof=1))
    standard = (y - y.mean((0, 2, 3), keepdims=True)) / np.sqrt(
        y.var((0, 2, 3), keepdims=True) + 1e-5
    )
    z = np.maximum(standard, 0)  # the second layer saw a normalised first
    np.testing.assert_allclose(module[3].running_mean, z.mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(module[3].running_var, z.var(axis=(0, 2, 3), ddof=1))


def test_stored_running_statistics_are_not_used(tmp_path):
    x = torch.rand(1, 3, 16, 16)
    plain = load_network(write(tmp_path)).forward(x)
    stale = write(tmp_path, **{"2.running_mean": torch.full((8,), 9.0)})
    assert torch.equal(load_network(stale).forward(x), plain)


@needs_shared
@pytest.mark.parametrize("style", ["mosaic", "pleades", "starry", "turner"])
def test_real_weights_against_golden(style):
    network = load_network(str(SHARED / "texture_nets_bn" / f"{style}_style.safetensors"))
    assert (network.name, network.multiple) == (f"texture_nets_bn/{style}", 16)
    assert_matches_golden(network, f"{style}_style", rtol=1e-3)


def broken(**changes):
    copy = json.loads(json.dumps(ARCHITECTURE))
    copy["modules"][3] = changes
    return copy


def nested(depth):
    node = {"type": "nn.LeakyReLU", "slope": 0.1}
    for _ in range(depth):
        node = {"type": "nn.Sequential", "modules": [node]}
    return node


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (broken(type="nn.LeakyRelu"), "did you mean 'LeakyReLU'"),
        (broken(type="nn.LeakyReLU"), "architecture.json is damaged: KeyError"),
        (broken(type="nn.LeakyReLU", slope="steep"), "architecture.json is damaged: ValueError"),
        (broken(type="nn.SpatialConvolution", key="9"), "lacks '9.weight'"),
        ({"type": "nn.Sequential", "modules": 3}, "architecture.json is damaged: TypeError"),
        (["nn.Sequential"], "architecture.json is damaged: AttributeError"),
        (nested(70), "nested more than 64 deep"),
    ],
)
def test_a_damaged_description_is_named(tmp_path, architecture, message):
    with pytest.raises(StatsnormError, match=message):
        load_network(write(tmp_path, architecture))


def test_a_missing_description_and_a_wrong_shape_are_named(tmp_path):
    path = write(tmp_path, **{"2.weight": torch.ones(9)})
    with pytest.raises(StatsnormError, match=r"'2.weight' has shape \(9,\), expected \(8,\)"):
        load_network(path)
    (tmp_path / "architecture.json").write_text("{", encoding="utf-8")
    with pytest.raises(StatsnormError, match="is not valid JSON"):
        load_network(path)
    (tmp_path / "architecture.json").unlink()
    with pytest.raises(StatsnormError, match=r"needs architecture.json in the same folder"):
        load_network(path)
