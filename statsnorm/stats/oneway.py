"""One-way and nested random effects by analysis of variance, balanced or not.

For natural domains: images nested in domains, or in classes nested in domains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from statsnorm.errors import StatsnormError
from statsnorm.stats.inputs import Array, check_choice, check_confidence, is_constant
from statsnorm.stats.jackknife import tail_dof
from statsnorm.stats.result import Shown
from statsnorm.stats.samples import Index, level_codes, sample
from statsnorm.stats.unbalanced import UnitReplicates


@dataclass(frozen=True, slots=True)
class OneWayResult(Shown):
    """Result of :func:`one_way`; arrays have shape (C,), nan in constant channels."""

    between: Array  # variance component of the groups; may be negative
    within: Array
    icc: Array  # between / (between + within)
    low: Array  # interval of the intraclass correlation
    high: Array
    statistic: Array  # F
    pvalue: Array  # null: no variance between groups
    n0: float  # effective rows a group
    n: int
    n_groups: int


@dataclass(frozen=True, slots=True)
class NestedResult(Shown):
    """Result of :func:`nested`; arrays have shape (C,), nan in constant channels."""

    between: Array  # variance component of the outer groups; may be negative
    nested: Array  # of the inner groups within the outer
    within: Array
    n: int
    n_groups: int
    n_subgroups: int


def one_way(
    y: ArrayLike,
    groups: ArrayLike,
    *,
    confidence: float = 0.95,
    interval: Literal["exact", "jackknife"] = "exact",
) -> OneWayResult:
    """Estimate y = mean + group + rest with random groups of any sizes.

    Components by expected mean squares: within = MS_W, between = (MS_B - MS_W) / n0 with
    n0 = (n - sum n_j^2 / n) / (J - 1). The interval of ICC may lie below 0, as the estimate may.

    Parameters
    ----------
    y : array_like, shape (n, C) or (n,)
        One row per image.
    groups : array_like, shape (n,)
    confidence : float
    interval : {"exact", "jackknife"}
        "exact" inverts Wald's pivot, exact for normal effects at any group sizes; with equal
        sizes it is the usual F interval. Nine unequal groups with t5 effects it covered in
        90.2 % of 3,000 draws at 95 %, exponential ones in 86.6 %. "jackknife" leaves out one
        group at a time, on the scale log(1 + n0 between / within), its t quantile allowing for
        heavy tails: 94.5 % and 93.7 % there, 95.3 % with normal effects, a quarter wider. nan
        where a value has no logarithm.

    Raises
    ------
    StatsnormError
        If there are fewer than two groups (three for the jackknife), every group has one row
        or a value is not finite.

    References
    ----------
    .. [1] S. R. Searle, G. Casella and C. E. McCulloch, Variance Components (1992), ch. 3.
    .. [2] A. Wald, Ann. Math. Stat. 11 (1940), 96-100.
    """
    check_confidence(confidence)
    check_choice(interval, ("exact", "jackknife"), "interval")
    a = sample("y", y, least=3)
    codes, levels = level_codes("groups", groups, n=len(a), least=2)
    sizes = np.bincount(codes)
    n, count = len(a), len(levels)
    if n == count:
        raise StatsnormError(f"every one of the {count} groups has one row; none is replicated")
    means = group_sums(a, codes, count) / sizes[:, None]  # (J, C)
    ms_within = ((a - means[codes]) ** 2).sum(axis=0) / (n - count)
    ms_between = (sizes[:, None] * (means - a.mean(axis=0)) ** 2).sum(axis=0) / (count - 1)
    constant = is_constant(a)
    ms_within[constant], ms_between[constant] = np.nan, np.nan
    n0 = float((n - (sizes**2).sum() / n) / (count - 1))
    between = (ms_between - ms_within) / n0
    with np.errstate(divide="ignore"):
        statistic = ms_between / ms_within  # infinite where groups do not vary inside
    tail, dof = (1 - confidence) / 2, (count - 1, n - count)
    if interval == "exact":
        low, high = (
            wald_icc(means, ms_within, sizes, float(cut))
            for cut in (stats.f.isf(tail, *dof), stats.f.ppf(tail, *dof))
        )
    else:
        low, high = jackknife_icc(a, codes, confidence)
        low[constant], high[constant] = np.nan, np.nan
    icc = between / (between + ms_within)
    pvalue = np.asarray(stats.f.sf(statistic, *dof))
    return OneWayResult(between, ms_within, icc, low, high, statistic, pvalue, n0, n, count)


def one_way_replicates(y: ArrayLike, groups: ArrayLike) -> UnitReplicates:
    """Return traces of `between` and `within` with each group, and each image, left out.

    Parameters
    ----------
    y : array_like, shape (n, C)
        Live channels only.
    groups : array_like, shape (n,)

    Raises
    ------
    StatsnormError
        As :func:`one_way`; or if a group has one row.
    """
    a = sample("y", y, least=4)
    codes, levels = level_codes("groups", groups, n=len(a), least=2)
    order = np.argsort(codes, kind="stable")
    x, codes = a[order] - a.mean(axis=0), codes[order]
    sizes = np.bincount(codes)
    if lonely := int((sizes < 2).sum()):
        raise StatsnormError(
            f"{lonely} of {len(sizes)} groups have one row; leave them out, their spread is unknown"
        )
    means = group_sums(x, codes, len(levels)) / sizes[:, None]
    gap, size = x - means[codes], sizes[codes]  # (n, C), (n,)
    inside = group_sums(gap**2, codes, len(levels))  # (J, C)
    own = np.stack([sizes, sizes**2, np.ones_like(sizes)], axis=1)  # rows, their square, groups
    parts = np.stack([inside, sizes[:, None] * means**2, sizes[:, None] * means])  # (3, J, C)
    counts, sums = own.sum(axis=0), parts.sum(axis=1)
    fewer = np.stack([np.ones_like(size), size**2 - (size - 1) ** 2, 0 * size], axis=1)
    moved = means[codes] - gap / (size - 1)[:, None]
    squares = size[:, None] * means[codes] ** 2 - (size - 1)[:, None] * moved**2
    change = np.stack([gap**2 * (size / (size - 1))[:, None], squares, x])
    estimate = _traces(counts[None], sums[:, None])
    by_group = _traces(counts - own, sums[:, None] - parts)
    by_image = _traces(counts - fewer, sums[:, None] - change)
    return UnitReplicates(
        levels={k: np.concatenate([estimate[k], by_group[k]]) for k in estimate},
        images={k: np.concatenate([estimate[k], by_image[k]]) for k in estimate},
        units=(len(sizes),),
        sizes=tuple(sizes.tolist()),
    )


def _traces(counts: Index, sums: Array) -> dict[str, Array]:
    """Return `between` and `within` (R,), means over channels, by analysis of variance.

    Parameters
    ----------
    counts : ndarray, shape (R, 3)
        Rows n, sum of squared group sizes, groups.
    sums : ndarray, shape (3, R, C)
        Sums of squares within, sum of n_j m_j^2, sum of n_j m_j.
    """
    return {name: v.mean(axis=1) for name, v in _components(counts, sums).items()}


def _components(counts: Index, sums: Array) -> dict[str, Array]:
    """Return `between` and `within` (R, C), as :func:`_traces` without the mean over channels."""
    n, square, groups = counts.T.astype(np.float64)[:, :, None]  # (R, 1) each
    within_groups, of_squares, of_means = sums
    between_groups = of_squares - of_means**2 / n
    with np.errstate(divide="ignore", invalid="ignore"):  # two groups less one: nothing between
        within = within_groups / (n - groups)
        n0 = (n - square / n) / (groups - 1)
        between = (between_groups / (groups - 1) - within) / n0
    between[~np.isfinite(between)] = np.nan
    return {"between": between, "within": within}


def jackknife_icc(y: Array, codes: Index, confidence: float) -> tuple[Array, Array]:
    """Return the bounds (C,) of the intraclass correlation from leaving out one group at a time.

    Jackknife-t of log(1 + n0 between / within), whose degrees of freedom are those of
    :func:`statsnorm.stats.jackknife.tail_dof`.
    """
    sizes = np.bincount(codes)
    if len(sizes) < 3:
        raise StatsnormError(f"a jackknife over groups needs at least 3, got {len(sizes)}")
    x = y - y.mean(axis=0)
    means = group_sums(x, codes, len(sizes)) / sizes[:, None]
    inside = group_sums((x - means[codes]) ** 2, codes, len(sizes))
    parts = np.stack([inside, sizes[:, None] * means**2, sizes[:, None] * means])  # (3, J, C)
    own = np.stack([sizes, sizes**2, np.ones_like(sizes)], axis=1)
    counts, sums = own.sum(axis=0), parts.sum(axis=1, keepdims=True)
    n, square, groups = counts
    n0 = (n - square / n) / (groups - 1)
    found = _components(
        np.concatenate([counts[None], counts - own]), np.concatenate([sums, sums - parts], axis=1)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(1 + n0 * found["between"] / found["within"])  # (1 + J, C)
    logs[~np.isfinite(logs)] = np.nan
    without = logs[1:]
    se = np.sqrt((groups - 1) / groups * ((without - without.mean(axis=0)) ** 2).sum(axis=0))
    half = special.stdtrit(tail_dof(without), 0.5 + confidence / 2) * se
    low, high = (np.expm1(logs[0] + side * half) / n0 for side in (-1, 1))  # between / within
    return low / (1 + low), high / (1 + high)


def group_sums(y: Array, codes: Index, count: int) -> Array:
    """Return the sums (count, C) of the rows of y (n, C) by group."""
    sums = np.zeros((count, y.shape[1]))
    np.add.at(sums, codes, y)
    return sums


def wald_icc(means: Array, ms_within: Array, sizes: Index, cut: float) -> Array:
    """Return the intraclass correlation (C,) at which Wald's pivot equals `cut`.

    The pivot sum_j w_j (m_j - m_w)^2 / ((J-1) MS_W), w_j = n_j / (1 + n_j r), falls in the
    variance ratio r = between / within, so it is bisected in ICC = r / (1 + r) over
    (-1 / (max n_j - 1), 1).
    """
    largest = int(sizes.max())
    low = np.full(len(ms_within), -1 / (largest - 1))
    high = np.ones(len(ms_within))
    for _ in range(60):
        icc = (low + high) / 2
        with np.errstate(divide="ignore", invalid="ignore"):  # at icc = 1, or nothing within
            ratio = icc / (1 - icc)
            weights = sizes[:, None] / (1 + sizes[:, None] * ratio)  # (J, C)
            centre = (weights * means).sum(axis=0) / weights.sum(axis=0)
            pivot = (weights * (means - centre) ** 2).sum(axis=0) / (len(sizes) - 1) / ms_within
        above = pivot > cut
        low, high = np.where(above, icc, low), np.where(above, high, icc)
    middle: Array = np.where(np.isnan(ms_within), np.nan, (low + high) / 2)
    return middle


def nested(y: ArrayLike, groups: ArrayLike, subgroups: ArrayLike) -> NestedResult:
    """Estimate y = mean + group + subgroup within group + rest, all random, of any sizes.

    Components by expected mean squares with the coefficients of unbalanced data; unbiased,
    estimates may be negative.

    Parameters
    ----------
    y : array_like, shape (n, C) or (n,)
        One row per image.
    groups, subgroups : array_like, shape (n,)
        Outer and inner label of each row (domain, class). An inner label is read within its
        outer one: class "dog" in two domains makes two subgroups.

    Raises
    ------
    StatsnormError
        If there are fewer than two groups, no group has two subgroups, no subgroup has two
        rows or a value is not finite.

    References
    ----------
    .. [1] S. R. Searle, G. Casella and C. E. McCulloch, Variance Components (1992),
       appendix F.1, the two-way nested classification.
    """
    a = sample("y", y, least=4)
    n = len(a)
    outer, levels = level_codes("groups", groups, n=n, least=2)
    named, names = level_codes("subgroups", subgroups, n=n)
    cells, inner = np.unique(outer * len(names) + named, return_inverse=True)
    parent = cells // len(names)  # (cells,)
    if len(cells) == len(levels):
        raise StatsnormError("no group holds two subgroups; use one_way")
    if len(cells) == n:
        raise StatsnormError(
            "every subgroup has one row; its variance cannot be told from the rest"
        )
    n_ij, n_i = np.bincount(inner), np.bincount(outer)
    cell_means = group_sums(a, inner, len(cells)) / n_ij[:, None]
    group_means = group_sums(a, outer, len(levels)) / n_i[:, None]
    dof = (len(levels) - 1, len(cells) - len(levels), n - len(cells))
    ms_a = (n_i[:, None] * (group_means - a.mean(axis=0)) ** 2).sum(axis=0) / dof[0]
    ms_b = (n_ij[:, None] * (cell_means - group_means[parent]) ** 2).sum(axis=0) / dof[1]
    ms_e = ((a - cell_means[inner]) ** 2).sum(axis=0) / dof[2]
    ms_e[is_constant(a)] = np.nan
    spread = (n_ij**2 / n_i[parent]).sum()  # sum_ij n_ij^2 / n_i
    b_in_b = (n - spread) / dof[1]
    b_in_a = (spread - (n_ij**2).sum() / n) / dof[0]
    a_in_a = (n - (n_i**2).sum() / n) / dof[0]
    v_b = (ms_b - ms_e) / b_in_b
    v_a = (ms_a - ms_e - b_in_a * v_b) / a_in_a
    return NestedResult(v_a, v_b, ms_e, n, len(levels), len(cells))
