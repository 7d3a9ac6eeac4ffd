"""Keep freed activations in the process: on Linux the kernel otherwise clears them anew each time.

glibc returns large blocks to the kernel when they are freed, and a forward pass frees one block a
layer; clearing the pages of the next one cost 30 % of an extraction on two cores.
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # parameters of mallopt(3)
_NEVER = 2**31 - 1  # bytes free at the top of the heap before it is returned
_STEP = 256 * 2**20  # bytes asked of the kernel at a time


def keep_freed_memory() -> bool:
    """Tell glibc to keep and reuse what is freed; return whether it was told.

    Where there is no `mallopt` (macOS, Windows, musl) nothing changes. Peak memory stays that of
    the largest batch.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _STEP))
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)
