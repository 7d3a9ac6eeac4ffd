"""Images and targets to curves and generators: one atomic file of each a cell, resumable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import nn

from statsnorm.allocator import keep_freed_memory
from statsnorm.errors import StatsnormError
from statsnorm.extraction.measure import tf32
from statsnorm.extraction.run import resolve_device
from statsnorm.generators import (
    cell_status,
    checkpoint_file,
    curves_file,
    generator_file,
    kept_iterations,
)
from statsnorm.images.conditions import check_condition, needs_style
from statsnorm.images.decode import PIXEL_LIMIT, decode
from statsnorm.images.doses import check_doses
from statsnorm.images.sources import find_images
from statsnorm.images.stylise import load_style_generator
from statsnorm.networks import load_network
from statsnorm.networks.network import Network
from statsnorm.networks.texture import TextureGenerator, texture_network
from statsnorm.networks.weights import save_checkpoint
from statsnorm.rundir import (
    Expected,
    Run,
    begin_shard,
    end_shard,
    finish,
    open_run,
    record_shard,
)
from statsnorm.tables import CURVES_SCHEMA, SKIPPED_SCHEMA, write_table
from statsnorm.training.cell import CellResult, Problem, train_cell
from statsnorm.training.loss import STATISTICS, style_targets
from statsnorm.training.plan import TrainConfig, TrainingCell, check_names, training_cells
from statsnorm.training.pool import Pools, decode_all, tuned_parameters

Progress = Callable[[int, int, str], None]


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
    lr: float = 1e-3,
    loss: str = "vgg16",
    weights: str | None = None,
    statistics: str = "gram",
    style_weight: float = 5.0,
    norm_at: str = "all",
    width: int = 32,
    residual_blocks: int = 5,
    heldout: int = 64,
    checkpoint_every: int = 500,
    keep_checkpoints: Sequence[int] = (),
    pilot: bool = False,
    style_generator: str = "cin26",
    style_index: str | None = None,
    precision: str = "fp32",
    device: str = "auto",
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
    checkpoint_every : int
        Iterations between two saved states of an unfinished cell; 0 for none.
    keep_checkpoints : sequence of int
        Iterations whose generators are kept beside the last one, which always is; 0 is the
        untrained generator.

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
    config = TrainConfig(
        targets=_block_targets(target, blocks),
        norms=tuple(norm),
        conditions=tuple(condition),
        size=size,
        batch=batch_size,
        iterations=iterations,
        lr=lr,
        loss=loss,
        statistics=statistics,
        style_weight=style_weight,
        norm_at=norm_at,
        width=width,
        residual_blocks=residual_blocks,
        heldout=heldout,
        precision=precision,
        style_generator=style_generator,
        style_index=style_index,
        pilot=pilot,
        seed=seed,
    )
    keep = kept_iterations(keep_checkpoints, iterations)
    for kind in config.norms:  # a misspelt norm shall not wait for its turn
        _generator(config, kind, 0)
    where = torch.device(resolve_device(device))
    keep_freed_memory()
    vgg = _on(load_network(loss, weights=weights), where)
    found = decode_all(find_images(images), size=size, pixel_limit=pixel_limit)
    styled = any(needs_style(c) or c == "blur" for c in config.conditions)  # blur: as `style`
    stylise = load_style_generator(style_generator, device=where) if styled else None
    check_doses(config.conditions, stylise.indices if stylise else ())
    parameters = tuned_parameters(config, found, stylise, where)
    cells = training_cells(config)
    targets = {t: decode(Path(t), size=size, pixel_limit=pixel_limit) for t in set(config.targets)}
    run = open_run(
        Path(out),
        {
            "kind": "train",
            "train": config.as_dict(),
            "images": {"n": len(found.refs), "sha256": found.sha256},
            "targets": {Path(t).name: d.sha256 for t, d in sorted(targets.items())},
            "loss_sha256": vgg.sha256,
            "style_sha256": stylise.sha256 if stylise else "",
            "condition_parameters": parameters,
            **({"keep_checkpoints": list(keep)} if keep else {}),
        },
        expected=Expected(files=tuple(p for c in cells for p in _files(c))),
        restart=restart,
    )
    _write_skipped(run, found.skipped)
    pools = Pools(
        config=config,
        images=found,
        vgg=vgg,
        stylise=stylise,
        device=where,
        parameters=parameters,
    )
    for i, cell in enumerate(cells):
        if progress:
            progress(i, len(cells), cell.name)
        image = targets[cell.target].pixels[None].to(where)
        with tf32(allowed=precision == "tf32"):
            _one_cell(run, cell, pools, image, checkpoint_every, keep)
    if progress:
        progress(len(cells), len(cells), "trained")
    finish(run)
    return run


def _one_cell(
    run: Run,
    cell: TrainingCell,
    pools: Pools,
    target: torch.Tensor,
    checkpoint_every: int,
    keep: Sequence[int],
) -> None:
    curves, generator = (run.path / name for name in _files(cell))
    if _is_done(run, cell, keep) or not begin_shard(run, cell.name):
        return  # done, or another process is at it
    try:
        config = pools.config
        problem = Problem(
            config=config,
            pool=pools[cell.condition],
            vgg=pools.vgg,
            targets=style_targets(pools.vgg, target, config.statistics),
        )
        part = generator.with_suffix(".part.safetensors")
        part.parent.mkdir(parents=True, exist_ok=True)
        network = _on(_generator(config, cell.norm, cell.seed), pools.device)

        def keep_it(iteration: int) -> None:
            if iteration in keep:
                _save(
                    run.path / checkpoint_file(cell.name, iteration),
                    network.module,
                    cell,
                    iteration,
                )

        result = train_cell(
            cell,
            problem,
            network,
            part=part,
            checkpoint_every=checkpoint_every,
            reached=keep_it,
        )
        _write_cell(run, cell, result, curves, generator)
        part.unlink(missing_ok=True)
    finally:
        end_shard(run, cell.name)


def _write_cell(
    run: Run, cell: TrainingCell, result: CellResult, curves: Path, generator: Path
) -> None:
    _save(generator, result.module, cell, result.iteration, status=result.status)
    footer = {**run.metadata, "statsnorm.status": result.status}
    table = pa.Table.from_pylist(result.rows, schema=CURVES_SCHEMA)
    write_table(curves, table, metadata=footer)
    record_shard(run, cell.name, _files(cell), {"status": result.status})


def _save(
    path: Path, module: nn.Module, cell: TrainingCell, iteration: int, *, status: str = "training"
) -> None:
    assert isinstance(module, TextureGenerator)
    metadata = {
        **module.architecture,
        "target": Path(cell.target).name,
        "condition": cell.condition,
        "block": f"b{cell.block:02d}",
        "cell": cell.name,
        "seed": cell.seed,
        "iteration": iteration,
        "status": status,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, module, metadata)


def _is_done(run: Run, cell: TrainingCell, keep: Sequence[int]) -> bool:
    """Return whether a cell has all its files; one that ended early has no later checkpoint."""
    if not all((run.path / name).exists() for name in _files(cell)):
        return False
    kept = (run.path / checkpoint_file(cell.name, iteration) for iteration in keep)
    return cell_status(run, cell.name) != "done" or all(path.exists() for path in kept)


def _files(cell: TrainingCell) -> tuple[str, str]:
    return curves_file(cell.name), generator_file(cell.name)


def _generator(config: TrainConfig, norm: str, seed: int) -> Network:
    """Return a fresh generator; its convolutions depend on the seed, not on the norm."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = TextureGenerator(
            norm, width=config.width, blocks=config.residual_blocks, norm_at=config.norm_at
        )
    return texture_network(module, cell="", seed=seed, iteration=0)


def _block_targets(target: Sequence[str | Path], blocks: int | None) -> tuple[str, ...]:
    names = [str(t) for t in target]
    if blocks is not None and blocks < 1:
        raise StatsnormError(f"blocks must be at least 1, got {blocks}")
    count = blocks or len(names)
    return tuple(names[i % len(names)] for i in range(count)) if names else ()


def _on(network: Network, device: torch.device) -> Network:
    network.module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def _write_skipped(run: Run, skipped: Sequence[Any]) -> None:
    rows = [{"image": e.image, "stage": e.stage, "reason": e.reason} for e in skipped]
    table = pa.Table.from_pylist(rows, schema=SKIPPED_SCHEMA)
    write_table(run.path / "skipped" / "shard-00000.parquet", table, metadata=run.metadata)
