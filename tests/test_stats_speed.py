"""The benchmark of the statistics runs, and both sides of it compute the same."""

from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return pytest.importorskip("stats_speed")


def test_both_sides_compute_the_same(bench):
    pytest.importorskip("skbio")
    rows = list(bench.side_by_side())
    assert len(rows) == 5
    for row in rows:
        assert row["difference"] < 1e-3, row["what"]
        assert row["ratio"] > 0


def test_memory_is_a_multiple_of_the_input(bench):
    rows = list(bench.own_rows((32, 8, 5, 256)))
    assert all(0 < row["memory"] < bench.MEMORY for row in rows)
    assert bench.peak(lambda: np.ones(1_000_000)) >= 8_000_000
