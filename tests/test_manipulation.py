import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from synthetic_tables import SyntheticTables

from analyses import manipulation
from statsnorm.decisions import load_plan

PLAN = load_plan()
IMAGES = [f"{i:03d}.jpg" for i in range(40)]


def study(rng, *, luminance=0.02, style=0.3, contrast=0.8, matched=1.0, nearer=40):
    """Variance of each condition as a share of the originals'."""
    tables = SyntheticTables()
    shares = {
        "original": (1, 1), "contrast": (luminance, contrast), "style": (0.4, style),
        "ck": (1.0, style), "placebo": (0.9, 0.9), "placebo-matched": (0.9, matched),
    }  # fmt: skip
    base = {tap: rng.normal(size=(40, 6)) for tap in manipulation.VGG_TAPS}
    light = rng.normal(size=(40, 1))
    for condition, (pixel, vgg) in shares.items():
        keys = {"condition": condition, "tap_kind": "post_act"}
        sd = 0.2 + 0.02 * np.sqrt(pixel) * light
        mean = 0.5 + 0.1 * np.sqrt(pixel) * light
        tables.add(
            {**keys, "network": "pixels", "tap": "luminance"}, {"image": IMAGES}, mean, sd**2
        )
        for tap in manipulation.VGG_TAPS:
            y = 0.3 * np.sqrt(vgg) * base[tap]
            tables.add(
                {**keys, "network": "vgg16", "tap": tap}, {"image": IMAGES}, y, np.exp(2 * y)
            )
    tables.content_rows = pd.DataFrame(
        {
            "image": IMAGES, "condition": "style", "network": "vgg16", "tap": "relu4_2",
            "distance": np.where(np.arange(40) < nearer, 0.4, 0.9), "random_distance": 0.8,
        }
    )  # fmt: skip
    return tables


def report(tables):
    return manipulation.run(manipulation.summarise(tables), PLAN, np.random.default_rng(0))


def gates(found):
    return {gate.name: gate for gate in found.gates}


def test_all_gates_pass_and_report_the_planted_shares():
    found = report(study(np.random.default_rng(0)))
    by = gates(found)
    assert set(by) == {"M1", "M2", "M3", "pstar_matched"}
    assert all(gate.passed for gate in by.values())
    assert all(gate.rule.startswith("40 images: ") for gate in by.values())
    assert_allclose(by["M1"].value, 0.98, atol=1e-6)
    assert_allclose(by["M2"].value, 0.7, atol=1e-6)
    assert_allclose(by["pstar_matched"].value, 1.0, atol=1e-6)
    assert by["M3"].value == 1
    assert any(text.startswith("M4: style normalisation removes 60 %") for text in found.findings)


@pytest.mark.parametrize(
    ("change", "gate"),
    [
        ({"luminance": 0.2}, "M1"),
        ({"style": 0.6}, "M2"),
        ({"contrast": 0.2}, "M2"),  # equalisation removes more
        ({"nearer": 37}, "M3"),
        ({"matched": 0.5}, "pstar_matched"),
    ],
)
def test_each_gate_can_fail(change, gate):
    by = gates(report(study(np.random.default_rng(1), **change)))
    assert [name for name, g in by.items() if not g.passed] == [gate]


def test_added_variance_is_negative_not_clipped():
    found = report(study(np.random.default_rng(2), matched=1.5))
    assert_allclose(
        manipulation.value(found.tables["removed"], "placebo-matched", "v"), -0.5, atol=1e-6
    )


def test_trace_variance_against_numpy():
    x = np.random.default_rng(3).normal(size=(7, 4))
    values = manipulation.trace_variance(x)
    subsets = [x, *(np.delete(x, i, 0) for i in range(7))]
    assert_allclose(values, [s.var(axis=0, ddof=1).mean() for s in subsets])


def test_what_is_missing_is_said():
    tables = study(np.random.default_rng(4))
    tables.blocks = [b for b in tables.blocks if b[0]["network"] == "pixels"]
    tables.content_rows = tables.content_rows.iloc[:0]
    found = report(tables)
    assert set(gates(found)) == {"M1"}
    assert [text[:3] for text in found.left_out] == ["M2:", "M3:", "the"]  # no range recorded


def test_runs_without_plain_conditions_are_not_called_old():
    content = manipulation.summarise(study(np.random.default_rng(4)))["content"]
    found = manipulation.run({"content": content}, PLAN, np.random.default_rng(0))
    assert set(gates(found)) == {"M3"}
    assert not any("older" in text for text in found.left_out)


def test_image_absent_from_one_condition_leaves_all():
    tables = study(np.random.default_rng(5))
    for i, (row, labels, mean, var) in enumerate(tables.blocks):
        if row["condition"] == "style":
            tables.blocks[i] = (row, {"image": labels["image"][:-1]}, mean[:-1], var[:-1])
    frames = manipulation.summarise(tables)
    assert set(frames["traces"]["images"]) == {39}


def test_nothing_to_compare():
    assert (
        manipulation.summarise(
            SyntheticTables(
                [
                    b
                    for b in study(np.random.default_rng(6)).blocks
                    if b[0]["condition"] == "original"
                ]
            )
        )
        == {}
    )


def test_rivals_of_style_are_named():
    tables = study(np.random.default_rng(7))
    assert gates(report(tables))["M2"].rule.endswith("and more than contrast and placebo")
    tables.blocks = [b for b in tables.blocks if b[0]["condition"] != "placebo"]
    found = report(tables)
    assert gates(found)["M2"].rule.endswith("and more than contrast")
    assert "M2: not compared with placebo, which was not measured" in found.left_out


def test_zero_variances_are_raised_to_the_least_of_their_channel():
    var = np.array([[0.0, 2.0, 0.0], [4.0, 3.0, 0.0], [1.0, 0.0, 0.0]])
    raised = manipulation.without_zeros(var)
    assert raised.tolist() == [[1.0, 2.0, 0.0], [4.0, 3.0, 0.0], [1.0, 2.0, 0.0]]


def test_same_image_retrieval_against_the_originals():
    rng, tables = np.random.default_rng(8), study(np.random.default_rng(8))
    base = rng.normal(size=(40, 6))
    for condition, noise in (("original", 0.0), ("contrast", 0.05), ("style", 3.0)):
        y = 0.3 * (base + noise * rng.normal(size=base.shape))
        keys = {"condition": condition, "tap_kind": "post_act", "network": "vgg16"}
        tables.add({**keys, "tap": "relu4_2"}, {"image": IMAGES}, y, np.exp(2 * y))
    found = report(tables)
    table = found.tables["retrieval"].set_index("condition")
    assert set(table.index) == {"contrast", "style"}
    assert table.loc["contrast", "estimate"] == 1
    assert table.loc["style", "high"] < 0.6
    assert (table["chance"] == 1 / 40).all()
    assert sum(text.startswith("Same-image retrieval, ") for text in found.findings) == 2
    assert "retrieval" not in report(study(np.random.default_rng(8))).tables
