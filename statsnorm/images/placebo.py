"""The matched placebo p*: smoothed by style nets like (c), yet as varied as the originals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from statsnorm.errors import StatsnormError
from statsnorm.images.conditions import style_at_random
from statsnorm.images.stylise import StyleGenerator
from statsnorm.moments import channel_moments
from statsnorm.networks import Network
from statsnorm.networks.perceptual import STYLE_TAPS, features

# Below half strength a picture is mostly its original and no placebo for style normalisation.
STRENGTHS: tuple[float, ...] = tuple(round(0.5 + 0.05 * i, 2) for i in range(11))
LOW, HIGH = 0.8, 1.25  # the gate of method.md 1.1 on between-image variance
_DEAD = 1e-10
_BATCH = 8


@dataclass(frozen=True, slots=True)
class PlaceboMatch:
    """The blend strength of `placebo-matched` and how well it does on the pilot images."""

    strength: float
    ratio: float  # geometric mean of `ratios`
    ratios: dict[str, float]  # `relu1_1.m`, `relu1_1.v`, ...: between-image variance / originals'
    matched: bool  # `ratio` within [0.8, 1.25]


def tune_placebo_strength(
    x: Tensor,
    *,
    generator: StyleGenerator,
    images: Sequence[str],
    seed: int,
    vgg: Network,
    strengths: Sequence[float] = STRENGTHS,
) -> PlaceboMatch:
    """Return the strength at which random styles vary between images as the originals do.

    At each strength the between-image variance (ddof 1, mean over live channels) of the
    scale-free moments m = mu / s and v = log sigma (method.md 0.5; s from the same set of
    images) at relu1_1 .. relu4_1 is divided by that of the plain images. Chosen is the strength
    whose worst of the eight ratios is nearest to 1 on the log scale, the larger of two equals.

    Parameters
    ----------
    x : Tensor, shape (N, 3, H, W)
        Pilot images, N >= 3, not the ones of the study.
    generator : StyleGenerator
        Whose styles are drawn.
    images : sequence of str
        Names of the pilot images.
    seed : int
        Of the draw, as in the study.
    vgg : Network
        VGG-16 or VGG-19.
    strengths : sequence of float
        Candidates, each in (0, 1].

    Raises
    ------
    StatsnormError
        If there are fewer than 3 pilot images.
    """
    if len(x) < 3:
        raise StatsnormError(f"tuning the placebo needs at least 3 pilot images, got {len(x)}")
    plain = _between_image_variance(x, vgg)
    styled = style_at_random(x, generator, images, seed=seed, strength=1.0)

    def ratios_at(strength: float) -> dict[str, float]:
        found = _between_image_variance(x + strength * (styled - x), vgg)
        return {key: found[key] / plain[key] for key in plain}

    tried = {strength: ratios_at(strength) for strength in sorted(strengths, reverse=True)}
    best = min(tried, key=lambda s: round(max(abs(math.log(r)) for r in tried[s].values()), 9))
    ratio = math.exp(sum(map(math.log, tried[best].values())) / len(tried[best]))
    return PlaceboMatch(best, ratio, tried[best], LOW <= ratio <= HIGH)


@torch.no_grad()
def _between_image_variance(x: Tensor, vgg: Network) -> dict[str, float]:
    batches = [features(vgg, batch, STYLE_TAPS) for batch in torch.split(x, _BATCH)]
    variance = {}
    for tap in STYLE_TAPS:
        moments = [channel_moments(batch[tap]) for batch in batches]
        mean = torch.cat([m.mean for m in moments]).double()  # (N, C)
        var = torch.cat([m.var for m in moments]).double()
        live = (var > _DEAD).all(dim=0)
        scale = var[:, live].mean(dim=0).sqrt()
        variance[f"{tap}.m"] = float((mean[:, live] / scale).var(dim=0).mean())
        variance[f"{tap}.v"] = float((0.5 * var[:, live].log()).var(dim=0).mean())
    return variance
