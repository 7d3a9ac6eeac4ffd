"""Two things timed side by side: in turn, so that whatever else the machine does hits both."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the results: a ratio, or a quantity with a unit of its own."""

    benchmark: str
    quantity: str
    value: float
    low: float  # least and greatest of the rounds
    high: float
    rounds: int
    unit: str  # "ratio", "bytes", ...
    target: str  # "<= 1.10", or "" where there is none
    setting: str

    @property
    def met(self) -> str:
        """Say whether the target was reached, "" without one."""
        if not self.target:
            return ""
        sign, bound = self.target.split()
        fine = self.value <= float(bound) if sign == "<=" else self.value >= float(bound)
        return "yes" if fine else "no"


def seconds(run: Callable[[], object], device: str) -> float:
    """Time one call, the work of the device included."""
    synchronise(device)
    start = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - start


class Ratios(list[float]):
    """Ratios of wall time, one a round, and in `cpu` those of the process's own CPU time.

    On a machine that others use too the second is what can be trusted; it leaves out waiting and
    counts every thread.
    """

    def __init__(self, wall: Sequence[float], cpu: Sequence[float]) -> None:
        super().__init__(wall)
        self.cpu = list(cpu)

    def scaled(self, factor: float) -> Ratios:
        """Return the ratios times a factor."""
        return Ratios([r * factor for r in self], [r * factor for r in self.cpu])

    def inverse(self) -> Ratios:
        """Return how many times as fast, for how many times as long."""
        return Ratios([1 / r for r in self], [1 / r for r in self.cpu])


def side_by_side(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    rounds: int,
    device: str = "cpu",
    warm: bool = True,
) -> Ratios:
    """Return time of `ours` over that of `theirs`, one a round; who is first takes turns."""
    if warm:
        ours()
        theirs()
    wall, cpu = [], []
    for k in range(rounds):
        pair = (ours, theirs) if k % 2 == 0 else (theirs, ours)
        spent, used = {}, {}
        for run in pair:
            before = time.process_time()
            spent[run] = seconds(run, device)
            used[run] = time.process_time() - before
        wall.append(spent[ours] / spent[theirs])
        cpu.append(used[ours] / used[theirs] if used[theirs] else 1.0)
    return Ratios(wall, cpu)


def both(
    benchmark: str, quantity: str, ratios: Ratios, *, target: str, setting: str, device: str
) -> Iterator[Row]:
    """Yield the row of wall time and, on a CPU, that of CPU time."""
    yield row(benchmark, quantity, ratios, target=target, setting=setting)
    if device == "cpu":
        yield row(benchmark, f"{quantity}, CPU time", ratios.cpu, target=target, setting=setting)


def row(
    benchmark: str,
    quantity: str,
    values: Sequence[float],
    *,
    unit: str = "ratio",
    target: str = "",
    setting: str = "",
) -> Row:
    """Return the median of some rounds with their range."""
    return Row(
        benchmark=benchmark,
        quantity=quantity,
        value=statistics.median(values),
        low=min(values),
        high=max(values),
        rounds=len(values),
        unit=unit,
        target=target,
        setting=setting,
    )


def synchronise(device: str) -> None:
    """Wait for the device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def device_name(device: str) -> str:
    """Return what the results were measured on."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    try:
        said = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        lines = [line for line in said if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    except OSError:
        pass
    return f"{model}, {torch.get_num_threads()} threads"
