"""Images x networks x conditions -> shards of channel moments: what `statsnorm extract` calls."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from statsnorm.allocator import keep_freed_memory
from statsnorm.devices import check_compiler, resolve_device
from statsnorm.errors import StatsnormError, unknown
from statsnorm.extraction.describe import described
from statsnorm.extraction.estimate import estimate
from statsnorm.extraction.execution import Execution, Progress, execution_record
from statsnorm.extraction.plan import ExtractConfig, default_shard
from statsnorm.extraction.prepare import prepare
from statsnorm.extraction.result import Extraction, estimated, made
from statsnorm.extraction.shard import Job, content_wanted
from statsnorm.extraction.singles import write_singles
from statsnorm.extraction.sources import changed_sources
from statsnorm.generators import trained_generators
from statsnorm.images.decode import PIXEL_LIMIT
from statsnorm.images.design import Design, design_from, load_design_file
from statsnorm.networks.zoo import expand_zoo
from statsnorm.rundir import finish, open_run, writing

ENGINES = {"local": "statsnorm.engines.local", "ray": "statsnorm.engines.ray"}
"""Engine -> module with `run_shards`; loaded when used."""


def extract(
    images: str | Path,
    *,
    out: str | Path,
    networks: Sequence[str] | None = None,
    generators: Sequence[str | Path] = (),
    cells: Sequence[str] = ("*",),
    conditions: Sequence[str] = ("original",),
    design: str | Path | Mapping[str, Any] | Design | None = None,
    size: int = 256,
    taps: Sequence[str] | None = None,
    treatments: Sequence[str] = ("none",),
    reference: str | Path | None = None,
    indices: Sequence[str] | None = None,
    untrained: int = 0,
    vgg_of_output: str | None = "vgg16",
    vgg_taps: Sequence[str] = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_2"),
    style_generator: str = "cin26",
    style_index: str | None = None,
    strength: float = 1.0,
    restore: str = "none",
    bn_mode: str | Sequence[str] = "eval",
    batch_kind: str | Sequence[str] = "mixed",
    weights: str | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    precision: str = "fp32",
    compile: bool = False,
    workers: int | None = None,
    shard: str | None = None,
    shard_size: int | None = None,
    engine: str = "local",
    resume: bool = True,
    restart: bool = False,
    max_skipped: int | None = None,
    pixel_limit: int = PIXEL_LIMIT,
    dry_run: bool = False,
    seed: int = 0,
    invariance: bool = False,
    correlations: int = 0,
    correlation_taps: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Extraction:
    """Reduce every tapped activation to its per-image, per-channel mean and variance.

    Parameters
    ----------
    images : str or Path
        A folder, a list file, a CSV manifest, or `embedded`
        (:func:`statsnorm.images.sources.find_images`).
    out : str or Path
        The run directory; the same command again goes on where it stopped.
    networks : sequence of str, optional
        As :func:`statsnorm.networks.load_network` takes them; VGG-16 by default, or none beside
        `generators`.
    generators : sequence of path
        Training runs: the generators of all their cells, those kept on the way too, with the
        keys cell, norm, seed and iteration filled in. Cells that diverged are left out.
    cells : sequence of str
        Globs of the cells of `generators` that are taken.
    conditions : sequence of str
        Names of :data:`statsnorm.images.conditions.BUILT_IN`, or `NAME=DIR` with the user's own
        versions of the same images. In a design they come on top of every cell.
    design : path, mapping or Design, optional
        The crossed content x style x contrast design: a TOML file, or what one says.
    size : int
        Side of the square images, in pixels.
    taps : sequence of str, optional
        Names, kinds or globs; all taps by default.
    treatments : sequence of str
        none, frozen:prefix, frozen:all, frozen:NORMALISER, bn_train, and the swaps and blends of
        :mod:`statsnorm.swap_names`; each for the networks that it fits.
    reference : str or Path, optional
        Images that calibrate the frozen maps. With a design they are rendered in styles of the
        same generators that the design leaves out, and may then show the same contents.
    indices : sequence of str, optional
        Style indices of conditional networks; the first by default.
    untrained : int
        Also so many random initialisations of every network with normalisers.
    vgg_of_output : {"vgg16", "vgg19", "none"}
        Which VGG sees what generators make.
    vgg_taps : sequence of str
        Its taps.
    style_generator, style_index, strength, restore
        Of the conditions style, ck and the placebos.
    bn_mode : {"eval", "train"}, or both
        With `train` batch normalisers use the batch, composed as `batch_kind` says; the batch
        size is then part of the configuration.
    batch_kind : {"mixed", "style-homogeneous", "content-homogeneous"}, or several
        How batches are composed for `bn_mode` or treatment train; networks with batch
        normalisers are run in each of them. The first is recorded for all other rows.
    weights : str, optional
        Of the VGGs among `networks`, else of the first network.
    batch_size : int, optional
        Inputs of one forward pass; 16 on a CPU, 64 on a GPU.
    device : str
        cpu, cuda, cuda:1, or auto.
    precision : {"fp32", "tf32", "bf16"}
        Of the networks under study; moments are reduced in at least float32.
    compile : bool
        Compile the passes with torch.compile (needs a C++ compiler, or a GPU); agrees to 1e-4.
    workers : int, optional
        Decoding threads; as many as there are cores, at most 8.
    shard : str, optional
        `i/n`: only every n-th shard, from the i-th; n processes share one `out`.
    shard_size : int, optional
        Images a shard; part of the configuration. 128 by default, with a design 32.
    engine : {"local", "ray"}
        Where shards run: in this process, or on the Ray cluster of `RAY_ADDRESS` (one of this
        machine where that is not set), whose nodes must share the folders of images and `out`.
    resume, restart : bool
        Go on with what is there (refused if neither), or throw it away.
    max_skipped : int, optional
        Give up when more images than this cannot be used.
    pixel_limit : int
        Largest image that is decoded.
    dry_run : bool
        Estimate rows, bytes and seconds from a short probe; writes nothing.
    seed : int
        Of the placebos' draws, the pilot images, and the untrained networks.
    invariance : bool
        Also test the invariances of method.md 2.5.
    correlations : int
        Also keep, per image, the correlations between at most so many channels of a tap, at
        least 2; of more channels those of a draw by `seed`, the same at all taps of one width.
        0 for none. See :mod:`statsnorm.correlations`.
    correlation_taps : sequence of str, optional
        Names, kinds or globs of the taps that keep them; all that are read by default.
    progress : callable, optional
        Called with forward passes done, all there are, and a word.

    Returns
    -------
    Extraction

    Raises
    ------
    StatsnormError
        For anything in the request that cannot be; nothing has been written then.
    UnfinishedRunError
        After SIGINT or SIGTERM.
    NonFiniteError
        If an activation has a nan or an infinity.
    """
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    began, where, share = time.monotonic(), resolve_device(device), _share(shard)
    trained = [trained_generators(run, cells=cells) for run in generators]
    files = [str(file) for found in trained for file in found.files]
    config = ExtractConfig(
        images=images,
        networks=(*expand_zoo(networks or (() if files else ("vgg16",))), *files),
        conditions=tuple(conditions),
        design=_design(design),
        size=size,
        taps=tuple(taps or ()),
        treatments=tuple(treatments),
        reference=reference,
        indices=tuple(indices or ()),
        untrained=untrained,
        vgg_of_output=vgg_of_output or "none",
        vgg_taps=tuple(vgg_taps),
        style_generator=style_generator,
        style_index=style_index or "",
        strength=strength,
        restore=restore,
        bn_modes=(bn_mode,) if isinstance(bn_mode, str) else tuple(bn_mode),
        batch_kinds=(batch_kind,) if isinstance(batch_kind, str) else tuple(batch_kind),
        weights=weights,
        batch_size=batch_size or (64 if where.startswith("cuda") else 16),
        precision=precision,
        shard_size=default_shard(design) if shard_size is None else shard_size,
        pixel_limit=pixel_limit,
        seed=seed,
        invariance=invariance,
        correlations=correlations,
        correlation_taps=tuple(correlation_taps or ()),
        compile=compile,
    )
    if compile:
        check_compiler(where)
    keep_freed_memory()
    feed, variants = prepare(config, device=where)
    if dry_run:
        prepared = time.monotonic() - began
        found = estimate(feed, variants, device=where)
        return estimated(Path(out), replace(found, seconds=found.seconds + prepared), config.design)
    content = content_wanted(feed, variants)
    if (Path(out) / "run.json").exists() and not (resume or restart):
        raise StatsnormError(f"{out} holds a run; resume it, or restart to throw it away")
    science, expected = described(feed, variants, content=content)
    run = open_run(Path(out), science, expected=expected, restart=restart)
    shards = range(share[0], run.expected.shards, share[1])
    with writing(run):
        write_singles(run, feed, variants, device=where)
    changed = changed_sources(run, feed.inputs, shards, config.shard_size)
    job = Job(run=run, feed=feed, variants=variants, device=where, with_content=content)
    count = workers or min(8, os.cpu_count() or 1)
    record = execution_record(where, config, count)
    how = Execution(workers=count, max_skipped=max_skipped, progress=progress, record=record)
    import_module(ENGINES[engine]).run_shards(job, shards, how)
    with writing(run):
        finish(run)
    left_out = tuple(line for found in trained for line in found.left_out)
    return made(job, time.monotonic() - began, left_out, changed)


def _design(asked: str | Path | Mapping[str, Any] | Design | None) -> Design | None:
    if isinstance(asked, str | Path):
        return load_design_file(asked)
    return design_from(asked) if isinstance(asked, Mapping) else asked


def _share(asked: str | None) -> tuple[int, int]:
    """Return (i, n) of `i/n`, which asks for every n-th shard from the i-th."""
    if asked is None:
        return 0, 1
    part, slash, of = asked.partition("/")
    if not (slash and part.isascii() and part.isdecimal() and of.isascii() and of.isdecimal()):
        raise StatsnormError(f"shard must be i/n like 0/3, got {asked!r}")
    if not int(part) < int(of):
        raise StatsnormError(f"shard {asked!r}: i must be 0 to n-1")
    return int(part), int(of)
