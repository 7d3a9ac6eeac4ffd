"""One shard: its images decoded, measured in groups, and its tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import torch

from statsnorm.devices import arithmetic
from statsnorm.errors import ImageError
from statsnorm.extraction.content import ContentDistances
from statsnorm.extraction.feed import Feed, Group, composed_batches, padded_batches
from statsnorm.extraction.measure import (
    CONTENT_TAP,
    Meter,
    is_content_vgg,
)
from statsnorm.extraction.outside import RangeRows
from statsnorm.extraction.plan import ExtractConfig
from statsnorm.extraction.sources import Stamp, stamp
from statsnorm.extraction.transfer import to_device
from statsnorm.extraction.variants import Variant, Variants
from statsnorm.images.decode import Decoded, decode
from statsnorm.images.names import safe_name
from statsnorm.images.sources import ImageRef
from statsnorm.rows import correlations_table, moments_table
from statsnorm.rundir import Run
from statsnorm.tables import (
    CONTENT_SCHEMA,
    OUTSIDE_SCHEMA,
    SKIPPED_SCHEMA,
    images_schema,
    write_table,
)

Tables = dict[str, tuple[Any, list[int] | None]]
"""Table name -> table, rows of its row groups (None: one)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Everything that a process needs to make shards of a run."""

    run: Run
    feed: Feed
    variants: Variants
    device: str
    with_content: bool

    def count(self, shard: int) -> int:
        """Return how many images a shard has."""
        return len(self.feed.inputs.shard(shard, self.feed.config.shard_size))


@dataclass(frozen=True, slots=True)
class Loaded:
    """One image in all the versions that come from files."""

    ref: ImageRef
    plain: Decoded
    paired: dict[str, Decoded]
    stamps: dict[str, Stamp] = field(default_factory=dict)  # by version, "" the plain one


def load_image(job: Job, ref: ImageRef) -> Loaded | ImageError:
    """Decode an image and its paired versions; one that fails drops the image everywhere."""
    config, paired = job.feed.config, job.feed.inputs.paired
    try:
        plain = decode(ref, size=config.size, pixel_limit=config.pixel_limit)
        versions = {
            name: _version(name, ImageRef(ref.image, pairs[ref.image]), config)
            for name, pairs in paired.items()
        }
    except ImageError as error:
        return error
    stamps = {"": stamp(ref.path, plain.sha256)}
    for name, version in versions.items():
        stamps[name] = stamp(paired[name][ref.image], version.sha256)
    return Loaded(ref, plain, versions, stamps)


def _version(name: str, ref: ImageRef, config: ExtractConfig) -> Decoded:
    """Decode the user's own version of an image; an error says which version it is about."""
    try:
        return decode(ref, size=config.size, pixel_limit=config.pixel_limit)
    except ImageError as error:
        reason = f"version {name!r}: {error.reason}"
        raise ImageError(error.image, error.stage, reason) from error


@dataclass(slots=True, kw_only=True)
class ShardWork:
    """A shard in the making: groups go in, tables come out."""

    job: Job
    meter: Meter
    loaded: list[Loaded] = field(default_factory=list)
    skipped: list[ImageError] = field(default_factory=list)
    content: list[dict[str, Any]] = field(default_factory=list)
    outside: list[dict[str, Any]] = field(default_factory=list)

    def add(self, results: Sequence[Loaded | ImageError], passed: Callable[[int], None]) -> None:
        """Measure a group of images; `passed` is told the rows of each batch as it is done."""
        group = [one for one in results if isinstance(one, Loaded)]
        self.skipped += [one for one in results if isinstance(one, ImageError)]
        if not group:
            return
        offset = len(self.loaded)
        # The pixels are kept by nobody once the group is done; the tables need the rest.
        self.loaded += [
            Loaded(one.ref, _without_pixels(one.plain), {}, one.stamps) for one in group
        ]
        with arithmetic("fp32"):  # whatever the precision of the networks under study
            tensors = _group(group, self.job.device)
            alike: dict[str, list[Variant]] = {}
            for variant in self.job.variants:
                alike.setdefault(variant.composition, []).append(variant)
            watched = RangeRows(cells=self.job.feed.inputs.cells)
            for composition, these in alike.items():
                cells = self.job.feed.cells(tensors)
                if not watched.rows:  # every composition has the same cells
                    cells = watched.watch(cells, tensors.images)
                self._measure(these, tensors, cells, offset, passed, composition=composition)
            self.outside += watched.finish()

    def sources(self) -> dict[str, dict[str, Stamp]]:
        """Return image -> version -> stamp of every file that was decoded."""
        return {one.ref.image: one.stamps for one in self.loaded}

    def tables(self) -> Tables:
        """Return the tables of the shard."""
        names = [one.ref.image for one in self.loaded]
        blocks = self.meter.blocks(names) if names else []
        skipped = [{"image": e.image, "stage": e.stage, "reason": e.reason} for e in self.skipped]
        tables: Tables = {
            "images": (self._images(), None),
            "skipped": (pa.Table.from_pylist(skipped, schema=SKIPPED_SCHEMA), None),
            "outside": (pa.Table.from_pylist(self.outside, schema=OUTSIDE_SCHEMA), None),
        }
        if self.job.with_content:
            table = pa.Table.from_pylist(self.content, schema=CONTENT_SCHEMA)
            tables["content"] = (table, None)
        if self.job.feed.config.correlations:
            tables["correlations"] = correlations_table(blocks)
        tables["moments"] = moments_table(blocks)  # last: it marks the shard finished
        return tables

    def _measure(
        self,
        variants: Sequence[Variant],
        group: Group,
        cells: Iterable[tuple[int, torch.Tensor]],
        offset: int,
        passed: Callable[[int], None],
        *,
        composition: str,
    ) -> None:
        feed = self.job.feed
        distances = {
            v.cell.network: ContentDistances(
                network=v.cell.network, cells=feed.inputs.cells, images=group.images
            )
            for v in variants
            if self.job.with_content and is_content_vgg(v)
        }
        batches = (
            composed_batches(cells, feed.inputs, composition, feed.config.batch_size)
            if composition
            else padded_batches(cells, feed.batch_size)
        )
        for batch in batches:
            for variant in variants:
                features = self.meter.add(variant, batch, group.images, offset)
                if self.job.with_content and is_content_vgg(variant):
                    distances[variant.cell.network].add(batch, features[CONTENT_TAP])
                passed(len(batch.image))
        for distance in distances.values():
            self.content += distance.finish()

    def _images(self) -> Any:
        inputs = self.job.feed.inputs
        schema = images_schema(inputs.attributes)
        columns: list[list[Any]] = [
            [one.ref.image for one in self.loaded],
            [one.plain.width for one in self.loaded],
            [one.plain.height for one in self.loaded],
            [one.plain.sha256 for one in self.loaded],
            [safe_name(str(one.ref.path)) for one in self.loaded],
        ]
        for name in inputs.attributes:
            columns.append([one.ref.attributes.get(name, "") for one in self.loaded])
        arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
        return pa.table(arrays, schema=schema)


def content_wanted(feed: Feed, variants: Variants) -> bool:
    """Return whether the run writes content distances: from originals, through a deep VGG."""
    conditions = feed.inputs.conditions
    plain = feed.inputs.design is None and "original" in conditions and len(conditions) > 1
    eval_mode = "eval" in feed.config.bn_modes
    return plain and eval_mode and any(is_content_vgg(v) for v in variants)


def write_shard(run: Run, shard: int, tables: Tables) -> tuple[str, ...]:
    """Write the tables of a shard, `moments` last; return their names."""
    names = run.expected.of_shard(shard)
    for name in names:
        table, groups = tables[name.partition("/")[0]]
        write_table(run.path / name, table, metadata=run.metadata, groups=groups)
    return names


def _group(loaded: Sequence[Loaded], device: str) -> Group:
    names = loaded[0].paired
    return Group(
        images=tuple(one.ref.image for one in loaded),
        pixels=to_device([one.plain.pixels for one in loaded], device),
        paired={
            name: to_device([one.paired[name].pixels for one in loaded], device) for name in names
        },
    )


def _without_pixels(decoded: Decoded) -> Decoded:
    return Decoded(torch.empty(0), decoded.width, decoded.height, decoded.sha256)
