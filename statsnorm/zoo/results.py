"""The tables of the `norm_zoo` report, made from the sufficient statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from statsnorm.decisions import Plan
from statsnorm.removal.ratios import Interval, Ratio, ratio_from, ratio_of_ratios
from statsnorm.removal.words import number
from statsnorm.wording import counted
from statsnorm.zoo.arms import OWN, Arm
from statsnorm.zoo.summary import FROZEN, NO_NORM, OWN_FROZEN

CONFIDENCE = 0.95
Frames = Mapping[str, pd.DataFrame]
Key = tuple[int, str, str, str, str, str, str, str]
"""host, norm, batch kind, baseline, condition, moment, kind of place, factor."""

QUANTITIES = ("R_S", "R_S_perp", "R_I", "R_K", "Psi", "Theta")
BY_DEFINITION = "0 (by definition)"
NOT_MEASURED = "not measured"


def groups_of(host: Mapping[Any, Any], networks: int) -> tuple[int, ...]:
    """Return the units: images, styles and, where there are several, networks."""
    own = (int(host["images"]), int(host["styles"]))
    return (*own, networks) if networks > 1 else own


def kept_ratios(frames: Frames) -> dict[Key, Ratio]:
    """Return V(after)/V(before) with its interval for every row of `kept`."""
    hosts = frames["hosts"].set_index("host").to_dict("index")
    found: dict[Key, Ratio] = {}
    for row in frames["kept"].to_dict("records"):
        key = tuple(row[name] for name in ("host", "norm", "batch_kind", "baseline", "condition",
                                           "moment", "kind", "factor"))  # fmt: skip
        values, above, below = (np.asarray(row[k], float) for k in ("values", "above", "below"))
        found[key] = ratio_from(
            values,
            above,
            below,
            groups_of(hosts[row["host"]], int(row["networks"])),
            confidence=CONFIDENCE,
            log=bool(row["positive"]),
        )
    return found


def place_name(kind: str, plan: Plan) -> str:
    """Return where a statistic was taken, in words."""
    own = f"mean over {plan.primary['mean_over']}"
    return own if kind == OWN else f"VGG of output {plan.primary['and_tap']}"


def host_name(host: Mapping[Any, Any]) -> str:
    """Return "vgg16, trained weights"."""
    return f"{host['name']}, {host['weights']} weights"


def n_words(host: Mapping[Any, Any], networks: int) -> str:
    """Return "24 images x 8 styles x 3 gain levels, 8 networks"."""
    levels = counted(host["levels"], f"{host['contrast']} levels")
    return (
        f"{counted(host['images'], 'images')} x {counted(host['styles'], 'styles')} x {levels}, "
        f"{counted(networks, 'networks')}"
    )


def removed_table(frames: Frames, plan: Plan) -> pd.DataFrame:
    """Return every quantity of every arm, one row each, with its interval."""
    hosts = frames["hosts"].set_index("host").to_dict("index")
    ratios = kept_ratios(frames)
    counts = {
        (r["host"], r["norm"], r["batch_kind"], r["baseline"], r["condition"], r["kind"]):
            (int(r["networks"]), int(r["taps"]))
        for r in frames["kept"].to_dict("records")
    }  # fmt: skip
    rows = []
    seen = dict.fromkeys((k[:4], k[5], k[6]) for k in ratios if k[4] == "original")
    for (number_, norm, batch_kind, baseline), moment, kind in seen:
        start = (number_, norm, batch_kind, baseline)
        networks, taps = counts[*start, "original", kind]
        named = {
            "host": host_name(hosts[number_]),
            "arm": Arm(norm, batch_kind).label,
            "baseline": baseline,
            "place": place_name(kind, plan),
            "moment": moment,
        }
        for quantity, condition, x, method in _quantities(ratios, start, moment, kind, plan):
            n = counts[*start, condition or "original", kind][0] if condition else networks
            rows.append({**named, "quantity": quantity, "condition": condition,
                         "estimate": x.estimate, "low": x.low, "high": x.high, "dof": x.dof,
                         "method": method, "networks": n, "taps": taps})  # fmt: skip
    return pd.DataFrame(rows)


def _quantities(
    ratios: Mapping[Key, Ratio], start: tuple[Any, ...], moment: str, kind: str, plan: Plan
) -> list[tuple[str, str, Interval, str]]:
    kept = {f: ratios.get((*start, "original", moment, kind, f)) for f in "SIK"}
    found = [(f"R_{f}", "", x.removed(), x.method) for f, x in kept.items() if x is not None]
    for condition in plan.primary["perp"]:
        perp = ratios.get((*start, condition, moment, kind, "S"))
        if perp is not None:
            found.append(("R_S_perp", condition, perp.removed(), perp.method))
    for name, below in (("Psi", "I"), ("Theta", "K")):
        top, bottom = kept["S"], kept[below]
        if top is not None and bottom is not None:
            both = ratio_of_ratios(top, bottom, confidence=CONFIDENCE)
            found.append((name, "", both.log(), both.method))
    return found


def zoo_table(removed: pd.DataFrame, frames: Frames, plan: Plan) -> pd.DataFrame:
    """Return the one table: a row an arm, `estimate (low to high)` in every column.

    Log sd, against the arm's own frozen map. `none` and the frozen map have no adaptation to take
    away: theirs is 0 by definition.
    """
    mine = removed[(removed["moment"] == plan.primary["moment"])
                   & (removed["baseline"] == OWN_FROZEN)]  # fmt: skip
    first, little = plan.primary["perp"][0], plan.rule("H7b", "content").null
    mine = mine[(mine["condition"] == "") | (mine["condition"] == first)]
    rows = []
    for host in frames["hosts"].to_dict("records"):
        name = host_name(host)
        of_host = removed[removed["host"] == name]
        for place in dict.fromkeys(of_host["place"]):
            for arm in _arms(frames, int(host["host"])):
                cells = mine[(mine["host"] == name) & (mine["place"] == place)
                             & (mine["arm"] == arm.label)]  # fmt: skip
                named = {"host": name, "place": place, "arm": arm.label}
                rows.append({**named, **_cells(cells, arm, little)})
    table = pd.DataFrame(rows)
    if "R_S_perp" not in set(mine["quantity"]):
        return table.drop(columns="R_S_perp")
    return table.rename(columns={"R_S_perp": f"R_S_perp ({first})"})


def _arms(frames: Frames, host: int) -> list[Arm]:
    mine = frames["components"][frames["components"]["host"] == host]
    pairs = set(zip(mine["norm"], mine["batch_kind"], strict=True))
    found = {Arm(str(norm), str(kind)) for norm, kind in pairs} | {Arm(FROZEN)}
    return sorted(found, key=lambda arm: arm.rank)


def _cells(rows: pd.DataFrame, arm: Arm, little: float) -> dict[str, str]:
    if arm.norm in ("none", FROZEN):
        fixed = dict.fromkeys(QUANTITIES[:4], BY_DEFINITION)
        return {**fixed, "Psi": "", "Theta": "", "removes more of": "nothing removed"}
    by = {row["quantity"]: row for row in rows.to_dict("records")}
    texts = {q: interval_text(by[q]) if q in by else NOT_MEASURED for q in QUANTITIES}
    return {**texts, "removes more of": reading(by, little=little)}


def interval_text(row: Mapping[Any, Any]) -> str:
    """Return "0.90 (0.86 to 0.93)"."""
    return f"{number(row['estimate'])} ({number(row['low'])} to {number(row['high'])})"


def reading(by: Mapping[str, Mapping[Any, Any]], *, little: float, remainder: float = 0.95) -> str:
    """Say of which factor an arm removes more, as far as the interval of Psi shows it.

    Where not even `little` of either factor goes, a ratio of what is kept selects nothing; where
    more than `remainder` of both goes, it is a ratio of remainders.
    """
    if not {"R_S", "R_I", "Psi"} <= by.keys() or math.isnan(by["Psi"]["estimate"]):
        return NOT_MEASURED
    removed = [float(by[name]["estimate"]) for name in ("R_S", "R_I")]
    if max(removed) < little:
        return "removes little"
    if min(removed) > remainder:
        return "a ratio of remainders"
    if by["Psi"]["high"] < 0:
        return "style"
    return "content" if by["Psi"]["low"] > 0 else "neither, as far as shown"


def components_table(frames: Frames) -> pd.DataFrame:
    """Return the variance components and their shares by arm and tap, over networks."""
    hosts = {row["host"]: host_name(row) for row in frames["hosts"].to_dict("records")}
    table = frames["components"].copy()
    names = ["content", "style", "contrast", "content_style", "content_contrast",
             "style_contrast", "residual"]  # fmt: skip
    total = table[names].sum(axis=1)
    for name in names[:3]:
        table[f"share_{name}"] = table[name] / total.where(total > 0)
    both = table["style"] + table["content"]
    table["icc"] = table["style"] / both.where(both > 0)
    arms = [Arm(n, k).label for n, k in zip(table["norm"], table["batch_kind"], strict=True)]
    table["host"] = table["host"].map(hosts)
    table.insert(1, "arm", arms)
    return table.drop(columns=["norm", "batch_kind"])


def panels_table(removed: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Return the source of the figure: log sd, own frozen map, first place of every host."""
    first = plan.primary["perp"][0]
    mine = removed[
        (removed["moment"] == plan.primary["moment"])
        & (removed["baseline"] == OWN_FROZEN)
        & (removed["place"] == place_name(OWN, plan))
        & removed["condition"].isin(["", first])
        & (removed["quantity"] != "Theta")
    ]
    columns = ["host", "arm", "quantity", "estimate", "low", "high"]
    return pd.DataFrame(mine[columns]).reset_index(drop=True)


def plane_table(ratios: Mapping[Key, Ratio], frames: Frames, plan: Plan) -> pd.DataFrame:
    """Return what every arm keeps of style and of content, all against one common baseline.

    That is no normaliser, or, where it was not run, the arm's own frozen map.
    """
    moment, rows = plan.primary["moment"], []
    for host in frames["hosts"].to_dict("records"):
        mine = {k: x for k, x in ratios.items() if k[0] == host["host"] and k[4] == "original"
                and k[5] == moment and k[6] == OWN}  # fmt: skip
        common = NO_NORM if any(k[3] == NO_NORM for k in mine) else OWN_FROZEN
        for key, style in sorted(mine.items(), key=lambda item: Arm(item[0][1], item[0][2]).rank):
            if key[3] == common and key[7] == "S":
                content = mine[*key[:7], "I"]
                rows.append({"host": host_name(host), "arm": Arm(key[1], key[2]).label,
                             "baseline": common,
                             "style": style.estimate, "style_low": style.low,
                             "style_high": style.high, "content": content.estimate,
                             "content_low": content.low,
                             "content_high": content.high})  # fmt: skip
    return pd.DataFrame(rows)
