"""What a run will cost, from a short probe: rows, bytes, seconds."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from statsnorm.cells import GROUP
from statsnorm.devices import arithmetic
from statsnorm.extraction.feed import Feed, Group, padded_batches
from statsnorm.extraction.measure import Meter
from statsnorm.extraction.pilot import decode_readable
from statsnorm.extraction.shard import content_wanted
from statsnorm.extraction.variants import Variants
from statsnorm.rows import Block, correlations_table, moments_table
from statsnorm.tables import encoded_size

BYTES_A_GROUP = 4700  # keys and footer of a row group, whatever it holds (measured: 4600-4800)
PROBE_IMAGES = 16
"""Distinct images: what is constant from one to the next takes no room in a table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Expected size of a run; `seconds` for one process on this device."""

    images: int
    cells: int
    variants: int
    rows: int
    bytes: int
    seconds: float


def estimate(feed: Feed, variants: Variants, *, device: str) -> Estimate:
    """Time the cells of a few images and one batch per variant; encode the moments they have."""
    config, inputs = feed.config, feed.inputs
    refs = inputs.refs
    start = time.monotonic()
    names, pixels = decode_readable(refs, config, device=device, most=PROBE_IMAGES)
    decoding = (time.monotonic() - start) / len(names)
    group = _filled(names, pixels, inputs.paired, min(GROUP, config.batch_size))
    content = content_wanted(feed, variants)
    meter = Meter(
        variants=variants, cells=inputs.cells, precision=config.precision, content=content
    )
    with arithmetic("fp32"):
        start = time.monotonic()
        cells = list(feed.cells(group))
        _synchronise(device)
        feeding = (time.monotonic() - start) / len(group.images)
        batch = next(padded_batches(cells, feed.batch_size))
        for variant in variants:  # warm
            meter.add(variant, batch, group.images, 0)
        meter.blocks(group.images)
        start = time.monotonic()
        for variant in variants:
            meter.add(variant, batch, group.images, 0)
        _synchronise(device)
        forward = time.monotonic() - start  # seconds of a batch through all variants
    taps = sum(len(m.spans) for m in meter.measured.values())
    blocks = [_distinct(block, len(names)) for block in meter.blocks(group.images)]
    inputs_all = len(refs) * len(inputs.cells)
    return Estimate(
        images=len(refs),
        cells=len(inputs.cells),
        variants=len(variants.all),
        rows=inputs_all * taps,
        bytes=round(_bytes(blocks, inputs_all, shards=-(-len(refs) // config.shard_size))),
        seconds=len(refs) * (decoding + feeding) + _batches(feed) * forward,
    )


def _bytes(blocks: Sequence[Block], inputs: int, *, shards: int) -> float:
    """Return what the tables of so many inputs take, by those of the few in `blocks`."""
    few, total = len(blocks[0].mean), 0.0
    for make in (moments_table, correlations_table):
        table, groups = make(blocks)
        fixed = len(groups) * BYTES_A_GROUP
        total += shards * fixed + inputs / few * (encoded_size(table, groups) - fixed)
    return total


def _distinct(block: Block, images: int) -> Block:
    """Return the rows of the first so many images: those behind them are the same once more."""
    kept = block.rows.image < images
    rows = replace(block.rows, image=block.rows.image[kept], cell=block.rows.cell[kept])
    rho = block.correlation
    return replace(
        block,
        rows=rows,
        mean=block.mean[kept],
        var=block.var[kept],
        correlation=None if rho is None else rho[kept],
    )


def _filled(names: list[str], pixels: Tensor, paired: Iterable[str], size: int) -> Group:
    """Return a group as large as a batch, so that no generator works on padding."""
    turns = -(-size // len(names))
    images = tuple(f"{name}#{k}" for k in range(turns) for name in names)[:size]
    x = pixels.repeat(turns, 1, 1, 1)[:size]
    return Group(images=images, pixels=x, paired=dict.fromkeys(paired, x))


def _batches(feed: Feed) -> int:
    """Return how many batches all groups of all shards make, padded ones included."""
    config, total = feed.config, 0
    for start in range(0, len(feed.inputs.refs), config.shard_size):
        images = min(config.shard_size, len(feed.inputs.refs) - start)
        for part in range(0, images, GROUP):
            inputs = min(GROUP, images - part) * len(feed.inputs.cells)
            total += -(-inputs // feed.batch_size)
    return total


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
