"""Conditions by degrees: their names, bounds and draws (method.md 5.1).

`styles-4` is kind `styles`, amount 4; what each kind does to an image stands in
:mod:`statsnorm.images.conditions`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from statsnorm.errors import StatsnormError

DOSES: Mapping[str, int] = {"styles": 9999, "blend": 100, "gains": 90}
"""Kinds of doses and their largest number; `gains-100` would leave some images without content."""

_DOSE_NAME = re.compile(f"({'|'.join(DOSES)})-([1-9][0-9]{{0,3}})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Dose:
    """A condition by degrees: `styles-4` is kind `styles`, amount 4."""

    kind: str
    amount: int


def dose_of(name: str) -> Dose | None:
    """Return the kind and amount of a condition that comes in doses; None for any other name.

    >>> dose_of("styles-4"), dose_of("style")
    (Dose(kind='styles', amount=4), None)
    """
    match = _DOSE_NAME.fullmatch(name)
    return Dose(match[1], int(match[2])) if match else None


def check_doses(names: Sequence[str], indices: Sequence[str]) -> None:
    """Raise StatsnormError if a condition asks for more styles than the generator has."""
    for name in names:
        if (dose := dose_of(name)) and dose.kind == "styles" and dose.amount > len(indices):
            raise StatsnormError(
                f"condition {name!r} needs {dose.amount} styles, the generator has {len(indices)}"
            )


def dose_styles(indices: Sequence[str], count: int, *, first: str, seed: int) -> tuple[str, ...]:
    """Return `count` styles: `first`, then others in an order that hangs on the seed alone."""
    others = [index for index in indices if index != first]
    others.sort(key=lambda index: hashlib.sha256(f"styles:{seed}:{index}".encode()).hexdigest())
    return (first, *others[: count - 1])


def draw(what: str, image: str, seed: int) -> int:
    """Return a number below 2^64 that hangs on its arguments alone."""
    digest = hashlib.sha256(f"{what}:{seed}:{image}".encode()).digest()
    return int.from_bytes(digest[:8], "big")
