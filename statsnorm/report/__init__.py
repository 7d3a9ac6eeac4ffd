"""Reports: discover analyses, run them on tables, write and verify the result.

The module itself is callable, so that ``statsnorm.report(...)`` works whether or not a submodule
of it was imported before.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from statsnorm.report.verification import verify
    from statsnorm.report.write import ReportResult, write_report

    report = write_report

_WHERE = {
    "ReportResult": "statsnorm.report.write",
    "report": "statsnorm.report.write",
    "verify": "statsnorm.report.verification",
    "write_report": "statsnorm.report.write",
}

__all__ = ["ReportResult", "report", "verify", "write_report"]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        where = import_module(_WHERE[name])
        return getattr(where, "write_report" if name == "report" else name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _CallableModule(ModuleType):
    """``statsnorm.report`` is a package and, as the public name says, the call that reports."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Return :func:`write_report` of the arguments."""
        return self.write_report(*args, **options)


sys.modules[__name__].__class__ = _CallableModule
