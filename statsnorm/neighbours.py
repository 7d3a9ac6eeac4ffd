"""t-SNE: which points are neighbours, drawn in the plane. scikit-learn's, so beside `stats`."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.manifold import TSNE

from statsnorm.errors import StatsnormError

PERPLEXITY = 30.0
LEAST = 12  # points: below that there are no neighbourhoods to speak of


def tsne(x: ArrayLike, *, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a t-SNE layout (n, 2) of points (n, D), started from their principal components.

    Distances between clusters and sizes of clusters mean nothing; neighbourhoods do [1]_. The
    layout may differ between machines in the last bits and then visibly.

    Parameters
    ----------
    x : array_like, shape (n, D)
        At least twelve points. The perplexity is 30, or a quarter of n where that is less.
    rng : numpy.random.Generator
        Seeds what is drawn.

    Raises
    ------
    StatsnormError
        If `x` is no finite matrix of at least twelve rows.

    References
    ----------
    .. [1] L. van der Maaten, G. Hinton, J. Mach. Learn. Res. 9 (2008), 2579-2605.
    """
    points = np.asarray(x, dtype=np.float64)
    if points.ndim != 2 or len(points) < LEAST or not np.isfinite(points).all():
        raise StatsnormError(
            f"x must be a finite matrix of at least {LEAST} points, got shape {points.shape}"
        )
    model = TSNE(
        perplexity=min(PERPLEXITY, len(points) / 4),
        init="pca",
        random_state=int(rng.integers(2**31)),
    )
    return np.asarray(model.fit_transform(points), dtype=np.float64)
