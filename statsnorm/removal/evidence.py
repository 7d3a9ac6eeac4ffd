"""Evidence for H5a-d: the parts of each claim, at both primary statistics.

The comparison with untrained networks: the trained value against the distribution of random
initialisations. The standard error joins the trained network's jackknife (images and styles) with
the prediction error of one further initialisation, s^2 (1 + 1/n); degrees of freedom by
Satterthwaite. So "beyond the untrained interval" means that a new random network would not be
expected there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from statsnorm.decisions import Candidate, Part, Plan
from statsnorm.removal.parts import interval_part, log_part, removed_part
from statsnorm.removal.ratios import Interval, Ratio, interval, t_quantile
from statsnorm.removal.study import (
    CONFIDENCE,
    Study,
    Tap,
    kept_ratio,
    log_selectivity,
    primary_places,
    untrained_ratios,
)
from statsnorm.wording import counted

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Untrained networks: their mean and the prediction interval of a further one."""

    mean: float
    low: float
    high: float
    sd: float
    n: int


def spread(values: Sequence[float] | Array) -> Spread:
    """Return the t prediction interval over networks, mean -/+ t sd sqrt(1 + 1/n)."""
    x = np.asarray(values, dtype=np.float64)
    n = len(x)
    if n < 2:
        mean = float(x[0]) if n else math.nan
        return Spread(mean=mean, low=math.nan, high=math.nan, sd=math.nan, n=n)
    mean, sd = float(x.mean()), float(x.std(ddof=1))
    half = t_quantile(CONFIDENCE, n - 1) * sd * math.sqrt(1 + 1 / n)
    return Spread(mean=mean, low=mean - half, high=mean + half, sd=sd, n=n)


def removed_spread(kept: Sequence[float] | Array) -> Spread:
    """Return the mean of R = 1 - kept, with its prediction interval made on the log scale of kept.

    So no end passes 1, as that of :func:`spread` may where nearly all is removed. Where some
    network keeps nothing (kept <= 0) there is no log, and the interval is that of R itself.
    """
    x = np.asarray(kept, dtype=np.float64)
    plain = spread(1 - x)
    if plain.n < 2 or not (x > 0).all():
        return plain
    logs = spread(np.log(x))
    return replace(plain, low=1 - math.exp(logs.high), high=1 - math.exp(logs.low))


def mean_interval(x: Spread) -> tuple[float, float, float]:
    """Return the mean over networks with its t interval, mean -/+ t sd / sqrt(n)."""
    if x.n < 2:
        return x.mean, math.nan, math.nan
    half = t_quantile(CONFIDENCE, x.n - 1) * x.sd / math.sqrt(x.n)
    return x.mean, x.mean - half, x.mean + half


def against_untrained(
    trained: Interval, untrained: Spread, *, population: bool = False
) -> Interval:
    """Return trained - untrained with the prediction error of a further random network.

    Of a `population` of trained networks: with the standard error of the untrained mean.
    """
    further = 0 if population else 1
    new = untrained.sd**2 * (further + 1 / untrained.n) if untrained.n > 1 else math.nan
    variance = trained.se**2 + new
    estimate = trained.estimate - untrained.mean
    if not math.isfinite(variance) or not math.isfinite(estimate):
        nothing = {"low": math.nan, "high": math.nan, "se": math.nan, "dof": math.nan}
        return Interval(estimate=estimate, **nothing)
    sampling = trained.se**4 / trained.dof if trained.se > 0 else 0.0
    dof = variance**2 / (sampling + new**2 / (untrained.n - 1)) if variance > 0 else 1.0
    half = t_quantile(CONFIDENCE, dof) * math.sqrt(variance)
    se = math.sqrt(variance)
    return Interval(estimate=estimate, low=estimate - half, high=estimate + half, se=se, dof=dof)


def kept_by_norm(
    study: Study, taps: Sequence[Tap], component: str, plan: Plan, generators: str = "all"
) -> Ratio | None:
    """Return the primary kept ratio: intact over frozen prefix, primary moment."""
    return kept_ratio(
        study,
        taps,
        component,
        moment=plan.primary["moment"],
        before=("original", plan.primary["before"]),
        after=("original", "none"),
        generators=generators,
    )


def untrained_removed(study: Study, taps: Sequence[Tap], component: str, plan: Plan) -> Array:
    """Return R of every untrained network under the primary choices."""
    moment, before = plan.primary["moment"], plan.primary["before"]
    return np.asarray(1 - untrained_ratios(study, taps, component, moment=moment, before=before))


def untrained_psi(study: Study, taps: Sequence[Tap], plan: Plan, below: str = "content") -> Array:
    """Return Psi of every untrained network (Theta with below="contrast")."""
    moment, before = plan.primary["moment"], plan.primary["before"]
    s, other = (
        untrained_ratios(study, taps, c, moment=moment, before=before) for c in ("style", below)
    )
    if len(s) != len(other):
        return np.array([])
    good = (s > 0) & (other > 0)
    return np.asarray(np.log(s[good] / other[good]))


def candidates(study: Study, plan: Plan, generators: str = "all") -> list[Candidate]:
    """Return H5a-d of one study before multiplicity; for one style generator without H5b, H5c."""
    found: dict[str, list[Part]] = {name: [] for name in plan.families["F2"]}
    remainders, groups = [], study.groups
    for name, taps in primary_places(study, plan).items():
        style = kept_by_norm(study, taps, "style", plan, generators)
        content = kept_by_norm(study, taps, "content", plan, generators)
        if style is None or content is None:
            continue
        groups = (style.groups[-2], style.groups[-1])
        found["H5a"].append(removed_part(plan.rule("H5a", "removed"), style, name))
        others = spread(untrained_removed(study, taps, "style", plan))
        if others.n > 1:
            diff = against_untrained(style.removed(), others, population=bool(study.members))
            part = interval_part(plan.rule("H5a", "learned"), diff, name)
            found["H5a"].append(replace(part, note=left_out(others.n, study)))
        psi = log_selectivity(style, content)
        assert psi is not None
        found["H5d"].append(log_part(plan.rule("H5d", "selective"), psi, name))
        others = spread(untrained_psi(study, taps, plan))
        if others.n > 1:
            diff = against_untrained(psi.log(), others, population=bool(study.members))
            part = interval_part(plan.rule("H5d", "learned"), diff, name)
            found["H5d"].append(replace(part, note=left_out(others.n, study)))
        if min(1 - style.estimate, 1 - content.estimate) > plan.primary["remainder"]:
            remainders.append(name)
        if generators == "all":
            found["H5b"] += beyond_pixels(study, name, taps, plan)
            found["H5c"] += perpendicular(study, name, taps, plan)
    return [
        Candidate(
            hypothesis=name,
            unit=study.label,
            parts=tuple(parts),
            not_testable=_not_testable(study, plan, name, parts, groups),
            not_interpretable=remainder_words(remainders, plan) if name == "H5d" else "",
        )
        for name, parts in found.items()
    ]


def left_out(used: int, study: Study) -> str:
    """Return "", or how many untrained networks have no positive ratio."""
    total = len(study.untrained)
    if used == total:
        return ""
    return (
        f"{total - used} of {counted(total, 'untrained networks')} left out: no positive "
        "ratio there"
    )


def pixel_rows(study: Study, taps: Sequence[Tap], plan: Plan) -> dict[str, tuple[Ratio, Interval]]:
    """Return, for each pixel treatment, what it keeps of V_S and R_S - R_S(pixel)."""
    moment, before = plan.primary["moment"], plan.primary["before"]
    style = kept_by_norm(study, taps, "style", plan)
    found = {}
    for condition in plan.primary["pixel"]:
        kept = kept_ratio(
            study,
            taps,
            "style",
            moment=moment,
            before=("original", before),
            after=(condition, before),
        )
        if kept is not None and style is not None:
            gain = interval(kept.replicates - style.replicates, kept.groups, confidence=CONFIDENCE)
            found[condition] = (kept, gain)
    return found


def beyond_pixels(study: Study, name: str, taps: Sequence[Tap], plan: Plan) -> list[Part]:
    """Return H5b's part: the least gain over any pixel treatment, with the largest p of all.

    Estimate and interval are those of the best treatment. The note names the treatment with the
    largest p, and has the largest p on the log scale of what is kept, a sensitivity analysis.
    """
    rule = plan.rule("H5b", "beyond_pixels")
    rows = pixel_rows(study, taps, plan)
    if set(rows) != set(plan.primary["pixel"]):
        return []
    parts = {c: interval_part(rule, gain, f"{name}, {c}") for c, (_, gain) in rows.items()}
    best = min(parts.values(), key=lambda p: (p.estimate, p.tap))
    hardest = max(parts, key=lambda c: parts[c].p_support)
    largest = parts[hardest].p_support
    return [
        Part(
            rule=rule,
            estimate=best.estimate,
            low=best.low,
            high=best.high,
            pvalue=largest if rule.beyond(best.estimate, rule.null) else best.pvalue,
            p_min_effect=best.p_min_effect,
            tap=best.tap,
            se=best.se,
            dof=best.dof,
            note=f"largest p over the {len(parts)} treatments: {hardest}, {largest:.2g}"
            + _on_log_scale(study, taps, rows, plan),
        )
    ]


def _on_log_scale(
    study: Study, taps: Sequence[Tap], rows: dict[str, tuple[Ratio, Interval]], plan: Plan
) -> str:
    """Return the largest p that a pixel treatment keeps no more than the normaliser, in logs."""
    style = kept_by_norm(study, taps, "style", plan)
    logs = {c: log_selectivity(style, kept) for c, (kept, _) in rows.items()}
    ps = {c: x.pvalue(1.0) if x.estimate < 1 else 1.0 for c, x in logs.items() if x is not None}
    known = {c: p for c, p in ps.items() if not math.isnan(p)}
    if not known:
        return ""
    hardest = max(known, key=lambda c: known[c])
    return f"; sensitivity, log scale of what is kept: {hardest}, {known[hardest]:.2g}"


def perpendicular(study: Study, name: str, taps: Sequence[Tap], plan: Plan) -> list[Part]:
    """Return H5c's parts: R_S of styles that share one luminance histogram, or RGB moments."""
    rule = plan.rule("H5c", "perpendicular")
    parts = []
    for condition in plan.primary["perp"]:
        kept = perp_ratio(study, taps, condition, plan)
        if kept is None:
            return []
        parts.append(removed_part(rule, kept, f"{name}, {condition}"))
    return parts


def perp_ratio(study: Study, taps: Sequence[Tap], condition: str, plan: Plan) -> Ratio | None:
    """Return what the normaliser keeps of V_S among inputs under a matching condition."""
    return kept_ratio(
        study,
        taps,
        "style",
        moment=plan.primary["moment"],
        before=(condition, plan.primary["before"]),
        after=(condition, "none"),
    )


def _not_testable(
    study: Study, plan: Plan, hypothesis: str, parts: Sequence[Part], groups: tuple[int, int]
) -> str:
    images, styles = groups
    least = plan.minimum
    short = [
        f"{n} {name} < {least[name]}"
        for name, n in (("images", images), ("styles", styles), ("levels", study.levels))
        if n < least[name]
    ]
    if study.members and len(study.members) < least["blocks"]:
        short.append(f"{counted(len(study.members), 'trained networks')} < {least['blocks']}")
    if hypothesis in ("H5a", "H5d") and len(study.untrained) < least["untrained"]:
        short.append(
            f"{counted(len(study.untrained), 'untrained networks')} < {least['untrained']}"
        )
    measured = {part.tap.split(",")[0] for part in parts}
    lacking = [place for place in primary_places(study, plan) if place not in measured]
    if lacking:
        needs = {"H5b": plan.primary["pixel"], "H5c": plan.primary["perp"]}.get(hypothesis, [])
        conditions = f" under all of {', '.join(needs)}" if needs else ""
        short.append(f"not measured at {' and '.join(lacking)}{conditions}")
    return "; ".join(short)


def remainder_words(places: Sequence[str], plan: Plan) -> str:
    """Return why Psi says nothing where nearly all of both variances went, or ""."""
    if not places:
        return ""
    limit = plan.primary["remainder"]
    return f"R_S and R_I both above {limit:g} at {' and '.join(places)}: a ratio of remainders"
