"""Style and content loss in the activations of VGG, as texture networks are trained with.

The primary setting is the Gram matrix over C H W at relu1_1, relu2_1, relu3_1 and relu4_1, squared
error averaged over entries, and the mean squared difference at relu4_2, on the 0..255 scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from statsnorm.errors import StatsnormError
from statsnorm.networks import Network

STYLE_TAPS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
CONTENT_TAP = "relu4_2"
STATISTICS = ("gram", "moments")


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


def mean_and_sd(x: Tensor) -> Tensor:
    """Return channel means and population sds of (N, C, H, W) as (N, 2, C).

    The style statistics of Li et al., Demystifying neural style transfer (2017), sec. 4.2. The
    1e-5 inside the root keeps the gradient of a dead channel finite.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    var, mean = torch.var_mean(wide, dim=(2, 3), correction=0)
    return torch.stack([mean, (var + 1e-5).sqrt()], dim=1)


STATISTIC = {"gram": gram, "moments": mean_and_sd}


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """Losses of one batch, each the mean over its images; tensors of shape ()."""

    style: Tensor
    content: Tensor

    def total(self, style_weight: float, content_weight: float) -> Tensor:
        """Return the weighted sum that is minimised."""
        return style_weight * self.style + content_weight * self.content


def style_targets(vgg: Network, image: Tensor, statistics: str) -> dict[str, Tensor]:
    """Return the style statistics of one target image (1, 3, H, W) at the style taps."""
    with torch.no_grad():
        found = features(vgg, image, STYLE_TAPS)
    return {tap: STATISTIC[statistics](found[tap]) for tap in STYLE_TAPS}


def content_features(vgg: Network, x: Tensor) -> Tensor:
    """Return the activations at the content tap of images (N, 3, H, W), without gradient."""
    with torch.no_grad():
        return features(vgg, x, (CONTENT_TAP,))[CONTENT_TAP]


def losses(
    vgg: Network,
    output: Tensor,
    targets: Mapping[str, Tensor],
    content: Tensor,
    *,
    statistics: str,
) -> Losses:
    """Return the losses of generated images (N, 3, H, W), RGB in [0, 1], in one VGG pass.

    `content` holds the activations at the content tap of the images that were put in.
    """
    found = features(vgg, output, (*STYLE_TAPS, CONTENT_TAP))
    style = torch.stack(
        [
            nn.functional.mse_loss(
                (s := STATISTIC[statistics](found[tap])), targets[tap].expand_as(s)
            )
            for tap in STYLE_TAPS
        ]
    ).sum()
    return Losses(style=style, content=nn.functional.mse_loss(found[CONTENT_TAP], content))
