"""`statsnorm info`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="What a run holds, and what it misses.")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.pass_context
def info(ctx: click.Context, run: Path) -> None:
    """Say what RUN holds: images, taps, rows, bytes, provenance, what is missing or damaged.

    Of a training run: its cells, done, ended early, begun and to do, with iterations and curves.

    \b
        statsnorm info runs/vgg
        statsnorm info runs/figure1
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
    ctx.exit(0 if found.finished else 1)
