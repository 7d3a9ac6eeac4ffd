"""What a run will cost, from a short probe: rows, bytes, seconds."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from statsnorm.cells import GROUP
from statsnorm.devices import arithmetic
from statsnorm.extraction.feed import Feed, Group, padded_batches
from statsnorm.extraction.measure import Meter, is_content_vgg
from statsnorm.extraction.pilot import decode_readable
from statsnorm.extraction.shard import content_of, content_wanted
from statsnorm.extraction.variants import Variants

BYTES_A_PAIR = 6.8
"""Mean and variance of one channel of one image, byte-stream-split and zstd (measured: 6.3-6.8)."""
BYTES_A_GROUP = 4700  # pages and footer of a row group, whatever it holds (measured: 4600-4800)
BYTES_A_ROW = 12  # keys and list lengths, dictionary-encoded
BYTES_A_CORRELATION = 3.3  # measured: 3.2 over the ReLUs of VGG-16
PROBE_IMAGES = 2


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
    """Time the cells of a few images and one batch per variant, and count rows and channels."""
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
        batch = next(padded_batches(cells, config.batch_size))
        forward = 0.0  # seconds of a batch through all variants
        for variant in variants:
            meter.add(variant, batch, group.images, 0)  # warm
            start = time.monotonic()
            features = meter.add(variant, batch, group.images, 0)
            if content and is_content_vgg(variant):
                content_of(variant, batch, features)
            _synchronise(device)
            forward += time.monotonic() - start
    channels = sum(c for m in meter.measured.values() for _, _, c in m.spans)
    taps = sum(len(m.spans) for m in meter.measured.values())
    pairs = sum(tap.pairs for m in meter.measured.values() for tap, _, _ in m.spans)
    groups = {
        (variant.cell.network, of_output, tap.name)
        for variant, m in meter.measured.items()
        for tap, of_output, _ in m.spans
    }
    shards = -(-len(refs) // config.shard_size)
    inputs_all = len(refs) * len(inputs.cells)
    return Estimate(
        images=len(refs),
        cells=len(inputs.cells),
        variants=len(variants.all),
        rows=inputs_all * taps,
        bytes=round(
            inputs_all
            * (channels * BYTES_A_PAIR + pairs * BYTES_A_CORRELATION + taps * BYTES_A_ROW)
            + shards * len(groups) * BYTES_A_GROUP
        ),
        seconds=len(refs) * (decoding + feeding) + _batches(feed) * forward,
    )


def _filled(names: list[str], pixels: Tensor, paired: Iterable[str], size: int) -> Group:
    """Return a group as large as a batch, so that no generator works on padding."""
    turns = -(-size // len(names))
    images = tuple(f"{name}#{k}" for k in range(turns) for name in names)
    x = pixels.repeat(turns, 1, 1, 1)
    return Group(images=images, pixels=x, paired=dict.fromkeys(paired, x))


def _batches(feed: Feed) -> int:
    """Return how many batches all groups of all shards make, padded ones included."""
    config, total = feed.config, 0
    for start in range(0, len(feed.inputs.refs), config.shard_size):
        images = min(config.shard_size, len(feed.inputs.refs) - start)
        for part in range(0, images, GROUP):
            inputs = min(GROUP, images - part) * len(feed.inputs.cells)
            total += -(-inputs // config.batch_size)
    return total


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
