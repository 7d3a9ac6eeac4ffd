from __future__ import annotations

import re

from statsnorm.cli import progress


def test_the_rate_is_that_of_the_stretch_at_work(capsys, monkeypatch):
    clock = iter([0.0, 0.0, 100.0, 100.0, 102.0])  # start, both ends of the first, of the second
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.progress_bar("steps") as update:
        update(0, 10, "first")
        update(10, 10, "first")
        update(0, 4, "second")
        update(4, 4, "second")
    rates = re.findall(r"([0-9.]+) steps/s", capsys.readouterr().err)
    assert rates == ["0.10", "2.00"]


def test_what_an_earlier_call_did_does_not_count_for_the_rate(capsys, monkeypatch):
    clock = iter([0.0, 0.0, 10.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.progress_bar("cells") as update:
        update(90, 100, "resumed")
        update(95, 100, "resumed")
    said = capsys.readouterr().err
    assert "95/100 cells, 0.50 cells/s, 10 s left" in said


def test_work_of_unknown_length_is_named_without_a_count(capsys, monkeypatch):
    clock = iter([0.0, 1.0, 7.0, 8.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.progress_bar("steps") as update:
        for word in ("report: one", "report: two", "report: three"):
            update(0, 0, word)
    assert capsys.readouterr().err.splitlines() == ["report: two"]
