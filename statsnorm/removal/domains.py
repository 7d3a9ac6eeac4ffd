"""Tables and decisions about natural domains, from the traces of each network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from statsnorm.decisions import Candidate, Decision, Part, Plan, exploratory
from statsnorm.removal.evidence import Spread, remainder_words, spread
from statsnorm.removal.labels import CROSSED
from statsnorm.removal.natural import COMPONENTS, CONFIDENCE, places
from statsnorm.removal.parts import log_part, removed_part
from statsnorm.removal.ratios import Ratio, interval, ratio, ratio_of_ratios
from statsnorm.wording import counted

Frames = Mapping[str, pd.DataFrame]
WORDS: Mapping[bool, Mapping[str, str]] = {
    True: {
        "style": "domain",
        "content": "class",
        "content_style": "domain x class",
        "residual": "images of a cell",
    },
    False: {"style": "domain", "content": "images of a domain"},
}


class DomainNet:
    """One network with the labelled images: replicates by tap, treatment, moment, component."""

    def __init__(self, tables: Frames, row: Mapping[Any, Any]) -> None:
        self.tables, self.row = tables, row
        self.companions: list[DomainNet] = []
        mine = self.frame("replicates")
        keys = ["tap", "treatment", "moment", "component"]
        self.traces = {
            tuple(r[k] for k in keys): np.asarray(r["values"], float)
            for r in mine.to_dict("records")
        }
        columns = ["tap", "tap_kind", "depth", "channels", "dropped"]
        self.meta: dict[str, dict[Any, Any]] = {
            r["tap"]: r for r in mine[columns].drop_duplicates("tap").to_dict("records")
        }
        crossed = row["design"] == CROSSED
        self.words = WORDS[crossed]
        self.units = (row["classes"], row["domains"]) if crossed else (row["domains"],)

    def frame(self, name: str) -> pd.DataFrame:
        """Return the rows of one input frame that belong to this network."""
        table = self.tables.get(name, pd.DataFrame({"study": []}))
        mine: pd.DataFrame = table[table["study"] == self.row["study"]].drop(columns="study")
        return mine.assign(net=self.label).reset_index(drop=True)

    def untrained_of(self, other: DomainNet) -> bool:
        """Say whether this is a random initialisation of another network."""
        same = all(self.row[k] == other.row[k] for k in ("net", "norm", "index", "bn_mode"))
        return same and self.row["iteration"] == 0

    @property
    def label(self) -> str:
        """Return the network's name, with index, cell and seed where they exist."""
        parts = [str(self.row["net"]), str(self.row["cell"])]
        parts += [f"index {self.row['index']}"] if self.row["index"] else []
        parts += [f"seed {self.row['seed']}"] if self.row["seed"] >= 0 else []
        return ", ".join(filter(None, parts))

    @property
    def counts(self) -> str:
        """Return e.g. "320 images in 28 cells of 4 domains x 7 classes"."""
        row = self.row
        if row["design"] == CROSSED:
            return (
                f"{counted(row['images'], 'images')} in {counted(row['cells'], 'cells')} "
                f"of {counted(row['domains'], 'domains')} x "
                f"{counted(row['classes'], 'classes')}"
            )
        return f"{counted(row['images'], 'images')} in {counted(row['domains'], 'domains')}"

    def short(self, plan: Plan) -> str:
        """Return what the design lacks for a verdict on domains at large, or ""."""
        wanted = ("domains", "classes") if self.row["design"] == CROSSED else ("domains",)
        few = [
            f"{self.row[name]} {name} < {plan.minimum[name]}"
            for name in wanted
            if self.row[name] < plan.minimum[name]
        ]
        return "; ".join(few)

    def point(self, taps: list[str], component: str, moment: str, plan: Plan) -> float:
        """Return V(at work) / V(frozen), the mean over taps; nan where one is missing."""
        arms = ("none", plan.primary["before"])
        pairs = [[self.traces.get((t, arm, moment, component)) for arm in arms] for t in taps]
        if any(x is None for pair in pairs for x in pair):
            return math.nan
        return float(np.mean([a[0] / b[0] if b[0] > 0 else math.nan for a, b in pairs]))  # type: ignore[index]

    def kept(self, taps: list[str], component: str, moment: str, plan: Plan) -> Ratio | None:
        """Return V(at work) / V(frozen) with domains and classes as units, or None."""
        arms = ("none", plan.primary["before"])
        found = [[self.traces.get((t, arm, moment, component)) for t in taps] for arm in arms]
        if any(x is None for arm in found for x in arm):
            return None
        top, bottom = (np.stack([x for x in arm if x is not None]) for arm in found)
        return ratio(top, bottom, self.units, confidence=CONFIDENCE)

    def above_zero(self, taps: list[str], moment: str, plan: Plan) -> bool:
        """Say whether V_domain and V of the content are above 0 before, at every tap."""
        keys = [(t, plan.primary["before"], moment, c) for t in taps for c in ("style", "content")]
        return all(self.traces[key][0] > 0 for key in keys)

    def psi(self, taps: list[str], moment: str, plan: Plan) -> Ratio | None:
        """Return the ratio of what is kept of V_domain to what is kept of V_class."""
        both = [self.kept(taps, name, moment, plan) for name in ("style", "content")]
        if both[0] is None or both[1] is None:
            return None
        return ratio_of_ratios(both[0], both[1], confidence=CONFIDENCE)


def removed_table(net: DomainNet, plan: Plan) -> pd.DataFrame:
    """Return R of every component at every tap and place, with both intervals and untrained."""
    within = net.frame("within")
    at = {(r["place"], r["moment"], r["quantity"]): r for r in within.to_dict("records")}
    rows = []
    for place, taps in places(net.meta, plan).items():
        for moment in ("m", "v"):
            for name in COMPONENTS[net.row["design"]]:
                kept, inside = net.kept(taps, name, moment, plan), at.get((place, moment, name))
                if kept is None or inside is None:
                    continue
                others = [1 - n.point(taps, name, moment, plan) for n in net.companions]
                rows.append(
                    {
                        "net": net.label,
                        "place": place,
                        "tap_kind": net.meta[taps[0]]["tap_kind"],
                        "depth": net.meta[taps[0]]["depth"],
                        "taps": len(taps),
                        "moment": moment,
                        "factor": net.words[name],
                        "estimate": 1 - net.point(taps, name, moment, plan),
                        "low": 1 - kept.high,
                        "high": 1 - kept.low,
                        "within_low": inside["low"],
                        "within_high": inside["high"],
                        **_untrained(spread([x for x in others if math.isfinite(x)])),
                    }
                )
    return pd.DataFrame(rows)


def _untrained(x: Spread) -> dict[str, float | int]:
    return {
        "untrained": x.mean,
        "untrained_low": x.low,
        "untrained_high": x.high,
        "untrained_networks": x.n,
    }


def selectivity_table(net: DomainNet, plan: Plan) -> pd.DataFrame:
    """Return Psi at every tap and place, with both intervals."""
    within = net.frame("within")
    at = {(r["place"], r["moment"], r["quantity"]): r for r in within.to_dict("records")}
    rows = []
    for place, taps in places(net.meta, plan).items():
        for moment in ("m", "v"):
            psi, inside = net.psi(taps, moment, plan), at.get((place, moment, "psi"))
            if psi is not None and inside is not None:
                logs = psi.log()
                rows.append(
                    {
                        "net": net.label,
                        "place": place,
                        "moment": moment,
                        "estimate": inside["estimate"],
                        "low": logs.low,
                        "high": logs.high,
                        "within_low": inside["low"],
                        "within_high": inside["high"],
                    }
                )
    return pd.DataFrame(rows)


def components_table(net: DomainNet) -> pd.DataFrame:
    """Return every component with its jackknife interval and its share of the total."""
    rows = []
    names = COMPONENTS[net.row["design"]]
    for tap, treatment, moment in dict.fromkeys(key[:3] for key in net.traces):
        parts = {name: net.traces[tap, treatment, moment, name] for name in names}
        total = np.sum([*parts.values()], axis=0)
        for name, v in parts.items():
            plain = interval(v, net.units, confidence=CONFIDENCE, tails="heavy")
            with np.errstate(divide="ignore", invalid="ignore"):
                share = interval(v / total, net.units, confidence=CONFIDENCE, tails="heavy")
            rows.append(
                {
                    "net": net.label,
                    "tap": tap,
                    **{k: net.meta[tap][k] for k in ("tap_kind", "depth", "channels", "dropped")},
                    "treatment": treatment,
                    "moment": moment,
                    "factor": net.words[name],
                    "estimate": plain.estimate,
                    "low": plain.low,
                    "high": plain.high,
                    "share": share.estimate,
                    "share_low": share.low,
                    "share_high": share.high,
                }
            )
    return pd.DataFrame(rows)


def domain_decisions(net: DomainNet, plan: Plan) -> list[Decision]:
    """Judge N1 and N2 at both primary statistics; nothing for a network without a frozen arm."""
    moment, parts = plan.primary["moment"], dict[str, list[Part]]({"N1": [], "N2": []})
    primary = {p: t for p, t in places(net.meta, plan).items() if p not in net.meta}
    undefined, remainders = [], []
    for place, taps in primary.items():
        kept, psi = net.kept(taps, "style", moment, plan), net.psi(taps, moment, plan)
        if kept is None or psi is None:
            continue
        if not net.above_zero(taps, moment, plan):
            undefined.append(place)
        if not math.isnan(kept.estimate):
            parts["N1"].append(removed_part(plan.rule("N1", "removed"), kept, place))
        if not math.isnan(psi.estimate):
            parts["N2"].append(log_part(plan.rule("N2", "selective"), psi, place))
        content = net.point(taps, "content", moment, plan)
        if min(1 - kept.estimate, 1 - content) > plan.primary["remainder"]:
            remainders.append(place)
    if not primary or net.kept(next(iter(primary.values())), "style", moment, plan) is None:
        return []
    lacking = "" if len(primary) > 1 else "one of the two primary statistics was not measured"
    why = "; ".join(filter(None, [net.short(plan), lacking]))
    blocked = {"N1": "", "N2": remainder_words(remainders, plan)}
    if undefined:
        at = " and ".join(undefined)
        text = f"V_domain or V of the content is not above 0 before, at a tap of {at}: no fraction"
        blocked = dict.fromkeys(blocked, text)
    return [
        exploratory(
            plan,
            Candidate(
                hypothesis=h,
                unit=net.label,
                parts=tuple(found),
                not_testable=why,
                not_interpretable=blocked[h],
            ),
        )
        for h, found in parts.items()
    ]
