"""Run directories with planted variance components, written in a second, for other tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from statsnorm.cells import InputCell, NetworkCell
from statsnorm.rows import Block, CellRows, TapColumns, moments_table
from statsnorm.rundir import Expected, Run, finish, open_run, record_shard
from statsnorm.tables import (
    CONTENT_SCHEMA,
    IMAGES_SCHEMA,
    LEVELS_SCHEMA,
    SKIPPED_SCHEMA,
    TAPS_SCHEMA,
    write_table,
)

COMPONENTS = {"I": 0.3, "S": 0.5, "K": 0.2, "IS": 0.05, "IK": 0.02, "SK": 0.02, "ISK": 0.01}
"""Planted variances of the log-sd and of the mean in units of s_c."""

TAPS = {
    "contract.1.norm.in": "next_pre_norm",
    "res.0.sum": "residual_sum",
    "res.0.0.norm": "post_norm",
}


def planted(
    rng: np.random.Generator, shape: tuple[int, int, int, int], components: Mapping[str, float]
) -> np.ndarray:
    """Return y (I, S, K, C): independent Gaussian effects with these variances per factor."""
    axes = {"I": 0, "S": 1, "K": 2}
    y = np.zeros(shape)
    for name, variance in components.items():
        size = [shape[axes[a]] if a in name else 1 for a in "ISK"]
        y += np.sqrt(variance) * rng.normal(size=(*size, shape[3]))
    return y


def moments_of(m: np.ndarray, v: np.ndarray, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return mean, var (..., C) float32 whose scale-free moments are m and v + constants."""
    var = scale**2 * np.exp(2 * v)
    s = np.sqrt(var.reshape(-1, var.shape[-1]).mean(axis=0))
    return (m * s).astype(np.float32), var.astype(np.float32)


def write_design_run(
    out: Path,
    *,
    images: int = 24,
    styles: int = 8,
    levels: int = 3,
    channels: int = 16,
    components: Mapping[str, float] = COMPONENTS,
    removed: Mapping[str, float] | None = None,
    untrained: int = 0,
    untrained_removed: Mapping[str, float] | None = None,
    taps: Mapping[str, str] = TAPS,
    vgg_taps: Sequence[str] = ("relu1_1", "relu3_1"),
    network: str = "cin26",
    conditions: Sequence[str] = ("original",),
    shard_size: int = 8,
    seed: int = 0,
) -> Run:
    """Write a finished RUN of a crossed design with treatments none and frozen:prefix.

    `frozen:prefix` has `components`; `none` has each factor's variance times (1 - R) with
    R from `removed` (default S .8, I .3, K 1), interactions as their first factor. The effects
    of the two treatments are the same up to scale. Untrained networks (seeds 0..) likewise
    with `untrained_removed`. Taps of kind post_norm are constant and by_construction.
    VGG of the output: rows of network vgg16, source `network`.
    """
    rng = np.random.default_rng(seed)
    trained = removed or {"S": 0.8, "I": 0.3, "K": 1.0}
    random = untrained_removed or {"S": 0.4, "I": 0.4, "K": 1.0}
    shape = (images, styles, levels, channels)
    names = tuple(f"photo-{i:03d}.jpg" for i in range(images))
    cells = tuple(
        InputCell(
            condition=c, style=f"{network}:{s}", restore="luminance", contrast="gain", level=k
        )
        for s in range(styles)
        for k in range(levels)
        for c in conditions
    )
    config = {"kind": "extract", "synthetic": seed, "shape": list(shape), "shard_size": shard_size}
    run = _open(out, config, images, shard_size)
    blocks: list[tuple[NetworkCell, TapColumns, np.ndarray, np.ndarray]] = []
    tap_rows: list[dict[str, object]] = []
    for net_seed in (-1, *range(untrained)):
        fractions = trained if net_seed < 0 else random
        for depth, (tap, kind, source) in enumerate(_tap_list(taps, vgg_taps, network)):
            parts = {n: planted(rng, shape, {n: v}) for n, v in components.items()}
            parts2 = {n: planted(rng, shape, {n: v}) for n, v in components.items()}
            for treatment in ("frozen:prefix", "none"):
                keep = {n: _keep(n, treatment, fractions) for n in components}
                by_construction = kind == "post_norm" and treatment == "none"
                m = sum(np.sqrt(keep[n]) * p for n, p in parts.items()) * (not by_construction)
                v = sum(np.sqrt(keep[n]) * p for n, p in parts2.items()) * (not by_construction)
                mean, var = moments_of(np.broadcast_to(m, shape), np.broadcast_to(v, shape))
                cell = NetworkCell(
                    network="vgg16" if source != "input" else network,
                    norm="cin",
                    treatment=treatment,
                    index="0",
                    source=source,
                    seed=net_seed,
                    iteration=0 if net_seed >= 0 else -1,
                )
                columns = TapColumns(
                    tap=tap,
                    tap_kind=kind,
                    depth=depth,
                    pixels=4096,
                    by_construction=by_construction,
                )
                blocks.append((cell, columns, mean, var))
                tap_rows.append(_tap_row(cell, columns, channels))
    _write_shards(run, names, cells, blocks, shard_size, len(conditions))
    _write_singles(run, tap_rows, levels)
    assert finish(run)
    return run


def write_conditions_run(
    out: Path,
    *,
    images: int = 24,
    conditions: Sequence[str] = ("original", "contrast", "style", "ck"),
    networks: Mapping[str, Mapping[str, str]] | None = None,
    channels: int = 16,
    spread: Mapping[str, float] | None = None,
    shift: Mapping[str, float] | None = None,
    attributes: Mapping[str, Sequence[str]] | None = None,
    shard_size: int = 8,
    seed: int = 0,
) -> Run:
    """Write a finished RUN of plain conditions.

    Between-image sd of m and v is `spread[condition]` (default 1, contrast .7, style .2,
    ck .5), their mean is shifted by `shift[condition]`. Networks: name -> {tap: kind}; default
    vgg16 with relu taps and pixels with luminance and rgb. Images carry `attributes`
    (column -> values, cycled). `content` is written with distances below the random ones.
    """
    rng = np.random.default_rng(seed)
    spread = {"contrast": 0.7, "style": 0.2, "ck": 0.5, **(spread or {})}
    vgg = {f"relu{b}_1": "post_act" for b in range(1, 5)}
    networks = networks or {"vgg16": vgg, "pixels": {"luminance": "input", "rgb": "input"}}
    names = tuple(f"photo-{i:03d}.jpg" for i in range(images))
    cells = tuple(InputCell(condition=c) for c in conditions)
    config = {"kind": "extract", "synthetic": seed, "shard_size": shard_size, "images": images}
    config["conditions"] = list(conditions)
    run = _open(out, config, images, shard_size, content=True)
    blocks, tap_rows = [], []
    for network, taps in networks.items():
        for depth, (tap, kind) in enumerate(taps.items()):
            count = {"luminance": 1, "rgb": 3}.get(tap, channels)
            common = rng.normal(size=(2, images, 1, count))
            arrays = []
            for effect in common:
                own = [
                    spread.get(c, 1.0) * (0.9 * effect + 0.1 * rng.normal(size=effect.shape))
                    + (shift or {}).get(c, 0.0)
                    for c in conditions
                ]
                arrays.append(np.concatenate(own, axis=1)[:, :, None])  # (I, conditions, 1, C)
            mean, var = moments_of(arrays[0], 0.3 * arrays[1])
            cell = NetworkCell(network=network)
            columns = TapColumns(tap=tap, tap_kind=kind, depth=depth, pixels=1024)
            blocks.append((cell, columns, mean, var))
            tap_rows.append(_tap_row(cell, columns, count))
    _write_shards(run, names, cells, blocks, shard_size, 1, attributes, rng)
    _write_singles(run, tap_rows, 0)
    assert finish(run)
    return run


def _open(out: Path, config: dict, images: int, shard_size: int, content: bool = False) -> Run:
    sharded = ("images", "skipped", *(("content",) if content else ()), "moments")
    expected = Expected(
        shards=-(-images // shard_size), sharded=sharded, files=("taps.parquet", "levels.parquet")
    )
    return open_run(out, config, expected=expected)


def _tap_list(
    taps: Mapping[str, str], vgg_taps: Sequence[str], network: str
) -> list[tuple[str, str, str]]:
    own = [(tap, kind, "input") for tap, kind in taps.items()]
    return own + [(tap, "vgg_of_output", network) for tap in vgg_taps]


def _keep(factor: str, treatment: str, removed: Mapping[str, float]) -> float:
    return 1.0 if treatment == "frozen:prefix" else 1.0 - removed.get(factor[0], 0.0)


def _tap_row(cell: NetworkCell, tap: TapColumns, channels: int) -> dict[str, object]:
    return {
        "network": cell.network,
        "norm": cell.norm,
        "treatment": cell.treatment,
        "source": cell.source,
        "tap": tap.tap,
        "call": tap.call,
        "tap_kind": tap.tap_kind,
        "depth": tap.depth,
        "module": tap.tap.removesuffix(".in"),
        "module_type": "Synthetic",
        "channels": channels,
        "height": 64,
        "width": 64,
        "layout": "nchw",
        "drop_tokens": 0,
        "eps": 0.0,
        "by_construction": [tap.by_construction] * channels,
    }


def _write_shards(run, names, cells, blocks, shard_size, repeats, attributes=None, rng=None):
    for shard in range(run.expected.shards):
        inside = slice(shard * shard_size, min((shard + 1) * shard_size, len(names)))
        part = names[inside]
        rows = CellRows(
            images=part,
            cells=cells,
            image=np.repeat(np.arange(len(part)), len(cells)),
            cell=np.tile(np.arange(len(cells)), len(part)),
        )
        pieces = []
        for cell, tap, mean, var in blocks:
            flat = [
                np.repeat(a[inside].reshape(len(part), -1, a.shape[-1]), repeats, axis=1)
                for a in (mean, var)
            ]
            mean_rows, var_rows = (a.reshape(-1, a.shape[-1]) for a in flat)
            pieces.append(Block(network=cell, tap=tap, rows=rows, mean=mean_rows, var=var_rows))
        table, groups = moments_table(pieces)
        files = run.expected.of_shard(shard)
        tables = {"images": _images(part, inside.start, attributes), "moments": table}
        tables["skipped"] = SKIPPED_SCHEMA.empty_table()
        if "content" in run.expected.sharded:
            tables["content"] = _content(part, cells, rng)
        for name in files:
            kind = name.partition("/")[0]
            write_table(
                run.path / name,
                tables[kind],
                metadata=run.metadata,
                groups=groups if kind == "moments" else None,
            )
        record_shard(run, shard, files, {"versions": {"synthetic": "1"}})


def _images(part, start, attributes):
    columns = {
        "image": list(part),
        "width": [64] * len(part),
        "height": [64] * len(part),
        "sha256": ["0" * 64] * len(part),
        "path": [f"photos/{name}" for name in part],
    }
    schema = IMAGES_SCHEMA
    for name, values in (attributes or {}).items():
        schema = schema.append(pa.field(name, pa.string(), nullable=False))
        columns[name] = [values[(start + i) % len(values)] for i in range(len(part))]
    return pa.table(columns, schema=schema)


def _content(part, cells, rng):
    rows = [
        {
            "image": image,
            "condition": cell.condition,
            "network": "vgg16",
            "tap": "relu4_2",
            "distance": 0.0 if cell.condition == "original" else float(rng.uniform(0.1, 0.5)),
            "random_distance": float(rng.uniform(0.8, 1.5)),
        }
        for image in part
        for cell in cells
    ]
    return pa.Table.from_pylist(rows, schema=CONTENT_SCHEMA)


def _write_singles(run: Run, tap_rows: list[dict[str, object]], levels: int) -> None:
    unique = list(
        {(r["network"], r["treatment"], r["source"], r["tap"]): r for r in tap_rows}.values()
    )
    taps = pa.Table.from_pylist(unique, schema=TAPS_SCHEMA)
    write_table(run.path / "taps.parquet", taps, metadata=run.metadata)
    gains = [
        {"contrast": "gain", "level": k, "parameter": "gain", "value": 1 - 0.5 * k / max(levels, 1)}
        for k in range(levels)
    ]
    table = pa.Table.from_pylist(gains, schema=LEVELS_SCHEMA)
    write_table(run.path / "levels.parquet", table, metadata=run.metadata)
