"""Another style's gamma and beta in some normalisers of a conditional network.

How such a treatment is written, and what the written forms stand for: :mod:`statsnorm.swap_names`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from statsnorm.errors import unknown
from statsnorm.networks import Network
from statsnorm.networks.norms import norm_kind
from statsnorm.swap_names import held, parse_swap


def conditional_normalisers(network: Network, names: Sequence[str]) -> tuple[str, ...]:
    """Return those of the named normalisers that have a gamma and a beta a style."""
    return tuple(n for n in names if _is_conditional(network.module.get_submodule(n), network))


def swap(network: Network, treatment: str, *, index: str) -> Network:
    """Return the network with parameters of another style in the row of its own index.

    Everything but the conditional normalisers is shared with `network`, which stays as it is.

    Raises
    ------
    StatsnormError
        For a part that holds no conditional normaliser, or an unknown style.
    """
    asked = parse_swap(treatment)
    for style in (index, asked.to):
        if style not in network.indices:
            raise unknown(f"index of network {network.name!r}:", style, network.indices)
    own, other = network.indices.index(index), network.indices.index(asked.to)
    names = [n for n, m in network.module.named_modules() if _is_conditional(m, network)]
    chosen = set(held(asked.where, names)) if asked.where else set(names)
    shared = {
        id(tensor): tensor
        for name, module in network.module.named_modules()
        if name not in chosen
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))
    }
    module = copy.deepcopy(network.module, shared)
    with torch.no_grad():
        for name in chosen:
            norm = module.get_submodule(name)
            for what, values in (("gamma", norm.weight), ("beta", norm.bias)):
                if asked.what in (what, "both"):
                    assert isinstance(values, torch.Tensor)
                    values[own] = torch.lerp(values[own], values[other], asked.share)
    return replace(network, module=module)


def _is_conditional(module: nn.Module, network: Network) -> bool:
    if not norm_kind(module):
        return False
    rows = (len(network.indices),)
    values = (getattr(module, "weight", None), getattr(module, "bias", None))
    return all(isinstance(v, torch.Tensor) and v.ndim == 2 and v.shape[:1] == rows for v in values)
