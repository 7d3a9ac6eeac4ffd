"""Evidence on one rule: a part made from a ratio, an interval or a share, on the scale it needs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from statsnorm.decisions import Part, Rule
from statsnorm.removal.ratios import Interval, Ratio, interval
from statsnorm.removal.study import CONFIDENCE

Array = NDArray[np.float64]


def removed_part(rule: Rule, kept: Ratio, tap: str) -> Part:
    """Return the evidence on a rule about R = 1 - kept."""
    p, p_min = kept.pvalue(1 - rule.null), kept.pvalue(1 - rule.min_effect)
    return _part(rule, kept.removed(), tap, p, p_min)


def log_part(rule: Rule, kept: Ratio, tap: str) -> Part:
    """Return the evidence on a rule about a log ratio, such as Psi."""
    p, p_min = kept.pvalue(math.exp(rule.null)), kept.pvalue(math.exp(rule.min_effect))
    return _part(rule, kept.log(), tap, p, p_min)


def inverse_log_part(rule: Rule, kept: Ratio, tap: str, note: str = "") -> Part:
    """Return the evidence on a rule about -log of a ratio: how often its second term is larger."""
    x = kept.log()
    turned = Interval(estimate=-x.estimate, low=-x.high, high=-x.low, se=x.se, dof=x.dof)
    p, p_min = kept.pvalue(math.exp(-rule.null)), kept.pvalue(math.exp(-rule.min_effect))
    return _part(rule, turned, tap, p, p_min, note)


def interval_part(rule: Rule, x: Interval, tap: str) -> Part:
    """Return the evidence on a rule about a statistic on its own scale."""
    return _part(rule, x, tap, x.pvalue(rule.null), x.pvalue(rule.min_effect))


def share_part(rule: Rule, values: Array, groups: Sequence[int], tap: str) -> Part:
    """Return the evidence on a share, on the logit scale where every replicate lies in (0, 1).

    Its degrees of freedom allow for the heavy tails of components.

    Parameters
    ----------
    rule : Rule
        With `null` and `min_effect` in (0, 1).
    values : ndarray, shape (1 + sum of groups,)
        The share, then without each unit of every group.
    groups : sequence of int
        Units of each factor: images, styles, networks.
    tap : str
        Where it was measured.
    """
    if not ((values > 0) & (values < 1)).all():
        plain = interval(values, groups, confidence=CONFIDENCE, tails="heavy")
        return interval_part(rule, plain, tap)
    logit = interval(special.logit(values), groups, confidence=CONFIDENCE, tails="heavy")
    estimate, low, high = (float(special.expit(x)) for x in (logit.estimate, logit.low, logit.high))
    se = logit.se * estimate * (1 - estimate)
    x = Interval(estimate=estimate, low=low, high=high, se=se, dof=logit.dof)
    p, p_min = (logit.pvalue(float(special.logit(v))) for v in (rule.null, rule.min_effect))
    return _part(rule, x, tap, p, p_min)


def _part(rule: Rule, x: Interval, tap: str, p: float, p_min: float, note: str = "") -> Part:
    return Part(
        rule=rule,
        estimate=x.estimate,
        low=x.low,
        high=x.high,
        se=x.se,
        dof=x.dof,
        pvalue=p,
        p_min_effect=p_min,
        tap=tap,
        note=note,
    )
