import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy import optimize, stats
from scipy.spatial.distance import pdist, squareform
from sklearn.datasets import load_iris

from statsnorm.errors import StatsnormError
from statsnorm.stats.permanova import permanova
from statsnorm.stats.permdisp import permdisp
from statsnorm.stats.spatial_median import spatial_median

# Cover of 30 plant species, one digit each, at 20 sites of dune meadow: vegan's data(dune), from
# R. H. G. Jongman et al., Data Analysis in Community and Landscape Ecology (1987)
DUNE = """
    100000000004000070420000000000 300203400004000050470000505000 040702000004000060560000202020
    080202302004000050450050201020 200042200004000025260500322020 200030000000000065340600355060
    200020200000000265450300322020 040500000040004040442020302020 030300000006004420450220203020
    400042400000000063440000306120 000000000000020073400020503240 040800000000000400040240203040
    050500010000000300292020202000 040000000240000000002000206004 040000000250003000002000201040
    070400000080003000022000000043 202040000000020002100000200000 000002000000000023300003502160
    003040000000250000000033602030 050000000040004000004005200043
"""
MANAGEMENT = "SF BF SF SF HF HF HF HF HF BF BF SF SF NM NM SF NM NM NM NM"


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture(scope="module")
def iris():
    return load_iris(return_X_y=True)


def crossed(contents, styles, repeats=1):
    return (v.ravel() for v in np.indices((contents, styles, repeats))[:2])


def test_iris_against_vegan(iris, rng):
    # R 4.2, vegan 2.6-4: adonis2(dist(iris[,1:4]) ~ Species, iris): F 487.3308764, R2 .86894445
    x, species = iris
    result = permanova(x, {"species": species}, rng=rng, permutations=99)
    assert_allclose(result.statistic, 487.3308764, rtol=1e-9)
    assert_allclose(result.r2, 0.86894445, rtol=1e-8)
    assert result.pvalue == 0.01
    assert (result.dof, result.residual_dof, result.n) == (2, 147, 150)


def test_dune_meadows_against_vegan(rng):
    # R 4.2, vegan 2.6-4: adonis2(dune ~ Management, dune.env, method = "bray")
    #            Df SumOfSqs      R2      F
    # Management  3   1.4686 0.34161 2.7672
    # Residual   16   2.8304 0.65839
    cover = np.array([[int(digit) for digit in site] for site in DUNE.split()])
    assert cover.shape == (20, 30)
    bray_curtis = squareform(pdist(cover, "braycurtis"))
    result = permanova(
        bray_curtis,
        {"management": MANAGEMENT.split()},
        metric="precomputed",
        rng=rng,
        permutations=999,
    )
    assert_allclose(result.r2, 0.34161067, rtol=1e-8)
    assert_allclose(result.statistic, 2.76724, rtol=2e-6)
    assert_allclose([result.sum_squares[0], result.residual_sum_squares], [1.4686, 2.8304], 5e-5)
    assert (result.dof, result.residual_dof, result.n) == (3, 16, 20)
    assert result.pvalue < 0.01


@pytest.mark.parametrize(("center", "f"), [("centroid", 11.3467569), ("median", 10.7480797)])
def test_iris_dispersion_against_vegan(iris, rng, center, f):
    # R: anova(betadisper(dist(iris[,1:4]), iris$Species, type = "centroid" | "median"))
    result = permdisp(*iris, center=center, rng=rng, permutations=199)
    assert_allclose(result.statistic, f, rtol=1e-7)  # vegan minimises to about 1e-7 itself
    assert result.pvalue <= 0.01


def test_against_scikit_bio(iris, rng):
    skbio = pytest.importorskip("skbio.stats.distance", reason="scikit-bio is not installed")
    x, species = iris
    x, species = x[::3], species[::3]
    matrix = skbio.DistanceMatrix(squareform(pdist(x)))
    theirs = skbio.permanova(matrix, species.astype(str), permutations=0)
    assert_allclose(
        permanova(x, {"s": species}, rng=rng, permutations=1).statistic, theirs["test statistic"]
    )


def test_dispersion_against_scikit_bio(iris, rng):
    skbio = pytest.importorskip("skbio.stats.distance", reason="scikit-bio is not installed")
    x, species = iris
    x, species = x[::3], species[::3]
    matrix = skbio.DistanceMatrix(squareform(pdist(x)))
    for center in ("centroid", "median"):
        theirs = skbio.permdisp(matrix, species.astype(str), test=center, permutations=0)
        ours = permdisp(x, species, center=center, rng=rng, permutations=1)
        assert_allclose(ours.statistic, theirs["test statistic"], rtol=1e-5)


def test_one_column_is_the_analysis_of_variance(rng):
    statsmodels = pytest.importorskip("statsmodels.formula.api")
    from statsmodels.stats.anova import anova_lm

    a, b = crossed(4, 3, 2)
    keep = np.delete(np.arange(24), [0, 2, 7, 11, 12])  # unbalanced: the order of terms matters
    a, b = a[keep], b[keep]
    y = rng.normal(size=19) + a
    table = anova_lm(
        statsmodels.ols("y ~ C(a) * C(b)", pd.DataFrame({"y": y, "a": a, "b": b})).fit(), typ=1
    )
    result = permanova(y, {"a": a, "b": b}, interaction=True, rng=rng, permutations=9)
    assert result.terms == ("a", "b", "a:b")
    assert_allclose(result.sum_squares, table["sum_sq"][:3])
    assert_allclose(result.statistic, table["F"][:3])
    assert_allclose(result.residual_sum_squares, table["sum_sq"].iloc[3])


def test_precomputed_euclidean_is_the_same(rng):
    x = rng.normal(size=(24, 40))
    a, b = crossed(6, 4)
    one = permanova(x, {"a": a, "b": b}, rng=np.random.default_rng(1), permutations=99)
    other = permanova(
        squareform(pdist(x)),
        {"a": a, "b": b},
        metric="precomputed",
        rng=np.random.default_rng(1),
        permutations=99,
    )
    for name in ("sum_squares", "statistic", "r2", "omega2", "pvalue"):
        assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-8)


def test_bray_curtis_against_scikit_bio(rng):
    skbio = pytest.importorskip("skbio.stats.distance", reason="scikit-bio is not installed")
    matrix = squareform(pdist(rng.poisson(4, (20, 30)), "braycurtis"))
    group = np.repeat(list("abcd"), [3, 4, 6, 7])
    theirs = skbio.permanova(skbio.DistanceMatrix(matrix), group, permutations=0)
    ours = permanova(matrix, {"g": group}, metric="precomputed", rng=rng, permutations=1)
    assert_allclose(ours.statistic, theirs["test statistic"])


def test_parts_sum_and_invariances(rng):
    a, b = crossed(6, 4)
    x = rng.normal(size=(24, 7)) + a[:, None]
    first = permanova(x, {"a": a, "b": b}, rng=np.random.default_rng(1), permutations=49)
    total = first.sum_squares.sum() + first.residual_sum_squares
    assert_allclose(total, first.total_sum_squares)
    assert_allclose(first.total_sum_squares, ((x - x.mean(0)) ** 2).sum())
    rotation = np.linalg.qr(rng.normal(size=(7, 7)))[0]
    other = permanova(
        3 * x @ rotation + 5, {"a": a, "b": b}, rng=np.random.default_rng(1), permutations=49
    )
    assert_allclose(other.omega2, first.omega2)
    assert_allclose(other.pvalue, first.pvalue)
    # balanced: the order of the factors does not matter
    swapped = permanova(x, {"b": b, "a": a}, rng=rng, permutations=1)
    assert_allclose(swapped.sum_squares[::-1], first.sum_squares)


def test_omega2_is_centred_where_r2_is_not(rng):
    group = np.repeat(np.arange(5), 6)
    results = [
        permanova(rng.normal(size=(30, 8)), {"g": group}, rng=rng, permutations=1)
        for _ in range(300)
    ]
    omega2 = np.array([r.omega2[0] for r in results])
    assert abs(omega2.mean()) < 4 * omega2.std() / np.sqrt(300)
    assert np.mean([r.r2[0] for r in results]) > 0.1


def test_blocks_keep_the_content_effect_out(rng):
    # contents differ hugely, styles a little: free permutation sees nothing, blocks do
    content, style = crossed(8, 4)
    x = 50 * rng.normal(size=(8, 3))[content] + rng.normal(size=(4, 3))[style]
    x += 0.3 * rng.normal(size=x.shape)
    blocked = permanova(x, {"s": style}, blocks=content, rng=rng, permutations=499)
    free = permanova(x, {"s": style}, rng=rng, permutations=499)
    assert blocked.pvalue == 1 / 500
    assert free.pvalue > 0.5


def test_a_term_that_blocks_hold_fixed_has_no_p_value(rng):
    content, style = crossed(8, 4)
    result = permanova(
        rng.normal(size=(32, 3)),
        {"content": content, "style": style},
        blocks=content,
        rng=rng,
        permutations=19,
    )
    assert np.isnan(result.pvalue[0])
    assert 0 < result.pvalue[1] <= 1


def size_within_blocks(rng, simulations, permutations):
    content, style = crossed(6, 4)
    rejected = 0
    for _ in range(simulations):
        x = 3 * rng.normal(size=(6, 4))[content] + rng.standard_t(3, size=(24, 4))
        result = permanova(
            x,
            {"content": content, "style": style},
            blocks=content,
            rng=rng,
            permutations=permutations,
        )
        rejected += result.pvalue[1] <= 0.05
    return rejected / simulations


def test_size_within_blocks(rng):
    assert size_within_blocks(rng, 300, 39) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)


@pytest.mark.slow
def test_size_within_blocks_at_length(rng):
    rate = size_within_blocks(rng, 2000, 199)
    assert abs(rate - 0.05) <= 3 * np.sqrt(0.05 * 0.95 / 2000)


def dispersion_size(rng, simulations, permutations, center):
    group = np.repeat(np.arange(3), (10, 15, 20))
    hits = [
        permdisp(
            rng.normal(size=(45, 6)) + group[:, None],
            group,
            center=center,
            rng=rng,
            permutations=permutations,
        ).pvalue
        <= 0.05
        for _ in range(simulations)
    ]
    return np.mean(hits)


def test_dispersion_size(rng):
    rate = dispersion_size(rng, 200, 39, "median")
    assert rate <= 0.05 + 3.5 * np.sqrt(0.05 * 0.95 / 200)


@pytest.mark.slow
@pytest.mark.parametrize("center", ["centroid", "median"])
def test_dispersion_size_at_length(rng, center):
    # not exact, the centres are estimated: permuting distances only gives 7 % here
    assert dispersion_size(rng, 2000, 199, center) <= 0.065


@pytest.mark.slow
def test_dispersion_size_in_tiny_groups(rng):
    group = np.repeat(np.arange(4), 5)
    hits = [
        permdisp(
            rng.normal(size=(20, 6)), group, center="centroid", rng=rng, permutations=99
        ).pvalue
        <= 0.05
        for _ in range(1000)
    ]
    assert np.mean(hits) <= 0.08  # 10 % when distances are permuted


def test_dispersion_does_not_see_location(rng):
    group = np.repeat([0, 1], 30)
    x = rng.normal(size=(60, 4))
    moved, there = (
        permdisp(z, group, rng=rng, permutations=9) for z in (x + 100 * group[:, None], x)
    )
    assert_allclose(moved.statistic, there.statistic, rtol=1e-6)
    spread = permdisp(x * (1 + 2 * group[:, None]), group, rng=rng, permutations=199)
    assert spread.pvalue == 1 / 200
    assert spread.mean_distance[1] > 2 * spread.mean_distance[0]


def test_dispersion_p_value_agrees_with_vegan_in_large_groups(rng):
    # large groups: permuting deviations and permuting distances agree, as does the F law
    group = np.repeat([0, 1], 150)
    x = rng.normal(size=(300, 3)) * np.where(group, 1.1, 1.0)[:, None]
    for center in ("centroid", "median"):
        result = permdisp(x, group, center=center, rng=rng, permutations=499)
        assert abs(result.pvalue - stats.f.sf(result.statistic, 1, 298)) < 0.07


def test_spatial_median_closed_forms():
    assert_allclose(spatial_median(np.array([[0.0], [1.0], [10.0]])), [1.0], atol=1e-8)
    # a triangle with an angle of at least 120 degrees: its corner
    assert_allclose(spatial_median(np.array([[-5.0, 0.1], [0, 0], [5.0, 0.1]])), [0, 0], atol=1e-6)
    corners = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 3.0], [0.0, 3.0]])  # crossing of diagonals
    assert_allclose(spatial_median(corners), [2.0, 1.5], atol=1e-8)
    assert_allclose(spatial_median(np.ones((4, 3))), np.ones(3))


@pytest.mark.parametrize("seed", [11, 1774])
def test_spatial_median_at_or_near_a_row_that_occurs_several_times(seed):
    # drawn with replacement: Weiszfeld's steps alone creep towards the row that occurs three times
    pool = np.random.default_rng(5).normal(size=(24, 6))
    x = pool[np.random.default_rng(seed).integers(24, size=10)]
    found = spatial_median(x, steps=500)
    rows, counts = np.unique(x, axis=0, return_counts=True)
    assert_allclose(found, rows[counts.argmax()], atol=0.1)

    def total(point):
        return np.linalg.norm(x - point, axis=1).sum()

    steps = 1e-4 * np.random.default_rng(6).normal(size=(200, 6))
    assert all(total(found) < total(found + step) for step in steps)


def test_spatial_median_against_scipy(rng):
    x = rng.standard_t(3, size=(21, 4))
    best = optimize.minimize(
        lambda c: np.linalg.norm(x - c, axis=1).sum(), x.mean(0), tol=1e-12, method="BFGS"
    )
    assert_allclose(spatial_median(x), best.x, atol=1e-5)


def test_same_seed_same_p_and_never_zero(iris):
    x, species = iris
    p = [
        permanova(x, {"s": species}, rng=np.random.default_rng(s), permutations=9).pvalue[0]
        for s in (3, 3)
    ]
    assert p[0] == p[1] == 0.1


def test_bad_input(rng):
    x = rng.normal(size=(12, 3))
    a, b = crossed(4, 3)
    with pytest.raises(StatsnormError, match=r"12 rows, 12 parameters"):
        permanova(x, {"a": a, "b": b}, interaction=True, rng=rng)
    with pytest.raises(StatsnormError, match="'c' adds nothing"):
        permanova(x, {"a": a, "c": a // 2}, rng=rng)
    with pytest.raises(StatsnormError, match="factor 'a' must have at least 2 levels"):
        permanova(x, {"a": np.zeros(12)}, rng=rng)
    with pytest.raises(StatsnormError, match="none can be permuted"):
        permanova(x, {"a": a}, blocks=np.arange(12), rng=rng)
    with pytest.raises(StatsnormError, match="do not differ"):
        permanova(np.ones((12, 2)), {"a": a}, rng=rng)
    with pytest.raises(StatsnormError, match="rng must be a numpy"):
        permanova(x, {"a": a}, rng=7)
    with pytest.raises(StatsnormError, match="square and symmetric"):
        permanova(x, {"a": a}, metric="precomputed", rng=rng)
    with pytest.raises(StatsnormError, match="every group needs two rows, 3 has 1"):
        permdisp(x[:10], a[:10], rng=rng)
    with pytest.raises(StatsnormError, match="centroid, median; got 'mean'"):
        permdisp(x, a, center="mean", rng=rng)
