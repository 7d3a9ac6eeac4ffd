"""An unfinished cell on disk: weights, Adam, the trace so far; safetensors, written atomically."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

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
    }
    temporary = path.with_name(path.name + ".tmp")
    save_file(tensors, temporary, metadata=metadata)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def load_state(
    path: Path, module: nn.Module, optimiser: torch.optim.Optimizer, trace: Tensor
) -> tuple[int, float, list[dict[str, Any]]]:
    """Fill module, optimiser and trace from `path`; return iteration, seconds and curve rows."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise StatsnormError(
            f"{path} is damaged ({error}); delete it to train this cell from its beginning"
        ) from error
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
    return int(metadata["iteration"]), float(metadata["seconds"]), json.loads(metadata["rows"])
