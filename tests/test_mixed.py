"""REML against lme4's printed values, and against mean squares where these are the same."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats
from test_components import MACHINES, PENICILLIN
from test_oneway import DYESTUFF, PASTES

from statsnorm.errors import StatsnormError
from statsnorm.mixed import reml_components


def test_penicillin_against_lme4():
    # lmer(diameter ~ 1 + (1 | plate) + (1 | sample), Penicillin):
    #  plate .716905  sample 3.731132  Residual .302415
    plate, sample = np.indices(PENICILLIN.shape).reshape(2, -1)
    r = reml_components(PENICILLIN.ravel(), {"plate": plate, "sample": sample})
    assert_allclose(
        [r.components[k][0] for k in ("plate", "sample", "residual")],
        [0.716905, 3.731132, 0.302415],
        rtol=1e-3,
    )
    assert_allclose(r.components["plate"][0], 0.7169082126, atol=1e-4)
    assert_allclose(r.criterion, 330.8606, atol=5e-5)  # "REML criterion at convergence: 330.8606"
    assert_allclose(r.intercept[0], 22.97222, atol=5e-6)  # "(Intercept)  22.97222"
    assert not r.at_bound[0]


def test_dyestuff_against_lme4():
    # lmer(Yield ~ 1 + (1 | Batch), Dyestuff): Batch 1764.05, Residual 2451.25
    r = reml_components(DYESTUFF.ravel(), {"batch": np.repeat(np.arange(6), 5)})
    assert_allclose(r.components["batch"], 1764.05, rtol=1e-3)
    assert_allclose(r.components["residual"], 2451.25, rtol=1e-3)


def test_pastes_nested_against_lme4():
    # batch:cask 8.434, batch 1.657, Residual .678
    batch, cask = np.indices((10, 3, 2))[:2].reshape(2, -1)
    r = reml_components(PASTES.ravel(), {"batch": batch, "cask": batch * 3 + cask})
    found = [r.components[k][0] for k in ("batch", "cask", "residual")]
    assert_allclose(found, [1.657, 8.434, 0.678], atol=2e-3)


def test_machines_with_interaction_are_mean_squares():
    # balanced and positive: REML equals the expected mean squares
    worker, machine = np.indices((6, 3, 3))[:2].reshape(2, -1)
    factors = {"worker": worker, "machine": machine}
    r = reml_components(MACHINES.ravel(), factors, crossed=("worker", "machine"))
    found = [r.components[k][0] for k in ("worker", "machine", "worker:machine", "residual")]
    assert_allclose(found, [22.858444, 46.387704, 13.909457, 0.9246296], rtol=2e-3)


def test_criterion_against_the_normal_density_of_contrasts():
    # orthonormal contrasts of y are normal with mean 0; their density differs from the restricted
    # likelihood by log(1'1) = log n alone
    rng = np.random.default_rng(5)
    groups = np.repeat(np.arange(7), [2, 5, 3, 4, 4, 6, 2])
    y = 30 + 4 * (rng.normal(size=26) + rng.normal(size=7)[groups])
    r = reml_components(y, {"group": groups})
    same = groups[:, None] == groups
    covariance = r.components["group"] * same + r.components["residual"] * np.eye(26)
    weights = np.linalg.solve(covariance, np.ones(26))
    assert_allclose(r.intercept, weights @ y / weights.sum(), rtol=1e-9)
    contrasts = np.linalg.svd(np.ones((1, 26)))[2][1:]
    density = stats.multivariate_normal(cov=contrasts @ covariance @ contrasts.T)
    assert_allclose(r.criterion, -2 * density.logpdf(contrasts @ y) + np.log(26), rtol=1e-9)


def test_a_negative_component_is_held_at_its_bound():
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(6), 4)
    y = rng.normal(size=(24, 2))
    y[:, 0] -= np.array([y[groups == g, 0].mean() for g in range(6)])[groups]  # no spread between
    y[:, 1] += 3 * groups
    r = reml_components(y, {"group": groups})
    assert r.at_bound.tolist() == [True, False]
    assert (r.components["group"] >= 0).all()


def test_scale_and_constant_channels():
    rng = np.random.default_rng(4)
    groups = np.repeat(np.arange(6), 4)
    y = rng.normal(size=24) + rng.normal(size=6)[groups]
    r = reml_components(np.column_stack([y, 1e-4 * y + 7, np.full(24, 2.0)]), {"group": groups})
    assert_allclose(r.components["group"][1], 1e-8 * r.components["group"][0], rtol=1e-6)
    assert_allclose(r.intercept[1], 1e-4 * r.intercept[0] + 7, rtol=1e-9)
    assert np.isnan(r.components["group"][2])
    assert_allclose(r.criterion[1] - r.criterion[0], 2 * 23 * np.log(1e-4))
    assert np.isnan(r.criterion[2])


def test_bad_input():
    with pytest.raises(StatsnormError, match="has a level for every row"):
        reml_components(np.arange(6.0), {"a": np.arange(6)})
    with pytest.raises(StatsnormError, match="at least 2 levels, got 1"):
        reml_components(np.arange(6.0), {"a": np.zeros(6)})
    with pytest.raises(StatsnormError, match="at most 1500"):
        reml_components(np.zeros(1501), {"a": np.arange(1501) % 2})
