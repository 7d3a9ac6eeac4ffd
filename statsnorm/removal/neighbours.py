"""Which styles are neighbours before and after normalisation: t-SNE, on request only."""

from __future__ import annotations

import numpy as np
import pandas as pd

from statsnorm.decisions import Plan, load_plan
from statsnorm.errors import StatsnormError
from statsnorm.removal.crossed import (
    Cells,
    Design,
    Member,
    MomentTables,
    find_designs,
    load_members,
)
from statsnorm.removal.projection import (
    PANELS,
    centred,
    compared,
    pair_of,
    shortened,
    style_points,
)
from statsnorm.report.model import Figure, Report
from statsnorm.stats.scale_free import live_channels
from statsnorm.wording import counted


def neighbours(tables: MomentTables, rng: np.random.Generator) -> Report:
    """Return the t-SNE of style statistics: an extra, made on request and never verified."""
    table = neighbour_table(tables, load_plan(), rng)
    net, tap = table["net"].iloc[0], table["tap"].iloc[0]
    images, styles = len(table["x"].iloc[0]), table["style"].nunique()
    caption = (
        f"t-SNE of the style statistics (m and v) at VGG {tap} of the output of {net}, before and "
        f"after in one layout; {counted(images, 'images')} x "
        f"{counted(styles, 'styles')}, first contrast level. It shows "
        "neighbours; distances, sizes and gaps have no unit and no interval."
    )
    figure = Figure(
        name="neighbours",
        draw="neighbour_map",
        table="neighbours",
        caption=caption,
        alt="t-SNE layout of style statistics, normalisers frozen and at work, coloured by style.",
    )
    return Report(
        name="removed_variance",
        title="t-SNE of style statistics",
        question=str(__doc__),
        tables={"neighbours": table},
        figures=(figure,),
    )


def neighbour_table(tables: MomentTables, plan: Plan, rng: np.random.Generator) -> pd.DataFrame:
    """Return t-SNE coordinates of the points before and after, laid out together.

    Of the first trained network that has both arms at VGG's primary tap of its output. Columns:
    net, tap, panel, style, x, y (lists over images).

    Raises
    ------
    StatsnormError
        If there is no such network.
    """
    from statsnorm.neighbours import tsne  # scikit-learn is slow to import

    design, members = _first_pair(tables, plan)
    live = live_channels([cells.var for cells in members.values()], eps=0.0)
    pair = pair_of(members, plan)
    assert pair is not None
    clouds = [centred(style_points(cells, live)) for cells in pair]
    images, styles, width = clouds[0].shape
    layout = tsne(np.concatenate([c.reshape(-1, width) for c in clouds]), rng=rng)
    places = layout.reshape(2, images, styles, 2)
    return pd.DataFrame(
        {
            "net": design.net,
            "tap": plan.primary["and_tap"],
            "panel": panel,
            "style": str(style),
            "x": shortened(places[p, :, s, 0]),
            "y": shortened(places[p, :, s, 1]),
        }
        for p, panel in enumerate(PANELS)
        for s, style in enumerate(pair[0].labels[1])
    )


def _first_pair(tables: MomentTables, plan: Plan) -> tuple[Design, dict[Member, Cells]]:
    for design in find_designs(tables.keys()):
        rows = design.rows[design.rows["tap"] == plan.primary["and_tap"]]
        found = set(zip(rows["condition"], rows["treatment"], strict=True))
        wanted = compared(plan)
        if not design.untrained and design.network["source"] != "input" and found >= set(wanted):
            members, _ = load_members(tables, design, plan.primary["and_tap"], 0, list(wanted))
            return design, members
    raise StatsnormError(
        "no trained network has a crossed design with an intact and a frozen arm at "
        f"{plan.primary['and_tap']} of its output"
    )
