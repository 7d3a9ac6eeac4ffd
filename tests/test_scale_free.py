import numpy as np
import pytest
from numpy.testing import assert_allclose

from statsnorm.errors import StatsnormError
from statsnorm.stats.components import FACTORS, crossed_components
from statsnorm.stats.inputs import is_constant
from statsnorm.stats.scale_free import live_channels, scale_free


def moments(seed, shape=(6, 5, 3, 4)):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape), np.exp(rng.normal(size=shape))


def test_against_the_definition():
    mean, var = moments(1)
    m, v = scale_free(mean, var)
    assert_allclose(m, mean / np.sqrt(var.mean(axis=(0, 1, 2))))
    assert_allclose(v, np.log(np.sqrt(var)))
    assert m.dtype == v.dtype == np.float64
    reference = moments(2, (9, 4))[1]
    m, _ = scale_free(mean, var, reference=reference)
    assert_allclose(m, mean / np.sqrt(reference.mean(axis=0)))


def test_a_common_affine_map_changes_no_component():
    mean, var = moments(3)
    gain, shift = np.array([2.0, -0.3, 1e3, -1.0]), np.array([5.0, -1.0, 0.1, 40.0])
    before = scale_free(mean, var)
    after = scale_free(gain * mean + shift, gain**2 * var)
    for a, b in zip(before, after, strict=True):
        for name in FACTORS:
            assert_allclose(
                getattr(crossed_components(b), name),
                getattr(crossed_components(a), name),
                rtol=1e-10, atol=1e-10,
            )  # fmt: skip


def test_single_precision_tables_give_double():
    mean, var = (x.astype(np.float32) for x in moments(4))
    m, v = scale_free(mean, var)
    assert m.dtype == v.dtype == np.float64
    assert_allclose(v, 0.5 * np.log(var.astype(np.float64)))


def test_missing_cells_do_not_enter_the_scale_and_dead_cells_are_nan():
    mean, var = moments(5)
    mean[0, 0, 0], var[0, 0, 0] = np.nan, np.nan
    var[1, 1, 1, 2] = 0.0
    var[..., 3] = 0.0
    m, v = scale_free(mean, var)
    rest = var.reshape(-1, 4)[1:]
    assert_allclose(m[2, 2, 2, 0], mean[2, 2, 2, 0] / np.sqrt(rest[:, 0].mean()))
    assert np.isnan(m[0, 0, 0]).all()
    assert np.isnan(v[1, 1, 1, 2])
    assert np.isfinite(m[1, 1, 1, 2])
    assert np.isnan(m[..., 3]).all()
    gone = scale_free(np.full((3, 2), np.nan), np.full((3, 2), np.nan), floor=1e-3)
    assert np.isnan(gone[1]).all()


def test_floor_adds_a_share_of_the_median():
    mean, var = moments(6)
    _, v = scale_free(mean, var, floor=1e-3)
    assert_allclose(v, 0.5 * np.log(var + 1e-3 * np.median(var.reshape(-1, 4), axis=0)))


def test_live_channels_follow_the_floor_rule():
    var = np.ones((200, 4))
    var[:2, 0] = 0.9e-3  # 1 % of the images: allowed
    var[:3, 1] = 0.9e-3  # more than 1 %
    var[:3, 2] = 1.1e-3  # above 100 eps
    other = np.ones((50, 4))
    other[0, 3] = 0.0  # 2 % of the other condition
    assert live_channels([var, other], 1e-5).tolist() == [True, False, True, False]
    assert live_channels([var], 0.0).all()
    assert live_channels([var, other], [0.0, 1e-5]).tolist() == [True, True, True, False]
    var[:, 0] = 0.9e-10
    assert live_channels([var], 0.0).tolist() == [False, True, True, True]


def test_missing_cells_do_not_kill_channels_but_nan_does():
    var = np.ones((5, 4, 2, 3))
    var[0] = np.nan
    var[1:, :, :, 1] = np.nan
    assert live_channels([var]).tolist() == [True, False, True]
    assert not live_channels([np.full((4, 3), np.nan)]).any()


def test_constant_is_relative_to_magnitude():
    up = 1 + np.finfo(float).eps
    x = np.array(
        [[0.1, 1e9, 1e9, 1e-20, 0.0, 1.0], [0.1 * up, 1e9 * up, 1e9 + 1, 2e-20, 0.0, np.nan]]
    )
    assert is_constant(x).tolist() == [True, True, False, False, True, False]


def test_bad_input_is_refused():
    mean, var = moments(7)
    with pytest.raises(StatsnormError, match="must agree"):
        scale_free(mean, var[0])
    with pytest.raises(StatsnormError, match="var must not be negative, got -1"):
        scale_free(mean, np.where(var > 1, var, -1.0))
    with pytest.raises(StatsnormError, match=r"floor must be >= 0, got -0\.1"):
        scale_free(mean, var, floor=-0.1)
    with pytest.raises(StatsnormError, match="needs 4 channels"):
        scale_free(mean, var, reference=np.ones((3, 5)))
    with pytest.raises(StatsnormError, match="empty"):
        live_channels([])
    with pytest.raises(StatsnormError, match="channel counts differ"):
        live_channels([np.ones((3, 2)), np.ones((3, 4))])
    with pytest.raises(StatsnormError, match="eps must be"):
        live_channels([var], -1e-5)
