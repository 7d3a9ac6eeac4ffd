"""`statsnorm verify`."""

from __future__ import annotations

from pathlib import Path

import click

from statsnorm.cli import options


@click.command(short_help="Rebuild a report and say which byte differs.")
@click.argument("report", type=click.Path(path_type=Path))
@click.argument("runs", nargs=-1, metavar="[RUN...]", type=click.Path(path_type=Path))
@click.option(
    "--analysis",
    "analyses",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The report's own analysis file, whose code is run; the copy inside a report is not "
    "run unless it is given here.",
)
@options.engine("taps of RUN... are reduced")
@options.analysis_workers
@click.option(
    "--rebuild",
    is_flag=True,
    help="Write REPORT anew from its inputs with the analyses and rules of today, then verify it.",
)
def verify(
    report: Path,
    runs: tuple[Path, ...],
    analyses: tuple[Path, ...],
    engine: str,
    workers: int | None,
    rebuild: bool,
) -> None:
    """Rebuild REPORT from its inputs, and from RUN... if given, and compare every file.

    Exit status 0: equal. 1: something differs; each line says which file, figure, sentence or
    number, and which input changed.

    \b
        statsnorm verify reports/demo
        statsnorm verify reports/demo runs/demo
        statsnorm verify reports/demo --rebuild
    """
    from statsnorm.engines.tasks import Engine
    from statsnorm.report.rebuild import rebuild as rebuilt  # slow imports
    from statsnorm.report.verification import verify as verified

    def tell(line: str) -> None:
        click.echo(line, err=True)

    if rebuild:
        rebuilt(report, analyses=analyses, progress=tell)
    where = Engine(engine, workers)
    result = verified(report, runs, analyses=analyses, engine=where, progress=tell)
    click.echo(str(result))
    if not result.equal:
        click.get_current_context().exit(1)
