"""What is fixed on other images before the first shard: frozen maps, blur, matched placebo."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from statsnorm.errors import ImageError, StatsnormError
from statsnorm.extraction.feed import Feed, Group, condition_styles
from statsnorm.extraction.plan import REFERENCE_CELLS, ExtractConfig, Inputs, style_index
from statsnorm.images.blur import matching_sigma
from statsnorm.images.decode import decode
from statsnorm.images.placebo import tune_placebo_strength
from statsnorm.images.sources import ImageRef
from statsnorm.networks import load_network

PILOT_IMAGES = 8


def reference_batches(feed: Feed, *, device: str) -> Callable[[], list[Tensor]]:
    """Return a function that gives the reference cells, made when first asked for.

    Plain reference images; with a design every reference image in held-out styles, at the
    design's strengths and levels by turns, until there are at least :data:`REFERENCE_CELLS`.
    """

    @cache
    def batches() -> list[Tensor]:
        config, refs = feed.config, feed.inputs.reference
        if not refs:
            raise StatsnormError(
                "frozen maps and fresh batch normalisers need reference images (--reference SRC)"
            )
        names, pixels = decode_readable(refs, config, device=device)
        turns = -(-REFERENCE_CELLS // len(names)) if feed.inputs.design else 1
        made = []
        for turn in range(turns):
            for start in range(0, len(names), config.batch_size):
                part = slice(start, start + config.batch_size)
                group = Group(images=tuple(names[part]), pixels=pixels[part])
                made.append(feed.reference(group, turn * len(names) + start))
        return made

    return batches


def condition_parameters(config: ExtractConfig, inputs: Inputs, *, device: str) -> dict[str, float]:
    """Tune the parameters of the conditions blur and placebo-matched on pilot images.

    Pilot images are the reference images, else a few of the source, drawn by a hash of their
    names. The parameters become part of the hashed configuration.

    Returns
    -------
    dict
        `blur_sigma` in pixels (4 decimals), `placebo_strength`; empty if neither is asked for.
    """
    wanted = {"blur", "placebo-matched"} & set(inputs.conditions)
    if not wanted:
        return {}
    drawn = sorted(inputs.reference or inputs.refs, key=lambda ref: _rank(config.seed, ref.image))
    names, pixels = decode_readable(drawn, config, device=device, most=PILOT_IMAGES)
    parameters: dict[str, float] = {}
    with torch.inference_mode():
        if "blur" in wanted:
            styles = condition_styles(config, inputs, "style")
            styled = styles(pixels, style_index(config, inputs))
            parameters["blur_sigma"] = round(matching_sigma(pixels, styled), 4)
        if "placebo-matched" in wanted:
            vgg = load_network("vgg16")
            vgg.module.to(device)
            match = tune_placebo_strength(
                pixels,
                generator=condition_styles(config, inputs, "placebo"),
                images=names,
                seed=config.seed,
                vgg=vgg,
            )
            parameters["placebo_strength"] = match.strength
    return parameters


def decode_readable(
    refs: Sequence[ImageRef], config: ExtractConfig, *, device: str, most: int | None = None
) -> tuple[list[str], Tensor]:
    """Return the names and pixels (N, 3, H, W) of (the first `most`) images that can be read.

    Raises
    ------
    StatsnormError
        If none can; the first reason is given.
    """
    names, pixels, failed = list[str](), list[Tensor](), list[ImageError]()
    for ref in refs:
        if len(pixels) == most:
            break
        try:
            found = decode(ref, size=config.size, pixel_limit=config.pixel_limit)
        except ImageError as error:
            failed.append(error)
            continue
        names.append(ref.image)
        pixels.append(found.pixels)
    if not pixels:
        raise StatsnormError(f"none of {len(refs)} images can be read: {failed[0]}")
    return names, torch.stack(pixels).to(device)


def _rank(seed: int, image: str) -> str:
    return hashlib.sha256(f"pilot:{seed}:{image}".encode()).hexdigest()
