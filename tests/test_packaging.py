"""What others pick up: the wheel, the sdist, and the files beside the code."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import statsnorm

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build sdist and wheel with the backend that is installed: nothing is fetched."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def unpacked(built, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(built[0]) as wheel:
        wheel.extractall(folder)
    return folder


def run_outside(unpacked: Path, cwd: Path, *arguments: str) -> str:
    """Run `python ...` with the unpacked wheel as the only statsnorm, away from the repository."""
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_has_one_top_level_package_with_the_analyses_inside(built):
    with zipfile.ZipFile(built[0]) as wheel:
        names = wheel.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"statsnorm"}
    analyses = {path.name for path in (ROOT / "analyses").iterdir() if path.is_file()}
    assert {f"statsnorm/analyses/{name}" for name in analyses} <= set(names)
    assert {"statsnorm/py.typed", "statsnorm/assets/cin26.safetensors"} <= set(names)
    assert any(name.endswith("licenses/NOTICE") for name in names)


def test_the_sdist_holds_what_the_tests_need(built):
    with tarfile.open(built[1]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    wanted = {"tests/test_packaging.py", "analyses/plan.toml", "Makefile", "docs/method.md"}
    assert wanted <= names
    assert not any(name.startswith((".venv", "runs", ".gpu")) for name in names)


def test_the_wheel_is_the_code_that_runs_outside_the_repository(unpacked, tmp_path):
    code = "import statsnorm, statsnorm.cli; print(statsnorm.__file__, statsnorm.__version__)"
    where, version = run_outside(unpacked, tmp_path, "-c", code).split()
    assert Path(where).is_relative_to(unpacked)
    assert version == statsnorm.__version__


def test_extract_report_and_verify_work_from_the_wheel(unpacked, tmp_path):
    command = ("-m", "statsnorm")
    extract = ("extract", "--images", "embedded", "--size", "16", "--network", "pixels")
    run_outside(unpacked, tmp_path, *command, *extract, "--condition=original,contrast", "--out=r")
    run_outside(unpacked, tmp_path, *command, "report", "r", "--out", "reports/r")
    said = run_outside(unpacked, tmp_path, *command, "verify", "reports/r", "r")
    assert "equal" in said
    assert (tmp_path / "reports/r/report.html").stat().st_size > 10_000


def test_the_citation_names_this_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {statsnorm.__version__}\n" in text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion_knows_the_commands(shell):
    environment = {**os.environ, "_STATSNORM_COMPLETE": f"{shell}_source"}
    code = "from statsnorm.cli import main; main(prog_name='statsnorm')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert "_STATSNORM_COMPLETE" in done.stdout
    words = {**environment, "_STATSNORM_COMPLETE": f"{shell}_complete", "COMP_CWORD": "1"}
    words |= {"COMP_WORDS": "statsnorm ext"} | ({"COMP_CWORD": "ext"} if shell == "fish" else {})
    done = subprocess.run(
        [sys.executable, "-c", code], env=words, capture_output=True, text=True, check=False
    )
    assert "extract" in done.stdout
