"""Shared set-up: one thread by default, no display, no network."""

from __future__ import annotations

import os

os.environ.setdefault("MPLBACKEND", "Agg")
