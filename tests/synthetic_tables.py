"""In-memory stand-in for `statsnorm.load.Tables`: moments with planted variance components."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from statsnorm.cells import KEYS, InputCell, NetworkCell

CELL_DEFAULTS = {
    f: getattr(c(), f) for c in (InputCell, NetworkCell) for f in c.__dataclass_fields__
}


class InOrder:
    """Tables whose taps are reduced one after another."""

    def map_taps(self, function, taps):
        return [function(self, tap) for tap in taps]


@dataclass
class SyntheticTables(InOrder):
    """Blocks of cells: (keys without the axes, axes, labels, mean, var)."""

    blocks: list[Any] = field(default_factory=list)
    content_rows: pd.DataFrame = field(default_factory=pd.DataFrame)
    outside_rows: pd.DataFrame = field(default_factory=pd.DataFrame)
    invariance_rows: pd.DataFrame = field(default_factory=pd.DataFrame)
    level_rows: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(
            {"contrast": [], "level": [], "parameter": [], "value": []}
        )
    )
    configs: list[dict[str, Any]] = field(default_factory=list)
    attributes: pd.DataFrame = field(default_factory=lambda: pd.DataFrame({"image": []}))

    def add(self, keys: Mapping[str, Any], labels: Mapping[str, Sequence[Any]], mean, var) -> None:
        defaults = {"call": 0, "tap_kind": "next_pre_norm", "depth": 0, "by_construction": False}
        row = {**CELL_DEFAULTS, **defaults, **keys}
        assert mean.shape[:-1] == tuple(len(v) for v in labels.values())
        self.blocks.append((row, dict(labels), np.asarray(mean, float), np.asarray(var, float)))

    def keys(self) -> pd.DataFrame:
        rows = []
        for row, labels, mean, _ in self.blocks:
            others = {k: v for k, v in labels.items() if k != "image"}
            for values in itertools.product(*others.values()):
                named = dict(zip(others, values, strict=True))
                rows.append({**row, **named, "pixels": 64, "n_images": mean.shape[0]})
        return pd.DataFrame(rows)

    def taps(self) -> pd.DataFrame:
        rows = self.keys()[["network", "norm", "treatment", "source", "tap", "call", "depth"]]
        return rows.drop_duplicates().assign(eps=1e-5)

    def array(self, where: Mapping[str, Any], axes: Sequence[str] = ("image", "style", "level")):
        found = [b for b in self.blocks if self._matches(b, where)]
        assert len(found) == 1, f"{len(found)} blocks for {dict(where)}"
        _, labels, mean, var = found[0]
        keep = {}
        for axis, name in enumerate(list(labels)):
            wanted = where.get(name, labels[name])
            wanted = [wanted] if np.isscalar(wanted) else list(wanted)
            rows = [list(labels[name]).index(v) for v in wanted]
            mean, var = mean.take(rows, axis=axis), var.take(rows, axis=axis)
            keep[name] = wanted
        order = [n for n in axes if n in keep]
        for name in axes:
            if name not in keep:  # an axis with one level, held as a key
                keep[name] = [found[0][0][name]]
        dropped = [n for n in keep if n not in axes]
        assert all(len(keep[n]) == 1 for n in dropped), dropped
        names = [n for n in keep if n in labels]
        move = [names.index(n) for n in order] + [names.index(n) for n in names if n in dropped]
        shape = tuple(len(keep[n]) for n in axes) + mean.shape[-1:]
        mean, var = (np.moveaxis(x, move, range(len(move))).reshape(shape) for x in (mean, var))
        return SimpleNamespace(
            mean=mean, var=var, labels={n: list(keep[n]) for n in axes}, keys=found[0][0], missing=0
        )

    def moments(self, **where: Any):
        frames, means, variances = [], [], []
        for row, labels, mean, var in self.blocks:
            if not self._matches((row, labels, mean, var), where):
                continue
            grid = pd.MultiIndex.from_product(list(labels.values()), names=list(labels))
            frame = grid.to_frame(index=False).assign(pixels=64)
            for name, value in row.items():
                if name not in frame:
                    frame[name] = value
            mask = np.ones(len(frame), dtype=bool)
            for name, value in where.items():
                wanted = [value] if np.isscalar(value) else list(value)
                mask &= frame[name].isin(wanted).to_numpy()
            frames.append(frame[mask])
            means.append(mean.reshape(-1, mean.shape[-1])[mask])
            variances.append(var.reshape(-1, var.shape[-1])[mask])
        return (
            pd.concat(frames, ignore_index=True),
            np.concatenate(means),
            np.concatenate(variances),
        )

    def images(self) -> pd.DataFrame:
        return self.attributes

    def provenance(self) -> dict[str, Any]:
        return {"runs": [{"config": config} for config in self.configs]}

    def levels(self) -> pd.DataFrame:
        return self.level_rows

    def content(self) -> pd.DataFrame:
        return self.content_rows

    def outside(self) -> pd.DataFrame:
        return self.outside_rows

    def invariance(self) -> pd.DataFrame:
        return self.invariance_rows

    def _matches(self, block, where) -> bool:
        row, labels, *_ = block
        for name, value in where.items():
            wanted = {value} if np.isscalar(value) else set(value)
            if not wanted & (set(labels[name]) if name in labels else {row[name]}):
                return False
        return True


def effects(rng, images, styles, levels, channels):
    """Return standardised main effects and a small interaction, balanced and centred."""
    return {
        "content": rng.normal(size=(images, 1, 1, channels)),
        "style": rng.normal(size=(1, styles, 1, channels)),
        "contrast": np.linspace(-1, 1, levels)[None, None, :, None] * np.ones(channels),
        "rest": 0.1 * rng.normal(size=(images, styles, levels, channels)),
    }


def combine(parts, *, content=1.0, style=1.0, contrast=1.0, shift=0.0):
    """Return y with each main effect's VARIANCE multiplied by the given factor."""
    kept = {"content": content, "style": style, "contrast": contrast, "rest": 1.0}
    return shift + 0.3 * sum(np.sqrt(kept[k]) * v for k, v in parts.items())


def planted_study(
    rng,
    *,
    images=24,
    styles=8,
    levels=3,
    channels=12,
    keep=(0.7, 0.2, 0.0),  # content, style, contrast variance kept by the normaliser
    untrained=8,
    keep_untrained=(0.6, 0.5, 0.0),
    pixel=0.8,
    conditions=True,
    generators=("cin26",),
    network="cin26",
):
    """Return tables in which R_I, R_S, R_K are 1 - keep."""
    tables = SyntheticTables()
    names = [f"{generators[i % len(generators)]}:{i}" for i in range(styles)]
    labels = {
        "image": [f"{i:03d}.jpg" for i in range(images)],
        "style": sorted(names),
        "level": list(range(levels)),
    }
    inputs = {"contrast": "gain", "restore": "luminance", "strength": 1.0}
    taps = [
        ("a.norm.in", "pre_norm", 1),
        ("b.norm.in", "next_pre_norm", 3),
        ("c.norm.in", "next_pre_norm", 6),
        ("c.sum", "residual_sum", 8),
    ]

    def add(net, tap, kind, depth, y, **more):
        mean = y[..., ::-1] * np.sqrt(np.exp(2 * y).mean(axis=(0, 1, 2)))  # so that m = y
        tables.add(
            {**net, **inputs, "tap": tap, "tap_kind": kind, "depth": depth, **more},
            labels,
            mean,
            np.exp(2 * y),
        )

    size = (images, styles, levels, channels)
    for tap in ("relu3_1",):
        parts = effects(rng, *size)
        add({"network": "vgg16"}, tap, "post_act", 5, combine(parts))
    add({"network": "pixels"}, "luminance", "post_act", 1, combine(effects(rng, *size[:3], 1)))

    seeds = [(-1, -1), *((seed, 0) for seed in range(untrained))]
    for seed, iteration in seeds:
        jitter = rng.uniform(0.95, 1.05)
        ki, ks, kk = keep if seed < 0 else (jitter * k for k in keep_untrained)
        net = {"norm": "cin", "index": "0", "seed": seed, "iteration": iteration}
        for tap, kind, depth in [*taps, ("relu3_1", "vgg_of_output", 5)]:
            parts = effects(rng, *size)
            who = {**net, "network": network}
            if kind == "vgg_of_output":
                who = {**net, "network": "vgg16", "source": network}
            before = combine(parts, shift=0.5)
            after = combine(parts, content=ki, style=ks, contrast=kk)
            add(who, tap, kind, depth, before, treatment="frozen:prefix")
            add(who, tap, kind, depth, before if kind == "pre_norm" else after, treatment="none")
            if seed >= 0 or not conditions:
                continue
            for name in (
                "standardise",
                "contrast",
                "contrast-rgb",
                "standardise-rgb",
                "clahe",
                "whiten",
            ):
                y = combine(parts, style=pixel, contrast=0.1)
                add(who, tap, kind, depth, y, treatment="frozen:prefix", condition=name)
            for name in ("match-luminance", "match-rgb"):
                y = combine(parts, style=0.5)
                add(who, tap, kind, depth, y, treatment="frozen:prefix", condition=name)
                y = combine(parts, style=0.5 * ks, content=ki, contrast=kk)
                add(who, tap, kind, depth, y, treatment="none", condition=name)
        if seed < 0:
            add(
                {**net, "network": network},
                "a.norm",
                "post_norm",
                2,
                np.zeros((*size[:3], channels)) + rng.normal(size=channels),
                by_construction=True,
            )
    return tables


assert set(CELL_DEFAULTS) == set(KEYS)
