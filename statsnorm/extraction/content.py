"""Content distances: how far a condition moves an image at relu4_2 of VGG (gate M3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from statsnorm.cells import InputCell
from statsnorm.extraction.feed import Batch
from statsnorm.extraction.measure import CONTENT_TAP


@dataclass(slots=True, kw_only=True)
class ContentDistances:
    """Distances of one group of images at one VGG; the originals come first in every group.

    `distance` is ``|f(x') - f(x)|^2 / |f(x)|^2`` with f the activation at relu4_2, x the
    original and x' the condition of the same image; `random_distance` has the original of the
    next image of the group (the last one's next is the first) in place of f(x) in the
    numerator, so that the two compare by their numerators.
    """

    network: str
    cells: Sequence[InputCell]
    images: Sequence[str]
    originals: dict[int, Tensor] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    found: list[Tensor] = field(default_factory=list)  # distance, random one; on the device

    def add(self, batch: Batch, features: Tensor) -> None:
        """Take the features (n, C, H, W) of a batch's rows."""
        for row, (image, cell) in enumerate(
            zip(batch.image.tolist(), batch.cell.tolist(), strict=True)
        ):
            if self.cells[cell].condition == "original":
                self.originals[image] = features[row].float()
            else:
                self._row(image, self.cells[cell].condition, features[row].float())

    def finish(self) -> list[dict[str, Any]]:
        """Return the rows of `content`, the originals' own among them, by image."""
        for image, feature in self.originals.items():
            self._row(image, "original", feature)
        self.originals.clear()
        if self.found:  # read back in one go: a GPU need not wait for every row
            for row, (distance, random) in zip(
                self.rows, torch.stack(self.found).tolist(), strict=True
            ):
                row["distance"] = distance
                row["random_distance"] = random if len(self.images) > 1 else None
        return self.rows

    def _row(self, image: int, condition: str, feature: Tensor) -> None:
        own, other = self.originals[image], self.originals[(image + 1) % len(self.images)]
        scale = own.square().sum().clamp_min(torch.finfo(own.dtype).tiny)
        distances = [(feature - x).square().sum() / scale for x in (own, other)]
        self.found.append(torch.stack(distances))
        self.rows.append(
            {
                "image": self.images[image],
                "condition": condition,
                "network": self.network,
                "tap": CONTENT_TAP,
            }
        )
