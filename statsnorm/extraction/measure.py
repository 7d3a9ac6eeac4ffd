"""Batches of inputs through the variants: moments of every row, checked, ready for the table."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from statsnorm.cells import InputCell
from statsnorm.devices import arithmetic
from statsnorm.errors import NonFiniteError
from statsnorm.extraction.describe import tap_columns
from statsnorm.extraction.feed import Batch
from statsnorm.extraction.loading import channels_last
from statsnorm.extraction.memory import Memory
from statsnorm.extraction.transfer import Returning
from statsnorm.extraction.variants import OutputVgg, Variant, Variants
from statsnorm.moments import ChannelMoments
from statsnorm.networks import Network
from statsnorm.rows import Block, CellRows
from statsnorm.taps import Tap, check_by_construction, forward_moments

CONTENT_TAP = "relu4_2"
AHEAD = 2
"""Batches that a GPU may be behind the host before the host waits for the oldest."""
_LOOSE = 0.05  # by-construction tolerance of the reduced precisions

Floats = NDArray[np.float32]


@dataclass(slots=True)
class Measured:
    """What one variant gave so far: one row per input, all taps side by side."""

    spans: list[tuple[Tap, bool, int]]  # tap, whether of the VGG of the output, channels
    # (n, 2 sum C + sum pairs): all means, then all variances, then correlations
    values: list[Floats] = field(default_factory=list)
    image: list[NDArray[np.int64]] = field(default_factory=list)  # place in the shard
    cell: list[NDArray[np.int64]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Sent:
    """A batch whose moments are on their way to the host."""

    variant: Variant
    values: Returning  # (n, 2 sum C)
    image: NDArray[np.int64]  # places in the group
    cell: NDArray[np.int64]
    images: Sequence[str]  # names of the group's images
    offset: int


@dataclass(slots=True, kw_only=True)
class Meter:
    """Runs batches through all variants and keeps their moments until the shard is written."""

    variants: Variants
    cells: Sequence[InputCell]
    precision: str
    measured: dict[Variant, Measured] = field(default_factory=dict)
    compiled: bool = False  # from the second batch of a variant on
    content: bool = True  # whether content features are wanted
    memory: Memory = field(default_factory=Memory)  # what fits on the device
    checked: set[Variant] = field(default_factory=set)  # by-construction rows hold here
    ahead: deque[_Sent] = field(default_factory=deque)  # batches whose moments are on their way

    def add(
        self, variant: Variant, batch: Batch, images: Sequence[str], offset: int
    ) -> dict[str, Tensor]:
        """Measure a batch; return the content features of its rows, if they are wanted of it.

        Parameters
        ----------
        variant : Variant
            What to run.
        batch : Batch
            Padded inputs.
        images : sequence of str
            Names of the group's images.
        offset : int
            Place of the group's first image in the shard.

        Raises
        ------
        NonFiniteError
            If an activation has a nan or an infinity; image, tap and cell are named.
        """
        n, kind = len(batch.image), batch.pixels.device.type
        with arithmetic(self.precision, kind):
            values, *features = self._forward(variant, batch.pixels)
            sent = Returning.of(values[:n])
        self.ahead.append(_Sent(variant, sent, batch.image, batch.cell, images, offset))
        self._settle(_ahead(kind))
        return {CONTENT_TAP: features[0][:n]} if features else {}

    def _settle(self, ahead: int) -> None:
        """Keep what came back of all but the last `ahead` batches; refuse what is not finite."""
        while len(self.ahead) > ahead:
            sent = self.ahead.popleft()
            kept, found = self.measured[sent.variant], sent.values.wait().numpy()
            if not np.isfinite(found).all():
                raise self._not_finite(sent, kept.spans, found)
            kept.values.append(found)
            kept.image.append(sent.image + sent.offset)
            kept.cell.append(sent.cell)

    def blocks(self, images: Sequence[str]) -> list[Block]:
        """Return what was measured, by image and cell, and forget it."""
        self._settle(0)
        blocks = []
        for variant, kept in self.measured.items():
            image, cell = np.concatenate(kept.image), np.concatenate(kept.cell)
            order = np.lexsort((cell, image))
            rows = CellRows(
                images=tuple(images), cells=tuple(self.cells), image=image[order], cell=cell[order]
            )
            values = np.concatenate(kept.values)[order]
            width, start = sum(channels for _, _, channels in kept.spans), 0
            pair = 2 * width
            for tap, of_output, channels in kept.spans:
                network = variant.cell
                if of_output and self.variants.output:
                    network = self.variants.output.cell(network)
                mean = values[:, start : start + channels]
                var = values[:, width + start : width + start + channels]
                rho = values[:, pair : pair + tap.pairs] if tap.correlated else None
                blocks.append(
                    Block(
                        network=network,
                        tap=tap_columns(tap),
                        rows=rows,
                        mean=mean,
                        var=var,
                        channels=tap.correlated,
                        correlation=rho,
                    )
                )
                start, pair = start + channels, pair + tap.pairs
        self.measured.clear()
        return blocks

    def _forward(self, variant: Variant, x: Tensor) -> tuple[Tensor, ...]:
        """Return rows of `Measured.values` on the device, and content features if there are any."""

        def once(part: Tensor) -> tuple[Tensor, ...]:
            with _content_features(variant, wanted=self.content) as features:
                rows = self._rows(variant, part)
            return rows, *features()

        return self.memory.run(variant, once, x, divisible=not variant.batch_statistics)

    def _rows(self, variant: Variant, x: Tensor) -> Tensor:
        output = self.variants.output if variant.network.postprocess else None
        given = (variant.network, variant.taps, variant.index, output)
        if variant not in self.measured:
            self.measured[variant] = Measured(_spans(variant, output))
        if self.compiled and variant in self.checked and not is_content_vgg(variant):
            return _compiled_pass()(*given, x)
        found = _moments(*given, x)
        if variant not in self.checked:
            self._check(variant, dict(zip(variant.taps, found, strict=False)))
        return _flat(found)

    def _check(self, variant: Variant, moments: Mapping[Tap, ChannelMoments]) -> None:
        finite = all(torch.isfinite(m.var).all() for m in moments.values())
        if finite:  # else the row is about to be refused, with its image named
            tolerance = {} if self.precision == "fp32" else {"tolerance": _LOOSE}
            check_by_construction(variant.network, moments, index=variant.index, **tolerance)
        self.checked.add(variant)

    def _not_finite(
        self, sent: _Sent, spans: Sequence[tuple[Tap, bool, int]], found: Floats
    ) -> NonFiniteError:
        row = int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])
        width, start = sum(channels for _, _, channels in spans), 0
        name = "?"
        for tap, of_output, channels in spans:
            part = found[row, [*range(start, start + channels)]]
            other = found[row, [*range(width + start, width + start + channels)]]
            if not (np.isfinite(part).all() and np.isfinite(other).all()):
                name = f"{tap.label!r} of " + ("the output's VGG" if of_output else "the network")
                break
            start += channels
        cell, variant = self.cells[sent.cell[row]], sent.variant
        where = f"condition {cell.condition!r}" + (f", style {cell.style!r}" if cell.style else "")
        return NonFiniteError(
            f"image {sent.images[sent.image[row]]!r} ({where}) has a nan or infinity at tap {name} "
            f"(network {variant.network.name!r}, treatment {variant.cell.treatment!r}); "
            "nothing of its shard was written"
        )


def _ahead(kind: str) -> int:
    return AHEAD if kind == "cuda" else 0


def _spans(variant: Variant, output: OutputVgg | None) -> list[tuple[Tap, bool, int]]:
    own = [(tap, False, tap.channels) for tap in variant.taps]
    return own + [(tap, True, tap.channels) for tap in (output.taps if output else ())]


def _moments(
    network: Network, taps: tuple[Tap, ...], index: str, output: OutputVgg | None, x: Tensor
) -> list[ChannelMoments]:
    """Return the moments of a network's taps, then those of the VGG of its output."""
    fed = _formatted(network, x)
    moments, made = forward_moments(network, fed, taps, index=index, stop=output is None)
    found = list(moments.values())
    if output is not None and network.postprocess is not None and made is not None:
        image = _formatted(output.network, network.postprocess(made).float())
        found += forward_moments(output.network, image, output.taps)[0].values()
    return found


def _flat(found: Sequence[ChannelMoments]) -> Tensor:
    """Return all means, all variances, all correlations side by side, float32."""
    parts = [m.mean.float() for m in found] + [m.var.float() for m in found]
    return torch.cat(parts + [m.correlation for m in found if m.correlation is not None], dim=1)


@cache
def _compiled_pass() -> Callable[..., Tensor]:
    """Return the whole pass compiled; networks of one architecture share the code.

    Of more than eight combinations of architecture, treatment and index torch runs the rest
    uncompiled.
    """

    def flat_moments(*given: Any) -> Tensor:
        return _flat(_moments(*given))

    return torch.compile(flat_moments, dynamic=False)


def _formatted(network: Network, x: Tensor) -> Tensor:
    last = channels_last(network)
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def has_content_tap(network: Network) -> bool:
    """Return whether a network is a plain VGG deep enough for content distances."""
    return network.name in ("vgg16", "vgg19") and CONTENT_TAP in dict(
        network.module.named_children()
    )


def is_content_vgg(variant: Variant) -> bool:
    """Return whether the content distances come from this variant."""
    return variant.cell.treatment == "none" and has_content_tap(variant.network)


@contextmanager
def _content_features(variant: Variant, *, wanted: bool) -> Iterator[Callable[[], list[Tensor]]]:
    """Yield what returns the activation at relu4_2 of the pass that ran within the block.

    A pass that stops earlier, at its last wanted tap, goes on from there. The hooks are registered
    before those of the taps, so a pass that stops at relu4_2 itself is seen too.
    """
    if not (wanted and is_content_vgg(variant)):
        yield list
        return
    children = list(variant.network.module.named_children())
    names = [name for name, _ in children]
    depth = names.index(CONTENT_TAP) + 1
    reached: dict[int, Tensor] = {}

    def keep(place: int) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            # Nothing behind relu4_2 works in place: pooling and convolutions leave it as it is.
            reached.clear()
            reached[place] = output

        return hook

    def features() -> list[Tensor]:
        ((place, x),) = reached.items()
        with torch.inference_mode():
            for _, child in children[place + 1 : depth]:
                x = child(x)
        return [x]

    with ExitStack() as hooks:
        for place, (_, child) in enumerate(children[:depth]):
            hooks.callback(child.register_forward_hook(keep(place)).remove)
        yield features
