"""A run directory: the configuration it stands for, its shards, what is there and what is not.

`run.json` is written first and holds the scientific configuration and its hash; how a run was
executed goes to `log/`. What is made at one go is a unit: a shard, a training cell, the tables
that are one for the run. A unit is finished when its last file has its name; then
`log/<unit>.json` says what every file of it must hash to. `done.json` is written by whoever
finds all files there.

`config` is run.json, `run` the directory, `units` what is made at one go, `finished` done.json,
`contents` what all of it comes to.
"""

from statsnorm.rundir.config import SHARD, Expected, config_hash
from statsnorm.rundir.contents import RunInfo, info
from statsnorm.rundir.finished import finish, require_finished, require_intact
from statsnorm.rundir.run import SINGLES, Run, discard, open_run, read_run, writing
from statsnorm.rundir.units import (
    begin_shard,
    end_shard,
    record_shard,
    shard_is_finished,
    skipped_in,
    skipped_lines,
    unit_is_finished,
)

__all__ = [
    "SHARD",
    "SINGLES",
    "Expected",
    "Run",
    "RunInfo",
    "begin_shard",
    "config_hash",
    "discard",
    "end_shard",
    "finish",
    "info",
    "open_run",
    "read_run",
    "record_shard",
    "require_finished",
    "require_intact",
    "shard_is_finished",
    "skipped_in",
    "skipped_lines",
    "unit_is_finished",
    "writing",
]
