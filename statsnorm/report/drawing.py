"""Figures as bytes: SVG and PNG without dates, and the SVG that stands inside the page."""

from __future__ import annotations

import base64
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

INLINE_LIMIT = 600_000
"""Bytes of SVG beyond which the page shows the PNG and links the SVG."""

_PNG_DPI = 150
_BACKGROUND = re.compile(
    r'(<g id="(?:figure|axes)_\d+">\s*<g id="patch_\d+">\s*<path d="[^"]*"\s*style=")fill: #ffffff'
)


@dataclass(frozen=True, slots=True)
class Drawing:
    """One figure in three forms; `inline` is markup that is safe to put into the page."""

    svg: bytes
    png: bytes
    inline: str
    width: int  # CSS pixels at natural size

    @property
    def raster(self) -> bool:
        """Whether it holds pixels, whose colours a dark page must not invert."""
        return "data:image" in self.inline


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
        mpl.rc("font", family="sans-serif")
        # ships with matplotlib: the same letters on every machine
        mpl.rcParams["font.sans-serif"] = ["DejaVu Sans"]
        drawn = (own.get(figure.draw) or _shipped(figure.draw))(table, **dict(figure.options))
        svg = _save(drawn, "svg", {"Date": None, "Creator": None})
        png = _save(drawn, "png", {"Software": None}, dpi=_PNG_DPI)
    width, inline = inline_svg(svg.decode(), figure.name)
    if len(inline) > INLINE_LIMIT:
        data = base64.b64encode(png).decode()
        inline = f'<img src="data:image/png;base64,{data}" alt="">'
    return Drawing(svg, png, inline, width)


def inline_svg(text: str, name: str) -> tuple[int, str]:
    """Return (natural width in CSS pixels, SVG markup for a page).

    Prolog, metadata and the white behind figure and axes go; every id gets the figure's name in
    front, so that two figures of one page never share one; the style sheet decides the size.
    """
    prefix = "f" + re.sub(r"[^A-Za-z0-9]", "-", name) + "-"
    body = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->\n?", "", body, flags=re.DOTALL)
    body = _BACKGROUND.sub(r"\1fill: none", body)
    body = re.sub(r'(\s)id="([^"]+)"', rf'\1id="{prefix}\2"', body)
    body = re.sub(r'(xlink:href|href)="#([^"]+)"', rf'href="#{prefix}\2"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}\1)", body)
    head = re.match(r"<svg[^>]*>", body)
    assert head is not None
    box = re.search(r'viewBox="([^"]+)"', head[0])
    assert box is not None
    width = float(box[1].split()[2])  # points
    tag = f'<svg viewBox="{box[1]}" aria-hidden="true" focusable="false">'
    return round(width * 96 / 72), tag + body[head.end() :].strip()


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
