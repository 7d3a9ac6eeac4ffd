"""Images and targets to curves and generators: one atomic file of each a cell, resumable."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from statsnorm import locks
from statsnorm.allocator import keep_freed_memory
from statsnorm.devices import resolve_device, tf32
from statsnorm.errors import StatsnormError
from statsnorm.generators import (
    kept_iterations,
)
from statsnorm.images.conditions import check_condition, needs_style
from statsnorm.images.decode import PIXEL_LIMIT, Decoded, decode
from statsnorm.images.doses import check_doses
from statsnorm.images.names import safe_name
from statsnorm.images.sources import find_images
from statsnorm.images.stylise import load_style_generator
from statsnorm.networks import load_network
from statsnorm.networks.perceptual import require_taps
from statsnorm.rundir import (
    Expected,
    Run,
    finish,
    open_run,
    writing,
)
from statsnorm.stopping import stop_on_signals
from statsnorm.tables import SKIPPED_SCHEMA, write_table
from statsnorm.training.deterministic import deterministic as exact
from statsnorm.training.files import CellFiles, final_files
from statsnorm.training.fresh import fresh_generator, place
from statsnorm.training.loss import STATISTICS
from statsnorm.training.plan import TrainConfig, check_names, training_cells
from statsnorm.training.pool import Pools, decode_all, tuned_parameters
from statsnorm.training.rates import pilot_rates
from statsnorm.training.sitting import Progress, Sitting, train_all
from statsnorm.training.step import Execution


def train(
    images: str | Path,
    *,
    target: Sequence[str | Path],
    out: str | Path,
    norm: Sequence[str] = ("in", "bn"),
    condition: Sequence[str] = ("original", "contrast", "style"),
    blocks: int | None = None,
    iterations: int = 2000,
    size: int = 256,
    batch_size: int = 4,
    lr: float | Sequence[float] = 1e-3,
    lr_from: str | Path | None = None,
    loss: str = "vgg16",
    weights: str | None = None,
    statistics: str = "gram",
    style_weight: float = 5.0,
    norm_at: str = "all",
    batch_kind: str = "mixed",
    renderings: int = 0,
    width: int = 32,
    residual_blocks: int = 5,
    heldout: int = 64,
    checkpoint_every: int = 500,
    keep_checkpoints: Sequence[int] = (),
    keep_generators: Sequence[str] = ("*",),
    pilot: bool = False,
    style_generator: str = "cin26",
    style_index: str | None = None,
    precision: str = "fp32",
    device: str = "auto",
    compile: bool = False,
    deterministic: bool = False,
    together: int = 1,
    time_limit: float | None = None,
    pixel_limit: int = PIXEL_LIMIT,
    seed: int = 0,
    restart: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Train one generator a cell of block x norm x condition and write its curves.

    A block is a target style with its own seed; its cells share initial weights, minibatch
    order, target, optimiser and budget. Finished cells are skipped, an unfinished one goes on
    from its last checkpoint, a cell that diverges ends with the reason in its footer.

    Parameters
    ----------
    images : str or Path
        Training photographs, as `statsnorm extract --images`.
    target : sequence of path
        Style images; block r uses the r-th, beginning again when there are more blocks.
    blocks : int, optional
        Number of blocks; as many as targets by default.
    iterations : int
        Budget T of every cell; held-out losses are recorded every T / 100.
    lr : float or sequence of float
        Learning rate of Adam; several train every cell at each, as a pilot does.
    lr_from : str or Path, optional
        A finished pilot run: each arm is trained at the rate that was best there.
    batch_kind : {"mixed", "style-homogeneous", "content-homogeneous"}
        How minibatches are composed (method.md 1.1, batch noise); all but mixed need renderings.
    renderings : int
        Every image of the conditions placebo and placebo-matched is there in so many styles,
        the same ones for all; 0 for one drawn by its name.
    checkpoint_every : int
        Iterations between two saved states of an unfinished cell; 0 for none.
    keep_checkpoints : sequence of int
        Iterations whose generators are kept beside the last one, which always is; 0 is the
        untrained generator.
    keep_generators : sequence of str
        Globs of the cells whose generators are kept; those of the others are not written.
    compile : bool
        Compile forward and losses with torch.compile.
    deterministic : bool
        The same bits again on one device, for any number of threads; slower.
    together : int
        Cells that are trained side by side; on a GPU each on a stream of its own.
    time_limit : float, optional
        Seconds after which no cell goes on. None is begun that would not end in time, as far as
        earlier ones tell; the same call again goes on.

    Returns
    -------
    Run
        The run directory: `curves/<cell>.parquet`, `generators/<cell>.safetensors`,
        `checkpoints/<cell>-<iteration>.safetensors`.

    Raises
    ------
    StatsnormError
        For names that do not exist, sizes that do not fit, or unreadable targets.
    """
    check_names("statistics", [statistics], STATISTICS)
    check_names("precision", [precision], ("fp32", "tf32", "bf16"))
    for name in condition:
        check_condition(name)
    began = time.monotonic()
    rates = (lr,) if isinstance(lr, int | float) else tuple(lr)
    if not rates:
        raise StatsnormError("give at least one learning rate")
    pilot_run, arm_lr = pilot_rates(lr_from) if lr_from is not None else (None, ())
    config = TrainConfig(
        targets=_block_targets(target, blocks),
        norms=tuple(norm),
        conditions=tuple(condition),
        size=size,
        batch=batch_size,
        iterations=iterations,
        lr=rates[0],
        lr_grid=rates if len(rates) > 1 else (),
        arm_lr=arm_lr,
        loss=loss,
        statistics=statistics,
        style_weight=style_weight,
        norm_at=norm_at,
        width=width,
        residual_blocks=residual_blocks,
        heldout=heldout,
        precision=precision,
        batch_kind=batch_kind,
        renderings=renderings,
        style_generator=style_generator,
        style_index=style_index,
        pilot=pilot,
        seed=seed,
    )
    keep = kept_iterations(keep_checkpoints, iterations)
    _check_arms(config)
    where = torch.device(resolve_device(device))
    keep_freed_memory()
    pools, targets = _prepare(config, images, weights=weights, device=where, limit=pixel_limit)
    cells = training_cells(config)
    run = open_run(
        Path(out),
        {
            "kind": "train",
            "train": config.as_dict(),
            "images": {"n": len(pools.images.refs), "sha256": pools.images.sha256},
            "targets": {safe_name(Path(t).name): d.sha256 for t, d in sorted(targets.items())},
            "loss_sha256": pools.vgg.sha256,
            "style_sha256": pools.stylise.sha256 if pools.stylise else "",
            "condition_parameters": dict(pools.parameters),
            **({"pilot_run": pilot_run.hash} if pilot_run else {}),
            **({"keep_checkpoints": list(keep)} if keep else {}),
        },
        expected=Expected(files=tuple(p for c in cells for p in final_files(c, keep_generators))),
        restart=restart,
    )
    with writing(run):
        _write_skipped(run, pools.images.skipped)
    sitting = Sitting(
        run=run,
        pools=pools,
        targets={t: d.pixels[None].to(where) for t, d in targets.items()},
        how=Execution(compile=compile),
        checkpoint_every=checkpoint_every,
        files=CellFiles(run=run, keep=keep, generators=keep_generators),
        until=began + time_limit if time_limit is not None else math.inf,
    )
    with (
        exact(wanted=deterministic),
        tf32(allowed=precision != "fp32"),
        stop_on_signals() as stop,
        writing(run),
        locks.signs_of_life(run.path / "locks"),
    ):
        sitting.stop = stop.is_set
        train_all(sitting, cells, together, progress)
        finish(run)
    return run


def _prepare(
    config: TrainConfig,
    images: str | Path,
    *,
    weights: str | None,
    device: torch.device,
    limit: int,
) -> tuple[Pools, dict[str, Decoded]]:
    """Read images and targets, load networks, tune conditions: everything before the first cell."""
    vgg = place(load_network(config.loss, weights=weights), device)
    require_taps(vgg)
    found = decode_all(find_images(images), size=config.size, pixel_limit=limit)
    styled = any(needs_style(c) or c == "blur" for c in config.conditions)  # blur: as `style`
    stylise = load_style_generator(config.style_generator, device=device) if styled else None
    check_doses(config.conditions, stylise.indices if stylise else ())
    pools = Pools(
        config=config,
        images=found,
        vgg=vgg,
        stylise=stylise,
        device=device,
        parameters=tuned_parameters(config, found, stylise, device),
    )
    targets = {t: decode(Path(t), size=config.size, pixel_limit=limit) for t in set(config.targets)}
    return pools, targets


def _check_arms(config: TrainConfig) -> None:
    """Refuse now what would fail when a cell's turn has come."""
    for kind in config.norms:
        fresh_generator(config, kind, 0)
    named = {(norm, condition) for norm, condition, _ in config.arm_lr}
    if config.arm_lr and config.lr_grid:
        raise StatsnormError("give several learning rates or a pilot's choice of them, not both")
    for arm in product(config.norms, config.conditions):
        if named and arm not in named:
            raise StatsnormError(f"the pilot has no learning rate for {arm[0]} on {arm[1]}")


def _block_targets(target: Sequence[str | Path], blocks: int | None) -> tuple[str, ...]:
    names = [str(t) for t in target]
    if blocks is not None and blocks < 1:
        raise StatsnormError(f"blocks must be at least 1, got {blocks}")
    count = blocks or len(names)
    return tuple(names[i % len(names)] for i in range(count)) if names else ()


def _write_skipped(run: Run, skipped: Sequence[Any]) -> None:
    rows = [{"image": e.image, "stage": e.stage, "reason": e.reason} for e in skipped]
    table = pa.Table.from_pylist(rows, schema=SKIPPED_SCHEMA)
    write_table(run.path / "skipped" / "shard-00000.parquet", table, metadata=run.metadata)
