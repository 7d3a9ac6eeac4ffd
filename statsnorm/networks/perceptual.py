"""What the losses of style transfer are made of: activations of VGG, and their Gram matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from statsnorm.errors import StatsnormError
from statsnorm.networks.network import Network

STYLE_TAPS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
CONTENT_TAP = "relu4_2"


def gram(x: Tensor) -> Tensor:
    """Return the Gram matrices over C H W of activations (N, C, H, W): (N, C, C).

    In at least float32 whatever the dtype of `x`: the loss is a small difference of them.
    """
    found: Tensor = _Gram.apply(x)
    return found


class _Gram(torch.autograd.Function):
    """G = F F' / CHW; the gradient (g + g') F / CHW is one product where autograd makes two."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        with torch.autocast(x.device.type, enabled=False):
            pixels = _pixels(x)  # (N, HW, C)
            return pixels.mT @ pixels / x[0].numel()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        n, c, h, w = x.shape
        made = _pixels(x) @ ((g + g.mT) / x[0].numel())  # (N, HW, C)
        grad: Tensor = made.view(n, h, w, c).permute(0, 3, 1, 2).to(x.dtype)
        return grad


def _pixels(x: Tensor) -> Tensor:
    """Return (N, C, H, W) as (N, HW, C) in at least float32; a view of channels-last float32."""
    n, c, h, w = x.shape
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return wide.permute(0, 2, 3, 1).reshape(n, h * w, c)


def features(vgg: Network, x: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
    """Return the activations (N, C, H, W) of a VGG at `taps`, stopping after the last.

    `x` is (N, 3, H, W), RGB in [0, 1]; gradients flow through.
    """
    wanted, found = set(taps), {}
    x = vgg.preprocess(x)
    for name, layer in vgg.module.named_children():
        x = layer(x)
        if name in wanted:
            found[name] = x
            wanted.discard(name)
            if not wanted:
                return found
    raise _too_short(vgg, taps)


def require_taps(vgg: Network) -> None:
    """Raise StatsnormError if the weights of a VGG end before the taps of the losses."""
    if not {*STYLE_TAPS, CONTENT_TAP} <= dict(vgg.module.named_children()).keys():
        raise _too_short(vgg, (*STYLE_TAPS, CONTENT_TAP))


def _too_short(vgg: Network, taps: Sequence[str]) -> StatsnormError:
    names = list(dict(vgg.module.named_children()))
    missing = next(tap for tap in taps if tap not in names)
    return StatsnormError(
        f"the losses need {missing!r}, but the weights of {vgg.name} end at {names[-1]!r}"
    )
