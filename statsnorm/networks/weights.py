"""Weights by name or file: safetensors only, hashed, checked against the architecture.

Nothing of ours is ever unpickled. The one exception to safetensors is torchvision's own hub
weights, which torchvision itself reads with PyTorch's restricted weights-only reader,
after the SHA-256 prefix in the file's name has been checked here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from pickle import UnpicklingError
from urllib.parse import urlparse

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as dump_safetensors
from torch import Tensor, nn

from statsnorm.atomic import atomic_file
from statsnorm.errors import StatsnormError, unknown
from statsnorm.fetch import Remote, download

EMBEDDED: dict[str, tuple[str, str]] = {
    "vgg16": (
        "vgg16_caffe_relu4_2_fp16.safetensors",
        "38cd30d0ec22a403b9f32d1184a5751bdbfe22541babfb7f5930d2148a6f88d2",
    ),
    "cin26": (
        "cin26.safetensors",
        "cdb9cbd81c8f21025a1410fe8638c621bd2684f46e9b953b22de4874faec2fa7",
    ),
}
"""Embedded weights: network -> (file in `statsnorm/assets`, SHA-256)."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The content of one safetensors file."""

    source: str  # shown in messages
    state: dict[str, Tensor]  # half precision is widened to float32
    metadata: dict[str, str]
    sha256: str


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a safetensors file once: its tensors, its metadata, its SHA-256.

    Raises
    ------
    StatsnormError
        If the file is missing, is a pickle, is no valid safetensors file, or holds a nan or
        an infinity.
    """
    path = Path(path)
    if not path.is_file():
        raise StatsnormError(f"no weights file at {str(path)!r}; give a .safetensors file")
    data = path.read_bytes()
    if data[:4] == b"PK\x03\x04" or data[:1] == b"\x80" or path.suffix in {".pkl", ".pickle"}:
        raise StatsnormError(
            f"{path.name!r} is a PyTorch pickle, which can run code when it is read; "
            "statsnorm reads only .safetensors: convert it with safetensors.torch.save_file"
        )
    try:
        state = parse_safetensors(data)
    except (SafetensorError, ValueError) as error:
        raise StatsnormError(f"{path.name!r} is not a valid safetensors file: {error}") from error
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    for key, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise StatsnormError(f"{path.name!r} holds nan or inf in {key!r}; train it again")
        if value.dtype in (torch.float16, torch.bfloat16):
            state[key] = value.float()
    digest = hashlib.sha256(data).hexdigest()
    return Checkpoint(str(path), state, dict(header.get("__metadata__") or {}), digest)


def read_embedded(network: str) -> Checkpoint:
    """Read weights that ship with the package and check their hash."""
    name, expected = EMBEDDED[network]
    with resources.as_file(resources.files("statsnorm") / "assets" / name) as path:
        checkpoint = read_checkpoint(path)
    if checkpoint.sha256 != expected:
        raise StatsnormError(
            f"embedded weights {name!r} are damaged: SHA-256 {checkpoint.sha256}, "
            f"expected {expected}; install statsnorm again"
        )
    return checkpoint


def load_state(
    module: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    *,
    key: Callable[[str], str] = str,
) -> None:
    """Copy `state` into `module`; keys and shapes must be exactly those of the module.

    Parameters
    ----------
    module : nn.Module
        Changed in place.
    state : mapping
        Tensors by the file's keys.
    source : str
        The file, for messages.
    key : callable
        Maps a key of the module to the file's key.

    Raises
    ------
    StatsnormError
        Names the first key that is missing, of another shape, or left over.
    """
    own, name = module.state_dict(), Path(source).name
    wanted = {key(k): k for k in own if not k.endswith("num_batches_tracked")}
    for theirs, ours in wanted.items():
        expected = tuple(own[ours].shape)
        if theirs not in state:
            raise StatsnormError(f"{name!r} lacks {theirs!r}, expected shape {expected}")
        if (got := tuple(state[theirs].shape)) != expected:
            raise StatsnormError(
                f"{name!r}: {theirs!r} has shape {got}, expected {expected}: these are the weights "
                "of another architecture"
            )
    if extra := sorted(
        k for k in set(state) - set(wanted) if not k.endswith("num_batches_tracked")
    ):
        raise StatsnormError(f"{name!r} holds {extra[0]!r}, which this architecture has not")
    module.load_state_dict({ours: state[theirs] for theirs, ours in wanted.items()}, strict=False)


def torchvision_remote(name: str) -> tuple[Remote, Path]:
    """Return where torchvision's ImageNet weights of VGG-16 or VGG-19 are, there and here.

    Here is torchvision's own cache (`TORCH_HOME`); the hash is the one in the file's name.
    """
    from torchvision.models import VGG16_Weights, VGG19_Weights

    known = {"vgg16": VGG16_Weights.IMAGENET1K_V1, "vgg19": VGG19_Weights.IMAGENET1K_V1}
    if name not in known:
        raise unknown("torchvision network", name, known)
    url = known[name].url
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    stated = re.search(r"-([0-9a-f]{8,})\.", cached.name)
    assert stated is not None, "torchvision's names end in a hash"
    return Remote(url, stated[1]), cached


def torchvision_state(name: str) -> tuple[dict[str, Tensor], str]:
    """Return torchvision's ImageNet weights of VGG-16 or VGG-19 and the SHA-256 of their file.

    A file that is not in torchvision's cache yet is downloaded there
    (:func:`statsnorm.fetch.download`). The hash in its name is checked on every read.

    Raises
    ------
    StatsnormError
        If the download fails or the file does not match its hash.
    """
    from torchvision.models import get_weight

    remote, cached = torchvision_remote(name)
    try:
        if not cached.exists():
            download(remote, cached)
        digest = _check_name_hash(cached)
        weights = get_weight(f"{name.upper()}_Weights.IMAGENET1K_V1")
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
            state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (StatsnormError, OSError, RuntimeError, UnpicklingError) as error:
        raise StatsnormError(
            f"could not get torchvision's {name} weights: {_first_sentence(error)}; "
            "or give a local file with --weights FILE.safetensors"
        ) from error
    return dict(state), digest


def _first_sentence(error: Exception) -> str:
    """Return what one of our errors says; of another's, which may go on for long, the start."""
    return str(error) if isinstance(error, StatsnormError) else str(error).partition(". ")[0]


def _check_name_hash(path: Path) -> str:
    """Return a file's SHA-256; raise unless it begins as the `-<hash>.` in its name says."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    stated = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if stated is None or not digest.startswith(stated[1]):
        raise StatsnormError(
            f"cached weights {str(path)!r} do not match the hash in their name "
            f"(SHA-256 {digest[:8]}...); delete the file and run again"
        )
    return digest


def save_checkpoint(path: str | Path, module: nn.Module, metadata: Mapping[str, object]) -> str:
    """Write a module's state as safetensors, atomically; return its SHA-256.

    The same state and metadata give the same bytes. Metadata values are written as `str`.
    """
    path = Path(path)
    state = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
    data = _sorted_header(dump_safetensors(state, {k: str(v) for k, v in metadata.items()}))
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def _sorted_header(data: bytes) -> bytes:
    """Sort the metadata of a safetensors file: its writer keeps no order of its own."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]
