"""Did the conditions do to the images what they are for?

M1: luminance equalisation removes the between-image variance of luminance mean and sd. M2: style
normalisation removes the between-image variance of VGG moments, more than equalisation and more
than the placebo. M3: every image is nearer to its own original than to another one. M4: how much
contrast style normalisation removes as well. Gates for H2 and H3, not hypotheses: no family.
Unit: the image (delete-one jackknife).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from statsnorm.decisions import Plan
from statsnorm.engines.tasks import TapMap
from statsnorm.removal import retrieval
from statsnorm.removal.outside import UNRECORDED, outside_sentence, outside_statistics
from statsnorm.removal.ratios import Ratio, ratio
from statsnorm.removal.traces import trace_variance, without_zeros
from statsnorm.removal.words import percent
from statsnorm.report.model import Figure, Gate, Report
from statsnorm.stats.effects import clopper_pearson
from statsnorm.stats.scale_free import live_channels, scale_free
from statsnorm.wording import counted

Array = NDArray[np.float64]

ORIGINAL, CONTRAST, STYLE, KEPT = "original", "contrast", "style", "ck"
PLACEBO, MATCHED = "placebo", "placebo-matched"
VGG_TAPS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
LUMINANCE = ("pixels", "luminance")
CONFIDENCE = 0.95
LEAST_IMAGES = 3
RIVALS = (CONTRAST, PLACEBO)

Reduce = Callable[["ConditionTables", str, str], Iterator[dict[str, Any]]]


class ConditionTables(TapMap, Protocol):
    """What this analysis needs of the tables."""

    def keys(self) -> pd.DataFrame:
        """Return the distinct key combinations."""

    def moments(self, **where: Any) -> Any:
        """Return (keys, mean, var) of the selected rows."""

    def content(self) -> pd.DataFrame:
        """Return the feature distances to the originals."""

    def outside(self) -> pd.DataFrame:
        """Return the shares of input values outside [0, 1]."""


def summarise(tables: ConditionTables) -> dict[str, pd.DataFrame]:
    """Return traces of between-image variance, content distances, same-image retrieval."""
    keys = tables.keys()
    plain = keys[(keys["style"] == "") & (keys["contrast"] == "") & (keys["source"] == "input")]
    plain = plain[(plain["treatment"] == "none") & (plain["iteration"] != 0)]
    places: list[tuple[Reduce, str, str]] = []
    for (network, tap), mine in plain.groupby(["network", "tap"], sort=True):
        vgg = str(network)[:3] == "vgg"
        wanted = (network, tap) == LUMINANCE or (vgg and tap in VGG_TAPS)
        if wanted and ORIGINAL in set(mine["condition"]) and len(set(mine["condition"])) > 1:
            places.append((_traces, str(network), str(tap)))
        if vgg and tap == retrieval.TAP:
            places.append((_retrieved, str(network), str(tap)))
    found = tables.map_taps(_of_tap, places)
    frames: dict[str, pd.DataFrame] = {}
    for name, reduce in (("traces", _traces), ("retrieval", _retrieved)):
        of_taps = [rows for place, rows in zip(places, found, strict=True) if place[0] is reduce]
        if records := [row for rows in of_taps for row in rows]:
            frames[name] = pd.DataFrame(records)
    content = tables.content()
    if len(content):
        frames["content"] = _content(content)
    cells = tables.outside()
    if len(cells):
        bare = (cells["style"] == "") & (cells["contrast"] == "")
        frames["outside"] = outside_statistics(cells[bare])
    return frames


def _of_tap(tables: ConditionTables, place: tuple[Reduce, str, str]) -> list[dict[str, Any]]:
    reduce, network, tap = place
    return list(reduce(tables, network, tap))


def _traces(tables: ConditionTables, network: str, tap: str) -> Iterator[dict[str, Any]]:
    plain = {"style": "", "contrast": "", "source": "input", "treatment": "none"}
    keys, mean, var = tables.moments(network=network, tap=tap, **plain)
    groups = {c: g.sort_values("image") for c, g in keys.groupby("condition", sort=True)}
    images = sorted(set.intersection(*(set(g["image"]) for g in groups.values())))
    if len(images) < LEAST_IMAGES:
        return
    at = {c: g[g["image"].isin(images)].index.to_numpy() for c, g in groups.items()}
    live = live_channels([var[rows] for rows in at.values()])
    reference = var[at[ORIGINAL]][:, live]
    lifted = without_zeros(var)
    for condition, rows in at.items():
        if network == LUMINANCE[0]:
            values = {"mean and sd": np.hstack([mean[rows], np.sqrt(var[rows])])}
        else:
            # one network, so one scale for all conditions: that of the originals
            m, v = scale_free(mean[rows][:, live], lifted[rows][:, live], reference=reference)
            values = {"m": m, "v": v}
        for moment, x in values.items():
            yield {
                "network": network,
                "tap": tap,
                "condition": condition,
                "moment": moment,
                "images": len(images),
                "channels": x.shape[1],
                "values": trace_variance(np.asarray(x, np.float64)),
            }


def _retrieved(tables: ConditionTables, network: str, tap: str) -> Iterator[dict[str, Any]]:
    """Yield, for each condition, the share of images nearest to their own original."""
    plain = {"style": "", "contrast": "", "source": "input", "treatment": "none"}
    keys, mean, var = tables.moments(network=network, tap=tap, **plain)
    groups = {str(c): g.sort_values("image") for c, g in keys.groupby("condition", sort=True)}
    images = sorted(set.intersection(*(set(g["image"]) for g in groups.values())))
    if ORIGINAL not in groups or len(images) < LEAST_IMAGES:
        return
    at = {c: g[g["image"].isin(images)].index.to_numpy() for c, g in groups.items()}
    live = live_channels([var[rows] for rows in at.values()])
    reference = var[at[ORIGINAL]][:, live]
    rows = {
        c: retrieval.moment_rows(mean[r][:, live], var[r][:, live], reference=reference)
        for c, r in at.items()
    }
    for condition in sorted(set(rows) - {ORIGINAL}):
        found = retrieval.share(retrieval.rivals(rows[condition], rows[ORIGINAL]))
        yield {
            "network": network,
            "tap": tap,
            "condition": condition,
            **found,
        }


def _content(content: pd.DataFrame) -> pd.DataFrame:
    known = content[content["random_distance"].notna() & (content["condition"] != ORIGINAL)]
    nearer = known["distance"] < known["random_distance"]
    grouped = known.assign(nearer=nearer).groupby(["network", "tap", "condition"], sort=True)
    return grouped.agg(
        nearer=("nearer", "sum"),
        images=("image", "size"),
        distance=("distance", "mean"),
        random_distance=("random_distance", "mean"),
    ).reset_index()


def run(tables: Mapping[str, pd.DataFrame], plan: Plan, rng: np.random.Generator) -> Report:  # noqa: ARG001
    """Compute M1-M4 and judge the gates of the plan."""
    traces = tables.get("traces", pd.DataFrame())
    removed = _removed(traces)
    content = _nearer(tables.get("content", pd.DataFrame()))
    gates = [*_gates(removed, traces, plan), *_content_gate(content, plan)]
    again = tables.get("retrieval", pd.DataFrame())
    beyond = tables.get("outside", pd.DataFrame())
    unrecorded = [UNRECORDED] if len(traces) and not len(beyond) else []
    named = {"removed": removed, "content": content, "retrieval": again, "outside": beyond}
    named["dots"] = _dots(removed)
    figures = (
        Figure(
            name="removed",
            draw="dots",
            table="dots",
            options={"xlabel": "removed share of between-image variance", "threshold": 0.0},
            caption=f"Between-image variance that each condition removes; {_images(traces)}; 95 % "
            "delete-one-image jackknife intervals. VGG: mean over relu1_1, relu2_1, relu3_1, "
            "relu4_1.",
            alt="Removed share of variance by condition for luminance and VGG moments.",
        ),
    )
    return Report(
        name="manipulation",
        title="Manipulation checks",
        question=(__doc__ or "").strip(),
        findings=(*_findings(removed, content), *_again(again), *outside_sentence(beyond)),
        tables={name: table for name, table in named.items() if len(table)},
        figures=figures if len(removed) else (),
        gates=tuple(gates),
        scope={"manipulation checks": _images(traces)} if len(traces) else {},
        methods=(
            "Between-image variances with divisor n - 1; m in units of the originals' average "
            "within-image sd, v = log sd. Ratios of traces on the log scale, delete-one-image "
            "jackknife. M3: exact binomial interval.",
        ),
        left_out=(*_missing(removed, content), *unrecorded),
        appendix=("dots", "outside"),
    )


def _removed(traces: pd.DataFrame) -> pd.DataFrame:
    """Return the removed share per condition: luminance, each VGG tap, and the mean of taps."""
    if not len(traces):
        return pd.DataFrame(columns=["condition", "quantity", "moment", "estimate", "low", "high"])
    rows = []
    for (network, moment), mine in traces.groupby(["network", "moment"], sort=True):
        taps = list(dict.fromkeys(mine["tap"]))
        places = {tap: [tap] for tap in taps} | ({"mean of taps": taps} if len(taps) > 1 else {})
        for condition in sorted(set(mine["condition"]) - {ORIGINAL}):
            for place, chosen in places.items():
                kept = _kept(mine, chosen, condition)
                if kept is not None:
                    r = kept.removed()
                    rows.append(
                        {
                            "condition": condition,
                            "network": network,
                            "quantity": place,
                            "moment": moment,
                            "estimate": r.estimate,
                            "low": r.low,
                            "high": r.high,
                        }
                    )
    return pd.DataFrame(rows)


def _kept(rows: pd.DataFrame, taps: list[str], condition: str) -> Ratio | None:
    values = {
        (t, c): np.asarray(v, float)
        for t, c, v in zip(rows["tap"], rows["condition"], rows["values"], strict=True)
    }
    if any((tap, condition) not in values for tap in taps):
        return None
    top, bottom = (np.array([values[tap, c] for tap in taps]) for c in (condition, ORIGINAL))
    return ratio(top, bottom, (top.shape[1] - 1,), confidence=CONFIDENCE)


def _nearer(content: pd.DataFrame) -> pd.DataFrame:
    if not len(content):
        return content
    found = [
        clopper_pearson(int(k), int(n), confidence=CONFIDENCE)
        for k, n in zip(content["nearer"], content["images"], strict=True)
    ]
    return content.assign(
        share=[f.estimate for f in found], low=[f.low for f in found], high=[f.high for f in found]
    )


def value(removed: pd.DataFrame, condition: str, moment: str) -> float:
    """Return one removed share: luminance, or the mean over VGG taps; nan if absent."""
    place = LUMINANCE[1] if moment == "mean and sd" else "mean of taps"
    at = (removed["condition"] == condition) & (removed["moment"] == moment)
    rows = removed[at & (removed["quantity"] == place)]
    return float(rows["estimate"].iloc[0]) if len(rows) else math.nan


def _counted(traces: pd.DataFrame, pixels: bool) -> str:
    """Return "24 images: ", the images behind the pixel or the VGG traces."""
    counts = traces.loc[(traces["network"] == LUMINANCE[0]) == pixels, "images"]
    return f"{counted(int(counts.min()), 'images')}: "


def _gates(removed: pd.DataFrame, traces: pd.DataFrame, plan: Plan) -> Iterator[Gate]:
    m1 = value(removed, CONTRAST, "mean and sd")
    if not math.isnan(m1):
        rule = plan.gates["M1"]
        words = f"{_counted(traces, pixels=True)}{rule.statistic} >= {rule.low:g}"
        yield Gate(
            name="M1", rule=words, value=m1, passed=rule.passed(m1), hypotheses=rule.hypotheses
        )
    styled = [value(removed, STYLE, moment) for moment in ("m", "v")]
    if not any(map(math.isnan, styled)):
        rule = plan.gates["M2"]
        measured = [c for c in RIVALS if not math.isnan(value(removed, c, "v"))]
        rivals = [
            value(removed, c, m) < s
            for c in measured
            for m, s in zip(("m", "v"), styled, strict=True)
        ]
        more = f", and more than {' and '.join(measured)}" if measured else ""
        yield Gate(
            name="M2",
            rule=f"{_counted(traces, pixels=False)}{rule.statistic} >= {rule.low:g} for m and v"
            f"{more}",
            value=min(styled),
            passed=rule.passed(min(styled)) and all(rivals),
            hypotheses=rule.hypotheses,
        )
    kept = [1 - value(removed, MATCHED, moment) for moment in ("m", "v")]
    if not any(map(math.isnan, kept)):
        rule = plan.gates["pstar_matched"]
        mean = float(np.mean(kept))
        yield Gate(
            name="pstar_matched",
            rule=f"{_counted(traces, pixels=False)}{rule.statistic} in "
            f"[{rule.low:g}, {rule.high:g}]",
            value=mean,
            passed=rule.passed(mean),
            hypotheses=rule.hypotheses,
        )


def _content_gate(content: pd.DataFrame, plan: Plan) -> Iterator[Gate]:
    mine = content[content["condition"] == STYLE] if len(content) else content
    if len(mine):
        rule, share = plan.gates["M3"], float(mine["share"].min())
        n = int(mine["images"].min())
        yield Gate(
            name="M3",
            rule=f"{counted(n, 'images')}: {rule.statistic} >= {rule.low:g}",
            value=share,
            passed=rule.passed(share),
            hypotheses=rule.hypotheses,
        )


def _dots(removed: pd.DataFrame) -> pd.DataFrame:
    rows = removed[removed["quantity"].isin([LUMINANCE[1], "mean of taps"])]
    names = {"mean and sd": "luminance mean and sd", "m": "VGG m", "v": "VGG v"}
    return rows.assign(label=rows["condition"], group=rows["moment"].map(names))[
        ["label", "group", "estimate", "low", "high"]
    ].reset_index(drop=True)


def _findings(removed: pd.DataFrame, content: pd.DataFrame) -> Iterator[str]:
    for condition in dict.fromkeys(removed["condition"]):
        parts = [
            f"{percent(value(removed, condition, moment))} % of {name}"
            for moment, name in (
                ("mean and sd", "luminance mean and sd"),
                ("m", "VGG m"),
                ("v", "VGG v"),
            )
            if not math.isnan(value(removed, condition, moment))
        ]
        if parts:
            yield (
                f"Condition {condition} removes {', '.join(parts)} (between-image variance; a "
                "negative share is added variance)."
            )
    m4 = value(removed, STYLE, "mean and sd")
    if not math.isnan(m4):
        ck = value(removed, KEPT, "mean and sd")
        kept = "" if math.isnan(ck) else f"; with contrast kept (ck) {percent(ck)} %"
        yield f"M4: style normalisation removes {percent(m4)} % of M1's quantity as well{kept}."
    for row in content.to_dict("records"):
        ends = f"{percent(row['low'])} to {percent(row['high'])} %"
        yield (
            f"M3, {row['condition']}: {row['nearer']} of {row['images']} images are nearer to "
            f"their own original at {row['tap']} ({ends})."
        )


def _again(table: pd.DataFrame) -> Iterator[str]:
    for row in table.to_dict("records"):
        share = retrieval.words(row)
        yield (
            f"Same-image retrieval, {row['condition']}: {share} of {row['images']} images are "
            f"nearest to their own original among all by the moments of {row['tap']}."
        )


def _missing(removed: pd.DataFrame, content: pd.DataFrame) -> Iterator[str]:
    if math.isnan(value(removed, CONTRAST, "mean and sd")):
        yield "M1: needs network pixels under original and contrast"
    if math.isnan(value(removed, STYLE, "v")):
        yield "M2: needs a VGG at relu1_1 to relu4_1 under original and style"
    else:
        for rival in RIVALS:
            if math.isnan(value(removed, rival, "v")):
                yield f"M2: not compared with {rival}, which was not measured"
    if not len(content):
        yield "M3: needs a VGG with relu4_2 on plain conditions"


def _images(traces: pd.DataFrame) -> str:
    if not len(traces):
        return "no images"
    low, high = int(traces["images"].min()), int(traces["images"].max())
    return counted(low, "images") if low == high else f"{low} to {counted(high, 'images')}"
