"""Small networks for tests, given to `extract` as dotted factories."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import torch
from torch import Tensor, nn

from statsnorm.networks import Network
from statsnorm.networks.colour import unchanged
from statsnorm.networks.network import norm_of, study


def _generator(norm: type[nn.Module], name: str) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            norm(4, affine=True),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, 6, 3, padding=1),
            norm(6, affine=True),
            nn.ReLU(inplace=True),
            nn.Conv2d(6, 3, 3, padding=1),
        )
        for child in module:
            if isinstance(child, nn.InstanceNorm2d | nn.BatchNorm2d):
                child.weight.data.uniform_(0.5, 1.5)
                child.bias.data.uniform_(-0.5, 0.5)
    return Network(
        name=name,
        module=study(module),
        norm=norm_of(module),
        preprocess=unchanged,
        postprocess=torch.sigmoid,
        sha256=name,
    )


def instance_norm() -> Network:
    """Return a three-layer generator with instance normalisation."""
    return _generator(nn.InstanceNorm2d, "tiny_in")


def batch_norm() -> Network:
    """Return the same with batch normalisation."""
    return _generator(nn.BatchNorm2d, "tiny_bn")


class _Broken(nn.Module):
    """Gives nan where a pixel is exactly black."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        divided: Tensor = self.act(torch.where(x == 0, torch.nan, x))
        return divided


class _OneSize(nn.Module):
    """Takes images of 8 x 8 pixels only, as a vision transformer takes 224 x 224."""

    def forward(self, x: Tensor) -> Tensor:
        torch._assert(x.shape[-2:] == (8, 8), f"Wrong image size! Expected 8 but got {x.shape[-1]}")
        return torch.relu(x)


def one_size() -> nn.Module:
    """Return a network that refuses images of another size by an assertion."""
    return _OneSize()


def broken() -> nn.Module:
    """Return a network that breaks on black pixels."""
    return _Broken()


class _Slow(nn.Module):
    """Takes its time, so that a test can kill who runs it."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.2)
        active: Tensor = self.act(x - 0.5)
        return active


def slow() -> nn.Module:
    """Return a network that needs 0.2 s a pass."""
    return _Slow()


def crashing() -> Network:
    """Return `instance_norm`; decoding an image beside which a `.crash` lies ends by SIGSEGV.

    A file `.crash` that says "once" is removed before.
    """
    from statsnorm.engines import local

    load_image = local.load_image

    def crash(job: Any, ref: Any) -> Any:
        marker = ref.path.with_suffix(".crash")
        if marker.exists():
            if marker.read_text() == "once":
                marker.unlink()
            os.kill(os.getpid(), signal.SIGSEGV)
        return load_image(job, ref)

    local.load_image = crash
    return instance_norm()
