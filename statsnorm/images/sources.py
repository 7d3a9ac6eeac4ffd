"""Where images come from: a folder, a list file, a CSV manifest, the embedded photographs.

An image is known by its path below the source, with `/` between the parts. The order is that of
these names by code point, so it depends neither on the locale nor on the file system.
"""

from __future__ import annotations

import filecmp
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from statsnorm.errors import StatsnormError
from statsnorm.images.lists import Entry, read_list, read_manifest
from statsnorm.images.names import relative_path, safe_name

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp"}) | {
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
    ".jp2",
    ".avif",
}
EMBEDDED = Path(__file__).resolve().parent.parent / "assets" / "photos"


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One image of a source; nothing has been read yet."""

    image: str  # identity: path below the source, `/` between parts, valid UTF-8 on one line
    path: Path
    attributes: dict[str, str] = field(default_factory=dict, hash=False)  # of a manifest


def find_images(src: str | Path) -> list[ImageRef]:
    """Return the images of a source, sorted by name.

    Parameters
    ----------
    src : str or Path
        A folder, searched recursively (a COCO image folder or its root will do; names that
        begin with a dot are passed over; links are followed, each real folder once); a text
        file with one path a line; a `.csv` or `.tsv` manifest with a column `image`, whose
        further columns become attributes; one image file; or ``"embedded"``, the 24
        photographs that come with the package. Paths in a list or manifest are relative to it.

    Returns
    -------
    list of ImageRef
        Names are paths below the folder; for a list or manifest below its own folder or, where
        an entry lies elsewhere, below the deepest folder common to all entries.

    Raises
    ------
    StatsnormError
        If the source does not exist, cannot be read or holds no image, a manifest lacks its
        column, an image is named twice, or not one listed file exists.
    """
    if str(src) == "embedded":
        return _in_folder(EMBEDDED)
    if not str(src) or "\0" in str(src):
        raise StatsnormError(f"image source {str(src)!r} is not a path")
    path = Path(src).expanduser()
    try:
        if path.is_dir():
            return _in_folder(path)
        if path.suffix.lower() in SUFFIXES and path.is_file():
            return [ImageRef(safe_name(path.name), path)]
        if path.is_file():
            table = path.suffix.lower() in {".csv", ".tsv"}
            return _listed(path, read_manifest(path) if table else read_list(path))
    except OSError as error:
        reason = error.strerror or str(error)
        raise StatsnormError(f"cannot read image source {str(src)!r}: {reason}") from error
    raise StatsnormError(
        f"image source {str(src)!r} does not exist; give a folder, a text file of paths, "
        "a CSV manifest with a column 'image', or 'embedded'"
    )


def require_distinct(refs: Sequence[ImageRef]) -> None:
    """Refuse images that are one file, byte for byte, under two names.

    An image is one unit of a design: a copy would count twice. Only files of equal size are read;
    one that cannot be read is left to decoding.

    Raises
    ------
    StatsnormError
        Naming two of them.
    """
    by_size: dict[int, list[ImageRef]] = {}
    for ref in refs:
        with suppress(OSError):
            by_size.setdefault(ref.path.stat().st_size, []).append(ref)
    seen: dict[bytes, str] = {}
    for ref in (ref for same in by_size.values() if len(same) > 1 for ref in same):
        with suppress(OSError), ref.path.open("rb") as file:
            first = seen.setdefault(hashlib.file_digest(file, "sha256").digest(), ref.image)
            if first != ref.image:
                raise same_file(first, ref.image)


def shared_files(refs: Sequence[ImageRef], others: Sequence[ImageRef]) -> int:
    """Return how many of `others` are a file of `refs`: the same place, or a copy of its bytes."""
    places = {ref.path.resolve() for ref in refs}
    by_size: dict[int, list[ImageRef]] = {}
    for ref in refs:
        with suppress(OSError):
            by_size.setdefault(ref.path.stat().st_size, []).append(ref)
    return sum(other.path.resolve() in places or _has_copy(other, by_size) for other in others)


def _has_copy(ref: ImageRef, by_size: Mapping[int, Sequence[ImageRef]]) -> bool:
    with suppress(OSError):
        same = by_size.get(ref.path.stat().st_size, ())
        return any(filecmp.cmp(ref.path, other.path, shallow=False) for other in same)
    return False


def same_file(first: str, second: str) -> StatsnormError:
    """Return the error for two images of a design that are one file."""
    return StatsnormError(
        f"images {first!r} and {second!r} are one file; an image is one unit of a design: keep one"
    )


def pair_directory(refs: Sequence[ImageRef], directory: str | Path) -> dict[str, Path]:
    """Return each image's counterpart in another folder, by the path below the source.

    A file of exactly the same name comes first; otherwise one whose name differs only in its
    last suffix. An image without a counterpart keeps the path at which it was looked for, so
    that decoding it fails at stage `find` and the image is listed as left out.

    Raises
    ------
    StatsnormError
        If the folder does not exist, holds a counterpart for no image, or holds several files
        that differ only in suffix where an image needs one of them.
    """
    root = Path(directory).expanduser()
    there = {ref.image: ref.path for ref in find_images(root)} if root.is_dir() else None
    if there is None:
        raise StatsnormError(
            f"paired folder {str(directory)!r} does not exist or is no folder; give NAME=DIR"
        )
    wanted = {ref.image for ref in refs}
    by_stem: dict[str, list[str]] = {}
    for name in there.keys() - wanted:  # a file that one image names exactly is that image's
        by_stem.setdefault(_stem(name), []).append(name)

    pairs: dict[str, Path] = {}
    for ref in refs:
        near = [ref.image] if ref.image in there else sorted(by_stem.get(_stem(ref.image), []))
        if len(near) > 1:
            raise StatsnormError(
                f"image {ref.image!r} has {len(near)} counterparts in {str(directory)!r}: "
                + ", ".join(near)
                + "; keep one"
            )
        pairs[ref.image] = there[near[0]] if near else root / relative_path(ref.image)
    if refs and not there.keys() & wanted and not {_stem(n) for n in wanted} & by_stem.keys():
        raise StatsnormError(
            f"no image has a counterpart in {str(directory)!r}: its files must have the same "
            f"paths below it, for example {refs[0].image!r}"
        )
    return pairs


def _stem(image: str) -> str:
    return image[: -len(suffix)] if (suffix := Path(image).suffix) else image


def _in_folder(root: Path) -> list[ImageRef]:
    refs = [ImageRef(safe_name(p.relative_to(root).as_posix()), p) for p in _walk(root)]
    if not refs:
        raise StatsnormError(
            f"no images in {str(root)!r}; known suffixes: {' '.join(sorted(SUFFIXES))}"
        )
    return sorted(refs, key=lambda ref: ref.image)


def _walk(root: Path) -> Iterable[Path]:
    """Yield image files; real folders come before links, so that a link never renames them."""
    seen: set[tuple[int, int]] = set()
    pending, links = [root], list[Path]()
    while pending or links:
        folder = pending.pop() if pending else links.pop(0)
        status = folder.stat()
        if (key := (status.st_dev, status.st_ino)) in seen:
            continue
        seen.add(key)
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink() and Path(entry.path).is_dir():
                    links.append(Path(entry.path))
                elif entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))
                elif Path(entry.name).suffix.lower() in SUFFIXES:
                    yield Path(entry.path)
        links.sort()


def _listed(path: Path, entries: Sequence[Entry]) -> list[ImageRef]:
    base = Path(os.path.abspath(path.parent))  # noqa: PTH100 (lexical: links keep their names)
    paths = [Path(os.path.abspath(base / entry.text)) for entry in entries]  # noqa: PTH100
    root = base
    if not all(p.is_relative_to(base) for p in paths):
        root = Path(os.path.commonpath([p.parent for p in paths]))
    if not any(p.exists() for p in paths):
        raise StatsnormError(
            f"not one of the {len(paths)} images of {str(path)!r} exists; the first is looked "
            f"for at {str(paths[0])!r}: paths are relative to the list's own folder"
        )
    lines: dict[str, int] = {}
    refs = []
    for entry, file in zip(entries, paths, strict=True):
        image = safe_name(file.relative_to(root).as_posix())
        if (first := lines.setdefault(image, entry.line)) != entry.line:
            raise StatsnormError(
                f"image {image!r} stands in lines {first} and {entry.line} of {str(path)!r}; "
                "an image is one unit: keep one line"
            )
        refs.append(ImageRef(image, file, _safe(entry.attributes)))
    return sorted(refs, key=lambda ref: ref.image)


def _safe(attributes: Mapping[str, str]) -> dict[str, str]:
    return {safe_name(key): safe_name(value) for key, value in attributes.items()}
