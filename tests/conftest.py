"""Shared set-up: one thread by default, no display, no network."""

from __future__ import annotations

import os

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: several threads wait for each other
