"""Same-image retrieval: whether an image is its own nearest neighbour after a treatment.

V_I of channel moments is palette, light and composition; whether an image can still be told from
all others says more of what is left of its content. Here by the moments of a deep VGG tap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from statsnorm.errors import StatsnormError
from statsnorm.probes import cluster_proportion, proportion_interval
from statsnorm.stats.effects import clopper_pearson
from statsnorm.stats.inputs import is_constant
from statsnorm.stats.scale_free import scale_free

Array = NDArray[np.float64]
TAP = "relu4_2"
CONFIDENCE = 0.95


def moment_rows(mean: ArrayLike, var: ArrayLike, *, reference: ArrayLike | None = None) -> Array:
    """Return [m, v] side by side (..., 2C), cells without variance at their channel's least v.

    `reference` are the variances that m is scaled by: its own by default, those of the originals
    where conditions of one network are compared.
    """
    m, v = scale_free(mean, var, reference=reference)
    axes = tuple(range(v.ndim - 1))
    return np.concatenate([m, np.where(np.isfinite(v), v, np.nanmin(v, axis=axes))], axis=-1)


def own_nearest(query: ArrayLike, gallery: ArrayLike) -> NDArray[np.bool_]:
    """Say which rows are nearer to their own counterpart than to any other row.

    As :func:`rivals`, none of which may be left. Chance is 1 / n.
    """
    return np.asarray(~rivals(query, gallery).any(axis=1))


def rivals(query: ArrayLike, gallery: ArrayLike) -> NDArray[np.bool_]:
    """Say which other rows of the gallery are as near to a query as its own counterpart.

    Parameters
    ----------
    query, gallery : array_like, shape (n, d)
        Row i of both is the same image. Columns are scaled by the gallery's sd; one that is
        constant there is left out.

    Returns
    -------
    ndarray of bool, shape (n, n)
        Entry (i, j): j is no farther from query i than i itself, ties included; false on the
        diagonal. Euclidean.

    Raises
    ------
    StatsnormError
        If shapes differ, there are fewer than two images, or no column varies.
    """
    q, g = np.asarray(query, np.float64), np.asarray(gallery, np.float64)
    if q.ndim != 2 or q.shape != g.shape or len(q) < 2:
        raise StatsnormError(f"query and gallery must both be (n, d), got {q.shape}, {g.shape}")
    use = ~is_constant(g)
    if not use.any():
        raise StatsnormError(f"all {q.shape[1]} columns of the gallery are constant")
    centre, sd = g[:, use].mean(axis=0), g[:, use].std(axis=0)
    q, g = (q[:, use] - centre) / sd, (g[:, use] - centre) / sd
    distance = np.square(q).sum(axis=1)[:, None] + np.square(g).sum(axis=1) - 2 * q @ g.T
    own = np.diagonal(distance).copy()
    np.fill_diagonal(distance, np.inf)
    tie = 1e-9 * (np.square(q).sum(axis=1) + np.square(g).sum(axis=1))
    return np.asarray(distance - tie[:, None] <= own[:, None])


def share(found: ArrayLike) -> dict[str, float | int | str]:
    """Return the share of queries without a rival, with two intervals over images.

    `low`, `high`: Clopper-Pearson over queries, clustered by image [1]_ where each has several;
    the gallery is taken as given. `both_low`, `both_high`: the delete-one jackknife takes an image
    away as query and from all galleries, and its standard error is the effective sample size of a
    Clopper-Pearson interval. For independent images the first covers .96 to .97 in spite of the
    shared gallery, the second .99 and more (`tests/test_retrieval.py`): it is the wide one.

    Parameters
    ----------
    found : array_like of bool, shape (queries an image, n, n)
        :func:`rivals` of each gallery.

    Returns
    -------
    dict
        `estimate`, `low`, `high`, `both_low`, `both_high`, `chance`, `images`, `queries`,
        `method`: exact, or by image.

    References
    ----------
    .. [1] E. L. Korn and B. I. Graubard, Surv. Methodol. 24 (1998), 193-201.
    """
    beaten = np.asarray(found, bool)
    beaten = beaten[None] if beaten.ndim == 2 else beaten
    galleries, n, _ = beaten.shape
    count = beaten.sum(axis=2)  # (G, n) rivals of each query
    hits = count == 0
    if galleries == 1:
        exact = clopper_pearson(int(hits.sum()), n, confidence=CONFIDENCE)
        low, high, method = float(exact.low), float(exact.high), "exact"
    else:
        images = np.tile(np.arange(n), galleries)
        by_image = cluster_proportion(hits.ravel().astype(float), images, confidence=CONFIDENCE)
        low, high, method = by_image.low, by_image.high, "by image"
    left = (count[:, :, None] - beaten == 0).sum(axis=0)  # (n query, n taken away)
    np.fill_diagonal(left, 0)
    without = left.sum(axis=0) / (galleries * (n - 1))
    se = float(np.sqrt((n - 1) / n * np.square(without - without.mean()).sum()))
    both = proportion_interval(
        float(hits.mean()), se, clusters=n, rows=hits.size, confidence=CONFIDENCE
    )
    return {
        "estimate": float(hits.mean()),
        "low": low,
        "high": high,
        "both_low": both[0],
        "both_high": both[1],
        "chance": 1 / n,
        "images": n,
        "queries": hits.size,
        "method": method,
    }


def across_treatments(before: Array, after: Array) -> dict[str, float | int | str]:
    """Return the share of cells whose nearest image before the treatment is their own.

    Parameters
    ----------
    before, after : ndarray, shape (I, S, K, d)
        :func:`moment_rows` of the same cells. Each cell looks among the images of its own style
        and level.
    """
    _, styles, levels, _ = after.shape
    return share(
        [rivals(after[:, s, k], before[:, s, k]) for s in range(styles) for k in range(levels)]
    )


def across_styles(rows: Array, level: int = 0) -> dict[str, float | int | str]:
    """Return the share of images found again among the images of every other style.

    Parameters
    ----------
    rows : ndarray, shape (I, S, K, d)
        :func:`moment_rows` of one treatment.
    """
    styles = rows.shape[1]
    pairs = [(s, t) for s in range(styles) for t in range(styles) if s != t]
    return share([rivals(rows[:, s, level], rows[:, t, level]) for s, t in pairs])


def interval_words(table: pd.DataFrame) -> str:
    """Return how the intervals of retrieval were made; "" without retrieval."""
    if not len(table):
        return ""
    text = (
        "Same-image retrieval: Clopper-Pearson intervals over queries (clustered by image where it "
        "has several), the gallery taken as given"
    )
    if "both_low" not in table:
        return f"{text}: the choice of the other images is not in them."
    return (
        f"{text}; beside them a delete-one jackknife in which an image leaves as query and from "
        "all galleries (conservative: in simulations with independent images it covered 99 % and "
        "more, the first 96 to 97 %)."
    )


def words(row: Mapping[Any, Any]) -> str:
    """Return "62 % (55 to 69; chance 4.2 %)", with the second interval where there is one.

    >>> row = {"estimate": 0.62, "low": 0.55, "high": 0.69, "chance": 1 / 24}
    >>> words(row)
    '62 % (55 to 69; chance 4.2 %)'
    >>> words(row | {"both_low": 0.52, "both_high": 0.71})
    '62 % (55 to 69, the gallery varied too 52 to 71; chance 4.2 %)'
    """
    ends = f"{100 * row['low']:.0f} to {100 * row['high']:.0f}"
    if "both_low" in row:
        ends += f", the gallery varied too {100 * row['both_low']:.0f} to "
        ends += f"{100 * row['both_high']:.0f}"
    return f"{row['estimate']:.0%} ({ends}; chance {row['chance']:.1%})".replace("%", " %")


def retrieval_table(rows: pd.DataFrame, trained: Sequence[int], random: Sequence[int]) -> Any:
    """Return the shares of one network, with the mean of its untrained companions beside them.

    Parameters
    ----------
    rows : DataFrame
        Columns design, tap, across and those of :func:`share`; perhaps none.
    trained, random : sequence of int
        Designs of the network, and of its random initialisations.
    """
    if not len(rows):
        return pd.DataFrame()
    mine = rows[rows["design"].isin(trained)].drop(columns="design").reset_index(drop=True)
    others = rows[rows["design"].isin(random)].groupby(["tap", "across"])["estimate"]
    mean = pd.DataFrame({"untrained": others.mean(), "untrained_networks": others.size()})
    return mine.join(mean, on=["tap", "across"])


def sentences(net: str, table: pd.DataFrame) -> Iterator[str]:
    """Yield what belongs beside H5d: whether images can still be told apart."""
    mine = table[table["net"] == net] if len(table) else table
    found = {row["across"]: words(row) for row in mine.to_dict("records")}
    if "treatments" in found:
        yield (
            f"Beside H5d, same-image retrieval by the moments of {TAP} of {net}'s output, "
            f"{int(mine['images'].iloc[0])} images: {found['treatments']} of the cells at work are "
            "nearest to their own frozen version."
        )
    if arms := {a: t for a, t in found.items() if a.startswith("styles, ")}:
        listed = "; ".join(
            f"{'at work' if a == 'styles, none' else 'frozen'} {t}" for a, t in arms.items()
        )
        yield f"Found again in every other style, {net}: {listed}."
