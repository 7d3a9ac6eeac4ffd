"""PERMANOVA and PERMDISP: how far groups lie apart, and how unequally they spread.

A location effect in PERMANOVA may be a dispersion effect: always read it beside PERMDISP.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from statsnorm.errors import StatsnormError
from statsnorm.stats.inputs import Array, check_choice
from statsnorm.stats.result import Shown
from statsnorm.stats.samples import Index, finite_array, generator, level_codes, sample, whole

ASKED = 50  # steps between asking whether the nearest row is the spatial median
CHUNK = 1 << 22  # numbers in one batch of permuted bases: 32 MiB of float64


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


@dataclass(frozen=True, slots=True)
class PermdispResult(Shown):
    """Result of :func:`permdisp`; arrays have one entry a group."""

    statistic: float  # F of the distances to the group's own centre
    pvalue: float  # (b + 1) / (B + 1)
    groups: tuple[str, ...]
    mean_distance: Array
    sizes: Array
    center: str
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


def block_orders(
    n: int, blocks: ArrayLike | None, permutations: int, rng: np.random.Generator
) -> Iterator[Index]:
    """Yield random orders (n,) of the rows that move rows within their block only."""
    if blocks is None:
        for _ in range(permutations):
            yield rng.permutation(n)
        return
    codes, _ = level_codes("blocks", blocks, n=n)
    by_block = np.argsort(codes, kind="stable")
    if np.bincount(codes).max() < 2:
        raise StatsnormError("blocks must hold at least two rows somewhere; none can be permuted")
    for _ in range(permutations):
        order = np.empty(n, dtype=np.intp)
        order[by_block] = np.lexsort((rng.random(n), codes))
        yield order


def chunks(orders: Iterator[Index], size: int) -> Iterator[Index]:
    """Yield the orders in stacks (at most size, n)."""
    stack: list[Index] = []
    for order in orders:
        stack.append(order)
        if len(stack) == size:
            yield np.stack(stack)
            stack = []
    if stack:
        yield np.stack(stack)


def permdisp(
    x: ArrayLike,
    labels: ArrayLike,
    *,
    rng: np.random.Generator,
    center: Literal["centroid", "median"] = "median",
    blocks: ArrayLike | None = None,
    permutations: int = 9999,
) -> PermdispResult:
    """Test that groups spread equally around their own centres (Euclidean).

    Null: the rows' deviations from their group's centre have one law in all groups. F of a
    one-way analysis of variance of the distances to the centres. The permutations move whole
    deviations (scaled by sqrt(n_j / (n_j - 1))) and find the centres anew: permuting the
    distances alone, as is common, rejects 10 % at 5 % with 5 rows a group, this 6 %.

    Parameters
    ----------
    x : array_like, shape (n, d)
        One row per independent image.
    labels : array_like, shape (n,)
        Group of each row; at least two rows in each.
    rng : numpy.random.Generator
    center : {"centroid", "median"}
        Group mean, or spatial median (default: less sensitive to single rows).
    blocks : array_like, shape (n,), optional
        Permute within these only.
    permutations : int

    Raises
    ------
    StatsnormError
        If shapes do not match, a group has one row or an unknown centre is asked for.

    References
    ----------
    .. [1] M. J. Anderson, Biometrics 62 (2006), 245-253.
    """
    generator(rng)
    whole("permutations", permutations, least=1)
    check_choice(center, ("centroid", "median"), "center")
    a = sample("x", x, least=4)
    codes, levels = level_codes("labels", labels, n=len(a), least=2)
    sizes = np.bincount(codes)
    if sizes.min() < 2:
        raise StatsnormError(
            f"every group needs two rows, {levels[int(sizes.argmin())]!r} has {sizes.min()}"
        )
    flat = centred_factors(a, "euclidean")[0][None]  # (1, n, d), d <= n
    quick, deviations = dispersion_f(flat, codes, sizes, center)
    deviations = deviations[0] * np.sqrt(sizes / (sizes - 1))[codes][:, None]
    exceed = 0
    for order in chunks(
        block_orders(len(a), blocks, permutations, rng), max(1, CHUNK // deviations.size)
    ):
        null = dispersion_f(deviations[order], codes, sizes, center)[0]
        exceed += int((null >= quick * (1 - 1e-9)).sum())
    distances = np.empty(len(a))
    for j in range(len(levels)):
        rows = a[codes == j]
        middle = rows.mean(axis=0) if center == "centroid" else spatial_median(rows)
        distances[codes == j] = np.linalg.norm(rows - middle, axis=1)
    return PermdispResult(
        statistic=float(one_way_f(distances[None], codes, sizes)[0]),
        pvalue=(exceed + 1) / (permutations + 1),
        groups=tuple(map(str, levels)),
        mean_distance=np.bincount(codes, distances) / sizes,
        sizes=sizes.astype(np.float64),
        center=center,
        permutations=permutations,
    )


def dispersion_f(x: Array, codes: Index, sizes: Index, center: str) -> tuple[Array, Array]:
    """Return F (B,) of distances to the group centres of x (B, n, d), and the deviations.

    Observed and permuted rows get the same 20 Weiszfeld steps for the median: enough for a
    rank among permutations, not for the reported F.
    """
    deviations = np.empty_like(x)
    for j in range(len(sizes)):
        rows = x[:, codes == j]  # (B, m, d)
        middle = rows.mean(axis=1, keepdims=True)
        for _ in range(20 if center == "median" else 0):
            lengths = np.sqrt(((rows - middle) ** 2).sum(axis=2))
            weights = 1 / np.maximum(lengths, 1e-9 * lengths.max(axis=1, keepdims=True) + 1e-300)
            weights /= weights.sum(axis=1, keepdims=True)
            middle = weights[:, None] @ rows
        deviations[:, codes == j] = rows - middle
    return one_way_f(np.sqrt((deviations**2).sum(axis=2)), codes, sizes), deviations


def spatial_median(rows: Array, *, tolerance: float = 1e-10, steps: int = 10_000) -> Array:
    """Return the point (d,) with the least sum of distances to the rows (n, d).

    Weiszfeld's iteration with the step of Vardi and Zhang where it meets a row. Towards a
    median at a row that occurs several times, or close to it, it may creep; so the nearest row is
    asked now and then whether it is the median, and a Newton step taken where that is lower.

    References
    ----------
    .. [1] Y. Vardi and C.-H. Zhang, Proc. Natl. Acad. Sci. 97 (2000), 1423-1426.
    """
    point: Array = np.median(rows, axis=0)
    scale = np.abs(rows - point).max()
    for count in range(1, steps + 1):
        pull, here, weight = _pull(rows, point, scale)
        strength = float(np.linalg.norm(pull))
        if here and here >= strength:
            return point  # the row itself is the median
        step = (1 - here / strength if here else 1.0) * pull / weight
        point = point + step
        if np.linalg.norm(step) <= tolerance * scale:
            return point
        if count % ASKED == 0:
            nearest: Array = rows[np.linalg.norm(rows - point, axis=1).argmin()]
            pull, here, _ = _pull(rows, nearest, scale)
            if here >= np.linalg.norm(pull):
                return nearest
            point = _newton(rows, point)
    raise StatsnormError(f"the spatial median of {len(rows)} rows did not settle in {steps} steps")


def _pull(rows: Array, point: Array, scale: float) -> tuple[Array, int, float]:
    """Return the sum of unit vectors to the rows elsewhere, how many are here, and sum 1/length."""
    gaps = rows - point
    lengths = np.linalg.norm(gaps, axis=1)
    away = lengths > 1e-14 * scale
    weights = np.divide(1.0, lengths, where=away, out=np.zeros_like(lengths))
    return weights @ gaps, int((~away).sum()), float(weights.sum())


def _newton(rows: Array, point: Array) -> Array:
    """Return the Newton step's end if the sum of distances is less there, else the point."""
    gaps = rows - point
    lengths = np.linalg.norm(gaps, axis=1)
    if not (lengths > 0).all():
        return point
    weights = 1 / lengths
    hessian = weights.sum() * np.eye(len(point)) - gaps.T @ (gaps * weights[:, None] ** 3)
    end: Array = point + np.linalg.lstsq(hessian, weights @ gaps, rcond=None)[0]
    lower = np.linalg.norm(rows - end, axis=1).sum() < lengths.sum()
    return end if lower else point


def one_way_f(y: Array, codes: Index, sizes: Index) -> Array:
    """Return the one-way F (B,) of each row of y (B, n)."""
    n, groups = y.shape[1], len(sizes)
    member = (codes[:, None] == np.arange(groups)).astype(np.float64)  # (n, J)
    means = y @ member / sizes  # (B, J)
    between = ((means - y.mean(axis=1, keepdims=True)) ** 2) @ sizes / (groups - 1)
    within = ((y - means[:, codes]) ** 2).sum(axis=1) / (n - groups)
    with np.errstate(divide="ignore", invalid="ignore"):
        f: Array = between / within
    return f
