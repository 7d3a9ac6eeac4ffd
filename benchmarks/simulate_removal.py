"""Simulations of variance components and removed fractions (method.md 8.2, 1-3 and 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from simulate import AXES, Values, arms, inside, law, rejects, repeated, true_components

from statsnorm import stats
from statsnorm.decisions import Rule
from statsnorm.removal import ratios
from statsnorm.removal.evidence import against_untrained, spread
from statsnorm.removal.indexed import share_interval
from statsnorm.removal.parts import interval_part, inverse_log_part, share_part
from statsnorm.stats.inputs import Array

NOTHING = {"style": 0.0, "content": 0.0, "contrast": 0.0}
HALF = {"style": 0.5, "content": 0.3, "contrast": 0.3}
PLANTED = {"style": 0.8, "content": 0.3, "contrast": 1.0}
LEVELS = 3
TAPS = 4  # groups of channels, correlated like the taps of one network
BATCH = 25  # designs side by side on the channel axis
FEW = 8  # the same, where cells are missing
UNTRAINED = (0.4, 0.05, 8)  # mean and sd of log(1 - R) over random networks, their number
CONFIDENCE = 0.95

Pair = list[dict[str, Array]]


@dataclass(frozen=True, slots=True)
class Ends:
    """An interval without its estimate."""

    low: float
    high: float


# ------------------------------------------------------------------ components


def unbiased(rng: np.random.Generator, replicates: int, *, source: str, contrast: str) -> Values:
    """Return estimate - truth of all seven components, I = 12, S = 6, K = 4."""
    truth = true_components(law(source), 4, contrast)
    found: dict[str, list[Array]] = {factor: [] for factor in AXES}
    for first in range(0, replicates, BATCH):
        batch = min(BATCH, replicates - first)
        (y,) = arms(law(source), rng, (12, 6, 4), contrast=contrast, batch=batch)
        parts = stats.crossed_components(y, contrast=contrast)
        for factor, errors in found.items():
            traces = getattr(parts, factor).reshape(batch, -1).mean(axis=1)
            errors.append(traces - truth[factor])
    return {factor: np.concatenate(errors) for factor, errors in found.items()}


def ustatistic(rng: np.random.Generator, replicates: int) -> Values:
    """Return the largest difference of the two estimators on balanced data."""

    def once(rng: np.random.Generator) -> dict[str, float]:
        (y,) = arms(law("gaussian"), rng, (10, 6, LEVELS), channels=8)
        a, b = stats.crossed_components(y), stats.ustatistic_components(y)
        gaps = [np.abs(getattr(a, f) - getattr(b, f)).max() for f in AXES]
        return {"U-statistic - mean squares": float(max(gaps))}

    return repeated(once, rng, replicates)


def missing_components(rng: np.random.Generator, replicates: int, *, source: str) -> Values:
    """Return estimate - truth with a tenth of the cells missing at random."""
    truth = true_components(law(source), LEVELS, "fixed")

    def once(rng: np.random.Generator) -> dict[str, float]:
        (y,) = arms(law(source), rng, (12, 8, LEVELS))
        y[rng.random(y.shape[:3]) < 0.1] = np.nan
        found = stats.ustatistic_components(y)
        return {f: float(getattr(found, f).mean()) - truth[f] for f in ("style", "content")}

    return repeated(once, rng, replicates)


# ------------------------------------------------------------------ intervals of what is removed


def removal(
    rng: np.random.Generator,
    replicates: int,
    *,
    source: str,
    images: int,
    styles: int,
    removed: Mapping[str, float],
) -> Values:
    """Return whether the intervals of one pair of designs cover: R, Psi, Theta, shares.

    The replicates are made once a design; `removed_fraction` and `selectivity` are the same
    steps (tests/test_calibrate.py compares them).
    """
    groups = (images, styles)
    truth = true_components(law(source), LEVELS, "fixed")

    def once(rng: np.random.Generator) -> dict[str, float]:
        pair = arms(law(source), rng, (images, styles, LEVELS), removed)
        traces = [stats.trace_replicates(stats.design_replicates(y)) for y in pair]
        return {
            **_fractions(traces, groups, removed),
            **_selectivities(traces, groups, removed),
            **_compositions(traces[0], groups, truth),
        }

    return repeated(once, rng, replicates)


def _fractions(
    traces: Pair, groups: tuple[int, int], removed: Mapping[str, float]
) -> dict[str, float]:
    before, after = traces
    row = {}
    for factor, r in {**removed, "style_given_content": removed["style"]}.items():
        found = stats.removed_from_replicates(before[factor], after[factor], *groups)
        row[f"R {factor}"] = inside(found, r)
        kept = ratios.ratio(after[factor], before[factor], groups, confidence=CONFIDENCE)
        row[f"R {factor}, in reports"] = inside(kept.removed(), r)
    return row


def _selectivities(
    traces: Pair, groups: tuple[int, int], removed: Mapping[str, float]
) -> dict[str, float]:
    before, after = traces
    row = {}
    for name, factor in (("Psi", "content"), ("Theta", "contrast")):
        if max(removed[factor], removed["style"]) >= 1:
            continue
        truth = np.log((1 - removed["style"]) / (1 - removed[factor]))
        four = (before["style"], after["style"], before[factor], after[factor])
        row[name] = inside(stats.selectivity_from_replicates(*four, *groups), truth)
        kept = [
            ratios.ratio(after[f], before[f], groups, confidence=CONFIDENCE)
            for f in ("style", factor)
        ]
        both = ratios.ratio_of_ratios(kept[0], kept[1], confidence=CONFIDENCE)
        row[f"{name}, in reports"] = inside(both.log(), truth)
    return row


def _compositions(
    parts: dict[str, Array], groups: tuple[int, int], truth: Mapping[str, float]
) -> dict[str, float]:
    """Return the coverage of a component, its share omega^2, and V_S / (V_S + V_I)."""
    base = {name: parts[name] for name in AXES}
    share = truth["style"] / sum(truth.values())
    icc = parts["style"] / (parts["style"] + parts["content"])
    right = truth["style"] / (truth["style"] + truth["content"])
    logs = stats.jackknife_replicates(np.log(parts["style"]), *groups, tails="heavy")
    return {
        "log V_S": inside(logs, np.log(truth["style"])),
        "share of style": inside(share_interval(base, "style", groups), share),
        "ICC of style": inside(
            ratios.interval(icc, groups, confidence=CONFIDENCE, tails="heavy"), right
        ),
    }


def few_dimensions(
    rng: np.random.Generator, replicates: int, *, source: str, images: int, styles: int
) -> Values:
    """Return coverage, and how often an end is missing, where style has few latent dimensions."""
    groups = (images, styles)

    def once(rng: np.random.Generator) -> dict[str, float]:
        pair = arms(law(source), rng, (images, styles, LEVELS), HALF)
        traces = [stats.trace_replicates(stats.design_replicates(y)) for y in pair]
        before, after = (t["style"] for t in traces)
        found = stats.removed_from_replicates(before, after, *groups)
        report = ratios.ratio(after, before, groups, confidence=CONFIDENCE).removed()
        return {
            "R style": inside(found, HALF["style"]),
            "R style, in reports": inside(report, HALF["style"]),
            "R style without an end": float(not np.isfinite([found.low, found.high]).all()),
            "R style without an end, in reports": float(
                not np.isfinite([report.low, report.high]).all()
            ),
        }

    return repeated(once, rng, replicates)


def recovery(
    rng: np.random.Generator, replicates: int, *, source: str, images: int, styles: int
) -> Values:
    """Return estimate - truth of planted removed fractions."""

    def once(rng: np.random.Generator) -> dict[str, float]:
        pair = arms(law(source), rng, (images, styles, LEVELS), PLANTED)
        parts = [stats.crossed_components(y) for y in pair]
        v = [{f: float(getattr(p, f).mean()) for f in PLANTED} for p in parts]
        return {f"R {f}": 1 - v[1][f] / v[0][f] - r for f, r in PLANTED.items()}

    return repeated(once, rng, replicates)


def fieller(
    rng: np.random.Generator, replicates: int, *, source: str, styles: int, style: float
) -> Values:
    """Return whether Fieller's interval of a nearly complete removal covers."""
    removed = {**HALF, "style": style}

    def once(rng: np.random.Generator) -> dict[str, float]:
        pair = arms(law(source), rng, (40, styles, LEVELS), removed)
        found = stats.removed_fraction(*pair, factor="style", interval="fieller")
        return {"R style, Fieller": inside(found, style)}

    return repeated(once, rng, replicates)


def comparisons(
    rng: np.random.Generator, replicates: int, *, source: str, images: int, styles: int
) -> Values:
    """Return the coverage of differences between treatments, and of taps taken together."""
    groups = (images, styles)
    pixels = {**HALF, "style": 0.2}

    def once(rng: np.random.Generator) -> dict[str, float]:
        designs = arms(law(source), rng, (images, styles, LEVELS), HALF, pixels)
        v = [stats.design_replicates(y)["style"] for y in designs]
        before, after, other = (x.mean(axis=1) for x in v)
        gap = stats.removed_difference_from_replicates(before, after, before, other, *groups)
        taps = [x.reshape(len(x), TAPS, -1).mean(axis=2) for x in v]
        return {
            "R - R of another treatment": inside(gap, 0.3),
            "R - R of untrained networks": _beyond_untrained(rng, after, before, groups),
            **_taps(taps[0], taps[1], groups),
        }

    return repeated(once, rng, replicates)


def _beyond_untrained(
    rng: np.random.Generator, after: Array, before: Array, groups: tuple[int, int]
) -> float:
    """Return whether the trained network minus a further random one is covered."""
    mean, sd, count = UNTRAINED
    others = 1 - mean * np.exp(sd * rng.normal(size=count + 1))
    trained = ratios.ratio(after, before, groups, confidence=CONFIDENCE).removed()
    found = against_untrained(trained, spread(others[1:]))
    return inside(found, HALF["style"] - others[0])


def _taps(before: Array, after: Array, groups: tuple[int, int]) -> dict[str, float]:
    """Return the coverage of means over taps, and of all taps at once."""
    truth = HALF["style"]
    mean = stats.mean_removed_from_replicates(before, after, *groups)
    kept = ratios.ratio(after.T, before.T, groups, confidence=CONFIDENCE)
    logs = np.log(after / before)
    joint = stats.simultaneous_intervals(logs, *groups)
    covered = (joint.low <= np.log(1 - truth)) & (np.log(1 - truth) <= joint.high)
    return {
        "R, mean over taps": inside(mean, truth),
        "R, mean over taps, in reports": inside(kept.removed(), truth),
        "R at all taps (Bonferroni)": float(covered.all()),
    }


def judged_shares(
    rng: np.random.Generator, replicates: int, *, source: str, images: int, styles: int
) -> Values:
    """Return whether the evidence of H6 and H7a rejects a true null: a share, a gain, a ratio.

    "claimed": rejected on the side that the rule asks for, which alone can support a claim.
    """
    groups = (images, styles)
    v = true_components(law(source), LEVELS, "fixed")
    share, ratio = v["style"] / sum(v.values()), np.log(v["style"] / v["content"])

    def once(rng: np.random.Generator) -> dict[str, float]:
        pair = arms(law(source), rng, (images, styles, LEVELS), NOTHING)
        traces = [stats.trace_replicates(stats.design_replicates(y)) for y in pair]
        shares = [t["style"] / np.sum([t[f] for f in AXES], axis=0) for t in traces]
        gain = ratios.interval(shares[0] - shares[1], groups, confidence=CONFIDENCE, tails="heavy")
        kept = ratios.ratio(traces[0]["content"], traces[0]["style"], groups, confidence=CONFIDENCE)
        parts = {
            "share": share_part(_rule(share), shares[0], groups, ""),
            "difference of two shares": interval_part(_rule(0.0), gain, ""),
            "log ratio of two components": inverse_log_part(_rule(ratio), kept, ""),
        }
        row = {name: rejects(part.pvalue) for name, part in parts.items()}
        for name, part in parts.items():
            above = part.rule.beyond(part.estimate, part.rule.null)
            row[f"{name}, claimed"] = row[name] * above
        return row

    return repeated(once, rng, replicates)


def _rule(truth: float) -> Rule:
    """Return a rule whose null is true."""
    return Rule(
        hypothesis="",
        part="",
        statistic="",
        side="greater",
        null=truth,
        min_effect=truth,
        rationale="",
    )


def missing_intervals(
    rng: np.random.Generator, replicates: int, *, source: str, images: int, styles: int
) -> Values:
    """Return the coverage of R with a tenth of the cells missing at random.

    A batch of designs shares its missing cells, which makes it one call of the estimator.
    """
    covered: list[float] = []
    while len(covered) < replicates:
        batch = min(FEW, replicates - len(covered))
        shape = (images, styles, LEVELS)
        pair = arms(law(source), rng, shape, HALF, channels=4, batch=batch)
        gone = rng.random(shape) < 0.1
        v = [stats.design_replicates(np.where(gone[..., None], np.nan, y))["style"] for y in pair]
        before, after = (x.reshape(len(x), batch, -1).mean(axis=2) for x in v)
        for j in range(batch):
            found = stats.removed_from_replicates(before[:, j], after[:, j], images, styles)
            covered.append(inside(found, HALF["style"]))
    return {"R style, cells missing": np.array(covered)}


def bootstrap(
    rng: np.random.Generator, replicates: int, *, source: str, images: int, styles: int
) -> Values:
    """Return the coverage of the pigeonhole bootstrap's interval of R."""

    def once(rng: np.random.Generator) -> dict[str, float]:
        pair = arms(law(source), rng, (images, styles, LEVELS), HALF, channels=4)
        return {
            f"R style, {how} over channels": inside(
                stats.pigeonhole_removed(*pair, rng=rng, replicates=199, aggregate=how),
                HALF["style"],
            )
            for how in ("trace", "median")
        }

    return repeated(once, rng, replicates)
