"""Which share of an input's values lies outside [0, 1].

Restoring luminance, and levels that widen the range, leave values below 0 and above 1; nothing is
clipped (method.md 2.1), so a network sees what no photograph holds. How often is a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from statsnorm.cells import InputCell


@dataclass(slots=True, kw_only=True)
class RangeRows:
    """Rows of the table `outside`: one an image and input cell, whichever networks follow."""

    cells: Sequence[InputCell]
    rows: list[dict[str, Any]] = field(default_factory=list)
    found: list[Tensor] = field(default_factory=list)  # (N, 3) each, on the device

    def watch(
        self, made: Iterable[tuple[int, Tensor]], images: Sequence[str]
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield (place in `cells`, images (N, 3, H, W)) as they come, and measure them."""
        for place, x in made:
            self.found.append(range_of(x))
            self.rows += [{"image": image, **asdict(self.cells[place])} for image in images]
            yield place, x

    def finish(self) -> list[dict[str, Any]]:
        """Return the rows of all that passed, and forget them."""
        rows = self.rows
        if self.found:  # read back in one go: a GPU need not wait for every cell
            for row, values in zip(rows, torch.cat(self.found).tolist(), strict=True):
                row["outside"], row["least"], row["greatest"] = values
        self.rows, self.found = [], []
        return rows


def range_of(x: Tensor) -> Tensor:
    """Return the share of values outside [0, 1], the least and the greatest of each image.

    Parameters
    ----------
    x : Tensor, shape (N, 3, H, W)
        RGB; 1 is white.

    Returns
    -------
    Tensor, shape (N, 3), float64
        0 and 1 themselves lie inside. The share is over channels and pixels.
    """
    flat = x.flatten(1)
    outside = ((flat < 0) | (flat > 1)).double().mean(dim=1)
    return torch.stack([outside, flat.amin(dim=1).double(), flat.amax(dim=1).double()], dim=1)
