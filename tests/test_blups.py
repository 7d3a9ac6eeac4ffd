import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from statsmodels.regression.mixed_linear_model import MixedLM

from statsnorm.stats import level_scores


def test_against_mixedlm_of_statsmodels():
    # one channel: the scores are the BLUPs up to scale; REML is mean squares on balanced data
    rng = np.random.default_rng(1)
    y = 2 * rng.normal(size=(9, 1, 1, 1)) + rng.normal(size=(1, 6, 1, 1))
    y = y + 0.5 * rng.normal(size=(9, 6, 1, 1))
    image, style = np.indices((9, 6)).reshape(2, -1)
    data = pd.DataFrame({"y": y.ravel(), "image": image, "style": style})
    terms = {"image": "0 + C(image)", "style": "0 + C(style)"}
    model = MixedLM.from_formula("y ~ 1", data, groups=np.ones(54), vc_formula=terms)
    effects = model.fit().random_effects[1.0]
    scores = level_scores(y)
    for name, found in (("image", scores["content"]), ("style", scores["style"])):
        blup = effects[effects.index.str.startswith(name)].to_numpy()
        assert abs(np.corrcoef(blup, found)[0, 1]) > 1 - 1e-9
        assert_allclose(found.std(ddof=1), 1)
        assert found[np.abs(found).argmax()] > 0


def test_one_level_far_out_has_the_largest_score():
    rng = np.random.default_rng(2)
    y = rng.normal(size=(8, 12, 2, 5)) + rng.normal(size=(1, 12, 1, 5))
    y[:, 7] += 6 * rng.normal(size=5)
    scores = level_scores(y)["style"]
    assert scores.argmax() == 7
    assert scores[7] > 2.5


@pytest.mark.parametrize("axis", [0, 1])
def test_levels_that_do_not_differ_have_no_scores(axis):
    y = np.random.default_rng(3).normal(size=(6, 5, 2, 3))
    name = ("content", "style")[axis]
    same = y - y.mean(axis=tuple(a for a in range(3) if a != axis), keepdims=True)
    assert (level_scores(same)[name] == 0).all()
    with_nan = np.concatenate([y, np.full((6, 5, 2, 1), np.nan)], axis=3)
    assert_allclose(level_scores(with_nan)[name], level_scores(y)[name])
