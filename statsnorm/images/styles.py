"""How styles are named: generator specifications, their short names and their styles.

| specification | generator | styles |
|---|---|---|
| `cin26` | the embedded conditional-IN network | `0` .. `25` |
| `filters` | photo filters, no network | names of :data:`statsnorm.images.filters.FILTERS` |
| `texture_bn:PATH` | batch-norm texture networks of 2016 | one a `.safetensors` file |
| `johnson:PATH` | feed-forward instance-norm networks | one a `.safetensors` file |
| `gram:PATH` | Gatys optimisation | one a target image in the folder or list |
| `FILE.safetensors` | any image network of ours | its own indices, or `0` |

Nothing is loaded here; :func:`statsnorm.images.stylise.load_style_generator` does that.
"""

from __future__ import annotations

import math
from pathlib import Path

from statsnorm.errors import StatsnormError, unknown
from statsnorm.images.filters import FILTERS
from statsnorm.images.names import safe_name
from statsnorm.images.sources import ImageRef, find_images

RESTORES = ("none", "luminance")
GENERATORS = ("cin26", "filters", "gram", "johnson", "texture_bn")
_FOLDERS = ("johnson", "texture_bn")
_PICKLES = (".pth", ".pt", ".pkl", ".pickle", ".ckpt", ".bin", ".t7")
_CIN26 = tuple(str(i) for i in range(26))


def generator_name(spec: str) -> str:
    """Return the short name of a generator, the part of column `style` before its colon.

    >>> generator_name("texture_bn:nets/2016"), generator_name("runs/a/wave.safetensors")
    ('texture_bn', 'wave')
    """
    kind = spec.split(":", 1)[0]
    if kind in GENERATORS:
        return kind
    if spec.endswith(_PICKLES):
        raise StatsnormError(
            f"style generator {spec!r} is a pickle, which can run code when it is read; statsnorm "
            "reads only .safetensors: convert it with safetensors.torch.save_file"
        )
    if spec.endswith(".safetensors"):
        return safe_name(Path(spec).stem).replace(":", "_")
    raise unknown("style generator", kind, [*GENERATORS, "FILE.safetensors"])


def style_indices(spec: str) -> tuple[str, ...]:
    """Return the styles of a generator without loading a network, in a fixed order.

    Raises
    ------
    StatsnormError
        If the generator is unknown, or its folder is missing or empty.
    """
    kind, where = _split(spec)
    if kind == "cin26":
        return _CIN26
    if kind == "filters":
        return tuple(FILTERS)
    if kind == "gram":
        return tuple(target.image for target in target_images(spec))
    if kind in _FOLDERS:
        return tuple(network_files(spec))
    if not Path(where).is_file():
        raise StatsnormError(f"style network {where!r} does not exist")
    from statsnorm.networks import load_network  # slow import: keep design files quick to read

    return load_network(where).indices or ("0",)


def network_files(spec: str) -> dict[str, Path]:
    """Return style name -> weights file for `texture_bn:PATH` and `johnson:PATH`.

    A file `starry_style.safetensors` or `johnson_wave.safetensors` is style `starry`, `wave`.
    """
    kind, where = _split(spec)
    path = Path(where).expanduser()
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    if not where or not files:
        raise StatsnormError(
            f"style generator {spec!r} needs a .safetensors file or a folder of them: {kind}:PATH"
        )
    return {safe_name(f.stem.removeprefix(f"{kind}_").removesuffix("_style")): f for f in files}


def target_images(spec: str) -> list[ImageRef]:
    """Return the target images of `gram:PATH`."""
    _, where = _split(spec)
    if not where:
        raise StatsnormError("style generator 'gram' needs target images: gram:PATH")
    return find_images(where)


def check_strength(value: object) -> float:
    """Return a blend strength as a float.

    Raises
    ------
    StatsnormError
        If it is not a number in (0, 1].
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(float(value)) or not 0 < float(value) <= 1:  # type: ignore[arg-type]
        raise StatsnormError(f"strength must be a number above 0 and at most 1, got {value!r}")
    return float(value)  # type: ignore[arg-type]


def _split(spec: str) -> tuple[str, str]:
    """Return (kind, path); a bare weights file has the kind ""."""
    kind, _, where = spec.partition(":")
    if kind in {"cin26", "filters"} and where:
        raise StatsnormError(f"style generator {kind!r} takes no path, got {spec!r}")
    if kind in GENERATORS:
        return kind, where
    generator_name(spec)
    return "", spec
