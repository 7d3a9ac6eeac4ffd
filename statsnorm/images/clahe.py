"""Contrast-limited adaptive histogram equalisation of luminance (Zuiderveld 1994), batched."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from statsnorm.errors import StatsnormError
from statsnorm.images.colour import luminance, with_luminance

TILES = 8
BINS = 256
CLIP_LIMIT = 2.0  # times the height of a flat histogram


def clahe(x: Tensor, *, tiles: int = TILES, clip_limit: float = CLIP_LIMIT) -> Tensor:
    """Equalise luminance locally, with limited slope; Cb and Cr are kept, nothing is clipped.

    The image is cut into `tiles` x `tiles` tiles (a side that does not divide is continued by
    reflection). Each tile's histogram of 256 bins is cut off at `clip_limit` times its mean, what
    was cut is spread evenly, once, over all bins, and its distribution function is linear within
    a bin, so that no grey values are merged. A pixel's new luminance is bilinear between the
    functions of the four nearest tile centres.

    Parameters
    ----------
    x : Tensor, shape (N, 3, H, W)
        Float RGB; luminance outside [0, 1] counts as 0 or 1.
    tiles : int
        Tiles along each side.
    clip_limit : float
        At least 1; the larger, the closer to plain local equalisation.

    Returns
    -------
    Tensor, shape (N, 3, H, W), dtype of `x`

    Raises
    ------
    StatsnormError
        If `tiles` or `clip_limit` is less than 1.
    """
    if tiles < 1 or clip_limit < 1:
        raise StatsnormError(f"tiles and clip_limit must be 1 or more, got {tiles}, {clip_limit}")
    y = luminance(x.double()).clamp(0, 1)  # (N, 1, H, W)
    height, width = y.shape[-2:]
    whole = _continue(y, -height % tiles, -width % tiles)[:, 0]
    functions = _tile_functions(whole, tiles, clip_limit)  # (N, T T, BINS + 1)
    n, full_height, full_width = whole.shape
    top, bottom, down = _neighbours(full_height, tiles, y)
    left, right, across = _neighbours(full_width, tiles, y)
    down, across = down[:, None], across[None, :]

    def mapped(rows: Tensor, columns: Tensor) -> Tensor:
        tile = (rows[:, None] * tiles + columns[None, :]).flatten()  # (P,)
        place = whole.flatten(1) * BINS  # (N, P)
        low = place.floor().clamp(0, BINS - 1).long()
        flat = functions.flatten(1)
        start = tile * (BINS + 1) + low
        below, above = flat.gather(1, start), flat.gather(1, start + 1)
        return (below + (above - below) * (place - low)).view(n, full_height, full_width)

    upper = mapped(top, left) * (1 - across) + mapped(top, right) * across
    lower = mapped(bottom, left) * (1 - across) + mapped(bottom, right) * across
    new = upper * (1 - down) + lower * down
    return with_luminance(x, new[:, None, :height, :width])


def _continue(y: Tensor, below: int, right: int) -> Tensor:
    """Reflect at the lower and right edge; a side too short for that is repeated."""
    reflects = below < y.shape[-2] and right < y.shape[-1]
    return pad(y, (0, right, 0, below), mode="reflect" if reflects else "replicate")


def _tile_functions(y: Tensor, tiles: int, clip_limit: float) -> Tensor:
    """Return each tile's distribution function at the bin edges, (N, T T, BINS + 1), 0 to 1."""
    n, height, width = y.shape
    blocks = y.view(n, tiles, height // tiles, tiles, width // tiles).transpose(2, 3)
    bins = (blocks.reshape(n, tiles * tiles, -1) * BINS).floor().clamp(0, BINS - 1).long()
    counts = torch.zeros(n, tiles * tiles, BINS, dtype=y.dtype, device=y.device)
    counts.scatter_add_(2, bins, torch.ones_like(bins, dtype=y.dtype))
    limit = clip_limit * bins.shape[2] / BINS
    excess = (counts - limit).clamp_min(0).sum(dim=2, keepdim=True)
    counts = counts.clamp_max(limit) + excess / BINS
    return pad(counts.cumsum(dim=2), (1, 0)) / bins.shape[2]


def _neighbours(length: int, tiles: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each row (or column) the tiles before and after it, and the latter's weight."""
    pixels = torch.arange(length, dtype=like.dtype, device=like.device)
    place = ((pixels + 0.5) / (length // tiles) - 0.5).clamp(0, tiles - 1)  # in tile centres
    before = place.floor().long()
    return before, (before + 1).clamp_max(tiles - 1), place - before
