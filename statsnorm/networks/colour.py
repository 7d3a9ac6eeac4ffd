"""What a network is fed and what it returns: affine colour maps from and to RGB in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_SD = (0.229, 0.224, 0.225)
CAFFE_MEAN = (123.68, 116.779, 103.939)  # RGB, 0..255


@dataclass(frozen=True, slots=True)
class ColourInput:
    """`(scale * rgb - mean) / sd`, then channels reversed where `bgr`; picklable."""

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)  # RGB order, in the network's units
    sd: tuple[float, float, float] = (1.0, 1.0, 1.0)
    scale: float = 1.0  # 1 for 0..1, 255 for 0..255
    bgr: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """Map RGB (N, 3, H, W) in [0, 1] to what the network expects, same dtype."""
        mean, sd = _column(self.mean, x), _column(self.sd, x)
        y = (x * self.scale - mean) / sd
        return y.flip(1) if self.bgr else y


@dataclass(frozen=True, slots=True)
class ColourOutput:
    """`(sd * y + mean) / scale` after reversing channels where `bgr`; never clipped."""

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)  # RGB order, in the network's units
    sd: tuple[float, float, float] = (1.0, 1.0, 1.0)
    scale: float = 1.0
    bgr: bool = False

    def __call__(self, y: Tensor) -> Tensor:
        """Map the network's output (N, 3, H, W) to unclipped RGB where [0, 1] is in gamut."""
        y = y.flip(1) if self.bgr else y
        return (y * _column(self.sd, y) + _column(self.mean, y)) / self.scale


_Key = tuple[tuple[float, float, float], torch.dtype, torch.device]
_CONSTANTS: dict[_Key, Tensor] = {}


def _column(values: tuple[float, float, float], x: Tensor) -> Tensor:
    """Return (1, 3, 1, 1) on the device of `x`; kept, so that a CUDA graph can capture it."""
    key = (values, x.dtype, x.device)
    if key not in _CONSTANTS:
        with torch.inference_mode(mode=False):  # usable in training later on
            _CONSTANTS[key] = torch.tensor(values, dtype=x.dtype, device=x.device)
    return _CONSTANTS[key].view(1, 3, 1, 1)


def unchanged(x: Tensor) -> Tensor:
    """Return `x`: the network takes, or makes, RGB in [0, 1]."""
    return x


CAFFE_RGB = ColourInput(mean=CAFFE_MEAN, scale=255.0)
CAFFE_BGR = ColourInput(mean=CAFFE_MEAN, scale=255.0, bgr=True)
IMAGENET = ColourInput(mean=IMAGENET_MEAN, sd=IMAGENET_SD)
BYTES = ColourInput(scale=255.0)
