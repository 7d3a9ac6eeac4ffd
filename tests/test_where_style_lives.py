from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from synthetic_tables import CELL_DEFAULTS, InOrder

from analyses import where_style_lives
from statsnorm import style_parts
from statsnorm.decisions import load_plan
from statsnorm.errors import StatsnormError
from statsnorm.probes import group_folds
from statsnorm.stats.shapley import channel_statistics, gram
from statsnorm.style_parts import (
    StyleCells,
    decode_style,
    feature_sets,
    gram_replicates,
    split_half_pvalue,
)

PLAN = load_plan()
CONTENTS, STYLES, CHANNELS = 12, 4, 6


def activations(seed, *, m=0.0, v=0.0, rho=0.0, pixels=120, contents=CONTENTS, styles=STYLES):
    """Return (I, S, C, P) activations whose style shifts means, log sds or correlations only."""
    rng = np.random.default_rng(seed)
    shape = (contents, styles, CHANNELS)
    mean = m * rng.normal(size=shape[1:]) + 0.5 * rng.normal(size=shape)
    log_sd = v * rng.normal(size=shape[1:]) + 0.2 * rng.normal(size=shape)
    z = rng.normal(size=(*shape, pixels))
    mixed = z.copy()
    for s in range(styles):  # unit variance whatever the mixing
        root = np.eye(CHANNELS) + rho * rng.normal(size=(CHANNELS, CHANNELS))
        root /= np.sqrt((root**2).sum(1, keepdims=True))
        mixed[:, s] = root @ z[:, s]
    mixed -= mixed.mean(-1, keepdims=True)
    mixed /= mixed.std(-1, keepdims=True)  # means and sds hold nothing of the mixing
    return mixed * np.exp(log_sd)[..., None] + mean[..., None]


def cells(x, *, channels=None, fixed=False, live=None):
    statistics = channel_statistics(x)
    kept = np.arange(x.shape[2]) if channels is None else np.array(channels)
    rho = statistics.correlation[..., kept[:, None], kept]
    upper = np.triu_indices(len(kept), 1)
    return StyleCells(
        mean=statistics.mean,
        var=statistics.sd**2,
        correlation=rho[..., upper[0], upper[1]],
        channels=kept,
        live=np.ones(x.shape[2], bool) if live is None else live,
        fixed=fixed,
    )


class Planted(InOrder):
    """Taps of one network under some treatments, made of activations."""

    def __init__(self, taps):
        self.taps = taps
        self.at = {(tap, row["treatment"]): made for tap, row, made in taps}

    def correlation_keys(self):
        rows = []
        for tap, row, made in self.taps:
            base = {**CELL_DEFAULTS, "network": "cin26", "norm": "cin", "tap": tap, "call": 0}
            base |= {"tap_kind": "next_pre_norm", "depth": 1, "by_construction": made.fixed, **row}
            rows += [{**base, "style": f"cin26:{s}"} for s in range(made.mean.shape[1])]
        return pd.DataFrame(rows)

    def array(self, where, axes):
        assert axes == ("image", "style")
        made = self.at[where["tap"], where["treatment"]]
        return SimpleNamespace(mean=made.mean, var=made.var)

    def correlation_array(self, where, axes):
        made = self.at[where["tap"], where["treatment"]]
        return SimpleNamespace(correlation=made.correlation, channels=made.channels)

    def eps(self, **_):
        return 1e-5


def decoded(x, kind):
    made = cells(x)
    rng = np.random.default_rng(0)
    return decode_style(feature_sets(made)[kind], *x.shape[:2], rng=rng)


@pytest.mark.parametrize("lives", ["m", "v", "rho"])
def test_style_is_read_where_it_was_planted_and_nowhere_else(lives):
    x = activations(1, **{lives: 1.5 if lives != "v" else 1.0})
    for kind in ("m", "v", "rho"):
        found = decoded(x, kind)
        if kind == lives:
            assert found.low > 0.6, kind
        else:
            assert found.low < 1 / STYLES < found.high, kind
    assert decoded(x, "all").accuracy > 0.5


def pvalue(x, permutations=9999):
    rng, columns = np.random.default_rng(0), feature_sets(cells(x))["rho"]
    return split_half_pvalue(columns, *x.shape[:2], rng=rng, permutations=permutations)


def test_p_of_a_planted_style_and_its_least_value():
    assert_allclose(pvalue(activations(2, rho=1.5), 999), 2 / 1000)
    assert pvalue(activations(3), 999) > 0.05


def test_size_of_the_split_half_test():
    rng = np.random.default_rng(5)
    hits = []
    for _ in range(200):
        x = rng.normal(size=(8, 1, 3)) + rng.normal(size=(8, 3, 3))  # contents differ, styles not
        hits.append(split_half_pvalue(x.reshape(-1, 3), 8, 3, rng=rng, permutations=99) <= 0.05)
    assert np.mean(hits) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 200)


def test_contents_are_the_groups_and_a_split_by_rows_is_refused(monkeypatch):
    rng = np.random.default_rng(4)
    x = rng.normal(size=(CONTENTS * STYLES, 5))
    monkeypatch.setattr(
        "statsnorm.probes.group_folds",
        lambda units, *rest: group_folds(np.arange(len(units)), *rest),
    )
    with pytest.raises(StatsnormError, match="split by group") as refused:
        decode_style(x, CONTENTS, STYLES, rng=rng)
    assert "leaks" in str(refused.value)


def test_what_tells_contents_apart_does_not_help():
    pattern = np.random.default_rng(4).normal(size=(2 * CONTENTS, STYLES, 5))  # no style in common
    found = decode_style(pattern.reshape(-1, 5), 2 * CONTENTS, STYLES, rng=np.random.default_rng(0))
    assert found.low < 1 / STYLES < found.high


def test_where_a_normaliser_fixes_moments_only_rho_is_read():
    made = cells(activations(5, rho=1.5), fixed=True)
    assert list(feature_sets(made)) == ["rho"]


def test_dead_channels_leave_every_set_and_constant_sets_are_left_out():
    x = activations(6)
    x[:, :, 2] = 0.0
    live = np.array([True, True, False, True, True, True])
    sets = feature_sets(cells(x, live=live))
    assert [v.shape[1] for v in sets.values()] == [5, 5, 10, 20]
    one = np.array([True] + [False] * 5)
    assert list(feature_sets(cells(x, live=one))) == ["m", "v"]
    assert feature_sets(cells(x, live=np.zeros(6, bool))) == {}


def test_a_cell_without_variance_takes_the_least_log_sd_of_its_channel():
    x = activations(7)
    x[0, 0, 3] = 1.0
    v = feature_sets(cells(x))["v"].reshape(CONTENTS, STYLES, CHANNELS)
    assert v[0, 0, 3] == v[:, :, 3].min()
    assert np.isfinite(v).all()


def test_the_parts_of_a_split_sum_to_the_mean_gram_distance():
    x = activations(8, m=0.5, v=0.3, rho=1.0)
    rows = gram_replicates(cells(x))
    assert rows.shape == (1 + CONTENTS + STYLES, 4)
    assert_allclose(rows[:, 1:].sum(axis=1), rows[:, 0])
    matrices = gram(channel_statistics(x))
    distances = [
        ((matrices[i, s] - matrices[i, t]) ** 2).sum()
        for i in range(CONTENTS) for s in range(STYLES) for t in range(s)
    ]  # fmt: skip
    assert_allclose(rows[0, 0], np.mean(distances))
    without = gram_replicates(cells(np.delete(x, 3, axis=0)))
    assert_allclose(rows[1 + 3], without[0])
    less = gram_replicates(cells(np.delete(x, 1, axis=1)))
    assert_allclose(rows[1 + CONTENTS + 1], less[0])


def test_drawn_channels_estimate_the_split_of_all():
    x = activations(13, m=0.5, v=0.3, rho=1.0, contents=3, styles=3)
    draws = [gram_replicates(cells(x, channels=c)) for c in combinations(range(CHANNELS), 4)]
    assert_allclose(np.mean(draws, axis=0), gram_replicates(cells(x)))


def test_a_split_finds_what_was_planted():
    for part, planted in ((1, {"m": 1.5}), (2, {"v": 1.0}), (3, {"rho": 3.0})):
        x = activations(9, **planted, pixels=400)
        rows = gram_replicates(cells(x))
        if part == 3:  # the same means and sds in every style
            statistics = channel_statistics(x)
            z = (x - statistics.mean[..., None]) / statistics.sd[..., None]
            rows = gram_replicates(cells(z))
        shares = rows[0, 1:] / rows[0, 0]
        assert shares.argmax() == part - 1
    assert_allclose(shares, [0, 0, 1], atol=1e-9)


def test_a_split_needs_styles_and_contents():
    with pytest.raises(StatsnormError, match="2 contents and 3 styles, got 12 and 2"):
        gram_replicates(cells(activations(10)[:, :2]))


def planted_tables():
    before = activations(11, m=0.8, v=0.5, rho=1.0)
    statistics = channel_statistics(before)
    after = (before - statistics.mean[..., None]) / statistics.sd[..., None]
    return Planted(
        [
            ("contract.0.norm.in", {"treatment": "none"}, cells(before)),
            ("contract.0.norm", {"treatment": "none", "depth": 2}, cells(after, fixed=True)),
            ("contract.0.norm", {"treatment": "frozen:prefix", "depth": 2}, cells(before * 0.1)),
        ]
    )


@pytest.fixture(scope="module")
def found():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where_style_lives, "PERMUTATIONS", 99)
        frames = where_style_lives.summarise(planted_tables())
    return where_style_lives.run(frames, PLAN, np.random.default_rng(0))


def test_a_report_from_tables(found):
    probes = found.tables["probes"]
    assert set(probes["set"]) == {"m", "v", "rho", "all"}
    behind = probes[(probes["tap"] == "contract.0.norm") & (probes["treatment"] == "none")]
    assert set(behind["set"]) == {"rho"}
    survival = found.tables["survival"].iloc[0]
    assert survival["normaliser"] == "contract.0.norm"
    assert_allclose(survival["share"], survival["bits_kept"] / survival["bits_before"])
    assert survival["low"] < survival["share"] < survival["high"]
    assert found.tables["identity"]["largest_change"].max() < 1e-12
    shares = found.tables["shares"]
    total = shares.groupby(["tap", "treatment"])["estimate"].sum()
    assert_allclose(total, 1)
    fixed = shares[shares["fixed"] & (shares["part"] != "correlations")]
    assert_allclose(fixed["estimate"], 0, atol=1e-9)
    assert set(found.tables["against_frozen"]["set"]) == {"rho"}
    assert any("correlations alone still hold" in text for text in found.findings)
    assert not found.claims
    share = f"{100 * survival['share']:.1f} to {100 * survival['share']:.1f} % of the style"
    ends = f"intervals from {100 * survival['low']:.1f} to {100 * survival['high']:.1f}, contents"
    assert share in found.headline
    assert ends in found.headline


def test_its_figures_draw(found):
    from statsnorm import figures

    for figure in found.figures:
        drawn = getattr(figures, figure.draw)(found.tables[figure.table], **figure.options)
        assert len(drawn.axes) == 2


def test_a_survival_interval_is_the_jackknife_over_contents():
    kept, before = np.array([0.5, 0.9, 0.4, 0.8]), np.array([1.0, 1.2, 0.9, 1.1])
    left = where_style_lives._left_out(kept, before)
    expected = [np.delete(kept, i).mean() / np.delete(before, i).mean() for i in range(4)]
    assert_allclose(left, expected)


def test_runs_without_correlations_say_what_to_do():
    nothing = SimpleNamespace(correlation_keys=lambda: pd.DataFrame())
    with pytest.raises(StatsnormError, match="no correlations; extract --design FILE"):
        where_style_lives.summarise(nothing)
    few = Planted([("t", {"treatment": "none"}, cells(activations(12)[:4]))])
    with pytest.raises(StatsnormError, match="3 styles and 8 contents"):
        where_style_lives.summarise(few)
    assert style_parts.SETS == ("m", "v", "rho", "all")
