import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from statsnorm.errors import StatsnormError
from statsnorm.stats.power import minimum_effect, paired_power, required_pairs


def test_golden_minimum_effects():
    # R: power.t.test(n = 10, power = .8, type = "paired", sig.level = .05 | .01)
    assert_allclose(minimum_effect(n=10, alpha=0.05), 0.9960019, rtol=1e-6)
    assert_allclose(minimum_effect(n=10, alpha=0.01), 1.332026, rtol=1e-5)


def test_against_statsmodels():
    power = pytest.importorskip("statsmodels.stats.power").TTestPower()
    for n, effect, alpha in ((5, 0.3, 0.05), (8, 1.2, 0.01), (40, 0.5, 0.0125), (500, 0.1, 0.05)):
        assert_allclose(
            paired_power(n=n, effect=effect, alpha=alpha), power.power(effect, n, alpha)
        )


def test_against_simulation():
    rng = np.random.default_rng(7)
    p = stats.ttest_1samp(rng.normal(0.9, 1, (20_000, 8)), 0, axis=1).pvalue
    power = paired_power(n=8, effect=0.9, alpha=0.05)
    assert abs((p < 0.05).mean() - power) < 4 * np.sqrt(power * (1 - power) / 20_000)


def test_power_at_no_effect_is_alpha_and_signs_do_not_matter():
    assert_allclose(paired_power(n=9, effect=0, alpha=0.03), 0.03)
    assert paired_power(n=9, effect=-0.7, alpha=0.05) == paired_power(n=9, effect=0.7, alpha=0.05)
    assert_allclose(paired_power(n=10, effect=30, alpha=0.05), 1)  # statsmodels gives nan


def test_the_three_functions_invert_each_other():
    effect = minimum_effect(n=12, alpha=0.01, power=0.9)
    assert_allclose(paired_power(n=12, effect=effect, alpha=0.01), 0.9, rtol=1e-9)
    assert required_pairs(effect=effect * (1 + 1e-9), alpha=0.01, power=0.9) == 12
    assert required_pairs(effect=effect * 0.999, alpha=0.01, power=0.9) == 13


def test_bad_input():
    with pytest.raises(StatsnormError, match="n must be an integer not less than 2, got 1"):
        paired_power(n=1, effect=1, alpha=0.05)
    with pytest.raises(StatsnormError, match="alpha must lie strictly"):
        paired_power(n=5, effect=1, alpha=0)
    with pytest.raises(StatsnormError, match="power must exceed alpha"):
        minimum_effect(n=5, alpha=0.05, power=0.05)
    with pytest.raises(StatsnormError, match="needs more than 100000 pairs"):
        required_pairs(effect=0, alpha=0.05)
