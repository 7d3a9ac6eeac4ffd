"""Trained networks in blocks, with planted variance components, for tests of networks as units."""

from __future__ import annotations

import numpy as np
from synthetic_tables import SyntheticTables, combine, effects

INPUTS = {"contrast": "gain", "restore": "luminance", "strength": 1.0}
TAPS = (
    ("conv1.norm.in", "pre_norm", 1),
    ("conv2.norm.in", "next_pre_norm", 4),
    ("conv3.norm.in", "next_pre_norm", 7),
    ("relu3_1", "vgg_of_output", 5),
)


def planted_networks(
    rng,
    *,
    blocks=8,
    norms=("bn", "in"),
    keep=None,  # norm, iteration -> (content, style, contrast) variance kept at work
    iterations=(0, 100),
    images=24,
    styles=8,
    levels=3,
    channels=12,
    spread=0.1,  # sd over networks of log V, shared by a network's taps
    block_spread=0.2,  # sd over blocks of log V, shared by the norms of a block
    correlated=0.0,  # share of every channel's effects that all channels have in common
    condition="original",
    log_style=0.0,  # log (V_S of the first norm / V_S of the second) in front of every normaliser
):
    """Return tables of `blocks` x `norms` x `iterations` cells; batch norm keeps everything.

    All networks see the same images and styles: their effects are drawn once.
    """
    keep = keep or {}
    tables = SyntheticTables()
    labels = {
        "image": [f"{i:03d}.jpg" for i in range(images)],
        "style": [f"cin26:{s}" for s in range(styles)],
        "level": list(range(levels)),
    }
    size = (images, styles, levels)
    parts = {}
    for tap, _, _ in TAPS:
        own, common = effects(rng, *size, channels), effects(rng, *size, 1)
        parts[tap] = {
            k: np.sqrt(1 - correlated) * own[k] + np.sqrt(correlated) * common[k] for k in own
        }
    facts = []
    for block in range(blocks):
        of_block = np.exp(block_spread * rng.normal())
        for norm in norms:
            cell = f"b{block:02d}-t{block}-{norm}-{condition}"
            facts.append({
                "cell": cell, "seed": str(100 + block), "block": f"b{block:02d}",
                "target": f"t{block}.png", "condition": condition,
            })  # fmt: skip
            for iteration in iterations:
                own = of_block * np.exp(spread * rng.normal())
                shift = np.exp(log_style) if norm == norms[0] else 1.0
                kept = (1.0, 1.0, 1.0) if norm == "bn" else keep.get(iteration, (0.7, 0.2, 0.01))
                net = {"norm": norm, "cell": cell, "seed": 100 + block, "iteration": iteration}
                for tap, kind, depth in TAPS:
                    who = {**net, **INPUTS, "network": "texture", "tap": tap}
                    if kind == "vgg_of_output":
                        who |= {"network": "vgg16", "source": "texture"}
                    for treatment in ("frozen:prefix", "none"):
                        work = treatment == "none" and kind != "pre_norm"
                        content, style, contrast = kept if work else (1.0, 1.0, 1.0)
                        y = combine(
                            parts[tap],
                            content=own * content,
                            style=own * shift * style,
                            contrast=own * contrast,
                        )
                        mean = y[..., ::-1] * np.sqrt(np.exp(2 * y).mean(axis=(0, 1, 2)))
                        more = {"tap_kind": kind, "depth": depth, "treatment": treatment}
                        tables.add({**who, **more}, labels, mean, np.exp(2 * y))
    tables.configs.append({"networks": {"texture": {"training": facts}}})
    return tables
