"""Which device there is, whether torch compiles for it, and in which arithmetic it computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from statsnorm.errors import StatsnormError


def resolve_device(name: str) -> str:
    """Return a device that is there; `auto` is a GPU where there is one.

    Raises
    ------
    StatsnormError
        If the name is no device, or the device is not there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        if reason.startswith("Expected one of"):  # every kind that torch has ever heard of
            reason = "no such kind"
        raise StatsnormError(
            f"device {name!r} cannot be used ({reason}); give cpu, cuda, cuda:N or auto"
        ) from error
    return name


def check_compiler(device: str) -> None:
    """Raise StatsnormError unless torch can compile for this device."""
    try:
        torch.compile(torch.exp)(torch.zeros(2, device=device))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise StatsnormError(f"compile is not possible here: {reason}") from error


@contextmanager
def arithmetic(precision: str, device: str = "cpu") -> Iterator[None]:
    """Compute in fp32, tf32 or bf16 on a type of device, without gradients."""
    half = precision == "bf16"
    with (
        tf32(allowed=precision == "tf32"),
        torch.inference_mode(),
        torch.autocast(device, torch.bfloat16, enabled=half),
    ):
        yield


@contextmanager
def tf32(*, allowed: bool) -> Iterator[None]:
    """Allow tf32 on a GPU or forbid it; leave torch's switches as they were."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (matmul.allow_tf32, cudnn.allow_tf32)
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
