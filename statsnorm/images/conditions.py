"""Input conditions: what is done to all images of a run, by name.

| name | in the method | what is done |
|---|---|---|
| original | a | nothing |
| contrast | b | luminance replaced by its rank within the image |
| style | c | rendered in one style |
| ck | ck | as style, then the image's own luminance mean and sd put back |
| placebo | p | rendered in a style drawn at random for each image |
| placebo-matched | p* | as placebo, blended at a strength tuned on pilot images |
| blur | q | Gaussian blur matched to the power spectrum of `style` |
| contrast-rgb | b2 | each RGB channel replaced by its rank |
| standardise | | luminance to one mean and sd |
| standardise-rgb | b3 | each RGB channel to one mean and sd |
| whiten | b4 | R, G, B decorrelated, one mean and covariance |
| clahe | b5 | local, contrast-limited equalisation of luminance |
| match-luminance | S-perp | luminance histogram of the plain content, by rank |
| match-rgb | S-perp | RGB mean and covariance of the plain content |
| styles-K | dose of style | each image in one of K styles, drawn; `styles-1` is `style` |
| blend-P | dose of style | P per cent of the way from the plain image to `style` |
| gains-P | dose of contrast | gain about mid-grey drawn for each image from 1 - P/100 to 1 |

The last three take a whole number, as in `styles-4` (method.md 5.1). The K styles begin with that
of `style` and are nested: `styles-8` has those of `styles-4`. A draw depends on the seed and the
image's name alone, so training and extraction agree where seed, style and image names do.

All are float and unclipped, and treat each image by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from statsnorm.errors import StatsnormError, unknown
from statsnorm.images.blur import gaussian_blur
from statsnorm.images.clahe import clahe
from statsnorm.images.colour import (
    equalise_channels,
    equalise_luminance,
    match_luminance,
    match_rgb,
    restore_luminance,
    standardise_channels,
    standardise_luminance,
    whiten,
)
from statsnorm.images.doses import DOSES, check_doses, dose_of, dose_styles, draw
from statsnorm.images.stylise import StyleGenerator, style_image

_NO_PARAMETERS: Mapping[str, float] = {}


def apply_condition(
    name: str,
    x: Tensor,
    *,
    content: Tensor,
    stylise: StyleGenerator | None,
    index: str,
    images: Sequence[str],
    seed: int,
    parameters: Mapping[str, float] = _NO_PARAMETERS,
) -> Tensor:
    """Return a batch under a condition.

    Parameters
    ----------
    name : str
        One of :data:`BUILT_IN`, or a dose of :data:`DOSES` such as `styles-4`.
    x : Tensor, shape (N, 3, H, W)
        The images of a cell: plain, or already styled and at some contrast in a design.
    content : Tensor, shape (N, 3, H, W)
        The plain decoded images; only `match-luminance` and `match-rgb` look at them.
    stylise : StyleGenerator or None
        Needed by the conditions in :data:`NEEDS_STYLE`.
    index : str
        Style of `style`, `ck` and `blend-P`, and the first of `styles-K`.
    images : sequence of str, length N
        Names; with `seed` they alone decide which style or gain an image draws.
    seed : int
        Seed of the draws.
    parameters : mapping
        `blur_sigma` for `blur` (:func:`statsnorm.images.blur.matching_sigma`) and
        `placebo_strength` for `placebo-matched`
        (:func:`statsnorm.images.placebo.tune_placebo_strength`).

    Returns
    -------
    Tensor, shape (N, 3, H, W)
        Float, unclipped, dtype of `x`.

    Raises
    ------
    StatsnormError
        If the name is unknown, or a generator, style or parameter that it needs is missing.
    """
    check_condition(name)
    if needs_style(name) and stylise is None:
        raise StatsnormError(f"condition {name!r} needs a style generator")
    for key in NEEDS_PARAMETERS.get(name, ()):
        if key not in parameters:
            raise StatsnormError(f"condition {name!r} needs the parameter {key!r}")
    assert len(images) == len(x) == len(content), "one name and one content an image"
    context = _Context(content, stylise, index, images, seed, parameters)
    if dose := dose_of(name):
        return _DOSES[dose.kind](x, context, dose.amount)
    return _CONDITIONS[name](x, context)


def check_condition(name: str, *, also: Sequence[str] = ()) -> None:
    """Raise StatsnormError unless `name` is built in or a dose within its bounds.

    `also` are further forms that the message offers.
    """
    dose = dose_of(name)
    if dose is None and name not in _CONDITIONS:
        forms = [f"{kind}-{'K' if kind == 'styles' else 'P'}" for kind in DOSES]
        raise unknown("condition", name, (*BUILT_IN, *forms, *also))
    if dose and not dose.amount <= DOSES[dose.kind]:
        raise StatsnormError(
            f"condition {name!r}: the number must be 1 to {DOSES[dose.kind]}, got {dose.amount}"
        )


def needs_style(name: str) -> bool:
    """Return whether a condition needs a style generator."""
    dose = dose_of(name)
    return name in NEEDS_STYLE if dose is None else dose.kind != "gains"


def draws_style(name: str) -> bool:
    """Return whether each image of a condition draws its own style."""
    dose = dose_of(name)
    return name.startswith("placebo") if dose is None else dose.kind == "styles"


def placebo_index(image: str, indices: Sequence[str], *, seed: int) -> str:
    """Return the style that an image draws: a hash of seed and name, whatever its batch.

    >>> placebo_index("a.jpg", ("0", "1", "2"), seed=0)
    '0'
    """
    return indices[draw("placebo", image, seed) % len(indices)]


def style_at_random(
    x: Tensor,
    generator: StyleGenerator,
    images: Sequence[str],
    *,
    seed: int,
    strength: float,
    indices: Sequence[str] = (),
) -> Tensor:
    """Return each image in the style that its name draws from `indices`, by default from all."""
    among = indices or generator.indices
    drawn = [placebo_index(image, among, seed=seed) for image in images]
    styled = torch.empty_like(x)
    for index in sorted(set(drawn)):
        mine = [i for i, d in enumerate(drawn) if d == index]
        styled[mine] = style_image(x[mine], generator, index, strength=strength, restore="none")
    return styled


@dataclass(frozen=True, slots=True, eq=False)
class _Context:
    """What a condition may need beside the images."""

    content: Tensor
    stylise: StyleGenerator | None
    index: str
    images: Sequence[str]
    seed: int
    parameters: Mapping[str, float]

    def style(self, x: Tensor, strength: float = 1.0) -> Tensor:
        assert self.stylise is not None, "checked by apply_condition"
        return style_image(x, self.stylise, self.index, strength=strength, restore="none")

    def placebo(self, x: Tensor, strength: float) -> Tensor:
        assert self.stylise is not None, "checked by apply_condition"
        return style_at_random(x, self.stylise, self.images, seed=self.seed, strength=strength)

    def styles(self, x: Tensor, count: int) -> Tensor:
        assert self.stylise is not None, "checked by apply_condition"
        check_doses([f"styles-{count}"], self.stylise.indices)
        among = dose_styles(self.stylise.indices, count, first=self.index, seed=self.seed)
        seed, names = self.seed, self.images
        return style_at_random(x, self.stylise, names, seed=seed, strength=1.0, indices=among)

    def gains(self, x: Tensor, spread: float) -> Tensor:
        """Return each image at its own gain about mid-grey, uniform in (1 - spread, 1]."""
        shares = [draw("gains", image, self.seed) / 2**64 for image in self.images]
        gain = torch.tensor([1 - spread * share for share in shares], dtype=x.dtype)
        return 0.5 + gain.to(x.device).view(-1, 1, 1, 1) * (x - 0.5)


_CONDITIONS: dict[str, Callable[[Tensor, _Context], Tensor]] = {
    "original": lambda x, _: x,
    "contrast": lambda x, _: equalise_luminance(x),
    "style": lambda x, c: c.style(x),
    "ck": lambda x, c: restore_luminance(c.style(x), x),
    "placebo": lambda x, c: c.placebo(x, 1.0),
    "placebo-matched": lambda x, c: c.placebo(x, c.parameters["placebo_strength"]),
    "blur": lambda x, c: gaussian_blur(x, c.parameters["blur_sigma"]),
    "contrast-rgb": lambda x, _: equalise_channels(x),
    "standardise": lambda x, _: standardise_luminance(x),
    "standardise-rgb": lambda x, _: standardise_channels(x),
    "whiten": lambda x, _: whiten(x),
    "clahe": lambda x, _: clahe(x),
    "match-luminance": lambda x, c: match_luminance(x, c.content),
    "match-rgb": lambda x, c: match_rgb(x, c.content),
}
_DOSES: dict[str, Callable[[Tensor, _Context, int], Tensor]] = {
    "styles": lambda x, c, n: c.styles(x, n),
    "blend": lambda x, c, n: c.style(x, n / 100),
    "gains": lambda x, c, n: c.gains(x, n / 100),
}
BUILT_IN: tuple[str, ...] = tuple(_CONDITIONS)
NEEDS_STYLE = frozenset({"style", "ck", "placebo", "placebo-matched"})
NEEDS_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "placebo-matched": ("placebo_strength",),
    "blur": ("blur_sigma",),
}
