"""Networks under study: what they are fed, how they are normalised, where weights come from."""

from statsnorm.networks.load import load_network
from statsnorm.networks.network import (
    Network,
    must_run,
    normalisers,
    running_normalisers,
    untrained,
)

__all__ = [
    "Network",
    "load_network",
    "must_run",
    "normalisers",
    "running_normalisers",
    "untrained",
]
