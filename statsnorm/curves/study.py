"""From cells to a study: one setting, one learning rate an arm, blocks complete or dropped."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from statsnorm.curves.contrasts import letters_of
from statsnorm.curves.summary import BN, DONE, IN, LOSSES, ORIGINAL
from statsnorm.decisions import Plan
from statsnorm.errors import StatsnormError

Array = NDArray[np.float64]
Frames = Mapping[str, pd.DataFrame]
Key = tuple[str, str, str, str]  # source, loss, norm, condition

FAMILY = "F1"
LETTERS = {
    "original": "a",
    "contrast": "b",
    "style": "c",
    "ck": "ck",
    "placebo-matched": "pstar",
    "placebo": "p",
    "blur": "q",
    "contrast-rgb": "b2",
    "standardise-rgb": "b3",
    "whiten": "b4",
    "clahe": "b5",
}
"""Letters of the method for conditions, in the order of the figures; others keep their names."""

CONDITIONS = {letter: name for name, letter in LETTERS.items()}
STRONG = ("b2", "b3", "b4", "b5")  # stronger contrast normalisations than (b)


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """The cells of the primary setting as arrays; row r of every array is block r."""

    setting: int
    config: Mapping[str, Any]  # what all cells share
    horizon: int  # T
    grids: Mapping[str, Array]  # source -> iterations (P,)
    loss: Mapping[Key, Array]  # (B, P); nan: no such cell, inf: from divergence on
    blocks: pd.DataFrame  # block, target, seed, kept
    cells: pd.DataFrame  # the cells used, with `row` of their block
    dropped: pd.DataFrame  # block, target, norm, condition, reason
    rates: pd.DataFrame  # norm, condition, lr, pilot_best

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Blocks (B,) whose planned deciding cells are all there."""
        return self.blocks["kept"].to_numpy(bool)

    def letters(self) -> list[str]:
        """Return the letters of conditions that both norms were trained on, in figure order."""
        names = [c for _, loss, n, c in self.loss if n == BN and loss == "style"]
        both = {c for c in names if ("heldout", "style", IN, c) in self.loss}
        order = [*LETTERS, *sorted(both - set(LETTERS))]
        return [letter(c) for c in order if c in both]

    def curve(self, norm: str, letter: str, *, loss: str = "style", source: str = "heldout") -> Any:
        """Return losses (B, P), or None where no such cell was planned."""
        return self.loss.get((source, loss, norm, CONDITIONS.get(letter, letter)))


def letter(condition: str) -> str:
    """Return the method's letter of a condition."""
    return LETTERS.get(condition, condition)


def study_of(frames: Frames, plan: Plan) -> Study:
    """Choose the primary setting and learning rates, and arrange its cells by block.

    The primary setting has the most blocks with both norms finished on originals. Of several
    learning rates an arm has the pilot's best, or, without pilot, the one with most blocks.
    A block that lacks a planned cell of a deciding condition is dropped as a whole.

    Raises
    ------
    StatsnormError
        If no cell of the primary setting is finished.
    """
    cells = frames["cells"]
    main = cells[~cells["pilot"]]
    setting = _primary(main)
    mine = main[main["setting"] == setting]
    rates = chosen_rates(mine, frames)
    used = mine.merge(rates[["norm", "condition", "lr"]], on=["norm", "condition", "lr"])
    done = used["status"] == DONE
    used = used.assign(done=done).sort_values(
        ["done", "run", "cell"], ascending=[False, True, True]
    )
    used = used.drop_duplicates(["target", "seed", "block", "norm", "condition"])
    used = used.sort_values("cell").reset_index(drop=True)
    grids = _grids(used, frames)
    if "heldout" not in grids:
        raise StatsnormError("figure 1 needs a finished cell with held-out losses; there is none")
    used = used.assign(status=_on_grid(used, frames, grids))
    blocks = used[["block", "target", "seed"]].drop_duplicates().reset_index(drop=True)
    row = {tuple(b): i for i, b in enumerate(blocks.itertuples(index=False, name=None))}
    keys = used[["block", "target", "seed"]].itertuples(index=False, name=None)
    used = used.assign(row=[row[tuple(k)] for k in keys])
    dropped = _dropped(used, plan)
    blocks = blocks.assign(kept=~blocks.index.isin(dropped["row"]))
    config = dict(zip(frames["settings"]["setting"], frames["settings"]["config"], strict=True))
    return Study(
        setting=setting,
        config=json.loads(config[setting]),
        horizon=int(used["iterations"].iloc[0]),
        grids=grids,
        loss=_losses(used, len(blocks), frames, grids),
        blocks=_labelled(blocks),
        cells=used,
        dropped=dropped.drop(columns="row").reset_index(drop=True),
        rates=rates,
    )


def _primary(cells: pd.DataFrame) -> int:
    """Return the setting with most finished pairs on originals; then with most cells."""
    rank = {}
    for setting, mine in cells.groupby("setting", sort=True):
        pairs = mine[(mine["condition"] == ORIGINAL) & mine["norm"].isin([IN, BN])]
        finished = pairs[pairs["status"] == DONE].groupby(["run", "block"])["norm"].nunique()
        planned = pairs.groupby(["run", "block"])["norm"].nunique()
        rank[int(str(setting))] = ((finished == 2).sum(), (planned == 2).sum(), len(mine))
    return max(rank, key=lambda s: (*rank[s], -s))


def chosen_rates(cells: pd.DataFrame, frames: Frames) -> pd.DataFrame:
    """Return norm, condition, lr, pilot_best (nan without pilot) of every arm."""
    pilot = pilot_losses(frames)
    best = {
        key: float(p["lr"].to_numpy()[p["loss"].to_numpy().argmin()])
        for key, p in pilot.groupby(["norm", "condition"], sort=True)
        if np.isfinite(p["loss"]).any()
    }
    rows = []
    for (norm, condition), mine in cells.groupby(["norm", "condition"], sort=True):
        there = sorted(set(mine["lr"]))
        done = mine[mine["status"] == DONE].groupby("lr").size().reindex(there, fill_value=0)
        tuned = best.get((norm, condition), np.nan)
        chosen = tuned if tuned in there else there[int(done.to_numpy().argmax())]
        rows.append({"norm": norm, "condition": condition, "lr": chosen, "pilot_best": tuned})
    return pd.DataFrame(rows)


def pilot_losses(frames: Frames) -> pd.DataFrame:
    """Return norm, condition, lr, loss, blocks: geometric mean of the pilots' last held-out loss.

    A pilot that diverged or stopped makes its rate's loss infinite.
    """
    cells = frames["cells"]
    pilot = cells[cells["pilot"] & cells["norm"].isin([IN, BN])]
    columns = ["norm", "condition", "lr", "loss", "blocks"]
    if not len(pilot):
        return pd.DataFrame(columns=columns)
    last = frames["heldout"].groupby("cell")["style"].last()
    logs = np.log(last.where(last > 0).reindex(pilot["cell"]).to_numpy())
    logs = np.where(pilot["status"] == DONE, logs, np.inf)
    grouped = pilot.assign(log=logs).groupby(["norm", "condition", "lr"], sort=True)["log"]
    table = grouped.agg(["mean", "size"]).reset_index()
    table["mean"] = np.exp(table["mean"])
    return table.set_axis(columns, axis=1)


def _grids(used: pd.DataFrame, frames: Frames) -> dict[str, Array]:
    """Return for each source the grid on which most finished cells were recorded."""
    grids = {}
    for source in ("heldout", "running", "minibatch"):
        frame = frames.get(source)
        done = set(used.loc[used["status"] == DONE, "cell"])
        own = frame[frame["cell"].isin(done)] if frame is not None else None
        if own is None or not len(own):
            continue
        found = Counter(tuple(x) for _, x in own.groupby("cell", sort=True)["iteration"])
        grids[source] = np.array(found.most_common(1)[0][0], float)
    return grids


def _on_grid(used: pd.DataFrame, frames: Frames, grids: Mapping[str, Array]) -> list[str]:
    held = frames.get("heldout", pd.DataFrame({"cell": [], "iteration": []}))
    own = {cell: tuple(x) for cell, x in held.groupby("cell", sort=True)["iteration"]}
    grid = tuple(grids.get("heldout", ()))
    return [
        "recorded at other iterations" if state == DONE and own[cell] != grid else state
        for cell, state in zip(used["cell"], used["status"], strict=True)
    ]


def deciding(plan: Plan) -> set[str]:
    """Return the letters of the conditions that the rules of F1 need."""
    members = plan.families.get(FAMILY, ())
    return {x for r in plan.rules if r.hypothesis in members for x in letters_of(r.statistic)}


def _dropped(used: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    conditions = {CONDITIONS.get(x, x) for x in deciding(plan)}
    matters = used["norm"].isin([IN, BN]) & used["condition"].isin(conditions)
    bad = used[matters & (used["status"] != DONE)]
    columns = ["row", "block", "target", "norm", "condition", "status"]
    return bad[columns].rename(columns={"status": "reason"})


def _labelled(blocks: pd.DataFrame) -> pd.DataFrame:
    """Give every block its own label, also where several runs call theirs alike."""
    names = blocks["block"].astype(str)
    twice = names.duplicated(keep=False)
    numbered = names + "." + blocks.groupby("block").cumcount().add(1).astype(str)
    return blocks.assign(block=names.where(~twice, numbered))


def _losses(
    used: pd.DataFrame, n: int, frames: Frames, grids: Mapping[str, Array]
) -> dict[Key, Array]:
    arrays: dict[Key, Array] = {}
    for source, loss, at, mine in _traces(used, frames, grids):
        key = (source, loss, str(at["norm"]), str(at["condition"]))
        values = arrays.setdefault(key, np.full((n, len(grids[source])), np.nan))
        place = np.searchsorted(grids[source], mine["iteration"])
        ok = np.isclose(grids[source][np.minimum(place, len(grids[source]) - 1)], mine["iteration"])
        seen = mine[loss].to_numpy(float)[ok]
        row = values[at["row"]]
        row[:] = np.inf  # beyond the last record of a cell that ended early
        row[place[ok]] = np.where(np.isfinite(seen) & (seen > 0), seen, np.inf)
    return arrays


def _traces(
    used: pd.DataFrame, frames: Frames, grids: Mapping[str, Array]
) -> Iterator[tuple[str, str, Any, pd.DataFrame]]:
    for source in grids:
        groups = dict(iter(frames[source].groupby("cell", sort=False)))
        for at in used.to_dict("records"):
            if at["cell"] in groups:
                for loss in LOSSES if source != "minibatch" else ("style",):
                    yield source, loss, at, groups[at["cell"]]
