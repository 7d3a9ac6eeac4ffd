"""Moments in fp32, tf32, bf16 and fp16 against float64, tap by tap; and whether a verdict changes.

    python benchmarks/precision.py --images embedded --size 256 --out reports/benchmarks

The float64 pass is the reference. An error is relative for variances, and in units of the
channel's root mean square for means, whose own size may be about 0; given are the median, the
95th percentile and the largest over images and live channels. A verdict is that of the analysis
`manipulation` (gates M1 to M3) on the run in that precision.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from timing import device_name
from torch import Tensor

from statsnorm.decisions import load_plan
from statsnorm.devices import tf32
from statsnorm.extraction import extract, measure
from statsnorm.images.decode import decode
from statsnorm.images.sources import find_images
from statsnorm.load import Tables
from statsnorm.moments import ChannelMoments
from statsnorm.networks import Network, load_network
from statsnorm.report.discover import find_analyses
from statsnorm.taps import find_taps, forward_moments

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def moments_in(
    network: Network, x: Tensor, index: str, precision: str
) -> dict[str, ChannelMoments]:
    """Return the moments of all taps of a network in a precision; "fp64" for the reference."""
    if precision == "fp64":
        network = _in_float64(network)
        x = x.double()
    kind = x.device.type
    taps = find_taps(network, x[:1])
    half = precision in _DTYPES
    with (
        tf32(allowed=precision == "tf32"),
        torch.autocast(kind, _DTYPES.get(precision, torch.bfloat16), enabled=half),
    ):
        found, _ = forward_moments(network, x, taps, index=index)
    return {tap.label: m for tap, m in found.items()}


def _in_float64(network: Network) -> Network:
    from dataclasses import replace

    return replace(network, module=copy.deepcopy(network.module).double())


def errors(network: Network, x: Tensor, index: str, precision: str) -> Iterator[dict[str, object]]:
    """Yield a row a tap and moment: quantiles of the error over images and live channels."""
    exact = moments_in(network, x, index, "fp64")
    found = moments_in(network, x, index, precision)
    for tap, reference in exact.items():
        mean, var = reference.mean.cpu().numpy(), reference.var.cpu().numpy()
        power = mean**2 + var
        live = var > 1e-6 * np.median(var[var > 0])
        for moment, ours, theirs, scale in (
            ("mean", found[tap].mean, mean, np.sqrt(power)),
            ("var", found[tap].var, var, var),
        ):
            off = np.abs(ours.double().cpu().numpy() - theirs)[live] / scale[live]
            yield {
                "network": network.name, "tap": tap, "moment": moment, "precision": precision,
                "median": float(np.median(off)), "p95": float(np.quantile(off, 0.95)),
                "largest": float(off.max()), "finite": bool(np.isfinite(off).all()),
            }  # fmt: skip


def precision_table(source: str, *, size: int, images: int, device: str) -> pd.DataFrame:
    """Return the errors of VGG-16 and cin26 in every precision that the device has."""
    refs = find_images(source)[:images]
    x = torch.stack([decode(ref, size=size).pixels for ref in refs]).to(device)
    rows: list[dict[str, object]] = []
    for name, index in (("vgg16", ""), ("cin26", "3")):
        network = load_network(name)
        network.module.to(device)
        if name == "vgg16" and not device.startswith("cuda"):
            network.module.to(memory_format=torch.channels_last)
        for precision in PRECISIONS:
            if precision == "tf32" and not device.startswith("cuda"):
                continue
            rows += errors(network, x, index, precision)
    return pd.DataFrame(rows)


@contextmanager
def _half() -> Iterator[None]:
    """Let runs in bf16 compute in fp16, which `extract` does not offer: it overflows in deep VGGs.

    Everything but the type of the network's arithmetic stays as it is.
    """
    real = measure.arithmetic

    @contextmanager
    def arithmetic(precision: str, device: str = "cpu") -> Iterator[None]:
        with (
            real("fp32", device),
            torch.autocast(device, torch.float16, enabled=precision != "fp32"),
        ):
            yield

    measure.arithmetic = arithmetic  # type: ignore[assignment]
    try:
        yield
    finally:
        measure.arithmetic = real


def verdicts(
    source: str, scratch: Path, *, size: int, device: str, precisions: tuple[str, ...]
) -> pd.DataFrame:
    """Return value and verdict of every gate in each precision; `changed` is against the first.

    tf32 is an arithmetic of GPUs: a CPU has nothing that rounds as it does.
    """
    analysis = find_analyses(["manipulation"])[0]
    rows = []
    for precision in precisions:
        run = scratch / f"gates-{precision}"
        with _half() if precision == "fp16" else nullcontext():
            extract(
                source, out=run, networks=("vgg16", "pixels"), size=size, device=device,
                conditions=("original", "contrast", "style", "placebo"), restart=True,
                precision="bf16" if precision == "fp16" else precision,
            )  # fmt: skip
        report = analysis.function("run")(
            analysis.function("summarise")(Tables(run)), load_plan(), np.random.default_rng(0)
        )
        rows += [
            {"precision": precision, "gate": g.name, "value": g.value, "passed": g.passed}
            for g in report.gates
        ]
    found = pd.DataFrame(rows)
    first = found[found["precision"] == precisions[0]].set_index("gate")["passed"]
    return found.assign(changed=found["passed"].ne(found["gate"].map(first)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", default="embedded")
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--scratch", type=Path, default=Path("runs/precision"))
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    table = precision_table(given.images, size=given.size, images=given.count, device=given.device)
    name = "cuda" if given.device.startswith("cuda") else "cpu"
    table.to_csv(given.out / f"precision-{name}.csv", index=False, float_format="%.3g")
    gates = verdicts(
        given.images,
        given.scratch,
        size=given.size,
        device=given.device,
        precisions=PRECISIONS if name == "cuda" else ("fp32", "bf16", "fp16"),
    )
    gates.to_csv(given.out / f"precision-{name}-gates.csv", index=False, float_format="%.6g")
    print(f"{device_name(given.device)}, {given.count} photographs at {given.size} px")
    print(summary(table).to_string(index=False))
    print(gates.to_string(index=False))


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return the worst tap of each network, moment and precision."""
    keys = ["network", "moment", "precision"]
    worst = table.loc[table.groupby(keys, sort=False)["p95"].idxmax()]
    return worst[[*keys, "tap", "median", "p95", "largest", "finite"]]


if __name__ == "__main__":
    main()
