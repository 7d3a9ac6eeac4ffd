"""`statsnorm info`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from statsnorm.rundir import Run


@click.command(short_help="What a run holds, and what it misses.")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--sources",
    multiple=True,
    metavar="SRC|NAME=DIR",
    help="Also hash the images, found as extract --images SRC finds them, and own versions in DIR.",
)
@click.pass_context
def info(ctx: click.Context, run: Path, sources: tuple[str, ...]) -> None:
    """Say what RUN holds: images, taps, rows, bytes, provenance, what is missing or damaged.

    With --sources: which images are gone or have other bytes than when they were measured.
    Of a training run: its cells, done, ended early, begun and to do, with iterations and curves.

    \b
        statsnorm info runs/vgg
        statsnorm info runs/figure1
        statsnorm info runs/vgg --sources photos/
    """
    from statsnorm.rundir import info as run_info
    from statsnorm.rundir import read_run
    from statsnorm.trained import trained_cells

    found = run_info(run)
    state = "finished" if found.finished else "not finished"
    click.echo(f"{found.path}: {found.kind} run, {state}, configuration {found.hash[:12]}")
    if found.kind == "train":
        click.echo("\n".join(trained_cells(read_run(run)).lines()))
        click.echo(f"skipped {found.skipped}, bytes {found.bytes:,}")
    else:
        click.echo(f"images {found.images}, skipped {found.skipped}, bytes {found.bytes:,}")
    for table, rows in sorted(found.rows.items()):
        click.echo(f"  {table}: {rows:,} {'row' if rows == 1 else 'rows'}")
    if found.taps:
        by_network: dict[str, list[str]] = {}
        for network, _, tap in (name.rpartition("/") for name in found.taps):
            by_network.setdefault(network, []).append(tap)
        for network, taps in by_network.items():
            click.echo(f"taps of {network} ({len(taps)}): " + ", ".join(taps))
    for word, names in (
        ("missing", found.missing),
        ("damaged", found.damaged),
        ("running", found.running),
    ):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            click.echo(f"{word}: " + ", ".join(names[:5]) + more)
    if not found.finished:
        click.echo("give the command that made it again, and it goes on")
    changed = _compared(read_run(run), sources) if sources else ()
    ctx.exit(0 if found.finished and not changed else 1)


def _compared(run: Run, sources: tuple[str, ...]) -> tuple[str, ...]:
    """Say how many source files were hashed, and which differ; return those."""
    from statsnorm.extraction.sources import compared_sources

    plain = [one for one in sources if "=" not in one]
    if len(plain) != 1:
        raise click.UsageError(f"--sources needs the images once, got {len(plain)} SRC")
    own = dict(one.split("=", 1) for one in sources if "=" in one)
    count, lines = compared_sources(run, plain[0], {name: Path(at) for name, at in own.items()})
    click.echo(f"sources: {count} files hashed, {len(lines)} differ")
    for line in lines:
        click.echo(f"changed: {line}")
    return lines
