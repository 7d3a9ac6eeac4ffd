"""Two crossed factors with any number of replicates in a cell (images within domain x class).

Components are U-statistics of the cell means: each product joins two cells that share one factor
and differ in the other, against the two cells that close the table. So no product holds the noise
of a cell twice, and the two main components are unbiased whatever the numbers of images and
wherever cells are missing; only the interaction needs the noise taken off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from statsnorm.errors import StatsnormError
from statsnorm.stats.incomplete import incomplete_components
from statsnorm.stats.inputs import Array, is_constant
from statsnorm.stats.result import Shown
from statsnorm.stats.samples import Index, level_codes, sample

MAIN = ("content", "style", "content_style")


@dataclass(frozen=True, slots=True)
class UnbalancedComponents(Shown):
    """Result of :func:`unbalanced_components`; arrays (C,), untruncated, nan where constant."""

    content: Array  # classes
    style: Array  # domains
    content_style: Array
    residual: Array  # between the images of a cell
    n: int
    n_contents: int
    n_styles: int
    n_cells: int


@dataclass(frozen=True, slots=True)
class UnitReplicates:
    """Traces of the components with units left out, for two scopes of an interval.

    `levels`: the estimate, then without each content and each style (crossed), or without each
    group (nested): the population of classes and domains. `images`: the estimate, then without
    each image, cell by cell: these classes and domains, images drawn within them.
    """

    levels: Mapping[str, Array] = field(metadata={"tidy": False})
    images: Mapping[str, Array] = field(metadata={"tidy": False})
    units: tuple[int, ...]  # how many replicates of each factor `levels` has
    sizes: tuple[int, ...]  # how many of each cell `images` has


def unbalanced_components(
    y: ArrayLike, contents: ArrayLike, styles: ArrayLike
) -> UnbalancedComponents:
    """Return the components of y = mean + content + style + both + rest, all random.

    With equal cells the mean-square estimates; unbiased for any numbers of images in any cells.

    Parameters
    ----------
    y : array_like, shape (n, C) or (n,)
        One row per image.
    contents, styles : array_like, shape (n,)
        Class and domain of each image.

    Raises
    ------
    StatsnormError
        If the factors are confounded (no two contents occur in the same two styles), no cell has
        two images, or a value is not finite.

    References
    ----------
    .. [1] F. Yates, J. Am. Stat. Assoc. 29 (1934), 51-66 (unweighted means).
    .. [2] W. Hoeffding, Ann. Math. Stat. 19 (1948), 293-325 (U-statistics).

    Examples
    --------
    >>> r = unbalanced_components([0, 2, 5, 5, 9, 10, 14, 14, 14], list("aaaabbbbb"),
    ...                           [0, 0, 1, 1, 0, 0, 1, 1, 1])
    >>> r.content.round(3).tolist(), r.style.round(3).tolist(), r.n_cells
    ([38.25], [9.0], 4)
    """
    cells = _cells(y, contents, styles)
    found = _components(cells)
    found = {name: np.where(is_constant(cells.y), np.nan, value) for name, value in found.items()}
    return UnbalancedComponents(
        content=found["content"],
        style=found["style"],
        content_style=found["content_style"],
        residual=found["residual"],
        n=len(cells.y),
        n_contents=cells.shape[0],
        n_styles=cells.shape[1],
        n_cells=len(cells.sizes),
    )


def unbalanced_replicates(y: ArrayLike, contents: ArrayLike, styles: ArrayLike) -> UnitReplicates:
    """Return traces (means over channels) of the components with every unit left out.

    Parameters
    ----------
    y : array_like, shape (n, C)
        Live channels only.
    contents, styles : array_like, shape (n,)

    Returns
    -------
    UnitReplicates
        Components content, style, content_style, residual. `levels` is nan beyond the estimate
        where fewer than three contents or styles leave nothing to jackknife.

    Raises
    ------
    StatsnormError
        As :func:`unbalanced_components`; or if a cell has one image.
    """
    cells = _cells(y, contents, styles)
    if lonely := int((cells.sizes < 2).sum()):
        raise StatsnormError(
            f"{lonely} of {len(cells.sizes)} cells have one image; leave them out, their spread "
            "is unknown"
        )
    return UnitReplicates(
        levels=_level_traces(cells),
        images=_image_traces(cells),
        units=cells.shape,
        sizes=tuple(cells.sizes.tolist()),
    )


def tables_joining(present: NDArray[np.bool_]) -> Array:
    """Return in how many tables of four cells each cell (A, B) stands; all 0 if confounded.

    >>> tables_joining(np.array([[True, True], [True, True], [True, False]])).tolist()
    [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]
    """
    p = present.astype(np.float64)
    shared = p @ p.T - 1  # other styles that contents i and j share, once a style is chosen
    np.fill_diagonal(shared, 0.0)
    return np.asarray(p * (shared @ p))


@dataclass(frozen=True, slots=True)
class _Cells:
    """Images sorted by cell; cells in row-major order of (content, style)."""

    y: Array  # (n, C)
    row: Index  # cell of each image
    place: Index  # cell -> content * B + style
    sizes: Index  # images a cell
    means: Array  # (cells, C)
    squares: Array  # (cells, C) sums of squares within
    shape: tuple[int, int]  # A, B
    weights: Array  # (cells,) tables a cell stands in


def _cells(y: ArrayLike, contents: ArrayLike, styles: ArrayLike) -> _Cells:
    a = sample("y", y, least=4)
    i, names = level_codes("contents", contents, n=len(a), least=2)
    s, others = level_codes("styles", styles, n=len(a), least=2)
    shape = (len(names), len(others))
    code = i * shape[1] + s
    order = np.argsort(code, kind="stable")
    place, row, sizes = np.unique(code[order], return_inverse=True, return_counts=True)
    present = np.zeros(shape[0] * shape[1], dtype=bool)
    present[place] = True
    weights = tables_joining(present.reshape(shape)).ravel()[place]
    if not weights.any():
        raise StatsnormError(
            "contents and styles are confounded: no two contents occur in the same two styles, "
            "so what the one does cannot be told from the other"
        )
    if len(place) == len(a):
        raise StatsnormError(f"every one of the {len(a)} cells has one image; none is replicated")
    x = a[order]
    means = np.zeros((len(place), x.shape[1]))
    np.add.at(means, row, x)
    means /= sizes[:, None]
    squares = np.zeros_like(means)
    np.add.at(squares, row, (x - means[row]) ** 2)
    return _Cells(x, row, place, sizes, means, squares, shape, weights)


def _table(cells: _Cells) -> Array:
    """Return the cell means as (A, B, 1, C), nan where a cell is missing."""
    table = np.full((cells.shape[0] * cells.shape[1], cells.means.shape[1]), np.nan)
    table[cells.place] = cells.means
    return table.reshape(*cells.shape, 1, -1)


def _noise(weights: Array, sizes: Index) -> float:
    """Return what one unit of residual variance adds to the interaction of the cell means."""
    return float((weights / sizes).sum() / weights.sum())


def _components(cells: _Cells) -> dict[str, Array]:
    ones = (np.ones(cells.shape[0]), np.ones(cells.shape[1]))
    raw = incomplete_components(_table(cells), "fixed", *ones, leave_out=False)
    found = {name: raw[name][0] for name in MAIN}
    found["residual"] = cells.squares.sum(axis=0) / (len(cells.y) - len(cells.sizes))
    found["content_style"] = found["content_style"] - found["residual"] * _noise(
        cells.weights, cells.sizes
    )
    return found


def _level_traces(cells: _Cells) -> dict[str, Array]:
    """Return (1 + A + B,) traces: the estimate, without each content, without each style."""
    a, b = cells.shape
    if min(a, b) < 3:
        full = {name: float(value.mean()) for name, value in _components(cells).items()}
        return {name: np.r_[value, np.full(a + b, np.nan)] for name, value in full.items()}
    raw = incomplete_components(_table(cells), "fixed", np.ones(a), np.ones(b), leave_out=True)
    found = {name: np.asarray(raw[name].mean(axis=1)) for name in MAIN}
    squares, content, style = cells.squares.mean(axis=1), cells.place // b, cells.place % b
    residual, noise = np.empty(1 + a + b), np.empty(1 + a + b)
    kept = [np.ones(len(cells.sizes), dtype=bool)]
    kept += [content != i for i in range(a)] + [style != s for s in range(b)]
    present = np.zeros(a * b, dtype=bool)
    for row, keep in enumerate(kept):
        present[:] = False
        present[cells.place[keep]] = True
        weights = tables_joining(present.reshape(a, b)).ravel()[cells.place[keep]]
        sizes = cells.sizes[keep]
        free = int(sizes.sum()) - len(sizes)
        residual[row] = squares[keep].sum() / free if free else np.nan
        noise[row] = _noise(weights, sizes) if weights.any() else np.nan
    return {
        **found,
        "content_style": found["content_style"] - residual * noise,
        "residual": residual,
    }


def _image_traces(cells: _Cells) -> dict[str, Array]:
    """Return (1 + n,) traces: the estimate, then without each image; exact, not linearised."""
    n, total = len(cells.y), cells.weights.sum()
    size = cells.sizes[cells.row]  # (n,)
    gap = cells.y - cells.means[cells.row]  # (n, C)
    moved = -gap / (size - 1)[:, None]  # of the cell's mean
    slopes = _slopes(cells)
    share = cells.weights[cells.row] / total
    found = {name: float(value.mean()) for name, value in _components(cells).items()}
    change = {name: (moved * slopes[name][cells.row]).mean(axis=1) for name in MAIN}
    change["content_style"] += share * np.square(moved).mean(axis=1)
    degrees = n - len(cells.sizes)
    squares = cells.squares.sum(axis=0).mean() - size / (size - 1) * np.square(gap).mean(axis=1)
    residual = squares / (degrees - 1) if degrees > 1 else np.full(n, np.nan)
    noise = _noise(cells.weights, cells.sizes)
    raised = noise + share * (1 / (size - 1) - 1 / size)
    raw = found["content_style"] + found["residual"] * noise
    left = {name: found[name] + change[name] for name in ("content", "style")}
    left["content_style"] = raw + change["content_style"] - residual * raised
    left["residual"] = residual
    return {name: np.r_[found[name], left[name]] for name in (*MAIN, "residual")}


def _slopes(cells: _Cells) -> dict[str, Array]:
    """Return the derivatives (cells, C) of the components of the cell means by each mean."""
    table = np.nan_to_num(_table(cells)[:, :, 0] - cells.means.mean(axis=0))  # (A, B, C)
    present = np.zeros(cells.shape[0] * cells.shape[1])
    present[cells.place] = 1.0
    p = present.reshape(cells.shape)[..., None]  # (A, B, 1)
    scale = 2 / cells.weights.sum()
    style = scale * _product_slopes(table, p)
    content = scale * _product_slopes(table.swapaxes(0, 1), p.swapaxes(0, 1)).swapaxes(0, 1)
    both = scale * _contrast_slopes(table, p)
    flat = (x.reshape(-1, table.shape[2])[cells.place] for x in (content, style, both))
    return dict(zip(MAIN, flat, strict=True))


def _product_slopes(m: Array, p: Array) -> Array:
    """Sum over other contents j that share style s: N_ij m_js - (sum of m_j over shared)."""
    slopes = np.zeros_like(m)
    for i in range(len(m)):
        joint = p[i] * p  # (A, B, 1)
        joint[i] = 0.0
        shared = joint.sum(axis=1, keepdims=True)  # (A, 1, 1)
        slopes[i] = (joint * (shared * m - (joint * m).sum(axis=1, keepdims=True))).sum(axis=0)
    return slopes


def _contrast_slopes(m: Array, p: Array) -> Array:
    """Sum over tables with cell (i, s) of m_is - m_it - m_js + m_jt."""
    slopes = np.zeros_like(m)
    for i in range(len(m)):
        joint = p[i] * p
        joint[i] = 0.0
        shared = joint.sum(axis=1, keepdims=True)
        gap = joint * (m[i] - m)
        slopes[i] = (joint * (shared * gap - gap.sum(axis=1, keepdims=True))).sum(axis=0)
    return slopes
