"""Errors that a user can mend: what was wrong, which value, the rule or the nearest fix."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches


class StatsnormError(Exception):
    """Base of every error that statsnorm raises for input that a user can mend."""


class ImageError(StatsnormError):
    """One image could not be used; `stage` is where (find, decode, resize, condition)."""

    def __init__(self, image: str, stage: str, reason: str) -> None:
        super().__init__(f"image {image!r} failed at {stage}: {reason}")
        self.image, self.stage, self.reason = image, stage, reason

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str, str]]:
        return ImageError, (self.image, self.stage, self.reason)


class SchemaError(StatsnormError):
    """A table is damaged or was written by another schema version."""


class NonFiniteError(StatsnormError):
    """A tapped activation held a nan or an infinity."""


class UnfinishedRunError(StatsnormError):
    """A run directory lacks shards; the message says which and how to go on."""


def unknown(kind: str, name: str, known: Iterable[str]) -> StatsnormError:
    """Return the error for a name that does not exist, with its neighbours, the nearest first.

    >>> raise unknown("network", "vgg61", ["vgg16", "vgg19"])
    Traceback (most recent call last):
    statsnorm.errors.StatsnormError: unknown network 'vgg61'; did you mean 'vgg16', 'vgg19'?
    """
    names = sorted(known)
    if near := get_close_matches(name, names, n=3, cutoff=0.5):
        near.sort(key=lambda other: (-SequenceMatcher(None, other, name).ratio(), other))
        hint = "did you mean " + ", ".join(map(repr, near)) + "?"
    else:
        hint = "known: " + ", ".join(names)
    return StatsnormError(f"unknown {kind} {name!r}; {hint}")
