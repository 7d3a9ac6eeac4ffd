"""Every block of the guides runs, in order, and prints what the page says."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def shell(tmp_path):
    """Return a function that runs lines of a shell block in the test's folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    command = folder / "statsnorm"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m statsnorm "$@"\n')
    command.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }

    def run(text: str) -> None:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stderr}"

    return run


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.stem)
def test_the_guide_runs_and_prints_what_it_says(path, shell, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    namespace: dict[str, object] = {"__name__": "guide"}
    printed = ""
    for language, text in BLOCK.findall(path.read_text(encoding="utf-8")):
        if language == "shell":
            shell(text)
        elif language == "text":
            assert printed == text
        elif named := re.match(r"# file: (\S+)\n", text):
            Path(named[1]).write_text(text[named.end() :])
        else:
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(text, str(path), "exec"), namespace)
            printed = out.getvalue()


def test_every_guide_is_here():
    assert [path.stem for path in GUIDES] == ["analysis", "images", "networks", "tables"]


def test_the_analysis_of_the_guide_is_short():
    text = (ROOT / "docs/guides/analysis.md").read_text(encoding="utf-8")
    (code,) = (t for _, t in BLOCK.findall(text) if t.startswith("# file: "))
    assert len(code.splitlines()) < 60
