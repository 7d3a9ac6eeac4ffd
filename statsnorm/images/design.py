"""The crossed design content x style x contrast, as a TOML file says it.

A design file, complete (paths are relative to it; every key but the two tables has a default)::

    restore = "luminance"           # or "none": put each content's luminance mean and sd back
    strength = 1.0                  # blend of styled and plain image; or a list, [0.4, 0.7, 1.0]
    limit = 24                      # use so many images of the source, drawn by `seed`; 0 = all
    seed = 0

    [[styles]]                      # one table a generator; a single [styles] table will do too
    generator = "cin26"             # cin26, filters, texture_bn:FOLDER, johnson:FOLDER,
    indices = [0, 3, 7, 11]         #   gram:FOLDER of target images, or a .safetensors file
                                    # without `indices`: all styles of the generator
    [[styles]]
    generator = "filters"
    indices = ["sepia", "halftone"]

    [contrast]
    family = "gain"                 # gain, offset, gamma, equalise, channel-gain
    values = [0.4, 0.7, 1.0]        # or `k = 5` for so many default levels
    allow_out_of_range = false      # true: accept levels that widen [0, 1]

Without styles the images stay plain (style ""); without [contrast] there is one level, family "".
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from statsnorm.cells import InputCell
from statsnorm.errors import StatsnormError, unknown
from statsnorm.images.contrast import Level, levels
from statsnorm.images.sources import ImageRef
from statsnorm.images.styles import RESTORES, check_strength, generator_name, style_indices
from statsnorm.wording import counted

_TOP = ("contrast", "limit", "restore", "seed", "strength", "styles")
_STYLES = ("generator", "indices", "restore", "strength")
_CONTRAST = ("allow_out_of_range", "family", "k", "values")
CELL_LIMIT = 100_000


@dataclass(frozen=True, slots=True, order=True)
class StyleSpec:
    """One style: how to load its generator, and which of its styles; both "" for plain."""

    generator: str
    index: str

    @property
    def label(self) -> str:
        """Column `style`: the generator's short name and the index, or ""."""
        return f"{generator_name(self.generator)}:{self.index}" if self.generator else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """What is crossed with the images; :meth:`cells` lists it in its fixed order."""

    styles: tuple[StyleSpec, ...] = (StyleSpec("", ""),)
    strengths: tuple[float, ...] = (1.0,)
    restore: str = "luminance"
    family: str = ""
    levels: tuple[Level, ...] = field(default=(Level("", 0, {}),), hash=False)
    allow_out_of_range: bool = False
    limit: int = 0
    seed: int = 0

    def cells(self) -> list[InputCell]:
        """Return the cells: style outermost, then strength, then contrast level.

        A plain style has one strength, 1, and nothing to restore.
        """
        cells = []
        for style in self.styles:
            strengths = self.strengths if style.generator else (1.0,)
            restore = self.restore if style.generator else "none"
            cells += [
                InputCell(
                    style=style.label,
                    strength=strength,
                    restore=restore,
                    contrast=self.family,
                    level=level.level,
                )
                for strength, level in product(strengths, self.levels)
            ]
        return cells

    def shortfall(self) -> str:
        """Return what a split into style and contrast variance lacks here, or ""."""
        styles = sum(bool(style.generator) for style in self.styles)
        if styles > 2 and len(self.levels) > 1:
            return ""
        found = f"{counted(styles, 'styles')} and {counted(len(self.levels), 'contrast levels')}"
        return f"the design has {found}; removed_variance and reemergence need 3 and 2"

    def choose(self, refs: Sequence[ImageRef]) -> list[ImageRef]:
        """Return the images that the design uses, in their order.

        The draw ranks the images by a hash of seed and name, so it depends on no order.

        Raises
        ------
        StatsnormError
            If the source holds fewer than `limit` images.
        """
        if not self.limit:
            return list(refs)
        if len(refs) < self.limit:
            raise StatsnormError(f"the design asks for {self.limit} images, there are {len(refs)}")
        drawn = sorted(refs, key=lambda ref: _hash(self.seed, ref.image))[: self.limit]
        return sorted(drawn, key=lambda ref: ref.image)

    def as_dict(self) -> dict[str, Any]:
        """Return the design in plain types, canonical, for a run's configuration."""
        return {
            "styles": [style.label for style in self.styles],
            "strengths": list(self.strengths),
            "restore": self.restore,
            "contrast": self.family,
            "levels": [level.parameters for level in self.levels],
            "limit": self.limit,
            "seed": self.seed,
        }


def load_design_file(path: str | Path) -> Design:
    """Return the design that a TOML file describes (keys: see the module's docstring).

    Raises
    ------
    StatsnormError
        If the file cannot be read or is not TOML, or for whatever :func:`design_from` refuses;
        the message begins with the file's name.
    """
    path = Path(path)
    try:
        raw = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        reason = error.strerror or str(error)
        raise StatsnormError(f"cannot read design {str(path)!r}: {reason}") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError
        raise StatsnormError(f"design {str(path)!r} is not TOML: {error}") from error
    try:
        return design_from(raw, base=path.parent)
    except StatsnormError as error:
        raise StatsnormError(f"design {str(path)!r}: {error}") from error


def design_from(raw: Mapping[str, Any], *, base: str | Path = ".") -> Design:
    """Return the design described by a mapping with the keys of a design file.

    Parameters
    ----------
    raw : mapping
        As read from TOML.
    base : str or Path
        Folder to which the paths of generators are relative.

    Raises
    ------
    StatsnormError
        For an unknown key, a value of the wrong type, a style that a generator does not have,
        a style named twice, or a level that :func:`statsnorm.images.contrast.levels` refuses.

    Examples
    --------
    >>> design = design_from({"styles": {"generator": "cin26", "indices": [3, 7]},
    ...                       "contrast": {"family": "gain", "k": 3}})
    >>> len(design.cells()), design.cells()[-1].style, design.cells()[-1].level
    (6, 'cin26:7', 2)
    """
    _known("design key", raw, _TOP)
    tables = _style_tables(raw.get("styles", []))
    if not tables and "contrast" not in raw:
        raise StatsnormError("a design needs [styles] or [contrast]; see the design file's keys")
    blend = _blend(raw, tables)
    restore = _typed(blend, "restore", str, "luminance")
    if restore not in RESTORES:
        raise unknown("restore", restore, RESTORES)
    family, made, allowed = _contrast(_table("contrast", raw.get("contrast", {})))
    design = Design(
        styles=_styles(tables, Path(base)),
        strengths=_strengths(blend.get("strength", 1.0)),
        restore=restore,
        family=family,
        levels=made,
        allow_out_of_range=allowed,
        limit=_count(raw, "limit"),
        seed=_count(raw, "seed"),
    )
    if len(design.styles) * len(design.strengths) * len(made) > CELL_LIMIT:
        raise StatsnormError(f"the design has more than {CELL_LIMIT} cells an image")
    return design


def _style_tables(raw: object) -> list[Mapping[str, Any]]:
    tables = [_table("styles", t) for t in (raw if isinstance(raw, list) else [raw])]
    for table in tables:
        _known("styles key", table, _STYLES)
        if len(tables) > 1 and (stray := {"restore", "strength"} & table.keys()):
            raise StatsnormError(
                f"{min(stray)!r} in one of several [[styles]]: it holds for all, put it on top"
            )
    return tables


def _blend(raw: Mapping[str, Any], tables: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Return restore and strength, from the top or from the only [styles] table."""
    blend: dict[str, Any] = {}
    for place in (raw, *tables):
        for key in ("restore", "strength"):
            if key in place and key in blend:
                raise StatsnormError(f"{key!r} stands twice, on top and in [styles]; keep one")
            if key in place:
                blend[key] = place[key]
    return blend


def _styles(tables: list[Mapping[str, Any]], base: Path) -> tuple[StyleSpec, ...]:
    specs: list[StyleSpec] = []
    for table in tables:
        spec = _located(_typed(table, "generator", str, ""), base)
        there = style_indices(spec)
        asked = table.get("indices", list(there))
        if not isinstance(asked, list) or not asked:
            raise StatsnormError(f"indices must be a list of styles of {spec!r}, got {asked!r}")
        for index in asked:
            if isinstance(index, bool) or not isinstance(index, int | str):
                raise StatsnormError(f"style index {index!r} must be a number or a name")
            if str(index) not in there:
                raise unknown(f"style of generator {spec!r}:", str(index), there)
            specs.append(StyleSpec(spec, str(index)))
    labels = [spec.label for spec in specs]
    if double := sorted({label for label in labels if labels.count(label) > 1}):
        raise StatsnormError(f"style {double[0]!r} stands twice; a style is one unit")
    return tuple(specs) or (StyleSpec("", ""),)


def _located(spec: str, base: Path) -> str:
    """Return a generator's specification with its path relative to `base` made good."""
    kind, colon, where = spec.rpartition(":") if ":" in spec else ("", "", spec)
    if not colon and not spec.endswith(".safetensors"):
        return spec
    return f"{kind}{colon}{base / Path(where).expanduser()}"


def _contrast(raw: Mapping[str, Any]) -> tuple[str, tuple[Level, ...], bool]:
    _known("contrast key", raw, _CONTRAST)
    allowed = _typed(raw, "allow_out_of_range", bool, False)
    if not raw:
        return "", (Level("", 0, {}),), allowed
    family = _typed(raw, "family", str, "")
    if "values" in raw and "k" in raw:
        raise StatsnormError("[contrast] gives both `values` and `k`; keep one")
    values = _typed(raw, "values", list, None)
    k = _typed(raw, "k", int, 5)
    return family, levels(family, values, k, allow_out_of_range=allowed), allowed


def _strengths(raw: object) -> tuple[float, ...]:
    asked = raw if isinstance(raw, list) else [raw]
    strengths = tuple(check_strength(value) for value in asked)
    if not strengths or len(set(strengths)) < len(strengths):
        raise StatsnormError(f"strength must be one number or a list without repeats, got {raw!r}")
    return strengths


def _count(raw: Mapping[str, Any], key: str) -> int:
    value = _typed(raw, key, int, 0)
    if not 0 <= value < 2**63:
        raise StatsnormError(f"{key} must be a whole number from 0, got {value}")
    return int(value)


def _typed(raw: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
    value = raw.get(key, default)
    wrong = not isinstance(value, kind) or (kind is int and isinstance(value, bool))
    if key in raw and wrong:
        raise StatsnormError(f"{key} must be of type {kind.__name__}, got {value!r}")
    return value


def _table(name: str, raw: object) -> Mapping[str, Any]:
    if not isinstance(raw, Mapping):
        raise StatsnormError(f"[{name}] must be a table, got {raw!r}")
    return raw


def _known(kind: str, raw: Mapping[str, Any], names: Sequence[str]) -> None:
    for key in raw:
        if key not in names:
            raise unknown(kind, key, names)


def _hash(seed: int, image: str) -> str:
    return hashlib.sha256(f"{seed}:{image}".encode()).hexdigest()
