"""Find the taps of a network by type, with one probe forward; choose among them by pattern."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.modules import activation

from statsnorm.errors import StatsnormError, unknown
from statsnorm.moments import channels_first
from statsnorm.networks import Network
from statsnorm.networks.blocks import Sum
from statsnorm.networks.norms import norm_kind
from statsnorm.networks.pixels import Pixels
from statsnorm.taps.observe import Site, observe
from statsnorm.taps.tap import KINDS, Tap

_NO_ACTIVATIONS = {"MultiheadAttention", "Softmin", "Softmax", "Softmax2d", "LogSoftmax"}
_ACTIVATIONS = tuple(
    getattr(activation, name) for name in activation.__all__ if name not in _NO_ACTIVATIONS
)
_FOREIGN_ACTIVATION = re.compile(r"([rgsc]e?lu|swish|mish)6?$", re.IGNORECASE)
_PREFIX_TOKENS = ("class_token", "cls_token", "dist_token", "reg_token", "register_tokens")
_NCHW = (
    *(nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Upsample),
)


def find_taps(network: Network, x: Tensor, *, also: Sequence[str] = ()) -> tuple[Tap, ...]:
    """Return the taps of a network in the order in which one probe forward reaches them.

    Tapped are the network's input and output, the input (`<module>.in`) and output of every
    normaliser, the output of every activation module, and residual sums (modules of type `Sum`;
    elsewhere additions of two activations of one shape, `<module>.sum`). Outputs without space
    (class scores) are left out, and so is a network's output that is another tap's tensor,
    unless it is an image.

    Parameters
    ----------
    network : Network
        Conditional networks are probed at their first index.
    x : Tensor, shape (N, 3, H, W)
        RGB in [0, 1]; only its size matters.
    also : sequence of str
        Globs of module names (`conv4_1`, `layer?.*.conv2`) whose outputs are tapped besides, as
        kind `module` where they are none of the above; those that match nothing are ignored.

    Returns
    -------
    tuple of Tap
        Kinds as in method.md 2.3: the input of a normaliser is `pre_norm` before the first
        normaliser has run and `next_pre_norm` after it.
    """
    finder = _Finder(network, also)
    index = network.indices[0] if network.indices else ""
    with torch.inference_mode(), observe(network.module, finder.visit):
        network.forward(x, index)
    return tuple(finder.taps)


def select_taps(taps: Iterable[Tap], patterns: Sequence[str]) -> tuple[Tap, ...]:
    """Return the taps that match any pattern, in their own order.

    Parameters
    ----------
    taps : iterable of Tap
        As found by :func:`find_taps`.
    patterns : sequence of str
        Names (`relu4_1`), kinds (`next_pre_norm`) or globs of names (`res.*.sum`).

    Raises
    ------
    StatsnormError
        If a pattern matches nothing; the message names the nearest taps.
    """
    found = tuple(taps)
    chosen: set[Tap] = set()
    for pattern in patterns:
        matches = {t for t in found if t.kind == pattern or fnmatchcase(t.name, pattern)}
        if not matches and pattern in KINDS:
            kinds = ", ".join(dict.fromkeys(t.kind for t in found))
            raise StatsnormError(f"no tap of kind {pattern!r} here; kinds at hand: {kinds}")
        if not matches:
            raise unknown("tap", pattern, {t.name for t in found} | {t.kind for t in found})
        chosen |= matches
    return tuple(t for t in found if t in chosen)


class _Finder:
    """Turns the events of one forward pass into taps."""

    def __init__(self, network: Network, also: Sequence[str]) -> None:
        self.network, self.also = network, also
        self.taps: list[Tap] = []
        self.parts = _composites(network.module)  # IBN: children are tapped as one
        self.children = {id(child) for parts in self.parts.values() for child in parts}
        self.drop = _prefix_tokens(network.module)
        self.layout = network.layout if network.layout != "tokens" else "nchw"
        self.normalised = False  # a normaliser has run
        self.last: Tensor | None = None

    def visit(self, site: Site, call: int, module: nn.Module, x: Tensor) -> None:
        """Add a tap if this event is one, and follow the layout."""
        is_norm = id(module) in self.parts or (
            norm_kind(module) != "" and id(module) not in self.children
        )
        if site.side == "input" and is_norm:
            kind = "next_pre_norm" if self.normalised else "pre_norm"
            self._add(site, f"{site.module}.in", kind, call, module, x)
        elif site.side == "input" and not site.module and not self._is_pixels:
            self._add(site, "input", "input", call, module, x)
        elif site.side == "sum":
            self._add(site, f"{site.module}.sum".lstrip("."), "residual_sum", call, module, x)
        elif site.side == "output":
            self._output(site, call, module, x, is_norm)

    @property
    def _is_pixels(self) -> bool:
        return isinstance(self.network.module, Pixels)

    def _output(self, site: Site, call: int, module: nn.Module, x: Tensor, is_norm: bool) -> None:
        self._follow(module, x)
        self.normalised |= is_norm
        if not site.module:
            alias = self.last is x and self.network.postprocess is None
            if not (alias or self._is_pixels):
                self._add(site, "output", "output", call, module, x)
        elif is_norm:
            self._add(site, site.module, "post_norm", call, module, x)
        elif _is_activation(module):
            self._add(site, site.module, "post_act", call, module, x)
        elif isinstance(module, Sum):
            self._add(site, site.module, "residual_sum", call, module, x)
        elif self._is_pixels:
            self._add(site, site.module, "input", call, module, x)
        elif any(fnmatchcase(site.module, pattern) for pattern in self.also):
            self._add(site, site.module, "module", call, module, x)

    def _follow(self, module: nn.Module, x: Tensor) -> None:
        """Learn the layout of what flows from the last module that settles it."""
        if x.ndim != 4 or self.network.layout == "nhwc":
            return
        dims = getattr(module, "dims", None)
        if isinstance(module, nn.Linear) or (isinstance(module, nn.LayerNorm) and _last(module)):
            self.layout = "nhwc"
        elif isinstance(module, (*_NCHW, nn.LayerNorm)) or list(dims or ()) == [0, 3, 1, 2]:
            self.layout = "nchw"
        elif list(dims or ()) == [0, 2, 3, 1]:
            self.layout = "nhwc"

    def _add(
        self, site: Site, name: str, kind: str, call: int, module: nn.Module, x: Tensor
    ) -> None:
        if x.ndim not in (3, 4) or not x.is_floating_point():
            return
        layout = "tokens" if x.ndim == 3 else self.layout
        if isinstance(module, nn.LayerNorm) and x.ndim == 4:
            layout = "nhwc" if _last(module) else "nchw"
        drop = self.drop if layout == "tokens" else 0
        first = channels_first(x, layout, drop)  # (N, C, H, W) or (N, C, T)
        channels, height, *width = first.shape[1:]
        norms = self.parts.get(id(module), [module])
        eps = max((_eps(n) for n in norms), default=0.0) if kind.endswith("_norm") else 0.0
        mask = _mask(norms, channels) if kind == "post_norm" else (False,) * channels
        self.taps.append(
            Tap(
                name=name,
                kind=kind,
                module=site.module,
                side=site.side,
                depth=len(self.taps),
                call=call,
                module_type="add" if site.side == "sum" else type(module).__name__,
                channels=channels,
                height=height,
                width=width[0] if width else 1,
                layout=layout,
                eps=eps,
                by_construction=mask,
                drop_tokens=drop,
            )
        )
        self.last = x if site.side != "input" else self.last


def _is_activation(module: nn.Module) -> bool:
    if isinstance(module, _ACTIVATIONS):
        return True
    leaf = next(module.children(), None) is None
    return leaf and bool(_FOREIGN_ACTIVATION.search(type(module).__name__))


def _last(module: nn.LayerNorm) -> bool:
    """Whether it takes channels last; the 2d variants of vision libraries take them first."""
    return "2d" not in type(module).__name__.lower()


def _eps(module: nn.Module) -> float:
    eps = getattr(module, "eps", 0.0)
    return float(eps) if isinstance(eps, int | float) else 0.0


def _prefix_tokens(module: nn.Module) -> int:
    """Class and register tokens in front of the patches (as timm and torchvision name them)."""
    counted = getattr(module, "num_prefix_tokens", None)
    if isinstance(counted, int):
        return counted
    tokens = (getattr(module, name, None) for name in _PREFIX_TOKENS)
    return sum(t.shape[-2] for t in tokens if isinstance(t, Tensor) and t.ndim == 3)


def _composites(root: nn.Module) -> dict[int, list[nn.Module]]:
    """Modules made of several normalisers side by side (IBN-Net), by id, with their parts."""
    found: dict[int, list[nn.Module]] = {}
    for module in root.modules():
        parts = list(module.children())
        container = isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)
        if len(parts) > 1 and not container and all(norm_kind(p) for p in parts):
            found[id(module)] = parts
    return found


def fixes_moments(module: nn.Module) -> bool:
    """Whether a normaliser fixes the mean and variance of each image's channels over space.

    True for instance normalisation in all its forms (also as a group normalisation with one
    channel a group, and whitened); not for one that uses running statistics.
    """
    running = bool(getattr(module, "track_running_stats", False)) and not module.training
    return norm_kind(module) in ("in", "cin", "in-whiten") and not running


def _mask(norms: Sequence[nn.Module], channels: int) -> tuple[bool, ...]:
    """Which channels are fixed by construction; the parts of a composite stand in order."""
    if len(norms) == 1:
        return (fixes_moments(norms[0]),) * channels
    mask = [fixes_moments(n) for n in norms for _ in range(normaliser_width(n))]
    return tuple(mask) if len(mask) == channels else (False,) * channels


def normaliser_width(module: nn.Module) -> int:
    """Return how many channels a normaliser takes, 0 if it does not say."""
    for name in ("num_features", "num_channels", "channels"):
        if isinstance(width := getattr(module, name, None), int):
            return width
    shape = getattr(module, "normalized_shape", None)
    return int(shape[-1]) if shape else 0
