"""`statsnorm extract`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from statsnorm.cli import options


@click.command(short_help="Images through networks into tables of channel moments.")
@options.images
@click.option(
    "--network",
    "networks",
    multiple=True,
    show_default="vgg16",
    callback=options.split_commas,
    metavar="NET",
    help="vgg16, vgg19, cin26, pixels, a .safetensors file, NET+KIND (vgg16+in, texture+gn32; "
    "NET+zoo for all kinds), or package.module:function, which runs that code.",
)
@click.option(
    "--generators",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="A run of train: the generators of all its cells, those kept on the way too.",
)
@click.option(
    "--cells",
    multiple=True,
    default=("*",),
    show_default=True,
    callback=options.split_commas,
    metavar="GLOB[,GLOB...]",
    help="Only these cells of --generators.",
)
@options.condition(own=True)
@click.option(
    "--design",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="TOML file of a crossed content x style x contrast design.",
)
@options.out_dir(required=True)
@options.size
@click.option(
    "--taps",
    multiple=True,
    callback=options.split_commas,
    metavar="NAME|KIND|GLOB",
    help="Only these taps of the networks; all by default.",
)
@click.option(
    "--vgg-taps",
    multiple=True,
    default=("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_2"),
    show_default=True,
    callback=options.split_commas,
    metavar="NAME",
    help="Taps of VGG of a generator's output.",
)
@click.option(
    "--vgg-of-output",
    type=click.Choice(["vgg16", "vgg19", "none"]),
    default="vgg16",
    show_default=True,
    help="Which VGG sees a generator's output.",
)
@click.option(
    "--treatment",
    "treatments",
    multiple=True,
    default=("none",),
    show_default=True,
    callback=options.split_commas,
    metavar="NAME",
    help="none, frozen:prefix, frozen:all, frozen:NORMALISER or bn_train, for networks that "
    "have normalisers; swap:gamma|beta|both[@PART+PART|@each|@orders-N]:to=STYLE|others or "
    "blend:SHARE:to=STYLE|others, for networks with an index.",
)
@click.option(
    "--reference",
    metavar="SRC",
    help="Images that calibrate frozen maps; never the tested cells.",
)
@click.option(
    "--index",
    "indices",
    multiple=True,
    callback=options.split_commas,
    metavar="I[,I...]",
    help="Style indices of a conditional network; its first by default.",
)
@click.option(
    "--untrained",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Also N random initialisations of every generator.",
)
@click.option("--weights", metavar="NAME|FILE", help="embedded, torchvision, or a local file.")
@options.style_generator
@options.style_index
@click.option(
    "--strength",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Blend of the styled with the plain image in the conditions style, ck and placebo.",
)
@click.option(
    "--restore",
    type=click.Choice(["none", "luminance"]),
    default="none",
    show_default=True,
    help="Put the content's own luminance mean and sd back after styling.",
)
@click.option(
    "--bn-mode",
    multiple=True,
    default=("eval",),
    show_default=True,
    callback=options.split_commas,
    metavar="eval[,train]",
    help="Batch normalisers use running statistics, or those of the batch, or each in turn.",
)
@click.option(
    "--batch-kind",
    multiple=True,
    default=("mixed",),
    show_default=True,
    callback=options.split_commas,
    metavar="KIND[,KIND...]",
    help="How batches are composed where batch normalisers use them: mixed, style-homogeneous, "
    "content-homogeneous; each in turn.",
)
@options.batch_size("Images in one forward pass; never changes a row beyond rounding.")
@options.device
@options.precision
@click.option(
    "--compile/--no-compile",
    default=False,
    show_default=True,
    help="Compile the passes: slower to start, faster per image.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=0, max=256),
    default=0,
    show_default=True,
    metavar="N",
    help="Decoding threads; 0: as many as there are cores, at most 8.",
)
@click.option("--shard", metavar="i/n", help="Only every n-th shard, from the i-th.")
@click.option(
    "--shard-size",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    metavar="N",
    help="Images in one shard; part of the configuration.",
)
@options.engine("shards run")
@options.restart
@click.option(
    "--max-skipped",
    type=click.IntRange(min=0),
    default=None,
    metavar="N",
    help="Give up when more images than this cannot be used.",
)
@click.option(
    "--pixel-limit",
    type=click.IntRange(min=1),
    default=178_956_970,
    show_default=True,
    metavar="N",
    help="Pixels of the largest image that is decoded.",
)
@click.option("--invariance", is_flag=True, help="Also test the first layer's invariances.")
@click.option(
    "--correlations",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Also keep the correlations between at most N channels of a tap; of more channels, "
    "those of a seeded draw.",
)
@click.option(
    "--correlation-taps",
    multiple=True,
    callback=options.split_commas,
    metavar="NAME|KIND|GLOB",
    help="Only at these taps; at all by default.",
)
@click.option("--dry-run", is_flag=True, help="Images, rows, bytes and time; writes nothing.")
@options.seed
@click.pass_context
def extract(ctx: click.Context, /, images: str, resume: bool, **choices: Any) -> None:
    """Reduce every tapped activation to its per-image, per-channel mean and variance.

    \b
        statsnorm extract --images photos/ --network vgg16 \\
            --condition original,contrast,style --out runs/vgg
        statsnorm extract --images embedded --design design.toml --network cin26 \\
            --treatment none,frozen:prefix --reference embedded --out runs/cin26
        statsnorm extract --images embedded --design design.toml --generators runs/figure1 \\
            --treatment none,frozen:prefix --reference embedded --out runs/trained
    """
    from statsnorm.cli.progress import progress_bar
    from statsnorm.extraction import extract as run_extract

    with progress_bar("passes") as progress:
        found = run_extract(images, restart=not resume, progress=progress, **choices)
    click.echo(found.summary())
    lost = found.skipped or found.left_out or found.missing or found.changed
    ctx.exit(1 if lost else 0)
