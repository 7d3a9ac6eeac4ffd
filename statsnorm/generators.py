"""The generators that a training run leaves: the last of every cell, and checkpoints on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pyarrow.parquet as pq

from statsnorm.errors import StatsnormError, unknown
from statsnorm.rundir import Run, read_run, require_finished

DONE = "done"


@dataclass(frozen=True, slots=True)
class Generators:
    """Generator files of a training run, and the cells that have none to give."""

    files: tuple[Path, ...]  # cell by cell, the checkpoints of each in order, its last one behind
    left_out: tuple[str, ...]  # `cell: reason`, for cells that ended early


def curves_file(cell: str) -> str:
    """Return where a cell's curves lie, relative to the run."""
    return f"curves/{cell}.parquet"


def generator_file(cell: str) -> str:
    """Return where a cell's last generator lies, relative to the run."""
    return f"generators/{cell}.safetensors"


def checkpoint_file(cell: str, iteration: int) -> str:
    """Return where a kept generator lies, relative to the run; names sort by iteration."""
    return f"checkpoints/{cell}-{iteration:07d}.safetensors"


def kept_iterations(asked: Sequence[int], budget: int) -> tuple[int, ...]:
    """Return the iterations whose generators are kept, sorted; the last is kept in any case.

    Raises
    ------
    StatsnormError
        If one lies outside 0 to `budget`.

    Examples
    --------
    >>> kept_iterations([100, 0, 300], 300)
    (0, 100)
    """
    for iteration in asked:
        if not 0 <= iteration <= budget:
            raise StatsnormError(
                f"keep_checkpoints must lie in 0 to {budget} (the iterations), got {iteration}"
            )
    return tuple(sorted(set(asked) - {budget}))


def cell_status(run: Run, cell: str) -> str:
    """Return `done`, or why a finished cell ended early, from the footer of its curves."""
    footer = pq.read_metadata(run.path / curves_file(cell)).metadata or {}
    return bytes(footer.get(b"statsnorm.status", DONE.encode())).decode()


def trained_generators(path: str | Path, *, cells: Sequence[str] = ("*",)) -> Generators:
    """Return the generators of a training run: those kept on the way, and the last ones.

    Parameters
    ----------
    path : str or Path
        A finished run of `statsnorm train`.
    cells : sequence of str
        Globs of cell names, such as ``*-in-original``.

    Raises
    ------
    StatsnormError
        If `path` is no training run, is not finished, lacks a checkpoint that it was to keep,
        no cell matches a glob, or all that match ended early.
    """
    run = read_run(path)
    if run.config.get("kind") != "train":
        kind = run.config.get("kind")
        raise StatsnormError(f"{path} is a run of kind {kind!r}; --generators needs one of train")
    require_finished(run)
    names = [Path(n).stem for n in run.expected.files if n.startswith("generators/")]
    for pattern in cells:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise unknown("cell", pattern, names)
    chosen = [name for name in names if any(fnmatchcase(name, pattern) for pattern in cells)]
    status = {name: cell_status(run, name) for name in chosen}
    files = [f for name in chosen if status[name] == DONE for f in _files(run, name)]
    left_out = tuple(f"{name}: {why}" for name, why in status.items() if why != DONE)
    if not files:
        raise StatsnormError(f"{path} has no generator to give: {left_out[0]}")
    return Generators(tuple(files), left_out)


def _files(run: Run, cell: str) -> list[Path]:
    kept = [checkpoint_file(cell, k) for k in run.config.get("keep_checkpoints", ())]
    files = [run.path / name for name in (*kept, generator_file(cell))]
    for file in files:
        if not file.exists():
            raise StatsnormError(
                f"{file} is missing; give the train command again and the cell is made anew"
            )
    return files
