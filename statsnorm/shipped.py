"""Where the analyses and the decision rules that ship with statsnorm lie; imports nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path


def analyses_folder() -> Path:
    """Return the folder of the shipped analyses: inside a wheel, or beside a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "analyses"
    return inside if inside.is_dir() else package.parent / "analyses"


def shipped_plan_path() -> Path:
    """Return the file of the decision rules that ship with statsnorm."""
    return analyses_folder() / "plan.toml"


def plan_sha256() -> str:
    """Return the sha256 of the shipped decision rules: a run records those that held for it."""
    return hashlib.sha256(shipped_plan_path().read_bytes()).hexdigest()
