"""To the device and back without waiting for it: pinned buffers, a stream for the copies.

On a GPU the host runs ahead: images are copied on a stream of their own while the networks still
run on the group before, and the moments of a batch come back while the next one runs. On a CPU
everything is there at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor


def to_device(images: Sequence[Tensor], device: str) -> Tensor:
    """Stack images (3, H, W) of the host into (N, 3, H, W) on the device."""
    if not device.startswith("cuda"):
        return torch.stack(list(images)).to(device)
    first = images[0]
    pinned = torch.empty(len(images), *first.shape, dtype=first.dtype, pin_memory=True)
    torch.stack(list(images), out=pinned)
    copies, here = _copies(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(copies):
        moved = pinned.to(device, non_blocking=True)
    here.wait_stream(copies)
    moved.record_stream(here)
    return moved


@dataclass(frozen=True, slots=True)
class Returning:
    """A tensor on its way to the host."""

    host: Tensor
    arrived: Any  # a CUDA event, None where there was no way to go

    @classmethod
    def of(cls, x: Tensor) -> Returning:
        """Send `x` off."""
        if x.device.type != "cuda":
            return cls(x.cpu(), None)
        host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
        host.copy_(x, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
        return cls(host, arrived)

    def wait(self) -> Tensor:
        """Return it on the host."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.host


@cache
def _copies(device: str) -> Any:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
