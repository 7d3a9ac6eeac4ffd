"""Taps: which places of a network are read, of what kind, and their channel moments."""

from statsnorm.taps.constructed import assert_by_construction, check_by_construction
from statsnorm.taps.find import find_taps, select_taps
from statsnorm.taps.record import forward_moments, record_moments
from statsnorm.taps.tap import KINDS, Tap

__all__ = [
    "KINDS",
    "Tap",
    "assert_by_construction",
    "check_by_construction",
    "find_taps",
    "forward_moments",
    "record_moments",
    "select_taps",
]
