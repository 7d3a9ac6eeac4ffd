"""List files and CSV manifests of images."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path

from statsnorm.errors import StatsnormError


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a list: the path as written, the line's number, the manifest's other columns."""

    text: str
    line: int
    attributes: dict[str, str] = field(default_factory=dict)


def read_list(path: Path) -> list[Entry]:
    """Return the entries of a text file with one path a line; blank lines are passed over.

    Raises
    ------
    StatsnormError
        If there is no entry, or an entry holds a NUL.
    """
    lines = _text(path).split("\n")
    entries = [
        Entry(text, number)
        for number, line in enumerate(lines, start=1)
        if (text := line.removesuffix("\r")).strip()
    ]
    return _checked(path, entries)


def read_manifest(path: Path) -> list[Entry]:
    """Return the entries of a CSV (or TSV) with a header and a column `image`.

    Raises
    ------
    StatsnormError
        If the column is missing or double, a row has more or fewer fields than the header, or
        there is no row.
    """
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(io.StringIO(_text(path), newline=""), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(path, header)
        entries = []
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise StatsnormError(
                    f"line {reader.line_num} of {str(path)!r} has {len(row)} fields, "
                    f"the header has {len(header)}"
                )
            attributes = dict(zip(header, row, strict=True))
            entries.append(Entry(attributes.pop("image"), reader.line_num, attributes))
    except csv.Error as error:
        raise StatsnormError(f"line {reader.line_num} of {str(path)!r}: {error}") from error
    return _checked(path, entries)


def _text(path: Path) -> str:
    """Read as UTF-8; other bytes stay as surrogates, which name the same bytes on disk."""
    return path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")


def _check_header(path: Path, header: list[str]) -> None:
    if not header:
        raise StatsnormError(f"manifest {str(path)!r} is empty; its header needs a column 'image'")
    if "image" not in header:
        raise StatsnormError(
            f"manifest {str(path)!r} has no column 'image' but {', '.join(map(repr, header))}; "
            "rename the one that holds the paths"
        )
    if double := sorted({name for name in header if header.count(name) > 1}):
        raise StatsnormError(f"manifest {str(path)!r} has two columns {double[0]!r}; rename one")


def _checked(path: Path, entries: list[Entry]) -> list[Entry]:
    if not entries:
        raise StatsnormError(f"no images in {str(path)!r}: it has no entry")
    for entry in entries:
        if not entry.text or "\0" in entry.text:
            raise StatsnormError(
                f"line {entry.line} of {str(path)!r}: {entry.text!r} is not a path"
            )
    return entries
