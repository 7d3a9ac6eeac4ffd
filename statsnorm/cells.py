"""The cell: everything that identifies a row of `moments` besides its image and its tap.

Keys, the table schema, the order of work and the table reference are generated from here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

GROUP = 32
"""So many contents go through the cells together, whatever the shard size: it bounds memory, and no
composed batch spans two groups."""


def _key(arrow: str, default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"arrow": arrow, "meaning": meaning})


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class InputCell:
    """What was done to an image before any network saw it."""

    condition: str = _key(
        "string", "original", "input treatment: original, contrast, style, ck, ... or the user's"
    )
    style: str = _key("string", "", "input style as `generator:index`, or '' for none")
    strength: float = _key("float64", 1.0, "blend of the styled with the plain image, 1 = styled")
    restore: str = _key("string", "none", "none, or luminance: the content's own mean and sd")
    contrast: str = _key("string", "", "contrast family of a crossed design, or ''")
    level: int = _key("int16", 0, "ordinal level within the contrast family; see levels.parquet")


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class NetworkCell:
    """Which network ran, and what had been done to it.

    For VGG of a generator's output, `network` is the VGG, `source` the generator, and all
    other fields describe the generator, which is the network under study.
    """

    network: str = _key("string", "", "vgg16, vgg19, cin26, texture, or a factory's name")
    norm: str = _key("string", "none", "normaliser of the network under study: in, bn, cin, ...")
    treatment: str = _key(
        "string",
        "none",
        "none, frozen:prefix, frozen:all, frozen:TAP, bn_train, swap:WHAT[@PART]:to=STYLE, "
        "blend:SHARE:to=STYLE",
    )
    index: str = _key("string", "", "the network's own condition (CIN style index) or ''")
    source: str = _key("string", "input", "input, or the network whose output was fed")
    bn_mode: str = _key("string", "eval", "eval or train")
    batch_kind: str = _key("string", "mixed", "mixed, style-homogeneous, content-homogeneous")
    cell: str = _key("string", "", "training cell, or ''")
    seed: int = _key("int64", -1, "seed of the training or of the random weights, or -1")
    iteration: int = _key("int64", -1, "checkpoint iteration; 0 = untrained; -1 = as shipped")


KEYS: tuple[str, ...] = tuple(f.name for c in (InputCell, NetworkCell) for f in fields(c))
ARROW_TYPES: dict[str, str] = {
    f.name: f.metadata["arrow"] for c in (InputCell, NetworkCell) for f in fields(c)
}
MEANINGS: dict[str, str] = {
    f.name: f.metadata["meaning"] for c in (InputCell, NetworkCell) for f in fields(c)
}
