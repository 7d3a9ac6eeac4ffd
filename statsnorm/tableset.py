"""The tables of one or more runs for the analyses: lazy, one tap at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from statsnorm import reader
from statsnorm.arrays import (
    CellArray,
    CorrelationArray,
    CorrelationMatrix,
    MomentsMatrix,
    full_matrices,
    placed_rows,
    same_channels,
    scattered,
)
from statsnorm.engines.tasks import Crew
from statsnorm.errors import StatsnormError
from statsnorm.reader import GROUP_KEYS, TAP_COLUMNS
from statsnorm.rundir import Run, read_run, require_finished
from statsnorm.tables import (
    CORRELATIONS_SCHEMA,
    IMAGES_SCHEMA,
    MOMENTS_SCHEMA,
    SCHEMAS,
    float_matrix,
    read_table,
)

Runs = str | Path | Sequence[str | Path]

DESIGN_AXES = ("image", "style", "level")

T = TypeVar("T")
R = TypeVar("R")


class Tables:
    """The tables of one or more runs.

    Parameters
    ----------
    runs : path or sequence of paths
        Run directories.
    unfinished : bool
        Also read a run whose last shards are missing.
    crew : Crew, optional
        Workers with these tables, for :meth:`map_taps`; by default that is a loop.

    Raises
    ------
    StatsnormError
        If a path is no run, or a run is not finished (UnfinishedRunError).
    """

    def __init__(self, runs: Runs, *, unfinished: bool = False, crew: Crew | None = None) -> None:
        paths = [runs] if isinstance(runs, str | Path) else list(runs)
        if not paths:
            raise StatsnormError("no run given")
        self.runs: tuple[Run, ...] = tuple(read_run(path) for path in paths)
        if not unfinished:
            for run in self.runs:
                require_finished(run)
        self._crew = crew

    def map_taps(self, function: Callable[[Any, T], R], taps: Iterable[T]) -> list[R]:
        """Return `function(tables, tap)` for every tap, in their order; the engine says where.

        Parameters
        ----------
        function : callable
            A function of a module, or a `partial` of one; what it draws must be seeded by its
            arguments. May be called in another process, with tables of the same runs.
        taps : iterable
            What `function` takes second, a tap or what else can be reduced by itself.
        """
        given = list(taps)
        if self._crew is None or len(given) < 2:
            return [function(self, tap) for tap in given]
        return self._crew.map(function, given)

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """The moments files, in the order of runs and shards."""
        return tuple(f for run in self.runs for f in _files(run, "moments"))

    @cached_property
    def dataset(self) -> Any:
        """The pyarrow dataset of `moments`.

        Raises
        ------
        StatsnormError
            If no run has moments.
        """
        if not self.files:
            raise StatsnormError(f"{self.runs[0].path} holds no moments (a training run?)")
        return reader.moments_dataset(self.files)

    @cached_property
    def correlation_files(self) -> tuple[Path, ...]:
        """The correlations files, in the order of runs and shards; none in most runs."""
        return tuple(f for run in self.runs for f in _files(run, "correlations"))

    @cached_property
    def _correlations(self) -> Any:
        if not self.correlation_files:
            raise StatsnormError(
                f"{self.runs[0].path} holds no correlations; run extract with --correlations N, "
                "the number of channels a tap to keep, e.g. 64"
            )
        return reader.moments_dataset(self.correlation_files, CORRELATIONS_SCHEMA)

    @cached_property
    def _keys(self) -> pd.DataFrame:
        return _key_frame(self.files)

    def keys(self) -> pd.DataFrame:
        """Return one row per distinct combination of keys and tap, with `n_images`.

        Columns: :data:`statsnorm.cells.KEYS`, tap, call, tap_kind, depth, pixels,
        by_construction, n_images (rows of that combination).
        """
        return self._keys.copy()

    def correlation_keys(self) -> pd.DataFrame:
        """Return what :meth:`keys` returns, of the correlations; no rows where there are none."""
        return _key_frame(self.correlation_files, CORRELATIONS_SCHEMA)

    def correlations(self, **where: Any) -> CorrelationMatrix:
        """Return keys (rows), channels (n,) and correlations (rows, n, n) of one tap.

        Parameters
        ----------
        **where
            Key column = value, or a list of values.

        Raises
        ------
        StatsnormError
            If no run has correlations, nothing matches, or rows keep different channels.
        """
        table = self._correlation_rows(where)
        channels = same_channels(table)
        keys = table.drop_columns(["channels", "correlation"]).to_pandas()
        upper = float_matrix(table.column("correlation"))
        return CorrelationMatrix(keys, channels, full_matrices(upper, len(channels)))

    def correlation_array(
        self,
        where: Mapping[str, Any],
        axes: Sequence[str] = DESIGN_AXES,
        *,
        call: int | None = None,
    ) -> CorrelationArray:
        """Return the correlations of one tap as an array over `axes`; as :meth:`array`."""
        table = self._correlation_rows(dict(where) if call is None else {**where, "call": call})
        placed = placed_rows(table, axes)
        return CorrelationArray(
            scattered(table.column("correlation"), placed.place, placed.shape),
            same_channels(table),
            placed.labels,
            placed.keys,
            placed.missing,
        )

    def moments(self, **where: Any) -> MomentsMatrix:
        """Return keys (n rows), mean and var (n, C) of the selected rows of one tap.

        Parameters
        ----------
        **where
            Key column = value, or a list of values.

        Raises
        ------
        StatsnormError
            If nothing matches, or the rows have different numbers of channels.
        """
        table = self.rows(where)
        keys = table.drop_columns(["mean", "var"]).to_pandas()
        return MomentsMatrix(keys, *(float_matrix(table.column(c)) for c in ("mean", "var")))

    def moment(self, name: Literal["mean", "var"], **where: Any) -> NDArray[np.float32]:
        """Return one moment (n, C) of the selected rows, in file order; reads no other column."""
        found = reader.read_matrix(self.files, where, name)
        if not len(found):
            self.rows(where, [name])  # says what does not match
        return found

    def array(
        self,
        where: Mapping[str, Any],
        axes: Sequence[str] = DESIGN_AXES,
        *,
        call: int | None = None,
    ) -> CellArray:
        """Return mean and var of one tap as arrays over `axes`, the channels last.

        Parameters
        ----------
        where : mapping
            Key column -> value or list of values; must single out every key column that is
            no axis.
        axes : sequence of str
            Key columns (or `image`) that become axes, sorted; `generator:10` after `:9`.
        call : int, optional
            Which run of the module in a pass; needed only where it ran more than once.

        Raises
        ------
        StatsnormError
            If another key column has several values (they are listed), or a cell two rows.
        """
        table = self.rows(dict(where) if call is None else {**where, "call": call})
        placed = placed_rows(table, axes)
        return CellArray(
            scattered(table.column("mean"), placed.place, placed.shape),
            scattered(table.column("var"), placed.place, placed.shape),
            placed.labels,
            placed.keys,
            placed.missing,
        )

    def eps(self, **keys: Any) -> float:
        """Return the eps of the normaliser at a tap of `taps.parquet`, 0 where there is none."""
        taps = self.taps()
        for name in ("network", "norm", "treatment", "source", "tap", "call"):
            if name in keys:
                taps = taps[taps[name] == keys[name]]
        return float(taps["eps"].max()) if len(taps) else 0.0

    def taps(self) -> pd.DataFrame:
        """Return taps.parquet of all runs; `by_construction` is a tuple of bool per row."""
        taps = self._single("taps")
        taps["by_construction"] = [tuple(map(bool, mask)) for mask in taps["by_construction"]]
        return taps.drop_duplicates(ignore_index=True)

    def levels(self) -> pd.DataFrame:
        """Return the contrast levels of all runs: contrast, level, parameter, value."""
        return self._single("levels").drop_duplicates(ignore_index=True)

    def invariance(self) -> pd.DataFrame:
        """Return the invariance rows of all runs (no rows where they were not asked for)."""
        return self._single("invariance")

    def images(self) -> pd.DataFrame:
        """Return the images of all runs, with the attributes of their manifests."""
        return self._sharded("images").drop_duplicates(ignore_index=True)

    def skipped(self) -> pd.DataFrame:
        """Return the images that were dropped: image, stage, reason."""
        return self._sharded("skipped").drop_duplicates(ignore_index=True)

    def content(self) -> pd.DataFrame:
        """Return the feature distances of conditions to their originals."""
        return self._sharded("content").drop_duplicates(ignore_index=True)

    def outside(self) -> pd.DataFrame:
        """Return the shares of input values outside [0, 1]; empty for runs without the table."""
        return self._sharded("outside").drop_duplicates(ignore_index=True)

    def curves(self) -> pd.DataFrame:
        """Return the training curves of all runs."""
        return self._sharded("curves")

    def provenance(self) -> dict[str, Any]:
        """Return what the runs are made from: hashes, configurations, rows and versions."""
        return {"runs": [_provenance(run) for run in self.runs]}

    def rows(self, where: Mapping[str, Any], columns: Sequence[str] | None = None) -> Any:
        """Return the selected rows as a pyarrow table; raise StatsnormError if there are none."""
        table = reader.read_rows(self.dataset, where, columns)
        if not table.num_rows:
            raise _nothing(self._keys, where)
        return table

    def _correlation_rows(self, where: Mapping[str, Any]) -> Any:
        table = reader.read_rows(self._correlations, where)
        if not table.num_rows:
            raise _nothing(self.correlation_keys(), where)
        return table

    def _single(self, name: str) -> pd.DataFrame:
        paths = [run.path / f"{name}.parquet" for run in self.runs]
        return _concat(name, [path for path in paths if path.exists()])

    def _sharded(self, name: str) -> pd.DataFrame:
        return _concat(name, [f for run in self.runs for f in _files(run, name)])


def _key_frame(files: Sequence[Path], schema: Any = MOMENTS_SCHEMA) -> pd.DataFrame:
    counts = reader.key_counts(files, schema)
    frame = pd.DataFrame(list(counts), columns=[*GROUP_KEYS, *TAP_COLUMNS])
    frame["n_images"] = np.fromiter(counts.values(), np.int64, len(counts))
    order = ["source", "network", "depth", *GROUP_KEYS]
    return frame.sort_values(order, ignore_index=True)


def _nothing(keys: pd.DataFrame, where: Mapping[str, Any]) -> StatsnormError:
    for name, wanted in where.items():
        if name in keys and not set(np.atleast_1d(wanted).tolist()) & set(keys[name]):
            known = ", ".join(map(repr, sorted(set(keys[name]))[:12]))
            return StatsnormError(f"no rows with {name}={wanted!r}; there are {known}")
    return StatsnormError(f"no rows with {dict(where)!r} together")


def _files(run: Run, folder: str) -> list[Path]:
    return sorted((run.path / folder).glob("[!.]*.parquet"))


def _concat(name: str, paths: Sequence[Path]) -> pd.DataFrame:
    schema = SCHEMAS[name]
    tables = [read_table(path, schema) for path in paths]
    if not tables:
        tables = [schema.empty_table()]
    merged = pa.concat_tables(tables, promote_options="default" if name == "images" else "none")
    frame: pd.DataFrame = merged.to_pandas()
    own = [c for c in frame.columns if c not in IMAGES_SCHEMA.names]
    return frame.fillna(dict.fromkeys(own, "")) if name == "images" else frame


def _provenance(run: Run) -> dict[str, Any]:
    done = run.path / "done.json"
    rows = json.loads(done.read_text(encoding="utf-8"))["rows"] if done.exists() else {}
    versions: set[str] = set()
    for path in sorted((run.path / "log").glob("*.json")):
        execution = json.loads(path.read_text(encoding="utf-8")).get("execution", {})
        versions.add(json.dumps(execution.get("versions", {}), sort_keys=True))
    return {
        "hash": run.hash,
        "config": dict(run.config),
        "rows": rows,
        "versions": [json.loads(v) for v in sorted(versions)],
    }
