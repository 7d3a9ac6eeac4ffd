"""Options that several commands share; one decorator each.

====================  ==============================

option                commands
====================  ==============================

``--out``             extract, train, report, compare, demo
``--images``          extract, train
``--condition``       extract, train
``--size``            extract, train
``--device``          extract, train, demo
``--precision``       extract, train
``--batch-size``      extract, train
``--style-generator`` extract, train
``--style-index``     extract, train
``--seed``            extract, train, report, compare
``--engine``          extract, report, compare, verify
``--workers``         report, compare, verify
``--resume/--restart`` extract, train
====================  ==============================

"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def split_commas(
    _ctx: click.Context, _param: click.Parameter, value: tuple[str, ...]
) -> tuple[str, ...]:
    """Return `a,b` and repeated options as one tuple, in the order given, without repeats."""
    parts = (part.strip() for item in value for part in item.split(","))
    return tuple(dict.fromkeys(part for part in parts if part))


def whole_numbers(
    ctx: click.Context, param: click.Parameter, value: tuple[str, ...]
) -> tuple[int, ...]:
    """Return `0,100` and repeated options as one tuple of integers."""
    parts = split_commas(ctx, param, value)
    for part in parts:
        if not (part.isascii() and part.isdecimal()):
            raise click.BadParameter(f"{part!r} is no whole number, 0 or more")
    return tuple(int(part) for part in parts)


def split_numbers(
    ctx: click.Context, param: click.Parameter, value: tuple[str, ...]
) -> tuple[float, ...]:
    """Return `1e-3,2e-3` and repeated options as one tuple of numbers."""
    numbers = []
    for part in split_commas(ctx, param, value):
        try:
            numbers.append(float(part))
        except ValueError:
            raise click.BadParameter(f"{part!r} is no number", ctx=ctx, param=param) from None
    return tuple(numbers)


def listed(
    flag: str,
    text: str,
    *names: str,
    metavar: str,
    default: tuple[str, ...] = (),
    shown: str = "",
    parse: Callable[..., Any] = split_commas,
) -> Callable[[Command], Command]:
    """Return an option that takes `a,b` or is repeated; `shown`: the default to print instead."""
    return click.option(
        flag,
        *names,
        multiple=True,
        default=default,
        callback=parse,
        metavar=metavar,
        show_default=shown or bool(default),
        help=text,
    )


def _in_words(kind: click.ParamType[Any], words: str) -> click.ParamType[Any]:
    """Let "'abc' is not a valid integer range" say what is asked for."""
    kind.name = words
    return kind


def whole(
    flag: str,
    text: str,
    *,
    default: int | None = None,
    least: int = 1,
    most: int | None = None,
    metavar: str = "N",
) -> Callable[[Command], Command]:
    """Return an option that takes a whole number from `least` to `most`."""
    return click.option(
        flag,
        type=_in_words(click.IntRange(min=least, max=most), "whole number"),
        default=default,
        show_default=default is not None,
        metavar=metavar,
        help=text,
    )


def one_of(flag: str, text: str, *choices: str) -> Callable[[Command], Command]:
    """Return an option that takes one of `choices`, the first by default."""
    return click.option(
        flag, type=click.Choice(choices), default=choices[0], show_default=True, help=text
    )


def positive(
    flag: str,
    text: str,
    *,
    default: float | None = None,
    most: float | None = None,
    metavar: str = "X",
) -> Callable[[Command], Command]:
    """Return an option that takes a number above 0, up to `most`."""
    return click.option(
        flag,
        type=_in_words(click.FloatRange(min=0, max=most, min_open=True), "number"),
        default=default,
        show_default=default is not None,
        metavar=metavar,
        help=text,
    )


def out_dir(default: str | None = None, *, required: bool = False) -> Callable[[Command], Command]:
    """`--out DIR`: where results go."""
    given: dict[str, Any] = {} if default is None else {"default": default}  # None would count
    return click.option(
        "--out",
        type=click.Path(file_okay=False, path_type=Path),
        required=required,
        show_default=default is not None,
        metavar="DIR",
        help="Folder for the results.",
        **given,
    )


images = click.option(
    "--images",
    required=True,
    metavar="SRC",
    help="A folder (searched recursively), a text file of paths, a CSV manifest with a column "
    "`image`, or `embedded`.",
)


def condition(*, own: bool) -> Callable[[Command], Command]:
    """`--condition NAME`: input treatments; with `own` also the user's versions, NAME=DIR."""
    return listed(
        "--condition",
        "Input treatments, each made from the same decoded image: original, contrast, style, "
        "ck, placebo, placebo-matched, blur, contrast-rgb, standardise, standardise-rgb, whiten, "
        "clahe, match-luminance, match-rgb; by degrees: styles-K (one of K styles an image), "
        "blend-P (P per cent style), gains-P (gains spread over P per cent)"
        + ("; or your own versions, paired by relative path." if own else "."),
        "conditions",
        metavar="NAME[,NAME...]|NAME=DIR" if own else "NAME[,NAME...]",
        default=("original",),
    )


size = whole(
    "--size",
    "Shorter side to N, then the central square; an N x N image is left as it is.",
    default=256,
)
device = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="cpu, cuda, cuda:1, or auto: a GPU where there is one.",
)
precision = one_of(
    "--precision",
    "Arithmetic of the networks; moments are reduced in at least float32.",
    *("fp32", "tf32", "bf16"),
)


def batch_size(text: str, default: int | None = None) -> Callable[[Command], Command]:
    """`--batch-size N`: what it means differs between measuring and training."""
    return whole("--batch-size", text, default=default)


style_generator = click.option(
    "--style-generator",
    default="cin26",
    show_default=True,
    metavar="NAME",
    help="Who makes the conditions style, ck and placebo: cin26, filters, a network file.",
)
style_index = click.option(
    "--style-index",
    default=None,
    metavar="INDEX",
    help="Which of the generator's styles; the generator's first by default.",
)
seed = click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of every random draw."
)


def engine(what: str) -> Callable[[Command], Command]:
    """`--engine NAME`: where `what` runs."""
    return click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help=f"Where {what}: here, or on the Ray cluster of RAY_ADDRESS (else a local one).",
    )


analysis_workers = click.option(
    "--workers",
    type=_in_words(click.IntRange(min=0, max=256), "whole number"),
    default=None,
    metavar="N",
    help="Processes that share the taps, one tap in memory each; 0: as many as there are CPUs. "
    "1 by default, with --engine ray 0.",
)
restart = click.option(
    "--resume/--restart",
    "resume",
    default=True,
    show_default=True,
    help="Go on with what is there, or throw it away and begin anew.",
)
