"""At which depth do two groups of images differ in their channel means?

Feature divergence of IBN-Net: per channel, the symmetric Kullback-Leibler divergence between the
normal laws of the channel's mean over images, averaged over channels. Groups: two conditions of the
same images, two styles of a crossed design (averaged over pairs), two domains of a manifest.
Unit: the image (delete-one jackknife; one image leaves both groups where groups share images).
Descriptive, no family. Taps whose moments a normaliser fixes are left out. The divergence rises
without bound where the variance within a group collapses, so the normalised energy distance of the
standardised means, in [0, 1], stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats as distributions

from statsnorm.decisions import Plan
from statsnorm.engines.tasks import TapMap
from statsnorm.report.model import Figure, Report
from statsnorm.stats.distances import energy_distance, standardise
from statsnorm.stats.scale_free import live_channels
from statsnorm.wording import counted

Array = NDArray[np.float64]

NETWORK = ("network", "source", "norm", "treatment", "index", "cell", "seed", "iteration")
TREATMENTS = ("none", "frozen:prefix")
CONSTANT = 1e-6  # of the channel's magnitude: moments are stored in float32
LEAST_IMAGES = 6  # the unbiased estimate of a left-out group needs 4, the interval some more
MAX_STYLES = 16
NEUTRAL = {"gain": 1.0, "gamma": 1.0, "offset": 0.0}
DEPTHS = 4  # fewer taps make no profile by depth
CONFIDENCE = 0.95
MOST_FOR_ENERGY = 2_000  # images a group: distances between all pairs are quadratic in them
MOST_VALUES = 1 << 22  # of a block of channels, so that memory does not grow with their product


class DivergenceTables(TapMap, Protocol):
    """What this analysis needs of the tables."""

    def keys(self) -> pd.DataFrame:
        """Return the distinct key combinations."""

    def images(self) -> pd.DataFrame:
        """Return the images with their attributes."""

    def levels(self) -> pd.DataFrame:
        """Return contrast, level, parameter and value of the contrast levels."""

    def moments(self, **where: Any) -> Any:
        """Return (keys, mean, var) of the selected rows."""


def summarise(tables: DivergenceTables) -> dict[str, pd.DataFrame]:
    """Return the divergence of every pair of groups at every tap, with its jackknife error."""
    keys = tables.keys()
    keys = keys[
        (keys["iteration"] != 0) & keys["treatment"].isin(TREATMENTS) & ~keys["by_construction"]
    ]
    domains = _domains(tables.images())
    by_tap = [mine for _, mine in keys.groupby([*NETWORK, "tap", "call"], sort=True)]
    found = tables.map_taps(partial(_of_tap, domains=domains), by_tap)
    rows = [row for of_tap in found for row in of_tap]
    return {"divergence": pd.DataFrame(rows)} if rows else {}


def _of_tap(
    tables: DivergenceTables, mine: pd.DataFrame, *, domains: pd.Series
) -> list[dict[str, Any]]:
    """Return the rows of one tap from its key rows."""
    where = {name: mine[name].iloc[0] for name in (*NETWORK, "tap", "call")}
    meta = {name: mine[name].iloc[0] for name in ("tap_kind", "depth")}
    return [
        {**where, **meta, "kind": kind, "group": group, **found}
        for kind, group, found in _pairs(tables, where, mine, domains)
    ]


def run(tables: Mapping[str, pd.DataFrame], plan: Plan, rng: np.random.Generator) -> Report:  # noqa: ARG001
    """Report the divergence by depth for every network and pair of groups."""
    table = tables["divergence"].copy()
    half = distributions.t.isf((1 - CONFIDENCE) / 2, table["dof"]) * table["se"]
    table["low"], table["high"] = table["estimate"] - half, table["estimate"] + half
    table["net"] = _names(table)
    shown = table.sort_values(["net", "depth", "tap"])
    named: dict[str, pd.DataFrame] = {"divergence": table}
    figures = []
    for i, ((net, kind), mine) in enumerate(shown.groupby(["net", "kind"], sort=True)):
        name = f"profile_{i}"
        if mine["tap"].nunique() < DEPTHS:
            continue  # no profile by depth; the numbers stand in the table
        named[name] = mine[["tap", "tap_kind", "depth", "group", "estimate", "low", "high"]]
        figures.append(
            Figure(
                name=name,
                draw="profile",
                table=name,
                options={"ylabel": "feature divergence (nats)", "symlog": True},
                caption=f"Feature divergence of channel means by depth, {net}, between {kind}s; "
                f"{_n_words(mine)}; bars: 95 % delete-one-image jackknife intervals.",
                alt=f"Feature divergence by depth for {net}.",
            )
        )
    return Report(
        name="divergence",
        title="Feature divergence by depth",
        question=(__doc__ or "").strip(),
        findings=tuple(_findings(shown)),
        tables=named,
        figures=tuple(figures),
        scope={"divergence": _n_words(table)},
        methods=(
            "Groups of the same images: plug-in less its jackknife bias. Domains: unbiased under "
            "normality. The plug-in of IBN-Net, positive even for equal groups, stands beside it; "
            "an estimate may be negative. Channels below the variance floor, or constant "
            "but for one image, in "
            "either group are dropped and counted.",
            *(
                [
                    f"Energy distances of larger groups are those of {MOST_FOR_ENERGY:,} of their "
                    "images, evenly spaced in the order of their names."
                ]
                if (table["images"] > MOST_FOR_ENERGY).any()
                else []
            ),
        ),
        appendix=tuple(name for name in named if name != "divergence"),
    )


def leave_one_out(x: Array, y: Array, *, paired: bool) -> tuple[float, float, Array, list[int]]:
    """Return (estimate, plug-in, delete-one values, sizes of the groups left from).

    The plug-in is positive even for equal groups. Independent groups: exactly unbiased for
    normal channels. Paired groups: the plug-in less its jackknife bias, which is 0 for equal ones.

    Parameters
    ----------
    x, y : ndarray, shape (n, C) and (m, C)
        Channel means of two groups without constant columns.
    paired : bool
        Row i of both groups is the same image: it leaves both at once.
    """
    none = np.zeros((1, 0), int)
    full, plug_in = _divergence(_laws(x, none), _laws(y, none))
    every_x, every_y = (np.arange(len(a))[:, None] for a in (x, y))
    if paired:
        n, (_, left) = len(x), _divergence(_laws(x, every_x), _laws(y, every_y))
        corrected = n * plug_in[0] - (n - 1) * left.mean()
        return float(corrected), float(plug_in[0]), left, [n]
    from_x, _ = _divergence(_laws(x, every_x), _laws(y, none))
    from_y, _ = _divergence(_laws(x, none), _laws(y, every_y))
    return float(full[0]), float(plug_in[0]), np.concatenate([from_x, from_y]), [len(x), len(y)]


def _laws(x: Array, out: NDArray[np.int_]) -> tuple[Array, Array, int]:
    """Return mean and variance (ddof 1) over rows, (r, C), without the rows of `out` (r, 0|1)."""
    n, mean, var = len(x), x.mean(axis=0), x.var(axis=0, ddof=1)
    if not out.shape[1]:
        return mean[None], var[None], n
    gap = x[out[:, 0]] - mean  # (r, C)
    return mean - gap / (n - 1), ((n - 1) * var - gap**2 * n / (n - 1)) / (n - 2), n - 1


def _divergence(a: tuple[Array, Array, int], b: tuple[Array, Array, int]) -> tuple[Array, Array]:
    """Return the unbiased and the plug-in divergence (r,), averaged over channels."""
    (ma, va, n), (mb, vb, m) = a, b
    gap = (ma - mb) ** 2
    plug_in = (va + gap) / (2 * vb) + (vb + gap) / (2 * va) - 1
    inverse_a, inverse_b = (n - 3) / (n - 1) / va, (m - 3) / (m - 1) / vb
    unbiased = (va * (1 - 1 / n) + gap) * inverse_b / 2 - 1 / (2 * m)
    unbiased = unbiased + (vb * (1 - 1 / m) + gap) * inverse_a / 2 - 1 / (2 * n) - 1
    return unbiased.mean(axis=1), plug_in.mean(axis=1)


def _pairs(
    tables: DivergenceTables, where: Mapping[str, Any], mine: pd.DataFrame, domains: pd.Series
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    plain = mine[(mine["style"] == "") & (mine["contrast"] == "")]
    conditions = sorted(set(plain["condition"]))
    if "original" in conditions:
        one = {**where, "condition": conditions, "style": "", "contrast": ""}
        groups = _Groups(tables, one, "condition")
        for other in (c for c in conditions if c != "original"):
            if found := groups.compare(["original", other]):
                yield "condition", f"original | {other}", found
        if len(set(domains)) > 1:
            yield from _domain_pairs(tables, {**one, "condition": "original"}, domains)
    crossed = mine[(mine["style"] != "") & (mine["condition"] == "original")]
    for values, rows in crossed.groupby(["restore", "strength", "contrast"], sort=True):
        how, strength, contrast = str(values[0]), float(str(values[1])), str(values[2])
        styles = sorted(set(rows["style"]))[:MAX_STYLES]
        same = {"condition": "original", "restore": how, "strength": strength, "contrast": contrast}
        level, named = _neutral(tables.levels(), contrast, rows["level"])
        groups = _Groups(tables, {**where, **same, "level": level, "style": styles}, "style")
        if found := groups.compare(styles):
            yield (
                "style",
                f"pairs of {counted(len(styles), 'styles')} (restore {how}, strength "
                f"{strength:g}, {named})",
                found,
            )


def _neutral(levels: pd.DataFrame, contrast: str, have: pd.Series) -> tuple[int, str]:
    """Return the contrast level that changes nothing, else the first, and its name."""
    first = int(have.min())
    mine = levels[(levels["contrast"] == contrast) & levels["level"].isin(set(have))]
    for level, rows in mine.groupby("level", sort=True):
        pairs = list(zip(rows["parameter"], rows["value"], strict=True))
        if all(value == NEUTRAL.get(str(name), math.nan) for name, value in pairs):
            return int(str(level)), " ".join(f"{name} {value:g}" for name, value in pairs)
    return first, f"first level of {contrast}" if contrast else "no contrast level"


class _Groups:
    """Rows of one tap, read once, by the value of one key column."""

    def __init__(self, tables: DivergenceTables, where: Mapping[str, Any], column: str) -> None:
        keys, self.mean, self.var = tables.moments(**where)
        self.rows = {str(k): g.sort_values("image") for k, g in keys.groupby(column, sort=True)}

    def compare(self, names: Sequence[str]) -> dict[str, Any] | None:
        """Average the divergence over all pairs of these groups, on the images of all of them."""
        groups = [self.rows[name] for name in names if name in self.rows]
        if len(groups) < 2:
            return None
        images = sorted(set.intersection(*(set(g["image"]) for g in groups)))
        kept = [
            (g if len(g) == len(images) else g[g["image"].isin(images)]).index.to_numpy()
            for g in groups
        ]
        if len(images) < LEAST_IMAGES or any(len(k) != len(images) for k in kept):
            return None
        arrays = [np.asarray(self.mean[rows], np.float64) for rows in kept]
        return _summary(arrays, live_channels([self.var[rows] for rows in kept]), paired=True)


def _domain_pairs(
    tables: DivergenceTables, where: Mapping[str, Any], domains: pd.Series
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    keys, mean, var = tables.moments(**where)
    named = keys["image"].map(domains)
    for a, b in combinations(sorted(set(named.dropna())), 2):
        rows = [np.flatnonzero(named == domain) for domain in (a, b)]
        if min(map(len, rows)) >= LEAST_IMAGES:
            arrays = [np.asarray(mean[r], np.float64) for r in rows]
            live = live_channels([var[r] for r in rows])
            yield "domain", f"{a} | {b}", _summary(arrays, live, paired=False)


def _summary(arrays: list[Array], floor: NDArray[np.bool_], *, paired: bool) -> dict[str, Any]:
    live = floor & np.all([_varies(a) for a in arrays], axis=0)
    if not live.any():
        nothing = dict.fromkeys(("estimate", "plug_in", "energy", "se", "dof"), np.nan)
        return {**nothing, **_sizes(arrays, live, paired=paired)}
    pairs = list(combinations([a[:, live] for a in arrays], 2))
    found = [_in_blocks(a, b, paired=paired) for a, b in pairs]
    left, sizes = np.mean([f[2] for f in found], axis=0), found[0][3]
    parts = np.split(left, np.cumsum(sizes)[:-1])
    each = np.array([(n - 1) * p.var() for n, p in zip(sizes, parts, strict=True)])
    total = float(each.sum())
    dof = total**2 / float((each**2 / (np.array(sizes) - 1)).sum()) if total else sizes[0] - 1
    return {
        "estimate": float(np.mean([f[0] for f in found])),
        "plug_in": float(np.mean([f[1] for f in found])),
        "energy": float(np.mean([_energy(a, b) for a, b in pairs])),
        "se": total**0.5,
        "dof": float(dof),
        **_sizes(arrays, live, paired=paired),
    }


def _in_blocks(a: Array, b: Array, *, paired: bool) -> tuple[float, float, Array, list[int]]:
    """Return :func:`leave_one_out` over all channels, a block of channels at a time."""
    channels = a.shape[1]
    width = max(1, MOST_VALUES // max(len(a), len(b)))
    starts = range(0, channels, width)
    parts = [leave_one_out(a[:, s : s + width], b[:, s : s + width], paired=paired) for s in starts]
    if len(parts) == 1:
        return parts[0]
    share = np.array([min(width, channels - s) / channels for s in starts])
    estimate, plug_in = (float(share @ [part[i] for part in parts]) for i in (0, 1))
    return estimate, plug_in, share @ np.stack([part[2] for part in parts]), parts[0][3]


def _sizes(arrays: list[Array], live: NDArray[np.bool_], *, paired: bool) -> dict[str, int]:
    return {
        "images": len(arrays[0]) if paired else sum(map(len, arrays)),
        "groups": len(arrays),
        "channels": int(live.sum()),
        "dropped": int((~live).sum()),
    }


def _energy(a: Array, b: Array) -> float:
    """Return the normalised energy distance, channels in units of their pooled sd.

    Of larger groups, :data:`MOST_FOR_ENERGY` images, evenly spaced in the order of their names.
    """
    a, b = (x[np.linspace(0, len(x) - 1, min(len(x), MOST_FOR_ENERGY)).astype(int)] for x in (a, b))
    pooled = np.concatenate([a, b])
    return energy_distance(*(standardise(x, reference=pooled) for x in (a, b))).normalised


def _varies(x: Array) -> NDArray[np.bool_]:
    """Say which columns still vary when any one row is left out."""
    _, without, _ = _laws(x, np.arange(len(x))[:, None])
    return np.asarray(without.min(axis=0) > (CONSTANT * np.abs(x).max(axis=0)) ** 2)


def _domains(images: pd.DataFrame) -> pd.Series:
    if "domain" not in images:
        return pd.Series(dtype=object)
    known = images[images["domain"].fillna("") != ""].drop_duplicates("image")
    return known.set_index("image")["domain"]


def _names(table: pd.DataFrame) -> list[str]:
    names = []
    for row in table[list(NETWORK)].to_dict("records"):
        via = f"{row['network']} of {row['source']}" if row["source"] != "input" else row["network"]
        parts = [str(via), *(f"{k} {row[k]}" for k in ("index", "cell") if row[k])]
        parts += [] if row["treatment"] == "none" else [str(row["treatment"])]
        names.append(", ".join(parts))
    return names


def _n_words(rows: pd.DataFrame) -> str:
    low, high = int(rows["images"].min()), int(rows["images"].max())
    return counted(low, "images") if low == high else f"{low} to {counted(high, 'images')}"


def _findings(shown: pd.DataFrame) -> Iterator[str]:
    for (net, _, group), rows in shown.groupby(["net", "kind", "group"], sort=True):
        ordered = rows.sort_values("depth")
        ordered = ordered[ordered["estimate"].notna()]
        if not len(ordered):
            continue
        first, last = ordered.iloc[0], ordered.iloc[-1]
        most = ordered.iloc[int(np.nanargmax(ordered["estimate"].to_numpy(float)))]
        yield (
            f"{net}, {group}: {_nats(first['estimate'])} nats at {first['tap']}, "
            f"{_nats(last['estimate'])} at {last['tap']}; largest at {most['tap']}, "
            f"{_nats(most['estimate'])} ({_nats(most['low'])} to {_nats(most['high'])}); "
            f"normalised energy "
            f"distance from {first['energy']:.2f} at {first['tap']} to {last['energy']:.2f} at "
            f"{last['tap']}."
        )


def _nats(value: float) -> str:
    """Return a divergence with three significant digits, whole numbers in full."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
