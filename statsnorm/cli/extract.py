"""`statsnorm extract`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from statsnorm.cli import options


@click.command(short_help="Images through networks into tables of channel moments.")
@options.images
@options.listed(
    "--network",
    "vgg16, vgg19, cin26, pixels, a .safetensors file, NET+KIND (vgg16+in, texture+gn32; "
    "NET+zoo for all kinds), or package.module:function, which runs that code.",
    "networks",
    metavar="NET",
    shown="vgg16",
)
@click.option(
    "--generators",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="A run of train: the generators of all its cells, those kept on the way too.",
)
@options.listed(
    "--cells", "Only these cells of --generators.", metavar="GLOB[,GLOB...]", default=("*",)
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
@options.listed(
    "--taps", "Only these taps of the networks; all by default.", metavar="NAME|KIND|GLOB"
)
@options.listed(
    "--vgg-taps",
    "Taps of VGG of a generator's output.",
    metavar="NAME",
    default=("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_2"),
)
@options.one_of("--vgg-of-output", "Which VGG sees a generator's output.", "vgg16", "vgg19", "none")
@options.listed(
    "--treatment",
    "none, frozen:prefix, frozen:all, frozen:NORMALISER or bn_train, for networks that "
    "have normalisers; swap:gamma|beta|both[@PART+PART|@each|@orders-N]:to=STYLE|others or "
    "blend:SHARE:to=STYLE|others, for networks with an index.",
    "treatments",
    metavar="NAME",
    default=("none",),
)
@click.option(
    "--reference",
    metavar="SRC",
    help="Images that calibrate frozen maps; never the tested cells.",
)
@options.listed(
    "--index",
    "Style indices of a conditional network; its first by default.",
    "indices",
    metavar="I[,I...]",
)
@options.whole(
    "--untrained", "Also N random initialisations of every generator.", default=0, least=0
)
@click.option("--weights", metavar="NAME|FILE", help="embedded, torchvision, or a local file.")
@options.style_generator
@options.style_index
@options.positive(
    "--strength",
    "Blend of the styled with the plain image in the conditions style, ck and placebo.",
    default=1.0,
    most=1,
)
@options.one_of(
    "--restore",
    "Put the content's own luminance mean and sd back after styling.",
    "none",
    "luminance",
)
@options.listed(
    "--bn-mode",
    "Batch normalisers use running statistics, or those of the batch, or each in turn.",
    metavar="eval[,train]",
    default=("eval",),
)
@options.listed(
    "--batch-kind",
    "How batches are composed where batch normalisers use them: mixed, style-homogeneous, "
    "content-homogeneous; each in turn.",
    metavar="KIND[,KIND...]",
    default=("mixed",),
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
@options.whole(
    "--workers",
    "Decoding threads; 0: as many as there are cores, at most 8.",
    default=0,
    least=0,
    most=256,
)
@click.option("--shard", metavar="i/n", help="Only every n-th shard, from the i-th.")
@options.whole(
    "--shard-size", "Images a shard; part of the configuration. Default: 128, with a design 32."
)
@options.engine("shards run")
@options.restart
@options.whole("--max-skipped", "Give up when more images than this cannot be used.", least=0)
@options.whole("--pixel-limit", "Pixels of the largest image that is decoded.", default=178_956_970)
@click.option("--invariance", is_flag=True, help="Also test the first layer's invariances.")
@options.whole(
    "--correlations",
    "Also keep the correlations between at most N channels of a tap; of more channels, "
    "those of a seeded draw.",
    default=0,
    least=0,
)
@options.listed(
    "--correlation-taps", "Only at these taps; at all by default.", metavar="NAME|KIND|GLOB"
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
