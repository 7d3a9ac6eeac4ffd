"""An unfinished cell on disk: weights, Adam, the trace so far; safetensors, written atomically."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as dump_safetensors
from torch import Tensor, nn

from statsnorm.atomic import atomic_file
from statsnorm.errors import StatsnormError


def save_state(
    path: Path,
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    trace: Tensor,
    iteration: int,
    seconds: float,
    rows: list[dict[str, Any]],
) -> None:
    """Write all that the next iteration depends on; the old file stands until this one is whole."""
    tensors = {f"module.{k}": v.contiguous() for k, v in module.state_dict().items()}
    for i, state in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{k}": v.contiguous() for k, v in state.items()}
    tensors["trace"] = trace
    metadata = {
        "iteration": str(iteration),
        "seconds": repr(seconds),
        "rows": json.dumps(rows),
        "sha256": _digest(tensors),
    }
    with atomic_file(path) as temporary:
        temporary.write_bytes(dump_safetensors(tensors, metadata))


def load_state(
    path: Path, module: nn.Module, optimiser: torch.optim.Optimizer, trace: Tensor
) -> tuple[int, float, list[dict[str, Any]]]:
    """Fill module, optimiser and trace from `path`; return iteration, seconds and curve rows.

    Raises
    ------
    StatsnormError
        If the file is damaged; nothing has been filled then.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        rows = json.loads(metadata["rows"])
        intact = metadata["sha256"] == _digest(tensors)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise StatsnormError(f"{path} is damaged: {error}") from error
    if not intact:
        raise StatsnormError(f"{path} is damaged: its tensors are not those that were written")
    module.load_state_dict(
        {k.removeprefix("module."): v for k, v in tensors.items() if k.startswith("module.")}
    )
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("adam."):
            _, number, key = name.split(".")
            state.setdefault(int(number), {})[key] = tensor
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})
    trace.copy_(tensors["trace"])
    return int(metadata["iteration"]), float(metadata["seconds"]), rows


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 over names and bytes: safetensors itself has no checksum."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        array = tensors[name].detach().cpu().contiguous()
        digest.update(array.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
