"""Check what instance normalisation fixes by construction: mean = beta, var = gamma^2 v/(v+eps).

Rows behind an instance normaliser are never evidence (method.md 2.3), but they must hold: a
violation means that a tap sits somewhere else than it says, or that numbers were lost.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from statsnorm.errors import StatsnormError
from statsnorm.moments import ChannelMoments
from statsnorm.networks import Network
from statsnorm.networks.norms import norm_kind
from statsnorm.taps.find import fixes_moments, normaliser_width
from statsnorm.taps.tap import Tap

TOLERANCE = 1e-3
"""Largest deviation for a float32 forward, in units of gamma (mean) and gamma^2 (variance).

Plus 1e-5 of beta and beta^2 for the rounding of the shift. Ten times and more of what
float32 shows; pass a larger one for tf32 or bf16.
"""


def assert_by_construction(
    tap: Tap,
    moments: ChannelMoments,
    weight: Tensor,
    bias: Tensor,
    var_in: Tensor | None,
    eps: float,
    *,
    tolerance: float = TOLERANCE,
) -> None:
    """Raise unless the moments behind a per-image normaliser are what it fixes them to be.

    Parameters
    ----------
    tap : Tap
        Kind `post_norm`; only channels of its `by_construction` mask are looked at.
    moments : ChannelMoments
        Of that tap, (N, C).
    weight, bias : Tensor, shape (C,) or (N, C)
        gamma and beta of the normaliser.
    var_in : Tensor, shape (N, C), or None
        Population variance of the normaliser's input. None checks var <= gamma^2 only.
    eps : float
        Of the normaliser.
    tolerance : float
        In units of gamma for the mean and gamma^2 for the variance.

    Raises
    ------
    StatsnormError
        Naming the tap, the image's row, the channel and both values.
    """
    mask = torch.tensor(tap.by_construction, device=moments.mean.device)
    gamma, beta = weight.double().expand(moments.mean.shape), bias.double()
    mean, var = moments.mean.double(), moments.var.double()
    expected = gamma**2 if var_in is None else gamma**2 * (var_in / (var_in + eps)).double()
    excess = (var - expected).clamp(min=0) if var_in is None else (var - expected).abs()
    slack = {
        "mean": ((mean - beta).abs(), tolerance * gamma.abs() + 1e-5 * beta.abs() + 1e-7),
        "variance": (excess, tolerance * gamma**2 + 1e-5 * beta**2 + 1e-9),
    }
    values = {"mean": (mean, beta.expand_as(mean)), "variance": (var, expected)}
    for what, (deviation, allowed) in slack.items():
        bad = ((deviation > allowed) | deviation.isnan()) & mask
        if bad.any():
            row, channel = (int(i) for i in bad.nonzero()[0])
            got, rule = (float(v[row, channel]) for v in values[what])
            raise StatsnormError(
                f"tap {tap.label!r}, image {row}, channel {channel}: {what} is {got:.6g}, but "
                f"the normaliser fixes it to {rule:.6g} (tolerance {tolerance:g} of its scale)"
            )


def check_by_construction(
    network: Network,
    moments: Mapping[Tap, ChannelMoments],
    *,
    index: str = "",
    tolerance: float = TOLERANCE,
) -> int:
    """Check every by-construction tap among `moments`; return how many were checked.

    Where the normaliser's input is among them too, the variance is compared with
    gamma^2 v / (v + eps), otherwise only bounded by gamma^2.

    Raises
    ------
    StatsnormError
        See :func:`assert_by_construction`.
    """
    inputs = {(t.module, t.call): m for t, m in moments.items() if t.side == "input"}
    taps = [t for t in moments if any(t.by_construction)]
    for tap in taps:
        module = network.module.get_submodule(tap.module)
        before = inputs.get((tap.module, tap.call))
        parts = _parts(module)
        exact = before is not None and not any(norm_kind(p) == "in-whiten" for p in parts)
        weight, bias = (
            torch.cat([_parameter(p, name, network, index) for p in parts])
            for name in ("weight", "bias")
        )
        var_in = before.var if before is not None and exact else None
        assert_by_construction(
            tap, moments[tap], weight, bias, var_in, tap.eps, tolerance=tolerance
        )
    return len(taps)


def _parts(module: nn.Module) -> list[nn.Module]:
    """Return the normaliser itself, or the parts of a composite in the order of their channels."""
    return [module] if norm_kind(module) else list(module.children())


def _parameter(module: nn.Module, name: str, network: Network, index: str) -> Tensor:
    """Return gamma or beta (C,) of a normaliser; 1 and 0 where it has none."""
    value = getattr(module, name, None)
    if value is None or not fixes_moments(module):
        width = normaliser_width(module)
        return torch.ones(width) if name == "weight" else torch.zeros(width)
    chosen: Tensor = value.detach()
    return chosen[network.indices.index(index)] if chosen.ndim == 2 else chosen
