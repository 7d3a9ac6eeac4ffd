"""One network under another normaliser, the weights the same: `vgg16+in`, `texture+gn32`.

`NET+KIND` puts a fresh normaliser (scale 1, shift 0) in front of every ReLU of a VGG, without
training; or makes the texture generator with that normaliser: `texture` with random weights, a
checkpoint of it with its own convolutions, scales and shifts. `NET+zoo` stands for all of
:data:`ZOO`. Under `none` an identity map holds the normaliser's place, so that all have the same
taps and, from one seed, the same random weights.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from statsnorm.errors import StatsnormError, unknown
from statsnorm.networks.network import Network, study, untrained
from statsnorm.networks.norms import NORMS, FrozenAffine, make_norm
from statsnorm.networks.texture import (
    TextureGenerator,
    load_texture,
    takes_styles,
    texture_network,
)
from statsnorm.networks.vgg import load_vgg
from statsnorm.networks.weights import read_checkpoint

ZOO: tuple[str, ...] = ("none", "bn", "ln", "gn8", "gn32", "in", "in-whiten")
"""Kinds that `NET+zoo` stands for."""

KINDS: tuple[str, ...] = (*(k for k in NORMS if k not in ("cin", "frozen", "actnorm")), "gnN")
"""Kinds that may follow the plus; `gnN` has N groups, as in `gn32`."""

HOSTS = ("vgg16", "vgg19", "texture", "CHECKPOINT.safetensors")
_VGGS = ("vgg16", "vgg19")
_SEED = 0  # of `texture`, whose weights are random


def split_norm(spec: str) -> tuple[str, str]:
    """Return (`vgg16`, `in`) of `vgg16+in`; the kind is "" where `spec` asks for none.

    A plus inside the name of a file or a function is part of the name.

    >>> split_norm("vgg16+gn32"), split_norm("a+b.safetensors"), split_norm("cin26")
    (('vgg16', 'gn32'), ('a+b.safetensors', ''), ('cin26', ''))
    """
    base, plus, kind = spec.rpartition("+")
    known = base in _VGGS or base == "texture" or _is_kind(kind) or kind == "zoo"
    return (base, kind) if plus and known else (spec, "")


def expand_zoo(specs: Sequence[str]) -> tuple[str, ...]:
    """Return network specifications with every `NET+zoo` written out, but for kinds named besides.

    >>> expand_zoo(["cin26", "vgg16+zoo"])[:4]
    ('cin26', 'vgg16+none', 'vgg16+bn', 'vgg16+ln')
    """
    found: list[str] = []
    for spec in specs:
        base, kind = split_norm(spec)
        members = [f"{base}+{each}" for each in ZOO] if kind == "zoo" else []
        found += [member for member in members if member not in specs] if members else [spec]
    return tuple(found)


def load_with_norm(base: str, kind: str, weights: str | None = None) -> Network:
    """Return a network with normalisers of one kind and otherwise the weights of `base`.

    The name is `base+kind`, `norm` the kind. Batch normalisers have no running statistics yet
    (`population`): in eval mode they take those of the reference images.

    Parameters
    ----------
    base : str
        `vgg16`, `vgg19`, `texture` (random weights), or a checkpoint of the texture generator.
    kind : str
        Any of :data:`KINDS`.
    weights : str, optional
        Of the VGGs, as :func:`statsnorm.networks.load_network` takes them.

    Raises
    ------
    StatsnormError
        If `base` is no such network, or `kind` no such normaliser.

    Examples
    --------
    >>> load_with_norm("vgg16", "ln").name
    'vgg16+ln'
    """
    if not _is_kind(kind):
        raise unknown(f"norm of {base!r}:", kind, (*KINDS, "zoo"))
    if base in _VGGS:
        return _inserted(load_vgg(base, weights), kind)
    if weights is not None:
        raise StatsnormError(f"--weights {weights!r} is for vgg16 and vgg19, not for {base!r}")
    if base == "texture":
        return _random_texture(kind)
    if base.endswith(".safetensors"):
        return _texture_of(base, kind)
    raise StatsnormError(f"{base!r} cannot be given another norm; {', '.join(HOSTS)} can")


def place(kind: str, channels: int) -> nn.Module:
    """Return the module that stands where a normaliser would; for `none` an identity map."""
    return FrozenAffine(channels, eps=0.0) if kind == "none" else make_norm(kind, channels)


def _is_kind(kind: str) -> bool:
    return kind in KINDS[:-1] or re.fullmatch(r"gn[1-9]\d*", kind) is not None


def _inserted(network: Network, kind: str) -> Network:
    """Put a normaliser called `norm1_1` in front of `relu1_1`, and so on."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = 0
    for name, child in network.module.named_children():
        channels = child.out_channels if isinstance(child, nn.Conv2d) else channels
        if isinstance(child, nn.ReLU):
            layers[name.replace("relu", "norm")] = place(kind, channels)
        layers[name] = child
    module = study(nn.Sequential(layers))
    name = f"{network.name}+{kind}"
    return replace(network, name=name, module=module, norm=kind, population=kind == "bn")


def _generator(kind: str, *, width: int = 32, blocks: int = 5) -> TextureGenerator:
    """Return a fresh texture generator; `none` has identity maps in its normalisers' places."""
    generator = TextureGenerator("frozen" if kind == "none" else kind, width=width, blocks=blocks)
    if kind == "none":
        for module in generator.modules():
            if isinstance(module, FrozenAffine):
                module.eps = 0.0
    return generator


def _renormed(network: Network, kind: str) -> Network:
    return replace(network, name=f"texture+{kind}", norm=kind)


def _random_texture(kind: str) -> Network:
    network = _renormed(texture_network(_generator(kind)), kind)
    return untrained(replace(network, population=kind == "bn"), _SEED)


def _texture_of(path: str, kind: str) -> Network:
    """Return a trained generator with its convolutions, scales and shifts under another norm."""
    checkpoint = read_checkpoint(path)
    if checkpoint.metadata.get("architecture") != "texture":
        raise StatsnormError(f"{path!r} is no texture generator; {', '.join(HOSTS)} can be given")
    trained = load_texture(checkpoint)
    assert isinstance(trained.module, TextureGenerator), "made by load_texture"
    built = trained.module.architecture
    if takes_styles(trained.module) or built["norm_at"] != "all":
        raise StatsnormError(
            f"{path!r} has norm {built['norm']!r} at {built['norm_at']!r}; another norm can be "
            "put only where one unconditional kind stands everywhere"
        )
    generator = _generator(kind, width=int(built["width"]), blocks=int(built["blocks"]))
    own, theirs = generator.state_dict(), trained.module.state_dict()
    shared = {k: v for k, v in theirs.items() if k in own and own[k].shape == v.shape}
    generator.load_state_dict(shared, strict=False)
    return replace(
        _renormed(trained, kind),
        module=study(generator),
        population=kind == "bn" and not any(k.endswith("running_mean") for k in shared),
    )
