"""Treatments of a network: its normalisers frozen to affine maps, or batch statistics for BN.

Frozen is the counterfactual of method.md 2.2: same weights, but a normaliser's per-image
standardisation is replaced by one fixed map, calibrated on reference images. It keeps the average
scale and removes only the adaptation to the image.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from statsnorm.errors import StatsnormError, unknown
from statsnorm.moments import channel_moments
from statsnorm.networks import Network, normalisers
from statsnorm.networks.norms import (
    FrozenAffine,
    FrozenWhiten,
    InstanceWhiten,
    inverse_root,
    norm_kind,
)
from statsnorm.networks.texture_nets import estimate_population
from statsnorm.taps.observe import Site, observe

_FIXED = ("frozen", "actnorm")  # already without adaptation: left as they are
_FREEZABLE = ("in", "cin", "bn", "gn", "ln", "in-mean", "in-sd", "in-whiten")
_ONE_PASS = 1 << 24  # image values up to which all references go through together


@dataclass(slots=True)
class _Average:
    """Mean over images of the statistics that a normaliser would have used, float64."""

    mean: Tensor  # (C,), sums until read
    var: Tensor  # (C,), or the covariance (C, C) of a whitening
    images: int = 0

    @classmethod
    def of(cls, module: nn.Module, x: Tensor) -> _Average:
        mean, var = _statistics(module, x)  # (N, C) each, a whitening's (N, C, C)
        return cls(mean.sum(0), var.sum(0), len(mean))

    def add(self, other: _Average) -> None:
        self.mean, self.var = self.mean + other.mean, self.var + other.var
        self.images += other.images


def freeze(
    network: Network,
    treatment: str,
    reference: Callable[[], Iterable[Tensor]],
    *,
    index: str = "",
) -> Network:
    """Return a copy of a network with normalisers replaced by frozen affine maps.

    The map is `gamma (x - m) / sqrt(s^2 + eps) + beta` with m and s^2 the averages over the
    reference images of the mean and variance that the normaliser would have taken of each
    image: of a channel for IN, CIN and BN, of a group of channels for GN, of all channels for
    LN (method.md 2.2). A whitening becomes the fixed matrix (S + eps I)^(-1/2) of the average
    covariance S. gamma, beta and eps are the normaliser's own.

    Parameters
    ----------
    network : Network
        Left as it is.
    treatment : str
        `frozen:prefix` replaces all normalisers, calibrated in order, each on activations of
        the network whose earlier ones are already frozen, so that at every tap exactly the
        prefix is frozen and calibrated. `frozen:all` replaces all at once with maps calibrated
        on the intact network (it drifts off-distribution). `frozen:NAME` replaces the one
        normaliser of that name.
    reference : callable
        Called without arguments, yields batches (N, 3, H, W) of RGB in [0, 1]: held-out images,
        never those under study.
    index : str
        Style index of a conditional network: the maps hold for this index only.

    Returns
    -------
    Network
        Same name and `norm`; the treatment is for the caller to record.

    Raises
    ------
    StatsnormError
        For an unknown treatment or normaliser, no reference images, a normaliser that cannot be
        frozen, or one that runs more than once in a pass.
    """
    batches = _together(list(reference()))
    names = _chosen(network, treatment, batches[0])
    frozen = replace(network, module=copy.deepcopy(network.module))
    if treatment != "frozen:prefix" or len(batches) == 1:
        maps = _calibrate(frozen, names, batches, index, in_order=treatment == "frozen:prefix")
        _put(frozen.module, maps)
        return frozen
    for name in names:
        _put(frozen.module, _calibrate(frozen, [name], batches, index, in_order=False))
    return frozen


def batch_statistics(network: Network) -> Network:
    """Return a copy whose batch normalisers use the statistics of the batch they are given.

    The treatment `bn_train`: rows then depend on the batch, whose composition the caller
    declares and records. Running statistics are neither used nor changed.

    Raises
    ------
    StatsnormError
        If the network has no batch normaliser.
    """
    treated = replace(network, module=copy.deepcopy(network.module))
    found = [m for m in treated.module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not found:
        raise StatsnormError(
            f"treatment 'bn_train' needs batch normalisation, network {network.name!r} has "
            f"norm {network.norm!r}"
        )
    for module in found:
        module.track_running_stats = False
        module.running_mean = module.running_var = module.num_batches_tracked = None
    return treated


def population_statistics(network: Network, reference: Callable[[], Iterable[Tensor]]) -> Network:
    """Return a copy whose batch normalisers in eval mode know the statistics of the references.

    Running mean and variance become those of all reference images together, each layer seeing
    what earlier layers made with the batch's own statistics ("precise BN"): one fixed map for
    every image, as a trained network has.

    Raises
    ------
    StatsnormError
        If there are no reference images.
    """
    treated = replace(network, module=copy.deepcopy(network.module), population=False)
    batches = _together(list(reference()))
    estimate_population(treated.module, *(treated.preprocess(x) for x in batches))
    return treated


def _together(batches: list[Tensor]) -> list[Tensor]:
    """Join the batches if one forward pass can hold them: then one pass calibrates all."""
    if not batches or sum(len(b) for b in batches) == 0:
        raise StatsnormError("no reference images: a frozen normaliser needs at least one")
    one_size = len({b.shape[1:] for b in batches}) == 1
    if one_size and sum(b.numel() for b in batches) <= _ONE_PASS:
        return [torch.cat(batches)]
    return batches


def _chosen(network: Network, treatment: str, x: Tensor) -> list[str]:
    """Return the names of the normalisers to freeze, in order of execution."""
    kind, _, which = treatment.partition(":")
    if kind != "frozen" or not which:
        known = ["frozen:prefix", "frozen:all", "frozen:NAME"]
        raise unknown("treatment", treatment, known)
    running = normalisers(network, x[:1])
    found = {name: norm_kind(m) for name, m in running.items() if norm_kind(m) not in _FIXED}
    if not found:
        raise StatsnormError(
            f"treatment {treatment!r}: network {network.name!r} has no normaliser to freeze"
        )
    name = which.removesuffix(".in")
    if which not in ("prefix", "all") and name not in found:
        raise unknown("normaliser", which, found)
    names = list(found) if which in ("prefix", "all") else [name]
    for name in names:
        if found[name] not in _FREEZABLE or isinstance(running[name], nn.RMSNorm):
            kind = type(running[name]).__name__
            raise StatsnormError(f"normaliser {name!r} of type {kind} cannot be frozen")
    return names


def _calibrate(
    network: Network, names: Sequence[str], batches: Iterable[Tensor], index: str, *, in_order: bool
) -> dict[str, FrozenAffine | FrozenWhiten]:
    """Calibrate the named normalisers in one pass a batch.

    `in_order` answers each with its frozen map at once, so that later ones see it; that needs
    all references in one batch.
    """
    averages: dict[str, _Average] = {}

    def visit(site: Site, call: int, module: nn.Module, x: Tensor) -> None:
        if call:
            raise StatsnormError(
                f"normaliser {site.module!r} runs more than once in a pass; one map cannot "
                "stand for its runs"
            )
        average = _Average.of(module, x)
        if site.module in averages:
            averages[site.module].add(average)
        else:
            averages[site.module] = average

    modules = {name: network.module.get_submodule(name) for name in names}
    for x in batches:
        with ExitStack() as stack, torch.inference_mode():
            sites = [Site(name, "input") for name in names]
            stack.enter_context(observe(network.module, visit, sites))
            for name, module in modules.items() if in_order else ():
                hook = _answer(name, averages)
                stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
            network.forward(x, index)
    return {name: _frozen(modules[name], average) for name, average in averages.items()}


def _answer(name: str, averages: Mapping[str, _Average]) -> Callable[..., Any]:
    def hook(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], _output: Any
    ) -> Tensor:
        answer: Tensor = _frozen(module, averages[name])(*args, **kwargs)
        return answer

    return hook


def _statistics(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance (N, C) that a normaliser takes of each image, float64.

    Layer normalisation over the channels of one position is averaged over positions. A whitening
    takes the covariance (N, C, C) instead of the variance.
    """
    if isinstance(module, InstanceWhiten):
        pixels = x.flatten(2).double()  # (N, C, HW)
        mean = pixels.mean(dim=2)
        pixels = pixels - mean[:, :, None]
        return mean, pixels @ pixels.mT / pixels.shape[2]
    if isinstance(module, nn.LayerNorm):
        if len(module.normalized_shape) != 1:
            raise StatsnormError(
                "only layer normalisation over the channels can be frozen, got "
                f"normalized_shape={tuple(module.normalized_shape)}"
            )
        axis = channel_axis(module)
        var, mean = torch.var_mean(x.double(), dim=axis, correction=0)  # (N, H, W) each
        shape = (len(x), x.shape[axis])
        mean, var = mean.flatten(1).mean(1), var.flatten(1).mean(1)  # (N,)
        return mean[:, None].expand(shape), var[:, None].expand(shape)
    moments = channel_moments(x)
    mean, var = moments.mean.double(), moments.var.double()  # (N, C)
    if isinstance(module, nn.GroupNorm):
        width = module.num_channels // module.num_groups
        grouped = mean.reshape(len(x), -1, width)  # (N, G, C / G)
        within = var.reshape(len(x), -1, width).mean(2)
        var = (within + grouped.var(2, correction=0)).repeat_interleave(width, 1)
        mean = grouped.mean(2).repeat_interleave(width, 1)
    return mean, var


def channel_axis(module: nn.Module) -> int:
    """Return the axis of the channels that a normaliser takes: -1 for a plain LayerNorm, else 1."""
    plain = isinstance(module, nn.LayerNorm) and "2d" not in type(module).__name__.lower()
    return -1 if plain else 1


def _frozen(module: nn.Module, average: _Average) -> FrozenAffine | FrozenWhiten:
    """Return the frozen map of a normaliser: own gamma, beta, eps; averaged statistics."""
    eps = float(getattr(module, "eps", 0.0))
    mean, var = average.mean / average.images, average.var / average.images
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    like = next((p for p in (weight, bias) if p is not None), None)
    dtype = torch.get_default_dtype() if like is None else like.dtype
    kind = norm_kind(module)
    frozen: FrozenAffine | FrozenWhiten
    if kind == "in-whiten":
        frozen = FrozenWhiten(len(mean), eps=eps)
        frozen.root = inverse_root(var, eps).to(dtype)
    else:
        frozen = FrozenAffine(len(mean), eps=eps, channel_axis=channel_axis(module))
        frozen.sd = (torch.ones_like(var) if kind == "in-mean" else torch.sqrt(var + eps)).to(dtype)
    frozen.mean = (torch.zeros_like(mean) if kind == "in-sd" else mean).to(dtype)
    one, zero = torch.ones_like(frozen.mean), torch.zeros_like(frozen.mean)
    frozen.weight = nn.Parameter((one if weight is None else weight).detach().clone())
    frozen.bias = nn.Parameter((zero if bias is None else bias).detach().clone())
    frozen.styles = 1 if frozen.weight.ndim == 1 else len(frozen.weight)
    return frozen.eval().requires_grad_(False)


def _put(root: nn.Module, maps: Mapping[str, nn.Module]) -> None:
    for name, frozen in maps.items():
        parent, _, child = name.rpartition(".")
        setattr(root.get_submodule(parent), child, frozen)
