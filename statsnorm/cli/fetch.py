"""`statsnorm fetch`: data and weights by name."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Download photographs or weights by name.")
@click.argument("name")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="data",
    show_default=True,
    metavar="DIR",
    help="Folder for photographs; weights go into torchvision's cache.",
)
def fetch(name: str, out: Path) -> None:
    """Download NAME: coco-val2017 (0.8 GB), coco-train2017 (19 GB), vgg16, vgg19.

    A download that broke off goes on where it stopped; size and SHA-256 are checked.

    \b
        statsnorm fetch coco-val2017 --out data
        statsnorm extract --images data/val2017 --network vgg16 --out runs/coco
    """
    from statsnorm.cli.progress import progress_bar
    from statsnorm.fetch import fetch as get

    with progress_bar("bytes") as progress:
        click.echo(get(name, out=out, progress=progress))
