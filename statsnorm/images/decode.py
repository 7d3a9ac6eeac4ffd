"""Files to tensors: every image becomes float RGB, or one ImageError says why not."""

from __future__ import annotations

import hashlib
import io
import re
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from statsnorm.errors import ImageError, StatsnormError
from statsnorm.images.names import safe_name
from statsnorm.images.sources import ImageRef

PIXEL_LIMIT = 178_956_970  # Pillow's own hard limit
ASPECT_LIMIT = 100  # the longer side of 1:100 at 256 px still fits in memory many times over
# Formats that Pillow decodes by itself; never EPS or the like, which start other programs.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")
# What Pillow's decoders have raised on damaged files; all of it means: not an image we can use.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    BufferError,
    EOFError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """A decoded image and what the file said."""

    pixels: Tensor  # (3, H, W) float32 in [0, 1], RGB
    width: int  # of the upright image in the file, before any resizing
    height: int
    sha256: str  # of the file's bytes


def decode(
    ref: ImageRef | str | Path, *, size: int | None, pixel_limit: int = PIXEL_LIMIT
) -> Decoded:
    """Decode one file to RGB.

    Greyscale, palette, CMYK, YCbCr and 16-bit grey are converted (16-bit in full depth; 16-bit
    *colour* PNG is read by Pillow with 8 bits a channel); an alpha channel is dropped without
    compositing, as `Image.convert("RGB")` and torchvision do; EXIF orientation is applied; of
    an animation the first frame is taken; colour profiles are ignored.

    Parameters
    ----------
    ref : ImageRef, str or Path
        The file.
    size : int or None
        Side of the square that :func:`resize_square` makes; None keeps the image's own size.
    pixel_limit : int
        Most pixels that a file may declare; it is checked before anything is decompressed.

    Returns
    -------
    Decoded
        Pixels (3, H, W), float32 in [0, 1].

    Raises
    ------
    ImageError
        At stage `find`, `decode` or `resize`; no other exception leaves for any file content.
    """
    path = ref.path if isinstance(ref, ImageRef) else Path(ref)
    name = ref.image if isinstance(ref, ImageRef) else safe_name(str(ref))
    data = _read(name, path, pixel_limit)
    try:
        with _quiet_pillow():
            pixels = _to_rgb(_open(name, data, pixel_limit))  # (H, W, 3)
    except _DAMAGED as error:
        said = re.sub(r" <\S+ object at 0x[0-9a-f]+>", "", str(error).replace("\n", " "))
        reason = safe_name(f"{type(error).__name__}: {said}")[:300]
        raise ImageError(name, "decode", reason) from error
    height, width = pixels.shape[:2]
    x = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))  # (3, H, W)
    if size is not None:
        if max(height, width) > ASPECT_LIMIT * min(height, width):
            reason = f"{width}x{height} is longer than {ASPECT_LIMIT}:1"
            raise ImageError(name, "resize", reason)
        if size * (longest := size * max(height, width) // min(height, width)) > PIXEL_LIMIT:
            reason = f"{width}x{height} becomes {longest} x {size} pixels before it is cut square"
            raise ImageError(name, "resize", reason)
        x = resize_square(x, size)
    return Decoded(x, width, height, hashlib.sha256(data).hexdigest())


def resize_square(x: Tensor, size: int) -> Tensor:
    """Resize the shorter side to `size` and take the central square.

    Antialiased bicubic on floats, no rounding to 8 bits, then clamped to [0, 1]. Sides and
    offsets are rounded as torchvision's Resize and CenterCrop do. An image of `size` x `size`
    is returned as it is.

    Parameters
    ----------
    x : Tensor, shape (3, H, W) or (N, 3, H, W)
        Float images in [0, 1].
    size : int
        Side of the square in pixels.

    Raises
    ------
    StatsnormError
        If `size` is less than 1.
    """
    if size < 1:
        raise StatsnormError(f"size must be at least 1 pixel, got {size}")
    height, width = x.shape[-2:]
    if (height, width) == (size, size):
        return x
    short = min(height, width)
    if short != size:
        target = (int(size * height / short), int(size * width / short))
        batch = x if x.ndim == 4 else x[None]  # (N, 3, H, W)
        resized = interpolate(batch, target, mode="bicubic", antialias=True).clamp(0, 1)
        x = resized if x.ndim == 4 else resized[0]
    top, left = (round((side - size) / 2) for side in x.shape[-2:])
    return x[..., top : top + size, left : left + size].contiguous()


def _read(name: str, path: Path, pixel_limit: int) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise ImageError(name, "find", "not a regular file")
        if status.st_size > (most := 8 * pixel_limit + 2**24):  # 16-bit RGBA and room for EXIF
            raise ImageError(name, "find", f"{status.st_size} bytes, more than {most}")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise ImageError(name, "find", getattr(error, "strerror", None) or str(error)) from error
    if not data:
        raise ImageError(name, "decode", "the file is empty")
    return data


def _open(name: str, data: bytes, pixel_limit: int) -> Image.Image:
    Image.init()
    image: Image.Image = Image.open(
        io.BytesIO(data), formats=[f for f in _FORMATS if f in Image.OPEN]
    )
    if image.width * image.height > pixel_limit:
        reason = f"{image.width}x{image.height} is more than the limit of {pixel_limit} pixels"
        raise ImageError(name, "decode", reason)
    image.load()
    return image


def _to_rgb(image: Image.Image) -> npt.NDArray[np.float32]:
    """Return (H, W, 3) in [0, 1], upright."""
    if (turn := _ORIENTATIONS.get(_orientation(image))) is not None:
        image = image.transpose(turn)
    if image.mode == "F" or image.mode.startswith("I"):
        grey = np.asarray(image, dtype=np.float64)
        grey = grey if image.mode == "F" else grey / 65535
        if not (grey.min() >= 0 and grey.max() <= 1):
            raise ValueError(f"mode {image.mode} with values outside its range: unknown scale")
        return np.repeat(grey.astype(np.float32)[..., None], 3, axis=2)
    return np.asarray(image.convert("RGB"), dtype=np.float32) / np.float32(255)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; damaged EXIF counts as upright, the pixels are sound."""
    try:
        value = image.getexif().get(0x0112, 1)
    except _DAMAGED:
        return 1
    return value if isinstance(value, int) else 1


class _Quiet:
    """How many threads decode just now, and how to bring the warning filters back."""

    lock = threading.Lock()
    users = 0
    filters: warnings.catch_warnings[None] | None = None


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Ignore Pillow's warnings while any thread decodes.

    Warning filters belong to the process: the first thread in sets them, the last one out puts
    them back, because nested `catch_warnings` of several threads restore in the wrong order.
    """
    with _Quiet.lock:
        if _Quiet.users == 0:
            _Quiet.filters = warnings.catch_warnings()
            _Quiet.filters.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\b|statsnorm\.images\.decode")
        _Quiet.users += 1
    try:
        yield
    finally:
        with _Quiet.lock:
            _Quiet.users -= 1
            if _Quiet.users == 0 and _Quiet.filters is not None:
                _Quiet.filters.__exit__(None, None, None)
                _Quiet.filters = None
