"""From decoded images to batches of input cells, every cell from the same decoded tensor.

In a design each image is styled once per (content, style); strengths blend that one rendering,
levels act on the blend, conditions come on top.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from statsnorm.cells import GROUP
from statsnorm.extraction.memory import Memory, padded
from statsnorm.extraction.plan import ExtractConfig, Inputs, style_index, styled
from statsnorm.images.colour import restore_luminance
from statsnorm.images.conditions import apply_condition, draws_style
from statsnorm.images.contrast import apply_level
from statsnorm.images.design import Design, StyleSpec
from statsnorm.images.stylise import StyleGenerator, style_image


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Decoded images of one shard that are worked on together."""

    images: tuple[str, ...]  # names
    pixels: Tensor  # (N, 3, H, W) on the device
    paired: Mapping[str, Tensor] = field(default_factory=dict)  # the user's own conditions


@dataclass(frozen=True, slots=True)
class Batch:
    """Inputs of one forward pass; `pixels` may be padded beyond the rows that count."""

    pixels: Tensor  # (B, 3, H, W)
    image: NDArray[np.int64]  # (n,) n <= B, places in the group
    cell: NDArray[np.int64]  # (n,) places in Inputs.cells


@dataclass(frozen=True, slots=True)
class BatchedStyles:
    """A style generator that always sees batches of one size, and blends as it was told to.

    Gram optimisation takes one image at a time whatever the batch: nothing is padded for it.
    """

    generator: StyleGenerator
    size: int
    strength: float = 1.0
    restore: str = "none"
    memory: Memory = field(default_factory=Memory, compare=False)

    @property
    def name(self) -> str:
        """Short name of the generator."""
        return self.generator.name

    @property
    def indices(self) -> tuple[str, ...]:
        """Names of its styles."""
        return self.generator.indices

    @property
    def sha256(self) -> str:
        """Hash of its weights."""
        return self.generator.sha256

    def to(self, device: torch.device | str) -> BatchedStyles:
        """Return the same on a device."""
        return replace(self, generator=self.generator.to(device))

    def __call__(self, x: Tensor, index: str) -> Tensor:
        """Return images (N, 3, H, W) in a style, rendered `size` at a time."""
        parts = []
        for start in range(0, len(x), self.size):
            part = x[start : start + self.size]
            whole = part if self.name == "gram" else padded(part, self.size)
            key = ("style", self.name)
            (made,) = self.memory.run(key, lambda batch: (self._styled(batch, index),), whole)
            parts.append(made[: len(part)])
        return torch.cat(parts)

    def _styled(self, x: Tensor, index: str) -> Tensor:
        return style_image(x, self.generator, index, strength=self.strength, restore=self.restore)


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """Makes the cells of a group; the same object serves tested and reference images."""

    config: ExtractConfig
    inputs: Inputs
    parameters: Mapping[str, float] = field(default_factory=dict)  # of blur, placebo-matched
    memory: Memory = field(default_factory=Memory, compare=False)  # what fits on the device

    @property
    def batch_size(self) -> int:
        """Inputs of one padded pass: a full group leaves nothing to pad, or as little as can be."""
        images = min(GROUP, self.config.shard_size, len(self.inputs.refs))
        return even_size(images * len(self.inputs.cells), self.config.batch_size)

    def cells(self, group: Group) -> Iterator[tuple[int, Tensor]]:
        """Yield (place in Inputs.cells, images (N, 3, H, W)) for every cell, in order."""
        place = 0
        for base in self._bases(group.pixels, self.inputs.design):
            for condition in self.inputs.conditions:
                yield place, self._condition(condition, base, group)
                place += 1

    def reference(self, group: Group, offset: int) -> Tensor:
        """Return one reference cell an image: held-out styles, strengths and levels by turns.

        `offset` is the place of the group's first image among all reference cells.
        """
        design = self.inputs.design
        if design is None:
            return group.pixels
        styles = len(self.inputs.reference_styles)  # a round of styles moves the levels on by one
        made: list[Tensor] = []
        for k in range(len(group.images)):
            turn = offset + k
            style = self.inputs.reference_styles[turn % styles]
            one = replace(
                design,
                styles=(style,),
                strengths=(design.strengths[turn % len(design.strengths)],),
                levels=(design.levels[(turn + turn // styles) % len(design.levels)],),
            )
            made.extend(self._bases(group.pixels[k : k + 1], one))
        return torch.cat(made)

    def _bases(self, x: Tensor, design: Design | None) -> Iterator[Tensor]:
        if design is None:
            yield x
            return
        for style in design.styles:
            for blended in self._styled(x, style, design):
                for level in design.levels:
                    yield apply_level(blended, level) if level.family else blended

    def _styled(self, x: Tensor, style: StyleSpec, design: Design) -> Iterator[Tensor]:
        if not style.generator:
            yield x
            return
        generator = BatchedStyles(
            self.inputs.generators[style.generator], self.config.batch_size, memory=self.memory
        )
        full = generator(x, style.index)
        for strength in design.strengths:
            blended = full if strength == 1 else x + strength * (full - x)
            yield restore_luminance(blended, x) if design.restore == "luminance" else blended

    def _condition(self, name: str, x: Tensor, group: Group) -> Tensor:
        if name == "original":
            return x
        if name in group.paired:
            return group.paired[name]
        stylise, index = None, ""
        if styled([name]):
            stylise = condition_styles(self.config, self.inputs, name)
            stylise = replace(stylise, memory=self.memory)
            index = style_index(self.config, self.inputs)
        return apply_condition(
            name,
            x,
            content=group.pixels,
            stylise=stylise,
            index=index,
            images=group.images,
            seed=self.config.seed,
            parameters=self.parameters,
        )


def condition_styles(config: ExtractConfig, inputs: Inputs, condition: str) -> BatchedStyles:
    """Return the generator of the conditions style, ck and placebo, blended as asked.

    Where each image draws its style, few share one: one at a time, so nothing is padded in vain.
    """
    size = 1 if draws_style(condition) else config.batch_size
    generator = inputs.generators[config.style_generator]
    return BatchedStyles(generator, size, config.strength, config.restore)


def even_size(inputs: int, most: int) -> int:
    """Return the size, at most `most`, of the fewest batches that hold so many inputs.

    >>> even_size(32, 64), even_size(96, 64), even_size(96, 16)
    (32, 48, 16)
    """
    return -(-inputs // -(-inputs // most))


def padded_batches(cells: Iterable[tuple[int, Tensor]], size: int) -> Iterator[Batch]:
    """Cut a stream of cells into batches of exactly `size`; only the last is padded."""
    held: list[Tensor] = []
    image: list[int] = []
    cell: list[int] = []
    for place, x in cells:
        held.append(x)
        image.extend(range(len(x)))
        cell.extend([place] * len(x))
        if len(image) < size:
            continue
        pixels = torch.cat(held)
        whole = len(image) // size * size
        for start in range(0, whole, size):
            part = slice(start, start + size)
            yield Batch(pixels[part], np.array(image[part]), np.array(cell[part]))
        held, image, cell = [pixels[whole:]], image[whole:], cell[whole:]
    if image:
        yield Batch(padded(torch.cat(held), size), np.array(image), np.array(cell))


def composed_batches(
    cells: Iterable[tuple[int, Tensor]], inputs: Inputs, kind: str, size: int
) -> Iterator[Batch]:
    """Compose batches for BN in train mode, where neighbours are part of the result.

    Batches never mix conditions or strengths. `style-homogeneous`: contents of one cell.
    `content-homogeneous`: cells of one content. `mixed`: contents, each in another cell. No
    batch is padded; a remainder is spread, so that none is smaller than half the others.
    """
    made = dict(cells)
    x = torch.stack([made[place] for place in sorted(made)])  # (M, N, 3, H, W)
    for places in _comparable(inputs):
        rows = _arranged(places, x.shape[1], kind)
        for line in rows:
            for part in np.array_split(line, max(1, -(-len(line) // size))):
                cell, image = part[:, 0], part[:, 1]
                yield Batch(x[torch.from_numpy(cell), torch.from_numpy(image)], image, cell)


def _comparable(inputs: Inputs) -> list[list[int]]:
    """Return the places of cells that may share a batch: all but style and level equal."""
    classes: dict[tuple[object, ...], list[int]] = {}
    for place, cell in enumerate(inputs.cells):
        key = (cell.condition, cell.strength, cell.restore, cell.contrast)
        classes.setdefault(key, []).append(place)
    return list(classes.values())


def _arranged(places: Sequence[int], n: int, kind: str) -> list[NDArray[np.int64]]:
    """Return lines of (cell, image) pairs; each line is cut into batches."""
    m = len(places)
    if kind == "style-homogeneous" or m == 1:
        pairs = [[(place, i) for i in range(n)] for place in places]
    elif kind == "content-homogeneous":
        pairs = [[(place, i) for place in places] for i in range(n)]
    else:
        step = max(1, m // n)
        pairs = [[(places[(j + i * step) % m], i) for i in range(n)] for j in range(m)]
    return [np.array(line, dtype=np.int64) for line in pairs]
