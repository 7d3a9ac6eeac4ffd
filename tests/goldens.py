"""Golden moments of the networks: how they are read and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file
from torch import Tensor

from statsnorm.networks import Network

FOLDER = Path(__file__).resolve().parent / "golden"
MOMENTS: dict[str, dict[str, dict[str, Any]]] = json.loads((FOLDER / "networks.json").read_text())


def golden_image() -> Tensor:
    """Return the synthetic input (2, 3, 32, 32) in [0, 1] of all goldens but CIN-26's."""
    return load_file(FOLDER / "image.safetensors")["image"]


def assert_matches_golden(network: Network, name: str, *, rtol: float = 1e-4) -> None:
    """Compare means and variances of every tap in the golden, 16 channels, with the network's.

    The tolerance is relative to the channel's root mean square, as a mean may be near 0, or to
    a tenth of the tap's where that is larger (channels that hardly ever fire).
    """
    found: dict[str, np.ndarray] = {}
    hooks = [
        module.register_forward_hook(
            lambda _m, _i, out, tap=tap: found.update({tap: out.double().numpy().copy()})
        )
        for tap, module in network.module.named_modules()
        if tap in MOMENTS[name]
    ]
    output = network.forward(golden_image())
    for hook in hooks:
        hook.remove()
    pictured = network.postprocess(output) if network.postprocess else output
    found["output"] = pictured.double().numpy()
    assert set(found) == set(MOMENTS[name])
    for tap, expected in MOMENTS[name].items():
        mean, var = (np.array(expected[k]) for k in ("mean", "var"))
        size = np.sqrt(mean**2 + var)
        size = np.maximum(size, np.sqrt((size**2).mean()) / 10)
        got = found[tap][:, :16]
        np.testing.assert_array_less(np.abs(got.mean(axis=(2, 3)) - mean) / size, rtol)
        np.testing.assert_array_less(np.abs(got.var(axis=(2, 3)) - var) / size**2, rtol)
