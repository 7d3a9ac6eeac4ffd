"""Two versions of a report's files: which file, sentence, number or figure differs."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import zip_longest

import numpy as np
import pandas as pd

from statsnorm.errors import SchemaError
from statsnorm.report.encode import cell, read_parquet

RELATIVE = 1e-9
"""Tolerance of stored numbers under other library versions."""

PICTURES = ("pdf", "png", "svg")

_MOST = 8  # differences named per file
_NUMBER = re.compile(r"(?<![\w.])[-+−]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that differs: in which file, where in it, and how."""

    file: str
    where: str
    what: str
    because: tuple[str, ...] = ()  # changed inputs that it may follow from

    def __str__(self) -> str:
        more = f" and {len(self.because) - 3} more" if len(self.because) > 3 else ""
        why = f" [from {', '.join(self.because[:3])}{more}]" if self.because else ""
        return f"{self.file}{f' {self.where}' if self.where else ''}: {self.what}{why}"


def compare_files(
    written: Mapping[str, bytes],
    rebuilt: Mapping[str, bytes],
    *,
    exact: bool,
    figures: Mapping[str, str] | None = None,
) -> list[Difference]:
    """Return the differences between files as written and as rebuilt.

    Parameters
    ----------
    written, rebuilt : mapping
        Relative path -> bytes.
    exact : bool
        Whether files must be equal byte for byte; if not, text must be equal, numbers agree to
        :data:`RELATIVE`, and figures are left to their source tables.
    figures : mapping, optional
        What a figure is called, by its path without suffix; its forms are then told of together.
    """
    differences, drawn = [], dict[str, list[str]]()
    for name in sorted(written.keys() | rebuilt.keys()):
        if name not in written:
            differences.append(Difference(name, "", "is missing"))
        elif name not in rebuilt:
            differences.append(Difference(name, "", "does not belong to the report"))
        elif written[name] != rebuilt[name]:
            stem, _, form = name.rpartition(".")
            if form in PICTURES:
                drawn.setdefault(stem, []).append(form)
            else:
                differences += _file(name, written[name], rebuilt[name], exact=exact)
    for stem, forms in drawn.items() if exact else ():
        what = f"{(figures or {}).get(stem, 'the figure')} is drawn otherwise"
        differences.append(Difference(f"{stem}.{'|'.join(forms)}", "", what))
    return differences


def _file(name: str, a: bytes, b: bytes, *, exact: bool) -> list[Difference]:
    if name.endswith(".parquet"):
        found = list(_frames(name, a, b, exact=exact))
    elif name == "provenance.json":
        found = list(_provenance(name, a, b, exact=exact))
    else:
        found = list(_texts(name, _lines(name, a), _lines(name, b), exact=exact))
    if exact and not found:
        found = [Difference(name, "", "the bytes differ, text and numbers do not")]
    if len(found) > _MOST:
        rest = len(found) - _MOST
        found = [*found[:_MOST], Difference(name, "", f"and {rest} further differences")]
    return found


def _frames(name: str, a: bytes, b: bytes, *, exact: bool) -> Iterator[Difference]:
    try:
        left = read_parquet(a, name)
    except SchemaError as error:
        yield Difference(name, "", str(error))
        return
    right = read_parquet(b, name)
    if list(left.columns) != list(right.columns):
        yield Difference(name, "", f"columns {list(left.columns)} -> {list(right.columns)}")
        return
    if len(left) != len(right):
        yield Difference(name, "", f"{len(left)} rows -> {len(right)} rows")
        return
    for column in left.columns:
        yield from _columns(name, str(column), left[column], right[column], exact=exact)


def _columns(
    name: str, column: str, left: pd.Series, right: pd.Series, *, exact: bool
) -> Iterator[Difference]:
    for row, (x, y) in enumerate(zip(left, right, strict=True)):
        if not _same(x, y, 0.0 if exact else RELATIVE):
            yield Difference(name, f"column {column!r}, row {row}", f"{_shown(x)} -> {_shown(y)}")


def _same(x: object, y: object, tolerance: float) -> bool:
    if isinstance(x, np.ndarray) and isinstance(y, np.ndarray):
        return len(x) == len(y) and all(_same(u, v, tolerance) for u, v in zip(x, y, strict=True))
    if isinstance(x, float) and isinstance(y, float):
        if math.isnan(x) or math.isnan(y):
            return math.isnan(x) and math.isnan(y)
        return math.isclose(x, y, rel_tol=tolerance, abs_tol=1e-12 if tolerance else 0.0)
    return x is y or bool(x == y)


def _shown(value: object) -> str:
    if isinstance(value, float):
        return repr(float(value))
    return repr(cell(value))


def _texts(name: str, a: list[str], b: list[str], *, exact: bool) -> Iterator[Difference]:
    for number, x, y in _pairs(a, b):
        if x is None or y is None:
            what = f"is new: {_clip(y, '')}" if y is not None else f"is gone: {_clip(x or '', '')}"
            yield Difference(name, f"line {number}", what)
        elif x != y and (exact or not _same_text(x, y)):
            yield Difference(name, f"line {number}", f"{_clip(x, y)} -> {_clip(y, x)}")


def _pairs(a: list[str], b: list[str]) -> Iterator[tuple[int, str | None, str | None]]:
    """Yield (line of `a`, its text, the text of `b` beside it); a new line shifts no other."""
    if len(a) == len(b):
        yield from zip(range(1, len(a) + 1), a, b, strict=True)
        return
    for kind, start, stop, first, last in SequenceMatcher(None, a, b).get_opcodes():
        if kind != "equal":
            for i, (x, y) in enumerate(zip_longest(a[start:stop], b[first:last])):
                yield start + i + 1, x, y


def _same_text(x: str, y: str) -> bool:
    """Return whether two lines have the same words, and numbers equal to their last digit."""
    if _NUMBER.sub("#", x) != _NUMBER.sub("#", y):
        return False
    pairs = zip(_NUMBER.findall(x), _NUMBER.findall(y), strict=True)
    return all(_same_number(u, v) for u, v in pairs)


def _same_number(u: str, v: str) -> bool:
    unit = max(_last_digit(u), _last_digit(v))
    x, y = (float(t.replace("−", "-")) for t in (u, v))
    if unit >= 1:  # a count
        return x == y
    return abs(x - y) <= 1.001 * unit


def _last_digit(text: str) -> float:
    """Return the worth of one unit of the last digit printed."""
    mantissa, _, exponent = text.lower().partition("e")
    decimals = len(mantissa.partition(".")[2])
    return float(10.0 ** (int(exponent or 0) - decimals))


def _clip(text: str, other: str) -> str:
    """Return the part of a line in which it differs from the other, with some words around."""
    start = next((i for i, (p, q) in enumerate(zip(text, other, strict=False)) if p != q), 0)
    begin = max(0, start - 60)
    return repr(("…" if begin else "") + text[begin : start + 60].strip())


def _lines(name: str, content: bytes) -> list[str]:
    text = content.decode("utf-8", "replace")
    if not name.endswith(".html"):
        return text.splitlines()
    text = re.sub(
        r"<svg.*?</svg>|<img[^>]*>|<style>.*?</style>|<script>.*?</script>", "", text, flags=re.S
    )
    text = re.sub(r"</(p|li|h\d|tr|dd|dt|div|summary|figcaption)>", "\n", text)
    words = (
        " ".join(line.split()) for line in html.unescape(re.sub(r"<[^>]+>", " ", text)).splitlines()
    )
    return [line for line in words if line]


def _provenance(name: str, a: bytes, b: bytes, *, exact: bool) -> Iterator[Difference]:
    try:
        left, right = json.loads(a), json.loads(b)
    except ValueError as error:
        yield Difference(name, "", f"is damaged: {error}")
        return
    for key in sorted(left.keys() | right.keys()):
        if key == "files" and not exact:
            continue  # the files themselves are compared
        if left.get(key) != right.get(key):
            yield Difference(name, key, "differs")
