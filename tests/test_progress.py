from __future__ import annotations

import re

from statsnorm.cli import progress


def test_the_rate_is_that_of_the_stretch_at_work(capsys, monkeypatch):
    clock = iter([0.0, 100.0, 100.0, 102.0])  # start, end of the first, begin and end of the second
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.progress_bar("steps") as update:
        update(10, 10, "first")
        update(0, 4, "second")
        update(4, 4, "second")
    rates = re.findall(r"([0-9.]+) steps/s", capsys.readouterr().err)
    assert rates == ["0.10", "2.00"]
