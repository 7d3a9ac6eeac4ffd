"""Which analyses there are: those that ship with statsnorm, and files of the user's."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from statsnorm.errors import StatsnormError, unknown
from statsnorm.shipped import analyses_folder

ORDER = (
    *("removed_variance", "figure1", "dose_response", "cin_style", "reemergence"),
    *("natural_domains", "divergence", "invariance", "manipulation"),
)
"""Shipped analyses in reading order; others follow by name."""

ON_REQUEST = ("group_tests", "side_by_side")
"""Shipped analyses that answer a question somebody must have asked, or that take seconds a tap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """One analysis: a module with `summarise(tables)` and `run(inputs, plan, rng)`.

    A `summarise` that draws also takes the report's `seed` as a keyword.
    """

    name: str
    shipped: bool
    source: bytes  # of the module, so that a report can carry and hash it
    module: ModuleType
    options: Mapping[str, str] = field(default_factory=dict)  # keywords of summarise

    @property
    def sha256(self) -> str:
        """Hexadecimal sha256 of the source."""
        return hashlib.sha256(self.source).hexdigest()

    @property
    def question(self) -> str:
        """The module's docstring."""
        return (self.module.__doc__ or "").strip()

    def function(self, name: str) -> Callable[..., object]:
        """Return one of the module's functions."""
        value = getattr(self.module, name)
        assert callable(value)
        return value  # type: ignore[no-any-return]


def shipped_names() -> list[str]:
    """Return the names of the shipped analyses in reading order."""
    names = [p.stem for p in analyses_folder().glob("*.py") if not p.stem.startswith("_")]
    rank = {name: i for i, name in enumerate(ORDER)}
    return sorted(names, key=lambda name: (rank.get(name, len(ORDER)), name))


def find_analyses(
    wanted: Sequence[str | Path] | None = None, options: Mapping[str, str] | None = None
) -> list[Analysis]:
    """Return analyses by name or by file; for None all shipped ones but those on request.

    A name is looked up among the shipped analyses; what ends in ``.py`` is a file, whose code is
    run. The order is that of `wanted`, without repeats. `options` are keywords of `summarise`.

    Raises
    ------
    StatsnormError
        If a name is unknown, a file is missing or cannot be imported, it lacks `summarise` or
        `run`, or two analyses have the same name.
    """
    default = [name for name in shipped_names() if name not in ON_REQUEST]
    items = [str(item) for item in (default if wanted is None else wanted)]
    found: dict[str, Analysis] = {}
    for item in dict.fromkeys(items):
        is_file = item.endswith(".py")
        if not is_file and item not in shipped_names():
            raise unknown("analysis", item, shipped_names())
        path = Path(item) if is_file else analyses_folder() / f"{item}.py"
        analysis = load_analysis(path, shipped=not is_file, options=options or {})
        if analysis.name in found:
            raise StatsnormError(f"two analyses are called {analysis.name!r}; rename {item}")
        found[analysis.name] = analysis
    return list(found.values())


def load_analysis(
    path: Path, *, shipped: bool = False, options: Mapping[str, str] | None = None
) -> Analysis:
    """Import the analysis at `path`; its name is the file's name without suffix."""
    try:
        source = path.read_bytes()
    except OSError as error:
        raise StatsnormError(f"analysis {str(path)!r} cannot be read: {error.strerror}") from error
    # the same name in every process, so that a function of it can be sent to another
    digest = hashlib.sha256(f"{path.stem}\n".encode() + source).hexdigest()
    name = f"statsnorm_analysis_{digest[:12]}"
    module = sys.modules.get(name) or _imported(name, path)
    if missing := [n for n in ("summarise", "run") if not callable(getattr(module, n, None))]:
        raise StatsnormError(
            f"analysis {str(path)!r} lacks {' and '.join(missing)}; it needs "
            "summarise(tables) -> dict of frames and run(inputs, plan, rng) -> Report"
        )
    return Analysis(
        name=path.stem, shipped=shipped, source=source, module=module, options=options or {}
    )


def _imported(module_name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[module_name]
        if not isinstance(error, ImportError | SyntaxError | NameError | AttributeError):
            raise
        raise StatsnormError(f"analysis {str(path)!r} cannot be imported: {error}") from error
    return module
