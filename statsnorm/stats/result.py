"""How a result shows itself in a notebook; no pandas, so `statsnorm.stats` stays light."""

from __future__ import annotations

from dataclasses import fields
from html import escape
from typing import Any

import numpy as np


class Shown:
    """Base of the frozen result classes: a table of fields as `_repr_html_`."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{escape(f.name)}</th><td>{escape(summary(getattr(self, f.name)))}</td></tr>"
            for f in fields(self)  # type: ignore[arg-type]  # every subclass is a dataclass
        )
        caption = escape(type(self).__name__)
        return f"<table><caption>{caption}</caption><tbody>{rows}</tbody></table>"


def summary(value: Any) -> str:
    """Return one line for a field: a number, or an array's shape, median, range and nans.

    >>> summary(np.array([1.0, np.nan, 3.0]))
    '(3,): median 2, 1 to 3, 1 nan'
    """
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and value.ndim:
        known = value[~np.isnan(value)] if value.dtype.kind == "f" else value
        lost = value.size - known.size
        if not known.size:
            return f"{value.shape}: all nan"
        text = f"{value.shape}: median {np.median(known):.6g}"
        text += f", {known.min():.6g} to {known.max():.6g}"
        return text + (f", {lost} nan" if lost else "")
    if isinstance(value, (float, np.floating)):
        return f"{value:.6g}"
    return str(value)
