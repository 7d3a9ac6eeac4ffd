"""Do groups of images differ at a tap, and in what: centre, spread, distribution, single channels?

Rows are scale-free moments [m, v] of images (method.md 0.5). Groups: conditions of the same images,
each against the originals (labels permuted within images, which are blocks), and the domains or
classes of a manifest (labels permuted over images). Centre: PERMANOVA, omega2 with a jackknife
interval over images. Spread: PERMDISP. Distribution: energy, MMD and Frechet distances beside
their means under relabelling. Channels: a permutation p for each m and v, counted by BH, BY, maxT.
Unit: the image. Descriptive, no family, no gate: with many images any two groups differ, so read
the sizes; Holm runs over the taps of one network, comparison and test.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from statsnorm import group_differences as differ
from statsnorm.decisions import Plan
from statsnorm.engines.tasks import TapMap
from statsnorm.removal.words import percent
from statsnorm.report.model import Figure, Report
from statsnorm.stats.multiplicity import holm
from statsnorm.wording import counted

Array = NDArray[np.float64]

NETWORK = (
    *("network", "source", "norm", "treatment", "index", "cell", "seed", "iteration"),
    *("bn_mode", "batch_kind"),
)
ARM = "treatment"
TREATMENTS = ("none", "frozen:prefix")
LABELS = ("domain", "class")
ORIGINAL = "original"
LEAST_IMAGES = 8  # of each group: with fewer, two conditions have under 2^7 relabellings
PERMUTATIONS = 9999
MOST_ROWS = 1000  # of all groups together: the tests are quadratic in them
DEPTHS = 4  # fewer taps make no profile by depth
LEVEL = 0.05
TESTS = ("omega2", "log_spread_ratio", *differ.DISTANCES)
BY_TAP = ("net", "arm", "kind", "groups", "tap", "tap_kind")


class GroupTables(TapMap, Protocol):
    """What this analysis needs of the tables."""

    def keys(self) -> pd.DataFrame:
        """Return the distinct key combinations."""

    def images(self) -> pd.DataFrame:
        """Return the images with their attributes."""

    def moments(self, **where: Any) -> Any:
        """Return (keys, mean, var) of the selected rows."""


def summarise(tables: GroupTables, *, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Return all statistics of all comparisons at every tap; `seed` draws the permutations."""
    keys = tables.keys()
    keys = keys[
        (keys["iteration"] != 0)
        & keys["treatment"].isin(TREATMENTS)
        & ~keys["by_construction"].astype(bool)
        & (keys["style"] == "")
        & (keys["contrast"] == "")
    ]
    labels = _labels(tables.images())
    by_tap = [mine for _, mine in keys.groupby([*NETWORK, "tap", "call"], sort=True)]
    found = tables.map_taps(partial(_of_tap, labels=labels, seed=seed), by_tap)
    rows = [row for of_tap in found for row in of_tap]
    return {"statistics": pd.DataFrame(rows)} if rows else {}


def _labels(images: pd.DataFrame) -> dict[str, pd.Series]:
    """Return, for each label that the images have, its value by image."""
    found = {}
    for name in LABELS:
        if name in images:
            known = images[images[name].fillna("") != ""].drop_duplicates("image")
            found[name] = known.set_index("image")[name].astype(str)
    return found


def _of_tap(
    tables: GroupTables, mine: pd.DataFrame, *, labels: Mapping[str, pd.Series], seed: int
) -> list[dict[str, Any]]:
    """Return the rows of one tap from its key rows."""
    where = {name: mine[name].iloc[0] for name in (*NETWORK, "tap", "call")}
    meta = {name: mine[name].iloc[0] for name in ("tap_kind", "depth")}
    conditions = sorted(set(mine["condition"]))
    keys, mean, var = tables.moments(**where, condition=conditions, style="", contrast="")
    keys = keys.reset_index(drop=True)
    return [
        {**where, **meta, **about, **row}
        for about, groups, paired in _comparisons(keys, conditions, labels)
        if (
            found := differ.comparable_rows(
                groups, mean, var, paired=paired, least=LEAST_IMAGES, most=MOST_ROWS
            )
        )
        is not None
        for row in _statistics(*found, seed)
    ]


def _comparisons(
    keys: pd.DataFrame, conditions: Sequence[str], labels: Mapping[str, pd.Series]
) -> Iterator[tuple[dict[str, str], list[NDArray[np.intp]], bool]]:
    """Yield (kind and groups, row numbers of each group by image, whether images are shared)."""
    if ORIGINAL in conditions:
        sets = [[ORIGINAL, other] for other in conditions if other != ORIGINAL]
    else:
        sets = [list(conditions)] if len(conditions) > 1 else []
    for names in sets:
        groups = [keys[keys["condition"] == name].sort_values("image") for name in names]
        shared = set.intersection(*(set(g["image"]) for g in groups))
        if all(g["image"].is_unique for g in groups):
            rows = [g.index[g["image"].isin(shared)].to_numpy() for g in groups]
            yield {"kind": "condition", "groups": " | ".join(names)}, rows, True
    plain = keys[keys["condition"] == ORIGINAL].sort_values("image")
    for kind, values in labels.items():
        named = plain["image"].map(values)
        counts = named.value_counts()
        levels = sorted(counts.index[counts >= LEAST_IMAGES])
        if len(levels) > 1 and plain["image"].is_unique:
            rows = [plain.index[named == level].to_numpy() for level in levels]
            yield {"kind": kind, "groups": " | ".join(levels)}, rows, False


def _statistics(
    rows: differ.Rows, counts: Mapping[str, int], seed: int
) -> Iterator[dict[str, Any]]:
    """Yield one row a statistic; every test draws its permutations anew from the seed."""

    def draws() -> dict[str, Any]:
        return {"rng": np.random.default_rng(seed), "permutations": PERMUTATIONS}

    share, bars = differ.share_of_variation(rows), differ.share_interval(rows)
    ratio, dispersion_f, dispersion_p = differ.spread(rows, **draws())
    apart, null = differ.distances(rows), differ.relabelled_distances(rows, **draws())
    found: dict[str, dict[str, Any]] = {
        "omega2": {
            "estimate": float(share.omega2),
            "low": bars.low,
            "high": bars.high,
            "f": float(share.f),
            "dof": share.dof,
            "residual_dof": share.residual_dof,
            "pvalue": differ.share_pvalue(rows, **draws()),
        },
        "r2": {"estimate": float(share.r2)},
        "log_spread_ratio": {
            "estimate": ratio,
            "f": dispersion_f,
            "dof": share.dof,
            "residual_dof": len(rows.codes) - len(rows.sizes),
            "pvalue": dispersion_p,
        },
    }
    for i, name in enumerate(differ.DISTANCES):
        found[name] = {
            "estimate": apart[name],
            "null_mean": null.null_mean[i],
            "null_high": null.null_high[i],
            "pvalue": null.pvalue[i],
        }
    found["fisher"] = {"estimate": differ.fisher(rows)}
    columns = differ.column_tests(rows, **draws())
    found |= {name: {"estimate": n} for name, n in differ.listed_columns(columns).items()}
    blank = dict.fromkeys(
        ("low", "high", "f", "dof", "residual_dof", "null_mean", "null_high", "pvalue"), np.nan
    )
    for name, values in found.items():
        yield {"statistic": name, **blank, **values, "permutations": PERMUTATIONS, **counts}


def run(tables: Mapping[str, pd.DataFrame], plan: Plan, rng: np.random.Generator) -> Report:  # noqa: ARG001
    """Report what differs at every tap, in sizes and Holm-adjusted p; no verdict."""
    table = tables["statistics"].copy()
    table.insert(0, "net", _names(table))
    table.insert(1, "arm", table[ARM].where(table[ARM] != "none", ""))
    table["p_holm"] = _holm_over_taps(table)
    table = table.sort_values(["net", "arm", "kind", "groups", "depth", "tap"], kind="stable")
    by_tap = _by_tap(table)
    named = {"by_tap": by_tap, "statistics": table.drop(columns=[*NETWORK, "call"])}
    figures: list[Figure] = []
    most: dict[str, float] = {}
    for _, mine in by_tap.groupby(["net", "arm", "kind"], sort=True):
        if mine["tap"].nunique() >= DEPTHS:
            source = f"share_{len(figures) + 1}"
            named[source] = _profile(mine)
            figures.append(_figure(source, mine))
            most[figures[-1].name] = float(mine["omega2"].max())
    return Report(
        name="group_tests",
        title="Groups of images: centre, spread, distribution, channels",
        question=(__doc__ or "").strip(),
        headline=_headline(by_tap),
        findings=tuple(_findings(by_tap)),
        tables=named,
        figures=tuple(figures),
        picture=max(most, key=lambda name: most[name], default=""),
        scope={"group tests": _n_words(table)},
        methods=tuple(_methods(table)),
        limitations=tuple(_limitations(table)),
        appendix=tuple(name for name in named if name != "by_tap"),
    )


def _names(table: pd.DataFrame) -> list[str]:
    """Return the network of each row in words, without its arm."""
    names = []
    for row in table[list(NETWORK)].to_dict("records"):
        via = f"{row['network']} of {row['source']}" if row["source"] != "input" else row["network"]
        parts = [str(via), *(f"{k} {row[k]}" for k in ("index", "cell") if row[k])]
        names.append(", ".join(parts))
    return names


def _holm_over_taps(table: pd.DataFrame) -> pd.Series:
    """Return Holm's p over the taps of each network, arm, comparison and test."""
    by = [*NETWORK, "kind", "groups", "statistic"]
    adjusted = table.groupby(by, sort=False, dropna=False)["pvalue"].transform(
        lambda p: holm(p.to_numpy(float))
    )
    return adjusted.where(table["statistic"].isin(TESTS))


def _by_tap(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row a tap and comparison: sizes and adjusted p side by side."""
    rows = []
    for _, mine in table.groupby([*NETWORK, "kind", "groups", "depth", "tap", "call"]):
        of = mine.set_index("statistic")
        first = mine.iloc[0]
        rows.append(
            {
                **{name: first[name] for name in BY_TAP},
                "depth": first["depth"],
                **{name: of[name]["omega2"] for name in ("estimate", "low", "high")},
                "p_centre": of["p_holm"]["omega2"],
                "spread": math.exp(of["estimate"]["log_spread_ratio"]),
                "p_spread": of["p_holm"]["log_spread_ratio"],
                "energy": of["estimate"]["energy"],
                "energy_null": of["null_mean"]["energy"],
                "p_energy": of["p_holm"]["energy"],
                "columns_maxt": int(of["estimate"]["columns_maxt"]),
                "columns": int(first["columns"]),
                "images": int(first["images"]),
            }
        )
    found = pd.DataFrame(rows).rename(columns={"estimate": "omega2"})
    return found.sort_values(["net", "arm", "kind", "groups", "depth", "tap"], ignore_index=True)


def _profile(rows: pd.DataFrame) -> pd.DataFrame:
    source = rows.assign(group=rows["groups"], estimate=rows["omega2"])
    columns = ["tap", "tap_kind", "depth", "group", "estimate", "low", "high"]
    return source.sort_values(["depth", "tap"], kind="stable")[columns]


def _figure(source: str, rows: pd.DataFrame) -> Figure:
    first = rows.iloc[0]
    net = ", ".join(filter(None, [first["net"], first["arm"]]))
    kind = first["kind"]
    against = "conditions of the same images" if kind == "condition" else f"groups by {kind}"
    return Figure(
        name=source.replace("share", "omega2_by_depth"),
        draw="profile",
        table=source,
        options={
            "ylabel": "omega2: share of the variation\nof m and v between groups",
            "threshold": 0.0,
        },
        caption=f"{net}, {against}: share of the variation of the moments that lies between the "
        f"groups; {_n_words(rows)}; bars: 95 % delete-one-image jackknife intervals, each tap by "
        "itself. Dashed: the mean without a difference, 0.",
        alt=f"omega2 by depth for {net}.",
    )


def _n_words(rows: pd.DataFrame) -> str:
    low, high = int(rows["images"].min()), int(rows["images"].max())
    return counted(low, "images") if low == high else f"{low} to {counted(high, 'images')}"


def _findings(by_tap: pd.DataFrame) -> Iterator[str]:
    for _, rows in by_tap.groupby(["net", "arm", "kind", "groups"], sort=False):
        first, last = rows.iloc[0], rows.iloc[-1]
        wide = rows.iloc[int(np.abs(np.log(rows["spread"])).argmax())]
        far = rows.iloc[int(rows["energy"].argmax())]
        share = rows["columns_maxt"] / rows["columns"]
        yield (
            f"{_who(first)}, {_n_words(rows)}, {counted(len(rows), 'taps')}. Centre: omega2 "
            f"{_number(first['omega2'])} at {first['tap']}, {_number(last['omega2'])} at "
            f"{last['tap']}; {_largest(rows)}; {_taps_below(rows['p_centre'])}. Spread: ratio "
            f"{wide['spread']:.2f} at {wide['tap']}, the farthest from 1; "
            f"{_taps_below(rows['p_spread'])}. Distribution: energy distance at most "
            f"{far['energy']:.3f}, at {far['tap']} ({far['energy_null']:.3f} on average of "
            f"relabelled images); {_taps_below(rows['p_energy'])}. Channels: by maxT "
            f"{percent(share.min())} to {percent(share.max())} % of the columns of a tap differ."
        )


def _headline(by_tap: pd.DataFrame) -> str:
    """Return where the groups lie farthest apart, for the first screen."""
    row = by_tap.iloc[int(by_tap["omega2"].argmax())]
    comparisons = len(by_tap.drop_duplicates(["net", "arm", "kind", "groups"]))
    among = f"; the largest of {counted(comparisons, 'comparisons')}" if comparisons > 1 else ""
    return (
        f"{_who(row)}, at {row['tap']}: omega2 = {_number(row['omega2'])} "
        f"({_number(row['low'])} to {_number(row['high'])}) of the variation of channel moments "
        f"lies between the groups{among}; {counted(int(row['images']), 'images')}. Descriptive: "
        "no claim is judged."
    )


def _number(x: float) -> str:
    return f"{round(float(x), 3) + 0.0:.3f}"  # no minus zero


def _who(row: Any) -> str:
    return ", ".join(filter(None, [row["net"], row["arm"], row["groups"]]))


def _largest(rows: pd.DataFrame) -> str:
    most = rows.iloc[int(rows["omega2"].argmax())]
    bars = f"({_number(most['low'])} to {_number(most['high'])})"
    return f"largest {_number(most['omega2'])} {bars} at {most['tap']}"


def _taps_below(p: pd.Series) -> str:
    return f"Holm p < {LEVEL:g} at {int((p < LEVEL).sum())} of {len(p)}"


def _methods(table: pd.DataFrame) -> Iterator[str]:
    drawn = int(table["permutations"].max())
    centre = table[table["statistic"] == "omega2"]
    yield (
        f"{drawn:,} random relabellings a test, p = (b + 1)/(B + 1), "
        f"so none is below {1 / (drawn + 1):g}; conditions are permuted "
        "within each image, labels over images. Holm over the taps of one network, arm, comparison "
        "and test; p without Holm stand in the table of statistics."
    )
    yield (
        "omega2 = (SS - dof MS_res)/(SS_total + MS_res), r2 = SS/SS_total; for conditions the "
        f"image is the first term. Degrees of freedom: {_span(centre['dof'])} between groups, "
        f"{_span(centre['residual_dof'])} residual. Interval: delete-one-image jackknife, t with "
        "Satterthwaite degrees of freedom."
    )
    yield (
        "Spread: PERMDISP, distances to the groups' means; the ratio is that of the second group "
        "over the first (of more groups, largest over smallest). frechet is diagonal, over the "
        "number of columns; mmd2 unbiased for independent groups, bandwidth the median distance of "
        "the reference; energy in [0, 1]; all three and the Fisher ratio on columns in sds of the "
        "reference (the originals, or the first condition; for labels all images), means over "
        "pairs of groups."
    )
    yield (
        "Columns are m and v of each channel; those below the variance floor, not finite or "
        f"constant in the reference are dropped ({_span(table['dropped'])} a tap). Counted at "
        f"{percent(LEVEL)} %: BH and BY false discovery rate, step-down maxT family-wise."
    )
    if table["thinned"].any():
        yield (
            f"Of groups of more than {MOST_ROWS:,} rows together, an equal number of images each "
            "was taken at most, evenly spaced in the order of their names."
        )


def _span(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low}" if low == high else f"{low} to {high}"


def _limitations(table: pd.DataFrame) -> Iterator[str]:
    yield (
        "Descriptive: no claim is judged and no gate depends on this. Channels of one tap, and "
        "taps of one network, are no replicates. The largest of many taps is picked after the "
        "fact; its interval is not adjusted for that."
    )
    yield (
        "A difference of spread alone can move the p of the centre, and, with unequal groups, its "
        "omega2: read the two together."
    )
    yield (
        "frechet, energy and the Fisher ratio are positive without any difference; where images "
        "are shared, mmd2 is below 0 then. Compare the distances with null_mean."
    )
    if len(set(table["arm"])) > 1:
        yield (
            "omega2 is a share of what varies under the same treatment: it can rise where all "
            "variation fell. What a normaliser removes is the question of removed_variance."
        )
    if set(table["kind"]) & set(LABELS):
        yield "Groups of a manifest differ in what they show as well as in how."
