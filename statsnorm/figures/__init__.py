"""One function a plot: `draw(table, **options) -> matplotlib.figure.Figure`, without pyplot.

Functions are looked up in the modules of this package on first use, so that matplotlib is
imported only when something is drawn: `canvas` (the shared look) has none, all others do.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

_SHARED = "canvas"


def __getattr__(name: str) -> Any:
    if not name.startswith("_"):
        for module in _modules():
            value = vars(module).get(name)
            if callable(value) and getattr(value, "__module__", "") == module.__name__:
                return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(
        name
        for module in _modules()
        for name, value in vars(module).items()
        if callable(value)
        and not name.startswith("_")
        and getattr(value, "__module__", "") == module.__name__
    )


def _modules() -> list[Any]:
    names = sorted(found.name for found in iter_modules(__path__) if found.name != _SHARED)
    return [import_module(f"{__name__}.{name}") for name in names]
