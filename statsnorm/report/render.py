"""A document as one self-contained HTML page and as Markdown."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from statsnorm.report.encode import number
from statsnorm.report.views import DECISION_COLUMNS, Document, gate_value

TEMPLATES = Path(__file__).parent / "templates"

MARKDOWN_ROWS = 30
FINDINGS_SHOWN = 6
"""Sentences of an analysis that stand open; further ones are folded."""
WHOLE_CELL = 2000
"""Characters of a list that the page keeps whole, for its own CSV."""

_LONG = 60  # characters of a list that a table shows
_NUMBER = re.compile(r"[-+]?[\d.]+(?:e[-+]?\d+)?|nan|[-+]?inf|")

_VERDICTS = {
    "supported": ("yes", "✓"),
    "contradicted": ("no", "✗"),
    "inconclusive": ("open", "≈"),
    "not testable": ("mute", "∅"),
    "not interpretable": ("mute", "?"),
    "scale-dependent": ("split", "⇅"),
    "factor-dependent": ("split", "⇅"),
}
_SUBSCRIPT = re.compile(r"(?<![\w.])(V|R|G|T|k|s|R2)_([A-Za-z0-9]{1,5}⊥?)(?!\w|\.\w|_)")
_OMEGA = re.compile(r"(?<![\w.])omega(2?)_([A-Za-z]{1,3})(?!\w)")
_PERP = re.compile(r"(?<![\w.])(V|R)_S_?perp(?!\w)")
_SIGNS = (
    (re.compile(r"(?<=\d) (?=%)"), "\u00a0"),  # 97 % stays on one line
    (re.compile(r"(?<![\w.\-])-(?=\d|\.\d)|(?<= )-(?= )"), "−"),
    (re.compile(r"(?<=\w) x (?=\d)"), " × "),
    (re.compile(r"&gt;=(?= )"), "≥"),
    (re.compile(r"&lt;=(?= )"), "≤"),
)
_SPECIAL = re.compile(r"([\\`*\[\]|])")
_EDGE_UNDERSCORE = re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def html(document: Document, *, rows: int, characters: int) -> str:
    """Return the page.

    A table shows at most `rows` rows; a figure takes at most about `characters` characters, as
    SVG, else as PNG. What is not shown is named with the file that holds it.
    """
    style = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    return (
        _environment("html")
        .get_template("report.html.j2")
        .render(
            doc=document,
            rows_shown=rows,
            room=characters,
            style=Markup(style),
            script=Markup(script),
            policy=content_policy(style, script),
        )
    )


def markdown(document: Document) -> str:
    """Return the same report as Markdown, figures linked."""
    template = _environment("md").get_template("report.md.j2")
    text = template.render(doc=document, rows_shown=MARKDOWN_ROWS)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def content_policy(style: str, script: str) -> str:
    """Return the Content-Security-Policy of a page: its one style and one script, no request."""
    return (
        f"default-src 'none'; script-src 'sha256-{_digest(script)}'; "
        f"style-src 'sha256-{_digest(style)}'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def prose(text: str) -> Markup:
    """Return a sentence as markup: escaped, with R_S and omega2_s set as subscripts, and signs set.

    >>> prose("R_S = .8 <b> in V_I.jpg")
    Markup('R<sub>S</sub> = .8 &lt;b&gt; in V_I.jpg')
    """
    safe = str(escape(" ".join(text.split())))
    for pattern, sign in _SIGNS:
        safe = pattern.sub(sign, safe)
    safe = _PERP.sub(r"\1_S⊥", safe)
    safe = _OMEGA.sub(lambda m: f"ω{'²' if m[1] else ''}<sub>{m[2]}</sub>", safe)
    return Markup(_SUBSCRIPT.sub(r"\1<sub>\2</sub>", safe))


def plain(text: str) -> str:
    r"""Return a sentence for Markdown: nothing in it is mark-up.

    >>> print(plain("a_b <script> *x* |\n# y"))
    a_b &lt;script&gt; \*x\* \| # y
    """
    safe = " ".join(str(text).split())
    safe = safe.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    safe = _SPECIAL.sub(r"\\\1", safe)
    safe = _EDGE_UNDERSCORE.sub(r"\\_", safe)
    return re.sub(r"^(#+|[-+]|\d+\.)(?=\s)", r"\\\1", safe)


def paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a docstring, each on one line."""
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip()) if part.strip()]


def verdict_class(verdict: str) -> str:
    """Return the CSS class of a verdict's badge."""
    return _VERDICTS.get(verdict, ("mute", "·"))[0]


def verdict_mark(verdict: str) -> str:
    """Return the sign of a verdict's badge, so that it is not told by colour alone."""
    return _VERDICTS.get(verdict, ("mute", "·"))[1]


def clipped(text: str) -> str:
    """Return a cell as a table shows it: a long list of numbers by its beginning and length.

    >>> clipped("1 2 3"), clipped(" ".join(["0.123456"] * 24))
    ('1 2 3', '0.123456 0.123456 0.123456 … (24 values)')
    """
    words = text.split(" ")
    if len(text) <= _LONG or not all(_NUMBER.fullmatch(word) for word in words):
        return text
    return f"{' '.join(words[:3])} … ({len(words)} values)"


@cache
def _environment(kind: str) -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=kind == "html",
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Any] = {
        "prose": prose,
        "plain": plain,
        "paragraphs": paragraphs,
        "verdict_class": verdict_class,
        "verdict_mark": verdict_mark,
        "gate_value": gate_value,
        "number": number,
        "clipped": clipped,
        "thousands": lambda n: f"{n:,}",
        "markup": Markup,
    }
    made.filters.update(filters)
    made.globals.update(
        DECISION_COLUMNS=DECISION_COLUMNS,
        WHOLE_CELL=WHOLE_CELL,
        FINDINGS_SHOWN=FINDINGS_SHOWN,
    )
    return made
