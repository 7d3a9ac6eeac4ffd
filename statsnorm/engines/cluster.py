"""A Ray cluster: that of `RAY_ADDRESS`, or one of this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from statsnorm.errors import StatsnormError


def places(ray: Any, device: str) -> int:
    """Return how many actors the cluster has room for."""
    kind = "GPU" if device.startswith("cuda") else "CPU"
    places = int(ray.cluster_resources().get(kind, 0))
    if not places:
        raise StatsnormError(f"the Ray cluster has no {kind}; add a node, or use --device")
    return places


def told(error: Exception) -> StatsnormError:
    """Return what an actor raised as one of our errors, without Ray's traceback."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, StatsnormError):
        return cause
    reason = str(cause or error).strip().splitlines()
    return StatsnormError(f"a Ray worker failed: {reason[-1] if reason else type(error).__name__}")


def _knock(address: str) -> None:
    """Raise OSError at once where nobody listens; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


@contextmanager
def cluster() -> Iterator[Any]:
    """Yield the module `ray`, connected; disconnect it if it was not connected before."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    try:
        import ray
    except ModuleNotFoundError as error:
        raise StatsnormError(
            "engine 'ray' needs Ray: pip install 'statsnorm[ray]', or use --engine local"
        ) from error
    ours = not ray.is_initialized()
    if ours:
        address = os.environ.get("RAY_ADDRESS")
        try:
            _knock(address or "")
            ray.init(address, include_dashboard=False if not address else None, log_to_driver=False)
        except (OSError, RuntimeError, ValueError) as error:
            raise StatsnormError(
                f"no Ray cluster at {address!r} ({str(error).splitlines()[0]}); unset RAY_ADDRESS "
                "to use one of this machine"
            ) from error
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()
