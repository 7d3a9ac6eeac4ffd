"""The files of a cell: its curves, its generators, and how far it came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pyarrow as pa
from torch import nn

from statsnorm.generators import cell_status, checkpoint_file, curves_file, generator_file
from statsnorm.images.names import safe_name
from statsnorm.networks.texture import TextureGenerator
from statsnorm.networks.weights import save_checkpoint
from statsnorm.rundir import Run, record_shard, unit_is_finished
from statsnorm.shipped import plan_sha256
from statsnorm.tables import CURVES_SCHEMA, write_table
from statsnorm.training.cell import CellResult
from statsnorm.training.plan import TrainingCell


@dataclass(frozen=True, slots=True, kw_only=True)
class CellFiles:
    """Which files the cells of a run leave, and the writing of them."""

    run: Run
    keep: Sequence[int]  # iterations whose generators are kept beside the last one
    generators: Sequence[str]  # globs of the cells whose generators are kept

    def part(self, cell: TrainingCell) -> Path:
        """Return where the unfinished cell lies."""
        return (self.run.path / generator_file(cell.name)).with_suffix(".part.safetensors")

    def forget(self, cell: TrainingCell) -> None:
        """Remove the unfinished cell, if it is there."""
        self.part(cell).unlink(missing_ok=True)

    def write(self, cell: TrainingCell, result: CellResult) -> None:
        """Write the generator, if it is kept, then the curves."""
        names = final_files(cell, self.generators)
        if generator_file(cell.name) in names:
            path = self.run.path / generator_file(cell.name)
            _save(path, result.module, cell, result.iteration, status=result.status)
        footer = {**self.run.metadata, "statsnorm.status": result.status}
        table = pa.Table.from_pylist(result.rows, schema=CURVES_SCHEMA)
        write_table(self.run.path / curves_file(cell.name), table, metadata=footer)
        kept = self._checkpoints(cell, result.status)
        record_shard(
            self.run,
            cell.name,
            (*names, *kept),
            {"status": result.status, "plan_sha256": plan_sha256()},
        )

    def write_checkpoint(self, cell: TrainingCell, module: nn.Module, iteration: int) -> None:
        """Write the generator on its way, if that iteration is one to keep."""
        if iteration in self.keep:
            _save(self.run.path / checkpoint_file(cell.name, iteration), module, cell, iteration)

    def are_done(self, cell: TrainingCell) -> bool:
        """Return whether a cell has all its files with the bytes that were written."""
        names = final_files(cell, self.generators)
        if not all((self.run.path / name).exists() for name in names):
            return False
        try:
            status = cell_status(self.run, cell.name)
        except (OSError, pa.ArrowException):
            return False  # not even a footer: the cell is made again
        return unit_is_finished(self.run, cell.name, (*names, *self._checkpoints(cell, status)))

    def _checkpoints(self, cell: TrainingCell, status: str) -> tuple[str, ...]:
        """Return the generators kept on the way; a cell that ended early has no later ones."""
        names = [checkpoint_file(cell.name, iteration) for iteration in self.keep]
        done = status == "done"
        return tuple(name for name in names if done or (self.run.path / name).exists())


def final_files(cell: TrainingCell, generators: Sequence[str]) -> tuple[str, ...]:
    """Return the files of a finished cell, relative to the run: curves, and a generator if kept."""
    kept = any(fnmatchcase(cell.name, pattern) for pattern in generators)
    return (curves_file(cell.name), *([generator_file(cell.name)] if kept else []))


def _save(
    path: Path, module: nn.Module, cell: TrainingCell, iteration: int, *, status: str = "training"
) -> None:
    assert isinstance(module, TextureGenerator)
    metadata = {
        **module.architecture,
        "target": safe_name(Path(cell.target).name),
        "condition": cell.condition,
        "block": f"b{cell.block:02d}",
        "cell": cell.name,
        "seed": cell.seed,
        "iteration": iteration,
        "status": status,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, module, metadata)
