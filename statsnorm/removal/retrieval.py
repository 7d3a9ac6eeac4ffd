"""Same-image retrieval: whether an image is its own nearest neighbour after a treatment.

V_I of channel moments is palette, light and composition; whether an image can still be told from
all others says more of what is left of its content. Here by the moments of a deep VGG tap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from statsnorm.errors import StatsnormError
from statsnorm.probes import cluster_proportion
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

    Parameters
    ----------
    query, gallery : array_like, shape (n, d)
        Row i of both is the same image. Columns are scaled by the gallery's sd; one that is
        constant there is left out.

    Returns
    -------
    ndarray of bool, shape (n,)
        Euclidean; a tie with another image is no success. Chance is 1 / n.

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
    return np.asarray(own < distance.min(axis=1) - tie)


def share(correct: ArrayLike, images: Sequence[Any], n: int) -> dict[str, float | int | str]:
    """Return estimate, low, high, chance, n, queries: Clopper-Pearson, or clustered by image.

    Parameters
    ----------
    correct : array_like of bool, shape (queries,)
    images : sequence, length queries
        Which image each query shows; several queries of one image are a cluster.
    n : int
        Images in the gallery.
    """
    y = np.asarray(correct, bool)
    if len(set(images)) == len(y):
        exact = clopper_pearson(int(y.sum()), len(y), confidence=CONFIDENCE)
        found, method = (exact.estimate, exact.low, exact.high), "exact"
    else:
        cluster = cluster_proportion(y.astype(float), list(images), confidence=CONFIDENCE)
        found, method = (cluster.estimate, cluster.low, cluster.high), "by image"
    names = ("estimate", "low", "high")
    return {
        **dict(zip(names, map(float, found), strict=True)),
        "chance": 1 / n,
        "images": n,
        "queries": len(y),
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
    images, styles, levels, _ = after.shape
    found = np.stack(
        [own_nearest(after[:, s, k], before[:, s, k]) for s in range(styles) for k in range(levels)]
    )
    return share(found.ravel(), list(range(images)) * len(found), images)


def across_styles(rows: Array, level: int = 0) -> dict[str, float | int | str]:
    """Return the share of images found again among the images of every other style.

    Parameters
    ----------
    rows : ndarray, shape (I, S, K, d)
        :func:`moment_rows` of one treatment.
    """
    images, styles = rows.shape[:2]
    pairs = [(s, t) for s in range(styles) for t in range(styles) if s != t]
    found = np.stack([own_nearest(rows[:, s, level], rows[:, t, level]) for s, t in pairs])
    return share(found.ravel(), list(range(images)) * len(found), images)


def words(estimate: float, low: float, high: float, chance: float) -> str:
    """Return "62 % (55 to 69; chance 4.2 %)".

    >>> words(0.62, 0.55, 0.69, 1 / 24)
    '62 % (55 to 69; chance 4.2 %)'
    """
    return f"{estimate:.0%} ({100 * low:.0f} to {100 * high:.0f}; chance {chance:.1%})".replace(
        "%", " %"
    )


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
    found = {
        row["across"]: words(*(row[k] for k in ("estimate", "low", "high", "chance")))
        for row in mine.to_dict("records")
    }
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
