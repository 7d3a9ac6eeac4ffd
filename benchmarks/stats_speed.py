"""Time and memory of statsnorm.stats, side by side with the library one would use otherwise.

    python benchmarks/stats_speed.py            # all; minutes
    python benchmarks/stats_speed.py --quick    # smaller arrays, without all taps of VGG-19

Both sides run in this process, one after the other, best of a few; so a ratio means something on a
busy machine, a time does not. Seconds are those of the CPU. Memory is the peak that Python and
numpy allocate beyond the input (tracemalloc), as a multiple of the input.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core

import argparse
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats
from scipy.spatial.distance import pdist, squareform

from statsnorm import stats

SHAPE = (64, 16, 5, 512)
QUICK = (24, 8, 3, 64)
VGG19 = (64, 64, 128, 128, *(256,) * 4, *(512,) * 8)  # channels of its 16 convolutions
LIMITS = {"components": 0.05, "removed fraction, jackknife": 1.0, "all taps of VGG-19": 120.0}
"""CPU seconds; the last is 60 s on two cores."""
MEMORY = 4.0  # times the input

Row = dict[str, Any]


def seconds(call: Callable[[], object], repeats: int = 3) -> float:
    """Return the least CPU time of some calls."""
    best = np.inf
    for _ in range(repeats):
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    return float(best)


def peak(call: Callable[[], object]) -> int:
    """Return the bytes allocated at most during a call."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def designs(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return a design before and after, float32, with variance in every factor."""
    rng = np.random.default_rng(1)
    y = rng.standard_normal(shape, dtype=np.float32)
    y += rng.standard_normal((shape[0], 1, 1, shape[3]), dtype=np.float32)
    y += rng.standard_normal((1, shape[1], 1, shape[3]), dtype=np.float32)
    return y, 0.5 * y + 0.1 * rng.standard_normal(shape, dtype=np.float32)


def own_rows(shape: tuple[int, ...]) -> Iterator[Row]:
    """Yield time and memory of components and removed fractions."""
    before, after = designs(shape)
    calls: dict[str, tuple[Callable[[], object], int]] = {
        "components": (lambda: stats.crossed_components(before), before.nbytes),
        "removed fraction, jackknife": (
            lambda: stats.removed_fraction(before, after),
            before.nbytes + after.nbytes,
        ),
    }
    for name, (call, size) in calls.items():
        yield {"what": name, "ours": seconds(call), "memory": peak(call) / size}


def vgg19(shape: tuple[int, ...]) -> Row:
    """Analyse every tap of VGG-19: m and v, frozen and at work, with all intervals."""

    def analyse() -> None:
        groups = shape[0], shape[1]
        for channels in VGG19:
            arms = designs((*shape[:3], channels))
            for moment in (0, 1):
                y = [stats.scale_free(a, np.exp(a))[moment] for a in arms]
                traces = [stats.trace_replicates(stats.design_replicates(a)) for a in y]
                for factor in ("style", "content", "contrast"):
                    stats.removed_from_replicates(traces[0][factor], traces[1][factor], *groups)

    return {"what": "all taps of VGG-19", "ours": seconds(analyse, repeats=1)}


def side_by_side() -> Iterator[Row]:
    """Yield our time and that of another library on the same data, and how far the results lie."""
    rng = np.random.default_rng(2)
    yield _components_row(rng)
    yield from _distance_rows(rng)
    d = rng.normal(0.5, 1, 10)
    ours, theirs = (
        lambda: stats.sign_flip_test(d).pvalue,
        lambda: (
            scipy_stats.permutation_test(
                (d,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=True
            ).pvalue
        ),
    )
    yield compared("sign flips, 10 blocks, exact", "scipy", ours, theirs)
    x, y = rng.normal(size=(64, 512)), rng.normal(size=(80, 512))
    yield compared(
        "Welch equivalence, 512 channels",
        "scipy",
        lambda: stats.welch_tost(x, y, margin=1.0).pvalue.max(),
        lambda: max(_welch(a, b) for a, b in zip(x.T, y.T, strict=True)),
    )


def _welch(a: np.ndarray, b: np.ndarray) -> float:
    low = scipy_stats.ttest_ind(a, b - 1, equal_var=False, alternative="greater").pvalue
    high = scipy_stats.ttest_ind(a, b + 1, equal_var=False, alternative="less").pvalue
    return float(max(low, high))


def _components_row(rng: np.random.Generator) -> Row:
    from statsmodels.regression.mixed_linear_model import MixedLM

    y = 2 * rng.normal(size=(24, 1, 1, 1)) + rng.normal(size=(1, 8, 1, 1))
    y = y + 0.5 * rng.normal(size=(24, 8, 1, 1))
    image, style = np.indices((24, 8)).reshape(2, -1)
    data = pd.DataFrame({"y": y.ravel(), "image": image, "style": style})
    terms = {"image": "0 + C(image)", "style": "0 + C(style)"}

    def theirs() -> float:
        model = MixedLM.from_formula("y ~ 1", data, groups=np.ones(len(data)), vc_formula=terms)
        found = model.fit()
        return float(dict(zip(model.exog_vc.names, found.vcomp, strict=True))["style"])

    return compared(
        "components, 24 x 8, one channel",
        "statsmodels MixedLM",
        lambda: float(stats.crossed_components(y).style[0]),
        theirs,
        repeats=1,
    )


def _distance_rows(rng: np.random.Generator) -> Iterator[Row]:
    from skbio import DistanceMatrix
    from skbio.stats import distance

    x = rng.normal(size=(120, 64)) + 0.1 * np.arange(4).repeat(30)[:, None]
    group = np.repeat(list("abcd"), 30)
    yield compared(
        "PERMANOVA, 120 x 64, 4 groups, 999 permutations",
        "scikit-bio",
        lambda: float(
            stats.permanova(
                x, {"group": group}, rng=np.random.default_rng(1), permutations=999
            ).statistic[0]
        ),
        lambda: float(
            distance.permanova(DistanceMatrix(squareform(pdist(x))), group, permutations=999)[
                "test statistic"
            ]
        ),
    )
    a, b = rng.normal(size=2000), rng.normal(0.3, 1, size=2000)
    yield compared(
        "energy distance, 2000 + 2000 numbers",
        "scipy",
        lambda: float(stats.energy_distance(a, b).statistic),
        lambda: float(scipy_stats.energy_distance(a, b) ** 2),
    )


def compared(
    what: str,
    library: str,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    *,
    repeats: int = 3,
) -> Row:
    """Return times of both sides and the relative difference of what they return."""
    a, b = float(ours()), float(theirs())
    row = {"what": what, "library": library, "difference": abs(a - b) / max(abs(b), 1e-300)}
    row |= {"ours": seconds(ours, repeats), "theirs": seconds(theirs, repeats)}
    return {**row, "ratio": row["theirs"] / max(row["ours"], 1e-9)}


def main() -> int:
    """Print the table; 1 if a limit of time or memory is exceeded at full size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    rows = [*own_rows(QUICK if given.quick else SHAPE), *side_by_side()]
    if not given.quick:
        rows.append(vgg19(SHAPE))
    table = pd.DataFrame(rows)[
        ["what", "library", "ours", "theirs", "ratio", "difference", "memory"]
    ]
    print(table.to_string(index=False, float_format="%.3g", na_rep=""))
    slow = [r["what"] for r in rows if r["ours"] > LIMITS.get(r["what"], np.inf)]
    large = [r["what"] for r in rows if r.get("memory", 0) > MEMORY]
    for name in [] if given.quick else [*slow, *large]:
        print(f"over its limit: {name}")
    return int(bool(slow or large) and not given.quick)


if __name__ == "__main__":
    raise SystemExit(main())
