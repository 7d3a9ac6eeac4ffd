import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from statsnorm import probes
from statsnorm.errors import StatsnormError
from statsnorm.probes import check_splits, cluster_proportion, group_folds, macro_accuracy, probe


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def design(rng, contents=8, styles=4, levels=2, columns=6, style=1.0, noise=0.5):
    i, s, k = np.indices((contents, styles, levels)).reshape(3, -1)
    x = rng.normal(size=(contents, columns))[i] + style * rng.normal(size=(styles, columns))[s]
    return x + noise * rng.normal(size=x.shape), i, s, k


def halves(i):
    odd, even = np.flatnonzero(i % 2), np.flatnonzero(i % 2 == 0)
    return [(odd, even), (even, odd)]


@pytest.mark.parametrize("columns", [6, 90])  # fewer and more columns than training rows
def test_against_a_plain_sklearn_pipeline(rng, columns):
    x, i, s, _ = design(rng, columns=columns)
    splits = halves(i)
    ours = probe(x, s, groups=i, splits=splits, strengths=(0.1,), rng=rng)
    correct, loss = np.zeros(len(x)), 0.0
    for train, test in splits:
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=0.1, tol=1e-8, max_iter=10_000)
        ).fit(x[train], s[train])
        correct[test] = model.predict(x[test]) == s[test]
        loss += log_loss(s[test], model.predict_proba(x[test]), normalize=False)
    assert_allclose(ours.accuracy, correct.mean())
    assert_allclose(ours.bits_raw, 2 - loss / np.log(2) / len(x), atol=2e-3)
    assert_allclose(ours.entropy, 2)
    assert (ours.chance, ours.n, ours.n_groups, ours.n_labels) == (0.25, 64, 8, 4)


def test_inner_folds_choose_a_useful_strength(rng):
    x, i, s, _ = design(rng, contents=12, columns=40, style=0.5, noise=1.0)
    chosen = probe(x, s, groups=i, rng=np.random.default_rng(1)).bits_raw
    fixed = [
        probe(x, s, groups=i, strengths=(c,), rng=np.random.default_rng(1)).bits_raw
        for c in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    ]
    assert chosen > np.median(fixed)
    assert max(fixed) - chosen < 0.25


def test_unchanged_by_gains_and_offsets_of_columns(rng):
    x, i, s, _ = design(rng)
    a, b = (
        probe(z, s, groups=i, strengths=(0.1,), rng=np.random.default_rng(1))
        for z in (x, 50 * x - 3)
    )
    assert a.accuracy == b.accuracy
    assert_allclose(a.bits_raw, b.bits_raw, atol=1e-3)


def test_a_strong_style_is_read_and_noise_is_not(rng):
    x, i, s, k = design(rng, style=5.0)
    strong = probe(x, s, groups=i, blocks=i * 2 + k, permutations=19, strengths=(0.1,), rng=rng)
    assert strong.accuracy > 0.9
    assert strong.pvalue == 0.05
    assert strong.bits > 1
    noise = probe(rng.normal(size=x.shape), s, groups=i, strengths=(0.1,), rng=rng)
    assert noise.low < 0.25 < noise.high
    assert noise.bits == 0 > noise.bits_raw


def test_content_is_read_with_style_as_the_group(rng):
    x, i, s, _ = design(rng, noise=0.05, style=0.1)
    assert probe(x, i, groups=s, folds=4, strengths=(1.0,), rng=rng).accuracy > 0.9


def test_interval_covers_chance_when_labels_are_shuffled(rng):
    inside = []
    for _ in range(60):
        x, i, s, k = design(rng, contents=8, styles=4, levels=1, columns=3, style=0.0)
        order = np.lexsort((rng.random(len(s)), i * 2 + k))
        r = probe(x, s[order], groups=i, strengths=(0.1,), folds=4, rng=rng)
        inside.append(r.low <= 0.25 <= r.high)
    assert np.mean(inside) >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / 60)


def permutation_size(rng, simulations):
    hits = 0
    for _ in range(simulations):
        x, i, s, _ = design(rng, contents=6, styles=3, levels=1, columns=2, style=0.0)
        r = probe(x, s, groups=i, blocks=i, permutations=19, strengths=(1.0,), folds=3, rng=rng)
        hits += r.pvalue <= 0.05
    return hits / simulations


@pytest.mark.slow
def test_permutation_size_at_length(rng):
    assert permutation_size(rng, 500) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 500)


def test_permutation_size(rng):
    assert permutation_size(rng, 30) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 30)


def test_permutations_refit_to_labels_permuted_within_blocks(rng, monkeypatch):
    x, i, s, _ = design(rng, contents=6, levels=1)
    seen, original = [], probes.held_out

    def spy(x, codes, plan, grid):
        seen.append(codes)
        return original(x, codes, plan, grid)

    monkeypatch.setattr(probes, "held_out", spy)
    probe(x, s, groups=i, blocks=i, permutations=4, strengths=(1.0,), folds=3, rng=rng)
    assert len(seen) == 5
    assert (seen[0] == s).all()
    assert len({tuple(codes) for codes in seen}) == 5
    for codes in seen:
        for content in range(6):
            assert sorted(codes[i == content]) == [0, 1, 2, 3]


def test_splitting_not_by_content_is_refused(rng):
    x, i, s, _ = design(rng)
    order = rng.permutation(len(x))
    leak = [(order[:32], order[32:]), (order[32:], order[:32])]
    with pytest.raises(StatsnormError, match="split 0 leaks: 8 groups stand in training and test"):
        probe(x, s, groups=i, splits=leak, rng=rng)
    with pytest.raises(StatsnormError, match="tested exactly once; 32 are not"):
        probe(x, s, groups=i, splits=halves(i)[:1], rng=rng)


def test_a_leak_would_have_mattered(rng):
    # contents differ, styles do not: a label that follows content is read only by leaking
    x, i, _, _ = design(rng, style=0.0, noise=0.01, contents=16)
    label = (rng.permutation(16) % 2)[i]
    r = probe(x, label, groups=i, rng=rng, strengths=(1.0,))
    assert r.low < 0.5 + 0.2
    assert r.accuracy < 0.95


def test_folds_deal_whole_groups(rng):
    units = np.repeat(np.arange(7), 3)
    folds = group_folds(units, 5, rng)
    check_splits(folds, units)
    assert len(folds) == 5
    assert sorted(len(np.unique(units[test])) for _, test in folds) == [1, 1, 1, 2, 2]


def test_same_seed_same_result(rng):
    x, i, s, _ = design(rng)
    a, b = (probe(x, s, groups=i, rng=np.random.default_rng(3), strengths=(0.1,)) for _ in "ab")
    assert repr(a) == repr(b)


def test_cluster_interval_with_one_row_a_group_is_nearly_clopper_pearson():
    y = np.repeat([1.0, 0.0], [14, 26])
    ours = cluster_proportion(y, np.arange(40))
    exact = stats.binomtest(14, 40).proportion_ci(method="exact")
    assert_allclose((ours.low, ours.high), (exact.low, exact.high), atol=0.01)
    assert_allclose(ours.se, y.std(ddof=1) / np.sqrt(40))


def test_cluster_interval_when_all_groups_agree():
    perfect = cluster_proportion(np.ones(40), np.repeat(np.arange(8), 5))
    exact = stats.binomtest(8, 8).proportion_ci(method="exact")  # groups, not rows
    assert_allclose((perfect.low, perfect.high), (exact.low, 1))
    none = cluster_proportion(np.zeros(40), np.repeat(np.arange(8), 5))
    assert_allclose((none.low, none.high), (0, 1 - exact.low))


def test_cluster_interval_coverage(rng):
    inside = []
    for _ in range(1000):
        p = rng.beta(3, 2, size=24)  # mean .6, groups differ
        y = rng.binomial(1, np.repeat(p, 10))
        r = cluster_proportion(y, np.repeat(np.arange(24), 10))
        inside.append(r.low <= 0.6 <= r.high)
    assert abs(np.mean(inside) - 0.95) < 4 * np.sqrt(0.05 * 0.95 / 1000)


def test_macro_against_a_plain_two_way_jackknife(rng):
    i, s = np.indices((7, 4)).reshape(2, -1)
    keep = (s != 0) | (i < 3)  # a rarer label
    i, s = i[keep], s[keep]
    y = (rng.random(len(i)) < 0.6).astype(float)

    def macro(rows):
        return np.mean([y[rows & (s == k)].mean() for k in np.unique(s[rows])])

    variance, dof_parts = 0.0, []
    for units in (i, s):
        left_out = np.array([macro(units != u) for u in np.unique(units)])
        n = len(left_out)
        part = (n - 1) / n * ((left_out - left_out.mean()) ** 2).sum()
        variance, dof_parts = variance + part, [*dof_parts, part**2 / (n - 1)]
    half = stats.t.isf(0.025, variance**2 / sum(dof_parts)) * np.sqrt(variance)
    estimate = macro(np.full(len(i), True))
    expected = (estimate, max(estimate - half, 0), min(estimate + half, 1))
    assert_allclose(macro_accuracy(y, i, s, 0.95), expected)


def test_macro_without_errors_has_no_interval(rng):
    x, i, s, _ = design(rng, style=20.0, noise=0.1)
    r = probe(x, s, groups=i, strengths=(0.1,), rng=rng)
    assert r.macro == r.accuracy == 1
    assert np.isnan(r.macro_low)
    assert r.low < 1


def test_bad_input(rng):
    x, i, s, _ = design(rng)
    with pytest.raises(StatsnormError, match="needs blocks"):
        probe(x, s, groups=i, permutations=9, rng=rng)
    with pytest.raises(StatsnormError, match="missing from a training side"):
        probe(x, i, groups=i, rng=rng)
    with pytest.raises(StatsnormError, match="strengths must be positive"):
        probe(x, s, groups=i, strengths=(0.0,), rng=rng)
    with pytest.raises(StatsnormError, match="groups must have at least 4 levels, got 2"):
        probe(x, s, groups=i % 2, rng=rng)
    with pytest.raises(StatsnormError, match="all 6 columns are constant"):
        probe(np.ones_like(x), s, groups=i, rng=rng)
    with pytest.raises(StatsnormError, match="rng must be"):
        probe(x, s, groups=i, rng=0)
    with pytest.raises(StatsnormError, match=r"correct must lie in 0..1, got 0 to 2"):
        cluster_proportion([0, 2], [0, 1])


def test_accuracy_and_bits_by_group_add_up_to_those_of_all(rng):
    x, i, s, _ = design(rng)
    r = probe(x, s, groups=i, strengths=(0.1,), rng=rng)
    assert r.group_accuracy.shape == r.group_bits.shape == (8,)
    assert_allclose(r.group_accuracy.mean(), r.accuracy)
    assert_allclose(r.group_bits.mean(), r.bits_raw)
    assert r.group_accuracy.std() > 0
