"""When the memory of the device is too small: the same rows from smaller batches."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from statsnorm.errors import StatsnormError

Forward = Callable[[Tensor], tuple[Tensor, ...]]
"""A batch (B, ...) to tensors with B rows each."""


def padded(x: Tensor, size: int) -> Tensor:
    """Return `x` with its last image repeated up to `size` images."""
    missing = size - len(x)
    return x if missing <= 0 else torch.cat([x, x[-1:].expand(missing, *x.shape[1:])])


@dataclass(slots=True)
class Memory:
    """Halves batches that do not fit, and remembers what fitted."""

    halvings: int = 0
    largest: dict[Hashable, int] = field(default_factory=dict)

    def run(
        self, key: Hashable, forward: Forward, x: Tensor, *, divisible: bool = True
    ) -> tuple[Tensor, ...]:
        """Return what `forward` makes of `x`, its rows in order, in parts if need be.

        Parameters
        ----------
        key : hashable
            What runs; the size that fitted is kept for it.
        forward : callable
            Treats the rows of a batch independently.
        x : Tensor, shape (B, ...)
            The batch; a part is padded to the size of the others.
        divisible : bool
            False where the batch is part of the result and must not be cut.

        Raises
        ------
        StatsnormError
            If not even one image fits, or the batch must not be cut.
        """
        most = min(len(x), self.largest.get(key, len(x)))
        if most == len(x):
            try:
                return forward(x)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if len(x) == 1 or not divisible:
                    raise _too_large(x, error, divisible=divisible) from error
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.halvings += 1
            most = self.largest[key] = -(-len(x) // 2)
        parts = []
        for start in range(0, len(x), most):
            part = x[start : start + most]
            made = self.run(key, forward, padded(part, most))
            parts.append([rows[: len(part)] for rows in made])
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether torch ran out of a GPU's memory, or was refused memory by the system."""
    refused = "DefaultCPUAllocator: can't allocate memory" in str(error)
    return refused or isinstance(error, torch.cuda.OutOfMemoryError)


def _too_large(x: Tensor, error: RuntimeError, *, divisible: bool) -> StatsnormError:
    reason = (str(error) or "out of memory").splitlines()[0]
    height, width = x.shape[-2:]
    what = "one image" if divisible else f"a batch of {len(x)} images, which must not be cut,"
    return StatsnormError(
        f"{what} of {width} x {height} pixels does not fit into memory ({reason}); give a smaller "
        "size" + ("" if divisible else " or batch size") + ", or fewer taps"
    )
