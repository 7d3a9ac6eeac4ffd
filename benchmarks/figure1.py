"""Figure 1, the confirmatory run: 10 paintings x IN, BN x a, b, ck, c, p*, after a rate pilot.

    python benchmarks/figure1.py prepare --photographs DIR --paintings DIR --data .gpu/figure1
    python benchmarks/figure1.py run --data .gpu/figure1 --out OUT --time-limit 540

`prepare` writes everything that the run reads, as 256-pixel JPEG files. `run` trains until its time
is up and leaves in OUT: `figure1.tar` with the curves of all cells so far, and the generators that
this call finished on originals, a few in each `generators-K.tar`. The same command with
`--state FOLDER`, where the last `figure1.tar` lies, goes on, on another machine if need be; cells
come block by block, so what is there at any time is a smaller balanced study. With everything
trained, unpack the tar files and

    statsnorm extract --images DATA/photographs --network vgg16,pixels \\
        --condition original,contrast,ck,style,placebo-matched --out runs/figure1-inputs
    statsnorm report runs/figure1/pilot runs/figure1/main runs/figure1-inputs --out reports/figure1
"""

from __future__ import annotations

import argparse
import tarfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from statsnorm.errors import ImageError
from statsnorm.images.decode import decode
from statsnorm.images.sources import find_images
from statsnorm.rundir import info
from statsnorm.training import train
from statsnorm.training.plan import derived_seed

BLOCKS, PILOTS = 10, 2
NORMS = ("in", "bn")
CONDITIONS = ("original", "contrast", "ck", "style", "placebo-matched")
RATES = (5e-4, 1e-3, 2e-3)
MOST = 64 * 2**20  # bytes of prepared data
PART = 15 * 2**20  # bytes of a tar file of generators
QUALITY = 92


def prepare(photographs: Path, paintings: Path, data: Path, *, size: int = 256) -> dict[str, int]:
    """Write photographs, targets and pilot targets as square JPEG files; return how many of each.

    Which paintings are targets and which pilots is drawn by a hash of their names.
    """
    refs = find_images(paintings)
    drawn = sorted(refs, key=lambda ref: derived_seed(0, "painting", ref.image))
    sets = {
        "photographs": find_images(photographs),
        "targets": drawn[:BLOCKS],
        "pilot": drawn[BLOCKS : BLOCKS + PILOTS],
    }
    counts = {}
    for name, chosen in sets.items():
        folder = data / name
        folder.mkdir(parents=True, exist_ok=True)
        counts[name] = 0
        for ref in chosen:
            try:
                pixels = decode(ref, size=size).pixels
            except ImageError as error:
                print(f"left out: {error}")
                continue
            array = (pixels * 255).round().byte().permute(1, 2, 0).numpy()
            stem = Path(ref.image).with_suffix("").as_posix().replace("/", "-")
            Image.fromarray(array).save(folder / f"{stem}.jpg", quality=QUALITY)
            counts[name] += 1
    written = sum(f.stat().st_size for f in data.rglob("*.jpg"))
    if written > MOST:
        raise SystemExit(f"{data} holds {written} bytes, more than {MOST}; take fewer photographs")
    return counts


def run(
    data: Path,
    runs: Path,
    *,
    until: float,
    iterations: int,
    pilot_iterations: int,
    **options: Any,
) -> bool:
    """Train the pilot, then the study, until `until` (time.monotonic()); tell whether all is done.

    `options` are those of :func:`statsnorm.training.train` that both share.
    """
    shared = {"norm": NORMS, "condition": CONDITIONS, **options}
    pilot = train(
        data / "photographs",
        target=paintings(data / "pilot"),
        out=runs / "pilot",
        pilot=True,
        lr=RATES,
        iterations=pilot_iterations,
        keep_generators=(),
        time_limit=left(until),
        **shared,
    )
    if info(pilot.path).missing or time.monotonic() >= until:
        return False
    main = train(
        data / "photographs",
        target=paintings(data / "targets"),
        out=runs / "main",
        lr_from=pilot.path,
        iterations=iterations,
        keep_generators=_unfinished(runs / "main"),
        time_limit=left(until),
        **shared,
    )
    return (main.path / "done.json").exists()


def paintings(folder: Path) -> list[Path]:
    """Return the images of a folder in order."""
    return [ref.path for ref in find_images(folder)]


def left(until: float) -> float:
    """Return the seconds until `until` (time.monotonic()), more than none."""
    return max(until - time.monotonic(), 1e-9)


def _unfinished(out: Path) -> tuple[str, ...]:
    """Return globs of the cells on originals that have no curves yet: their generators are kept."""
    done = {path.stem for path in out.glob("curves/*.parquet")}
    arms = [f"b{block:02d}-*-{norm}-original" for block in range(BLOCKS) for norm in NORMS]
    return tuple(a for a in arms if not any(_matches(name, a) for name in done))


def _matches(name: str, arm: str) -> bool:
    beginning, _, end = arm.partition("*")
    return name.startswith(beginning) and name.endswith(end)


def pack(runs: Path, out: Path, before: Iterable[str]) -> None:
    """Write `figure1.tar` (all but generators) and tar files of the generators not in `before`."""
    out.mkdir(parents=True, exist_ok=True)
    files = [f for f in sorted(runs.rglob("*")) if f.is_file() and f.suffix != ".safetensors"]
    kept = [f for f in files if "locks" not in f.parts]
    _tar(out / "figure1.tar", runs, kept)
    known, parts = set(before), [list[Path]()]
    for file in sorted(runs.glob("*/generators/*.safetensors")):
        if file.name in known or file.name.endswith(".part.safetensors"):
            continue
        if sum(f.stat().st_size for f in (*parts[-1], file)) > PART and parts[-1]:
            parts.append([])
        parts[-1].append(file)
    for number, part in enumerate(filter(None, parts)):
        _tar(out / f"generators-{number}.tar", runs, part)


def unpack(state: Path, runs: Path) -> list[str]:
    """Unpack the tar files of an earlier call; return the names of the generators among them."""
    for archive in sorted(state.glob("*.tar")):
        with tarfile.open(archive) as file:
            file.extractall(runs, filter="data")
    return [f.name for f in runs.glob("*/generators/*.safetensors")]


def _tar(path: Path, root: Path, files: Sequence[Path]) -> None:
    with tarfile.open(path, "w") as archive:
        for file in files:
            archive.add(file, arcname=str(file.relative_to(root)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("prepare", help="write what the run reads")
    one.add_argument("--photographs", type=Path, required=True)
    one.add_argument("--paintings", type=Path, required=True)
    one.add_argument("--data", type=Path, required=True)
    one.add_argument("--size", type=int, default=256)
    two = verbs.add_parser("run", help="train until the time is up")
    two.add_argument("--data", type=Path, required=True)
    two.add_argument("--out", type=Path, required=True)
    two.add_argument("--runs", type=Path, default=Path("runs/figure1"))
    two.add_argument("--state", type=Path, help="folder with the tar files of an earlier call")
    two.add_argument("--time-limit", type=float, default=540.0, metavar="SECONDS")
    two.add_argument("--iterations", type=int, default=2000)
    two.add_argument("--pilot-iterations", type=int, default=500)
    two.add_argument("--size", type=int, default=256)
    two.add_argument("--precision", default="tf32", choices=["fp32", "tf32", "bf16"])
    two.add_argument("--compile", action="store_true")
    two.add_argument("--together", type=int, default=1)
    two.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    two.add_argument("--toy", action="store_true", help="tiny networks, to see that it works")
    return parser.parse_args()


def main() -> None:
    began = time.monotonic()
    given = _arguments()
    if given.verb == "prepare":
        counts = prepare(given.photographs, given.paintings, given.data, size=given.size)
        print(", ".join(f"{n} {name}" for name, n in counts.items()))
        return
    toy: dict[str, Any] = {"width": 4, "residual_blocks": 0, "heldout": 4, "batch_size": 2}
    known = unpack(given.state, given.runs) if given.state else []
    finished = run(
        given.data,
        given.runs,
        until=began + given.time_limit,
        iterations=given.iterations,
        pilot_iterations=given.pilot_iterations,
        size=given.size,
        precision=given.precision,
        compile=given.compile,
        together=given.together,
        device=given.device,
        progress=lambda done, total, cell: print(f"{done}/{total} {cell}", flush=True),
        **(toy if given.toy else {}),
    )
    pack(given.runs, given.out, known)
    cells = len(list(given.runs.glob("main/curves/*.parquet")))
    planned = BLOCKS * len(NORMS) * len(CONDITIONS)
    print(f"{cells} of {planned} cells; {'all done' if finished else 'the same call goes on'}")


if __name__ == "__main__":
    main()
