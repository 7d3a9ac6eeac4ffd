"""Treatments of a conditional network: another style's gamma and beta in some of its normalisers.

    swap:gamma:to=7                   gamma of style 7, beta and everything else the index's own
    swap:both@contract+res.0:to=7     gamma and beta of style 7, in these parts of the network
    swap:both@each:to=7               asks for one treatment a normaliser
    swap:both@orders-8:to=others      ... and for the steps of 8 random orders of joining,
                                      towards each of the other indices of the run
    blend:0.25:to=7                   (1 - .25) own + .25 of style 7's gamma and beta, everywhere

What a run holds is always one of the first two forms or a blend: `@each`, `@orders-N` and
`to=others` are expanded before. The parts of an order stand in the order in which they joined, so
the treatments of a run tell a Shapley analysis which steps belong together (method.md 5.4).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from statsnorm.errors import StatsnormError, unknown

KINDS = ("swap:", "blend:")
WHAT = ("gamma", "beta", "both")
EACH, OTHERS = "each", "others"
_ORDERS = re.compile(r"orders-([1-9][0-9]*)")
_FORMS = "swap:gamma|beta|both[@PART+PART...|@each|@orders-N]:to=STYLE or blend:SHARE:to=STYLE"


@dataclass(frozen=True, slots=True)
class Swap:
    """One treatment, as it was written."""

    what: str  # gamma, beta or both
    where: tuple[str, ...]  # normalisers, or parts that hold some; () = all
    to: str  # the style whose parameters are taken, or `others`
    share: float = 1.0  # below 1: a blend

    def __str__(self) -> str:
        """Write the treatment, as the tables name it."""
        if self.share != 1:
            return f"blend:{self.share:g}:to={self.to}"
        return (
            f"swap:{self.what}" + ("@" * bool(self.where)) + f"{'+'.join(self.where)}:to={self.to}"
        )


def is_swap(treatment: str) -> bool:
    """Return whether a treatment is one of these."""
    return treatment.startswith(KINDS)


def parse_swap(treatment: str) -> Swap:
    """Read a treatment.

    Raises
    ------
    StatsnormError
        If it is written in another way, or a share does not lie in (0, 1).

    Examples
    --------
    >>> parse_swap("swap:gamma@contract+res.0:to=7")
    Swap(what='gamma', where=('contract', 'res.0'), to='7', share=1.0)
    >>> str(parse_swap("blend:0.250:to=7"))
    'blend:0.25:to=7'
    """
    kind, middle, to = ([*treatment.split(":"), "", ""])[:3]
    style = to.removeprefix("to=")
    if treatment.count(":") != 2 or not to.startswith("to=") or not style:
        raise StatsnormError(f"treatment {treatment!r} must be written {_FORMS}")
    if kind == "blend":
        try:
            share = float(middle)
        except ValueError:
            share = 0.0
        if not 0 < share < 1:
            raise StatsnormError(f"treatment {treatment!r}: a share lies between 0 and 1")
        return Swap("both", (), style, share)
    what, at, where = middle.partition("@")
    parts = tuple(where.split("+")) if at else ()
    if what not in WHAT or "" in parts:
        raise StatsnormError(f"treatment {treatment!r} must be written {_FORMS}")
    return Swap(what, parts, style)


def expand_swap(
    treatment: str,
    normalisers: Sequence[str],
    *,
    index: str,
    indices: Sequence[str],
    known: Sequence[str],
    seed: int,
) -> tuple[str, ...]:
    """Return the treatments that one stands for, of the network at one index.

    Parameters
    ----------
    treatment : str
        As the user wrote it.
    normalisers : sequence of str
        The conditional ones, in order of execution.
    index : str
        The network's own condition; a style is never swapped for itself.
    indices : sequence of str
        All conditions of the run: what `others` means.
    known : sequence of str
        All styles of the network.
    seed : int
        Of the orders, which also depend on `index` and on the style they lead to. Orders come in
        pairs, each with its reverse.

    Raises
    ------
    StatsnormError
        For a style or a part that does not exist.
    """
    asked = parse_swap(treatment)
    if asked.to not in (*known, OTHERS):
        raise unknown("style to swap to:", asked.to, (*known, OTHERS))
    made: list[Swap] = []
    for to in indices if asked.to == OTHERS else (asked.to,):
        if to != index:
            made += _expanded(replace(asked, to=to), normalisers, f"{seed}:{index}:{to}")
    return tuple(dict.fromkeys(map(str, made)))


def _expanded(asked: Swap, normalisers: Sequence[str], seed: str) -> list[Swap]:
    if asked.where == (EACH,):
        return [replace(asked, where=(name,)) for name in normalisers]
    if len(asked.where) == 1 and (orders := _ORDERS.fullmatch(asked.where[0])):
        lines = random_orders(normalisers, int(orders[1]), seed)
        return [
            replace(asked, where=tuple(line[:k]))
            for line in lines
            for k in range(1, len(normalisers))
        ]
    held(asked.where, normalisers)
    return [asked]


def random_orders(names: Sequence[str], orders: int, seed: str) -> list[list[str]]:
    """Return so many orders of the names, the second of each pair the reverse of the first."""
    lines: list[list[str]] = []
    for k in range(-(-orders // 2)):
        line = sorted(
            names, key=lambda name: hashlib.sha256(f"{seed}:{k}:{name}".encode()).digest()
        )
        lines += [line, line[::-1]]
    return lines[:orders]


def held(parts: Sequence[str], normalisers: Sequence[str]) -> list[str]:
    """Return the normalisers that are, or lie in, these parts of the network."""
    found: list[str] = []
    for part in parts:
        inside = [n for n in normalisers if n == part or n.startswith(f"{part}.")]
        if not inside:
            nests = {n.rsplit(".", k)[0] for n in normalisers for k in range(n.count("."))}
            raise unknown("part with conditional normalisers", part, {*normalisers, *nests})
        found += inside
    return found
