"""The record of one tap: where it is, what kind, how its activation is laid out."""

from __future__ import annotations

from dataclasses import dataclass

from statsnorm.taps.observe import Site

KINDS: tuple[str, ...] = (
    "input",
    "pre_norm",
    "next_pre_norm",
    "post_norm",
    "post_act",
    "residual_sum",
    "output",
    "vgg_of_output",
    "module",
)
"""Kinds of taps (method.md 2.3); `module` is an output that the user asked for by name."""


@dataclass(frozen=True, slots=True)
class Tap:
    """One place in a network at one call, whose activation is reduced to channel moments."""

    name: str  # `<module>` for an output, `<module>.in`, `<module>.sum`, `input`, `output`
    kind: str  # one of KINDS
    module: str  # dotted name of the module, "" for the network itself
    side: str  # input, output, sum
    depth: int  # order of execution among the taps of the network
    call: int  # the n-th run of that place in one pass, from 0
    module_type: str
    channels: int
    height: int  # tokens: how many are left, with width 1
    width: int
    layout: str  # nchw, nhwc, tokens
    eps: float  # of the normaliser at this tap; 0 where there is none
    by_construction: tuple[bool, ...]  # per channel: a normaliser fixes the moments here
    drop_tokens: int = 0  # class and register tokens left out of the moments
    correlated: tuple[int, ...] = ()  # channels whose correlations are kept too

    @property
    def site(self) -> Site:
        """Where to watch for it."""
        return Site(self.module, self.side)

    @property
    def pixels(self) -> int:
        """How many pixels or tokens are reduced."""
        return self.height * self.width

    @property
    def pairs(self) -> int:
        """How many correlations are kept of each image."""
        return len(self.correlated) * (len(self.correlated) - 1) // 2

    @property
    def label(self) -> str:
        """The name, with `#call` behind it from the second call on."""
        return labelled(self.name, self.call)


def labelled(name: str, call: int) -> str:
    """Return `name` for call 0 and `name#call` for the later ones."""
    return f"{name}#{call}" if call else name
