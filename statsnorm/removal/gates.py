"""The gate of `removed_variance`: the balance of style and content at the inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from statsnorm.decisions import Plan
from statsnorm.removal.claims import Judged, judging_taps
from statsnorm.removal.words import counts
from statsnorm.report.model import Gate


def balance_gates(
    balance: pd.DataFrame, verdicts: Sequence[Judged], plan: Plan
) -> tuple[Gate, ...]:
    """Return the balance of the factors at the inputs, judged on VGG of the inputs."""
    rule = plan.gates["input_balance"]
    gates = []
    for j in verdicts:
        mine = judging_taps(j.study, balance, plan)
        if len(mine):
            ratios = mine["ratio"].to_numpy(float)
            worst = float(ratios[np.argmax(np.abs(np.log(np.maximum(ratios, 1e-12))))])
            gates.append(
                Gate(
                    name=f"input balance, {j.study.label}",
                    rule=f"{rule.statistic} of log sd (v; m is shown beside it) in [{rule.low:g}, "
                    f"{rule.high:g}] at every VGG tap of the inputs ({', '.join(mine['tap'])}); "
                    f"{counts(j)}",
                    value=worst,
                    passed=bool(mine["within"].all()),
                    hypotheses=rule.hypotheses,
                )
            )
    return tuple(gates)
