"""What does normalisation remove of the variance between natural domains and classes?

External validity of the styled designs: domains of a manifest (photographs, paintings, sketches)
take the part of style, its classes that of content, images are nested in the cells, in any
numbers; without classes, images in domains. V_domain and V_class are split for scale-free channel
moments, with the normalisers at work and frozen. Unit of the intervals: domains and classes
(two-way delete-one jackknife), for domains at large; images within their cells, for these domains
alone. Exploratory claims, no family: N1 (most of V_domain is removed), N2 (more of it than of
V_class). Same-image retrieval at relu4_2 says what is left of single images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from statsnorm.decisions import Decision, Plan
from statsnorm.removal import retrieval
from statsnorm.removal.domains import (
    DomainNet,
    components_table,
    domain_decisions,
    removed_table,
    selectivity_table,
)
from statsnorm.removal.effects import exploratory_rows
from statsnorm.removal.labels import CROSSED
from statsnorm.removal.natural import LabelledTables, domain_statistics
from statsnorm.removal.words import number, percent
from statsnorm.report.model import EFFECT_COLUMNS, Claim, Figure, Report
from statsnorm.wording import counted

CLAIMS: Mapping[str, str] = {
    "N1": "Normalisation removes most of the variance between natural domains.",
    "N2": "It removes variance between domains at least twice as thoroughly as between {content}.",
}
BETWEEN = {
    "domain": "domains",
    "class": "classes",
    "images of a cell": "images of a cell",
    "images of a domain": "images of a domain",
    "domain x class": "cells beyond domain and class",
}
SHOWN = (-1.05, 1.25)  # a removed fraction below -1 says only that variance was added
KINDS = ("next_pre_norm", "residual_sum", "vgg_of_output")
Frames = Mapping[str, pd.DataFrame]


def summarise(tables: LabelledTables, *, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Reduce the plain rows of labelled images; empty without a column `domain`."""
    return domain_statistics(tables, seed=seed)


def run(tables: Frames, plan: Plan, rng: np.random.Generator) -> Report:  # noqa: ARG001
    """Report what is removed of domain and class, and how the variance is composed by depth."""
    nets = [DomainNet(tables, row) for row in tables["designs"].to_dict("records")]
    trained = [net for net in nets if net.row["iteration"] != 0]
    for net in trained:
        net.companions = [n for n in nets if n.untrained_of(net)]
    named = {
        "removed": _stack(removed_table(net, plan) for net in trained),
        "selectivity": _stack(selectivity_table(net, plan) for net in trained),
        "components": _stack(components_table(net) for net in trained),
        "retrieval": _stack(net.frame("retrieval") for net in trained),
        "reml": _stack(net.frame("reml") for net in trained),
        "cells": tables["cells"],
    }
    decided = [(net, d) for net in trained for d in domain_decisions(net, plan)]
    named |= _pictures(named)
    findings = tuple(_findings(trained, named, plan))
    how = filter(None, [retrieval.interval_words(named["retrieval"])])
    return Report(
        name="natural_domains",
        title="Natural domains and classes",
        question=(__doc__ or "").strip(),
        headline=next((t for t in findings if "against frozen affine maps" in t), ""),
        findings=findings,
        claims=tuple(_claim(net, d) for net, d in decided),
        effects=pd.DataFrame(
            [
                row
                for net, d in decided
                for row in exploratory_rows(d, n_units=net.counts, label=net.label)
            ],
            columns=list(EFFECT_COLUMNS),
        ),
        tables={name: table for name, table in named.items() if len(table)},
        figures=tuple(_figures(named, trained[0])) if trained else (),
        scope={"natural domains": trained[0].counts} if trained else {},
        methods=(*_methods(trained, plan), *how),
        limitations=tuple(_limitations(trained, plan)),
        left_out=tuple(_left_out(trained)),
        appendix=("components", "reml", "cells", "by_depth", "composition"),
    )


def _stack(parts: Any) -> pd.DataFrame:
    frames = [part for part in parts if len(part)]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _claim(net: DomainNet, decision: Decision) -> Claim:
    found = "; ".join(
        f"{p.rule.statistic} = {number(p.estimate)} ({number(p.low)} to {number(p.high)}) at "
        f"{p.tap}"
        for p in decision.parts
    )
    tail = f" {decision.verdict.capitalize()}: {decision.reason}." if decision.reason else ""
    tail = tail or (f" Inconclusive: {decision.shortfall}." if decision.shortfall else "")
    p_words = "" if decision.reason or not found else f", {decision.p_words}"
    return Claim(
        hypothesis=decision.hypothesis,
        family="",
        claim=CLAIMS[decision.hypothesis].format(content=_plural(net)),
        sentence=f"{found or 'No interval over domains'}; {net.counts}{p_words}.{tail}",
        verdict=decision.verdict,
        scope=f"for the network {net.label}; natural domains; {net.counts}",
    )


def _plural(net: DomainNet) -> str:
    return "classes" if net.row["design"] == CROSSED else "images of a domain"


def _pictures(named: Frames) -> dict[str, pd.DataFrame]:
    """Return the sources of the figures: removed fractions and the domains' share, by depth."""
    found: dict[str, pd.DataFrame] = {}
    removed, parts = named["removed"], named["components"]
    if len(removed):
        rank = {kind: i for i, kind in enumerate(KINDS)}
        rows = removed[(removed["moment"] == "v") & removed["tap_kind"].isin(KINDS)]
        rows = rows[(rows["taps"] == 1) & ~rows["place"].str.startswith("VGG of output")]
        rows = rows[rows["net"] == rows["net"].iloc[0]] if len(rows) else rows
        rows = rows.assign(rank=rows["tap_kind"].map(rank)).sort_values(["rank", "depth", "place"])
        found["by_depth"] = pd.DataFrame(
            {
                "tap": rows["place"],
                "group": rows["factor"],
                "estimate": rows["estimate"],
                "low": rows["within_low"],
                "high": rows["within_high"],
            }
        )
    plain = parts[(parts["treatment"] == "none") & (parts["moment"] == "v")]
    vgg = plain[plain["net"].str.startswith("vgg")]
    if len(vgg):
        first = vgg[vgg["net"] == vgg["net"].iloc[0]].sort_values(["depth", "tap"])
        columns = {"share": "estimate", "share_low": "low", "share_high": "high"}
        named_rows = first.rename(columns={"factor": "group"})[["tap", "group", *columns]]
        found["composition"] = named_rows.rename(columns=columns)
    return {name: table.reset_index(drop=True) for name, table in found.items()}


def _figures(named: Frames, net: DomainNet) -> Iterator[Figure]:
    if len(named.get("by_depth", ())):
        yield Figure(
            name="removed_by_depth",
            draw="profile",
            table="by_depth",
            options={"ylabel": "removed fraction R (log sd)", "threshold": 0.0, "limits": SHOWN},
            caption=f"Removed fraction of each variance component by tap; {net.counts}. Bars: 95 % "
            "delete-one-image jackknife intervals within cells, for these domains and classes, cut "
            "off at -1.05.",
            alt="Removed fraction of domain, class and image variance by tap.",
        )
    if len(named.get("composition", ())):
        yield Figure(
            name="composition",
            draw="profile",
            table="composition",
            options={"ylabel": "share of the variance of log sd", "threshold": 0.0},
            caption=f"Composition of the variance between images by depth of VGG; {net.counts}. "
            "Bars: 95 % jackknife intervals, domains and classes as units.",
            alt="Share of domain, class and image variance by VGG tap.",
        )


def _findings(trained: list[DomainNet], named: Frames, plan: Plan) -> Iterator[str]:
    removed = named["removed"]
    for net in trained:
        first = f"mean over {plan.primary['mean_over']}"
        mine = removed[removed["net"] == net.label] if len(removed) else removed
        mine = mine[(mine["place"] == first) & (mine["moment"] == "v")] if len(mine) else mine
        if len(mine):
            known = mine[np.isfinite(mine["estimate"].astype(float))]
            parts = [
                f"{percent(r['estimate'])} % ({percent(r['within_low'])} to "
                f"{percent(r['within_high'])}{_random(r)}) of that between {BETWEEN[r['factor']]}"
                for r in known.to_dict("records")
            ]
            lost = sorted(set(mine["factor"]) - set(known["factor"]))
            none = f"; no fraction of {', '.join(lost)}: not above 0 before" if lost else ""
            yield (
                f"{net.label}, {net.counts}: of the variance of log sd, normalisation removed "
                f"against frozen affine maps {', '.join(parts) or 'an unknown share'} ({first}; "
                f"intervals over images, for these domains alone){none}."
            )
        yield from _composition_words(net, named["components"])
    for row in named["retrieval"].to_dict("records"):
        share = retrieval.words(row)
        yield (
            f"{row['net']}: {share} of the images at work are nearest to their own frozen version "
            f"among {row['images']} by the moments of {row['tap']}."
        )
    if len(named["reml"]):
        yield _reml_words(named["reml"])


def _random(row: Mapping[Any, Any]) -> str:
    n = int(row["untrained_networks"])
    return f"; {percent(float(row['untrained']))} in {n} untrained" if n else ""


def _composition_words(net: DomainNet, components: pd.DataFrame) -> Iterator[str]:
    mine = components[(components["net"] == net.label) & (components["treatment"] == "none")]
    mine = mine[(mine["moment"] == "v") & (mine["factor"] == "domain")].sort_values(["depth"])
    if len(mine) and str(net.row["net"]).startswith("vgg"):
        ends = [
            f"{percent(r['share'])} % ({percent(r['share_low'])} to {percent(r['share_high'])}) at "
            f"{r['tap']}"
            for r in mine.iloc[[0, -1]].to_dict("records")
        ]
        yield (
            f"{net.label}, {net.counts}: V_domain is {' and '.join(ends)} of the variance of log "
            "sd between images (95 % intervals for domains at large)."
        )


def _reml_words(reml: pd.DataFrame) -> str:
    free = reml[~reml["at_bound"].astype(bool)]
    by = ["net", "tap", "treatment", "channel"]
    gap = (free["anova"] - free["reml"]).abs() / free.groupby(by)["reml"].transform("sum")
    worst = percent(float(gap.max())) if len(gap) else "unknown"
    channels = reml.drop_duplicates(by)
    return (
        f"REML in {counted(len(channels), 'cases')} (a channel under one treatment), "
        f"{counted(int(reml['images'].max()), 'images')} at most: components "
        f"differ from those of analysis of variance by at most {worst} % of the total variance; "
        f"{int(channels['at_bound'].sum())} cases have a component on its bound 0 and are not "
        "compared."
    )


def _methods(trained: list[DomainNet], plan: Plan) -> Iterator[str]:
    if not trained:
        return
    yield (
        "Scale-free moments m = mean / s_c and v = 0.5 log var, averaged over live channels. "
        "Domains x classes: U-statistics of cell means, unbiased for any numbers of images and "
        "missing cells, all factors random. Images within domains: analysis of variance with "
        "n0 = (N - sum n_j^2 / N) / (J - 1)."
    )
    yield (
        "Two intervals. low, high: delete-one jackknife over domains (and classes, two-way), for "
        "domains at large. within_low, within_high: delete-one jackknife over images, stratified "
        "by cell, for these domains and classes. Ratios on the log scale, Fieller where V after is "
        "below 3 standard errors."
    )
    yield (
        f"Minima: {plan.minimum['domains']} domains, {plan.minimum['classes']} classes, "
        f"{plan.minimum['cell_images']} images in a cell; {trained[0].counts}."
    )


def _limitations(trained: list[DomainNet], plan: Plan) -> Iterator[str]:
    if trained:
        yield (
            "Domains differ in what they show as well as in how: V_domain holds every difference "
            "of source, subject, camera and compression between them."
        )
        if why := trained[0].short(plan):
            yield f"Not testable for domains at large: {why}. What is said holds for these domains."


def _left_out(trained: list[DomainNet]) -> Iterator[str]:
    if not trained:
        yield "only untrained networks were measured"
        return
    row = trained[0].row
    if row["unlabelled"]:
        yield f"{counted(row['unlabelled'], 'images')} without a domain or class"
    if row["lonely"]:
        yield f"{counted(row['lonely'], 'images')} alone in a cell"
    if row.get("apart"):
        yield (
            f"{counted(row['apart'], 'images')} of classes or domains that are not crossed: in no "
            "two classes x two domains"
        )
