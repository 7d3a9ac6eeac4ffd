"""PERMANOVA: how far groups lie apart.

A location effect may be a dispersion effect: always read it beside PERMDISP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from statsnorm.errors import StatsnormError
from statsnorm.stats.inputs import Array, check_choice
from statsnorm.stats.orders import CHUNK, block_orders, chunks
from statsnorm.stats.result import Shown
from statsnorm.stats.samples import Index, finite_array, generator, level_codes, sample, whole


@dataclass(frozen=True, slots=True)
class PermanovaResult(Shown):
    """Result of :func:`permanova`; one entry a term, in the order of entry."""

    terms: tuple[str, ...]
    dof: Array
    sum_squares: Array
    statistic: Array  # pseudo-F against the residual of the full model
    r2: Array  # share of the total sum of squares; positive without any effect
    omega2: Array  # its counterpart with the expected noise taken off; may be negative
    pvalue: Array  # (b + 1) / (B + 1); nan for a term that is constant within the blocks
    residual_dof: int
    residual_sum_squares: float
    total_sum_squares: float
    n: int
    permutations: int


def permanova(
    x: ArrayLike,
    factors: Mapping[str, ArrayLike],
    *,
    rng: np.random.Generator,
    interaction: bool = False,
    blocks: ArrayLike | None = None,
    permutations: int = 9999,
    metric: Literal["euclidean", "precomputed"] = "euclidean",
) -> PermanovaResult:
    """Partition the variation of multivariate rows over factors, with permutation p-values.

    Null of a term: given its block, a row is independent of the labels (rows of one block are
    exchangeable). Sums of squares are sequential (type I): each factor is adjusted for those
    before it. One permutation of rows, within blocks, serves all terms, as in vegan's adonis2.
    omega2 = (SS - dof MS_res) / (SS_total + MS_res).

    Parameters
    ----------
    x : array_like, shape (n, d), or (n, n) if precomputed
        One row per image of a cell; or a symmetric matrix of distances (not squared).
    factors : mapping of name to array_like, shape (n,)
        One or two factors (more are accepted), entered in this order.
    rng : numpy.random.Generator
    interaction : bool
        Add the interaction of the first two factors; needs replicated cells.
    blocks : array_like, shape (n,), optional
        Permute rows within these only, e.g. content for a test of style.
    permutations : int
        Number B of random permutations.
    metric : {"euclidean", "precomputed"}

    Raises
    ------
    StatsnormError
        If shapes do not match, a factor has one level or is contained in those before it, no
        residual degree of freedom is left, or no row can move within its block.

    References
    ----------
    .. [1] M. J. Anderson, Austral Ecol. 26 (2001), 32-46.
    .. [2] B. H. McArdle and M. J. Anderson, Ecology 82 (2001), 290-297.
    """
    generator(rng)
    whole("permutations", permutations, least=1)
    left, right = centred_factors(x, metric)  # left @ right.T = the Gower-centred matrix
    n = len(left)
    terms, bases = sequential_bases(factors, n, interaction)
    dof = np.array([q.shape[1] for q in bases])
    residual_dof = n - 1 - int(dof.sum())
    if residual_dof < 1:
        raise StatsnormError(
            f"no residual degree of freedom: {n} rows, {int(dof.sum()) + 1} parameters; "
            "leave out a term or the interaction"
        )
    starts = np.concatenate([[0], np.cumsum(dof)[:-1]])
    basis = np.concatenate(bases, axis=1)  # (n, q)
    total = float(np.einsum("nd,nd->", left, right))
    if not total > 0:
        raise StatsnormError("the rows of x do not differ: the total sum of squares is 0")
    squares = term_squares(basis[None], left, right, starts)  # (1, terms)
    mean_residual = (total - squares.sum()) / residual_dof
    statistic = pseudo_f(squares, dof, total, residual_dof)
    testable = np.array([moves(q, blocks) for q in bases])
    exceed = np.zeros(len(terms))
    for order in chunks(block_orders(n, blocks, permutations, rng), max(1, CHUNK // basis.size)):
        permuted = term_squares(basis[order], left, right, starts)
        null = pseudo_f(permuted, dof, total, residual_dof)
        exceed += (null >= statistic * (1 - 1e-9)).sum(axis=0)  # ties count against the claim
    squares = squares[0]
    return PermanovaResult(
        terms=terms,
        dof=dof.astype(np.float64),
        sum_squares=squares,
        statistic=statistic[0],
        r2=squares / total,
        omega2=(squares - dof * mean_residual) / (total + mean_residual),
        pvalue=np.where(testable, (exceed + 1) / (permutations + 1), np.nan),
        residual_dof=residual_dof,
        residual_sum_squares=total - float(squares.sum()),
        total_sum_squares=total,
        n=n,
        permutations=permutations,
    )


def centred_factors(x: ArrayLike, metric: str) -> tuple[Array, Array]:
    """Return (left, right) with left @ right.T = the Gower-centred inner products (n, n)."""
    check_choice(metric, ("euclidean", "precomputed"), "metric")
    if metric == "euclidean":
        a = sample("x", x, least=3)
        a = a - a.mean(axis=0)
        if a.shape[1] > len(a):  # rotate to at most n columns
            a = np.asarray(np.linalg.qr(a.T, mode="r")).T
        return a, a
    distances = finite_array("x", x, ndim=2)
    if distances.shape[0] != distances.shape[1] or not np.allclose(distances, distances.T):
        raise StatsnormError(f"precomputed x must be square and symmetric, got {distances.shape}")
    if np.diag(distances).any() or distances.min() < 0:
        raise StatsnormError("precomputed x must be non-negative with a zero diagonal")
    gower = -0.5 * distances**2
    gower = gower - gower.mean(axis=0) - gower.mean(axis=1)[:, None] + gower.mean()
    return gower, np.eye(len(gower))


def sequential_bases(
    factors: Mapping[str, ArrayLike], n: int, interaction: bool
) -> tuple[tuple[str, ...], list[Array]]:
    """Return the terms and, for each, an orthonormal basis (n, dof) of what it adds."""
    if not factors:
        raise StatsnormError("factors must name at least one factor")
    codes = {
        name: level_codes(f"factor {name!r}", values, n=n, least=2)[0]
        for name, values in factors.items()
    }
    if interaction:
        if len(codes) < 2:
            raise StatsnormError("an interaction needs two factors, got one")
        (a, first), (b, second) = list(codes.items())[:2]
        codes[f"{a}:{b}"] = first * (int(second.max()) + 1) + second
    known = np.full((n, 1), n**-0.5)  # intercept
    bases = []
    for name, code in codes.items():
        dummies = (code[:, None] == np.unique(code)).astype(np.float64)  # (n, levels)
        added = dummies - known @ (known.T @ dummies)
        vectors, values, _ = np.linalg.svd(added, full_matrices=False)
        basis = vectors[:, values > 1e-9 * np.sqrt(n)]
        if not basis.shape[1]:
            raise StatsnormError(f"term {name!r} adds nothing to the terms before it")
        bases.append(basis)
        known = np.concatenate([known, basis], axis=1)
    return tuple(codes), bases


def term_squares(basis: Array, left: Array, right: Array, starts: Index) -> Array:
    """Return the sums of squares (B, terms) for permuted bases (B, n, q)."""
    count, n, q = basis.shape
    flat = basis.transpose(0, 2, 1).reshape(count * q, n)
    scores = flat @ left  # (B q, d)
    other = scores if left is right else flat @ right
    squares = np.einsum("rd,rd->r", scores, other).reshape(count, q)
    summed: Array = np.add.reduceat(squares, starts, axis=1)
    return summed


def moves(basis: Array, blocks: ArrayLike | None) -> bool:
    """Return whether permuting within the blocks changes a term: it must vary inside them."""
    if blocks is None:
        return True
    codes, _ = level_codes("blocks", blocks, n=len(basis))
    member = codes[:, None] == np.arange(codes.max() + 1)  # (n, blocks)
    means = (member.T @ basis) / member.sum(axis=0)[:, None]
    return bool(np.abs(basis - means[codes]).max() > 1e-9)


def pseudo_f(squares: Array, dof: Index, total: float, residual_dof: int) -> Array:
    """Return the pseudo-F (B, terms); infinite when the model leaves no residual."""
    residual = (total - squares.sum(axis=1, keepdims=True)) / residual_dof
    residual = np.where(residual > 1e-12 * total, residual, 0.0)
    with np.errstate(divide="ignore"):
        f: Array = squares / dof / residual
    return f
