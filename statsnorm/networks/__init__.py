"""Networks under study: what they are fed, how they are normalised, where weights come from."""

from statsnorm.networks.load import load_network
from statsnorm.networks.network import Network, normalisers, require_runs, untrained

__all__ = ["Network", "load_network", "normalisers", "require_runs", "untrained"]
