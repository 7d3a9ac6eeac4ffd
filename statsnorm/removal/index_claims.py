"""Evidence for H6 and H6b: the index of a conditional network against the style of its input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from statsnorm.decisions import Candidate, Part, Plan
from statsnorm.removal.indexed import (
    CONFIDENCE,
    clustered_proportion,
    on_log_scale,
    proportion_pvalue,
    replicates_of,
)
from statsnorm.removal.parts import inverse_log_part, share_part
from statsnorm.removal.ratios import ratio

HELD = "frozen:"


def candidates(
    tables: Mapping[str, pd.DataFrame], plan: Plan
) -> tuple[list[Candidate], list[Candidate]]:
    """Return the candidates with normalisers at work, and those with frozen ones.

    `tables` has `components` (replicates by source, treatment, tap, moment and component) and
    `retrieval` (share of hits of each image).
    """
    intact: list[Candidate] = []
    frozen: list[Candidate] = []
    components, retrieval = tables["components"], tables["retrieval"]
    at = components["tap"] == plan.primary["and_tap"]
    at &= components["moment"] == plan.primary["moment"]
    for values, rows in components[at].groupby(["source", "treatment"], sort=True):
        source, treatment = str(values[0]), str(values[1])
        hits = retrieval[
            (retrieval["tap"] == plan.primary["and_tap"])
            & (retrieval["source"] == source)
            & (retrieval["treatment"] == treatment)
        ].iloc[0]
        candidate = _candidate(f"{source}, {treatment}", rows, hits.to_dict(), plan)
        (frozen if treatment.startswith(HELD) else intact).append(candidate)
    return intact, frozen


def cells_of(row: Mapping[Any, Any]) -> int:
    """Return how many cells an image has: indices times input styles."""
    return int(row["n_indices"]) * int(row["n_input_styles"])


def _candidate(unit: str, rows: pd.DataFrame, hits: Mapping[Any, Any], plan: Plan) -> Candidate:
    parts, groups = replicates_of(rows)
    place = f"VGG of output {plan.primary['and_tap']}"
    share = parts["index"] / np.sum(list(parts.values()), axis=0)
    kept = ratio(parts["input_style"], parts["index"], groups, confidence=CONFIDENCE)
    rule = plan.rule("H6", "dominance")
    least, (i, s, u) = plan.minimum, groups
    short = [
        f"{n} {name} < {least[key]}"
        for n, name, key in ((i, "images", "images"), (s, "indices", "indices"),
                             (u, "input styles", "input_styles"))
        if n < least[key]
    ]  # fmt: skip
    return Candidate(
        hypothesis="H6",
        unit=unit,
        parts=(
            share_part(plan.rule("H6", "share"), share, groups, place),
            inverse_log_part(rule, kept, place, on_log_scale(parts, groups, rule.null)),
            _retrieval_part(hits, plan, place),
        ),
        not_testable="; ".join(short),
    )


def _retrieval_part(hits: Mapping[Any, Any], plan: Plan, place: str) -> Part:
    rule = plan.rule("H6", "retrieval")
    found = clustered_proportion(np.asarray(hits["hits"], float), cells_of(hits))
    return Part(
        rule=rule,
        estimate=found.estimate,
        low=found.low,
        high=found.high,
        se=found.se,
        pvalue=proportion_pvalue(found, rule.null),
        p_min_effect=proportion_pvalue(found, rule.min_effect),
        tap=place,
    )
