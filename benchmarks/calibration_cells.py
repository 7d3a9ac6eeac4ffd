"""The cells of the calibration: what is run under which law, and which number must come out.

Bars of method.md 8.2: 95 % intervals cover 93-97 % with 16 styles or more and at least 92 % with
8; Fieller's at least 94 %; tests have size at most 5 % + 2 Monte-Carlo standard errors; estimates
of components are off by less than 3 of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simulate_blocks as blocks
import simulate_labels as labels
import simulate_pipeline as pipeline
import simulate_removal as removal
from simulate import ALPHA, Values

NOMINAL = (0.93, 0.97)
FEW = (0.92, np.inf)  # 8 styles
OPEN = (-np.inf, 0.05)  # share of intervals that say nothing on one side
CONSERVATIVE = (0.94, np.inf)  # Fieller
EXACT = (0.95, np.inf)  # Clopper-Pearson
NINETY = (0.88, 0.92)
RECOVERED = (-0.02, 0.02)  # mean error of a planted removed fraction
PIPELINE_RUNS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One simulation: all quantities that one set of draws gives."""

    title: str  # what is simulated, with its sizes
    check: str  # coverage, size, bias, recovery, exact, power; limit: shown without a bar
    run: Callable[..., Values]
    law: str = ""  # gaussian, t5, real; "" where the law is part of the simulation
    options: Mapping[str, Any] = field(default_factory=dict)
    bar: tuple[float, float] = (-np.inf, np.inf)
    bars: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # of one quantity
    most: int = 1_000_000  # replicates

    @property
    def name(self) -> str:
        """File name and seed of the cell."""
        words = f"{self.title} {self.check} {self.law}".replace(",", "").replace("%", "")
        return "-".join(words.split()).lower()

    def bar_of(self, quantity: str) -> tuple[float, float]:
        """Return the bar of one quantity."""
        return self.bars.get(quantity, self.bar)


def cells(real: str | None) -> list[Cell]:
    """Return all cells; `real` is a file of pools of a run (:func:`simulate.save_pools`)."""
    sources = {"gaussian": "gaussian", "t5": "t5", **({"real": real} if real else {})}
    found = []
    for law, source in sources.items():
        found += [*component_cells(law, source), *removal_cells(law, source)]
        found += label_cells(law, source)
        if law != "real":  # blocks are differences of curves, not moments
            found += block_cells(law)
    return [*found, *common_cells()]


def component_cells(law: str, source: str) -> list[Cell]:
    """Return unbiasedness and recovery (8.2, 1, 2 and 5)."""
    found = [
        Cell(
            title=f"components, contrast {contrast}, 12 x 6 x 4",
            check="bias",
            run=removal.unbiased,
            law=law,
            options={"source": source, "contrast": contrast},
        )
        for contrast in ("fixed", "random")
    ]
    missing = Cell(
        title="components, 10 % of cells missing, 12 x 8 x 3",
        check="bias",
        run=removal.missing_components,
        law=law,
        options={"source": source},
    )
    planted = Cell(
        title="planted R_S .8, R_I .3, R_K 1, 40 x 16 x 3",
        check="recovery",
        run=removal.recovery,
        law=law,
        options={"source": source, "images": 40, "styles": 16},
        bar=RECOVERED,
    )
    return [*found, missing, planted]


def removal_cells(law: str, source: str) -> list[Cell]:
    """Return the coverage of everything that is computed from delete-one replicates (8.2, 3)."""

    def cell(title: str, run: Callable[..., Values], styles: int, **more: Any) -> Cell:
        options = {"source": source, "styles": styles, **more.pop("options", {})}
        bar = more.pop("bar", FEW if styles < 16 else NOMINAL)
        check = "coverage"
        return Cell(title=title, check=check, run=run, law=law, options=options, bar=bar, **more)

    found = [
        cell(
            f"intervals, 40 x {styles} x 3",
            removal.removal,
            styles,
            options={"images": 40, "removed": removal.HALF},
        )
        for styles in (8, 16, 24)
    ]
    complete = dict.fromkeys(("R contrast", "R contrast, in reports"), CONSERVATIVE)
    found.append(
        cell(
            "intervals, R_S .8, R_I .3, R_K 1, 40 x 16 x 3",
            removal.removal,
            16,
            options={"images": 40, "removed": removal.PLANTED},
            bars=complete,
        )
    )
    found += [
        cell(
            f"nearly all removed, R_S {style:g}, 40 x 8 x 3",
            removal.fieller,
            8,
            options={"style": style},
            bar=CONSERVATIVE,
        )
        for style in (1.0, 0.98)
    ]
    if law != "real":
        found += [
            cell(
                f"style of 2 dimensions, 40 x {styles} x 3",
                removal.few_dimensions,
                styles,
                options={"source": f"{source}:2", "images": 40},
                bars={f"R style without an end{where}": OPEN for where in ("", ", in reports")},
            )
            for styles in (8, 16)
        ]
    for styles in (8, 16):
        at = {"images": 24}
        found.append(
            cell(f"treatments and taps, 24 x {styles} x 3", removal.comparisons, styles, options=at)
        )
    found += [
        Cell(
            title=f"shares judged, 24 x {styles} x 3",
            check="size",
            run=removal.judged_shares,
            law=law,
            options={"source": source, "images": 24, "styles": styles},
            bar=(-np.inf, ALPHA),
        )
        for styles in (8, 16)
    ]
    for title, run in (
        ("10 % of cells missing", removal.missing_intervals),
        ("pigeonhole bootstrap", removal.bootstrap),
    ):
        found.append(cell(f"{title}, 24 x 16 x 3", run, 16, options={"images": 24}))
    return found


def label_cells(law: str, source: str) -> list[Cell]:
    """Return tests and probes on moments of images (8.2, 4 and 8)."""
    options = {"source": source}
    return [
        Cell(
            title="permutation tests of moments",
            check="size",
            run=labels.permutation_tests,
            law=law,
            options=options,
            bar=(-np.inf, ALPHA),
        ),
        Cell(
            title="probe of shuffled styles",
            check="size",
            run=labels.probe_tests,
            law=law,
            options=options,
            bar=(-np.inf, ALPHA),
        ),
        Cell(
            title="probe of shuffled styles",
            check="coverage",
            run=labels.probe_intervals,
            law=law,
            options=options,
            bar=(0.93, np.inf),
        ),
    ]


def block_cells(law: str) -> list[Cell]:
    """Return what is computed from blocks and groups (8.2, 3 and 4)."""
    options = {"source": law}
    found = [
        Cell(title=title, check=check, run=run, law=law, options=options, bar=bar)
        for title, check, run, bar in (
            ("10 blocks", "coverage", blocks.block_intervals, NOMINAL),
            ("90 % intervals of equivalence", "coverage", blocks.equivalence_intervals, NINETY),
            ("groups and clusters of images", "coverage", blocks.group_intervals, NOMINAL),
            ("groups of images", "size", blocks.group_tests, (-np.inf, ALPHA)),
            ("false discoveries among 40", "size", blocks.discoveries, (-np.inf, ALPHA)),
        )
    ]
    found += [
        Cell(
            title=f"{n} blocks",
            check="size",
            run=blocks.block_tests,
            law=law,
            options={**options, "blocks": n},
            bar=(-np.inf, ALPHA),
        )
        for n in (6, 8, 10, 17)
    ]
    return found


def common_cells() -> list[Cell]:
    """Return the cells that need no law of effects."""
    below = (-np.inf, ALPHA)
    return [
        Cell(
            title="restricted mean times", check="coverage", run=blocks.survival_intervals,
            bar=NOMINAL,
        ),
        Cell(
            title="shares of 10 blocks", check="coverage", run=blocks.binomial_intervals, bar=EXACT
        ),
        Cell(title="times and doses", check="size", run=blocks.run_tests, bar=below),
        *(
            Cell(
                title=f"skewed differences, {n} blocks", check="limit", run=blocks.skewed_tests,
                options={"blocks": n},
            )
            for n in (8, 10, 17)
        ),
        Cell(title="F1 without any gap, 10 blocks", check="size", run=blocks.family, bar=below),
        Cell(title="power planned as .8", check="power", run=blocks.power, bar=(0.78, 0.82)),
        Cell(
            title="balanced data", check="exact", run=removal.ustatistic, bar=(-np.inf, 1e-12)
        ),
        Cell(
            title="one network in both arms",
            check="exact",
            run=pipeline.identical,
            bar=(-np.inf, 0.0),
            most=PIPELINE_RUNS,
        ),
        Cell(
            title="one training in both arms",
            check="exact",
            run=pipeline.identical_curves,
            bar=(-np.inf, 0.0),
            most=PIPELINE_RUNS,
        ),
        Cell(
            title="planted R_S .8, R_I .3, R_K 1, through the analysis, 24 x 8 x 3",
            check="recovery",
            run=pipeline.planted,
            bar=RECOVERED,
            most=PIPELINE_RUNS,
        ),
    ]  # fmt: skip
