"""Progress on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

Progress = Callable[[int, int, str], None]
"""Called with what is done, what there is (0: unknown), and a word about it."""

SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def progress_bar(unit: str) -> Iterator[Progress]:
    """Show progress in `unit`s: rich's bar on a terminal, else a line every few seconds."""
    if not sys.stderr.isatty():
        yield _plain(unit)
        return

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None, rate="")
        start, before, already = time.monotonic(), -1, 0

        def update(done: int, total: int, word: str) -> None:
            nonlocal start, before, already
            if before < 0 or done < before:  # the next stretch of work has begun
                start, already = time.monotonic(), done
                bar.reset(task)
            before = done
            seconds, made = time.monotonic() - start, done - already
            rate = f"{made / seconds:.2f} {unit}/s" if made and seconds > 0 else ""
            bar.update(task, completed=done, total=total or None, description=word, rate=rate)

        yield update


def _plain(unit: str) -> Progress:
    start = last = time.monotonic()
    before, already = -1, 0  # what was done before this call does not count for the rate

    def update(done: int, total: int, word: str) -> None:
        nonlocal start, last, before, already
        now = time.monotonic()
        if before < 0 or done < before:  # the next stretch of work has begun
            start, already = now, done
        before = done
        if (done < total or not total) and now - last < SECONDS_BETWEEN_LINES:
            return
        last = now
        if not total:
            click.echo(word, err=True)
            return
        seconds, made = now - start, done - already
        left = f", {seconds / made * (total - done):.0f} s left" if made else ""
        rate = f", {made / seconds:.2f} {unit}/s{left}" if made and seconds > 0 else ""
        click.echo(f"{word}: {done}/{total} {unit}{rate}", err=True)

    return update
