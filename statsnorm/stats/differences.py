"""Differences between removed fractions (or any jackknifed number) of two treatments.

Paired over the same images and styles; with several reference networks (random
initialisations) their own spread is added, since the network is then a unit too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from statsnorm.errors import StatsnormError
from statsnorm.stats.inputs import Array, check_confidence
from statsnorm.stats.jackknife import checked_replicates
from statsnorm.stats.removed import few_styles, removed_replicates
from statsnorm.stats.result import Shown


@dataclass(frozen=True, slots=True)
class Difference(Shown):
    """Result of :func:`difference_from_replicates`; in the units of the statistic."""

    estimate: float  # value - reference
    low: float
    high: float
    se: float
    dof: float
    pvalue: float  # two-sided, of no difference; nan if se is 0 and the estimate is not
    value: float
    reference: float  # mean over reference networks
    reference_low: float  # smallest and largest of the reference networks
    reference_high: float
    n_images: int
    n_styles: int
    n_networks: int  # reference networks
    confidence: float
    caution: str


def difference_from_replicates(
    value: ArrayLike,
    reference: ArrayLike,
    n_images: int,
    n_styles: int,
    confidence: float = 0.95,
) -> Difference:
    """Return value - reference with its interval: two-way jackknife, plus networks if several.

    The variance is ``v_images + v_styles + v_networks``: the delete-one jackknife of the
    paired difference, and, for N >= 2 reference networks, the variance (ddof 1) of their
    estimates over N. Satterthwaite dof over the parts, t quantile, linear scale.

    Parameters
    ----------
    value : array_like, shape (1 + I + S,)
        Replicates of the statistic (mean R, Psi, ...): estimate, without each image,
        without each style.
    reference : array_like, shape (1 + I + S,) or (1 + I + S, N)
        The same for what it is compared with; one column per reference network.
    n_images, n_styles : int
        I and S; both must be the same images and styles.
    confidence : float
        Level of the interval.

    Returns
    -------
    Difference
        All nan where a replicate is nan.

    Raises
    ------
    StatsnormError
        If the lengths are not 1 + I + S.
    """
    check_confidence(confidence)
    one = checked_replicates(value, n_images, n_styles, "value")
    many = checked_replicates(reference, n_images, n_styles, "reference")
    many = many[:, None] if many.ndim == 1 else many
    if one.ndim != 1 or many.ndim != 2 or not many.shape[1]:
        raise StatsnormError(
            f"value must be (1 + I + S,) and reference that or (1 + I + S, N), "
            f"got {one.shape} and {many.shape}"
        )
    n_networks = many.shape[1]
    difference = one - many.mean(axis=1)
    parts = [
        (difference[1 : 1 + n_images], n_images),
        (difference[1 + n_images :], n_styles),
    ]
    v = [(n - 1) / n * float(np.square(rows - rows.mean()).sum()) for rows, n in parts]
    dofs = [n_images - 1, n_styles - 1]
    if n_networks > 1:
        v.append(float(many[0].var(ddof=1)) / n_networks)
        dofs.append(n_networks - 1)
    se = float(np.sqrt(sum(v)))
    dof = satterthwaite_dof(v, dofs)
    half = float(special.stdtrit(dof, 0.5 + confidence / 2)) * se
    return Difference(
        estimate=float(difference[0]),
        low=float(difference[0] - half),
        high=float(difference[0] + half),
        se=se,
        dof=dof,
        pvalue=_pvalue(float(difference[0]), se, dof),
        value=float(one[0]),
        reference=float(many[0].mean()),
        reference_low=float(many[0].min()),
        reference_high=float(many[0].max()),
        n_images=n_images,
        n_styles=n_styles,
        n_networks=n_networks,
        confidence=confidence,
        caution=few_styles(n_styles),
    )


def removed_difference_from_replicates(
    before: ArrayLike,
    after: ArrayLike,
    reference_before: ArrayLike,
    reference_after: ArrayLike,
    n_images: int,
    n_styles: int,
    confidence: float = 0.95,
) -> Difference:
    """Return R - R_reference from trace replicates (H5a: untrained; H5b: pixel treatments).

    Parameters
    ----------
    before, after : array_like, shape (1 + I + S,) or (1 + I + S, T)
        Trace replicates of one component; R is averaged over T taps.
    reference_before, reference_after : array_like
        Of the same shape, or with one more axis at the end for N reference networks.
    n_images, n_styles : int
        I and S.
    confidence : float
        Level of the interval.

    Raises
    ------
    StatsnormError
        If the shapes do not fit together.
    """
    value = removed_replicates(before, after)
    bottom = np.asarray(reference_before, dtype=np.float64)
    top = np.asarray(reference_after, dtype=np.float64)
    shape = np.shape(before)
    if bottom.shape != top.shape or (bottom.shape != shape and bottom.shape[:-1] != shape):
        raise StatsnormError(
            f"the reference must have the shape of before, {shape}, or one axis of networks "
            f"more; got {bottom.shape} and {top.shape}"
        )
    if bottom.shape == shape:
        reference: Array = removed_replicates(bottom, top)
    else:
        columns = range(bottom.shape[-1])
        reference = np.stack([removed_replicates(bottom[..., n], top[..., n]) for n in columns], 1)
    return difference_from_replicates(value, reference, n_images, n_styles, confidence)


def satterthwaite_dof(variances: list[float], dofs: list[int]) -> float:
    """Return the degrees of freedom of a sum of independent variances; their sum if all are 0."""
    total = sum(variances)
    if total == 0:
        return float(sum(dofs))
    return float(1 / sum((v / total) ** 2 / d for v, d in zip(variances, dofs, strict=True)))


def _pvalue(estimate: float, se: float, dof: float) -> float:
    if se == 0:
        return 1.0 if estimate == 0 else np.nan
    return float(2 * special.stdtr(dof, -abs(estimate) / se))
