import io
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from synthetic_tables import planted_study

from analyses import removed_variance
from statsnorm import figures
from statsnorm.decisions import load_plan


@pytest.fixture(scope="module")
def report():
    tables = planted_study(np.random.default_rng(0))
    frames = removed_variance.summarise(tables)
    return removed_variance.run(frames, load_plan(), np.random.default_rng(0))


def drawn(report, name):
    figure = next(f for f in report.figures if f.name == name)
    return getattr(figures, figure.draw)(report.tables[figure.table], **figure.options)


def texts(figure):
    found = [t.get_text() for axis in figure.axes for t in axis.texts]
    for axis in figure.axes:
        found += [t.get_text() for t in (*axis.get_xticklabels(), *axis.get_yticklabels())]
    return found


@pytest.mark.parametrize(
    "name",
    [
        *("removed_by_depth", "removal_heatmap", "variance_stacks", "forest", "moment_scatter"),
        *("level_qq", "specification_curve"),
    ],
)
def test_every_figure_of_the_report_draws(report, name):
    figure = drawn(report, name)
    assert isinstance(figure, Figure)
    assert figure.get_figwidth() * 96 == pytest.approx(700, abs=2)
    sink = io.BytesIO()
    figure.savefig(sink, format="svg")
    assert sink.tell() > 5000


def test_lines_are_the_estimates_of_the_table(report):
    figure = drawn(report, "removed_by_depth")
    table = report.tables["by_depth"]
    for axis, factor in zip(figure.axes, "SIK", strict=True):
        rows = table[table["factor"] == factor]
        line = next(line for line in axis.lines if line.get_marker() == "o")  # drawn by errorbar
        np.testing.assert_allclose(np.asarray(line.get_ydata(), float), rows["estimate"])
    assert figure.axes[0].get_ylim()[1] > 1


def test_heatmap_greys_what_is_fixed_and_hatches_what_meets_zero(report):
    table = report.tables["heatmap"].copy()
    table.loc[table["tap"] == "b.norm.in", "simultaneous_low"] = -0.1
    figure = figures.removal_heatmap(table)
    patches = figure.axes[0].patches
    assert sum(p.get_hatch() == "////" for p in patches) == 4
    fixed = table[table["by_construction"]]
    assert sum(p.get_hatch() is None for p in patches) == len(fixed) > 0
    assert "0.80" in texts(figure)
    first = figure.axes[0].get_yticklabels()[0].get_text()
    top = figure.axes[0].get_ylim()[0] > figure.axes[0].get_ylim()[1]
    assert (first, top) == (table["tap"].iloc[0], True)


def test_stacks_truncate_negative_estimates():
    rows = [
        {"tap": "a", "when": when, "style": 1.0, "content": -0.5, "contrast": 0.2,
         "interactions": 0.1}
        for when in ("before", "after")
    ]  # fmt: skip
    figure = figures.variance_stacks(pd.DataFrame(rows))
    widths = [p.get_width() for p in figure.axes[0].patches]
    assert min(widths) == 0
    assert max(p.get_x() + p.get_width() for p in figure.axes[0].patches) == pytest.approx(1.3)


def test_scatter_panels_of_a_channel_span_the_same(report):
    figure = drawn(report, "moment_scatter")
    spans = [np.ptp(axis.get_ylim()) for axis in figure.axes[:3]]
    np.testing.assert_allclose(spans, spans[0])
    assert len(figure.axes) == 6  # two channels; input, frozen, normalised


def test_forest_draws_open_intervals_to_the_edge():
    row = {"label": "a", "scale": "x", "estimate": 0.5, "low": -np.inf, "high": 0.8, "null": 0.0,
           "min_effect": 0.1}  # fmt: skip
    figure = figures.forest(pd.DataFrame([row, {**row, "label": "b", "estimate": np.nan}]))
    low, high = figure.axes[0].get_xlim()
    assert np.isfinite([low, high]).all()
    assert texts(figure)[-2:] == ["a", "b"]


def test_a_legend_of_long_names_stays_in_the_figure():
    names = [f"texture, trained on {c}: texture {n}" for c in ("original", "style") for n in "ab"]
    table = pd.DataFrame({"label": "V_S", "group": [f"{n} ({'x' * 12})" for n in names]})
    figure = figures.dots(table.assign(estimate=0.0, low=-1.0, high=1.0))
    FigureCanvasAgg(figure).draw()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1


def test_profile_and_dots():
    rows = [
        {"tap": t, "label": t, "group": g, "estimate": 1.0, "low": 0.5, "high": 2.0}
        for t in ("a", "b")
        for g in ("x", "y")
    ]
    for draw in (figures.profile, figures.dots):
        figure = draw(pd.DataFrame(rows), threshold=0.5)
        assert {"a", "b"} <= set(texts(figure))


def test_same_table_same_bytes(report):
    def svg():
        import matplotlib as mpl

        sink = io.BytesIO()
        with mpl.rc_context({"svg.hashsalt": "statsnorm"}):
            drawn(report, "removal_heatmap").savefig(sink, format="svg", metadata={"Date": None})
        return sink.getvalue()

    assert svg() == svg()


def test_names_are_found_and_pyplot_is_not_loaded():
    assert {"forest", "removed_by_depth", "profile"} <= set(dir(figures))
    with pytest.raises(AttributeError, match="no attribute 'fores'"):
        _ = figures.fores
    code = (
        "import sys, statsnorm.figures as f; assert 'matplotlib' not in sys.modules; f.forest; "
        "print('matplotlib.pyplot' in sys.modules)"
    )
    out = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert out.strip() == "False"
