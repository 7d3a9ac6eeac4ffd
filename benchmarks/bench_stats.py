"""Statistics against the libraries people use, on the same data, the results compared first."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats
from scipy.spatial.distance import pdist, squareform
from skbio.stats.distance import DistanceMatrix
from skbio.stats.distance import permanova as skbio_permanova
from statsmodels.regression.mixed_linear_model import MixedLM
from timing import Row, row, side_by_side

from statsnorm import stats


def benchmark(*, channels: int, permutations: int, rounds: int) -> Iterator[Row]:
    """Yield ours / theirs for components, PERMANOVA and the sign-flip test."""
    rng = np.random.default_rng(0)
    yield _components(rng, channels, rounds)
    yield _permanova(rng, permutations, rounds)
    yield _sign_flips(rng, rounds)


def _components(rng: np.random.Generator, channels: int, rounds: int) -> Row:
    contents, styles = 12, 8
    y = (
        rng.normal(size=(contents, 1, 1, channels))
        + 0.7 * rng.normal(size=(1, styles, 1, channels))
        + 0.5 * rng.normal(size=(contents, styles, 3, channels))
    )
    frame = pd.DataFrame(
        {
            "content": np.repeat(np.arange(contents), styles * 3),
            "style": np.tile(np.repeat(np.arange(styles), 3), contents),
        }
    )

    def mixed(channel: int) -> object:
        parts = {"content": "0 + C(content)", "style": "0 + C(style)"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return MixedLM.from_formula(
                "y ~ 1", frame.assign(y=y[..., channel].ravel(), one=1), groups="one",
                vc_formula=parts,
            ).fit()  # fmt: skip

    ours = side_by_side(
        lambda: stats.crossed_components(y, contrast="random"),
        lambda: [mixed(c) for c in range(2)],
        rounds=rounds,
    )
    return row(
        "statistics", "crossed_components / statsmodels MixedLM, a channel",
        [r * 2 / channels for r in ours], target="<= 1.00",
        setting=f"{contents} x {styles} x 3 cells; {channels} channels at once against 2 fits",
    )  # fmt: skip


def _permanova(rng: np.random.Generator, permutations: int, rounds: int) -> Row:
    x = rng.normal(size=(120, 64))
    groups = np.repeat(np.arange(4), 30)
    matrix = DistanceMatrix(squareform(pdist(x)))
    theirs = skbio_permanova(matrix, groups.astype(str), permutations=0)["test statistic"]
    ours = stats.permanova(x, {"g": groups}, rng=rng, permutations=9).statistic
    assert abs(ours / theirs - 1) < 1e-6, "both test the same"
    ratios = side_by_side(
        lambda: stats.permanova(x, {"g": groups}, rng=rng, permutations=permutations),
        lambda: skbio_permanova(
            DistanceMatrix(squareform(pdist(x))), groups.astype(str), permutations=permutations
        ),
        rounds=rounds,
    )
    return row(
        "statistics", "permanova / scikit-bio", ratios,
        target="<= 1.00", setting=f"120 x 64, 4 groups, {permutations} permutations",
    )  # fmt: skip


def _sign_flips(rng: np.random.Generator, rounds: int) -> Row:
    d = rng.normal(0.5, 1.0, 12)
    theirs = _scipy_flips(d)
    assert abs(stats.sign_flip_test(d).pvalue - theirs) < 1e-12, "both are exact"
    ratios = side_by_side(lambda: stats.sign_flip_test(d), lambda: _scipy_flips(d), rounds=rounds)
    return row(
        "statistics", "sign_flip_test / scipy permutation_test", ratios,
        target="<= 1.00", setting="n = 12, all 4,096 sign vectors",
    )  # fmt: skip


def _scipy_flips(d: np.ndarray) -> float:
    found = scipy_stats.permutation_test(
        (d,), lambda x, axis: x.mean(axis=axis), permutation_type="samples",
        n_resamples=np.inf, vectorized=True, alternative="two-sided",
    )  # fmt: skip
    return float(found.pvalue)
