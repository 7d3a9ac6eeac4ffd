"""What is trained: blocks of cells that share all but normaliser and condition."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import PurePath
from typing import Any

from statsnorm.errors import StatsnormError, unknown
from statsnorm.images.decode import PIXEL_LIMIT
from statsnorm.images.names import safe_name
from statsnorm.limits import check_limit, check_size

LONGEST_STEM = 60
"""Characters of a target's name that its cells' names keep; their block tells them apart."""

BATCH_KINDS = ("mixed", "style-homogeneous", "content-homogeneous")
RENDERED = ("placebo", "placebo-matched")
"""Conditions whose images can be there in several styles, for batches of one style or content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """The scientific configuration of a training run; hashed into run.json.

    Losses are in units of the 0..255 scale; `iterations` is the budget T of every cell.
    """

    targets: tuple[str, ...]  # one style image a block, in the order of the blocks
    norms: tuple[str, ...] = ("in", "bn")
    conditions: tuple[str, ...] = ("original", "contrast", "style")
    size: int = 256  # pixels, square
    batch: int = 4
    iterations: int = 2000
    lr: float = 1e-3  # Adam; of the arms that `arm_lr` does not name
    lr_grid: tuple[float, ...] = ()  # every cell at each of these rates, as a pilot does
    arm_lr: tuple[tuple[str, str, float], ...] = ()  # norm, condition, rate: a pilot's choice
    loss: str = "vgg16"
    statistics: str = "gram"
    style_weight: float = 5.0
    content_weight: float = 1.0
    norm_at: str = "all"
    width: int = 32
    residual_blocks: int = 5
    heldout: int = 64  # images of the fixed evaluation set
    record_every: int = 0  # 0: a hundredth of the budget
    precision: str = "fp32"
    batch_kind: str = "mixed"
    renderings: int = 0  # styles in which every image of a placebo is there; 0: one drawn by name
    style_generator: str = "cin26"
    style_index: str | None = None
    pilot: bool = False  # pilot blocks set learning rates and thresholds and are never reused
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.targets:
            raise StatsnormError("training needs at least one --target image")
        for name in ("size", "batch", "iterations", "heldout", "width"):
            if getattr(self, name) < 1:
                raise StatsnormError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.residual_blocks < 0:
            raise StatsnormError(f"residual_blocks must not be negative: {self.residual_blocks}")
        check_size(self.size, PIXEL_LIMIT)
        for name, value in (
            ("batch size", self.batch),
            ("iterations", self.iterations),
            ("width", self.width),
            ("residual blocks", self.residual_blocks),
            ("seed", self.seed),
            ("training cells", len(self.targets) * len(self.norms) * len(self.conditions)),
        ):
            check_limit(name, value)
        if not 0 < self.style_weight < math.inf:
            raise StatsnormError(
                f"style_weight must be positive and finite, got {self.style_weight}"
            )
        if self.size % 4:
            raise StatsnormError(f"size must be a multiple of 4, got {self.size}")
        for lr in (self.lr, *self.lr_grid, *(rate for _, _, rate in self.arm_lr)):
            if not 0 < lr < math.inf:
                raise StatsnormError(f"lr must be positive and finite, got {lr}")
        check_names("batch kind", [self.batch_kind], BATCH_KINDS)
        self._check_renderings()

    def _check_renderings(self) -> None:
        if self.renderings < 0:
            raise StatsnormError(f"renderings must not be negative, got {self.renderings}")
        others = [c for c in self.conditions if c not in RENDERED]
        if self.renderings and others:
            raise StatsnormError(
                f"renderings need the conditions {' or '.join(RENDERED)}, got {others[0]!r}"
            )
        if self.batch_kind != "mixed" and not self.renderings:
            raise StatsnormError(f"batch kind {self.batch_kind!r} needs renderings of every image")
        if self.batch_kind == "content-homogeneous" and self.renderings < self.batch:
            raise StatsnormError(
                f"a content-homogeneous batch of {self.batch} needs as many renderings of an "
                f"image, got {self.renderings}"
            )

    def rates(self, norm: str, condition: str) -> tuple[float, ...]:
        """Return the learning rates at which an arm is trained."""
        chosen = [lr for n, c, lr in self.arm_lr if (n, c) == (norm, condition)]
        return self.lr_grid or tuple(chosen) or (self.lr,)

    @property
    def every(self) -> int:
        """Iterations between two records of the held-out loss."""
        return self.record_every or max(1, self.iterations // 100)

    def as_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON-able values; targets by name, wherever they lie."""
        names = [safe_name(PurePath(target).name) for target in self.targets]
        return {**asdict(self), "targets": names}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCell:
    """One generator to be trained; the cells of a block differ in norm and condition only."""

    block: int
    target: str
    norm: str
    condition: str
    seed: int  # of the block: initial weights and minibatch order
    lr: float = 1e-3
    named_lr: bool = False  # whether its name says the rate: there are several

    @property
    def name(self) -> str:
        """Return the cell's name, which is also its file name."""
        stem = PurePath(self.target).stem[:LONGEST_STEM]
        stem = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in stem)
        rate = f"-lr{self.lr:g}" if self.named_lr else ""
        return f"b{self.block:02d}-{stem}-{self.norm}-{self.condition}{rate}"


def training_cells(config: TrainConfig) -> tuple[TrainingCell, ...]:
    """Return all cells in block-major order, so that what is done is a smaller balanced study."""
    return tuple(
        TrainingCell(
            block=block,
            target=target,
            norm=norm,
            condition=condition,
            seed=derived_seed(config.seed, "block", block, config.pilot),
            lr=lr,
            named_lr=len(config.lr_grid) > 1,
        )
        for block, target in enumerate(config.targets)
        for norm, condition in product(config.norms, config.conditions)
        for lr in config.rates(norm, condition)
    )


def derived_seed(*parts: object) -> int:
    """Return a 63-bit seed made from `parts`: equal parts, equal seed, on every machine."""
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def split_images(n: int, heldout: int) -> tuple[list[int], list[int]]:
    """Return numbers of the training and of the held-out images: every k-th is held out.

    Never more than half of the images are held out.
    """
    if n < 2:
        raise StatsnormError(f"training needs at least 2 images, got {n}")
    count = min(heldout, n // 2)
    held = {round((j + 0.5) * n / count - 0.5) for j in range(count)}
    return [i for i in range(n) if i not in held], sorted(held)


def check_names(kind: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Raise StatsnormError if one of `names` is not `known`."""
    for name in names:
        if name not in known:
            raise unknown(kind, name, known)
