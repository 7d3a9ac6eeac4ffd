"""Extraction against the bare forward pass, torchvision's feature extractor, and thingsvision."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from timing import Row, both, row, seconds, side_by_side
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from statsnorm.allocator import keep_freed_memory
from statsnorm.devices import arithmetic
from statsnorm.extraction import extract
from statsnorm.images.decode import decode
from statsnorm.images.sources import find_images
from statsnorm.networks import Network, load_network

FIVE = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_2")
PEER = Path(__file__).parent / "peers" / "thingsvision_vgg.py"


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    images: int
    pixels: int
    batch: int
    rounds: int


def photographs(folder: Path, source: str, size: Size) -> Path:
    """Write JPEG files of the benchmark's size, as many as asked for, and return their folder.

    Photographs that are needed again are shifted: moments of equal images would take no room.
    """
    made = folder / f"jpeg-{size.pixels}-{size.images}"
    refs = find_images(source)
    made.mkdir(parents=True, exist_ok=True)
    for k in range(size.images):
        path = made / f"{k:05d}.jpg"
        if not path.exists():
            pixels = decode(refs[k % len(refs)], size=size.pixels).pixels
            pixels = pixels.roll((k // len(refs)) * 7, dims=-1)
            array = (pixels * 255).round().byte().permute(1, 2, 0).numpy()
            Image.fromarray(array).save(path, quality=92)
    return made


def bare_forward(
    network: Network, x: Tensor, size: Size, precision: str, last: str | None = None
) -> Callable[[], None]:
    """Return a forward pass over all images, channels last, ending with the tap `last`."""
    module = upto(network.module, last)

    def run() -> None:
        with arithmetic(precision, x.device.type):
            for batch in x.split(size.batch):
                module(network.preprocess(batch))

    return run


def upto(module: nn.Module, last: str | None) -> nn.Module:
    """Return a sequence that ends with the child `last`."""
    if last is None:
        return module
    names = [name for name, _ in module.named_children()]
    return nn.Sequential(*list(module.children())[: names.index(last) + 1])


def run_extract(
    images: Path, out: Path, size: Size, device: str, precision: str, **options: object
) -> Callable[[], None]:
    """Return a whole extraction: decode, forward, moments, tables."""

    def run() -> None:
        shutil.rmtree(out, ignore_errors=True)
        extract(
            images,
            out=out,
            size=size.pixels,
            batch_size=size.batch,
            device=device,
            precision=precision,
            **options,  # type: ignore[arg-type]
        )

    return run


def feature_extractor(network: Network, x: Tensor, size: Size) -> Callable[[], None]:
    """Return what people write: torchvision's extractor, then mean and variance of each tap."""
    children = dict(network.module.named_children())
    names = [str(k) for k, name in enumerate(children) if name.startswith("relu")]
    plain = nn.Sequential(*children.values())  # its names end in no number of their own
    extractor = create_feature_extractor(plain, return_nodes=names)

    def run() -> None:
        with torch.inference_mode():
            for batch in x.split(size.batch):
                found = extractor(network.preprocess(batch))
                for tap in names:
                    found[tap].mean(dim=(2, 3)).cpu()
                    found[tap].var(dim=(2, 3), correction=0).cpu()

    return run


def benchmark(
    scratch: Path, source: str, size: Size, device: str, precisions: tuple[str, ...], peer: str
) -> Iterator[Row]:
    """Yield the ratios of extraction."""
    keep_freed_memory()
    images = photographs(scratch, source, size)
    network = load_network("vgg16")
    network.module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.stack([decode(ref, size=size.pixels).pixels for ref in find_images(images)])
    x = x.to(device).contiguous(memory_format=torch.channels_last)
    about = f"VGG-16 to relu4_2, 9 taps, {size.images} JPEG files at {size.pixels} px"
    out = scratch / "run"
    options: dict[str, object] = {"networks": ("vgg16",)}
    for precision in precisions:
        ours = run_extract(images, out, size, device, precision, **options)
        theirs = bare_forward(network, x, size, precision)
        ratios = side_by_side(ours, theirs, rounds=size.rounds, device=device)
        yield from both(
            "extract", "extract / bare forward", ratios,
            target="<= 1.10", setting=f"{about}, {precision}", device=device,
        )  # fmt: skip
    ours = run_extract(images, out, size, device, "fp32", networks=("vgg16",), taps=("relu3_1",))
    ratios = side_by_side(
        ours,
        bare_forward(network, x, size, "fp32", "relu3_1"),
        rounds=size.rounds,
        device=device,
    )
    yield from both(
        "extract", "extract / bare forward, both stop early", ratios, device=device,
        target="<= 1.10", setting=f"relu3_1 alone, {size.images} files at {size.pixels} px, fp32",
    )  # fmt: skip
    three = {"networks": ("vgg16",), "conditions": ("original", "contrast", "style")}
    ratios = side_by_side(
        run_extract(images, out, size, device, "fp32", **three),
        run_extract(images, scratch / "one", size, device, "fp32", **options),
        rounds=size.rounds,
        device=device,
    )
    about_three = "original, contrast, style (cin26); content distances; each image decoded once"
    yield from both(
        "extract", "three conditions / 3 x one condition", ratios.scaled(1 / 3), device=device,
        target="", setting=f"{about_three}; {size.images} files at {size.pixels} px, fp32",
    )  # fmt: skip
    ours = run_extract(images, out, size, device, "fp32", **options)
    ratios = side_by_side(
        ours, feature_extractor(network, x, size), rounds=size.rounds, device=device
    )
    yield from both(
        "extract", "extract / create_feature_extractor + mean, var", ratios, device=device,
        target="<= 1.00", setting=f"{about}; theirs without decoding and writing",
    )  # fmt: skip
    if peer:
        yield against_thingsvision(images, scratch, size, device, peer)


def against_thingsvision(images: Path, scratch: Path, size: Size, device: str, python: str) -> Row:
    """Compare on five layers; thingsvision runs in its own environment and saves its features."""
    ours = run_extract(
        images, scratch / "run", size, device, "fp32", networks=("vgg16",), taps=FIVE
    )
    ours()
    ratios = []
    for _ in range(size.rounds):
        mine = seconds(ours, device)
        command = [python, str(PEER), str(images), str(scratch / "peer"), str(size.batch), device]
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        if said.returncode:
            sys.exit(f"thingsvision failed:\n{said.stderr[-2000:]}")
        ratios.append(mine / float(said.stdout.split()[-1]))
    return row(
        "extract", "extract / thingsvision", ratios, target="<= 1.00",
        setting=f"five ReLUs of VGG-16, {size.images} files; theirs at 224 px, its fixed size",
    )  # fmt: skip
