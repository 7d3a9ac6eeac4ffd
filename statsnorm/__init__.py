"""Does instance normalisation remove style or contrast? Moments, components, verdicts.

Importing statsnorm loads neither torch nor pandas; each name below is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from statsnorm.extraction import extract
    from statsnorm.load import (
        Tables,
        load_correlations,
        load_curves,
        load_design,
        load_moments,
    )
    from statsnorm.report import report, verify
    from statsnorm.training import train

__version__ = "0.1.0"

_WHERE = {
    "Tables": "statsnorm.load",
    "extract": "statsnorm.extraction",
    "load_correlations": "statsnorm.load",
    "load_curves": "statsnorm.load",
    "load_design": "statsnorm.load",
    "load_moments": "statsnorm.load",
    "report": "statsnorm.report",
    "train": "statsnorm.training",
    "verify": "statsnorm.report",
}

__all__ = [
    "Tables",
    "__version__",
    "extract",
    "load_correlations",
    "load_curves",
    "load_design",
    "load_moments",
    "report",
    "train",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        # import_module binds a submodule of the same name first: overwrite it by the function.
        value = getattr(import_module(_WHERE[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'statsnorm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
