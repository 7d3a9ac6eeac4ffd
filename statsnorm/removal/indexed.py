"""Statistics of a content x index x input-style design: shares, retrieval, their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special
from scipy import stats as distributions

from statsnorm.removal.ratios import Interval, interval
from statsnorm.stats.components import component_replicates

Array = NDArray[np.float64]
CONFIDENCE = 0.95

# (our name, what component_replicates calls it): "style" is the index s, "contrast" the input style
NAMES = {
    "content": "content",
    "index": "style",
    "input_style": "contrast",
    "content_index": "content_style",
    "content_input_style": "content_contrast",
    "index_input_style": "style_contrast",
    "residual": "residual",
}
TURNED = {"style": "contrast", "contrast": "style"}  # with the last two factors exchanged
TURNED |= {"content_style": "content_contrast", "content_contrast": "content_style"}


def crossed_indices(mine: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the indices that share one set of input styles and levels.

    Another run may hold one index on a larger design, with levels of another meaning; the set
    that most indices have is the crossed one.
    """
    cells = {
        str(index): frozenset(zip(rows["style"], rows["level"], strict=True))
        for index, rows in mine.groupby("index", sort=True)
    }
    groups: dict[frozenset[Any], list[str]] = {}
    for index, have in cells.items():
        groups.setdefault(have, []).append(index)
    most = max(groups.values(), key=len)
    return mine.loc[mine["index"].isin(most)]


def three_way_replicates(y: Array) -> dict[str, Array]:
    """Return trace replicates (1 + I + S + U,) of the seven components, all factors random.

    Parameters
    ----------
    y : ndarray, shape (I, S, U, C)
        Images, indices, input styles, channels.
    """
    first = component_replicates(y, contrast="random")
    turned = component_replicates(y.transpose(0, 2, 1, 3), contrast="random")
    images = y.shape[0]
    return {
        ours: np.concatenate(
            [
                np.asarray(first[theirs]).mean(axis=1),
                np.asarray(turned[TURNED.get(theirs, theirs)])[1 + images :].mean(axis=1),
            ]
        )
        for ours, theirs in NAMES.items()
    }


def nearest_index(x: Array) -> NDArray[np.bool_]:
    """Say whether each cell's nearest index centroid is its own, the cell's content left out.

    Parameters
    ----------
    x : ndarray, shape (I, S, U, D)
        Moments of each cell.

    Returns
    -------
    ndarray of bool, shape (I, S, U)
        The centroid of an index is the mean over all other contents and all input styles.
    """
    n = len(x)
    by_content = x.mean(axis=2)  # (I, S, D)
    centroids = (by_content.sum(axis=0) - by_content) / (n - 1)  # (I, S, D) without content i
    hits = np.empty(x.shape[:3], dtype=bool)
    for i in range(n):
        distance = ((x[i][:, :, None] - centroids[i]) ** 2).sum(axis=-1)  # (S, U, S)
        hits[i] = distance.argmin(axis=-1) == np.arange(x.shape[1])[:, None]
    return hits


def clustered_proportion(hits: Array, cells: int, *, confidence: float = CONFIDENCE) -> Interval:
    """Return a proportion with an exact interval at its effective sample size.

    Parameters
    ----------
    hits : ndarray, shape (n,)
        Share of hits in each cluster; clusters of equal size.
    cells : int
        Cells in a cluster.

    Returns
    -------
    Interval
        `dof` holds the effective sample size: between n and n * cells.

    References
    ----------
    .. [1] E. L. Korn and B. I. Graubard, Survey Methodology 24 (1998), 193-201.
    """
    n, p = len(hits), float(hits.mean())
    variance = float(hits.var(ddof=1)) / n
    size = (
        float(n) if variance == 0 else min(max(p * (1 - p) / variance, float(n)), float(n * cells))
    )
    a = (1 - confidence) / 2
    low = float(special.betaincinv(size * p, size * (1 - p) + 1, a)) if p > 0 else 0.0
    high = float(special.betaincinv(size * p + 1, size * (1 - p), 1 - a)) if p < 1 else 1.0
    return Interval(estimate=p, low=low, high=high, se=math.sqrt(variance), dof=size)


def proportion_pvalue(found: Interval, null: float) -> float:
    """Two-sided p-value of the interval of :func:`clustered_proportion`, by doubling."""
    p, size = found.estimate, found.dof
    upper = float(distributions.beta.cdf(null, size * p, size * (1 - p) + 1)) if p > 0 else 1.0
    lower = float(distributions.beta.sf(null, size * p + 1, size * (1 - p))) if p < 1 else 1.0
    return min(1.0, 2 * min(upper, lower))


def share_interval(replicates: Mapping[str, Array], name: str, groups: Sequence[int]) -> Interval:
    """Return omega^2 of one component, on the logit scale where every replicate lies in (0, 1).

    Its degrees of freedom allow for the heavy tails of components.
    """
    total = np.sum(list(replicates.values()), axis=0)
    share = replicates[name] / total
    if ((share > 0) & (share < 1)).all():
        x = interval(special.logit(share), groups, confidence=CONFIDENCE, tails="heavy")
        ends = (float(special.expit(v)) for v in (x.estimate, x.low, x.high))
        estimate, low, high = ends
        se = x.se * estimate * (1 - estimate)
        return Interval(estimate=estimate, low=low, high=high, se=se, dof=x.dof)
    return interval(share, groups, confidence=CONFIDENCE, tails="heavy")


def filled(v: Array) -> Array:
    """Return v with the log sd of a cell without variance set to its channel's least."""
    finite = np.where(np.isfinite(v), v, np.nan)
    return np.where(np.isfinite(v), v, np.nanmin(finite, axis=(0, 1, 2), keepdims=True))


def on_log_scale(parts: Mapping[str, Array], groups: Sequence[int], null: float) -> str:
    """Return the log-scale interval of V_s / V_u and its p in words, a sensitivity analysis."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(parts["index"] / parts["input_style"])
    if not np.isfinite(logs).all():
        return "no log-scale sensitivity: a replicate of V_u is not positive"
    x = interval(logs, groups, confidence=CONFIDENCE)
    ends = f"{x.low:.2f} to {x.high:.2f}"
    return f"sensitivity, log scale: {ends}, p = {x.pvalue(null):.2g}"


def replicates_of(rows: pd.DataFrame) -> tuple[dict[str, Array], tuple[int, int, int]]:
    """Return the replicates by component, and the numbers of images, indices, input styles."""
    first = rows.iloc[0]
    groups = (int(first["n_images"]), int(first["n_indices"]), int(first["n_input_styles"]))
    parts = {
        str(name): np.asarray(v, np.float64)
        for name, v in zip(rows["component"], rows["values"], strict=True)
    }
    return parts, groups
