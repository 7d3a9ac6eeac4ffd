"""`statsnorm demo`."""

from __future__ import annotations

from pathlib import Path

import click

from statsnorm.cli import options


@click.command(short_help="The main job on embedded images and networks, in minutes.")
@options.out_dir("reports/demo")
@click.option(
    "--runs",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/demo"),
    show_default=True,
    metavar="DIR",
    help="Folder of the run directories, which pandas loads.",
)
@options.device
def demo(out: Path, runs: Path, device: str) -> None:
    """Extract, train a little, and report, on what is embedded; resumes where it stopped.

    Nine steps, each a run of its own below --runs: some ten minutes on two cores.

    \b
        statsnorm demo
        statsnorm demo --out reports/demo --runs runs/demo
    """
    from statsnorm.cli.progress import progress_bar
    from statsnorm.demo import demo as run_demo

    with progress_bar("steps") as progress:
        result = run_demo(out, runs=runs, device=device, progress=progress)
    click.echo(f"report: {result.out / 'report.html'}")
    click.echo(f"tables: {runs}")
    click.echo(f"next: open the report; statsnorm verify {result.out}; statsnorm extract --help")
