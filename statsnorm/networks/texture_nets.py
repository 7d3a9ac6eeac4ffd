"""The texture networks of 2016 with batch normalisation, a generator of style that is no IN net.

Ulyanov, Lebedev, Vedaldi & Lempitsky 2016, "Texture networks", stylisation models: a pyramid of
average-pooled copies of the image, each with three channels of noise, joined from coarse
to fine. The architecture is read from `architecture.json` beside the weights: nested Torch7
modules, whose positions are the keys of the tensors.

Input RGB in [0, 1]; output BGR 0..255 minus the Caffe means; sides are multiples of 16.

Noise. The authors draw U(0, 1) anew in every call. Here every noise layer draws once a spatial
size from a fixed seed, the same for all images, so a row depends on its image alone.

Batch normalisation. The authors ran the nets in training mode with one image a call, which
*is* instance normalisation. The running statistics in the files cannot be used: three layers
were declared with 8 channels but ran on 16, 24 and 32 and have none, and elsewhere stored means
lie up to 9 standard deviations beside those of photographs (the bias before a normaliser
drifts freely in training), which ruins the pictures. So that there is a generator of style
that does not normalise the image, population statistics are estimated anew at loading, from
eight embedded photographs in one pass ("precise BN", Wu & Johnson 2021, sec. 3), and the net
runs in eval mode: one fixed map for all images. Its training mode is the authors' own use.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from statsnorm.errors import StatsnormError, unknown
from statsnorm.networks.colour import CAFFE_MEAN, ColourOutput, unchanged
from statsnorm.networks.network import Network, study
from statsnorm.networks.weights import Checkpoint, load_state

NOISE_CHANNELS = 3
TO_RGB = ColourOutput(mean=CAFFE_MEAN, scale=255.0, bgr=True)
_DEEPEST = 64  # nesting that a stranger's file may have


class FixedNoise(nn.Module):
    """Append three channels of uniform noise that depend on `seed` and the spatial size only."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self._noise: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C + 3, H, W)."""
        noise = self._noise
        if noise is None or noise.shape[2:] != x.shape[2:]:
            generator = torch.Generator().manual_seed(self.seed)
            with torch.inference_mode(mode=False):
                noise = torch.rand(1, NOISE_CHANNELS, *x.shape[2:], generator=generator)
        self._noise = noise = noise.to(x.device, x.dtype)
        return torch.cat([x, noise.expand(x.shape[0], -1, -1, -1)], dim=1)


class Concat(nn.Module):
    """Run all children on the same input and join their outputs along the channels."""

    def __init__(self, children: Sequence[nn.Module]) -> None:
        super().__init__()
        for i, child in enumerate(children):
            self.add_module(str(i), child)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the joined outputs, in the order of the children."""
        return torch.cat([child(x) for child in self.children()], dim=1)


class _Builder:
    """Turns the nested description into modules; counts the noise layers to seed them."""

    def __init__(self, state: Mapping[str, Tensor], source: str) -> None:
        self.state, self.source, self.noises = state, source, 0

    def build(self, node: Mapping[str, Any], depth: int = 0) -> nn.Module:
        kind = str(node.get("type", "")).removeprefix("nn.")
        if kind in ("Sequential", "Concat"):
            if depth >= _DEEPEST:
                raise StatsnormError(f"{self.source!r} is nested more than {_DEEPEST} deep")
            children = [self.build(child, depth + 1) for child in node["modules"]]
            return Concat(children) if kind == "Concat" else nn.Sequential(*children)
        return self._leaf(kind, node)

    def _leaf(self, kind: str, node: Mapping[str, Any]) -> nn.Module:
        match kind:
            case "SpatialAveragePooling":
                return nn.AvgPool2d(int(node["k"]))
            case "GenNoise":
                self.noises += 1
                return FixedNoise(self.noises)
            case "SpatialCircularPadding":
                pad = int(node["pad"])
                return nn.CircularPad2d(pad) if pad else nn.Identity()
            case "SpatialConvolution":
                key = f"{node['key']}.weight"
                if key not in self.state or self.state[key].dim() != 4:
                    raise StatsnormError(f"{self.source!r} lacks {key!r}")
                outputs, inputs, height, width = self.state[key].shape
                return nn.Conv2d(inputs, outputs, (height, width))
            case "SpatialBatchNormalization":
                return nn.BatchNorm2d(int(node["channels"]), eps=float(node["eps"]))
            case "LeakyReLU":
                return nn.LeakyReLU(float(node["slope"]), inplace=True)
            case "SpatialUpSamplingNearest":
                return nn.Upsample(scale_factor=int(node["scale"]), mode="nearest")
        raise unknown("module in architecture.json", kind, _LEAVES)


_LEAVES = (
    "Concat",
    "GenNoise",
    "LeakyReLU",
    "Sequential",
    "SpatialAveragePooling",
    "SpatialBatchNormalization",
    "SpatialCircularPadding",
    "SpatialConvolution",
    "SpatialUpSamplingNearest",
)


def build_texture_nets(
    architecture: Mapping[str, Any], state: Mapping[str, Tensor], source: str
) -> nn.Module:
    """Return the network that `architecture` describes, with the tensors of `state`.

    Raises
    ------
    StatsnormError
        If the description names an unknown module, lacks a field, or a tensor does not fit.
    """
    try:
        module = _Builder(state, source).build(architecture)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StatsnormError(f"{source!r}: architecture.json is damaged: {error!r}") from error
    running = {k: v for k, v in module.state_dict().items() if ".running_" in f".{k}"}
    load_state(module, running | dict(state), source)
    return module


def estimate_population(module: nn.Module, *batches: Tensor) -> None:
    """Set the running statistics of every batch normaliser to those of the batches, in place.

    One pass a batch in training mode, the batches' statistics averaged: each layer sees inputs
    that earlier layers have normalised by the batch. After one batch the module in eval mode maps
    it as it did here in training mode (up to the n / (n - 1) of the running variance). The mode
    is left as it was.
    """
    layers = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [(layer.training, layer.momentum) for layer in layers]
    try:
        for layer in layers:
            layer.train()
            layer.momentum = None  # the plain average over batches
            layer.reset_running_stats()
        with torch.inference_mode():
            for x in batches:
                module(x)
    finally:
        for layer, (training, momentum) in zip(layers, before, strict=True):
            layer.train(training)
            layer.momentum = momentum


def reference_photographs(count: int = 8, size: int = 256) -> Tensor:
    """Return embedded photographs, evenly spread by name: (count, 3, size, size) in [0, 1].

    Float32, the central square, never resized.
    """
    folder = resources.files("statsnorm") / "assets" / "photos"
    names = sorted(f.name for f in folder.iterdir() if f.name.endswith(".jpg"))
    chosen = names[:: len(names) // count][:count]
    return torch.stack([_central((folder / name).read_bytes(), size) for name in chosen])


def _central(data: bytes, size: int) -> Tensor:
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / np.float32(255)  # (H, W, 3)
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    square = pixels[top : top + size, left : left + size]
    return torch.from_numpy(square.copy()).permute(2, 0, 1).contiguous()


def is_texture_nets(checkpoint: Checkpoint) -> bool:
    """Return whether a file's metadata names the authors' repository of 2016."""
    return "texture_nets" in checkpoint.metadata.get("source", "")


def load_texture_nets(checkpoint: Checkpoint) -> Network:
    """Return the network of a `*_style.safetensors` file with its `architecture.json`."""
    path = Path(checkpoint.source)
    description = path.with_name("architecture.json")
    if not description.is_file():
        raise StatsnormError(f"{path.name!r} needs architecture.json in the same folder")
    try:
        architecture = json.loads(description.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise StatsnormError(f"{str(description)!r} is not valid JSON: {error}") from error
    module = build_texture_nets(architecture, checkpoint.state, checkpoint.source)
    estimate_population(module, reference_photographs())
    return Network(
        name=f"texture_nets_bn/{path.stem.removesuffix('_style')}",
        module=study(module),
        norm="bn",
        preprocess=unchanged,
        postprocess=TO_RGB,
        sha256=checkpoint.sha256,
        multiple=16,
    )
