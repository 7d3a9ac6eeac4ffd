"""Where style lives at one tap: probes on m, v and correlations; shares of the Gram distance.

What `analyses/where_style_lives.py` makes of the cells (I contents, S styles) of a tap
(method.md 2.4.4, 5.2, 5.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from statsnorm.errors import StatsnormError
from statsnorm.probes import ProbeResult, log_probabilities, probe
from statsnorm.stats.inputs import is_constant
from statsnorm.stats.scale_free import scale_free
from statsnorm.stats.shapley import ChannelStatistics, gram_split

Array = NDArray[np.float64]

SETS = ("m", "v", "rho", "all")
PARTS = ("means", "variances", "correlations")
STRENGTHS = (1e-3, 1e-2, 1e-1)
NULL_STRENGTH = 1e-2  # of the split-half test, which chooses nothing
FOLDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class StyleCells:
    """One tap of a content x style design."""

    mean: Array  # (I, S, C)
    var: Array  # (I, S, C), population variance
    correlation: Array  # (I, S, pairs), the upper triangle by rows
    channels: NDArray[np.int64]  # (n,) whose correlations these are
    live: NDArray[np.bool_]  # (C,) channels above the floor under every treatment
    fixed: bool = False  # a normaliser fixes m and v here: rounding is all that is left in them

    def live_pairs(self) -> NDArray[np.bool_]:
        """Return which of the pairs are of two live channels."""
        kept = self.live[self.channels]
        rows, columns = np.triu_indices(len(kept), 1)
        pairs: NDArray[np.bool_] = kept[rows] & kept[columns]
        return pairs


def feature_sets(cells: StyleCells) -> dict[str, Array]:
    """Return the columns of each set, (I * S, d); a set without live columns is left out.

    m and v where a normaliser fixes them are no evidence and are left out (method.md 2.3).
    """
    sets: dict[str, Array] = {}
    if not cells.fixed and cells.live.any():
        m, v = scale_free(cells.mean[..., cells.live], cells.var[..., cells.live])
        least = np.nanmin(v, axis=(0, 1), keepdims=True)
        sets |= {"m": m, "v": np.where(np.isnan(v), least, v)}
    if (pairs := cells.live_pairs()).any():
        sets["rho"] = cells.correlation[..., pairs]
    if len(sets) == 3:
        sets["all"] = np.concatenate(list(sets.values()), axis=-1)
    flat = {name: x.reshape(-1, x.shape[-1]) for name, x in sets.items()}
    return {name: x for name, x in flat.items() if not is_constant(x).all()}


def decode_style(x: Array, contents: int, styles: int, *, rng: np.random.Generator) -> ProbeResult:
    """Decode the style from the columns of one set; a content is never on both sides.

    Parameters
    ----------
    x : ndarray, shape (I * S, d)
        Contents by styles, the style running fastest.
    contents, styles : int
        I and S.
    rng : numpy.random.Generator
        Deals contents to folds.
    """
    i, s = np.indices((contents, styles)).reshape(2, -1)
    return probe(x, s, groups=i, rng=rng, strengths=STRENGTHS, folds=FOLDS)


def split_half_pvalue(
    x: Array, contents: int, styles: int, *, rng: np.random.Generator, permutations: int = 9999
) -> float:
    """Return the p-value of reading the style of contents that the probe has never seen.

    Null: within a content the styles are exchangeable. A probe is trained on half of the contents;
    given it, permuting the labels of the others within each content is exact and needs no further
    training, so many permutations cost nothing. Both halves take their turn: twice the lesser p.

    Parameters
    ----------
    x : ndarray, shape (I * S, d)
        Contents by styles, the style running fastest.
    contents, styles : int
        I, at least 4, and S.
    rng : numpy.random.Generator
        Deals the halves and permutes labels.
    permutations : int
        Of each half.
    """
    cells = x.reshape(contents, styles, -1)
    dealt = rng.permutation(contents)
    halves = (dealt[: contents // 2], dealt[contents // 2 :])
    found = []
    for train, test in (halves, halves[::-1]):
        codes = np.tile(np.arange(styles), len(train))
        rows, new = (cells[part].reshape(-1, cells.shape[2]) for part in (train, test))
        guess = log_probabilities(rows, codes, new, NULL_STRENGTH, styles).argmax(axis=1)
        hits = np.zeros(1 + permutations)
        for own in guess.reshape(len(test), styles):
            labels = np.tile(np.arange(styles), (1 + permutations, 1))
            labels[1:] = rng.permuted(labels[1:], axis=1)
            hits += (labels == own).sum(axis=1)  # row 0: the styles as they are
        found.append(float((hits >= hits[0]).mean()))
    return min(1.0, 2 * min(found))


def gram_replicates(cells: StyleCells) -> Array:
    """Return delete-one replicates of the Gram distance between styles and its Shapley parts.

    Distances of two styles of one content, averaged over contents and pairs of styles; where
    correlations are those of a draw of channels, an estimate for all channels
    (:func:`statsnorm.stats.gram_split`).

    Returns
    -------
    ndarray, shape (1 + I + S, 4)
        Total, means, variances, correlations: of all, without each content, without each style.
    """
    i, s, channels = cells.mean.shape
    if i < 2 or s < 3:
        raise StatsnormError(f"a split needs 2 contents and 3 styles, got {i} and {s}")
    n = len(cells.channels)
    weight = (n - 1) / (channels - 1)
    mean, sd = cells.mean[..., cells.channels], np.sqrt(cells.var[..., cells.channels])
    one, other = np.array(list(combinations(range(s), 2))).T
    values = np.empty((i, len(one), 4))
    for content in range(i):
        rho = _full(cells.correlation[content], n)  # (S, n, n)
        sides = [ChannelStatistics(mean[content, k], sd[content, k], rho[k]) for k in (one, other)]
        found = gram_split(*sides, diagonal=weight)
        parts = (found.total, found.means, found.variances, found.correlations)
        values[content] = np.stack(parts, axis=-1)
    scale = channels * (channels - 1) / (n * (n - 1))
    total = values.sum(axis=0)  # (pairs, 4)
    rows = [total.mean(axis=0) / i]
    rows += [(total - mine).mean(axis=0) / (i - 1) for mine in values]
    rows += [total[(one != style) & (other != style)].mean(axis=0) / i for style in range(s)]
    replicates: Array = scale * np.stack(rows)
    return replicates


def _full(upper: Array, n: int) -> Array:
    full = np.ones((*upper.shape[:-1], n, n))
    rows, columns = np.triu_indices(n, 1)
    full[..., rows, columns] = full[..., columns, rows] = upper
    return full
