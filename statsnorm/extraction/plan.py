"""What an extraction will do, decided before the first shard: images, input cells, networks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from statsnorm.cells import InputCell
from statsnorm.errors import StatsnormError, unknown
from statsnorm.images.conditions import BUILT_IN, check_condition, needs_style
from statsnorm.images.decode import PIXEL_LIMIT
from statsnorm.images.design import Design, StyleSpec
from statsnorm.images.doses import check_doses, dose_of
from statsnorm.images.sources import (
    ImageRef,
    find_images,
    pair_directory,
    require_distinct,
    shared_files,
)
from statsnorm.images.styles import check_strength, generator_name, style_indices
from statsnorm.images.stylise import StyleGenerator, check_side, load_style_generator
from statsnorm.limits import check_limit, check_size

PRECISIONS = ("fp32", "tf32", "bf16")
BN_MODES = ("eval", "train")
BATCH_KINDS = ("mixed", "style-homogeneous", "content-homogeneous")
REFERENCE_CELLS = 48
"""At least so many reference cells calibrate the frozen maps, where a design allows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractConfig:
    """What was asked for; :func:`statsnorm.extraction.extract` documents every field."""

    images: str | Path
    networks: tuple[str, ...] = ("vgg16",)
    conditions: tuple[str, ...] = ("original",)
    design: Design | None = None
    size: int = 256
    taps: tuple[str, ...] = ()
    treatments: tuple[str, ...] = ("none",)
    reference: str | Path | None = None
    indices: tuple[str, ...] = ()
    untrained: int = 0
    vgg_of_output: str = "vgg16"
    vgg_taps: tuple[str, ...] = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_2")
    style_generator: str = "cin26"
    style_index: str = ""
    strength: float = 1.0
    restore: str = "none"
    bn_modes: tuple[str, ...] = ("eval",)
    batch_kinds: tuple[str, ...] = ("mixed",)
    weights: str | None = None
    batch_size: int = 16
    precision: str = "fp32"
    shard_size: int = 32
    pixel_limit: int = PIXEL_LIMIT
    seed: int = 0
    invariance: bool = False
    correlations: int = 0
    correlation_taps: tuple[str, ...] = ()
    compile: bool = False

    def __post_init__(self) -> None:
        """Refuse what no run can mean."""
        for name, value, known in (
            ("precision", self.precision, PRECISIONS),
            *(("bn mode", mode, BN_MODES) for mode in self.bn_modes),
            *(("batch kind", kind, BATCH_KINDS) for kind in self.batch_kinds),
            ("VGG of the output", self.vgg_of_output, ("vgg16", "vgg19", "none")),
        ):
            if value not in known:
                raise unknown(name, value, known)
        for name in ("size", "batch_size", "shard_size", "pixel_limit"):
            if getattr(self, name) < 1:
                raise StatsnormError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.correlations < 0 or self.correlations == 1:
            raise StatsnormError(
                f"correlations must be 0 (none) or at least 2 channels, got {self.correlations}"
            )
        if self.correlation_taps and not self.correlations:
            raise StatsnormError(
                f"correlation tap {self.correlation_taps[0]!r} needs --correlations N, the number "
                "of channels to keep"
            )
        check_size(self.size, self.pixel_limit)
        check_limit("batch size", self.batch_size)
        check_limit("untrained", self.untrained)
        check_limit("seed", self.seed)
        if not self.networks or not self.conditions or not self.treatments:
            raise StatsnormError("give at least one network, one condition and one treatment")
        self._check_batches()
        check_strength(self.strength)

    def _check_batches(self) -> None:
        if not self.bn_modes or not self.batch_kinds:
            raise StatsnormError("give at least one bn mode and one batch kind")
        if "content-homogeneous" in self.batch_kinds and self.design is None:
            raise StatsnormError("batch kind 'content-homogeneous' needs a design with styles")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The images of a run and what is done to each before a network sees it."""

    refs: tuple[ImageRef, ...]
    conditions: tuple[str, ...]  # `original` first
    paired: dict[str, dict[str, Path]]  # the user's conditions: image -> its own version
    design: Design | None
    generators: dict[str, StyleGenerator]  # specification -> loaded
    cells: tuple[InputCell, ...]  # in the order in which they are made
    reference: tuple[ImageRef, ...] = ()
    reference_styles: tuple[StyleSpec, ...] = ()
    attributes: tuple[str, ...] = field(default=())

    def shard(self, number: int, size: int) -> tuple[ImageRef, ...]:
        """Return the images of one shard."""
        return self.refs[number * size : (number + 1) * size]


def plan_inputs(config: ExtractConfig, *, device: str) -> Inputs:
    """Find the images, load the style generators and list the input cells.

    Raises
    ------
    StatsnormError
        For an unknown condition, no image, two images of a design that are one file, a paired
        folder with a design, or reference images that would calibrate a map on the cells it is
        tested on.
    """
    names, folders = _split_conditions(config.conditions)
    if folders and config.design is not None:
        raise StatsnormError(f"condition {next(iter(folders))!r}=DIR cannot be crossed in a design")
    refs = find_images(config.images)
    if config.design is not None:
        refs = config.design.choose(refs)
        require_distinct(refs)
    bases = config.design.cells() if config.design is not None else [InputCell()]
    reference = _reference(config)
    return Inputs(
        refs=tuple(refs),
        conditions=names,
        paired={name: pair_directory(refs, folder) for name, folder in folders.items()},
        design=config.design,
        generators=_generators(config, names, device),
        cells=tuple(_with_condition(base, name) for base in bases for name in names),
        reference=reference,
        reference_styles=_reference_styles(config, refs, reference),
        attributes=tuple(sorted({key for ref in refs for key in ref.attributes})),
    )


def names_sha256(names: Sequence[str]) -> str:
    """Return one hash over image names, in order."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def default_shard(design: object) -> int:
    """Return how many images a shard has: 128, with a design, of many cells an image, 32.

    Keys and footer take 49 kB a shard of VGG-16: 0.7 bytes a pair of moments at 32 rows a tap, 0.2
    at 128. On the other side a kill costs the shard in work.
    """
    return 128 if design is None else 32


def describe_inputs(config: ExtractConfig, inputs: Inputs) -> dict[str, Any]:
    """Return the part of the hashed configuration that concerns the images."""
    style = None
    if styled(inputs.conditions):
        style = {
            "style": f"{generator_name(config.style_generator)}:{style_index(config, inputs)}",
            "strength": config.strength,
            "restore": config.restore,
        }
    return {
        "images": _described(inputs.refs),
        "attributes": list(inputs.attributes),
        "size": config.size,
        "pixel_limit": config.pixel_limit,
        "conditions": list(inputs.conditions),
        "paired": {
            name: names_sha256([path.name for path in pairs.values()])
            for name, pairs in inputs.paired.items()
        },
        "condition_style": style,
        "design": inputs.design.as_dict() if inputs.design else None,
        "generators": {generator_name(s): g.sha256 for s, g in inputs.generators.items()},
        "reference": _describe_reference(inputs),
        "seed": config.seed,
        "shard_size": config.shard_size,
    }


def styled(conditions: Sequence[str]) -> bool:
    """Return whether a condition needs the style generator; blur is matched to `style`."""
    return any(needs_style(name) or name == "blur" for name in conditions)


def style_index(config: ExtractConfig, inputs: Inputs) -> str:
    """Return the style of the conditions style, ck and placebo: the generator's first."""
    indices = inputs.generators[config.style_generator].indices
    if config.style_index and config.style_index not in indices:
        raise unknown(f"style of {config.style_generator!r}:", config.style_index, indices)
    return config.style_index or indices[0]


def _split_conditions(asked: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the condition names, `original` first, and the folders of the user's own."""
    folders: dict[str, str] = {}
    for condition in asked:
        name, equals, folder = condition.partition("=")
        if equals:
            if not name or not folder or name in BUILT_IN or dose_of(name):
                raise StatsnormError(
                    f"condition {condition!r} must be NAME=DIR with a name of your own"
                )
            folders[name] = folder
        else:
            check_condition(name, also=["NAME=DIR"])
    names = list(dict.fromkeys(condition.partition("=")[0] for condition in asked))
    return tuple(sorted(names, key=lambda name: name != "original")), folders


def _with_condition(base: InputCell, condition: str) -> InputCell:
    return InputCell(
        condition=condition,
        style=base.style,
        strength=base.strength,
        restore=base.restore,
        contrast=base.contrast,
        level=base.level,
    )


def _generators(
    config: ExtractConfig, conditions: Sequence[str], device: str
) -> dict[str, StyleGenerator]:
    specs = {style.generator for style in config.design.styles} if config.design else set()
    if styled(conditions):
        specs.add(config.style_generator)
    if specs - {"", "filters"}:
        check_side(config.size, config.size)
    found = {spec: load_style_generator(spec, device=device) for spec in sorted(specs - {""})}
    if styled(conditions):
        check_doses(conditions, found[config.style_generator].indices)
    return found


def _reference(config: ExtractConfig) -> tuple[ImageRef, ...]:
    frozen = [t for t in config.treatments if t.startswith("frozen:")]
    if frozen and config.reference is None:
        raise StatsnormError(
            f"treatment {frozen[0]!r} needs reference images (--reference SRC) that calibrate "
            "its maps and are not tested themselves"
        )
    fresh = [n for n in config.networks if n.endswith("+bn")] if "eval" in config.bn_modes else []
    if fresh and config.reference is None and ".safetensors" not in fresh[0]:
        raise StatsnormError(
            f"network {fresh[0]!r} needs reference images (--reference SRC) for the running "
            "statistics of its fresh batch normalisers, or --bn-mode train"
        )
    return tuple(find_images(config.reference)) if config.reference and (frozen or fresh) else ()


def _reference_styles(
    config: ExtractConfig, refs: Sequence[ImageRef], reference: Sequence[ImageRef]
) -> tuple[StyleSpec, ...]:
    """Return the styles of the reference cells: held out from the design where there are any."""
    if not reference:
        return ()
    shared = shared_files(refs, reference)
    used = config.design.styles if config.design else (StyleSpec("", ""),)
    held_out = _held_out(used)
    if shared and not held_out:
        raise StatsnormError(
            f"{shared} of {len(reference)} reference images are tested too, and no style is held "
            "out from the design: give other images, or leave styles of the generator out"
        )
    return held_out or tuple(used)


def _held_out(used: Sequence[StyleSpec]) -> tuple[StyleSpec, ...]:
    """Return styles of the same generators that are not in `used`, by turns of the generators."""
    columns = []
    for spec in dict.fromkeys(style.generator for style in used):
        there = style_indices(spec) if spec else ()
        free = [StyleSpec(spec, i) for i in there if StyleSpec(spec, i) not in used]
        if not free:
            return ()  # every generator of the design must be calibrated for
        columns.append(free)
    most = max(map(len, columns))
    turns = [column[i % len(column)] for i in range(most) for column in columns]
    return tuple(dict.fromkeys(turns))


def _describe_reference(inputs: Inputs) -> dict[str, Any] | None:
    if not inputs.reference:
        return None
    return {
        **_described(inputs.reference),
        "content_sha256": _content_sha256(inputs.reference),
        "styles": [style.label for style in inputs.reference_styles],
        "shared_contents": shared_files(inputs.refs, inputs.reference),
    }


def _content_sha256(refs: Sequence[ImageRef]) -> str:
    """Return one hash over what the files hold: other reference images are other frozen maps."""
    digest = hashlib.sha256()
    for ref in refs:
        try:
            with ref.path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError:
            digest.update(b"unreadable")
    return digest.hexdigest()


def _described(refs: Sequence[ImageRef]) -> dict[str, Any]:
    return {"count": len(refs), "sha256": names_sha256([ref.image for ref in refs])}
