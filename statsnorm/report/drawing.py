"""Figures as bytes: SVG, PNG and PDF without dates, and the SVG that stands inside the page."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from statsnorm.errors import unknown
from statsnorm.report.model import Figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

Draw = Callable[..., "MatplotlibFigure"]

_PNG_DPI = 150
_ENLARGED = 1.1  # of the natural size: the page's text is larger than a printed one's
_BACKGROUND = re.compile(
    r'(<g id="(?:figure|axes)_\d+">\s*<g id="patch_\d+">\s*<path d="[^"]*"\s*style=")fill: #ffffff'
)
_STYLED = re.compile(r'<[^<>]*\sstyle="[^"]*"[^<>]*>')
_SUBSET = re.compile(rb"/([A-Z]{6})\+")


@dataclass(frozen=True, slots=True)
class Drawing:
    """One figure in its forms; `markup` is SVG that is safe to put into a page."""

    svg: bytes
    png: bytes
    pdf: bytes
    markup: str
    width: int  # CSS pixels at natural size

    def inline(self, limit: int) -> str:
        """Return mark-up of at most about `limit` characters: SVG, else PNG, else ''."""
        if len(self.markup) <= limit:
            return self.markup
        data = base64.b64encode(self.png).decode()
        if len(data) > limit:
            return ""
        return f'<img src="data:image/png;base64,{data}" width="{self.width}" alt="">'


def draw(figure: Figure, table: pd.DataFrame, *, own: Mapping[str, Draw]) -> Drawing:
    """Draw a figure of a report from its table.

    Parameters
    ----------
    figure : Figure
        Names the function that draws and its options.
    table : pandas.DataFrame
        The figure's source.
    own : mapping
        Functions of the analysis itself, by name; they go before :mod:`statsnorm.figures`.

    Raises
    ------
    StatsnormError
        If no function has the name.
    """
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rc("svg", hashsalt="statsnorm", fonttype="path")  # the page needs no font
        mpl.rc("pdf", fonttype=42)  # journals refuse Type 3
        mpl.rc("font", family="sans-serif")
        # ships with matplotlib: the same letters on every machine
        mpl.rcParams["font.sans-serif"] = ["DejaVu Sans"]
        drawn = (own.get(figure.draw) or _shipped(figure.draw))(table, **dict(figure.options))
        svg = _save(drawn, "svg", {"Date": None, "Creator": None})
        png = _save(drawn, "png", {"Software": None}, dpi=_PNG_DPI)
        pdf = _save(drawn, "pdf", {"Creator": None, "Producer": None, "CreationDate": None})
    width, markup = inline_svg(svg.decode(), figure.name)
    return Drawing(svg, png, _same_subset_names(pdf), markup, width)


def inline_svg(text: str, name: str) -> tuple[int, str]:
    """Return (width in CSS pixels, SVG markup for a page).

    Prolog, metadata and the white behind figure and axes go; every id gets the figure's name in
    front, so that two figures of one page never share one; styles become attributes, so that a
    page may forbid inline styles.
    """
    prefix = "f" + re.sub(r"[^A-Za-z0-9]", "-", name) + "-"
    body = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->\n?", "", body, flags=re.DOTALL)
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    body = _BACKGROUND.sub(r"\1fill: none", body)
    body = _STYLED.sub(lambda tag: _without_style(tag[0]), body)
    body = re.sub(r'(\s)id="([^"]+)"', rf'\1id="{prefix}\2"', body)
    body = re.sub(r'(xlink:href|href)="#([^"]+)"', rf'href="#{prefix}\2"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}\1)", body)
    head = re.match(r"<svg[^>]*>", body)
    assert head is not None
    box = re.search(r'viewBox="([^"]+)"', head[0])
    assert box is not None
    width, height = (_ENLARGED * float(side) * 96 / 72 for side in box[1].split()[2:])
    tag = (
        f'<svg viewBox="{box[1]}" width="{width:.0f}" height="{height:.0f}" aria-hidden="true" '
        'focusable="false" stroke-linejoin="round" stroke-linecap="butt">'
    )
    return round(width), tag + body[head.end() :].strip()


def _without_style(tag: str) -> str:
    """Return a tag whose `style` is written as presentation attributes, which it overrides.

    >>> _without_style('<path d="M 0 0" fill="red" style="fill: none; stroke: #000"/>')
    '<path d="M 0 0" fill="none" stroke="#000"/>'
    """
    found = re.search(r'\sstyle="([^"]*)"', tag)
    assert found is not None
    pairs = (part.partition(":") for part in found[1].split(";") if part.strip())
    styles = {name.strip(): value.strip() for name, _, value in pairs}
    rest = tag.replace(found[0], "\0", 1)
    for name in styles:
        rest = re.sub(rf'\s{re.escape(name)}="[^"]*"', "", rest)
    return rest.replace("\0", "".join(f' {name}="{value}"' for name, value in styles.items()))


def _same_subset_names(pdf: bytes) -> bytes:
    """Name font subsets by their order: matplotlib takes a hash that may differ by process."""
    names = dict.fromkeys(_SUBSET.findall(pdf))
    for i, name in enumerate(names):
        digest = hashlib.sha256(str(i).encode()).digest()
        fixed = bytes(65 + byte % 26 for byte in digest[:6])
        pdf = pdf.replace(b"/" + name + b"+", b"/" + fixed + b"+")
    return pdf


def _shipped(name: str) -> Draw:
    from statsnorm import figures

    found = getattr(figures, name, None)
    if not callable(found):
        raise unknown("figure function", name, [n for n in dir(figures) if not n.startswith("_")])
    return found  # type: ignore[no-any-return]


def _save(drawn: MatplotlibFigure, form: str, metadata: dict[str, Any], **options: Any) -> bytes:
    sink = io.BytesIO()
    if drawn.get_layout_engine() is None:
        options["bbox_inches"] = "tight"
    drawn.savefig(sink, format=form, metadata=metadata, **options)
    return sink.getvalue()
