"""A cell's fresh generator, and where in memory a network runs fastest."""

from __future__ import annotations

import torch

from statsnorm.networks.network import Network
from statsnorm.networks.texture import TextureGenerator, texture_network
from statsnorm.training.plan import TrainConfig


def fresh_generator(config: TrainConfig, norm: str, seed: int) -> Network:
    """Return a fresh generator; its convolutions depend on the seed, not on the norm."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = TextureGenerator(
            norm, width=config.width, blocks=config.residual_blocks, norm_at=config.norm_at
        )
    return texture_network(module, cell="", seed=seed, iteration=0)


def place(network: Network, device: torch.device) -> Network:
    """Place a network where it runs fastest: channels last, but on a CPU not with IN.

    PyTorch has no such kernel of instance normalisation there: a step of a generator with it
    takes 1.08 times as long, one with batch normalisation .98 times.
    """
    last = device.type != "cpu" or network.norm in ("none", "bn")
    layout = torch.channels_last if last else torch.contiguous_format
    network.module.to(device, memory_format=layout)  # type: ignore[call-overload]
    return network
