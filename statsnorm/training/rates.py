"""The learning-rate pilot: which rate each arm trained best at."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path

from statsnorm.errors import StatsnormError
from statsnorm.rundir import Run, read_run, require_finished
from statsnorm.tables import CURVES_SCHEMA, read_table

ArmRates = tuple[tuple[str, str, float], ...]


def pilot_rates(path: str | Path) -> tuple[Run, ArmRates]:
    """Return a pilot run, and (norm, condition, rate) of every arm.

    The rate with the lowest geometric mean, over the blocks, of the last held-out style loss; a
    rate at which a block diverged is out, and of two equal ones the smaller is taken.

    Raises
    ------
    StatsnormError
        If the run is no finished pilot, or an arm diverged at every rate.
    """
    run = read_run(path)
    if run.config.get("kind") != "train" or not run.config["train"]["pilot"]:
        raise StatsnormError(f"{path} is no pilot: train it with --pilot")
    require_finished(run)
    budget = int(run.config["train"]["iterations"])
    logs: dict[tuple[str, str], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name in run.expected.files:
        if name.startswith("curves/"):
            norm, condition, lr, loss = _last(run.path / name, budget)
            logs[norm, condition][lr].append(math.log(loss) if 0 < loss < math.inf else math.inf)
    chosen = []
    for (norm, condition), rates in logs.items():
        mean, lr = min((math.fsum(values) / len(values), lr) for lr, values in rates.items())
        if not math.isfinite(mean):
            raise StatsnormError(
                f"{norm} on {condition} diverged at every rate of {path}; try lower ones"
            )
        chosen.append((norm, condition, lr))
    return run, tuple(chosen)


def _last(path: Path, budget: int) -> tuple[str, str, float, float]:
    """Return norm, condition, rate and last held-out style loss (inf if it ended early)."""
    rows = [
        row
        for row in read_table(path, CURVES_SCHEMA).to_pylist()
        if row["split"] == "heldout" and row["bn_mode"] == "train"
    ]
    last = max(rows, key=lambda row: int(row["iteration"]))
    loss = float(last["style_loss"])
    ended = last["iteration"] < budget or not math.isfinite(loss)
    return last["norm"], last["condition"], float(last["lr"]), math.inf if ended else loss
