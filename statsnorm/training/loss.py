"""Style and content loss in the activations of VGG, as texture networks are trained with.

The primary setting is the Gram matrix over C H W at relu1_1, relu2_1, relu3_1 and relu4_1, squared
error averaged over entries, and the mean squared difference at relu4_2, on the 0..255 scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from statsnorm.networks import Network
from statsnorm.networks.perceptual import CONTENT_TAP, STYLE_TAPS, features, gram

STATISTICS = ("gram", "moments")


def mean_and_sd(x: Tensor) -> Tensor:
    """Return channel means and population sds of (N, C, H, W) as (N, 2, C).

    The style statistics of Li et al., Demystifying neural style transfer (2017), sec. 4.2. The
    1e-5 inside the root keeps the gradient of a dead channel finite.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    var, mean = torch.var_mean(wide, dim=(2, 3), correction=0)
    return torch.stack([mean, (var + 1e-5).sqrt()], dim=1)


STATISTIC = {"gram": gram, "moments": mean_and_sd}


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
