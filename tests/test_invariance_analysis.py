import numpy as np
import pandas as pd
import pytest
from synthetic_tables import SyntheticTables

from analyses import invariance
from statsnorm.decisions import load_plan

COLUMNS = (
    "network", "scope", "transform", "dtype", "eps_mode", "padding", "relative_change",
    "ratio_observed", "ratio_formula", "must",
)  # fmt: skip


def rows(*changes):
    base = ("cin26", "first_layer", "gain 0.5", "float64", "0", "reflect", 1e-15, 1.0, 1.0, "hold")
    frame = pd.DataFrame([base] * len(changes), columns=list(COLUMNS))
    for i, change in enumerate(changes):
        for name, value in change.items():
            frame.loc[i, name] = value
    return frame


@pytest.mark.parametrize(
    ("change", "good"),
    [
        ({}, True),
        ({"relative_change": 1e-9}, False),
        ({"eps_mode": "trained", "relative_change": 2.5e-3, "ratio_observed": 0.99,
          "ratio_formula": 0.99005}, True),
        ({"eps_mode": "trained", "ratio_observed": 0.99, "ratio_formula": 1.0}, False),
        ({"must": "fail", "relative_change": 0.1}, True),
        ({"must": "fail", "relative_change": 1e-4}, False),
    ],
)  # fmt: skip
def test_rows_are_judged_by_their_own_rule(change, good):
    assert invariance.judge(rows(change)).tolist() == [good]


def test_limits_are_those_of_the_measurement():
    measured = pytest.importorskip("statsnorm.invariance")
    assert (invariance.EXACT, invariance.RATIO, invariance.BROKEN) == (
        measured.EXACT,
        measured.RATIO,
        measured.BROKEN,
    )
    frame = rows(*({"must": m, "relative_change": c} for m in ("hold", "fail") for c in (1e-12, 1)))
    oracle = [measured.invariance_holds(row) for row in frame.to_dict("records")]
    assert invariance.judge(frame).tolist() == oracle


def test_violations_are_named():
    tables = SyntheticTables()
    tables.invariance_rows = rows({}, {"transform": "offset 0.1", "relative_change": 0.08})
    frames = invariance.summarise(tables)
    found = invariance.run(frames, load_plan(), np.random.default_rng(0))
    assert found.findings == (
        "cin26: 1 of 2 rows are as they must be; the largest change where invariance must be exact "
        "is 0.08; violated: offset 0.1 (first_layer, float64, must hold): 0.08.",
    )


def test_no_rows_no_report():
    assert invariance.summarise(SyntheticTables()) == {}
