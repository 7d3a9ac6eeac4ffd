"""The documentation: `make docs` builds it with warnings as errors."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import reference

import statsnorm

project = "statsnorm"
author = "The statsnorm maintainers"
release = version = statsnorm.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "numpydoc",
    "sphinx_click",
]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
autodoc_typehints = "none"  # the docstrings say shapes and dtypes
numpydoc_show_class_members = False
exclude_patterns = ["_build", "precision-table.md"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_title = f"statsnorm {release}"
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
smartquotes = False  # "--" of an option stays as it is typed
suppress_warnings = ["myst.xref_missing"]  # README's own links point into the repository


def escape_bars(
    _app: object, _what: str, _name: str, _object: object, _options: object, lines: list[str]
) -> None:
    """Show |t| as it stands: to reStructuredText it is a substitution."""
    for number, line in enumerate(lines):
        parts = line.split("``")
        parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
        lines[number] = "``".join(parts)


def literal_examples(_app: object, _command: object, lines: list[str]) -> None:
    """Show the examples of a command's help as code: they come as a block of lines."""
    shown: list[str] = []
    for line in lines:
        example = line.startswith("|")
        if example and not (shown and shown[-1].startswith("    ")):
            shown += [".. code-block:: shell", ""]
        shown.append("    " + line.removeprefix("| ").removeprefix("    ") if example else line)
    lines[:] = shown


def setup(app: object) -> None:
    """Register what the docstrings and the commands' help need."""
    connect = app.connect  # type: ignore[attr-defined]
    connect("autodoc-process-docstring", escape_bars)
    connect("sphinx-click-process-description", literal_examples)


reference.write(Path(__file__).resolve().parent)
