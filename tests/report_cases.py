"""A small run and small analyses, from which the report tests make reports."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pyarrow as pa

from statsnorm.rundir import Expected, finish, open_run, record_shard
from statsnorm.tables import SCHEMAS, write_table

EVIL = "<script>alert('x')</script>.jpg"

ANALYSIS = '''
"""Does normalisation remove style, or contrast, in this network?

Unit: images and styles. Family F2. Made-up numbers: only the report is under test.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Drawing

from statsnorm.report.model import EFFECT_COLUMNS, Claim, Figure, Gate, Report


def summarise(tables):
    images = tables.images()
    taps = [f"res.{i}" for i in range(6)]
    return {
        "images": images[["image", "width"]],
        "removed": pd.DataFrame({"tap": taps, "removed": np.linspace(0.4, 0.9, 6)}),
    }


def run(inputs, plan, rng):
    removed = inputs["removed"].assign(
        low=lambda t: t["removed"] - 0.1, high=lambda t: t["removed"] + 0.05
    )
    value, n = removed["removed"].mean(), len(inputs["images"])
    noise = pd.DataFrame({"channel": range(40), "draw": rng.normal(size=40)})
    effect = dict.fromkeys(EFFECT_COLUMNS)
    effect |= dict(hypothesis="H5a", family="F2", statistic="R_S", tap="res.5", estimate=value)
    effect |= dict(low=value - 0.1, high=value + 0.05, n_units=f"{n} images", pvalue=0.002)
    effect |= dict(p_adjusted=0.008, threshold=0.5, verdict="supported", se=0.03, dof=11.0)
    claim = Claim(
        hypothesis="H5a",
        family="F2",
        claim="Normalisation removes most of the style variance.",
        sentence=f"R_S = {value:.3g} [{value - 0.1:.3g}, {value + 0.05:.3g}], {n} images.",
        verdict="supported",
        scope="cin26 styles",
        flips="3 of 24 specifications disagree",
    )
    return Report(
        name="fake",
        title="Variance that normalisation removes",
        question=__doc__,
        headline=f"IN removed {100 * value:.1f} % of style variance; untrained: 40 %.",
        findings=(f"The largest draw is {noise['draw'].max():.4g}.",),
        claims=(claim,),
        effects=pd.DataFrame([effect]),
        tables={"removed": removed, "noise": noise, "images": inputs["images"]},
        figures=(
            Figure(
                name="by_tap",
                draw="bars",
                table="removed",
                caption=f"Removed fraction by tap; {n} images; bars are 95 % intervals.",
                alt="Removed style variance rises with depth.",
            ),
        ),
        gates=(
            Gate(name="M1", rule="at least 0.9", value=0.987, passed=True, hypotheses=("H5a",)),
            Gate(name="M3", rule="at least 0.95", value=0.5, passed=False, hypotheses=("H5a",)),
        ),
        scope={"networks": "cin26", "images": str(n)},
        methods=(f"{n} images.",),
        deviations=("A rule was set after the data had been seen.",),
        limitations=("One network.",),
        appendix=("noise",),
    )


def bars(table):
    figure = Drawing(figsize=(7, 3), layout="constrained")
    axis = figure.subplots()
    axis.errorbar(
        range(len(table)),
        table["removed"],
        yerr=[table["removed"] - table["low"], table["high"] - table["removed"]],
        marker="o",
    )
    axis.set_xticks(range(len(table)), table["tap"])
    return figure
'''

PICKY = '''
"""An analysis that needs training curves."""

from statsnorm.errors import StatsnormError


def summarise(tables):
    raise StatsnormError("the runs hold no training curves; give a run of statsnorm train")


def run(inputs, plan, rng):
    raise AssertionError("never reached")
'''


def write_run(
    path: Path, *, images: tuple[str, ...] = ("a.jpg", EVIL), skipped: int = 0, **config: object
) -> Path:
    """Write a finished run directory with these images and no moments."""
    expected = Expected(shards=1, sharded=("skipped", "images", "moments"))
    config = {
        "kind": "extract",
        "images": "/home/ada/photos",
        "weights": {"cin26": "a" * 64},
        **config,
    }
    run = open_run(path, config, expected=expected)
    rows = [
        {"image": n, "width": 96 + i, "height": 96, "sha256": "b" * 64, "path": n}
        for i, n in enumerate(images)
    ]
    dropped = [
        {"image": f"bad{i}.jpg", "stage": "decode", "reason": "truncated file"}
        for i in range(skipped)
    ]
    for name, content in {"images": rows, "skipped": dropped, "moments": []}.items():
        table = pa.Table.from_pylist(content, schema=SCHEMAS[name])
        write_table(path / expected.of_shard(0)[expected.sharded.index(name)], table, metadata={})
    record_shard(run, 0, expected.of_shard(0), {"device": "cpu", "versions": {"torch": "2.9.0"}})
    assert finish(run)
    return path


def write_analysis(path: Path, source: str = ANALYSIS) -> Path:
    """Write the source of an analysis."""
    path.write_text(dedent(source).lstrip(), encoding="utf-8")
    return path
