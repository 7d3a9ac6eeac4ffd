"""How groups of images differ at a tap: centre, spread, whole distribution, single columns.

What `analyses/group_tests.py` makes of the rows of a tap. Rows are independent images, or every
image stands once in every group (conditions of the same images). Then labels are exchangeable only
within an image, which is a block of all permutations, and images, not rows, are the units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats as distributions
from scipy.spatial.distance import cdist

from statsnorm.stats.distances import (
    energy_distance,
    frechet,
    group_distances,
    median_bandwidth,
    mmd,
)
from statsnorm.stats.fisher import fisher_ratio
from statsnorm.stats.multiplicity import benjamini_hochberg, benjamini_yekutieli
from statsnorm.stats.orders import CHUNK, block_orders, chunks
from statsnorm.stats.permanova import permanova
from statsnorm.stats.permdisp import permdisp
from statsnorm.stats.scale_free import live_channels, scale_free

Array = NDArray[np.float64]
Index = NDArray[np.intp]
Statistic = Callable[[Array], Array]

CONFIDENCE = 0.95
CONSTANT = 1e-6  # of the column's magnitude: moments are stored in float32
LEVEL = 0.05  # of the columns that are counted
TIE = 1e-9  # relative: rounding must not break ties, which count against a difference
DISTANCES = ("frechet", "mmd2", "energy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows of one tap in groups, sorted by group, then by image."""

    moments: Array  # (n, d) scale-free m and v side by side
    standard: Array  # (n, d) the same in sds of the reference group, about its mean
    codes: Index  # (n,) 0 .. J - 1
    blocks: Index | None  # (n,) the image; None where every row is an image of its own
    reference: NDArray[np.bool_]  # (n,) rows that the standard columns are measured by

    @property
    def sizes(self) -> Index:
        """Rows of each group (J,)."""
        return np.bincount(self.codes)

    @property
    def images(self) -> int:
        """Number of independent images."""
        return len(self.codes) if self.blocks is None else int(self.sizes[0])

    @property
    def member(self) -> Array:
        """Which row is of which group, 0 or 1 (n, J)."""
        return np.asarray(self.codes[:, None] == np.arange(len(self.sizes)), np.float64)


class Share(NamedTuple):
    """What the groups take of the variation between rows; arrays (...,)."""

    omega2: Array  # (SS - dof MS_res) / (SS_total + MS_res): 0 on average without a difference
    r2: Array  # SS / SS_total
    f: Array  # pseudo-F
    dof: int
    residual_dof: int


class Interval(NamedTuple):
    """Delete-one-image jackknife, t with Satterthwaite degrees of freedom."""

    low: float
    high: float
    se: float
    dof: float


class Relabelled(NamedTuple):
    """Statistics (m,) among those of relabelled rows."""

    statistic: Array
    pvalue: Array  # (b + 1) / (B + 1)
    null_mean: Array
    null_high: Array  # 95 % quantile


class Columns(NamedTuple):
    """Test of every column by itself; arrays (d,)."""

    f: Array
    pvalue: Array  # (b + 1) / (B + 1)
    p_maxt: Array  # step-down maxT: family-wise over the columns


def comparable_rows(
    groups: Sequence[Index], mean: ArrayLike, var: ArrayLike, *, paired: bool, least: int, most: int
) -> tuple[Rows, dict[str, int]] | None:
    """Return the rows of groups with counts of images and columns; None where there are too few.

    Columns are m and v (method 0.5) of the channels above the floor in every group; those that are
    not finite, or constant in the reference, are dropped. Of more than `most` rows together each
    group keeps an equal number at most, evenly spaced.

    Parameters
    ----------
    groups : sequence of ndarray of int
        Row numbers of each group, by image.
    mean, var : array_like, shape (rows, C)
        Channel means and population variances.
    paired : bool
        Row i of every group is the same image; the first group is the reference. Otherwise the
        reference is all rows.
    least : int
        Fewest images of a group.
    most : int
        Rows of all groups together.
    """
    each = most // len(groups)
    thinned = max(map(len, groups)) > each
    groups = [g[np.linspace(0, len(g) - 1, min(len(g), each)).astype(int)] for g in groups]
    if min(map(len, groups)) < least:
        return None
    means, variances = (np.asarray(values, np.float64) for values in (mean, var))
    live = live_channels([variances[g] for g in groups])
    order, sizes = np.concatenate(groups), [len(g) for g in groups]
    codes = np.repeat(np.arange(len(groups)), sizes)
    reference = (codes == 0) | (not paired)
    kept = variances[order][:, live]
    m, v = scale_free(means[order][:, live], kept, reference=kept[reference])
    x = np.concatenate([m, v], axis=1)
    centre, sd = x[reference].mean(axis=0), x[reference].std(axis=0, ddof=1)
    constant = ~(sd > CONSTANT * np.abs(x[reference]).max(axis=0, initial=0.0))  # nan: constant
    use = np.isfinite(x).all(axis=0) & ~constant
    if not use.any():
        return None
    rows = Rows(
        moments=x[:, use],
        standard=(x[:, use] - centre[use]) / sd[use],
        codes=codes,
        blocks=np.tile(np.arange(sizes[0]), len(sizes)) if paired else None,
        reference=reference,
    )
    counts = {"images": rows.images, "rows": len(order), "columns": int(use.sum())}
    return rows, {**counts, "dropped": 2 * len(live) - int(use.sum()), "thinned": int(thinned)}


def share_of_variation(rows: Rows) -> Share:
    """Return the share of the variation of the moments that lies between groups.

    Euclidean PERMANOVA; where every image is in every group, the image is entered first, so that
    the residual is the interaction of image and group.
    """
    x = rows.moments - rows.moments.mean(axis=0)
    return _share(rows.member.T @ x, rows.sizes, *_squares(x, rows))


def left_out_shares(rows: Rows) -> list[Array]:
    """Return omega2 with each image left out, one array for each stratum of images.

    An image that is in every group leaves all of them (one stratum), another its own (J strata).
    """
    x = rows.moments - rows.moments.mean(axis=0)
    sums, sizes = rows.member.T @ x, rows.sizes
    squares, of_images = _squares(x, rows)
    if rows.blocks is not None:
        cells = x.reshape(len(sizes), -1, x.shape[1]).swapaxes(0, 1)  # (I, J, d)
        own = np.square(cells).sum(axis=(1, 2))  # (I,)
        shared = np.square(cells.sum(axis=1)).sum(axis=1) / len(sizes)
        found = _share(sums - cells, sizes - 1, squares - own, of_images - shared)
        return [found.omega2]
    left = []
    for j in range(len(sizes)):
        mine = x[rows.codes == j]
        without = np.repeat(sums[None], len(mine), axis=0)  # (n_j, J, d)
        without[:, j] -= mine
        fewer = sizes - (np.arange(len(sizes)) == j)
        left.append(_share(without, fewer, squares - np.square(mine).sum(axis=1), None).omega2)
    return left


def share_interval(rows: Rows) -> Interval:
    """Return the jackknife interval of omega2 over images; strata add up their variances."""
    left = left_out_shares(rows)
    each = np.array([(len(part) - 1) * part.var() for part in left])
    total = float(each.sum())
    if not total > 0:
        return Interval(np.nan, np.nan, 0.0, np.nan)
    dof = total**2 / float((each**2 / np.array([len(part) - 1 for part in left])).sum())
    half = float(distributions.t.isf((1 - CONFIDENCE) / 2, dof)) * total**0.5
    estimate = float(share_of_variation(rows).omega2)
    return Interval(estimate - half, estimate + half, total**0.5, dof)


def _squares(x: Array, rows: Rows) -> tuple[float, float | None]:
    """Return the sum of squares of all rows and, if any, of the images' means times J."""
    if rows.blocks is None:
        return float(np.square(x).sum()), None
    cells = x.reshape(len(rows.sizes), -1, x.shape[1])  # (J, I, d)
    return float(np.square(x).sum()), float(np.square(cells.sum(axis=0)).sum() / len(cells))


def _share(
    sums: Array, sizes: Index, squares: Array | float, images: Array | float | None
) -> Share:
    """Return the share from the sums of the groups (..., J, d) and sums of squares (...,)."""
    n, groups = int(sizes.sum()), len(sizes)
    common = np.square(sums.sum(axis=-2)).sum(axis=-1) / n
    between = (np.square(sums).sum(axis=-1) / sizes).sum(axis=-1) - common
    total = squares - common
    residual = total - between - (0.0 if images is None else images - common)
    dof = groups - 1
    residual_dof = n - groups if images is None else dof * (int(sizes[0]) - 1)
    noise = residual / residual_dof
    with np.errstate(divide="ignore", invalid="ignore"):
        f = between / dof / noise
    omega2 = (between - dof * noise) / (total + noise)
    return Share(np.asarray(omega2), np.asarray(between / total), f, dof, residual_dof)


def share_pvalue(rows: Rows, *, rng: np.random.Generator, permutations: int) -> float:
    """Return the p-value of PERMANOVA; labels move within an image that is in every group.

    Rows are centred within their image then: that changes no sum of squares of the groups, so the
    p-value is that of the model with the image as first term, at a fraction of its cost.
    """
    x = _within(rows.moments, rows)
    found = permanova(
        x, {"group": rows.codes}, rng=rng, blocks=rows.blocks, permutations=permutations
    )
    return float(found.pvalue[0])


def spread(
    rows: Rows, *, rng: np.random.Generator, permutations: int
) -> tuple[float, float, float]:
    """Return (log ratio of mean distances to the groups' means, F, p-value) of PERMDISP.

    Of two groups the second over the first, of more the largest over the smallest.
    """
    found = permdisp(
        rows.moments,
        rows.codes,
        rng=rng,
        center="centroid",
        blocks=rows.blocks,
        permutations=permutations,
    )
    # Unequal sizes: the rows of a small group lie nearer to their own mean
    radius = found.mean_distance * np.sqrt(found.sizes / (found.sizes - 1))
    with np.errstate(divide="ignore"):
        log = np.log(radius)
    ratio = log[1] - log[0] if len(log) == 2 else log.max() - log.min()
    return float(ratio), found.statistic, found.pvalue


def distances(rows: Rows) -> dict[str, float]:
    """Return the distances between groups of the standardised moments, means over pairs.

    `frechet`: diagonal, over the number of columns; `mmd2`: unbiased, bandwidth of the reference
    group; `energy`: normalised, in [0, 1].
    """
    width = median_bandwidth(rows.standard[rows.reference])
    columns = rows.standard.shape[1]
    measures: dict[str, Callable[[Array, Array], float]] = {
        "frechet": lambda a, b: frechet(a, b, covariance="diagonal").estimate / columns,
        "mmd2": lambda a, b: mmd(a, b, bandwidth=width).unbiased,
        "energy": lambda a, b: energy_distance(a, b).normalised,
    }
    found = {}
    for name, measure in measures.items():
        _, matrix = group_distances(rows.standard, rows.codes, distance=measure)
        found[name] = float(matrix[np.triu_indices(len(matrix), 1)].mean())
    return found


def fisher(rows: Rows) -> float:
    """Return the Fisher ratio of the standardised moments, the noise of the means taken off."""
    return fisher_ratio(rows.standard, rows.codes).corrected


def relabelled_distances(rows: Rows, *, rng: np.random.Generator, permutations: int) -> Relabelled:
    """Return the :data:`DISTANCES` among those of relabelled rows, from sums over groups."""
    statistic = distance_statistic(rows)
    observed = statistic(rows.member[None])[0]
    null = np.concatenate(list(_nulls(statistic, rows, rng, permutations)))
    slack = TIE * np.abs(observed)
    return Relabelled(
        statistic=observed,
        pvalue=((null >= observed - slack).sum(axis=0) + 1) / (permutations + 1),
        null_mean=null.mean(axis=0),
        null_high=np.quantile(null, CONFIDENCE, axis=0),
    )


def distance_statistic(rows: Rows) -> Statistic:
    """Return the function from labels (B, n, J) to the :data:`DISTANCES` (B, 3)."""
    z, sizes = rows.standard, rows.sizes.astype(np.float64)
    apart = cdist(z, z)
    width = median_bandwidth(z[rows.reference])
    kernel = np.exp(-0.5 * (apart / width) ** 2)
    both = np.concatenate([z, z**2], axis=1)  # (n, 2d)
    pairs = list(combinations(range(len(sizes)), 2))

    def sums(member: Array, matrix: Array) -> Array:  # (B, J, J)
        turned = member.swapaxes(1, 2)
        flat = turned.reshape(-1, turned.shape[2]) @ matrix
        return np.asarray(flat.reshape(turned.shape) @ member)

    def statistic(member: Array) -> Array:
        turned = member.swapaxes(1, 2)  # (B, J, n)
        means = (turned.reshape(-1, turned.shape[2]) @ both).reshape(*turned.shape[:2], -1)
        mean, square = np.split(means / sizes[:, None], 2, axis=2)  # (B, J, d)
        sd = np.sqrt(np.maximum(square - mean**2, 0) * (sizes / (sizes - 1))[:, None])
        e = sums(member, apart) / np.outer(sizes, sizes)
        k = sums(member, kernel)
        own = (np.einsum("bjj->bj", k) - sizes) / (sizes * (sizes - 1))
        k = k / np.outer(sizes, sizes)
        found = []
        for a, b in pairs:
            gap = (mean[:, a] - mean[:, b]) ** 2 + (sd[:, a] - sd[:, b]) ** 2
            cross = 2 * e[:, a, b]
            found.append(
                (
                    gap.mean(axis=1),
                    own[:, a] + own[:, b] - 2 * k[:, a, b],
                    np.maximum(cross - e[:, a, a] - e[:, b, b], 0) / cross,
                )
            )
        return np.asarray(np.mean(found, axis=0).T)

    return statistic


def column_tests(rows: Rows, *, rng: np.random.Generator, permutations: int) -> Columns:
    """Test every column by itself, and adjust for all of them by step-down maxT.

    Null: a column is independent of the labels (given the image, where it is in every group). F of
    a one-way analysis of variance, with the images as blocks where there are any. Of two such
    groups it is the square of the paired t.

    References
    ----------
    .. [1] P. H. Westfall and S. S. Young, Resampling-Based Multiple Testing (1993), algorithm 2.8.
    """
    x = _within(rows.moments, rows)
    sizes, total = rows.sizes, np.square(x).sum(axis=0)  # (d,)
    dof = len(sizes) - 1
    residual_dof = share_of_variation(rows).residual_dof

    def statistic(member: Array) -> Array:
        turned = member.swapaxes(1, 2)
        sums = (turned.reshape(-1, turned.shape[2]) @ x).reshape(*turned.shape[:2], -1)
        between = (np.square(sums) / sizes[:, None]).sum(axis=1)  # (B, d)
        residual = total - between
        residual = np.where(residual > 1e-12 * total, residual, 0.0) / residual_dof
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.nan_to_num(between / dof / residual, nan=0.0, posinf=np.inf))

    f = statistic(rows.member[None])[0]
    order = np.argsort(-f, kind="stable")
    alone, jointly = np.zeros(len(f)), np.zeros(len(f))
    for null in _nulls(statistic, rows, rng, permutations):
        alone += (null >= f * (1 - TIE)).sum(axis=0)
        largest = np.maximum.accumulate(null[:, order[::-1]], axis=1)[:, ::-1]
        jointly += (largest >= f[order] * (1 - TIE)).sum(axis=0)
    adjusted = np.empty(len(f))
    adjusted[order] = np.maximum.accumulate((jointly + 1) / (permutations + 1))
    return Columns(f, (alone + 1) / (permutations + 1), adjusted)


def listed_columns(tests: Columns) -> dict[str, int]:
    """Return how many columns differ at 5 %: by BH and BY (false discovery rate), by maxT."""
    adjusted = {
        "columns_bh": benjamini_hochberg(tests.pvalue),
        "columns_by": benjamini_yekutieli(tests.pvalue),
        "columns_maxt": tests.p_maxt,
    }
    return {name: int((p < LEVEL).sum()) for name, p in adjusted.items()}


def _nulls(
    statistic: Statistic, rows: Rows, rng: np.random.Generator, permutations: int
) -> Iterator[Array]:
    """Yield the statistic (B, m) of relabelled rows, a bounded number at a time."""
    member = rows.member
    size = max(1, CHUNK // (member.shape[1] * max(len(member), 2 * rows.moments.shape[1])))
    for order in chunks(block_orders(len(member), rows.blocks, permutations, rng), size):
        yield statistic(member[order])


def _within(x: Array, rows: Rows) -> Array:
    """Return x about the mean of its image, where that is in every group, or about its mean."""
    if rows.blocks is None:
        return np.asarray(x - x.mean(axis=0))
    cells = x.reshape(len(rows.sizes), -1, x.shape[1])
    return np.asarray((cells - cells.mean(axis=0)).reshape(x.shape))
