"""Photo filters: styles that no network made.

Each filter maps (N, 3, H, W) RGB to the same shape; input is clamped to [0, 1] first, output lies
in [0, 1]. Each image is treated by itself: grain is drawn from the image's own pixels, so it
depends neither on the batch nor on a file name.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from statsnorm.errors import unknown
from statsnorm.images.colour import luminance

Colour = tuple[float, float, float]


def apply_filter(x: Tensor, name: str) -> Tensor:
    """Return images (N, 3, H, W) after a filter of :data:`FILTERS`; dtype of `x`, in [0, 1].

    Raises
    ------
    StatsnormError
        If there is no such filter.
    """
    if name not in FILTERS:
        raise unknown("filter", name, FILTERS)
    return FILTERS[name](x.clamp(0, 1)).clamp(0, 1)


def curve(x: Tensor, *, points: tuple[Colour, ...]) -> Tensor:
    """Map each channel through a piecewise-linear curve; `points` stand at even inputs."""
    knots = torch.tensor(points, dtype=x.dtype, device=x.device)  # (K, 3)
    place = x * (len(points) - 1)
    low = place.floor().clamp(0, len(points) - 2)
    channel = torch.arange(3, device=x.device).view(1, 3, 1, 1)
    index = low.long()
    below, above = knots[index, channel], knots[index + 1, channel]
    return below + (above - below) * (place - low)


def duotone(x: Tensor, *, dark: Colour, light: Colour) -> Tensor:
    """Map luminance to the line between two colours."""
    low, high = (
        torch.tensor(c, dtype=x.dtype, device=x.device).view(3, 1, 1) for c in (dark, light)
    )
    return low + (high - low) * luminance(x)


def split_tone(x: Tensor, *, shadows: Colour, highlights: Colour) -> Tensor:
    """Push shadows and highlights towards two tints, each by its own amount of light."""
    y = luminance(x)
    low, high = _colours(x, shadows, highlights)
    return x + (1 - y) ** 2 * low + y**2 * high


def mix(x: Tensor, *, matrix: tuple[Colour, Colour, Colour]) -> Tensor:
    """Mix the channels; rows of `matrix` are the new R, G, B."""
    weights = torch.tensor(matrix, dtype=x.dtype, device=x.device)
    return torch.einsum("ij,njhw->nihw", weights, x)


def bleach(x: Tensor) -> Tensor:
    """Bleach bypass: overlay the image with its own luminance, half desaturated."""
    y = luminance(x)
    overlay = torch.where(y < 0.5, 2 * x * y, 1 - 2 * (1 - x) * (1 - y))
    return 0.6 * overlay + 0.4 * y


def grain(x: Tensor, *, amount: float) -> Tensor:
    """Add film grain: Gaussian noise of about two pixels, strongest in the mid-tones."""
    noise = torch.stack([_noise(image, x.shape[-2:]) for image in x]).to(x)  # (N, 1, H, W)
    y = luminance(x)
    return x + amount * noise * (0.25 + 3 * y * (1 - y))


def halftone(x: Tensor, *, period: float, angles: tuple[float, float, float]) -> Tensor:
    """Print each channel as dots: a rotated cosine screen, thresholded with a soft edge."""
    height, width = x.shape[-2:]
    rows = torch.arange(height, dtype=x.dtype, device=x.device)[:, None]
    columns = torch.arange(width, dtype=x.dtype, device=x.device)[None]
    screens = []
    for angle in angles:
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        u, v = (c * columns + s * rows), (c * rows - s * columns)
        k = 2 * math.pi / period
        screens.append((torch.cos(k * u) + torch.cos(k * v)) / 4 + 0.5)
    screen = torch.stack(screens)  # (3, H, W)
    return torch.sigmoid((_smooth(x) - screen) * 12)


def posterise(x: Tensor, *, steps: int) -> Tensor:
    """Reduce each channel of the smoothed image to a few flat tones."""
    smooth = _smooth(_smooth(x))
    return (smooth * steps).floor().clamp(0, steps - 1) / (steps - 1)


def solarise(x: Tensor) -> Tensor:
    """Turn the tones above mid-grey round, as a print exposed twice."""
    return 1 - (2 * x - 1).abs()


def sketch(x: Tensor) -> Tensor:
    """Draw the edges of luminance dark on warm paper."""
    y = pad(_smooth(luminance(x)), (1, 1, 1, 1), mode="replicate")
    across, down = y[..., 1:-1, 2:] - y[..., 1:-1, :-2], y[..., 2:, 1:-1] - y[..., :-2, 1:-1]
    ink = (1 - 6 * (across**2 + down**2).sqrt()).clamp(0, 1)
    (paper,) = _colours(x, (0.97, 0.94, 0.86))
    return paper * (0.25 + 0.75 * ink) * (0.75 + 0.25 * luminance(x))


def _colours(x: Tensor, *colours: Colour) -> list[Tensor]:
    """Return each colour as a (3, 1, 1) tensor beside `x`."""
    return [torch.tensor(c, dtype=x.dtype, device=x.device).view(3, 1, 1) for c in colours]


def _smooth(x: Tensor) -> Tensor:
    """Return the 3 x 3 mean, edges repeated."""
    return avg_pool2d(pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def _noise(image: Tensor, shape: torch.Size) -> Tensor:
    """Return smoothed unit-variance noise (1, H, W), seeded by the image's 8-bit pixels."""
    pixels = (image.double() * 255).round().to(torch.uint8).cpu().contiguous()
    digest = hashlib.sha256(pixels.numpy().tobytes()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    white = torch.randn((1, *shape), generator=generator, dtype=torch.float64)
    return (white + 2 * _smooth(white[None])[0]) / math.sqrt(1 + 4 / 9 + 4 / 9)


# Cross-processed slide film: steep red and green, flat blue.
_CROSS = (
    (0.0, 0.0, 0.15),
    (0.13, 0.17, 0.3),
    (0.55, 0.53, 0.48),
    (0.9, 0.88, 0.63),
    (1.0, 1.0, 0.8),
)
# Matte print: lifted blacks, lowered whites.
_FADED = (
    (0.2, 0.17, 0.2),
    (0.35, 0.33, 0.33),
    (0.54, 0.52, 0.49),
    (0.72, 0.69, 0.62),
    (0.9, 0.86, 0.76),
)
FILTERS: dict[str, Callable[[Tensor], Tensor]] = {
    "sepia": partial(
        mix, matrix=((0.393, 0.769, 0.189), (0.349, 0.686, 0.168), (0.272, 0.534, 0.131))
    ),
    "noir": lambda x: grain(luminance(x).pow(1.4).mul(1.15).expand_as(x), amount=0.06),
    "cross": partial(curve, points=_CROSS),
    "faded": partial(curve, points=_FADED),
    "teal-orange": partial(split_tone, shadows=(-0.12, 0.06, 0.16), highlights=(0.2, 0.04, -0.24)),
    "cyanotype": partial(duotone, dark=(0.02, 0.1, 0.3), light=(0.93, 0.97, 1.0)),
    "sunset": partial(duotone, dark=(0.22, 0.02, 0.3), light=(1.0, 0.86, 0.42)),
    "bleach": bleach,
    "grain": partial(grain, amount=0.12),
    "halftone": partial(halftone, period=5.0, angles=(15.0, 75.0, 0.0)),
    "newsprint": lambda x: halftone(
        luminance(x).expand_as(x), period=4.5, angles=(45.0, 45.0, 45.0)
    ),
    "posterise": partial(posterise, steps=4),
    "solarise": solarise,
    "sketch": sketch,
    "night": partial(mix, matrix=((0.25, 0.1, 0.05), (0.15, 0.3, 0.1), (0.15, 0.25, 0.45))),
    "infrared": partial(mix, matrix=((-0.4, 1.5, -0.1), (0.3, 0.6, 0.0), (0.4, 0.2, 0.3))),
}
