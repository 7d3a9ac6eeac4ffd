"""Iterations to a threshold: when each cell first is as good as IN is at a share of its budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from statsnorm.curves.study import Frames, Study
from statsnorm.curves.summary import BN, DONE, IN, ORIGINAL
from statsnorm.stats.survival import (
    iterations_to_threshold,
    log_rank,
    restricted_mean,
    restricted_mean_difference,
)

Array = NDArray[np.float64]

WINDOW = 5  # recorded points of the trailing median: 5 % of T on the usual grid
SHARES = (0.25, 0.5, 1.0)  # of T, at which IN's median loss is a threshold
NORMS = (IN, BN)


def thresholds(study: Study, frames: Frames) -> pd.DataFrame:
    """Return threshold, tau, blocks, source: IN's median held-out loss at shares of T.

    From pilot cells only; without pilots from the study itself, which is then exploratory.
    """
    cells = frames["cells"]
    pilot = cells[cells["pilot"] & (cells["status"] == DONE) & (cells["norm"] == IN)]
    pilot = pilot[pilot["condition"] == ORIGINAL]
    chosen = study.rates[(study.rates["norm"] == IN) & (study.rates["condition"] == ORIGINAL)]
    tuned = pilot[np.isclose(pilot["lr"], float(chosen["lr"].iloc[0]))] if len(chosen) else pilot
    pilot = tuned if len(tuned) else pilot
    rows = []
    for share in SHARES:
        if len(pilot):
            at = [_loss_at(frames, cell, share * t) for cell, t in
                  zip(pilot["cell"], pilot["iterations"], strict=True)]  # fmt: skip
            source = "pilot"
        else:
            curve, grid = study.curve(IN, "a"), study.grids["heldout"]
            kept = np.flatnonzero(study.kept) if curve is not None else ()
            at = [float(curve[r, _nearest(grid, share * study.horizon)]) for r in kept]
            source = "same runs, exploratory"
        if at:
            rows.append(
                {
                    "threshold": f"IN's median at {share:.0%} of T",
                    "tau": float(np.median(at)),
                    "blocks": len(at),
                    "source": source,
                }
            )
    return pd.DataFrame(rows, columns=["threshold", "tau", "blocks", "source"])


def _loss_at(frames: Frames, cell: int, iteration: float) -> float:
    mine = frames["heldout"][frames["heldout"]["cell"] == cell]
    at = _nearest(mine["iteration"].to_numpy(float), iteration)
    return float(mine["style"].iloc[at])


def _nearest(grid: Array, iteration: float) -> int:
    return int(np.abs(grid - iteration).argmin())


def passage_times(study: Study, taus: pd.DataFrame, letters: Sequence[str]) -> pd.DataFrame:
    """Return condition, threshold, norm, block, time, reached of all blocks with both norms.

    A cell that diverged is kept: what it had not reached by then it never reaches.
    """
    rows = []
    window = min(WINDOW, len(study.grids.get("heldout", ())))
    for letter in letters:
        curves = {norm: study.curve(norm, letter) for norm in NORMS}
        both = ~np.any([np.isnan(c).any(axis=1) for c in curves.values()], axis=0)
        for row in taus.to_dict("records") if both.any() else []:
            for norm, curve in curves.items():
                found = iterations_to_threshold(
                    curve[both],
                    iterations=study.grids["heldout"],
                    threshold=row["tau"],
                    window=window,
                )
                rows.append(
                    pd.DataFrame(
                        {
                            "condition": letter,
                            "threshold": row["threshold"],
                            "norm": norm,
                            "block": study.blocks.loc[both, "block"].to_numpy(),
                            "time": found.time,
                            "reached": found.event,
                        }
                    )
                )
    columns = ["condition", "threshold", "norm", "block", "time", "reached"]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=columns)


def passage_table(
    times: pd.DataFrame, horizon: float, rng: np.random.Generator, *, confidence: float = 0.95
) -> pd.DataFrame:
    """Compare the norms: restricted means up to T, their paired difference, log-rank by block.

    Columns: condition, threshold, blocks, in_reached, bn_reached, in_mean, bn_mean, difference
    (BN - IN, iterations), low, high, chi2, pvalue (exact or permuted within blocks).
    """
    rows = []
    for (letter, threshold), mine in times.groupby(["condition", "threshold"], sort=False):
        arms = {norm: mine[mine["norm"] == norm].sort_values("block") for norm in NORMS}
        x, y = ((a["time"].to_numpy(float), a["reached"].to_numpy(bool)) for a in
                (arms[BN], arms[IN]))  # fmt: skip
        row: dict[str, Any] = {
            "condition": letter,
            "threshold": threshold,
            "blocks": len(arms[IN]),
            "in_reached": int(y[1].sum()),
            "bn_reached": int(x[1].sum()),
            "in_mean": restricted_mean(*y, horizon=horizon, confidence=confidence).estimate,
            "bn_mean": restricted_mean(*x, horizon=horizon, confidence=confidence).estimate,
        }
        row["difference"] = row["bn_mean"] - row["in_mean"]
        row["low"] = row["high"] = row["chi2"] = row["pvalue"] = np.nan
        if row["blocks"] > 1:
            d = restricted_mean_difference(
                *x, *y, horizon=horizon, paired=True, confidence=confidence
            )
            row |= {"difference": d.estimate, "low": d.low, "high": d.high}
            names = arms[BN]["block"].to_numpy(), arms[IN]["block"].to_numpy()
            test = log_rank(*x, *y, blocks=names, rng=rng)
            row |= {"chi2": test.statistic, "pvalue": test.pvalue}
        rows.append(row)
    return pd.DataFrame(rows)


def survival_steps(times: pd.DataFrame, horizon: float) -> pd.DataFrame:
    """Return the share of cells not yet at the threshold, as steps for a figure.

    All censoring is at T, so the Kaplan-Meier curve is that share. Columns: condition,
    threshold, norm, iteration, share; a step starts at its iteration.
    """
    rows = []
    for (letter, threshold, norm), mine in times.groupby(
        ["condition", "threshold", "norm"], sort=False
    ):
        hits = np.sort(mine.loc[mine["reached"].astype(bool), "time"].to_numpy(float))
        at = np.unique(hits)
        left = 1 - np.searchsorted(hits, at, side="right") / len(mine)
        steps = [(0.0, 1.0), *zip(at, left, strict=True), (horizon, left[-1] if len(at) else 1.0)]
        rows += [(letter, threshold, norm, t, share) for t, share in steps]
    return pd.DataFrame(rows, columns=["condition", "threshold", "norm", "iteration", "share"])


def speed_up(study: Study, letter: str) -> pd.DataFrame:
    """Return block, q, reached: Q = T / k_IN(L_BN(T)), how much earlier IN reaches BN's loss.

    L_BN(T) is the trailing median that also stops IN's clock, so identical curves that fall give
    Q = 1. Not reached: IN never gets there, Q < 1 and unknown (nan).
    """
    columns = ["block", "q", "reached"]
    bn, plain = (study.curve(norm, letter) for norm in (BN, IN))
    if bn is None or plain is None or "heldout" not in study.grids:
        return pd.DataFrame(columns=columns)
    use = study.kept & np.isfinite(bn).all(axis=1) & np.isfinite(plain).all(axis=1)
    if not use.any():
        return pd.DataFrame(columns=columns)
    window = min(WINDOW, len(study.grids["heldout"]))
    goal = np.median(bn[use][:, -window:], axis=1)
    found = iterations_to_threshold(
        plain[use], iterations=study.grids["heldout"], threshold=goal, window=window
    )
    q = np.where(found.event, study.horizon / np.maximum(found.time, 1), np.nan)
    names = study.blocks.loc[use, "block"].to_numpy()
    return pd.DataFrame({"block": names, "q": q, "reached": found.event})
