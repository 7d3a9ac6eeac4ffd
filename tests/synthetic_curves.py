"""Training curves with planted gaps, as rows of `curves` and as run directories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from statsnorm.rundir import Expected, finish, open_run, record_shard
from statsnorm.tables import CURVES_SCHEMA, write_table
from statsnorm.training.plan import TrainConfig, training_cells

GAPS = {"original": 0.5, "contrast": 0.45, "style": 0.04, "ck": 0.1, "placebo-matched": 0.48}


@dataclass
class Planted:
    """A training run whose log loss ratio of BN to IN is `gaps` plus noise a block."""

    blocks: int = 10
    gaps: dict[str, float] = field(default_factory=lambda: dict(GAPS))
    spread: float = 0.05  # sd of the gap between blocks
    noise: float = 0.01  # sd of the log loss between recorded iterations
    d: float = 0.0  # log L_IN,c - log L_IN,a, so that D = gap_c + d
    content: float = 0.0  # log ratio of the content losses
    seed: int = 0
    config: dict = field(default_factory=dict)
    conditions: tuple[str, ...] = ()
    norms: tuple[str, ...] = ("in", "bn")
    targets: tuple[str, ...] = ()
    minibatch: bool = False
    extra: dict[str, float] = field(default_factory=dict)  # norm -> log ratio to IN
    shape: Callable[[np.ndarray], np.ndarray] | None = None  # added gap of BN at t / T

    def train_config(self) -> TrainConfig:
        base = {"iterations": 500, "size": 64, "seed": 3}
        targets = self.targets or tuple(f"style{i}.jpg" for i in range(self.blocks))
        conditions = self.conditions or tuple(self.gaps)
        given = {"targets": targets, "norms": self.norms, "conditions": conditions}
        return TrainConfig(**{**base, **given, **self.config})

    def run_config(self) -> dict:
        return {"kind": "train", "train": self.train_config().as_dict(), "images": {"n": 40}}

    def curves(self) -> pd.DataFrame:
        config = self.train_config()
        rng = np.random.default_rng(self.seed)
        T = config.iterations
        grid = np.arange(0, T + 1, config.every)
        block_gap = {
            (b, c): g + self.spread * rng.normal()
            for b in range(len(config.targets))
            for c, g in self.gaps.items()
        }
        level = {
            b: 50 * np.exp(0.5 * np.random.default_rng([17, b]).normal())
            for b in range(len(config.targets))
        }
        frames = []
        for cell in training_cells(config):
            shift = {"in": 0.0, "bn": block_gap[cell.block, cell.condition], **self.extra}
            log = np.log(level[cell.block]) + np.log(0.05 + np.exp(-8 * grid / T))
            if self.shape is not None and cell.norm == "bn":
                log = log + self.shape(grid / T)
            log = log + shift[cell.norm] + (self.d if cell.condition == "style" else 0)
            log = log + self.noise * rng.normal(size=len(grid))
            content = 100 * np.exp(self.content * (cell.norm == "bn") - 0.5 * grid / T)
            frames.append(rows(cell, config, grid, np.exp(log), content, "heldout", "train"))
            if cell.norm == "bn":
                at = grid % (10 * config.every) == 0
                worse = 1.05 * np.exp(log[at])
                frames.append(rows(cell, config, grid[at], worse, content[at], "heldout", "eval"))
            if self.minibatch:
                t = np.arange(T)
                y = np.exp(np.interp(t, grid, log) + 0.1 * rng.normal(size=T))
                frames.append(rows(cell, config, t, y, np.full(T, 100.0), "train", "train"))
        return pd.concat(frames, ignore_index=True)


def rows(cell, config, iteration, style, content, split, mode) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "cell": cell.name,
            "block": f"b{cell.block:02d}",
            "target": f"/somewhere/{cell.target}",
            "norm": cell.norm,
            "condition": cell.condition,
            "seed": cell.seed,
            "iteration": iteration,
            "split": split,
            "bn_mode": mode,
            "style_loss": style,
            "content_loss": content,
            "total_loss": config.style_weight * style + content,
            "lr": config.lr,
            "seconds": np.nan,
        }
    )


def write_run(out: Path, planted: Planted) -> Path:
    """Write a finished training run with these curves."""
    curves = planted.curves()
    names = sorted(set(curves["cell"]))
    files = tuple(f"curves/{name}.parquet" for name in names)
    run = open_run(out, planted.run_config(), expected=Expected(files=files))
    for name, file in zip(names, files, strict=True):
        mine = curves[curves["cell"] == name]
        columns = {f.name: pa.array(mine[f.name].to_numpy(), f.type) for f in CURVES_SCHEMA}
        table = pa.table(columns, schema=CURVES_SCHEMA)
        write_table(out / file, table, metadata=run.metadata)
        record_shard(run, name, (file,), {"status": "done"})
    finish(run)
    return out
