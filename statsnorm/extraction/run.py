"""Images x networks x conditions -> shards of channel moments: what `statsnorm extract` calls."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from statsnorm.allocator import keep_freed_memory
from statsnorm.errors import StatsnormError, unknown
from statsnorm.extraction.estimate import estimate
from statsnorm.extraction.feed import Feed
from statsnorm.extraction.measure import arithmetic
from statsnorm.extraction.pilot import condition_parameters, decode_readable, reference_batches
from statsnorm.extraction.plan import ExtractConfig, describe_inputs, plan_inputs
from statsnorm.extraction.result import Extraction, estimated, made
from statsnorm.extraction.shard import Execution, Job, Progress, content_wanted
from statsnorm.extraction.sources import changed_sources
from statsnorm.extraction.variants import (
    Variant,
    Variants,
    describe_variants,
    load_networks,
    load_output_vgg,
    plan_variants,
    tap_rows,
)
from statsnorm.generators import trained_generators
from statsnorm.images.decode import PIXEL_LIMIT
from statsnorm.images.design import Design, design_from, load_design_file
from statsnorm.invariance import invariance_rows
from statsnorm.networks.zoo import expand_zoo
from statsnorm.rundir import (
    SINGLES,
    Expected,
    Run,
    config_hash,
    finish,
    open_run,
    record_shard,
    unit_is_finished,
    writing,
)
from statsnorm.shipped import plan_sha256
from statsnorm.tables import (
    INVARIANCE_SCHEMA,
    LEVELS_SCHEMA,
    TAPS_SCHEMA,
    write_table,
)

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
    shard_size: int = 32,
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
    shard_size : int
        Images a shard; part of the configuration.
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
        shard_size=shard_size,
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
        return estimated(Path(out), replace(found, seconds=found.seconds + prepared))
    content = content_wanted(feed, variants)
    if (Path(out) / "run.json").exists() and not (resume or restart):
        raise StatsnormError(f"{out} holds a run; resume it, or restart to throw it away")
    science, expected = _described(feed, variants, content=content)
    run = open_run(Path(out), science, expected=expected, restart=restart)
    shards = range(share[0], run.expected.shards, share[1])
    with writing(run):
        _write_singles(run, feed, variants, device=where)
    changed = changed_sources(run, feed.inputs, shards, shard_size)
    job = Job(run=run, feed=feed, variants=variants, device=where, with_content=content)
    count = workers or min(8, os.cpu_count() or 1)
    record = _execution(where, config, count)
    how = Execution(workers=count, max_skipped=max_skipped, progress=progress, record=record)
    import_module(ENGINES[engine]).run_shards(job, shards, how)
    with writing(run):
        finish(run)
    left_out = tuple(line for found in trained for line in found.left_out)
    return made(job, time.monotonic() - began, left_out, changed)


def prepare(config: ExtractConfig, *, device: str) -> tuple[Feed, Variants]:
    """Find images, load networks and generators, calibrate: everything before the first shard."""
    with arithmetic("fp32"):
        inputs = plan_inputs(config, device=device)
        networks = load_networks(config, device=device)
        output = load_output_vgg(config, networks, device=device)
        parameters = condition_parameters(config, inputs, device=device)
        feed = Feed(config=config, inputs=inputs, parameters=parameters)
        reference = reference_batches(feed, device=device)
        made = plan_variants(config, networks, reference=reference, device=device)
    variants = Variants(all=made, output=output)
    if config.correlations:
        most, taps = config.correlations, config.correlation_taps
        variants = variants.correlated(most, taps, seed=config.seed)
    return feed, variants


def resolve_device(name: str) -> str:
    """Return a device that is there; `auto` is a GPU where there is one.

    Raises
    ------
    StatsnormError
        If the name is no device, or the device is not there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        if reason.startswith("Expected one of"):  # every kind that torch has ever heard of
            reason = "no such kind"
        raise StatsnormError(
            f"device {name!r} cannot be used ({reason}); give cpu, cuda, cuda:N or auto"
        ) from error
    return name


def check_compiler(device: str) -> None:
    """Raise StatsnormError unless torch can compile for this device."""
    try:
        torch.compile(torch.exp)(torch.zeros(2, device=device))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise StatsnormError(f"compile is not possible here: {reason}") from error


def prepare_job(config: ExtractConfig, run: Run, *, device: str) -> Job:
    """Prepare the job of a run that another process has opened.

    Raises
    ------
    StatsnormError
        If this process finds other images, weights or versions than the run was opened with.
    """
    keep_freed_memory()
    feed, variants = prepare(config, device=device)
    content = content_wanted(feed, variants)
    science, _ = _described(feed, variants, content=content)
    if config_hash(science) != run.hash:
        raise StatsnormError(
            f"a worker on {platform.node()} would make another run than {run.path}: it does not "
            "find the same images, weights or versions"
        )
    return Job(run=run, feed=feed, variants=variants, device=device, with_content=content)


def _described(feed: Feed, variants: Variants, *, content: bool) -> tuple[dict[str, Any], Expected]:
    """Return the scientific configuration of a run and the files that it will hold."""
    config = feed.config
    science = {
        "kind": "extract",
        **describe_inputs(config, feed.inputs),
        **describe_variants(config, variants),
        "condition_parameters": dict(feed.parameters),
        "invariance": config.invariance,
    }
    files = ["taps.parquet", "levels.parquet", *(["invariance.parquet"] * config.invariance)]
    expected = Expected(
        shards=-(-len(feed.inputs.refs) // config.shard_size),
        sharded=(
            *("images", "skipped"),
            *(("content",) if content else ()),
            *(("correlations",) if config.correlations else ()),
            "moments",
        ),
        files=tuple(files),
    )
    return science, expected


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


def _write_singles(run: Run, feed: Feed, variants: Variants, *, device: str) -> None:
    """Write the tables that are one for the run; the same bytes from whichever process."""
    if unit_is_finished(run, SINGLES, run.expected.files):
        return
    made: dict[str, tuple[Callable[[], list[dict[str, Any]]], Any]] = {
        "taps.parquet": (lambda: tap_rows(variants), TAPS_SCHEMA),
        "levels.parquet": (lambda: _level_rows(feed.inputs.design), LEVELS_SCHEMA),
        "invariance.parquet": (
            lambda: _invariance_rows(feed, variants, device=device),
            INVARIANCE_SCHEMA,
        ),
    }
    for name in run.expected.files:
        rows, schema = made[name]
        table = pa.Table.from_pylist(rows(), schema=schema)
        write_table(run.path / name, table, metadata=run.metadata)
    record_shard(run, SINGLES, run.expected.files, {})


def _level_rows(design: Design | None) -> list[dict[str, Any]]:
    return [
        {"contrast": level.family, "level": level.level, "parameter": name, "value": value}
        for level in (design.levels if design else ())
        for name, value in level.parameters.items()
    ]


def _invariance_rows(feed: Feed, variants: Variants, *, device: str) -> list[dict[str, Any]]:
    """Test every network as it is, at its first index, on the first readable image."""
    _, x = decode_readable(feed.inputs.refs, feed.config, device=device, most=1)
    shipped = {v.network.name: v.network for v in reversed(variants.all) if _is_shipped(v)}
    return [row for name in sorted(shipped) for row in invariance_rows(shipped[name], x)]


def _is_shipped(variant: Variant) -> bool:
    return variant.cell.treatment == "none" and variant.cell.seed < 0


def _execution(device: str, config: ExtractConfig, workers: int) -> dict[str, Any]:
    libraries = ("statsnorm", "torch", "torchvision", "numpy", "pyarrow", "pillow")
    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else ""
    return {
        "device": f"{device} {gpu}".strip(),
        "batch_size": config.batch_size,
        "compile": config.compile,
        "workers": workers,
        "process": os.getpid(),
        "threads": torch.get_num_threads(),
        "plan_sha256": plan_sha256(),
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in libraries},
        },
    }


def _version(name: str) -> str:
    import statsnorm

    return statsnorm.__version__ if name == "statsnorm" else version(name)
