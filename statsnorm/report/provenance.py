"""What a report is made from: runs, weights, versions; paths of the machine are left out."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import statsnorm
from statsnorm.report.encode import sha256

if TYPE_CHECKING:
    from statsnorm.rundir import Run

LIBRARIES = (
    "jinja2",
    "matplotlib",
    "numpy",
    "pandas",
    "pyarrow",
    "scikit-learn",
    "scipy",
    "seaborn",
    "statsmodels",
)
"""Libraries whose version may change a byte of a report; torch's belongs to the run."""

NAMES = ("images.sha256", "reference.sha256")
"""Entries of a configuration whose sha256 is of file names, not of content."""

EXECUTION = ("device", "deterministic", "plan_sha256", "versions")
"""What a report keeps of how a run was executed."""

_ABSOLUTE = re.compile(r"(?:(?<==)|^)(?:~|/|[A-Za-z]:[\\/])[^,\s]*")


def environment() -> dict[str, Any]:
    """Return the versions of statsnorm, Python and :data:`LIBRARIES`, and the code's sha256."""
    return {
        "statsnorm": statsnorm.__version__,
        "source_sha256": source_sha256(),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in LIBRARIES},
    }


def source_sha256() -> str:
    """Return one sha256 over the Python files and templates of the package, in path order."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    paths = [p for s in ("*.py", "*.j2", "*.css", "*.js") for p in package.rglob(s)]
    for path in sorted(paths, key=lambda p: p.relative_to(package).as_posix()):
        relative = path.relative_to(package).as_posix()
        if not relative.startswith("analyses/"):  # hashed one by one
            digest.update(f"{relative}\0{sha256(path.read_bytes())}\n".encode())
    return digest.hexdigest()


def run_facts(run: Run) -> dict[str, Any]:
    """Return what identifies a run: configuration and its hash, tables with rows and sha256.

    Files of one table are taken together: their number, rows, bytes, and the sha256 over the
    sorted lines ``path sha256``. Versions and devices are those of the extraction.
    """
    done = _read(run.path / "done.json")
    config = without_paths(dict(run.config))
    return {
        "name": run.path.resolve().name,
        "hash": run.hash,
        "config": config,
        "tables": _tables(done.get("files", {})),
        "executions": _executions(run.path / "log"),
    }


def without_paths(value: Any) -> Any:
    """Return `value` with every absolute path cut to its last part.

    >>> without_paths({"images": "/home/ada/coco", "conditions": ["mine=/tmp/x/y", "style"]})
    {'images': '…/coco', 'conditions': ['mine=…/y', 'style']}
    """
    if isinstance(value, str):
        return _ABSOLUTE.sub(lambda m: "…/" + PurePath(m[0].replace("\\", "/")).name, value)
    if isinstance(value, Mapping):
        return {without_paths(str(k)): without_paths(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_paths(v) for v in value]
    return value


def weights(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (where, sha256) of every sha256 in a run's configuration, in sorted order.

    That of `images` and `reference` is of the names alone, and says so; what the files held stands
    in the table `images` of the run.

    >>> weights({"config": {"images": {"count": 1, "sha256": "a" * 64}}})[0][0]
    'images.sha256 (names)'
    """
    pairs = set(_hashes(facts["config"], ""))
    return sorted(
        (f"{where} (names)" if where in NAMES else where, digest) for where, digest in pairs
    )


def plan_note(plan_sha256: str, runs: list[dict[str, Any]]) -> str:
    """Return one sentence on whether the decision rules changed since the runs were made."""
    recorded = {e.get("plan_sha256") for run in runs for e in run.get("executions", [{}])}
    known = {r for r in recorded if r}
    if not known:
        return "The runs do not record the decision rules that held when they were made."
    if known == {plan_sha256}:
        some = " that record them" if None in recorded else ""
        return f"The decision rules have not changed since the runs{some} were made."
    return (
        "THE DECISION RULES CHANGED since the runs were made "
        f"(then {', '.join(sorted(k[:12] for k in known))}; now {plan_sha256[:12]})."
    )


def _tables(files: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[str]] = {}
    for name in sorted(files):
        groups.setdefault(name.partition("/")[0].removesuffix(".parquet"), []).append(name)
    return {
        group: {
            "files": len(names),
            "rows": sum(files[n].get("rows", 0) for n in names),
            "bytes": sum(files[n].get("bytes", 0) for n in names),
            "sha256": sha256(
                "".join(f"{n} {files[n].get('sha256', '')}\n" for n in names).encode()
            ),
        }
        for group, names in groups.items()
    }


def _executions(log: Path) -> list[dict[str, Any]]:
    """Return the distinct (device, precision, versions) that worked on a run."""
    seen: set[str] = set()
    for path in sorted(log.glob("*.json")):
        execution = _read(path).get("execution", {})
        kept = {k: execution[k] for k in EXECUTION if k in execution}
        if kept:
            seen.add(json.dumps(without_paths(kept), sort_keys=True))
    return [json.loads(text) for text in sorted(seen)]


def _hashes(value: Any, where: str) -> list[tuple[str, str]]:
    if isinstance(value, str):
        return [(where, value)] if re.fullmatch(r"[0-9a-f]{64}", value) else []
    if isinstance(value, Mapping):
        label = str(value.get("name", "")) if "name" in value else ""
        return [
            pair
            for key, v in value.items()
            for pair in _hashes(v, ".".join(x for x in (where, label, str(key)) if x))
        ]
    if isinstance(value, list):
        return [pair for v in value for pair in _hashes(v, where)]
    return []


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"
