"""`statsnorm taps`."""

from __future__ import annotations

import click

from statsnorm.cli import options


@click.command(short_help="The taps of a network: names, kinds, channels, sizes.")
@click.argument("network")
@options.size
@click.option("--weights", metavar="NAME|FILE", help="embedded, torchvision, or a local file.")
def taps(network: str, size: int, weights: str | None) -> None:
    """List where moments can be read in NETWORK.

    \b
        statsnorm taps cin26
        statsnorm taps torchvision.models:resnet18 --size 224
    """
    import torch

    from statsnorm.networks import load_network, must_run
    from statsnorm.taps import find_taps

    loaded, x = load_network(network, weights=weights), torch.zeros(1, 3, size, size)
    with must_run(loaded, x):
        found = find_taps(loaded, x)
    width = max(len(tap.name) for tap in found)
    click.echo(f"{'tap':<{width}}  kind           channels  size       by construction")
    for tap in found:
        size_text = f"{tap.height}x{tap.width}"
        mark = "yes" if any(tap.by_construction) else ""
        line = f"{tap.name:<{width}}  {tap.kind:<13}  {tap.channels:>8}  {size_text:<9}  {mark}"
        click.echo(line.rstrip())
