"""The training images of each condition, made once from the same decoded tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from statsnorm.errors import ImageError, StatsnormError
from statsnorm.images.blur import matching_sigma
from statsnorm.images.conditions import apply_condition
from statsnorm.images.decode import Decoded, decode
from statsnorm.images.placebo import tune_placebo_strength
from statsnorm.images.sources import ImageRef
from statsnorm.images.stylise import StyleGenerator, style_image
from statsnorm.networks import Network, load_network
from statsnorm.training.batches import (
    composed_heldout,
    composed_minibatches,
    heldout_batches,
    minibatches,
)
from statsnorm.training.loss import content_features
from statsnorm.training.plan import TrainConfig, derived_seed, split_images
from statsnorm.training.step import Pool

CHUNK = 16  # images treated or passed through VGG at a time
PILOT_IMAGES = 8  # evenly spread over the source; they tune blur and the matched placebo
KEPT_FEATURES = 8 * 2**30  # bytes of content features kept on the device, over all conditions


@dataclass(slots=True, kw_only=True)
class Images:
    """Decoded images of one size, and those that could not be used."""

    refs: list[ImageRef]
    decoded: list[Decoded]
    skipped: list[ImageError]

    @property
    def sha256(self) -> str:
        """Return one hash over names and file contents."""
        digest = hashlib.sha256()
        for ref, image in zip(self.refs, self.decoded, strict=True):
            digest.update(f"{ref.image}\0{image.sha256}\n".encode())
        return digest.hexdigest()


def decode_all(refs: Sequence[ImageRef], *, size: int, pixel_limit: int) -> Images:
    """Decode every image to (3, size, size); what cannot be read is listed, not lost."""
    found = Images(refs=[], decoded=[], skipped=[])
    for ref in refs:
        try:
            image = decode(ref, size=size, pixel_limit=pixel_limit)
        except ImageError as error:
            found.skipped.append(error)
            continue
        found.refs.append(ref)
        found.decoded.append(image)
    if not found.refs:
        raise StatsnormError(f"none of {len(refs)} images could be read")
    return found


@dataclass(slots=True, kw_only=True)
class Pools:
    """Makes the pool of a condition when a cell first asks for it, and keeps it."""

    config: TrainConfig
    images: Images
    vgg: Network
    stylise: StyleGenerator | None
    device: torch.device
    parameters: Mapping[str, float]  # of the conditions that are tuned
    made: dict[str, Pool] = field(default_factory=dict)

    def __getitem__(self, condition: str) -> Pool:
        """Return the images of `condition` on the device."""
        if condition not in self.made:
            self.made[condition] = self._make(condition)
        return self.made[condition]

    def _make(self, condition: str) -> Pool:
        parts = self._rendered(condition) if self.config.renderings else self._plain(condition)
        x = torch.cat(list(parts)).contiguous(memory_format=torch.channels_last)
        return Pool(images=x, content=self._content(x), order=self._order, heldout=self._heldout())

    @property
    def _n(self) -> int:
        return len(self.images.decoded)

    def _chunk(self, start: int) -> Tensor:
        part = self.images.decoded[start : start + CHUNK]
        return torch.stack([image.pixels for image in part]).to(self.device)

    def _plain(self, condition: str) -> Iterator[Tensor]:
        """Yield the images under the condition, in order."""
        for start in range(0, self._n, CHUNK):
            x = self._chunk(start)
            yield apply_condition(
                condition,
                x,
                content=x,
                stylise=self.stylise,
                index=_style_index(self.config, self.stylise),
                images=[ref.image for ref in self.images.refs[start : start + CHUNK]],
                seed=self.config.seed,
                parameters=self.parameters,
            )

    def _rendered(self, condition: str) -> Iterator[Tensor]:
        """Yield all images in the first style, then all in the second, ..."""
        assert self.stylise is not None, "both conditions need a generator"
        matched = condition == "placebo-matched"
        strength = self.parameters["placebo_strength"] if matched else 1.0
        for index in rendered_styles(self.config, self.stylise):
            for start in range(0, self._n, CHUNK):
                x = self._chunk(start)
                yield style_image(x, self.stylise, index, strength=strength, restore="none")

    def _order(self, seed: int) -> Tensor:
        """Return the image numbers of every minibatch of a cell, (T, batch)."""
        config = self.config
        train, _ = split_images(self._n, config.heldout)
        shape = {"batch": config.batch, "iterations": config.iterations}
        if not config.renderings:
            return torch.tensor(train)[minibatches(len(train), **shape, seed=seed)]
        return composed_minibatches(
            train,
            n=self._n,
            styles=config.renderings,
            kind=config.batch_kind,
            **shape,
            seed=seed,
        )

    def _heldout(self) -> tuple[Tensor, ...]:
        config = self.config
        _, heldout = split_images(self._n, config.heldout)
        if not config.renderings:
            return heldout_batches(heldout, config.batch, self.device)
        return composed_heldout(
            heldout,
            n=self._n,
            styles=config.renderings,
            kind=config.batch_kind,
            batch=config.batch,
            device=self.device,
        )

    def _content(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """Keep the content features of all images where memory allows, else make them anew."""
        first = content_features(self.vgg, x[:1])
        kept = (len(self.made) + 1) * len(x) * first.numel() * first.element_size()
        if kept > KEPT_FEATURES:
            return lambda numbers: content_features(self.vgg, x[numbers])
        features = torch.cat(
            [content_features(self.vgg, x[i : i + CHUNK]) for i in range(0, len(x), CHUNK)]
        )
        return lambda numbers: features[numbers]


def rendered_styles(config: TrainConfig, stylise: StyleGenerator) -> tuple[str, ...]:
    """Return the styles in which every image is there: drawn by hash, without repeats."""
    there = stylise.indices
    if config.renderings > len(there):
        raise StatsnormError(
            f"{config.renderings} renderings asked for, {stylise.name} has {len(there)} styles"
        )
    drawn = sorted(there, key=lambda index: derived_seed(config.seed, "rendering", index))
    return tuple(drawn[: config.renderings])


def tuned_parameters(
    config: TrainConfig, images: Images, stylise: StyleGenerator | None, device: torch.device
) -> dict[str, float]:
    """Return what the conditions `blur` and `placebo-matched` need, tuned on pilot images.

    The blur is matched to the power spectrum of `style`, the placebo's strength to the
    between-image variance of VGG moments of the originals.
    """
    wanted = {"blur", "placebo-matched"} & set(config.conditions)
    if not wanted:
        return {}
    assert stylise is not None, "both conditions need a generator"
    step = max(1, len(images.refs) // PILOT_IMAGES)
    pilot = range(0, len(images.refs), step)[:PILOT_IMAGES]
    x = torch.stack([images.decoded[i].pixels for i in pilot]).to(device)
    found: dict[str, float] = {}
    with torch.inference_mode():
        if "blur" in wanted:
            index = _style_index(config, stylise)
            styled = style_image(x, stylise, index, strength=1.0, restore="none")
            found["blur_sigma"] = round(matching_sigma(x, styled), 4)
        if "placebo-matched" in wanted:
            vgg = load_network("vgg16")
            vgg.module.to(device)
            names = [images.refs[i].image for i in pilot]
            match = tune_placebo_strength(
                x, generator=stylise, images=names, seed=config.seed, vgg=vgg
            )
            found["placebo_strength"] = match.strength
    return found


def _style_index(config: TrainConfig, stylise: StyleGenerator | None) -> str:
    """Return the style of the conditions: the generator's first unless one was chosen."""
    if stylise is None:
        return ""
    return config.style_index or stylise.indices[0]
