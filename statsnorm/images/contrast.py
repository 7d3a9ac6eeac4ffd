"""Contrast as a factor: five families of ordered levels that act on any image batch.

| family | x becomes | parameters | default values |
|---|---|---|---|
| gain | 1/2 + g (x - 1/2) | gain | g from 0.4 to 1 |
| offset | 1/2 + g (x - 1/2) + o | gain, offset | g from 0.4 to 1, o = (1 - g)/2, sign by turns |
| gamma | max(x, 0) ** e | gamma | e from 0.5 to 2, geometric |
| equalise | x + s (eq(x) - x), eq = luminance equalisation | strength | s from 0 to 1 |
| channel-gain | g_c x_c, c = R, G, B | gain_r, gain_g, gain_b | from a cold to a warm cast |

Nothing is clipped or rounded (method: clipping is not contrast, 8 bits break the invariances). A
level that maps [0, 1] beyond itself widens the range and must be allowed expressly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from statsnorm.errors import StatsnormError, unknown
from statsnorm.images.colour import equalise_luminance

Value = float | Sequence[float]
GREY = 0.5  # gains act about mid-grey
LEVEL_LIMIT = 1000
_SLACK = 1e-9  # of the range rule: 0.5 + 0.7 * 0.5 + 0.15 is not "beyond 1"


@dataclass(frozen=True, slots=True)
class Level:
    """One level of a contrast family; `level` is its place, 0 first."""

    family: str
    level: int
    parameters: dict[str, float]


def levels(
    family: str,
    values: Sequence[Value] | None = None,
    k: int = 5,
    *,
    allow_out_of_range: bool = False,
) -> tuple[Level, ...]:
    """Return the levels of a contrast family.

    Parameters
    ----------
    family : str
        One of :data:`FAMILIES`.
    values : sequence, optional
        One entry a level: a number for gain, gamma and equalise, a pair (gain, offset) for
        offset, a triple for channel-gain. None takes `k` defaults (table above).
    k : int
        Number of default levels.
    allow_out_of_range : bool
        Accept levels that map [0, 1] beyond [0, 1].

    Raises
    ------
    StatsnormError
        For an unknown family, a value of the wrong form, two equal levels, or a level that
        widens the range though that was not allowed.

    Examples
    --------
    >>> [level.parameters["gain"] for level in levels("gain", k=3)]
    [0.4, 0.7, 1.0]
    """
    if family not in _RULES:
        raise unknown("contrast family", family, FAMILIES)
    rule = _RULES[family]
    if values is None:
        if not 1 <= k <= LEVEL_LIMIT:
            raise StatsnormError(f"k must be 1 to {LEVEL_LIMIT} contrast levels, got {k}")
        values = rule.defaults([0.5] if k == 1 else [i / (k - 1) for i in range(k)])
    if not 1 <= len(values) <= LEVEL_LIMIT:
        raise StatsnormError(
            f"a contrast family needs 1 to {LEVEL_LIMIT} levels, got {len(values)}"
        )
    made = tuple(
        _level(family, place, value, allow_out_of_range) for place, value in enumerate(values)
    )
    for a, b in combinations(made, 2):
        if a.parameters == b.parameters:
            raise StatsnormError(
                f"levels {a.level} and {b.level} of {family!r} are the same: {values[b.level]!r}"
            )
    return made


def apply_level(x: Tensor, level: Level) -> Tensor:
    """Return images (N, 3, H, W) at a contrast level; float, unclipped, dtype of `x`.

    Raises
    ------
    StatsnormError
        If the level's family is unknown.
    """
    if level.family not in _RULES:
        raise unknown("contrast family", level.family, FAMILIES)
    return _RULES[level.family].apply(x, *level.parameters.values())


def _level(family: str, place: int, value: Value, allowed: bool) -> Level:
    rule = _RULES[family]
    numbers = [value] if isinstance(value, int | float) else value
    given = f"level {place} of {family!r} ({value!r})"
    if (
        not isinstance(numbers, Sequence)
        or len(numbers) != len(rule.names)
        or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers)
    ):
        raise StatsnormError(f"{given} must be given as {rule.form}")
    floats = [float(number) for number in numbers]
    if not all(math.isfinite(number) and abs(number) <= 1e6 for number in floats):
        raise StatsnormError(f"{given} must be finite")
    if not rule.valid(*floats):
        raise StatsnormError(f"{given} breaks the rule: {rule.requires}")
    if not allowed and not rule.inside(*floats):
        raise StatsnormError(
            f"{given} maps [0, 1] beyond itself: {rule.range_rule}, "
            "or set allow_out_of_range = true"
        )
    return Level(family, place, dict(zip(rule.names, floats, strict=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    names: tuple[str, ...]
    form: str
    defaults: Callable[[list[float]], list[Value]]  # from k places in [0, 1]
    valid: Callable[..., bool]
    requires: str
    inside: Callable[..., bool]
    range_rule: str
    apply: Callable[..., Tensor]


def _affine(x: Tensor, gain: float, offset: float = 0.0) -> Tensor:
    return (x - GREY) * gain + (GREY + offset)


def _gamma(x: Tensor, gamma: float) -> Tensor:
    return x.clamp_min(0) ** gamma


def _equalise(x: Tensor, strength: float) -> Tensor:
    return x + strength * (equalise_luminance(x) - x)


def _channel_gain(x: Tensor, *gains: float) -> Tensor:
    return x * torch.tensor(gains, dtype=x.dtype, device=x.device).view(3, 1, 1)


def _gains(places: list[float]) -> list[Value]:
    return [round(0.4 + 0.6 * p, 12) for p in places]


def _offsets(places: list[float]) -> list[Value]:
    """Alternate the sign, so that the offset is not another name for the gain."""
    gains = [0.4 + 0.6 * p for p in places]
    return [(round(g, 12), round((-1) ** i * (1 - g) / 2, 12) + 0.0) for i, g in enumerate(gains)]


def _casts(places: list[float]) -> list[Value]:
    """From cold (red lowered to 0.6) over neutral to warm (blue lowered to 0.6)."""
    casts: list[Value] = []
    for t in (2 * p - 1 for p in places):
        cold, warm = max(-t, 0.0), max(t, 0.0)
        casts.append((1 - 0.4 * cold, 1 - 0.2 * cold - 0.1 * warm, 1 - 0.4 * warm))
    return casts


_RULES: dict[str, _Rule] = {
    "gain": _Rule(
        names=("gain",),
        form="one number, the gain",
        defaults=_gains,
        valid=lambda g: g > 0,
        requires="a gain is greater than 0",
        inside=lambda g: g <= 1 + _SLACK,
        range_rule="use a gain of at most 1",
        apply=_affine,
    ),
    "offset": _Rule(
        names=("gain", "offset"),
        form="a pair [gain, offset]",
        defaults=_offsets,
        valid=lambda g, _: g > 0,
        requires="a gain is greater than 0",
        inside=lambda g, o: abs(o) <= (1 - g) / 2 + _SLACK,
        range_rule="use an offset of at most (1 - gain) / 2 either way",
        apply=_affine,
    ),
    "gamma": _Rule(
        names=("gamma",),
        form="one number, the exponent",
        defaults=lambda places: [round(0.5 * 4**p, 12) for p in places],
        valid=lambda e: 0 < e <= 100,
        requires="an exponent is greater than 0 and at most 100",
        inside=lambda _: True,
        range_rule="",
        apply=_gamma,
    ),
    "equalise": _Rule(
        names=("strength",),
        form="one number, the strength",
        defaults=list,
        valid=lambda s: s >= 0,
        requires="a strength is not negative",
        inside=lambda s: s <= 1,
        range_rule="use a strength of at most 1",
        apply=_equalise,
    ),
    "channel-gain": _Rule(
        names=("gain_r", "gain_g", "gain_b"),
        form="a triple [red, green, blue] of gains",
        defaults=_casts,
        valid=lambda *gains: min(gains) > 0,
        requires="a gain is greater than 0",
        inside=lambda *gains: max(gains) <= 1 + _SLACK,
        range_rule="use gains of at most 1",
        apply=_channel_gain,
    ),
}
FAMILIES: tuple[str, ...] = tuple(_RULES)
