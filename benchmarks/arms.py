"""Rival explanations of figure 1 as arms, exploratory: which part of IN, or of BN, makes the gap?

    python benchmarks/figure1.py prepare --photographs DIR --paintings DIR --data .gpu/figure1
    python benchmarks/arms.py --data .gpu/figure1 --out OUT --time-limit 540

Three blocks each of: every normaliser; IN at the first or the last norm alone; BN at batch 2 and
16; BN on batches of one style and of one content, beside IN and BN on the same renderings in mixed
order; IN and BN on every stronger contrast normalisation. It stops in time, and the same command
goes on; `--state FOLDER`, where the last `figure1.tar` lies, goes on elsewhere. Then

    statsnorm report RUNS/* --analysis figure1 --out reports/arms
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from figure1 import left, pack, paintings, unpack

from statsnorm.training import train

NORMS = ("in", "bn", "ln", "gn", "none", "in-mean", "in-sd", "actnorm")
PAIR = ("in", "bn")
STRONGER = ("contrast", "contrast-rgb", "standardise-rgb", "whiten", "clahe")
RENDERED: dict[str, Any] = {"condition": ("placebo",), "renderings": 4}
ARMS: dict[str, dict[str, Any]] = {
    "norms": {"norm": NORMS, "condition": ("original",)},
    "first": {"norm": ("in",), "condition": ("original",), "norm_at": "first"},
    "last": {"norm": ("in",), "condition": ("original",), "norm_at": "last"},
    "mixed": {"norm": PAIR, **RENDERED},
    "style-homogeneous": {"norm": ("bn",), **RENDERED, "batch_kind": "style-homogeneous"},
    "content-homogeneous": {"norm": ("bn",), **RENDERED, "batch_kind": "content-homogeneous"},
    "batch-2": {"norm": ("bn",), "condition": ("original",), "batch_size": 2},
    "stronger": {"norm": PAIR, "condition": STRONGER},
    "batch-16": {"norm": ("bn",), "condition": ("original",), "batch_size": 16},
}


def run(data: Path, runs: Path, *, blocks: int, until: float, **options: Any) -> bool:
    """Train arm after arm until `until` (time.monotonic()); tell whether all are done."""
    done = True
    for name, arm in ARMS.items():
        if time.monotonic() >= until:
            return False
        run = train(
            data / "photographs",
            target=paintings(data / "targets"),
            blocks=blocks,
            out=runs / name,
            keep_generators=(),
            time_limit=left(until),
            progress=lambda n, total, cell, name=name: print(f"{name} {n}/{total} {cell}"),
            **(options | arm),
        )
        done = done and (run.path / "done.json").exists()
    return done


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/arms"))
    parser.add_argument("--state", type=Path, help="folder with figure1.tar of an earlier call")
    parser.add_argument("--time-limit", type=float, default=540.0, metavar="SECONDS")
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--residual-blocks", type=int, default=5)
    parser.add_argument("--heldout", type=int, default=64)
    parser.add_argument("--precision", default="tf32", choices=["fp32", "tf32", "bf16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def main() -> None:
    began = time.monotonic()
    given = vars(_arguments())
    data, out, runs, state = (given.pop(key) for key in ("data", "out", "runs", "state"))
    known = unpack(state, runs) if state else []
    finished = run(data, runs, until=began + given.pop("time_limit"), **given)
    pack(runs, out, known)
    print("all done" if finished else "the same call goes on")


if __name__ == "__main__":
    main()
