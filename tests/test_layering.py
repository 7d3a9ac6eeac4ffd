"""The import rules of DESIGN.md, on our own import statements and on sys.modules."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "statsnorm"
TORCH_SIDE = (
    "images",
    "networks",
    "engines",
    "training",
    "moments",
    "correlations",
    "taps",
    "devices",
    "freeze",
    "swap",
    "invariance",
    "extraction",
    "tables",
    "rundir",
    "records",
    "atomic",
    "locks",
    "stopping",
    "generators",
)


def imports_of(path: Path) -> set[str]:
    """Return the names of all modules that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports_of(path)}


def modules(*names: str) -> list[Path]:
    found = []
    for name in names:
        folder, file = PACKAGE / name, PACKAGE / f"{name}.py"
        found += sorted(folder.rglob("*.py")) if folder.is_dir() else []
        found += [file] if file.is_file() else []
    return found


def test_the_torch_side_never_imports_scipy_pandas_or_matplotlib():
    files = modules(*TORCH_SIDE)
    assert len(files) > 10
    for path in files:
        bad = roots(path) & {"scipy", "pandas", "matplotlib", "seaborn", "sklearn", "statsmodels"}
        assert not bad, f"{path.name} imports {bad}"


def test_stats_imports_neither_torch_nor_pandas():
    files = modules("stats")
    assert len(files) > 8
    for path in files:
        bad = roots(path) & {"torch", "torchvision", "pandas", "matplotlib", "sklearn", "pyarrow"}
        assert not bad, f"{path.name} imports {bad}"


def test_nothing_imports_the_analyses():
    for path in PACKAGE.rglob("*.py"):
        bad = {n for n in imports_of(path) if n.split(".")[0] == "analyses"}
        bad |= {n for n in imports_of(path) if n.startswith("statsnorm.analyses")}
        assert not bad, f"{path.name} imports {bad}"


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import statsnorm", {"torch", "pandas", "matplotlib", "scipy", "pyarrow"}),
        ("import statsnorm.cli", {"torch", "pandas", "matplotlib", "scipy", "pyarrow"}),
        (
            "from statsnorm.cli import main; main(['--help'], standalone_mode=False)",
            {"torch", "pandas", "matplotlib", "scipy", "pyarrow"},
        ),
        (
            "import statsnorm.stats as s; [getattr(s, n) for n in s.__all__ if n != 'probe']",
            {"torch", "pandas"},  # the probe is scikit-learn's, which pulls pandas in
        ),
    ],
)
def test_imports_stay_light(code, forbidden):
    script = f"{code}\nimport sys; print(*sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    loaded = {name.split(".")[0] for name in out.split()}
    assert not forbidden & loaded


def test_torch_load_and_pickle_are_never_used():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "torch.load(" not in text, path
        names = imports_of(path) - {"pickle", "pickle.UnpicklingError"}
        if "pickle" in imports_of(path):  # only to catch what torchvision's own loader raises
            assert "from pickle import UnpicklingError\n" in text, path
            assert text.count("pickle import") == 1, path
            assert "import pickle" not in text, path
        bad = {name.split(".")[0] for name in names}
        assert not bad & {"pickle", "dill", "cloudpickle", "joblib", "shelve"}, path
