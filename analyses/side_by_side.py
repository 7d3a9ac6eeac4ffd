"""The same numbers of several networks side by side: how do these groups of networks differ?

Groups are norms, networks, trained cells, or checkpoints. Numbers: variance of log sds at work
(style, content, contrast), removed fractions against frozen maps, selectivity Psi, each at the two
primary statistics; and held-out losses where the runs hold training curves. Unit: the trained
network. Norms are paired by block (target and seed), checkpoints by cell; groups that share no
block are compared by Welch's t over networks. Intervals join networks, images and styles where
replicates are kept. Descriptive, no family: below the planned number of blocks a difference is
"not testable".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from statsnorm.decisions import Plan, load_plan
from statsnorm.errors import StatsnormError, unknown
from statsnorm.removal.between import difference_table, mean_table, network_table
from statsnorm.removal.checkpoints import checkpoint_statistics
from statsnorm.removal.losses import PLACE, cell_losses, loss_units
from statsnorm.removal.stages import by_last_iteration, group_of
from statsnorm.removal.units import Unit, units_of
from statsnorm.report.model import Figure, Report
from statsnorm.wording import counted

BY = ("norm", "cell", "network", "checkpoint")
REMOVED = {"R_S": "style", "R_I": "content", "R_K": "contrast"}
MOST_GROUPS = 12  # more groups than this make no readable figure; the tables hold all
TITLES = {
    "norm": "Norms side by side",
    "cell": "Trained cells side by side",
    "network": "Networks side by side",
    "checkpoint": "Checkpoints side by side",
}

Families = dict[str, dict[str, list[Unit]]]


def summarise(tables: Any, by: str = "norm") -> dict[str, pd.DataFrame]:
    """Reduce designs and curves of all networks; refuse where there is nothing to compare.

    Raises
    ------
    StatsnormError
        If `by` is unknown, or no two groups are there.
    """
    if by not in BY:
        raise unknown("comparison by", by, BY)
    frames = checkpoint_statistics(tables) if getattr(tables, "files", True) else {}
    losses = cell_losses(tables)
    frames |= {"losses": losses} if len(losses) else {}
    if not frames:
        raise StatsnormError(
            "the runs hold neither a crossed design of networks (extract --design FILE "
            "--treatment none,frozen:prefix) nor curves (train)"
        )
    families = _families(_units(frames, load_plan()), by)
    if not any(len(groups) > 1 for groups in families.values()):
        there = ", ".join(group for groups in families.values() for group in groups) or "none"
        raise StatsnormError(f"nothing to compare by {by}: one group each ({there})")
    return {**frames, "asked": pd.DataFrame({"by": [by]})}


def run(tables: Mapping[str, pd.DataFrame], plan: Plan, rng: np.random.Generator) -> Report:
    """Report every group's means and the differences between groups."""
    by = str(tables["asked"]["by"].iloc[0])
    families = _families(_units(tables, plan), by)
    parts: dict[str, list[pd.DataFrame]] = {}
    for family, groups in families.items():
        first = next(iter(groups)) if by == "cell" else ""
        reference = next((g for g in groups if _is_reference(g, by)), first)
        pairs = difference_table(
            groups, plan, rng=rng, by="cell" if by == "checkpoint" else "block", reference=reference
        )
        for name, table in (
            ("means", mean_table(groups)),
            ("differences", pairs),
            ("networks", network_table(groups)),
        ):
            table.insert(0, "within", family)
            parts.setdefault(name, []).append(table)
    named = {n: pd.concat([f for f in frames if len(f)] or frames[:1], ignore_index=True)
             for n, frames in parts.items()}  # fmt: skip
    named |= _pictures(named)
    return Report(
        name="side_by_side",
        title=TITLES[by],
        question=(__doc__ or "").strip(),
        headline=_headline(named, families, by),
        findings=tuple(_findings(named)),
        tables={name: table for name, table in named.items() if len(table)},
        figures=tuple(_figures(named)),
        scope={"compared by": by, "groups": "; ".join(_named_groups(families))},
        methods=(
            "V_S, V_I, V_K: variance of log sds at work between styles, contents, contrast levels; "
            "the larger V_S / V_I, the more style weighs beside content. "
            "Of V, V_S / V_I and losses differences are of natural logs, of Psi of log ratios, of "
            "R of fractions. Paired where groups share blocks (checkpoints: cells): t over pairs "
            "joined with the jackknife over images and styles, and exact sign flips; else Welch. A "
            "network whose V is not above 0 at a tap has no log there and is left out, here and of "
            "its pair: n counts those that are in.",
        ),
        limitations=(
            "Groups are compared as they were given: what else differs between them (training "
            "images, budget, size) is not held constant unless blocks are shared.",
        ),
        appendix=("networks",),
    )


def _units(frames: Mapping[str, pd.DataFrame], plan: Plan) -> list[Unit]:
    extracted = units_of(frames, plan) if "designs" in frames else []
    return [*extracted, *loss_units(frames["losses"])] if "losses" in frames else extracted


def _families(units: Sequence[Unit], by: str) -> Families:
    """Return family -> group -> units; only groups of one family are compared."""
    found: Families = {}
    for unit in units if by == "checkpoint" else by_last_iteration(units):
        key, on = unit.key, f"trained on {unit.condition}" if unit.condition else ""
        inputs = "" if PLACE in {p for p, _ in unit.measured} else _inputs(unit)
        cell = f"{key['cell']}" if key["cell"] else ""
        if by == "cell" and not cell:
            continue
        family, group = {
            "norm": (f"{key['net']}, {on}", f"{key['net']} {key['norm']}"),
            "cell": ("cells", cell),
            "network": ("networks", ", ".join(filter(None, [group_of(unit), on]))),
            "checkpoint": (", ".join(filter(None, [group_of(unit), on])), _when(key)),
        }[by]
        label = ", ".join(filter(None, [family.strip(", "), inputs]))
        found.setdefault(label, {}).setdefault(group, []).append(unit)
    ordered = {f: _in_order(groups, by) for f, groups in sorted(found.items())}
    return {f: groups for f, groups in ordered.items() if len(groups) > 1} or ordered


def _trained(family: str) -> str:
    """Return a family without its inputs: losses stand in a family of their own."""
    return family.split(", restore")[0]


def _named_groups(families: Families) -> Iterator[str]:
    """Yield "texture, trained on original: texture bn, texture in", a family once."""
    found: dict[str, dict[str, None]] = {}
    for family, groups in families.items():
        found.setdefault(_trained(family), {}).update(dict.fromkeys(groups))
    yield from (f"{family}: {', '.join(groups)}" for family, groups in found.items())


def _inputs(unit: Unit) -> str:
    return ", ".join(f"{name} {unit.key[name]}" for name in ("restore", "strength", "contrast"))


def _when(key: Mapping[str, Any]) -> str:
    return "as shipped" if key["iteration"] < 0 else f"iteration {key['iteration']}"


def _in_order(groups: dict[str, list[Unit]], by: str) -> dict[str, list[Unit]]:
    if by != "checkpoint":
        return dict(sorted(groups.items()))
    return dict(sorted(groups.items(), key=lambda item: int(item[1][0].key["iteration"]) % 10**12))


def _is_reference(group: str, by: str) -> bool:
    return group == "iteration 0" if by == "checkpoint" else by == "norm" and group.endswith(" bn")


def _pictures(named: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return the sources of the figures: removed fractions, and differences on the log scale."""
    means, differences = named["means"], named["differences"]
    fractions = means[means["quantity"].isin(REMOVED)]
    logs = differences[~differences["quantity"].isin(REMOVED)]
    logs = logs[np.isfinite(logs["estimate"].astype(float))]
    found = {}
    pairs = logs["first"] + " against " + logs["second"]
    what = fractions["quantity"].map(REMOVED)
    for name, rows, quantity, groups in (
        ("removed_points", fractions, what, fractions["group"]),
        ("difference_points", logs, logs["quantity"], pairs),
    ):
        points = pd.DataFrame(
            {
                "label": quantity + ", " + rows["place"],
                **{column: rows[column] for column in ("estimate", "low", "high")},
            }
        )
        points.insert(1, "group", _named(groups, rows["within"], points["label"]))
        if 0 < points["group"].nunique() <= MOST_GROUPS:
            found[name] = points.reset_index(drop=True)
    return found


def _named(groups: pd.Series, within: pd.Series, labels: pd.Series) -> list[str]:
    """Return the groups, with as much of `within` as tells those of one label apart.

    First comes the network's name, where several networks have such a group; then what it was
    trained on; then everything.
    """
    full = [str(w) for w in within]
    trained = [_trained(w) for w in full]
    net = [w.split(", trained on")[0] for w in trained]
    double = len(set(zip(groups, net, strict=True))) > groups.nunique()
    plain = [str(g) for g in groups]
    longer = [
        [f"{w}: {g}" for w, g in zip(prefix, plain, strict=True)] for prefix in (net, trained, full)
    ]
    for names in longer if double else [plain, *longer[1:]]:
        if len(set(zip(labels, names, strict=True))) == len(names):
            return names
    return longer[-1]


def _figures(named: Mapping[str, pd.DataFrame]) -> Iterator[Figure]:
    n = int(named["means"]["n"].max()) if len(named["means"]) else 0
    if len(named.get("difference_points", ())):
        yield Figure(
            name="differences",
            draw="dots",
            table="difference_points",
            options={"xlabel": "difference of logs (below 0: the first has less)",
                     "threshold": 0.0},
            caption=(
                f"Differences between groups, up to {counted(n, 'networks')} a group; bars: 95 % "
                "intervals over networks, images and styles (losses: networks); a dot without a "
                "bar rests on one network, or on a variance that is not above 0 without some "
                "network, image or style."
            ),
            alt="Differences of log variances, losses and Psi between groups of networks.",
        )  # fmt: skip
    if len(named.get("removed_points", ())):
        yield Figure(
            name="removed",
            draw="dots",
            table="removed_points",
            options={"xlabel": "removed fraction"},
            caption=(
                f"Removed fractions against frozen maps by group, up to {counted(n, 'networks')} "
                "each; bars: 95 % intervals over networks, images and styles."
            ),
            alt="Removed fractions of style, content and contrast by group of networks.",
        )


def _headline(named: Mapping[str, pd.DataFrame], families: Families, by: str) -> str:
    several = {f: groups for f, groups in families.items() if len(groups) > 1}
    count = len({(_trained(family), g) for family, groups in several.items() for g in groups})
    rows = named["differences"]
    few = int((rows["status"] != "").sum())
    text = f"{count} groups of networks side by side, by {by}"
    return text + (
        f"; {few} of {len(rows)} differences are not testable: too few networks."
        if few
        else f"; {len(rows)} differences, every one over enough networks to be tested."
    )


def _findings(named: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    rows = named["differences"]
    shown = rows[rows["quantity"].isin(["V_S", "Psi", "log style loss"])]
    for row in shown.to_dict("records"):
        if not np.isfinite(float(row["estimate"])):
            continue
        ends = (
            f" ({row['low']:.2f} to {row['high']:.2f})"
            if np.isfinite(float(row["low"]))
            else " (no interval)"
        )
        how = "pairs" if row["paired"] else "networks, unpaired"
        verdict = str(row["status"]) or f"p = {row['pvalue']:.2g}"
        name = f"log {row['quantity']}" if row["quantity"] == "V_S" else str(row["quantity"])
        yield (
            f"{row['within']}: {row['first']} less {row['second']}, {name} at {row['place']}: "
            f"{row['estimate']:.2f}{ends}, {row['n']} {how}; {verdict}."
        )
