"""In-memory tables of one host under several normalisers, with planted kept fractions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from synthetic_tables import SyntheticTables, combine, effects

KEEP = {  # norm, bn mode, batch kind -> kept share of content, style, contrast variance
    ("none", "eval", "mixed"): (1.5, 1.5, 1.5),
    ("bn", "eval", "mixed"): (1.0, 1.0, 1.0),
    ("bn", "train", "mixed"): (0.95, 0.9, 0.95),
    ("bn", "train", "style-homogeneous"): (0.95, 0.05, 0.01),
    ("bn", "train", "content-homogeneous"): (0.05, 0.95, 0.95),
    ("ln", "eval", "mixed"): (0.8, 0.7, 0.0),
    ("gn8", "eval", "mixed"): (0.5, 0.5, 0.0),
    ("in", "eval", "mixed"): (0.7, 0.2, 0.0),
}
INPUTS = {"contrast": "gain", "restore": "luminance", "strength": 1.0}
TAPS = (("b.norm.in", 3), ("c.norm.in", 5))


def zoo_tables(
    rng: np.random.Generator,
    *,
    images: int = 24,
    styles: int = 8,
    levels: int = 3,
    channels: int = 12,
    seeds: int = 0,
    keep: Mapping[tuple[str, str, str], tuple[float, float, float]] = KEEP,
    batch: int | None = 24,
    identity: bool = True,
    perp: bool = True,
    host: str = "vgg16",
    vgg: bool = False,
) -> SyntheticTables:
    """Return tables in which every arm keeps the planted shares against its own frozen map.

    `seeds` random networks, or one trained network if 0; their effects are drawn anew. All arms
    of one network share effects, so planted shares are exact up to the small interaction.
    """
    tables = SyntheticTables()
    tables.configs.append({"composed_batch_size": batch, "shard_size": 32})
    size = (images, styles, levels, channels)
    labels = {
        "image": [f"{i:03d}.jpg" for i in range(images)],
        "style": [f"cin26:{i}" for i in range(styles)],
        "level": list(range(levels)),
    }
    networks = [(seed, 0) for seed in range(seeds)] or [(-1, -1)]
    for seed, iteration in networks:
        parts = {tap: effects(rng, *size) for tap, _ in TAPS}
        parts["relu3_1"] = effects(rng, *size)
        for (norm, mode, kind), share in keep.items():
            named = {"network": f"{host}+{norm}", "norm": norm, "bn_mode": mode,
                     "batch_kind": kind, "seed": seed, "iteration": iteration}  # fmt: skip
            named |= INPUTS
            for tap, depth in TAPS:
                where = {**named, "tap": tap, "tap_kind": "next_pre_norm", "depth": depth}
                _add(tables, labels, where, parts[tap], share, norm, perp=perp)
            if vgg:
                where = {**named, "network": "vgg16", "source": f"{host}+{norm}",
                         "tap": "relu3_1", "tap_kind": "vgg_of_output", "depth": 9}  # fmt: skip
                _add(tables, labels, where, parts["relu3_1"], share, norm, perp=False)
            if identity and kind == "style-homogeneous":
                mean, var = moments(combine(parts["b.norm.in"], style=0.05, contrast=0.01))
                moved = np.exp(rng.normal(size=(1, styles, levels, channels)))  # one map a batch
                where = {**named, "tap": "b.norm", "tap_kind": "post_norm", "depth": 4}
                tables.add(where, labels, mean, var * moved)
                planted = next(
                    b for b in tables.blocks if _same(b[0], {**named, "tap": "b.norm.in"})
                )
                planted[2][:], planted[3][:] = mean, var
    return tables


def moments(y):
    """Return mean and var whose scale-free moments are both y, up to constants."""
    var = np.exp(2 * y)
    return y * np.sqrt(var.mean(axis=(0, 1, 2))), var


def _same(row, where):
    return row["treatment"] == "none" and all(row[k] == v for k, v in where.items())


def _add(tables, labels, where, parts, share, norm, *, perp):
    content, style, contrast = share
    if norm != "none":
        mean, var = moments(combine(parts, shift=0.5))
        tables.add({**where, "treatment": "frozen:prefix"}, labels, mean, var)
    after = combine(parts, content=content, style=style, contrast=contrast)
    tables.add(where, labels, *moments(after))
    if perp and norm != "none":
        condition = {"condition": "match-luminance"}
        before = combine(parts, style=0.5)
        tables.add({**where, **condition, "treatment": "frozen:prefix"}, labels, *moments(before))
        after = combine(parts, content=content, style=0.25 * style, contrast=contrast)
        tables.add({**where, **condition}, labels, *moments(after))
