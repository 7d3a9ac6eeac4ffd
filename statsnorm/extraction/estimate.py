"""What a run will cost, from a short probe: rows, bytes, seconds."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from statsnorm.extraction.feed import Feed, Group, padded_batches
from statsnorm.extraction.measure import Meter, arithmetic
from statsnorm.extraction.pilot import decode_readable
from statsnorm.extraction.variants import Variants

BYTES_A_PAIR = 6.8
"""Mean and variance of one channel of one image, byte-stream-split and zstd (measured: 6.3-6.8)."""
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
    paired = dict.fromkeys(inputs.paired, pixels)
    group = Group(images=tuple(names), pixels=pixels, paired=paired)
    meter = Meter(variants=variants, cells=inputs.cells, precision=config.precision)
    with arithmetic("fp32"):
        start = time.monotonic()
        cells = list(feed.cells(group))
        _synchronise(device)
        feeding = (time.monotonic() - start) / len(names)
        batch = next(padded_batches(cells, config.batch_size))
        forward = 0.0
        for variant in variants:
            meter.add(variant, batch, names, 0)  # warm
            start = time.monotonic()
            meter.add(variant, batch, names, 0)
            forward += (time.monotonic() - start) / config.batch_size
    channels = sum(c for m in meter.measured.values() for _, _, c in m.spans)
    taps = sum(len(m.spans) for m in meter.measured.values())
    pairs = sum(tap.pairs for m in meter.measured.values() for tap, _, _ in m.spans)
    inputs_all = len(refs) * len(inputs.cells)
    return Estimate(
        images=len(refs),
        cells=len(inputs.cells),
        variants=len(variants.all),
        rows=inputs_all * taps,
        bytes=round(
            inputs_all
            * (channels * BYTES_A_PAIR + pairs * BYTES_A_CORRELATION + taps * BYTES_A_ROW)
        ),
        seconds=len(refs) * (decoding + feeding) + inputs_all * forward,
    )


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
