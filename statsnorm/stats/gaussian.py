"""Divergence and Frechet distance between normal laws given by their parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from statsnorm.errors import StatsnormError
from statsnorm.stats.inputs import Array
from statsnorm.stats.result import Shown
from statsnorm.stats.samples import finite_array


@dataclass(frozen=True, slots=True)
class GaussianDivergence(Shown):
    """Result of :func:`gaussian_divergence`; the shape of the input, in nats."""

    forward: Array  # KL(x | y)
    reverse: Array  # KL(y | x)
    symmetric: Array  # their sum


@dataclass(frozen=True, slots=True)
class FrechetResult(Shown):
    """Result of `frechet` and :func:`gaussian_frechet`: squared, in squared units of the input."""

    estimate: float  # mean_term + covariance_term
    mean_term: float
    covariance_term: float
    covariance: str  # full or diagonal


def gaussian_divergence(
    mean_x: ArrayLike, var_x: ArrayLike, mean_y: ArrayLike, var_y: ArrayLike
) -> GaussianDivergence:
    """Return the Kullback-Leibler divergences between normal laws, element by element.

    KL(x|y) = log(s_y / s_x) + (s_x^2 + (m_x - m_y)^2) / (2 s_y^2) - 1/2.

    Parameters
    ----------
    mean_x, var_x, mean_y, var_y : array_like, broadcastable
        Means and variances (not standard deviations).

    Raises
    ------
    StatsnormError
        If a variance is not positive.

    References
    ----------
    .. [1] X. Pan et al., IBN-Net, ECCV 2018, section 3.3.

    Examples
    --------
    >>> print(gaussian_divergence(0, 1, 1, 4).symmetric)
    1.75
    """
    mx, vx, my, vy = (np.asarray(v, dtype=np.float64) for v in (mean_x, var_x, mean_y, var_y))
    for name, values in (("var_x", vx), ("var_y", vy)):
        if not (values > 0).all():
            raise StatsnormError(f"{name} must be positive, got {values.min():g}")
    gap, log_ratio = (mx - my) ** 2, 0.5 * np.log(vy / vx)
    forward = log_ratio + (vx + gap) / (2 * vy) - 0.5
    reverse = -log_ratio + (vy + gap) / (2 * vx) - 0.5
    return GaussianDivergence(forward, reverse, forward + reverse)


def gaussian_frechet(
    mean_x: ArrayLike, cov_x: ArrayLike, mean_y: ArrayLike, cov_y: ArrayLike
) -> FrechetResult:
    """Return the squared Frechet distance between normal laws N(mean, cov).

    |m_x - m_y|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2), by symmetric eigenvalues, so singular
    covariances need no ridge.

    Parameters
    ----------
    mean_x, mean_y : array_like, shape (d,)
    cov_x, cov_y : array_like, shape (d, d)
        Symmetric and positive semidefinite.

    Raises
    ------
    StatsnormError
        If a shape does not match, or a covariance is not symmetric or not semidefinite.

    References
    ----------
    .. [1] D. C. Dowson and B. V. Landau, J. Multivar. Anal. 12 (1982), 450-455.
    """
    mx, my = finite_array("mean_x", mean_x, ndim=1), finite_array("mean_y", mean_y, ndim=1)
    a, b = finite_array("cov_x", cov_x, ndim=2), finite_array("cov_y", cov_y, ndim=2)
    if not (a.shape == b.shape == (len(mx), len(mx)) and mx.shape == my.shape):
        raise StatsnormError(
            f"means (d,) and covariances (d, d) must agree, got {mx.shape}, {a.shape}, "
            f"{my.shape}, {b.shape}"
        )
    root_a, root_b = covariance_root("cov_x", a), covariance_root("cov_y", b)
    overlap = np.linalg.svd(root_a @ root_b, compute_uv=False).sum()
    return frechet_parts(mx - my, np.trace(a) + np.trace(b) - 2 * overlap, "full")


def covariance_root(name: str, covariance: Array) -> Array:
    """Return the symmetric square root of a covariance (d, d)."""
    scale = np.abs(covariance).max()
    if not np.allclose(covariance, covariance.T, rtol=0, atol=1e-10 * scale):
        raise StatsnormError(f"{name} must be symmetric")
    values, vectors = np.linalg.eigh(covariance)
    if values[0] < -1e-10 * scale:
        raise StatsnormError(f"{name} must be positive semidefinite, got eigenvalue {values[0]:g}")
    root: Array = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return root


def frechet_parts(gap: Array, covariance_term: float, covariance: str) -> FrechetResult:
    """Return the result from the difference of means (d,) and the covariance term."""
    mean_term, rest = float(gap @ gap), max(float(covariance_term), 0.0)
    return FrechetResult(mean_term + rest, mean_term, rest, covariance)
