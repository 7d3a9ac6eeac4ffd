"""What a training run holds: its cells, how far each came, and which are still to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from statsnorm.generators import DONE, cell_status, curves_file
from statsnorm.rundir import Run

_NAMED = 5  # cells named of each kind


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedCells:
    """The cells of a training run by what became of them; names in the order of training."""

    design: str  # what is crossed, in words
    iterations: int  # the budget of a cell
    images: int
    done: tuple[str, ...]
    ended: tuple[str, ...]  # "cell: reason": diverged and the like
    begun: tuple[str, ...]  # a part is there from which it goes on
    to_do: tuple[str, ...]
    rows: int  # of the curves
    recorded: int  # iterations that were recorded, of the cell with the most
    reached: int  # the last of them
    generators: int  # last ones
    checkpoints: int  # on the way

    @property
    def cells(self) -> int:
        """How many cells there are in all."""
        return len(self.done) + len(self.ended) + len(self.begun) + len(self.to_do)

    def lines(self) -> list[str]:
        """Return what `statsnorm info` says."""
        said = [
            f"cells {self.cells}: {self.design}, {self.iterations:,} iterations each",
            f"  done {len(self.done)}, ended early {len(self.ended)}, begun {len(self.begun)}, "
            f"to do {len(self.to_do)}",
            f"curves: {self.rows:,} rows, {self.recorded} recorded iterations a cell, "
            f"the last {self.reached:,}",
            f"generators {self.generators}, checkpoints on the way {self.checkpoints}; "
            f"images {self.images}",
        ]
        for word, names in (
            ("ended early", self.ended),
            ("begun", self.begun),
            ("to do", self.to_do),
        ):
            said += [f"{word}: {_some(names)}"] if names else []
        return said


def trained_cells(run: Run) -> TrainedCells:
    """Return what became of the cells of a training run, finished or not.

    A cell counts as done when its curves are there and say so; damaged curves count as to do.
    """
    names = [Path(n).stem for n in run.expected.files if n.startswith("curves/")]
    status = {name: _status(run, name) for name in names}
    curves = [c for name in names if (c := _curves(run, name)) is not None]
    config = run.config["train"]
    return TrainedCells(
        design=_design(config),
        iterations=int(config["iterations"]),
        images=int(run.config.get("images", {}).get("n", 0)),
        done=tuple(n for n in names if status[n] == DONE),
        ended=tuple(f"{n}: {status[n]}" for n in names if status[n] not in (DONE, "", "begun")),
        begun=tuple(n for n in names if status[n] == "begun"),
        to_do=tuple(n for n in names if status[n] == ""),
        rows=sum(len(column) for column in curves),
        recorded=max((len(pc.unique(column)) for column in curves), default=0),
        reached=max((pc.max(column).as_py() or 0 for column in curves), default=0),
        generators=len([p for p in _below(run, "generators") if ".part." not in p.name]),
        checkpoints=len(_below(run, "checkpoints")),
    )


def _status(run: Run, cell: str) -> str:
    """Return `done`, why it ended early, `begun`, or '' for nothing."""
    try:
        return cell_status(run, cell)
    except (OSError, pa.ArrowException):
        part = run.path / "generators" / f"{cell}.part.safetensors"
        return "begun" if part.exists() else ""


def _curves(run: Run, cell: str) -> Any:
    try:
        return pq.read_table(run.path / curves_file(cell), columns=["iteration"])["iteration"]
    except (OSError, pa.ArrowException):
        return None


def _design(config: dict[str, Any]) -> str:
    """Return "2 targets x 2 norms (in, bn) x 3 conditions (original, contrast, style)"."""
    rates = config.get("lr_grid") or ()
    parts = [f"{len(config['targets'])} {'target' if len(config['targets']) == 1 else 'targets'}"]
    for word, names in (("norm", config["norms"]), ("condition", config["conditions"])):
        some = word if len(names) == 1 else f"{word}s"
        parts.append(f"{len(names)} {some} ({', '.join(names)})")
    parts += [f"{len(rates)} learning rates"] if len(rates) > 1 else []
    return " x ".join(parts)


def _below(run: Run, folder: str) -> list[Path]:
    return sorted((run.path / folder).glob("*.safetensors"))


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
