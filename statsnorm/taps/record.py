"""Record channel moments during a forward pass: of any module, or of the taps of a network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

import torch
from torch import Tensor, nn

from statsnorm.correlations import channel_correlations
from statsnorm.errors import StatsnormError, unknown
from statsnorm.moments import ChannelMoments, channel_moments
from statsnorm.networks import Network
from statsnorm.taps.observe import Site, observe
from statsnorm.taps.tap import Tap, labelled


class _Reached(Exception):  # noqa: N818 - a signal, not an error
    """The last wanted tap was read; the rest of the forward pass is not needed."""


@contextmanager
def record_moments(
    model: nn.Module | Network,
    taps: Sequence[str | Tap],
    *,
    layout: str = "nchw",
    drop_tokens: int = 0,
) -> Iterator[dict[str, ChannelMoments]]:
    """Record the channel moments of the named places while the block runs.

    The activation is reduced as it passes, so an in-place operation behind it does no harm, and
    nothing but (N, C) means and variances is kept. Hooks are removed when the block ends, also
    by an exception. Gradients flow as without it.

    Parameters
    ----------
    model : nn.Module or Network
        Any module; hooks see whatever calls it makes.
    taps : sequence of str or Tap
        `name` for the output of a child, `name.in` for its input, `name.sum` for a residual
        addition that it computes itself, `input` and `output` for the model's own; or taps of
        :func:`find_taps`, which bring their layout with them.
    layout : {"nchw", "nhwc", "tokens"}
        Layout of the activations that are given by name.
    drop_tokens : int
        Class and register tokens at the front, for the same; layout "tokens" only.

    Yields
    ------
    dict of str to ChannelMoments
        Filled as the model runs. A place that runs again in the block adds `name#1`, `name#2`.

    Raises
    ------
    StatsnormError
        If a name does not exist (the message names its neighbours) or a layout does not fit.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True))
    >>> with torch.inference_mode(), record_moments(net, ["0", "1"]) as moments:
    ...     _ = net(torch.rand(2, 3, 9, 9))
    >>> moments["0"].mean.shape, moments["0"].pixels
    (torch.Size([2, 8]), 49)
    """
    root = model.module if isinstance(model, Network) else model
    places = dict(_place(tap, root, layout, drop_tokens) for tap in taps)
    moments: dict[str, ChannelMoments] = {}

    def visit(site: Site, call: int, _module: nn.Module, x: Tensor) -> None:
        name, held, dropped = places[site]
        moments[labelled(name, call)] = channel_moments(x, held, dropped)

    with observe(root, visit, places):
        yield moments


def _place(
    tap: str | Tap, root: nn.Module, layout: str, drop_tokens: int
) -> tuple[Site, tuple[str, str, int]]:
    if isinstance(tap, Tap):
        return tap.site, (tap.name, tap.layout, tap.drop_tokens)
    modules = dict(root.named_modules())
    stem, _, ending = tap.rpartition(".")
    if tap in modules and tap:
        site = Site(tap, "output")
    elif tap in ("input", "output"):
        site = Site("", tap)
    elif ending in ("in", "sum") and stem in modules:
        site = Site(stem, "input" if ending == "in" else "sum")
    else:
        raise unknown("tap", tap, {"input", "output", *modules} - {""})
    return site, (tap, layout, drop_tokens)


def forward_moments(
    network: Network, x: Tensor, taps: Sequence[Tap], *, index: str = "", stop: bool = True
) -> tuple[dict[Tap, ChannelMoments], Tensor | None]:
    """Run images through a network and return the moments of its taps.

    Parameters
    ----------
    network : Network
        Run in inference mode.
    x : Tensor, shape (N, 3, H, W)
        RGB in [0, 1].
    taps : sequence of Tap
        As found by :func:`find_taps`; the call of each is respected.
    index : str
        Style index of a conditional network.
    stop : bool
        End the pass after the last wanted tap. False runs it to the end.

    Returns
    -------
    moments : dict of Tap to ChannelMoments
        In the order of `taps`.
    output : Tensor or None
        The module's output (before postprocessing), None if the pass was stopped.

    Raises
    ------
    StatsnormError
        If a tap was not reached.
    """
    wanted = {(tap.site, tap.call): tap for tap in taps}
    found: dict[Tap, ChannelMoments] = {}

    def visit(site: Site, call: int, _module: nn.Module, x: Tensor) -> None:
        if tap := wanted.get((site, call)):
            found[tap] = channel_moments(x, tap.layout, tap.drop_tokens)
            if tap.correlated:
                rho = channel_correlations(x, tap.correlated, tap.layout, tap.drop_tokens)
                found[tap] = replace(found[tap], correlation=rho)
            if stop and len(found) == len(wanted):
                raise _Reached

    output: Tensor | None = None
    sites = {tap.site for tap in taps}
    with torch.inference_mode(), observe(network.module, visit, sites), suppress(_Reached):
        output = network.forward(x, index)
    if missing := [tap.label for tap in taps if tap not in found]:
        raise StatsnormError(f"network {network.name!r} did not reach tap {missing[0]!r}")
    return {tap: found[tap] for tap in taps}, output
