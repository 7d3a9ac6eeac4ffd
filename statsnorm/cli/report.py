"""`statsnorm report`."""

from __future__ import annotations

from pathlib import Path

import click

from statsnorm.cli import options


@click.command(short_help="Tables into a report with a verdict for each claim.")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "--analysis",
    "analyses",
    multiple=True,
    metavar="NAME|FILE",
    help="Only these analyses: a shipped one by name, or a .py file with summarise and run, "
    "whose code is run. All shipped ones by default.",
)
@click.option(
    "--plan",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Decision rules, like analyses/plan.toml; the shipped ones by default.",
)
@click.option(
    "--extra",
    "extras",
    multiple=True,
    metavar="NAME",
    help="A picture outside `verify`, made beside the report in extras/: tsne.",
)
@options.engine("taps are reduced")
@options.analysis_workers
@options.out_dir()
@options.seed
def report(
    runs: tuple[Path, ...],
    analyses: tuple[str, ...],
    plan: Path | None,
    extras: tuple[str, ...],
    engine: str,
    workers: int | None,
    out: Path | None,
    seed: int,
) -> None:
    """Run analyses on the tables of RUN... and write report.html, report.md and their sources.

    The same tables and seed give the same bytes, whatever --engine and --workers. Without --out
    the report goes to reports/NAME, NAME being the first run's. Exit status 1: an image was
    dropped, an analysis failed, or one named with --analysis was left out.

    \b
        statsnorm report runs/cin26 --out reports/cin26 --seed 7
        statsnorm report runs/cin26 --analysis removed_variance --analysis mine.py
        statsnorm report runs/cin26 --extra tsne
        statsnorm report runs/cin26 --workers 8
    """
    from statsnorm.engines.tasks import Engine
    from statsnorm.report.write import write_report  # slow imports: keep --help fast

    result = write_report(
        runs,
        out=out or Path("reports") / runs[0].resolve().name,
        analyses=analyses or None,
        seed=seed,
        plan=plan,
        extras=extras,
        engine=Engine(engine, workers),
        progress=lambda line: click.echo(line, err=True),
    )
    click.echo(str(result))
    if not result.complete:
        click.get_current_context().exit(1)
