"""The pseudo network `pixels`: its taps are the image itself and its luminance."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from statsnorm.networks.colour import unchanged
from statsnorm.networks.network import Network, study

BT601 = (0.299, 0.587, 0.114)


class Luminance(nn.Module):
    """Full-range BT.601 luma Y' = 0.299 R + 0.587 G + 0.114 B."""

    weights: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor(BT601).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map RGB (N, 3, H, W) to luma (N, 1, H, W), same scale."""
        return (x * self.weights.to(x.dtype)).sum(dim=1, keepdim=True)


class Pixels(nn.Module):
    """Children `rgb` (3 channels) and `luminance` (1 channel), both in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.rgb = nn.Identity()
        self.luminance = Luminance()

    def forward(self, x: Tensor) -> Tensor:
        """Return the luma (N, 1, H, W) of RGB (N, 3, H, W)."""
        luma: Tensor = self.luminance(self.rgb(x))
        return luma


def load_pixels() -> Network:
    """Return the pseudo network, without weights."""
    return Network(name="pixels", module=study(Pixels()), norm="none", preprocess=unchanged)
