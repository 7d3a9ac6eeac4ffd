"""How a run is made, not what: workers, progress, and what the log keeps of the machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch

from statsnorm.extraction.plan import ExtractConfig
from statsnorm.shipped import plan_sha256

Progress = Callable[[int, int, str], None]
"""Called with forward passes done, all there are, and a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How, not what: never part of the hash."""

    workers: int
    max_skipped: int | None
    progress: Progress | None
    record: dict[str, Any]  # goes into the log of every shard


def execution_record(device: str, config: ExtractConfig, workers: int) -> dict[str, Any]:
    """Return what the log of every shard says of this process, its device and its libraries."""
    libraries = ("statsnorm", "torch", "torchvision", "numpy", "pyarrow", "pillow")
    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else ""
    return {
        "device": f"{device} {gpu}".strip(),
        "batch_size": config.batch_size,
        "compile": config.compile,
        "workers": workers,
        "process": os.getpid(),
        "threads": torch.get_num_threads(),
        "plan_sha256": plan_sha256(),
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in libraries},
        },
    }


def _version(name: str) -> str:
    import statsnorm

    return statsnorm.__version__ if name == "statsnorm" else version(name)
