"""Where the networks and pictures for experiments lie, if they are there: beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
SHARED = Path(os.environ.get("STATSNORM_SHARED", _BESIDE))

needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"no experiment data at {SHARED}; set STATSNORM_SHARED"
)
