"""Images that are other files now than when their shard was made.

The log of a shard keeps size, modification time and sha256 of every file that was decoded. A file
whose size and time are still those is taken to be the same, as make and git do; any other is
hashed. `images` holds the sha256 of what the rows were made from, so they stay true either way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from statsnorm.errors import SchemaError, StatsnormError, unknown
from statsnorm.extraction.plan import Inputs
from statsnorm.images.sources import ImageRef, find_images, pair_directory
from statsnorm.rundir import Run
from statsnorm.tables import IMAGES_SCHEMA, read_table

Stamp = tuple[int, int, str]
"""Bytes, modification time in ns, sha256 of a file."""


def stamp(path: Path, sha256: str) -> Stamp:
    """Return the stamp of a file that was just read and hashed."""
    try:
        status = path.stat()
    except OSError:  # gone within the moment: the hash alone will tell
        return 0, 0, sha256
    return status.st_size, status.st_mtime_ns, sha256


def changed_sources(run: Run, inputs: Inputs, shards: Sequence[int], size: int) -> tuple[str, ...]:
    """Return one line for every file of a finished shard that is gone or has other bytes now.

    Parameters
    ----------
    run : Run
        The run that is gone on with.
    inputs : Inputs
        Its images as they are found now.
    shards : sequence of int
        The shards to look at; those that are not finished have nothing to compare with.
    size : int
        Images a shard.
    """
    lines = []
    for shard in shards:
        known = _stamps(run, shard)
        for ref in inputs.shard(shard, size) if known else ():
            for version, path in _files(ref, inputs):
                if was := known.get(ref.image, {}).get(version):
                    lines += _difference(ref.image, version, path, was)
    return tuple(lines)


def compared_sources(
    run: Run, source: str | Path, versions: Mapping[str, Path]
) -> tuple[int, tuple[str, ...]]:
    """Hash the files that a run was made from; say which are gone or have other bytes now.

    Parameters
    ----------
    run : Run
        A run of extract.
    source : str or path
        Its images, as `--images` names them; a run keeps no places.
    versions : mapping
        Condition -> folder, of the user's own versions that are to be compared too.

    Returns
    -------
    count : int
        Files that the finished shards were made from.
    lines : tuple of str
        One line for each that differs.

    Raises
    ------
    StatsnormError
        If the run is none of extract or has no such version, or the source cannot be read.
    """
    if run.config.get("kind") != "extract":
        raise StatsnormError(f"{run.path} is no run of extract; only those keep a hash an image")
    known: dict[str, dict[str, Stamp]] = {}
    for shard in range(run.expected.shards):
        known |= _stamps(run, shard)
    there = {version for of_image in known.values() for version in of_image}
    if lost := sorted(set(versions) - there):
        raise unknown("own condition", lost[0], sorted(there - {""}))
    refs = find_images(source)
    places = {"": {ref.image: ref.path for ref in refs}}
    places |= {name: pair_directory(refs, folder) for name, folder in versions.items()}
    wanted = [
        (image, version, was[2], places[version].get(image))
        for image, of_image in known.items()
        for version, was in of_image.items()
        if version in places
    ]
    with ThreadPoolExecutor(max_workers=4) as pool:
        lines = pool.map(lambda one: _hashed(*one), wanted)
        return len(wanted), tuple(line for found in lines for line in found)


def _hashed(image: str, version: str, sha256: str, path: Path | None) -> list[str]:
    if path is None:
        return [f"{image}: is not in the source any more"]
    return _difference(image, version, path, (-1, -1, sha256))


def _files(ref: ImageRef, inputs: Inputs) -> Iterator[tuple[str, Path]]:
    yield "", ref.path
    for name, pairs in inputs.paired.items():
        yield name, pairs[ref.image]


def _difference(image: str, version: str, path: Path, was: Stamp) -> list[str]:
    what = image + (f" (condition {version})" if version else "")
    try:
        status = path.stat()
        if (status.st_size, status.st_mtime_ns) == was[:2]:
            return []
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return [f"{what}: gone since it was measured ({error.strerror or error})"]
    if digest == was[2]:
        return []
    return [f"{what}: has other bytes than when it was measured ({was[2][:12]} -> {digest[:12]})"]


def _stamps(run: Run, shard: int) -> dict[str, dict[str, Stamp]]:
    """Return image -> version -> stamp of a finished shard; from `images` if the log has none."""
    path = run.record_path(shard)
    if not path.exists():
        return {}
    try:
        execution = json.loads(path.read_text(encoding="utf-8"))["execution"]
        if "sources" not in execution:
            return _hashes(run, shard)
        return {image: _as_stamps(of) for image, of in execution["sources"].items()}
    except (ValueError, LookupError, TypeError, AttributeError):
        return {}  # a damaged log: the shard is made again


def _as_stamps(versions: Mapping[str, Any]) -> dict[str, Stamp]:
    return {name: (int(b), int(t), str(sha)) for name, (b, t, sha) in versions.items()}


def _hashes(run: Run, shard: int) -> dict[str, dict[str, Stamp]]:
    name = next(n for n in run.expected.of_shard(shard) if n.startswith("images/"))
    try:
        table = read_table(run.path / name, IMAGES_SCHEMA, columns=["image", "sha256"])
    except SchemaError:
        return {}
    return {row["image"]: {"": (-1, -1, row["sha256"])} for row in table.to_pylist()}
