"""VGG-16 and VGG-19 as plain sequences with children conv1_1, relu1_1, ..., pool1, ...

Source: Simonyan & Zisserman 2015, table 1, columns D and E; convolution keys are those of
torchvision (`features.N`). Only the convolutional part, down to the last ReLU whose weights
a file holds. Pooling floors odd sizes, as torchvision does; at sides that are multiples of 16
Caffe's ceiling gives the same.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from torch import nn

from statsnorm.errors import StatsnormError, unknown
from statsnorm.networks.colour import CAFFE_BGR, CAFFE_RGB, IMAGENET, ColourInput
from statsnorm.networks.network import Network, study
from statsnorm.networks.weights import (
    Checkpoint,
    load_state,
    read_checkpoint,
    read_embedded,
    torchvision_state,
)

_DEPTHS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
_WIDTHS = (64, 128, 256, 512, 512)


@dataclass(frozen=True, slots=True)
class _Convolution:
    name: str  # "1_1"
    key: str  # "features.0"
    inputs: int
    outputs: int
    pool: str  # "pool1" where a pooling stands before this convolution, or ""


def _convolutions(name: str) -> tuple[_Convolution, ...]:
    """Return all convolutions of the network in order."""
    found, position, inputs = [], 0, 3
    for block, (depth, width) in enumerate(zip(_DEPTHS[name], _WIDTHS, strict=True), start=1):
        for i in range(1, depth + 1):
            pool = f"pool{block - 1}" if i == 1 and block > 1 else ""
            found.append(_Convolution(f"{block}_{i}", f"features.{position}", inputs, width, pool))
            position, inputs = position + 2, width
        position += 1  # the pooling after the block
    return tuple(found)


def build_vgg(
    name: str,
    *,
    convolutions: int | None = None,
    padding_mode: Literal["zeros", "reflect"] = "zeros",
) -> nn.Sequential:
    """Return VGG-16 or VGG-19 with fresh weights, as far as its first `convolutions`.

    Parameters
    ----------
    name : str
        `vgg16` or `vgg19`.
    convolutions : int, optional
        How many convolutions, each with its ReLU (in place); all 13 or 16 by default.
    padding_mode : str
        Padding by one pixel of every convolution: `zeros`, or `reflect` for AdaIN's encoder.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for c in _convolutions(name)[:convolutions]:
        if c.pool:
            layers[c.pool] = nn.MaxPool2d(2, 2)
        layers[f"conv{c.name}"] = nn.Conv2d(
            c.inputs, c.outputs, 3, padding=1, padding_mode=padding_mode
        )
        layers[f"relu{c.name}"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def load_vgg(name: str, weights: str | None = None) -> Network:
    """Return VGG-16 or VGG-19 as a network under study.

    Parameters
    ----------
    name : str
        `vgg16` or `vgg19`.
    weights : str, optional
        `embedded` (VGG-16 only, to relu4_2; its default), `torchvision` (the default of
        VGG-19), or a `.safetensors` file with torchvision's keys whose metadata `input` says
        what the network is fed: `RGB, 0..255` minus the Caffe means, `RGB 0..1` with
        ImageNet mean and standard deviation, or `BGR, 0..255` minus the Caffe means; the word
        `reflection` there asks for reflection padding (AdaIN's encoder).

    Raises
    ------
    StatsnormError
        If the weights are unknown, or a file does not fit.
    """
    weights = weights or ("embedded" if name == "vgg16" else "torchvision")
    if weights == "torchvision":
        state, digest = torchvision_state(name)
        return _network(name, Checkpoint(f"torchvision {name}", state, {}, digest), IMAGENET)
    if weights == "embedded":
        if name != "vgg16":
            raise StatsnormError(
                f"{name} is not embedded; use --weights torchvision or a .safetensors file"
            )
        return _network(name, read_embedded(name), CAFFE_RGB)
    if not Path(weights).suffix:
        known = ("embedded", "torchvision", "FILE.safetensors")
        raise unknown(f"weights of {name}", weights, known)
    checkpoint = read_checkpoint(weights)
    return _network(name, checkpoint, _stated_input(checkpoint))


def _stated_input(checkpoint: Checkpoint) -> ColourInput:
    stated = checkpoint.metadata.get("input", "").lower().replace(",", "")
    for beginning, known in (
        ("rgb 0..255", CAFFE_RGB),
        ("bgr 0..255", CAFFE_BGR),
        ("rgb 0..1", IMAGENET),
    ):
        if stated.startswith(beginning):
            return known
    raise StatsnormError(
        f"{checkpoint.source!r} must say what it is fed: metadata `input` beginning "
        f"'RGB, 0..255', 'RGB 0..1' or 'BGR, 0..255', got {stated!r}"
    )


def _network(name: str, checkpoint: Checkpoint, preprocess: ColourInput) -> Network:
    plan = _convolutions(name)
    count = next(
        (i for i, c in enumerate(plan) if f"{c.key}.weight" not in checkpoint.state), len(plan)
    )
    if count == 0:
        raise StatsnormError(
            f"{checkpoint.source!r} holds no VGG weights: no key 'features.0.weight'"
        )
    reflect = "reflect" in checkpoint.metadata.get("input", "").lower()
    module = build_vgg(name, convolutions=count, padding_mode="reflect" if reflect else "zeros")
    keys = {f"conv{c.name}": c.key for c in plan}
    features = {k: v for k, v in checkpoint.state.items() if not k.startswith("classifier.")}
    load_state(module, features, checkpoint.source, key=partial(_file_key, keys))
    return Network(
        name=name,
        module=study(module),
        norm="none",
        preprocess=preprocess,
        sha256=checkpoint.sha256,
    )


def _file_key(keys: dict[str, str], own: str) -> str:
    layer, _, part = own.rpartition(".")
    return f"{keys[layer]}.{part}"
