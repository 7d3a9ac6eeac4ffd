"""The main job on embedded images and networks: what `statsnorm demo` runs, step by step.

24 photographs x 8 styles x 3 gains at 96 pixels, so that H5 is testable on cin26; the styles are
cin26's own, which every verdict of the demo says. Each step is one `extract` or `train` into its
own run directory, and is skipped when that run is finished.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STYLES = ("1", "4", "7", "10", "13", "16", "19", "22")
GAINS = (0.4, 0.7, 1.0)
INDEX = "0"  # the style in which the network under test runs; not among STYLES
PIXEL = ("standardise", "contrast", "contrast-rgb", "standardise-rgb", "clahe", "whiten")
PERPENDICULAR = ("match-luminance", "match-rgb")
SIZE = 96
UNTRAINED = 8
EVIDENCE = ("next_pre_norm", "residual_sum", "output")
INPUT_TAPS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "rgb", "luminance")
INDICES = ("2", "3", "5", "6", "8", "9", "11", "12")  # for H6: neither INDEX nor among STYLES

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Step:
    """One run of the demo: its folder, what it is for, and the options of `extract`."""

    name: str
    purpose: str
    options: dict[str, Any]


def design(styles: Sequence[str] = STYLES, gains: Sequence[float] = GAINS) -> dict[str, Any]:
    """Return a crossed design as a design file would say it; no gains, no contrast factor."""
    contrast = {"contrast": {"family": "gain", "values": list(gains)}} if gains else {}
    styles_table = {"generator": "cin26", "indices": list(styles)}
    return {"restore": "luminance", "styles": styles_table, **contrast}


def steps(size: int = SIZE) -> Iterator[Step]:
    """Yield the extractions of the demo in their order."""
    plain: dict[str, Any] = {"size": size}
    crossed = plain | {"design": design()}
    generator = crossed | {
        "networks": ("cin26",),
        "taps": EVIDENCE,
        "vgg_taps": ("relu3_1",),
        "indices": (INDEX,),
        "reference": "embedded",
    }
    yield Step(
        "conditions",
        "photographs in four conditions",
        plain
        | {
            "networks": ("vgg16", "pixels", "cin26"),
            "conditions": ("original", "contrast", "style", "ck"),
            "indices": (INDEX,),
            "style_index": STYLES[0],
            "invariance": True,
        },
    )
    yield Step(
        "inputs",
        "the crossed design as VGG and pixels see it",
        crossed | {"networks": ("vgg16", "pixels"), "taps": INPUT_TAPS},
    )
    yield Step(
        "design",
        "content x style x contrast, trained and untrained",
        generator | {"untrained": UNTRAINED, "treatments": ("none", "frozen:prefix")},
    )
    yield Step(
        "single",
        "one normaliser frozen, and all at once",
        generator | {"treatments": ("frozen:contract.0.norm", "frozen:all")},
    )
    yield Step(
        "pixels",
        "pixel treatments before the frozen network",
        generator | {"conditions": PIXEL, "treatments": ("frozen:prefix",)},
    )
    yield Step(
        "perpendicular",
        "style beyond luminance and palette",
        generator | {"conditions": PERPENDICULAR, "treatments": ("none", "frozen:prefix")},
    )
    yield Step(
        "index",
        "input style x index of the conditional network",
        generator
        | {
            "design": design(STYLES[:4], ()),
            "taps": ("output",),
            "indices": INDICES,
            "treatments": ("none", "frozen:prefix"),
        },
    )


def demo(
    out: str | Path = "reports/demo",
    *,
    runs: str | Path = "runs/demo",
    device: str = "auto",
    size: int = SIZE,
    progress: Progress | None = None,
) -> Any:
    """Run every step, train the small figure 1, and write the report.

    Parameters
    ----------
    out, runs : str or Path
        Folder of the report, and of the run directories that it is made from.
    size : int
        Pixels; a multiple of 4.

    Returns
    -------
    ReportResult
        As of :func:`statsnorm.report`.
    """
    from statsnorm.extraction import extract
    from statsnorm.report import write_report

    folders: list[Path] = []
    of = len(list(steps(size))) + 2  # training and the report follow
    for number, step in enumerate(steps(size), 1):
        folder = Path(runs) / step.name
        say = _named(progress, f"{number}/{of} {step.purpose}")
        extract("embedded", out=folder, device=device, progress=say, **step.options)
        folders.append(folder)
    folders.append(Path(runs) / "figure1")
    say = _named(progress, f"{of - 1}/{of} training curves, small")
    train_small(folders[-1], device=device, progress=say)

    def tell(line: str) -> None:
        if progress is not None:
            progress(0, 0, f"{of}/{of} report: {line}")  # no count of what is ahead

    return write_report(folders, out=out, progress=tell)


def train_small(out: Path, *, device: str, progress: Progress | None) -> None:
    """Train both norms on conditions a to c at 64 pixels: a check that it runs, not evidence."""
    from statsnorm.training import train

    train(
        "embedded",
        target=demo_targets(out.parent / "targets"),
        out=out,
        condition=("original", "contrast", "style"),
        size=64,
        iterations=100,
        width=16,
        residual_blocks=2,
        heldout=4,
        style_index=STYLES[0],
        device=device,
        progress=progress,
    )


def demo_targets(folder: Path) -> list[Path]:
    """Write the two target styles of the small figure 1: a photograph in styles of cin26."""
    import torch
    from torchvision.transforms.functional import to_pil_image

    from statsnorm.images.decode import decode
    from statsnorm.images.sources import find_images
    from statsnorm.images.stylise import load_style_generator

    folder.mkdir(parents=True, exist_ok=True)
    photograph = decode(find_images("embedded")[0], size=64).pixels[None]
    generator = load_style_generator("cin26")
    paths = []
    for index in ("2", "9"):
        path = folder / f"cin26-{index}.png"
        if not path.exists():
            with torch.inference_mode():
                styled = generator(photograph, index)[0].clamp(0, 1)
            to_pil_image(styled).save(path)
        paths.append(path)
    return paths


def _named(progress: Progress | None, purpose: str) -> Progress | None:
    if progress is None:
        return None
    return lambda done, total, _word: progress(done, total, purpose)
