"""Data and weights by name: downloaded, resumed where they broke off, checked by hash.

Known are COCO's photographs and torchvision's VGG weights, which go where torchvision itself
looks for them. A download is written to `NAME.part` beside its place; a later call goes on from
there, also after a crash. Nothing gets its final name before size and SHA-256 are right.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import cast
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen
from zipfile import BadZipFile

from statsnorm.errors import StatsnormError, unknown

CHUNK = 1 << 20
TRIES = 5  # in a row without a new byte
TIMEOUT = 60.0  # seconds without an answer

Progress = Callable[[int, int, str], None]
"""Called with bytes there, bytes in all (0: unknown), and the name."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A file on a server: where, how large, and what it must hash to."""

    url: str
    sha256: str  # a prefix will do
    size: int = 0  # bytes; 0 where it is not known beforehand

    @property
    def name(self) -> str:
        """Return the last part of the address."""
        return self.url.rpartition("/")[2]


COCO = {
    "coco-val2017": Remote(
        "http://images.cocodataset.org/zips/val2017.zip",
        "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
        815_585_330,
    ),
    "coco-train2017": Remote(
        "http://images.cocodataset.org/zips/train2017.zip",
        "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
        19_336_861_798,
    ),
}
"""Archives of photographs: 5,000 and 118,287 images."""

WEIGHTS = ("vgg16", "vgg19")
"""Networks whose ImageNet weights torchvision offers and :func:`fetch` gets."""


def fetch(name: str, *, out: str | Path = "data", progress: Progress | None = None) -> Path:
    """Download what is known by `name` and return where it lies.

    Parameters
    ----------
    name : str
        ``coco-val2017``, ``coco-train2017``, ``vgg16`` or ``vgg19``.
    out : str or Path
        Folder for photographs; the archive is removed once it is unpacked. Weights go into
        torchvision's own cache (`TORCH_HOME`) instead.

    Returns
    -------
    Path
        The folder of images, or the weights file.

    Raises
    ------
    StatsnormError
        If the name is not known, there is no network, or what came is not what was asked for.
    """
    if name in COCO:
        return _photographs(COCO[name], Path(out), progress)
    if name not in WEIGHTS:
        raise unknown("data", name, [*COCO, *WEIGHTS])
    from statsnorm.networks.weights import torchvision_remote

    remote, path = torchvision_remote(name)
    return download(remote, path, progress=progress)


def download(remote: Remote, path: Path, *, progress: Progress | None = None) -> Path:
    """Bring a file to `path`; one that is there and whole is left as it is.

    Raises
    ------
    StatsnormError
        If the server cannot be reached, keeps breaking off, sends another file, or the disk
        cannot take it; what came so far stays as `PATH.part` where it may be gone on from.
    """
    if path.exists():
        if _matches(path, remote):
            return path
        raise StatsnormError(
            f"{str(path)!r} is not the file of {remote.url} (its SHA-256 differs); "
            "move it away and run again"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    _fill(part, remote, progress)
    if not _matches(part, remote):
        part.unlink()
        raise StatsnormError(
            f"{remote.url} sent a file with another SHA-256 than {remote.sha256[:12]}...; "
            "it was thrown away: try again, or get the file elsewhere"
        )
    part.replace(path)
    return path


def _fill(part: Path, remote: Remote, progress: Progress | None) -> None:
    """Append to `part` until it is complete; a server that gives nothing new is given up."""
    failures, reason = 0, ""
    while failures < TRIES:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _append(part, remote, progress):
                return
            reason = "it broke off"
        except HTTPError as error:
            if error.code == 416 and before:  # nothing behind what is there: the hash decides
                return
            if error.code < 500:
                raise StatsnormError(f"{remote.url}: {error.code} {error.reason}") from error
            reason = f"{error.code} {error.reason}"
        except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
            reason = str(getattr(error, "reason", "") or error or type(error).__name__)
        now = part.stat().st_size if part.exists() else 0
        failures = 0 if now > before else failures + 1
        if 0 < failures < TRIES:
            time.sleep(min(0.1 * 2**failures, 5.0))
    kept = part.stat().st_size if part.exists() else 0
    rest = f"; {kept} bytes are kept, the same command goes on from there" if kept else ""
    raise StatsnormError(f"could not download {remote.url}: {reason}; is there a network?{rest}")


def _append(part: Path, remote: Remote, progress: Progress | None) -> bool:
    """Ask for what is missing, append it, and return whether all of it has come."""
    have = part.stat().st_size if part.exists() else 0
    if remote.size and have > remote.size:
        part.unlink()
        have = 0
    headers = {"User-Agent": "statsnorm", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    request = Request(remote.url, headers=headers)
    with cast(HTTPResponse, urlopen(request, timeout=TIMEOUT)) as answer:
        if have and answer.status != 206:
            have = 0  # the server starts again, so do we
        elif have and not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()  # a part of something else: ask for all of it
            return False
        stated = answer.headers.get("Content-Length")
        total = remote.size or (have + int(stated) if stated and stated.isdecimal() else 0)
        with part.open("r+b" if have else "wb") as file:
            file.seek(have)
            while data := answer.read(CHUNK):
                have += len(data)
                if remote.size and have > remote.size:
                    raise StatsnormError(
                        f"{remote.url} sends more than the {remote.size} bytes that it should"
                    )
                file.write(data)
                if progress is not None:
                    progress(have, total, remote.name)
            file.flush()
            os.fsync(file.fileno())
    return have == total if total else True


def _matches(path: Path, remote: Remote) -> bool:
    if remote.size and path.stat().st_size != remote.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().startswith(remote.sha256)


def _photographs(remote: Remote, out: Path, progress: Progress | None) -> Path:
    """Download and unpack an archive of photographs; return its folder."""
    from torchvision.datasets.utils import extract_archive

    folder = out / remote.name.removesuffix(".zip")
    marker = folder / ".complete"  # a name with a dot is no image
    if marker.exists():
        return folder
    archive = download(remote, out / remote.name, progress=progress)
    try:
        extract_archive(str(archive), str(out))
    except (BadZipFile, OSError) as error:
        raise StatsnormError(f"could not unpack {str(archive)!r}: {error}") from error
    if not folder.is_dir():
        raise StatsnormError(f"{str(archive)!r} holds no folder {folder.name!r}")
    marker.touch()
    archive.unlink()
    return folder
