"""A table as LaTeX, for a paper that uses booktabs."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd

from statsnorm.report.encode import cell

DIGITS = 4
"""Significant digits of a number in print; CSV and Parquet hold more."""

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "\N{MINUS SIGN}": "$-$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{UP TACK}": r"$\perp$",
    "\N{GREATER-THAN OR EQUAL TO}": r"$\geq$",
    "\N{LESS-THAN OR EQUAL TO}": r"$\leq$",
}
_NUMBER = re.compile(r"(-?)(\d+(?:\.\d+)?)(?:e([+-]\d+))?")


def tex_bytes(frame: pd.DataFrame) -> bytes:
    """Return `frame` as a LaTeX tabular with booktabs rules and four significant digits.

    Columns that hold lists are left out and named in a comment: they are points of a figure.
    """
    names = [str(name) for name in frame.columns]
    lists = [name for i, name in enumerate(names) if _holds_lists(frame.iloc[:, i])]
    kept = [i for i, name in enumerate(names) if name not in lists]
    numeric = [_is_numeric(frame.iloc[:, i]) for i in kept]
    columns = [[cell(v, DIGITS) for v in frame.iloc[:, i]] for i in kept]
    lines = ["% \\usepackage{booktabs}"]
    lines += [f"% left out, a list in each row: {', '.join(lists)}"] if lists else []
    lines += [
        f"\\begin{{tabular}}{{{''.join('r' if n else 'l' for n in numeric)}}}",
        "\\toprule",
        _row([escaped(names[i]) for i in kept]),
        "\\midrule",
    ]
    for values in zip(*columns, strict=True):
        pairs = zip(values, numeric, strict=True)
        lines.append(_row([typeset(v) if is_number else escaped(v) for v, is_number in pairs]))
    lines += ["\\bottomrule", "\\end{tabular}"]
    return ("\n".join(lines) + "\n").encode()


def escaped(text: str) -> str:
    r"""Return text in which nothing is a command.

    >>> print(escaped("R_S > 50 % \\input{x}"))
    R\_S \textgreater{} 50 \% \textbackslash{}input\{x\}
    """
    return "".join(_SPECIAL.get(letter, letter) for letter in " ".join(text.split()))


def typeset(text: str) -> str:
    r"""Return a number with a true minus sign and power of ten.

    >>> print(typeset("-0.25"), typeset("1.5e-07"), typeset("24"))
    $-0.25$ $1.5\times10^{-7}$ 24
    """
    found = _NUMBER.fullmatch(text)
    if found is None or not (found[1] or found[3]):
        return escaped(text)
    power = rf"\times10^{{{int(found[3])}}}" if found[3] else ""
    return f"${found[1]}{found[2]}{power}$"


def _row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _holds_lists(column: pd.Series[Any]) -> bool:
    return any(isinstance(v, (list, tuple, np.ndarray)) for v in column)


def _is_numeric(column: pd.Series[Any]) -> bool:
    dtype = column.dtype
    return pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype)
