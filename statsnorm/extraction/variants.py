"""What every batch of inputs is run through: networks as they are treated, and their taps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from statsnorm.cells import NetworkCell
from statsnorm.correlations import drawn_channels
from statsnorm.networks import Network
from statsnorm.taps import Tap, select_taps


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Variant:
    """One network as it is run: treated, at one index, with the taps that are read."""

    network: Network
    cell: NetworkCell
    taps: tuple[Tap, ...]
    batch_statistics: bool  # BN in train mode: rows depend on the composition of the batch

    @property
    def index(self) -> str:
        """The network's own condition."""
        return self.cell.index

    @property
    def composition(self) -> str:
        """How its batches are composed; "" where a row does not depend on its neighbours."""
        return self.cell.batch_kind if self.batch_statistics else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputVgg:
    """The VGG that sees what generators make."""

    network: Network
    taps: tuple[Tap, ...]

    def cell(self, generator: NetworkCell) -> NetworkCell:
        """Return the cell of the rows: VGG's name, everything else the generator's."""
        return replace(generator, network=self.network.name, source=generator.network)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variants:
    """All variants of a run, in the order of their rows."""

    all: tuple[Variant, ...]
    output: OutputVgg | None

    def correlated(self, channels: int, patterns: Sequence[str], *, seed: int) -> Variants:
        """Return the variants with correlations of at most so many channels at some taps.

        Taps of one channel have none.

        Raises
        ------
        StatsnormError
            If a pattern matches no tap that is read.
        """
        read = [tap for variant in self.all for tap in variant.taps]
        read += self.output.taps if self.output else ()
        chosen = set(select_taps(read, patterns or ["*"]))

        def marked(taps: tuple[Tap, ...]) -> tuple[Tap, ...]:
            return tuple(
                replace(tap, correlated=drawn_channels(tap.channels, channels, seed=seed))
                if tap in chosen and tap.channels > 1
                else tap
                for tap in taps
            )

        output = self.output and replace(self.output, taps=marked(self.output.taps))
        return Variants(all=tuple(replace(v, taps=marked(v.taps)) for v in self.all), output=output)

    def __iter__(self) -> Iterator[Variant]:
        """Iterate over the variants."""
        return iter(self.all)
