"""Decoding: every kind of file becomes RGB in [0, 1] or one ImageError."""

from __future__ import annotations

import hashlib
import os
import struct
import sys
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from statsnorm.errors import ImageError, StatsnormError
from statsnorm.images.decode import decode, resize_square
from statsnorm.images.sources import find_images

RNG = np.random.default_rng(3)
RGB = RNG.integers(0, 256, (24, 40, 3), dtype=np.uint8)


def write(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def failure(path: Path, **options: int) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(path, size=None, **options)
    return caught.value


def test_rgb_png_is_exact(tmp_path):
    path = write(tmp_path / "a.png", Image.fromarray(RGB))
    decoded = decode(path, size=None)
    assert decoded.pixels.dtype == torch.float32
    assert (decoded.width, decoded.height) == (40, 24)
    assert decoded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    expected = torch.from_numpy(RGB).permute(2, 0, 1).float() / 255
    torch.testing.assert_close(decoded.pixels, expected, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_modes_convert_as_pillow_does(tmp_path, mode):
    suffix = {"CMYK": "tif", "YCbCr": "tif"}.get(mode, "png")
    image = Image.fromarray(RGB).convert(mode)
    path = write(tmp_path / f"a.{suffix}", image)
    expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(decode(path, size=None).pixels.numpy(), expected, atol=1e-6)


def test_alpha_is_dropped_without_compositing(tmp_path):
    rgba = np.dstack([RGB, RNG.integers(0, 256, RGB.shape[:2], dtype=np.uint8)])
    rgba[:8, :, 3] = 0
    path = write(tmp_path / "a.png", Image.fromarray(rgba))
    np.testing.assert_allclose(
        decode(path, size=None).pixels.permute(1, 2, 0).numpy(), RGB / 255, atol=1e-7
    )


def test_16_bit_grey_keeps_its_depth(tmp_path):
    grey = RNG.integers(0, 65536, (9, 7), dtype=np.uint16)
    for suffix in ("png", "tif"):
        pixels = decode(write(tmp_path / f"a.{suffix}", Image.fromarray(grey)), size=None).pixels
        np.testing.assert_allclose(pixels[1].numpy(), grey / 65535, atol=1e-7)
        assert torch.equal(pixels[0], pixels[2])


def test_float_tiff_needs_a_known_scale(tmp_path):
    grey = RNG.random((5, 6), dtype=np.float32)
    pixels = decode(write(tmp_path / "a.tif", Image.fromarray(grey)), size=None).pixels
    np.testing.assert_allclose(pixels[0].numpy(), grey, atol=1e-7)
    for wrong in (grey * 300, grey - 1, grey * np.nan):
        path = write(tmp_path / "b.tif", Image.fromarray(wrong.astype(np.float32)))
        assert "unknown scale" in failure(path).reason


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation, suffix):
    picture = np.zeros((16, 32, 3), np.uint8)
    picture[:8, :16] = 255  # upright: light at the top left
    upright = Image.fromarray(picture)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow transposes that store it turned
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {} if suffix == "tif" else {"quality": 95}
    decoded = decode(write(tmp_path / f"a.{suffix}", stored, exif=exif, **options), size=None)
    assert (decoded.width, decoded.height) == (32, 16)
    assert decoded.pixels[:, 1:7, 1:15].min() > 0.9
    assert decoded.pixels[:, 9:, :].max() < 0.1


def test_damaged_exif_counts_as_upright(tmp_path):
    path = write(tmp_path / "a.jpg", Image.fromarray(RGB), exif=b"Exif\0\0" + bytes(range(60)))
    assert decode(path, size=None).pixels.shape == (3, 24, 40)


def test_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    for suffix in ("gif", "png", "webp", "tif"):
        options = {"lossless": True} if suffix == "webp" else {}
        path = tmp_path / f"a.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:], **options)
        pixels = decode(path, size=None).pixels
        assert pixels[:, 3, 3].tolist() == [1, 0, 0]


def test_one_pixel(tmp_path):
    path = write(tmp_path / "a.png", Image.new("RGB", (1, 1), (255, 51, 0)))
    assert decode(path, size=None).pixels.shape == (3, 1, 1)
    pixels = decode(path, size=32).pixels
    assert pixels.shape == (3, 32, 32)
    torch.testing.assert_close(pixels[:, 5, 5], torch.tensor([1, 0.2, 0]), rtol=0, atol=1e-6)


def test_files_that_are_no_images(tmp_path):
    cases = {
        "empty.jpg": b"",
        "text.jpg": b"not an image at all",
        "script.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "zeros.png": bytes(5000),
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        error = failure(tmp_path / name)
        assert error.stage == "decode"
        assert name in error.image
    assert failure(tmp_path).stage == "find"
    assert failure(tmp_path / "gone.jpg").stage == "find"
    assert failure(Path("a\0b.jpg")).stage == "find"


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes")
def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert failure(tmp_path / "pipe.jpg").reason == "not a regular file"


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "tif", "bmp", "ppm", "jp2"])
def test_truncated_and_flipped_bytes_give_only_image_errors(tmp_path, suffix):
    data = write(tmp_path / f"a.{suffix}", Image.fromarray(RGB)).read_bytes()
    path = tmp_path / f"b.{suffix}"
    for cut in np.linspace(1, len(data) - 1, 12, dtype=int):
        path.write_bytes(data[:cut])
        _decodes_or_image_error(path)
    for place in RNG.integers(0, min(len(data), 400), 25):
        damaged = bytearray(data)
        damaged[place] ^= int(RNG.integers(1, 256))
        path.write_bytes(bytes(damaged))
        _decodes_or_image_error(path)


def _decodes_or_image_error(path: Path) -> None:
    try:
        pixels = decode(path, size=16, pixel_limit=10**6).pixels
    except ImageError:
        return
    assert pixels.shape == (3, 16, 16)
    assert pixels.min() >= 0
    assert pixels.max() <= 1


def test_truncated_jpeg_is_refused(tmp_path):
    data = write(tmp_path / "a.jpg", Image.fromarray(RGB)).read_bytes()
    (tmp_path / "b.jpg").write_bytes(data[: len(data) // 2])
    assert failure(tmp_path / "b.jpg").stage == "decode"


def png(width: int, height: int) -> bytes:
    """A PNG whose header declares a size that its few bytes do not hold."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("width", "height"), [(10_000, 10_000), (13_000, 13_000), (2**31 - 1, 2**31 - 1)]
)
def test_decompression_bombs_are_refused_before_they_unpack(tmp_path, width, height):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(width, height))
    error = failure(path, pixel_limit=10_000_000)
    assert error.stage == "decode"
    assert "10000000 pixels" in error.reason or "decompression bomb" in error.reason.lower()


def test_extreme_aspect_is_refused_at_resize(tmp_path):
    path = write(tmp_path / "a.png", Image.new("L", (1, 5000)))
    assert decode(path, size=None).pixels.shape == (3, 5000, 1)
    with pytest.raises(ImageError, match="failed at resize: 1x5000"):
        decode(path, size=256)


def test_pillow_warnings_stay_inside_even_with_threads(tmp_path):
    # A palette whose transparency is given in bytes makes Pillow warn on conversion.
    image = Image.fromarray(RGB).quantize(16)
    path = write(tmp_path / "a.png", image, transparency=bytes(range(16)))
    big = tmp_path / "big.png"
    big.write_bytes(png(10_000, 10_000))  # DecompressionBombWarning, then refused by our limit
    filters, errors = list(warnings.filters), []

    def work() -> None:
        for _ in range(20):
            try:
                decode(path, size=None)
                failure(big, pixel_limit=1000)
            except Warning as warning:
                errors.append(warning)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert warnings.filters == filters


@pytest.mark.parametrize("shape", [(100, 60), (61, 200), (64, 64), (40, 64), (33, 47)])
@pytest.mark.parametrize("size", [32, 64, 63])
def test_resize_square_against_torchvision(shape, size):
    x = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(1))
    resized = tv.resize(x, [size], interpolation=tv.InterpolationMode.BICUBIC, antialias=True)
    expected = tv.center_crop(resized.clamp(0, 1), [size, size])
    result = resize_square(x, size)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)
    assert torch.equal(result[0], resize_square(x[0], size))


def test_square_of_that_size_is_left_as_it_is():
    x = torch.rand(3, 16, 16) * 3 - 1  # even out of range
    assert resize_square(x, 16) is x
    with pytest.raises(StatsnormError, match="size must be at least 1"):
        resize_square(x, 0)


def test_embedded_decode_to_256():
    ref = find_images("embedded")[0]
    decoded = decode(ref, size=256)
    assert decoded.pixels.shape == (3, 256, 256)
    assert (decoded.width, decoded.height) == (288, 288)


def test_reasons_are_one_line(tmp_path):
    path = tmp_path / "a\nb.jpg"
    path.write_bytes(b"no")
    assert "\n" not in str(failure(path))
