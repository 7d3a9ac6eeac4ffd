"""Every committed report is rebuilt from the inputs beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from statsnorm.report import verify
from statsnorm.report.write import INPUT_LIMIT

REPORTS = sorted(
    path.parent
    for path in (Path(__file__).resolve().parents[1] / "reports").glob("*/provenance.json")
)


def test_there_are_committed_reports():
    assert REPORTS


@pytest.mark.parametrize("folder", REPORTS, ids=lambda folder: folder.name)
def test_a_committed_report_verifies(folder):
    found = verify(folder)
    assert found.equal, "\n".join(map(str, found.differences))


@pytest.mark.parametrize("folder", REPORTS, ids=lambda folder: folder.name)
def test_a_committed_report_is_small(folder):
    assert sum(path.stat().st_size for path in (folder / "inputs").iterdir()) < INPUT_LIMIT
    assert (folder / "report.html").stat().st_size < 5_000_000
