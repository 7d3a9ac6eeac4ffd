"""The same bits again on one device: deterministic kernels, and a reflection pad that has one."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


@contextmanager
def deterministic(*, wanted: bool) -> Iterator[None]:
    """Use deterministic algorithms within the block; leave torch's switches as they were.

    cuBLAS reads its workspace from the environment when it starts, so the first block must come
    before the first matrix product on a GPU. Max pooling over windows that do not overlap sends
    each gradient to one place: torch warns about it, and is deterministic there all the same.
    On a CPU one thread computes: gradients of weights are sums over threads, whose number would
    show in the last bits.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    torch.set_num_threads(1)
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings(), _ReflectionBySlices():
            warnings.filterwarnings("ignore", message="max_pool2d_with_indices_backward")
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(before, warn_only=warned)


def reflected(x: Tensor, pad: tuple[int, int, int, int]) -> Tensor:
    """Return images (N, C, H, W) with mirrored edges, as `F.pad(x, pad, mode="reflect")`.

    Made of slices, so that the gradient is a sum in a fixed order; the gradient of `F.pad` on a
    GPU adds in any. `pad` is left, right, top, bottom.
    """
    left, right, top, bottom = pad
    x = _mirrored(x, left, right, dim=3)
    return _mirrored(x, top, bottom, dim=2)


def _mirrored(x: Tensor, before: int, after: int, *, dim: int) -> Tensor:
    size = x.shape[dim]
    first = x.narrow(dim, 1, before).flip(dim)
    last = x.narrow(dim, size - 1 - after, after).flip(dim)
    return torch.cat([first, x, last], dim=dim)


class _ReflectionBySlices(TorchFunctionMode):
    """Replaces the reflection pad wherever a module asks for it."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        if func is F.pad and given.get("mode", args[2] if len(args) > 2 else "") == "reflect":
            x, pad = args[0], tuple(args[1] if len(args) > 1 else given["pad"])
            if x.ndim == 4 and len(pad) == 4:
                return reflected(x, pad)
        return func(*args, **given)
