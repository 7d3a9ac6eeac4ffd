"""How much may be asked for: beyond these a number is a slip of the finger, not a study."""

from __future__ import annotations

from collections.abc import Mapping

from statsnorm.errors import StatsnormError

LIMITS: Mapping[str, tuple[int, int]] = {
    "size": (1, 100_000),  # and size x size at most the pixel limit
    "batch size": (1, 4096),  # a batch is padded to its size, however few images there are
    "untrained": (0, 1000),
    "iterations": (1, 10_000_000),
    "width": (1, 1024),
    "residual blocks": (0, 256),
    "training cells": (1, 100_000),
    "seed": (-(2**62), 2**62),
}
"""Name -> least and greatest value."""


def check_limit(name: str, value: int) -> None:
    """Raise StatsnormError unless `value` lies within the limits of `name`."""
    least, most = LIMITS[name]
    if not least <= value <= most:
        raise StatsnormError(f"{name} must be {least} to {most}, got {value}")


def check_size(size: int, pixel_limit: int) -> None:
    """Raise StatsnormError if square images of this size have more pixels than are allowed."""
    check_limit("size", size)
    if size * size > pixel_limit:
        raise StatsnormError(
            f"size {size} makes images of {size * size} pixels, more than the pixel limit of "
            f"{pixel_limit}"
        )
