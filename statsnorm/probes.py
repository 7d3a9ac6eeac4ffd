"""How well a label (style, contrast level) can be read from moments by a linear probe.

Multinomial logistic regression on standardised columns, L2 chosen by inner cross-validation.
All splits keep a group (content) on one side, and the group is the unit of every interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.linear_model import LogisticRegression

from statsnorm.errors import StatsnormError
from statsnorm.stats.inputs import Array, check_confidence, is_constant
from statsnorm.stats.orders import block_orders
from statsnorm.stats.result import Shown
from statsnorm.stats.samples import Index, finite_array, generator, level_codes, sample, whole

Split = tuple[Index, Index]  # rows of the training and of the test side
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # inverse L2 penalties tried by the inner folds


@dataclass(frozen=True, slots=True)
class ProbeResult(Shown):
    """Result of :func:`probe`; intervals over groups (contents), not rows."""

    accuracy: float  # held-out, mean over rows
    low: float  # Korn-Graubard interval, clustered by group
    high: float
    se: float
    dof: float
    macro: float  # mean over labels of the accuracy within a label
    macro_low: float  # t interval, clustered by group and by label
    macro_high: float
    chance: float  # share of the most frequent label; 1 / S if balanced
    bits: float  # information about the label: entropy - held-out cross-entropy, at least 0
    bits_raw: float  # the same, not floored
    entropy: float  # of the label, in bits
    pvalue: float  # permutation within blocks; nan if not asked for
    permutations: int
    n: int
    n_groups: int
    n_labels: int
    group_accuracy: Array = field(metadata={"tidy": False})  # (n_groups,), of sorted groups
    group_bits: Array = field(metadata={"tidy": False})  # (n_groups,), not floored


@dataclass(frozen=True, slots=True)
class ClusterMean(Shown):
    """Result of :func:`cluster_proportion`."""

    estimate: float
    low: float
    high: float
    se: float
    dof: float


def probe(
    x: ArrayLike,
    labels: ArrayLike,
    *,
    groups: ArrayLike,
    rng: np.random.Generator,
    blocks: ArrayLike | None = None,
    permutations: int = 0,
    folds: int = 5,
    strengths: Sequence[float] = STRENGTHS,
    splits: Sequence[Split] | None = None,
    confidence: float = 0.95,
) -> ProbeResult:
    """Decode a label from the columns of x, never testing on a group seen in training.

    Null of the p-value: within a block the labels are exchangeable. Every permutation repeats
    the whole procedure, choice of strength included; pass one strength to make it cheap.

    Parameters
    ----------
    x : array_like, shape (n, d)
        Moments [m, v] of one tap, one row a cell of the design.
    labels : array_like, shape (n,)
        What is decoded: style, or contrast level; or content, with ``groups`` the style.
    groups : array_like, shape (n,)
        What must not stand on both sides of a split: the content of each row.
    rng : numpy.random.Generator
        Deals groups to folds and permutes labels.
    blocks : array_like, shape (n,), optional
        Labels are permuted within these (content x contrast level). Needed for a p-value.
    permutations : int
        0 for none.
    folds : int
        Of the outer and the inner cross-validation.
    strengths : sequence of float
        Inverse L2 penalties to choose from by inner held-out log loss.
    splits : sequence of (train, test) row indices, optional
        Own outer splits; refused if a group stands on both sides, or a row is not tested
        exactly once.
    confidence : float

    Raises
    ------
    StatsnormError
        If shapes do not match, there are too few groups or labels, a training side lacks a
        label, a split leaks, or all columns are constant.

    References
    ----------
    .. [1] E. L. Korn and B. I. Graubard, Surv. Methodol. 24 (1998), 193-201 (interval).
    """
    check_confidence(confidence)
    a = sample("x", x, least=4)
    codes, levels = level_codes("labels", labels, n=len(a), least=2)
    units, names = level_codes("groups", groups, n=len(a), least=4)
    grid = positive_strengths(strengths)
    outer = group_folds(units, whole("folds", folds, least=2), generator(rng))
    outer = outer if splits is None else list(splits)
    check_splits(outer, units)
    plan = [(split, group_folds(units[split[0]], folds, rng)) for split in outer]
    log_probability = held_out(a, codes, plan, grid)
    correct = (log_probability.argmax(axis=1) == codes).astype(np.float64)
    pvalue = np.nan
    if whole("permutations", permutations, least=0):
        if blocks is None:
            raise StatsnormError("a permutation p-value needs blocks, e.g. content x level")
        hits = 0
        for order in block_orders(len(a), blocks, permutations, rng):
            null = held_out(a, codes[order], plan, grid).argmax(axis=1) == codes[order]
            hits += int(null.mean() >= correct.mean() - 1e-12)
        pvalue = (hits + 1) / (permutations + 1)
    share = np.bincount(codes) / len(codes)
    entropy = float(-(share * np.log2(share)).sum())
    own = entropy + log_probability[np.arange(len(a)), codes] / np.log(2)  # (n,) bits a row
    bits, rows = float(own.mean()), np.bincount(units)
    ci = cluster_proportion(correct, units, confidence=confidence)
    macro, macro_low, macro_high = macro_accuracy(correct, units, codes, confidence)
    return ProbeResult(
        accuracy=ci.estimate,
        low=ci.low,
        high=ci.high,
        se=ci.se,
        dof=ci.dof,
        macro=macro,
        macro_low=macro_low,
        macro_high=macro_high,
        chance=float(share.max()),
        bits=max(bits, 0.0),
        bits_raw=bits,
        entropy=entropy,
        pvalue=pvalue,
        permutations=permutations,
        n=len(a),
        n_groups=len(names),
        n_labels=len(levels),
        group_accuracy=np.bincount(units, correct) / rows,
        group_bits=np.bincount(units, own) / rows,
    )


def positive_strengths(strengths: Sequence[float]) -> tuple[float, ...]:
    """Return the inverse penalties, at least one and all positive."""
    grid = finite_array("strengths", list(strengths), ndim=1)
    if not len(grid) or not (grid > 0).all():
        raise StatsnormError(f"strengths must be positive and at least one, got {strengths!r}")
    return tuple(grid.tolist())


def group_folds(units: Index, folds: int, rng: np.random.Generator) -> list[Split]:
    """Return (train, test) rows that deal whole groups to at most `folds` folds."""
    groups = np.unique(units)
    fold = np.empty(int(groups.max()) + 1, dtype=np.intp)
    fold[groups] = rng.permutation(len(groups)) % min(folds, len(groups))
    of_row = fold[units]
    return [
        (np.flatnonzero(of_row != k), np.flatnonzero(of_row == k))
        for k in range(min(folds, len(groups)))
    ]


def check_splits(splits: Sequence[Split], units: Index) -> None:
    """Raise if a group stands on both sides of a split, or a row is not tested exactly once."""
    for number, (train, test) in enumerate(splits):
        if shared := np.intersect1d(units[train], units[test]).size:
            raise StatsnormError(
                f"split {number} leaks: {shared} groups stand in training and test; "
                "split by group (content)"
            )
    tested = np.bincount(np.concatenate([test for _, test in splits]), minlength=len(units))
    if not (tested == 1).all():
        raise StatsnormError(
            f"every row must be tested exactly once; {int((tested != 1).sum())} are not"
        )


def held_out(
    x: Array, codes: Index, plan: Sequence[tuple[Split, Sequence[Split]]], grid: Sequence[float]
) -> Array:
    """Return held-out log probabilities (n, S); the strength is chosen in each training side."""
    result = np.full((len(x), int(codes.max()) + 1), np.nan)
    for (train, test), inner in plan:
        strength = grid[0]
        if len(grid) > 1:
            loss = [
                sum(
                    inner_loss(x[train], codes[train], split, value, result.shape[1])
                    for split in inner
                )
                for value in grid
            ]
            strength = grid[int(np.argmin(loss))]
        result[test] = log_probabilities(x[train], codes[train], x[test], strength, result.shape[1])
    return result


def inner_loss(x: Array, codes: Index, split: Split, strength: float, count: int) -> float:
    """Return the summed log loss of one inner fold."""
    train, test = split
    log_p = log_probabilities(x[train], codes[train], x[test], strength, count)
    return float(-log_p[np.arange(len(test)), codes[test]].sum())


def log_probabilities(x: Array, codes: Index, new: Array, strength: float, count: int) -> Array:
    """Return log probabilities (m, S) of new rows; scale and axes come from training only."""
    if len(missing := np.setdiff1d(np.arange(count), codes)):
        raise StatsnormError(
            f"{len(missing)} of {count} labels are missing from a training side; "
            "every label needs several groups, or use fewer folds"
        )
    live = ~is_constant(x)
    if not live.any():
        raise StatsnormError(f"all {x.shape[1]} columns are constant in a training side")
    mean, sd = x[:, live].mean(axis=0), x[:, live].std(axis=0)
    z, z_new = (x[:, live] - mean) / sd, (new[:, live] - mean) / sd
    if z.shape[1] > len(z):  # the L2 solution lies in the span of the rows: rotate, lose nothing
        axes = np.linalg.svd(z, full_matrices=False)[2]
        z, z_new = z @ axes.T, z_new @ axes.T
    model = LogisticRegression(C=strength, max_iter=5000).fit(z, codes)
    log_p: Array = np.asarray(model.predict_log_proba(z_new), dtype=np.float64)
    return log_p


def cluster_proportion(
    correct: ArrayLike, groups: ArrayLike, *, confidence: float = 0.95
) -> ClusterMean:
    """Return a share of rows with a Korn-Graubard interval clustered by group.

    Clopper-Pearson at the effective sample size p(1-p)/se^2, with se the linearised ratio
    estimator over groups; never more than the rows, and the number of groups where all groups
    agree, so the interval does not collapse at 0 or 1.

    Parameters
    ----------
    correct : array_like, shape (n,)
        1 or 0 (or a share) a row.
    groups : array_like, shape (n,)
        Independent units; at least two.
    confidence : float

    References
    ----------
    .. [1] E. L. Korn and B. I. Graubard, Surv. Methodol. 24 (1998), 193-201.
    """
    check_confidence(confidence)
    y = finite_array("correct", correct, ndim=1)
    if len(y) and not (y.min() >= 0 and y.max() <= 1):
        raise StatsnormError(f"correct must lie in 0..1, got {y.min():g} to {y.max():g}")
    codes, levels = level_codes("groups", groups, n=len(y), least=2)
    estimate, dof = float(y.mean()), len(levels) - 1
    sums = np.bincount(codes, y - estimate)  # (groups,)
    se = float(np.sqrt((dof + 1) / dof * (sums**2).sum()) / len(y))
    low, high = proportion_interval(
        estimate, se, clusters=len(levels), rows=len(y), confidence=confidence
    )
    return ClusterMean(estimate, low, high, se, float(dof))


def proportion_interval(
    estimate: float, se: float, *, clusters: int, rows: int, confidence: float
) -> tuple[float, float]:
    """Return Clopper-Pearson bounds at the effective sample size p (1 - p) / se^2.

    Parameters
    ----------
    estimate, se : float
        A share of rows, and its standard error over clusters.
    clusters, rows : int
        Independent units, at least two; the effective size is never more than `rows`, is made
        smaller by the ratio of t quantiles for the degrees of freedom of `se`, and is `clusters`
        where `se` is 0 because all agree.
    confidence : float

    References
    ----------
    .. [1] E. L. Korn and B. I. Graubard, Surv. Methodol. 24 (1998), 193-201.
    """
    spread = estimate * (1 - estimate)
    effective = min(spread / se**2, rows) if se > 0 and spread > 0 else float(clusters)
    if se > 0:  # the variance is itself estimated from few groups
        tail = (1 - confidence) / 2
        ratio = stats.t.isf(tail, max(rows - 1, 1)) / stats.t.isf(tail, clusters - 1)
        effective *= float(ratio**2)
    return beta_bounds(estimate * effective, effective, confidence)


def beta_bounds(successes: float, n: float, confidence: float) -> tuple[float, float]:
    """Return Clopper-Pearson bounds for numbers that need not be whole."""
    tail = (1 - confidence) / 2
    low = stats.beta.ppf(tail, successes, n - successes + 1) if successes > 1e-12 else 0.0
    high = stats.beta.isf(tail, successes + 1, n - successes) if n - successes > 1e-12 else 1.0
    return float(low), float(high)


def macro_accuracy(
    correct: Array, units: Index, codes: Index, confidence: float
) -> tuple[float, float, float]:
    """Return the mean accuracy over labels with a two-way jackknife t interval in [0, 1].

    Delete one group and delete one label, as for the variance components (method 3.1); nan
    bounds where a label has rows of one group only.
    """
    shape = (int(units.max()) + 1, int(codes.max()) + 1)
    cell = units * shape[1] + codes
    right = np.bincount(cell, correct, minlength=shape[0] * shape[1]).reshape(shape)  # (I, S)
    rows = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)
    recall = right.sum(axis=0) / rows.sum(axis=0)  # (S,)
    macro = float(recall.mean())
    with np.errstate(invalid="ignore"):
        no_group = ((right.sum(axis=0) - right) / (rows.sum(axis=0) - rows)).mean(axis=1)  # (I,)
    no_label = (recall.sum() - recall) / (shape[1] - 1)  # (S,)
    parts = [(len(v) - 1) ** 2 / len(v) * v.var(ddof=1) for v in (no_group, no_label)]
    variance = sum(parts)
    if not variance > 0:
        return macro, np.nan, np.nan
    weights: NDArray[np.float64] = np.array([shape[0] - 1, shape[1] - 1], dtype=np.float64)
    dof = variance**2 / (np.array(parts) ** 2 / weights).sum()
    half = float(stats.t.isf((1 - confidence) / 2, dof) * np.sqrt(variance))
    return macro, max(macro - half, 0.0), min(macro + half, 1.0)
