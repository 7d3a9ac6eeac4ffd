"""`statsnorm compare`."""

from __future__ import annotations

from pathlib import Path

import click

from statsnorm.cli import options


@click.command(short_help="The same numbers of several networks side by side.")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "--by",
    type=click.Choice(["norm", "cell", "network", "checkpoint"]),
    default="norm",
    show_default=True,
    help="What makes a group: the normaliser, the trained cell, the network, or the iteration.",
)
@click.option(
    "--plan",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Decision rules, like analyses/plan.toml; the shipped ones by default.",
)
@options.engine("taps are reduced")
@options.analysis_workers
@options.out_dir()
@options.seed
def compare(
    runs: tuple[Path, ...],
    by: str,
    plan: Path | None,
    engine: str,
    workers: int | None,
    out: Path | None,
    seed: int,
) -> None:
    """Put the networks of RUN... side by side, trained networks as the unit, and write a report.

    Norms are paired by block, checkpoints by cell. With few networks the differences are shown
    and called "not testable". Without --out the report goes to reports/NAME-by-BY, NAME being
    the first run's.

    \b
        statsnorm compare runs/trained-design runs/trained --by norm --out reports/norms
        statsnorm compare runs/trained-design --by checkpoint
    """
    from statsnorm.engines.tasks import Engine
    from statsnorm.report.write import write_report  # slow imports: keep --help fast

    result = write_report(
        runs,
        out=out or Path("reports") / f"{runs[0].resolve().name}-by-{by}",
        analyses=("side_by_side",),
        options={"by": by},
        seed=seed,
        plan=plan,
        engine=Engine(engine, workers),
        progress=lambda line: click.echo(line, err=True),
    )
    click.echo(str(result))
    if not result.complete:
        click.get_current_context().exit(1)
