"""Variance components by restricted maximum likelihood: the cross-check of the ANOVA estimators.

statsmodels' MixedLM with one group of all rows, so that factors may cross. It takes the cube of
the rows per channel, so it is run on a few channels, and never decides anything: it must agree
with mean squares where the data are balanced, and nearly so elsewhere. Components are held at or
above 0, which mean squares are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import optimize
from statsmodels.regression.mixed_linear_model import MixedLM, MixedLMParams

from statsnorm.errors import StatsnormError
from statsnorm.stats.inputs import Array
from statsnorm.stats.result import Shown
from statsnorm.stats.samples import level_codes, sample

LARGEST = 1500  # rows: the covariance of all rows is formed and solved anew at every step
ZERO = 1e-4  # of the total variance: a component this small lies on its bound
BOUND = 16.0  # of the log of a component over the residual


@dataclass(frozen=True, slots=True)
class RemlComponents(Shown):
    """Result of :func:`reml_components`; arrays (C,)."""

    components: Mapping[str, Array]  # factor -> variance, in the order given; then `residual`
    intercept: Array  # the mean by generalised least squares
    criterion: Array  # -2 log restricted likelihood at its maximum, with lme4's constant
    at_bound: Array  # some component is 0: mean squares may be negative there
    converged: Array
    n: int


def reml_components(
    y: ArrayLike, factors: Mapping[str, ArrayLike], *, crossed: tuple[str, str] | None = None
) -> RemlComponents:
    """Return the variance components of random factors, crossed or nested, channel by channel.

    The criterion is (n-1)(1 + log(2 pi q / (n-1))) + log|V| + log(1' V^-1 1), V the covariance
    over the residual variance and q = (y - mu)' V^-1 (y - mu) [2]_; two models of one channel
    may be compared by it.

    Parameters
    ----------
    y : array_like, shape (n, C) or (n,)
        One row per image, at most 1,500.
    factors : mapping of str to array_like, shape (n,)
        Label of each row in each factor. For a nested factor give labels that are unique
        over the outer one.
    crossed : pair of str, optional
        Two of the factors, whose interaction is a component too, named `a:b`.

    Raises
    ------
    StatsnormError
        If a factor has one level or as many as rows, or there are too many rows.

    References
    ----------
    .. [1] H. D. Patterson and R. Thompson, Biometrika 58 (1971), 545-554.
    .. [2] D. Bates et al., J. Stat. Softw. 67(1) (2015), eq. 42.
    """
    a = sample("y", y, least=4)
    if len(a) > LARGEST:
        raise StatsnormError(f"REML of {len(a)} rows is not attempted; at most {LARGEST}")
    frame = pd.DataFrame({"one": np.ones(len(a))})
    labels = {
        name: level_codes(name, given, n=len(a), least=2)[0] for name, given in factors.items()
    }
    if crossed:
        first, second = (labels[name] for name in crossed)
        labels[":".join(crossed)] = first * (int(second.max()) + 1) + second
    for place, (name, codes) in enumerate(labels.items()):
        if len(np.unique(codes)) == len(a):
            raise StatsnormError(f"factor {name!r} has a level for every row; leave it out")
        frame[f"f{place}"] = codes
    formula = {name: f"0 + C(f{place})" for place, name in enumerate(labels)}
    rows = [_channel(frame.assign(y=column), formula) for column in a.T]
    found = {name: np.array([row[0][name] for row in rows]) for name in (*labels, "residual")}
    least = np.min([found[name] / sum(found.values()) for name in labels], axis=0)
    intercept, criterion, converged = (
        np.array([row[place] for row in rows]) for place in (1, 2, 3)
    )
    return RemlComponents(found, intercept, criterion, least < ZERO, converged, len(a))


def _channel(
    frame: pd.DataFrame, formula: Mapping[str, str]
) -> tuple[dict[str, float], float, float, bool]:
    """Fit one channel, standardised; return components, mean, REML criterion, convergence.

    The profiled restricted likelihood is statsmodels'; its maximum is sought here, over the logs
    of the variance ratios: `MixedLM.fit` leaves a maximum on the bound with a wrong one (L-BFGS)
    or a singular Hessian.
    """
    mean, sd = float(frame["y"].mean()), float(frame["y"].std())
    if not sd > 1e-9 * abs(mean):
        return dict.fromkeys((*formula, "residual"), np.nan), np.nan, np.nan, False
    scaled = frame.assign(y=(frame["y"] - mean) / sd)
    model = MixedLM.from_formula("y ~ 1", scaled, groups="one", re_formula="0", vc_formula=formula)
    model.reml, model.cov_pen, model.fe_pen, model._cov_sing = True, None, None, 0  # as `fit` does
    none = np.zeros((0, 0))

    def loss(logs: Array) -> float:
        fe_params, _ = model.get_fe_params(none, np.exp(logs))
        given = MixedLMParams.from_components(fe_params=fe_params, cov_re=none, vcomp=np.exp(logs))
        return -float(model.loglike(given, profile_fe=False))

    start, limits = np.zeros(len(formula)), [(-BOUND, BOUND)] * len(formula)
    fit = optimize.minimize(loss, start, method="L-BFGS-B", bounds=limits, options={"ftol": 1e-13})
    ratios = np.exp(fit.x)
    fixed, _ = model.get_fe_params(none, ratios)
    scale = float(model.get_scale(fixed, none, ratios))
    names = sorted(formula)  # statsmodels orders variance components by name
    values = {name: float(r) * scale * sd**2 for name, r in zip(names, ratios, strict=True)}
    criterion = 2 * float(fit.fun) + 2 * (len(frame) - 1) * np.log(sd)  # n - 1 contrasts, rescaled
    intercept = mean + sd * float(fixed[0])
    return {**values, "residual": scale * sd**2}, intercept, criterion, bool(fit.success)
