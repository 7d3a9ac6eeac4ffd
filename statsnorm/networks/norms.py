"""The zoo of normalisers: per-image, per-batch, conditional, frozen; one factory by short name.

All per-image normalisers use the population variance over space (divide by HW) and, where
they divide, `sqrt(var + eps)`. Modules with `takes_index` are called as `module(x, index)`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from statsnorm.errors import StatsnormError, unknown

EPS = 1e-5


def _per_channel(values: Tensor, x: Tensor, axis: int = 1) -> Tensor:
    """Shape (C,) or (N, C) so that it broadcasts over the channel axis of `x`."""
    shape = [1] * x.dim()
    shape[axis] = values.shape[-1]
    if values.dim() == 2:
        shape[0] = values.shape[0]
    return values.view(shape)


def _choose(parameter: Tensor, index: Tensor | None) -> Tensor:
    """Return the rows of a (styles, C) parameter that `index` (N,) asks for; (C,) stays."""
    if parameter.dim() == 1:
        return parameter
    if index is None:
        raise StatsnormError(
            f"this normaliser has {parameter.shape[0]} styles: call the network with an index"
        )
    return parameter[index]


class _Affine(nn.Module):
    """Learned scale and shift a channel, (C,) or (styles, C)."""

    takes_index = True
    always_indexed = False  # (styles, C) even for one style, so that state dicts look alike

    def __init__(self, channels: int, *, styles: int = 1, eps: float = EPS) -> None:
        super().__init__()
        single = styles == 1 and not self.always_indexed
        shape = (channels,) if single else (styles, channels)
        self.channels, self.styles, self.eps = channels, styles, eps
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))

    def reset_parameters(self) -> None:
        """Set the scale to 1 and the shift to 0."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def affine(self, x: Tensor, index: Tensor | None, axis: int = 1) -> Tensor:
        """Return `weight * x + bias` along the channel axis."""
        weight, bias = _choose(self.weight, index), _choose(self.bias, index)
        return torch.addcmul(_per_channel(bias, x, axis), x, _per_channel(weight, x, axis))

    def extra_repr(self) -> str:
        return f"{self.channels}, styles={self.styles}, eps={self.eps:g}"


class ConditionalInstanceNorm(_Affine):
    """Instance normalisation with one scale and shift a style.

    Dumoulin, Shlens & Kudlur 2017, "A learned representation for artistic style", eq. 5.
    `weight` and `bias` have shape (styles, C); `index` (N,) chooses the style of each image.
    """

    always_indexed = True

    def forward(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Normalise `x` (N, C, H, W) and apply the parameters of `index` (N,)."""
        return self.affine(F.instance_norm(x, eps=self.eps), index)


class InstanceMean(_Affine):
    """Mean-only instance normalisation: `weight * (x - mean) + bias`; each image keeps its sd."""

    def forward(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Centre each channel of each image of `x` (N, C, H, W)."""
        return self.affine(x - x.mean(dim=(2, 3), keepdim=True), index)


class InstanceSd(_Affine):
    """Sd-only instance normalisation: `weight * x / sd + bias`; each image keeps its mean / sd.

    Not centred on either side of the division, so it is exactly invariant to a gain of
    its input (up to eps) and sensitive to an offset: the complement of :class:`InstanceMean`.
    """

    def forward(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Divide each channel of each image of `x` (N, C, H, W) by its standard deviation."""
        var = x.var(dim=(2, 3), correction=0, keepdim=True)
        return self.affine(x * torch.rsqrt(var + self.eps), index)


def inverse_root(cov: Tensor, eps: float) -> Tensor:
    """Return (cov + eps I)^(-1/2) of covariances (..., C, C)."""
    values, vectors = torch.linalg.eigh(cov)
    scale = torch.rsqrt(values.clamp(min=0) + eps)  # (..., C)
    root: Tensor = (vectors * scale[..., None, :]) @ vectors.mT
    return root


class InstanceWhiten(_Affine):
    """ZCA whitening of the channels of each image, then scale and shift.

    `y = (cov + eps I)^(-1/2) (x - mean)` with the population covariance over space
    (Li et al. 2017, "Universal style transfer", sec. 3.2, whitening step). Solved in at
    least float32 by a symmetric eigendecomposition.
    """

    def forward(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Whiten `x` (N, C, H, W) across its channels."""
        pixels = x.flatten(2)  # (N, C, HW)
        pixels = pixels - pixels.mean(dim=2, keepdim=True)
        wide = pixels.to(torch.promote_types(x.dtype, torch.float32))
        root = inverse_root(wide @ wide.mT / wide.shape[2], self.eps)  # (N, C, C)
        return self.affine((root @ wide).to(x.dtype).view_as(x), index)


class FrozenAffine(_Affine):
    """The map of a normaliser without its adaptation: `weight * (x - mean) / sd + bias`.

    `mean` and `sd` are buffers of shape (C,), calibrated once on reference images; the same
    for every image (method: the frozen-affine counterfactual). `weight` and `bias` have
    shape (C,) or (styles, C). `channel_axis` is 1 for (N, C, H, W) and -1 for tokens.
    """

    mean: Tensor
    sd: Tensor

    def __init__(
        self, channels: int, *, styles: int = 1, eps: float = EPS, channel_axis: int = 1
    ) -> None:
        super().__init__(channels, styles=styles, eps=eps)
        self.channel_axis = channel_axis
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("sd", torch.ones(channels))

    def reset_parameters(self) -> None:
        """Set scale 1, shift 0, mean 0 and sd 1."""
        super().reset_parameters()
        self.mean.zero_()
        self.sd.fill_(1)

    def forward(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Apply the fixed map to `x`, channels on `channel_axis`."""
        axis = self.channel_axis
        standard = (x - _per_channel(self.mean, x, axis)) / _per_channel(self.sd, x, axis)
        return self.affine(standard, index, axis)


class FrozenWhiten(_Affine):
    """The map of :class:`InstanceWhiten` without its adaptation: one fixed whitening matrix.

    `y = weight * root (x - mean) + bias` with buffers `mean` (C,) and `root` (C, C), the same
    for every image.
    """

    mean: Tensor
    root: Tensor

    def __init__(self, channels: int, *, styles: int = 1, eps: float = EPS) -> None:
        super().__init__(channels, styles=styles, eps=eps)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("root", torch.eye(channels))

    def forward(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Apply the fixed map to `x` (N, C, H, W)."""
        centred = x - _per_channel(self.mean, x)
        return self.affine(torch.einsum("cd,ndhw->nchw", self.root, centred), index)


class ActNorm(FrozenAffine):
    """A frozen map that calibrates itself on its first training batch, then trains as weights.

    Kingma & Dhariwal 2018, "Glow", sec. 3.1. After calibration only `weight` and `bias`
    change, by gradient: no adaptation to the image, in training or at inference.
    """

    calibrated: Tensor

    def __init__(self, channels: int, *, styles: int = 1, eps: float = EPS) -> None:
        super().__init__(channels, styles=styles, eps=eps)
        self.register_buffer("calibrated", torch.zeros((), dtype=torch.bool))
        self._open = True  # host-side copy: no device read in every forward

    def forward(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Apply the map; in training mode the first call sets `mean` and `sd` from `x`."""
        if self._open and self.training and not bool(self.calibrated):
            with torch.no_grad():
                self.mean.copy_(x.mean(dim=(0, 2, 3)))
                within = x.var(dim=(2, 3), correction=0).mean(dim=0)  # (C,)
                self.sd.copy_(torch.sqrt(within + self.eps))
                self.calibrated.fill_(True)
        self._open = self._open and not self.training
        return super().forward(x, index)


def _groups(channels: int, groups: int) -> int:
    """Return the largest divisor of `channels`, at most `groups`, with >= 4 channels a group."""
    fitting = (g for g in range(min(groups, channels), 0, -1) if channels % g == 0)
    return next((g for g in fitting if channels // g >= 4), 1)


_ZOO: dict[str, Callable[[int, int, int, float], nn.Module]] = {
    "in": lambda c, _s, _g, eps: nn.InstanceNorm2d(c, eps=eps, affine=True),
    "bn": lambda c, _s, _g, eps: nn.BatchNorm2d(c, eps=eps),
    "cin": lambda c, s, _g, eps: ConditionalInstanceNorm(c, styles=s, eps=eps),
    "ln": lambda c, _s, _g, eps: nn.GroupNorm(1, c, eps=eps),
    "gn": lambda c, _s, g, eps: nn.GroupNorm(_groups(c, g), c, eps=eps),
    "none": lambda _c, _s, _g, _eps: nn.Identity(),
    "frozen": lambda c, s, _g, eps: FrozenAffine(c, styles=s, eps=eps),
    "in-mean": lambda c, s, _g, eps: InstanceMean(c, styles=s, eps=eps),
    "in-sd": lambda c, s, _g, eps: InstanceSd(c, styles=s, eps=eps),
    "actnorm": lambda c, s, _g, eps: ActNorm(c, styles=s, eps=eps),
    "in-whiten": lambda c, s, _g, eps: InstanceWhiten(c, styles=s, eps=eps),
}
NORMS: tuple[str, ...] = tuple(_ZOO)
"""Names that :func:`make_norm` knows."""

CONDITIONAL: frozenset[str] = frozenset(
    {"cin", "frozen", "in-mean", "in-sd", "actnorm", "in-whiten"}
)
"""Kinds whose scale and shift may depend on a style index."""


def make_norm(
    kind: str, channels: int, *, styles: int = 1, groups: int = 8, eps: float = EPS
) -> nn.Module:
    """Return a fresh normaliser of images (N, C, H, W), scale 1 and shift 0.

    Parameters
    ----------
    kind : str
        `in`, `bn`, `cin`, `ln` (over C, H and W together), `gn`, `none`, `frozen`,
        `in-mean`, `in-sd`, `actnorm` or `in-whiten`; `gn32` is `gn` with `groups=32`.
    channels : int
        C.
    styles : int
        Parameter sets to choose from by index; more than one needs a conditional kind.
    groups : int
        Groups of `gn`; fewer where that would leave less than 4 channels a group, because
        group normalisation with one channel a group *is* instance normalisation.
    eps : float
        Added to the variance.

    Raises
    ------
    StatsnormError
        If `kind` is unknown, or `styles > 1` for a kind without an index.

    Examples
    --------
    >>> make_norm("gn", 32).num_groups, make_norm("gn4", 32).num_groups
    (8, 4)
    """
    if counted := re.fullmatch(r"gn([1-9]\d*)", kind):
        kind, groups = "gn", int(counted[1])
    if kind not in _ZOO:
        raise unknown("norm", kind, NORMS)
    if styles > 1 and kind not in CONDITIONAL:
        raise StatsnormError(
            f"norm {kind!r} has one set of parameters, got styles={styles}; use norm 'cin'"
        )
    return _ZOO[kind](channels, styles, groups, eps)


_FOREIGN = re.compile(r"(batch|instance|layer|group|rms|act|switch).*norm", re.IGNORECASE)
_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (ActNorm, "actnorm"),
    ((FrozenAffine, FrozenWhiten), "frozen"),
    (ConditionalInstanceNorm, "cin"),
    (InstanceMean, "in-mean"),
    (InstanceSd, "in-sd"),
    (InstanceWhiten, "in-whiten"),
    ((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), "in"),
    ((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm), "bn"),
    ((nn.LayerNorm, nn.RMSNorm), "ln"),
)


def norm_kind(module: nn.Module) -> str:
    """Return the short name of a normaliser, or "" if `module` is none.

    Known by type; a foreign leaf module counts where its class name says so, for example
    `FrozenBatchNorm2d`.

    >>> norm_kind(nn.GroupNorm(1, 8)), norm_kind(nn.Conv2d(3, 8, 3))
    ('ln', '')
    """
    if isinstance(module, nn.GroupNorm):
        per_image = module.num_groups == module.num_channels
        return "ln" if module.num_groups == 1 else "in" if per_image else "gn"
    for types, kind in _KINDS:
        if isinstance(module, types):
            return kind
    name = type(module).__name__
    if not _FOREIGN.search(name) or next(module.children(), None) is not None:
        return ""
    if "frozen" in name.lower():
        return "frozen"
    short = {"batch": "bn", "instance": "in", "layer": "ln", "rms": "ln", "group": "gn"}
    return next((kind for word, kind in short.items() if word in name.lower()), "other")
