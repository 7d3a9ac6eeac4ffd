"""Which normaliser is selective: the same weights under none, BN, LN, GN, IN, whitening?

For every normaliser the variance of log sds of channels (and of their means) is split into
style, content and contrast in a crossed design, at the inputs of the next normaliser and at VGG
of the output, never right behind a normaliser. R = 1 - V(at work) / V(its own frozen map); Psi =
log of style kept over content kept, below 0 where style goes more thoroughly. Batch
normalisation is run with running statistics and on mixed, content-homogeneous and
style-homogeneous batches. Descriptive, but for two claims of family F3 (Holm, with H6): H7a, BN
leaves the variance between the samples of a batch, more of it on mixed batches; H7b, on
style-homogeneous batches it removes style and keeps content.
Units: images and styles, and networks where several were run (delete-one jackknife over each).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from statsnorm.decisions import Plan
from statsnorm.removal.crossed import MomentTables
from statsnorm.removal.effects import effect_row
from statsnorm.removal.words import number, percent
from statsnorm.report.model import EFFECT_COLUMNS, Claim, Figure, Gate, Report
from statsnorm.wording import counted
from statsnorm.zoo.arms import Arm
from statsnorm.zoo.claims import FAMILY, Judged, identity, judged
from statsnorm.zoo.results import (
    Frames,
    components_table,
    host_name,
    kept_ratios,
    n_words,
    panels_table,
    plane_table,
    removed_table,
    zoo_table,
)
from statsnorm.zoo.summary import FROZEN, NO_NORM, OWN_FROZEN, sufficient_statistics

CLAIMS: Mapping[str, str] = {
    "H7a": "Batch normalisation leaves variance between samples, more of it on mixed batches.",
    "H7b": "On style-homogeneous batches batch normalisation removes style and keeps content.",
}
DEVIATIONS = (
    "Two rules were set after the tables of the first study (eight random texture generators) had "
    "been seen; for it they are post hoc. That eps is a floor only where a layer adapts: before, "
    "the frozen map of one network under LN dropped all channels of that network from all arms. "
    "That an arm which takes less of either factor than the margin of H7b removes little, whatever "
    "its Psi. The first decides what is counted for H7a and H7b too, the second no verdict.",
)


def summarise(tables: MomentTables) -> dict[str, pd.DataFrame]:
    """Reduce every network that was run under at least two normalisers; empty if there is none."""
    return sufficient_statistics(tables)


def run(tables: Mapping[str, pd.DataFrame], plan: Plan, rng: np.random.Generator) -> Report:  # noqa: ARG001
    """Put all normalisers into one table and judge H7a and H7b."""
    removed = removed_table(tables, plan)
    verdicts = judged(tables, plan)
    named = {
        "zoo": zoo_table(removed, tables, plan),
        "between": _between_table(verdicts),
        "removed": removed,
        "components": components_table(tables),
        "panels": panels_table(removed, plan),
        "plane": plane_table(kept_ratios(tables), tables, plan),
        "forest": _forest(verdicts),
    }
    if "notes" in tables:
        named["notes"] = tables["notes"]
    named = {name: table for name, table in named.items() if len(table)}
    return Report(
        name="norm_zoo",
        title="The zoo of normalisers",
        question=(__doc__ or "").strip(),
        headline=_headline(named["zoo"], tables),
        findings=tuple(_findings(removed, tables, plan)),
        claims=tuple(_claim(j) for j in verdicts),
        effects=pd.DataFrame(
            [row for j in verdicts for row in _effects(j)], columns=list(EFFECT_COLUMNS)
        ),
        tables=named,
        figures=_figures(named, tables),
        gates=tuple(_gates(tables, plan)),
        scope={"normalisers of": "; ".join(map(_host_words, _hosts(tables)))},
        methods=_methods(tables, plan),
        deviations=DEVIATIONS,
        limitations=_limitations(tables, plan),
        left_out=tuple(_left_out(tables, verdicts, plan)),
        picture="norm_panels" if "panels" in named else "",
        appendix=("removed", "components", "panels", "plane", "forest", "notes"),
    )


def _hosts(tables: Frames) -> list[dict[Any, Any]]:
    return tables["hosts"].to_dict("records")


def _networks(tables: Frames, host: Mapping[Any, Any]) -> int:
    mine = tables["kept"][tables["kept"]["host"] == host["host"]]
    return int(mine["networks"].max())


def _host_words(host: Mapping[Any, Any]) -> str:
    return f"{host_name(host)} ({host['style_generators']} styles)"


def _n(tables: Frames) -> str:
    return "; ".join(f"{host_name(h)}: {n_words(h, _networks(tables, h))}" for h in _hosts(tables))


def _headline(zoo: pd.DataFrame, tables: Frames) -> str:
    parts = []
    for host in _hosts(tables):
        mine = zoo[(zoo["host"] == host_name(host))]
        mine = mine[mine["place"] == mine["place"].iloc[0]]
        groups = {
            word: ", ".join(mine.loc[mine["removes more of"] == word, "arm"])
            for word in ("style", "content")
        }
        said = [
            f"{arms} remove{'' if ', ' in arms else 's'} {word} more thoroughly than {other}"
            for (word, arms), other in zip(groups.items(), ("content", "style"), strict=True)
            if arms
        ]
        parts.append(f"{host_name(host)}: {'; '.join(said) or 'no normaliser is selective'}")
    return "; ".join(parts) + " (Psi, unadjusted 95 % intervals, descriptive)."


def _findings(removed: pd.DataFrame, tables: Frames, plan: Plan) -> Iterator[str]:
    """State for every arm what it removes, and check the predictions of method.md 5.5."""
    moment = plan.primary["moment"]
    rows = removed[(removed["moment"] == moment) & (removed["condition"] == "")]
    for host in _hosts(tables):
        name = host_name(host)
        own = rows[(rows["host"] == name) & (rows["baseline"] == OWN_FROZEN)]
        for place, mine in own.groupby("place", sort=False):
            table = mine.pivot(index="arm", columns="quantity", values="estimate")
            said = [
                f"{arm} {percent(by['R_S'])} % of style, {percent(by['R_I'])} % of content, "
                f"{percent(by['R_K'])} % of contrast"
                for arm, by in table.reindex(dict.fromkeys(mine["arm"])).iterrows()
            ]
            yield f"{name}, {place}, against each arm's own frozen map: {'; '.join(said)}."
        plain = rows[(rows["host"] == name) & (rows["baseline"] == NO_NORM)]
        fixed = plain[plain["arm"] == "frozen map"].drop_duplicates("quantity")
        if len(fixed):
            values = fixed.set_index("quantity")["estimate"]
            yield (
                f"{name}: a frozen map by itself has {number(1 - values['R_S'])} times the style "
                f"and {number(1 - values['R_I'])} times the content variance of no normaliser: so "
                "much is scale, not adaptation."
            )


def _between_table(verdicts: list[Judged]) -> pd.DataFrame:
    rows = [
        {
            "host": j.decision.unit,
            "hypothesis": j.decision.hypothesis,
            "statistic": p.rule.statistic,
            "at": p.tap,
            "estimate": p.estimate,
            "low": p.low,
            "high": p.high,
            "required": p.rule.required,
            "n": n_words(j.host, j.networks),
        }
        for j in verdicts
        for p in j.decision.parts
    ]
    return pd.DataFrame(rows)


def _claim(j: Judged) -> Claim:
    d = j.decision
    found = "; ".join(
        f"{p.rule.statistic} = {number(p.estimate)} ({number(p.low)} to {number(p.high)}) "
        f"at {p.tap}{'' if p.rule.required else ' (not required)'}"
        for p in d.parts
    )
    why = d.reason or d.shortfall
    tail = f" {d.verdict.capitalize()}: {why}." if why else ""
    batch = f"{counted(int(j.host['contents_per_batch']), 'contents')} a batch"
    few = int(j.host["n_generators"])
    scope = f"({j.host['style_generators']} styles); " if few < 3 else ""
    random = j.host["weights"] == "random"
    who = f"{j.networks} random initialisations of {j.host['name']}" if random else d.unit
    return Claim(
        hypothesis=d.hypothesis,
        family=d.family,
        claim=CLAIMS[d.hypothesis],
        sentence=f"{d.unit}: {found}; {n_words(j.host, j.networks)}, {batch}; {d.p_words}.{tail}",
        verdict=d.verdict,
        scope=f"{scope}for {who}; {n_words(j.host, j.networks)}; {batch}",
    )


def _effects(j: Judged) -> Iterator[dict[str, Any]]:
    d, n = j.decision, n_words(j.host, j.networks)
    for part in d.parts:
        yield effect_row(d, part, tap=f"{d.unit}: {part.tap}", n_units=n)


def _forest(verdicts: list[Judged]) -> pd.DataFrame:
    rows = [
        {
            "label": f"{j.decision.hypothesis} {p.rule.statistic}, {j.host['name']}"
            + (", VGG of output" if p.tap.startswith("VGG") else ""),
            "scale": "share between samples, or removed fraction",
            "estimate": p.estimate,
            "low": p.low,
            "high": p.high,
            "null": p.rule.null,
            "min_effect": p.rule.min_effect,
        }
        for j in verdicts
        for p in j.decision.parts
    ]
    return pd.DataFrame(rows)


def _gates(tables: Frames, plan: Plan) -> Iterator[Gate]:
    rule = plan.gates["bn_identity"]
    for host in _hosts(tables):
        error = identity(tables, int(host["host"]))
        if not np.isnan(error):
            yield Gate(
                name=f"BN identity, {host_name(host)}",
                rule=f"{rule.statistic}, at most {rule.high:g}; "
                f"{n_words(host, _networks(tables, host))}",
                value=error,
                passed=rule.passed(error),
                hypotheses=rule.hypotheses,
            )


def _figures(named: Mapping[str, pd.DataFrame], tables: Frames) -> tuple[Figure, ...]:
    n = _n(tables)
    plane = named.get("plane")
    common = "" if plane is None else str(plane["baseline"].iloc[0])
    found = [
        Figure(
            name="norm_panels",
            draw="norm_panels",
            table="panels",
            caption="Removed fraction of the variance of log sd, mean over the inputs of the next "
            "normaliser, each arm against its own frozen map; Psi below 0: style goes more "
            f"thoroughly than content. {n}. Bars: 95 % jackknife-t intervals over images, styles "
            "and, where there are several, networks; cut at the panel's edge.",
            alt="One row a normaliser, one panel a factor: removed fractions with intervals.",
        ),
        Figure(
            name="selectivity_plane",
            draw="selectivity_plane",
            table="plane",
            caption=f"Share of the variance of log sd that every arm keeps, against {common}; "
            "below the dashed line style is removed more than content; the cross marks no change. "
            f"{n}; 95 % intervals.",
            alt="Scatter of style kept against content kept, one mark a normaliser.",
        ),
        Figure(
            name="forest",
            draw="forest",
            table="forest",
            caption=f"H7a and H7b with their thresholds; {n}; 95 % intervals, unadjusted; verdicts "
            "use Holm-adjusted p-values.",
            alt="Forest plot of what batch normalisation leaves and removes.",
        ),
    ]
    return tuple(figure for figure in found if figure.table in named)


def _methods(tables: Frames, plan: Plan) -> tuple[str, ...]:
    contents = sorted({int(h["contents_per_batch"]) for h in _hosts(tables)} - {0})
    dropped = int(tables["components"]["dropped"].max())
    return (
        f"{_n(tables)}. Components with contrast fixed, traces over channels that are live under "
        f"every normaliser, condition and treatment ({dropped} dropped at most at one tap; "
        "100 eps is the floor where a layer adapts, 1e-10 where a fixed map stands). The "
        "statistic is the mean over taps and networks of V(after)/V(before); every interval is a "
        "delete-one jackknife over images, styles and networks with Satterthwaite degrees of "
        "freedom, on the log scale, by Fieller's inversion where under 3 standard errors are left "
        "of what was there.",
        "Before is the arm's own frozen map (prefix): a mean and an sd a channel for IN and BN, "
        "pooled as the layer pools for LN and GN, the matrix of the average covariance for "
        "whitening. No normaliser is an identity map in the same places.",
        "Batches of BN: mixed, every content in another style and level; content-homogeneous, one "
        "content; style-homogeneous, one style and level"
        + (f" ({' or '.join(map(str, contents))} contents). " if contents else ". ")
        + "omega: unbiased variance of channel means between two samples of such a batch over "
        "itself plus the mean variance within images, at the inputs of BN, mean over channels.",
        f"Holm over family {FAMILY} at its planned size: H6 keeps its slot "
        f"({', '.join(plan.families[FAMILY])}).",
    )


def _limitations(tables: Frames, plan: Plan) -> tuple[str, ...]:
    found = [
        "A normaliser is put into weights that were not trained with it: this compares maps at "
        "inference, not networks as they would be trained.",
        "Rows of BN in training mode depend on their batch. The jackknife leaves rows out after "
        "the pass, so its intervals are conditional on how batches were composed.",
        "With one batch a style the style means behind BN are zero in the sample, not only in "
        "expectation, so V_S may come out slightly negative there; it is kept so.",
    ]
    for host in _hosts(tables):
        if host["weights"] == "trained" and _networks(tables, host) == 1:
            found.append(f"One network: what is said of {host_name(host)} holds for it alone.")
        if int(host["styles"]) <= plan.minimum["caution_styles"]:
            found.append(
                f"Caution: {counted(host['styles'], 'styles')} ({host_name(host)}); "
                "intervals rest on few."
            )
    return tuple(dict.fromkeys(found))


def _without(tables: Frames, host: int, condition: str) -> list[str]:
    """Return the arms of a host that were run, but not under a condition."""
    rows = tables["kept"][tables["kept"]["host"] == host]
    arms = {
        name: {Arm(str(n), str(b)) for n, b in zip(own["norm"], own["batch_kind"], strict=True)}
        for name, own in rows.groupby("condition")
    }
    lacking = arms.get("original", set()) - arms.get(condition, set())
    able = (arm for arm in lacking if arm.norm not in ("none", FROZEN))
    return [arm.label for arm in sorted(able, key=lambda arm: arm.rank)]


def _left_out(tables: Frames, verdicts: list[Judged], plan: Plan) -> Iterator[str]:
    known = set(tables["kept"]["condition"])
    for condition in plan.primary["perp"]:
        if condition not in known:
            yield f"R_S_perp under {condition}: not extracted (--condition original,{condition})"
            continue
        for host in _hosts(tables):
            if arms := _without(tables, int(host["host"]), condition):
                yield (
                    f"R_S_perp under {condition} of {', '.join(arms)} ({host_name(host)}): these "
                    "were not run on matched inputs"
                )
    if not verdicts:
        yield "H7a, H7b: no network was run with BN in training mode on the planned inputs"
    for j in verdicts:
        if j.decision.reason:
            yield f"{j.decision.hypothesis} ({j.decision.unit}): {j.decision.reason}"
