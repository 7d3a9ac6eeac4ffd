"""What `statsnorm --version` prints: enough for a bug report."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from statsnorm import __version__

LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "pandas", "pyarrow", "scikit-learn")


def version_text() -> str:
    """Return statsnorm's version, the device, and the versions of its libraries, one a line."""
    import torch

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
    lines = [f"statsnorm {__version__}", f"python {platform.python_version()}", f"device {device}"]
    for name in LIBRARIES:
        try:
            lines.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            lines.append(f"{name} missing")
    return "\n".join(lines)
