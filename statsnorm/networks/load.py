"""A network by its name on the command line: built in, a checkpoint, or a Python factory."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from statsnorm.errors import StatsnormError, unknown
from statsnorm.networks.cin import load_cin26
from statsnorm.networks.colour import unchanged
from statsnorm.networks.johnson import is_johnson, load_johnson
from statsnorm.networks.network import Network, norm_of, state_sha256, study
from statsnorm.networks.pixels import load_pixels
from statsnorm.networks.texture import load_texture
from statsnorm.networks.texture_nets import is_texture_nets, load_texture_nets
from statsnorm.networks.vgg import load_vgg
from statsnorm.networks.weights import Checkpoint, read_checkpoint
from statsnorm.networks.zoo import load_with_norm, split_norm

BUILT_IN = ("vgg16", "vgg19", "cin26", "pixels")
_FOREIGN = (  # what code that is not ours may raise while it is imported or called
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError),
    *(OSError, RuntimeError, SyntaxError, TypeError, ValueError),
)
_PICKLES = (".pth", ".pt", ".pkl", ".pickle", ".ckpt", ".bin", ".t7")


def load_network(spec: str, *, weights: str | None = None) -> Network:
    """Return a network under study, in eval mode, on the CPU, in float32.

    Parameters
    ----------
    spec : str
        `vgg16`, `vgg19`, `cin26`, `pixels`; the path of a `.safetensors` checkpoint (texture
        generator, `johnson_*`, texture nets of 2016; recognised by its metadata); `NET+KIND`,
        one of these under another normaliser (:mod:`statsnorm.networks.zoo`); or
        `package.module:function`, a function without arguments that returns a module, a pair
        `(module, preprocess)`, or a :class:`Network`. Only this last form runs foreign code.
    weights : str, optional
        For `vgg16`, `vgg19` and `cin26`: `embedded`, `torchvision`, or a `.safetensors` file.

    Raises
    ------
    StatsnormError
        For an unknown name, weights that do not fit, a pickle, or a factory that cannot be
        imported, fails, or returns something else.

    Examples
    --------
    >>> load_network("cin26").norm
    'cin'
    """
    base, kind = split_norm(spec)
    if kind:
        return load_with_norm(base, kind, weights)
    if spec in ("vgg16", "vgg19"):
        return load_vgg(spec, weights)
    if spec == "cin26":
        return load_cin26(weights)
    if weights is not None:
        raise StatsnormError(
            f"--weights {weights!r} is for vgg16, vgg19 and cin26, not for {spec!r}"
        )
    if spec == "pixels":
        return load_pixels()
    if spec.endswith((".safetensors", *_PICKLES)):
        return _from_checkpoint(read_checkpoint(spec))
    if ":" in spec:
        return _from_factory(spec)
    known = (*BUILT_IN, "NET+KIND", "FILE.safetensors", "package.module:function")
    raise unknown("network", spec, known)


def _from_checkpoint(checkpoint: Checkpoint) -> Network:
    architecture = checkpoint.metadata.get("architecture", "")
    if architecture == "texture":
        return load_texture(checkpoint)
    if is_texture_nets(checkpoint):
        return load_texture_nets(checkpoint)
    if is_johnson(checkpoint):
        return load_johnson(checkpoint)
    name = Path(checkpoint.source).name
    if "features.0.weight" in checkpoint.state:
        raise StatsnormError(
            f"{name!r} holds VGG weights: use --network vgg16 (or vgg19) --weights {name}"
        )
    raise StatsnormError(
        f"{name!r} is no generator that statsnorm knows: metadata `architecture` is "
        f"{architecture!r}; known: 'texture', johnson_* and texture nets of 2016"
    )


def _from_factory(spec: str) -> Network:
    """Call `package.module:function`; the folder in which the program runs can be imported."""
    module_name, _, function = spec.partition(":")
    with _importable(Path.cwd()):
        try:
            factory = getattr(importlib.import_module(module_name), function)
        except _FOREIGN as error:
            raise StatsnormError(f"cannot import network factory {spec!r}: {error}") from error
        if not callable(factory):
            raise StatsnormError(f"network factory {spec!r} is not a function")
        try:
            product = factory()
        except _FOREIGN as error:
            raise StatsnormError(
                f"network factory {spec!r}, called without arguments, failed with "
                f"{type(error).__name__}: {error}"
            ) from error
    return _from_product(spec, function, product)


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    added = str(folder) not in sys.path
    if added:
        sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if added:
            sys.path.remove(str(folder))


def _from_product(spec: str, name: str, product: Any) -> Network:
    if isinstance(product, Network):
        return product
    module, preprocess = (
        product
        if isinstance(product, tuple) and len(product) == 2
        else (
            product,
            unchanged,
        )
    )
    if not isinstance(module, nn.Module) or not callable(preprocess):
        raise StatsnormError(
            f"network factory {spec!r} must return an nn.Module, (nn.Module, preprocess) or a "
            f"Network, got {type(product).__name__}"
        )
    return Network(
        name=name,
        module=study(module),
        norm=norm_of(module),
        preprocess=preprocess,
        sha256=state_sha256(module),
    )
