"""`statsnorm train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from statsnorm.cli import options


@click.command(short_help="Train texture networks, log the style-loss curves.")
@options.images
@click.option(
    "--target",
    multiple=True,
    required=True,
    type=click.Path(exists=True, path_type=Path),
    metavar="IMG",
    help="A style image, or a folder of them; one a block. Repeatable.",
)
@options.listed(
    "--norm",
    "in, bn, cin, ln, gn, none, in-mean, in-sd, actnorm.",
    metavar="NAME[,NAME...]",
    default=("in", "bn"),
)
@options.condition(own=False)
@options.whole(
    "--blocks", "Blocks of cells that share target and seed; as many as targets by default."
)
@options.whole(
    "--iterations",
    "Steps of every cell; the held-out loss is recorded every hundredth of them.",
    default=2000,
)
@options.out_dir(required=True)
@options.size
@options.batch_size(
    "Images in one step of training; another number is another training.", default=4
)
@options.listed(
    "--lr",
    "Learning rate of Adam; of several every cell is trained at each.",
    metavar="RATE[,RATE...]",
    default=("1e-3",),
    parse=options.split_numbers,
)
@click.option(
    "--lr-from",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="RUN",
    help="A finished pilot; each norm on each condition has the rate that was best there.",
)
@options.one_of("--loss", "Network in whose features the losses are taken.", "vgg16", "vgg19")
@click.option("--weights", metavar="NAME|FILE", help="Of the loss network.")
@options.one_of(
    "--statistics", "Style is the Gram matrix, or the channel means and sds.", "gram", "moments"
)
@options.positive(
    "--style-weight", "Weight of the style loss; that of the content loss is 1.", default=5.0
)
@options.one_of(
    "--norm-at",
    "Which normalisers the generator has: all, or its first or last alone.",
    "all",
    "first",
    "last",
)
@options.one_of(
    "--batch-kind",
    "How minibatches are composed; all but mixed need --renderings.",
    "mixed",
    "style-homogeneous",
    "content-homogeneous",
)
@options.whole(
    "--renderings",
    "Every photograph of a placebo is there in N styles; 0: in one, drawn by its name.",
    default=0,
    least=0,
)
@options.whole("--width", "Channels of the generator's first convolution.", default=32)
@options.whole("--residual-blocks", "Residual blocks of the generator.", default=5)
@options.whole("--heldout", "Images of the fixed evaluation set; at most half of all.", default=64)
@options.whole(
    "--checkpoint-every",
    "Iterations between saved states of an unfinished cell.",
    default=500,
    least=0,
)
@options.listed(
    "--keep-checkpoints",
    "Iterations whose generators are kept too; 0 is the untrained one.",
    metavar="T[,T...]",
    parse=options.whole_numbers,
)
@options.listed(
    "--keep-generators",
    "Cells whose generators are kept; '' for none.",
    metavar="GLOB[,GLOB...]",
    default=("*",),
)
@click.option("--pilot", is_flag=True, help="Blocks for learning rates and thresholds only.")
@options.style_generator
@options.style_index
@options.device
@options.precision
@click.option("--compile/--no-compile", default=False, show_default=True, help="Compile the step.")
@click.option(
    "--deterministic",
    is_flag=True,
    help="The same bits again on one device, for any number of threads; slower.",
)
@options.whole(
    "--together", "Cells trained side by side, each on its own stream of the GPU.", default=1
)
@options.positive(
    "--time-limit",
    "Stop in time, after the last cell that fits; the same command goes on.",
    metavar="SECONDS",
)
@options.restart
@options.seed
@click.pass_context
def train(ctx: click.Context, /, resume: bool, conditions: tuple[str, ...], **choices: Any) -> None:
    """Train one generator for each block, normaliser and condition.

    \b
        statsnorm train --images photos/ --target wave.jpg --target scream.jpg \\
            --norm in,bn --condition original,contrast,style --iterations 2000 --out runs/figure1

    Learning rates are chosen by a pilot on targets of its own:

    \b
        statsnorm train --images photos/ --target pilot_paintings/ --pilot --lr 5e-4,1e-3,2e-3 \\
            --condition original,contrast,style --iterations 500 --out runs/pilot
        statsnorm train --images photos/ --target paintings/ --lr-from runs/pilot \\
            --condition original,contrast,style --out runs/figure1
    """
    from statsnorm.cli.progress import progress_bar
    from statsnorm.images.conditions import check_condition
    from statsnorm.images.sources import find_images
    from statsnorm.rundir import info, skipped_lines
    from statsnorm.training import train as run_training

    for name in conditions:
        check_condition(name)
    targets = [
        path
        for t in choices.pop("target")
        for path in ([r.path for r in find_images(t)] if t.is_dir() else [t])
    ]
    with progress_bar("cells") as progress:
        run = run_training(
            choices.pop("images"),
            target=targets,
            condition=conditions,
            restart=not resume,
            progress=progress,
            **choices,
        )
    click.echo(f"curves and generators in {run.path}")
    lost, missing = skipped_lines(run), info(run.path).missing
    for line in lost:
        click.echo(f"left out: {line}")
    if missing:
        click.echo(f"not finished: {len(missing)} files are missing, first {missing[0]}")
    ctx.exit(1 if lost or missing else 0)
