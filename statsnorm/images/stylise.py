"""Stylised images: generators of style, blending, luminance restoration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from statsnorm.errors import StatsnormError, unknown
from statsnorm.images.colour import restore_luminance
from statsnorm.images.filters import FILTERS, apply_filter
from statsnorm.images.gram import load_gram_styles
from statsnorm.images.styles import (
    RESTORES,
    check_strength,
    generator_name,
    network_files,
    target_images,
)
from statsnorm.networks import Network, load_network

MIN_SIDE = 16  # two stride-2 convolutions and reflection padding leave nothing of less


class StyleGenerator(Protocol):
    """Anything that renders images in one of its styles."""

    @property
    def name(self) -> str:
        """Short name, the part of column `style` before the colon."""

    @property
    def indices(self) -> tuple[str, ...]:
        """Names of the styles, in order."""

    @property
    def sha256(self) -> str:
        """Hash of the weights and whatever else decides the result."""

    def to(self, device: torch.device | str) -> StyleGenerator:
        """Return the generator on a device."""

    def __call__(self, x: Tensor, index: str) -> Tensor:
        """Return images (N, 3, H, W) in style `index`: float RGB, unclipped, dtype of `x`."""


@dataclass(frozen=True, slots=True)
class NetworkStyles:
    """Styles made by feed-forward networks: style -> (network, the network's own index)."""

    name: str
    networks: Mapping[str, tuple[Network, str]]

    @property
    def indices(self) -> tuple[str, ...]:
        """Names of the styles, in order."""
        return tuple(self.networks)

    @property
    def sha256(self) -> str:
        """Hash over the hashes of all weights."""
        hashes = [f"{style} {network.sha256}" for style, (network, _) in self.networks.items()]
        return sha256("\n".join(hashes).encode()).hexdigest()

    def to(self, device: torch.device | str) -> NetworkStyles:
        """Move the networks to a device, in place."""
        for network, _ in self.networks.values():
            network.module.to(device)
        return self

    def __call__(self, x: Tensor, index: str) -> Tensor:
        """Return images in style `index`; sides are padded to the network's multiple and cut."""
        network, own = self.networks[_known(self, index)]
        assert network.postprocess is not None, "checked when it was loaded"
        height, width = x.shape[-2:]
        check_side(height, width)
        extra = (-width % network.multiple, -height % network.multiple)
        fed = pad(x, (0, extra[0], 0, extra[1]), mode="replicate") if any(extra) else x
        return network.postprocess(network.forward(fed, own))[..., :height, :width].to(x.dtype)


@dataclass(frozen=True, slots=True)
class FilterStyles:
    """The photo filters of :mod:`statsnorm.images.filters`."""

    name: str = "filters"
    indices: tuple[str, ...] = tuple(FILTERS)
    sha256: str = sha256(b"statsnorm photo filters 1").hexdigest()

    def to(self, device: torch.device | str) -> FilterStyles:  # noqa: ARG002 (nothing to move)
        """Return itself."""
        return self

    def __call__(self, x: Tensor, index: str) -> Tensor:
        """Return images after the filter `index`."""
        return apply_filter(x, _known(self, index))


def load_style_generator(spec: str, *, device: torch.device | str = "cpu") -> StyleGenerator:
    """Load what a specification names (table in :mod:`statsnorm.images.styles`).

    Parameters
    ----------
    spec : str
        `cin26`, `filters`, `texture_bn:PATH`, `johnson:PATH`, `gram:PATH` or a weights file.
    device : torch.device or str
        Where the networks go.

    Raises
    ------
    StatsnormError
        If it is unknown, a file is missing, or a network makes no image.
    """
    name = generator_name(spec)
    if name == "filters":
        return FilterStyles()
    if name == "gram":
        return load_gram_styles(target_images(spec)).to(device)
    if spec == "cin26" or (spec.endswith(".safetensors") and ":" not in spec):
        network = load_network(spec)
        networks = {index or "0": (network, index) for index in network.indices or ("",)}
    else:
        networks = {s: (load_network(str(f)), "") for s, f in network_files(spec).items()}
    for style, (network, _) in networks.items():
        if network.postprocess is None:
            raise StatsnormError(f"network {network.name!r} (style {style!r}) makes no image")
    return NetworkStyles(name, networks).to(device)


def check_side(height: int, width: int) -> None:
    """Raise StatsnormError unless images of this size can pass style networks."""
    if min(height, width) < MIN_SIDE:
        raise StatsnormError(
            f"style networks need images of {MIN_SIDE} x {MIN_SIDE} pixels or more, "
            f"got {width} x {height}; give a larger size"
        )


def style_image(
    x: Tensor, generator: StyleGenerator, index: str, *, strength: float, restore: str
) -> Tensor:
    """Return images in a style, blended with themselves and, if asked, with their own light.

    Parameters
    ----------
    x : Tensor, shape (N, 3, H, W)
        Plain images, float RGB in [0, 1].
    generator : StyleGenerator
        Who renders.
    index : str
        Which of its styles.
    strength : float
        1 = styled; less blends linearly with the plain image.
    restore : {"none", "luminance"}
        `luminance` puts the plain image's luminance mean and sd back, after blending.

    Returns
    -------
    Tensor, shape (N, 3, H, W)
        Float, unclipped, dtype of `x`.

    Raises
    ------
    StatsnormError
        If the index or `restore` is unknown, or `strength` is not in (0, 1].
    """
    if restore not in RESTORES:
        raise unknown("restore", restore, RESTORES)
    share = check_strength(strength)
    styled = generator(x, index)
    if share < 1:
        styled = x + share * (styled - x)
    return restore_luminance(styled, x) if restore == "luminance" else styled


def _known(generator: StyleGenerator, index: str) -> str:
    if index not in generator.indices:
        raise unknown(f"style of generator {generator.name!r}:", index, generator.indices)
    return index
