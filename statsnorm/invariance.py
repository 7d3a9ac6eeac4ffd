"""What a network is exactly invariant to, measured: method.md 2.5 on its first layer and output.

`conv(g x + o) = g conv(x) + o W_c + b_c` with `W_c` constant in space unless the padding is
zero. So an instance normaliser behind the first convolution undoes every gain, and every offset
without zero padding; per-channel gains, gamma, equalisation and 8-bit rounding it must not undo.
Only eps breaks it, in a known ratio. With such a first layer the whole output is invariant.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from statsnorm.images.colour import equalise_luminance
from statsnorm.moments import ChannelMoments, channel_moments
from statsnorm.networks import Network
from statsnorm.networks.norms import norm_kind
from statsnorm.taps import Tap, find_taps
from statsnorm.taps.observe import Site, observe

EXACT = 1e-10
"""Largest relative change in float64 with eps 0 where the invariance must hold."""
RATIO = 1e-4
"""Largest relative deviation of the observed from the predicted ratio, float32, eps as trained."""
BROKEN = 1e-3
"""Smallest relative change where the invariance must fail."""

_LINEAR = (nn.Conv2d, nn.Identity, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ZeroPad2d)


@dataclass(frozen=True, slots=True)
class _Transform:
    name: str
    apply: Callable[[Tensor], Tensor]
    gain: float = math.nan  # nan: neither a gain nor an offset, must fail
    shifts: bool = False


def _rgb(*values: float) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.tensor(values, dtype=x.dtype).view(1, 3, 1, 1)


_SHIFTS, _GAINS = _rgb(0.1, 0.05, -0.05), _rgb(0.5, 0.8, 1.0)
_TRANSFORMS = (
    _Transform("gain 0.5", lambda x: 0.5 * x, gain=0.5),
    _Transform("offset 0.1", lambda x: x + 0.1, gain=1.0, shifts=True),
    _Transform("offset per channel", lambda x: x + _SHIFTS(x), gain=1.0, shifts=True),
    _Transform("gain per channel", lambda x: x * _GAINS(x)),
    _Transform("gamma 0.6", lambda x: x.clamp(min=0) ** 0.6),
    _Transform("gamma 1.6", lambda x: x.clamp(min=0) ** 1.6),
    _Transform("luminance equalisation", lambda x: equalise_luminance(x).to(x.dtype)),
    _Transform("gain 0.5, 8 bit", lambda x: torch.round(0.5 * 255 * x) / 255),
)


def invariance_rows(network: Network, x: Tensor, *, index: str = "") -> list[dict[str, Any]]:
    """Measure the invariances of a network whose first layer is convolution and IN.

    Parameters
    ----------
    network : Network
        Copied to the CPU. Without a per-image normaliser directly behind its first convolution
        it has no exact invariance, and there are no rows.
    x : Tensor, shape (N, 3, H, W)
        A few images, RGB in [0, 1].
    index : str
        Style index of a conditional network; its first by default.

    Returns
    -------
    list of dict
        `network`; `scope`: first_layer (behind the first normaliser) or output (the image, or
        what the network returns); `transform` of the input; `dtype`; `eps_mode`: 0 or trained;
        `padding` of the first convolution: valid, reflect, replicate, circular, zeros (a network
        that pads otherwise has further rows for a copy padded with zeros); `relative_change`:
        L2, over all images; `ratio_observed`, `ratio_formula`: standard deviation behind the
        normaliser, transformed over plain, and sqrt((v + eps) / (v + eps / g^2)), of the image
        and channel where they differ most (nan where no formula holds); `must`: hold or fail.
        See :func:`invariance_holds` for the limits.
    """
    x = x.cpu()
    index = index or (network.indices[0] if network.indices else "")
    plain = replace(network, module=copy.deepcopy(network.module).cpu())
    tap = _first_norm(plain, x)
    if tap is None:
        return []
    exact = _exact(plain)
    rows = _scope_rows(plain, tap, x, index, "trained")
    rows = _scope_rows(exact, tap, x.double(), index, "0") + rows
    if _padding(exact, tap, x.double(), index) in ("reflect", "replicate", "circular"):
        rows += _scope_rows(_zero_padded(exact, tap), tap, x.double(), index, "0")
    return rows


def invariance_holds(row: Mapping[str, Any]) -> bool:
    """Return whether a row of :func:`invariance_rows` is as it must be."""
    if row["must"] == "fail":
        return bool(row["relative_change"] > BROKEN)
    if row["eps_mode"] == "0":
        return bool(row["relative_change"] < EXACT)
    return bool(abs(row["ratio_observed"] / row["ratio_formula"] - 1) < RATIO)


def _scope_rows(
    network: Network, tap: Tap, x: Tensor, index: str, eps_mode: str
) -> list[dict[str, Any]]:
    """Rows of one copy: first layer always, the output only where eps is 0."""
    padding = _padding(network, tap, x, index)
    origin = network.preprocess(torch.zeros_like(x[:1]))
    moved = float(origin.abs().max()) > 0  # a gain of the image also shifts the module's input
    plain = _run(network, tap, x, index)
    rows: list[dict[str, Any]] = []
    for transform in _TRANSFORMS:
        other = _run(network, tap, transform.apply(x), index)
        shifted = transform.shifts or moved
        holds = not math.isnan(transform.gain) and (padding != "zeros" or not shifted)
        observed, formula = _ratios(plain, other, transform.gain if holds else math.nan)
        changes = {"first_layer": _change(plain.post, other.post)}
        if eps_mode == "0":
            changes["output"] = _change(plain.output, other.output)
        rows += [
            {
                "network": network.name,
                "scope": scope,
                "transform": transform.name,
                "dtype": str(x.dtype).removeprefix("torch."),
                "eps_mode": eps_mode,
                "padding": padding,
                "relative_change": change,
                "ratio_observed": observed if scope == "first_layer" else math.nan,
                "ratio_formula": formula if scope == "first_layer" else math.nan,
                "must": "hold" if holds else "fail",
            }
            for scope, change in changes.items()
        ]
    return rows


@dataclass(frozen=True, slots=True)
class _Pass:
    before: ChannelMoments  # of the first normaliser's input
    after: ChannelMoments
    post: Tensor
    output: Tensor
    eps: float


def _run(network: Network, tap: Tap, x: Tensor, index: str) -> _Pass:
    seen: dict[str, Tensor] = {}

    def visit(site: Site, _call: int, _module: nn.Module, y: Tensor) -> None:
        seen.setdefault(site.side, y.clone())

    sites = [Site(tap.module, "input"), Site(tap.module, "output")]
    with torch.inference_mode(), observe(network.module, visit, sites):
        output = network.forward(x, index)
        image = network.postprocess(output) if network.postprocess else output
    before, after = (channel_moments(seen[side]) for side in ("input", "output"))
    eps = float(getattr(network.module.get_submodule(tap.module), "eps", 0.0))
    return _Pass(before, after, seen["output"], image, eps)


def _change(plain: Tensor, other: Tensor) -> float:
    return float((other - plain).double().norm() / plain.double().norm())


def _ratios(plain: _Pass, other: _Pass, gain: float) -> tuple[float, float]:
    """Observed and predicted sd ratio, of the image and channel where they differ most."""
    if math.isnan(gain):
        return math.nan, math.nan
    v, eps = plain.before.var.double(), plain.eps
    formula = torch.sqrt((v + eps) / (v + eps / gain**2))
    observed = torch.sqrt(other.after.var.double() / plain.after.var.double())
    live = (plain.after.var > 0) & (v > 0)
    if not live.any():
        return math.nan, math.nan
    worst = ((observed / formula - 1).abs() * live).nan_to_num().argmax()
    return float(observed.flatten()[worst]), float(formula.flatten()[worst])


def _first_norm(network: Network, x: Tensor) -> Tap | None:
    """Return the first normaliser's output tap if only linear layers stand before it."""
    taps = find_taps(network, x[:1])
    first = next((tap for tap in taps if tap.kind == "post_norm"), None)
    if first is None or not all(first.by_construction) or _first_kind(network, first) is None:
        return None
    before = _leaves_before(network, first, x[:1])
    linear = all(isinstance(m, _LINEAR) for m in before)
    return first if linear and any(isinstance(m, nn.Conv2d) for m in before) else None


def _first_kind(network: Network, tap: Tap) -> str | None:
    kind = norm_kind(network.module.get_submodule(tap.module))
    return kind if kind in ("in", "cin") else None


def _leaves_before(network: Network, tap: Tap, x: Tensor) -> list[nn.Module]:
    """Modules without children that run before a tap, in order."""
    leaves: list[nn.Module] = []
    reached: list[bool] = []

    def visit(site: Site, _call: int, module: nn.Module, _x: Tensor) -> None:
        if site.module == tap.module:
            reached.append(True)
        elif not reached and site.side == "output" and next(module.children(), None) is None:
            leaves.append(module)

    with torch.inference_mode(), observe(network.module, visit):
        network.forward(x, network.indices[0] if network.indices else "")
    return leaves


def _padding(network: Network, tap: Tap, x: Tensor, index: str) -> str:
    """Return the padding of the first convolution: by what it does to a constant, then by name."""
    constant = torch.full_like(x[:1], 0.7)  # never 0 behind the usual colour offsets
    before = _run(network, tap, constant, index).before
    if bool((before.var > 1e-9 * (before.var + before.mean**2)).any()):
        return "zeros"
    for module in _leaves_before(network, tap, x[:1]):
        if isinstance(module, nn.ReflectionPad2d):
            return "reflect"
        if isinstance(module, nn.ReplicationPad2d):
            return "replicate"
        pads = isinstance(module, nn.Conv2d) and module.padding not in ((0, 0), "valid")
        if isinstance(module, nn.Conv2d) and pads and module.padding_mode != "zeros":
            return module.padding_mode
    return "valid"


def _exact(network: Network) -> Network:
    """Return a float64 copy whose normalisers have eps 0."""
    module = copy.deepcopy(network.module).double()
    for child in module.modules():
        if norm_kind(child) and isinstance(getattr(child, "eps", None), float):
            child.eps = 0.0  # type: ignore[assignment]
    return replace(network, module=module)


def _zero_padded(network: Network, tap: Tap) -> Network:
    """Return a copy whose layers before the first normaliser pad with zeros."""
    copied = replace(network, module=copy.deepcopy(network.module))
    size = 16 * network.multiple
    probe = torch.zeros(1, 3, size, size, dtype=torch.float64)
    for module in _leaves_before(copied, tap, probe):
        if isinstance(module, nn.Conv2d):
            module.padding_mode = "zeros"
        if isinstance(module, nn.ReflectionPad2d | nn.ReplicationPad2d):
            _replace(copied.module, module, nn.ZeroPad2d(module.padding))
    return copied


def _replace(root: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for module in root.modules():
        for name, child in module.named_children():
            if child is old:
                setattr(module, name, new)
