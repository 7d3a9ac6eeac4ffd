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
@click.option(
    "--norm",
    multiple=True,
    default=("in", "bn"),
    show_default=True,
    callback=options.split_commas,
    metavar="NAME[,NAME...]",
    help="in, bn, cin, ln, gn, none, in-mean, in-sd, actnorm.",
)
@options.condition(own=False)
@click.option(
    "--blocks",
    type=click.IntRange(min=1),
    metavar="N",
    help="Blocks of cells that share target and seed; as many as targets by default.",
)
@click.option(
    "--iterations",
    type=click.IntRange(min=1),
    default=2000,
    show_default=True,
    metavar="N",
    help="Steps of every cell; the held-out loss is recorded every hundredth of them.",
)
@options.out_dir(required=True)
@options.size
@options.batch_size(
    "Images in one step of training; another number is another training.", default=4
)
@click.option(
    "--lr",
    multiple=True,
    default=("1e-3",),
    show_default=True,
    callback=options.split_numbers,
    metavar="RATE[,RATE...]",
    help="Learning rate of Adam; of several every cell is trained at each.",
)
@click.option(
    "--lr-from",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="RUN",
    help="A finished pilot; each norm on each condition has the rate that was best there.",
)
@click.option(
    "--loss",
    type=click.Choice(["vgg16", "vgg19"]),
    default="vgg16",
    show_default=True,
    help="Network in whose features the losses are taken.",
)
@click.option("--weights", metavar="NAME|FILE", help="Of the loss network.")
@click.option(
    "--statistics",
    type=click.Choice(["gram", "moments"]),
    default="gram",
    show_default=True,
    help="Style is the Gram matrix, or the channel means and sds.",
)
@click.option(
    "--style-weight",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    help="Weight of the style loss; that of the content loss is 1.",
)
@click.option(
    "--norm-at",
    type=click.Choice(["all", "first", "last"]),
    default="all",
    show_default=True,
    help="Which normalisers the generator has: all, or its first or last alone.",
)
@click.option(
    "--batch-kind",
    type=click.Choice(["mixed", "style-homogeneous", "content-homogeneous"]),
    default="mixed",
    show_default=True,
    help="How minibatches are composed; all but mixed need --renderings.",
)
@click.option(
    "--renderings",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Every photograph of a placebo is there in N styles; 0: in one, drawn by its name.",
)
@click.option(
    "--width",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    metavar="N",
    help="Channels of the generator's first convolution.",
)
@click.option(
    "--residual-blocks",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    metavar="N",
    help="Residual blocks of the generator.",
)
@click.option(
    "--heldout",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Images of the fixed evaluation set; at most half of all.",
)
@click.option(
    "--checkpoint-every",
    type=click.IntRange(min=0),
    default=500,
    show_default=True,
    help="Iterations between saved states of an unfinished cell.",
)
@click.option(
    "--keep-checkpoints",
    multiple=True,
    callback=options.whole_numbers,
    metavar="T[,T...]",
    help="Iterations whose generators are kept too; 0 is the untrained one.",
)
@click.option(
    "--keep-generators",
    multiple=True,
    default=("*",),
    show_default=True,
    callback=options.split_commas,
    metavar="GLOB[,GLOB...]",
    help="Cells whose generators are kept; '' for none.",
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
@click.option(
    "--together",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Cells trained side by side, each on its own stream of the GPU.",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Stop in time, after the last cell that fits; the same command goes on.",
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
