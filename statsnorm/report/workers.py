"""Tables whose taps an engine shares among workers, each with tables and analyses of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from statsnorm.engines.tasks import Engine, crew_of
from statsnorm.load import Tables
from statsnorm.report.discover import Analysis, find_analyses, shipped_names


@contextmanager
def tables_on(
    engine: Engine, runs: Sequence[str | Path], analyses: Sequence[Analysis]
) -> Iterator[Tables]:
    """Yield the tables of `runs`; their `map_taps` runs on the engine while the block lasts.

    Raises
    ------
    StatsnormError
        If a run cannot be opened, or the engine cannot be used.
    """
    tables = Tables(runs)
    if engine.in_process:
        yield tables
        return
    own = [str(analysis.module.__file__) for analysis in analyses if not analysis.shipped]
    with crew_of(engine, partial(_opened, list(runs), own)) as crew:
        yield Tables(runs, crew=crew)


def _opened(runs: Sequence[str | Path], own: Sequence[str]) -> Tables:
    """Return the tables in a worker, once the functions that it may be sent are there."""
    find_analyses([*shipped_names(), *own])  # shipped ones call each other
    return Tables(runs)
