import fcntl
import hashlib
import json
import os
import subprocess
import sys
import threading

import pyarrow as pa
import pytest

from statsnorm import locks
from statsnorm.errors import StatsnormError, UnfinishedRunError
from statsnorm.rundir import (
    Expected,
    begin_shard,
    config_hash,
    end_shard,
    finish,
    info,
    open_run,
    read_run,
    record_shard,
    require_finished,
    shard_is_finished,
)
from statsnorm.tables import IMAGES_SCHEMA, SKIPPED_SCHEMA, write_table

CONFIG = {"kind": "extract", "size": 64, "conditions": ["original", "style"]}
EXPECTED = Expected(shards=2, sharded=("images", "skipped"), files=("taps.parquet",))


def _open(path, config=CONFIG, **options):
    return open_run(path, config, expected=EXPECTED, **options)


def _fill(run, shard, *, record=True):
    rows = [
        {"image": f"{shard}-{i}", "width": 1, "height": 1, "sha256": "", "path": ""} for i in "ab"
    ]
    files = run.expected.of_shard(shard)
    images = pa.Table.from_pylist(rows, schema=IMAGES_SCHEMA)
    write_table(run.path / files[0], images, metadata=run.metadata)
    write_table(run.path / files[1], SKIPPED_SCHEMA.empty_table(), metadata=run.metadata)
    if record:
        record_shard(run, shard, files, {"versions": {}})


def _full(path):
    run = _open(path)
    for shard in (0, 1):
        _fill(run, shard)
    write_table(run.path / "taps.parquet", SKIPPED_SCHEMA.empty_table(), metadata={})
    assert finish(run)
    return run


def test_run_json_comes_first_and_holds_the_hash_of_the_configuration(tmp_path):
    run = _open(tmp_path / "r")
    assert [p.name for p in run.path.iterdir()] == ["run.json"]
    there = json.loads((run.path / "run.json").read_text())
    canonical = json.dumps(there["config"], sort_keys=True, separators=(",", ":"))
    assert there["hash"] == hashlib.sha256(canonical.encode()).hexdigest() == run.hash
    assert read_run(run.path) == run


def test_hash_does_not_depend_on_the_order_of_keys():
    assert config_hash({"a": 1, "b": 2}) == config_hash({"b": 2, "a": 1})
    assert config_hash({"a": 1, "b": 2}) != config_hash({"a": 1, "b": 3})


def test_the_same_command_goes_on_and_another_is_refused(tmp_path):
    run = _open(tmp_path / "r")
    assert _open(run.path) == run
    with pytest.raises(StatsnormError, match=r"size: 64 there, 128 here.*restart"):
        _open(run.path, {**CONFIG, "size": 128})
    assert info(run.path).hash == run.hash


def test_restart_throws_away_what_is_ours_and_nothing_else(tmp_path):
    run = _full(tmp_path / "r")
    (run.path / "notes.txt").write_text("mine")
    again = _open(run.path, {**CONFIG, "size": 128}, restart=True)
    assert sorted(p.name for p in run.path.iterdir()) == ["notes.txt", "run.json"]
    assert again.hash != run.hash


def test_restart_refuses_while_somebody_works_on_it(tmp_path):
    run = _open(tmp_path / "r")
    assert begin_shard(run, 1)
    with pytest.raises(StatsnormError, match="living process holds shard-00001"):
        _open(run.path, restart=True)
    end_shard(run, 1)
    _open(run.path, restart=True)


@pytest.mark.parametrize("kind", ["file", "folder with files"])
def test_a_path_that_is_no_run_is_never_touched(tmp_path, kind):
    path = tmp_path / "r"
    if kind == "file":
        path.write_text("precious")
    else:
        path.mkdir()
        (path / "a.jpg").write_text("precious")
    with pytest.raises(StatsnormError, match="no run directory"):
        _open(path, restart=True)
    assert (path if kind == "file" else path / "a.jpg").read_text() == "precious"


def test_run_json_changed_by_hand_is_refused(tmp_path):
    run = _open(tmp_path / "r")
    path = run.path / "run.json"
    path.write_text(path.read_text().replace('"size": 64', '"size": 65'))
    with pytest.raises(StatsnormError, match="hash does not match"):
        read_run(run.path)
    path.write_text("{")
    with pytest.raises(StatsnormError, match="cannot be read"):
        read_run(run.path)


def test_no_run_is_named(tmp_path):
    with pytest.raises(StatsnormError, match=r"no run directory \(no run.json"):
        read_run(tmp_path)


def test_a_second_process_does_not_get_a_held_shard(tmp_path):
    run = _open(tmp_path / "r")
    assert begin_shard(run, 0)
    code = (
        "import sys; from pathlib import Path; from statsnorm.rundir import *;"
        "run = read_run(sys.argv[1]); print(begin_shard(run, 0), begin_shard(run, 1));"
        "end_shard(run, 0); end_shard(run, 1)"
    )
    command = [sys.executable, "-c", code, str(run.path)]
    assert subprocess.check_output(command, text=True).split() == ["False", "True"]
    assert locks.lock_owner(run.lock_path(0)) == locks.this_process()
    end_shard(run, 0)
    assert not run.lock_path(0).exists()


def test_the_lock_of_a_dead_process_is_recovered(tmp_path):
    run = _open(tmp_path / "r")
    code = (
        "import sys, os; from statsnorm.rundir import *;"
        "print(begin_shard(read_run(sys.argv[1]), 0)); sys.stdout.flush(); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run.path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (-9, "True")
    dead = locks.lock_owner(run.lock_path(0))
    assert dead is not None
    assert not locks.is_alive(dead)
    leftover = run.path / "images" / ".shard-00000.parquet.ab12.tmp"
    leftover.parent.mkdir()
    leftover.write_text("half")
    assert begin_shard(run, 0)
    assert not leftover.exists()
    end_shard(run, 0)


def test_a_process_id_used_again_is_not_the_owner():
    me = locks.this_process()
    assert locks.is_alive(me)
    if not me.started:
        pytest.skip("no /proc here: start times are unknown")
    assert not locks.is_alive(locks.Owner(me.host, me.pid, "another boot/1"))
    assert locks.is_alive(locks.Owner("another-host", 1, ""))  # cannot be known from here


def test_many_processes_one_owner(tmp_path):
    path = tmp_path / "lock.json"
    path.write_text(
        json.dumps({"host": locks.this_process().host, "pid": 2**22 + 7, "started": "x"})
    )
    code = (
        "import sys, time; from pathlib import Path; from statsnorm import locks;"
        "print(locks.acquire(Path(sys.argv[1]))); sys.stdout.flush(); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(path)]
    pipe = subprocess.PIPE
    racing = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(4)]
    won = [process.stdout.readline().strip() for process in racing]
    for process in racing:
        process.communicate()
    assert sorted(won) == ["False", "False", "False", "True"]


def test_a_lock_is_broken_only_for_the_owner_who_is_known_to_be_dead(tmp_path):
    path = tmp_path / "locks" / "shard-00000.json"
    locks.break_lock(path, locks.this_process())  # nothing there
    dead = locks.Owner("another-host", 4711, "boot/1")
    assert locks.acquire(path)
    locks.break_lock(path, dead)
    assert locks.lock_owner(path) == locks.this_process()
    path.write_text(json.dumps({"host": dead.host, "pid": dead.pid, "started": dead.started}))
    assert not locks.acquire(path)  # of another host: never taken for stale
    locks.break_lock(path, dead)
    assert locks.acquire(path)


def test_recovering_a_lock_waits_its_turn(tmp_path):
    path, won = tmp_path / "lock.json", []
    with (tmp_path / ".guard").open("a") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        thread = threading.Thread(target=lambda: won.append(locks.acquire(path)))
        thread.start()
        thread.join(0.3)
        assert (won, path.exists()) == ([], False)
    thread.join(5)
    assert (won, path.exists()) == ([True], True)


def test_done_json_counts_rows_and_hashes_bytes(tmp_path):
    run = _open(tmp_path / "r")
    _fill(run, 0)
    assert not finish(run)
    assert not (run.path / "done.json").exists()
    _fill(run, 1)
    write_table(run.path / "taps.parquet", SKIPPED_SCHEMA.empty_table(), metadata={})
    assert finish(run)
    done = json.loads((run.path / "done.json").read_text())
    assert done["rows"] == {"images": 4, "skipped": 0, "taps": 0}
    for name, record in done["files"].items():
        content = (run.path / name).read_bytes()
        assert record["sha256"] == hashlib.sha256(content).hexdigest()
        assert record["bytes"] == len(content)
    require_finished(run)


def test_an_unfinished_run_says_what_is_missing(tmp_path):
    run = _open(tmp_path / "r")
    _fill(run, 0)
    with pytest.raises(UnfinishedRunError, match=r"3 files are missing, first images/shard-00001"):
        require_finished(run)
    found = info(run.path)
    assert not found.finished
    assert found.images == 2
    assert found.missing == (
        *("images/shard-00001.parquet", "skipped/shard-00001.parquet"),
        "taps.parquet",
    )


@pytest.mark.parametrize("damage", ["truncated", "bit", "gone"])
def test_damage_is_found_and_the_shard_counts_as_unfinished(tmp_path, damage):
    run = _full(tmp_path / "r")
    assert info(run.path).finished
    name = run.expected.of_shard(1)[0]
    path, content = run.path / name, bytearray((run.path / name).read_bytes())
    content[20] ^= 4
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(bytes(content) if damage == "bit" else bytes(content[:-10]))
    found = info(run.path)
    assert (name in found.missing) if damage == "gone" else (found.damaged == (name,))
    assert not found.finished
    assert shard_is_finished(run, 0)
    assert not shard_is_finished(run, 1)
    _fill(run, 1)
    assert shard_is_finished(run, 1)
    assert not (run.path / "done.json").exists()  # it spoke of the other bytes
    assert finish(run)
    assert info(run.path).finished


def test_a_crash_between_the_last_table_and_its_record_loses_nothing(tmp_path):
    run = _open(tmp_path / "r")
    _fill(run, 0, record=False)
    assert shard_is_finished(run, 0)
    assert run.record_path(0).exists()
    other = _open(tmp_path / "other", {**CONFIG, "size": 1})
    for name in run.expected.of_shard(0):
        (other.path / name).parent.mkdir(exist_ok=True)
        os.link(run.path / name, other.path / name)
    assert not shard_is_finished(other, 0)  # tables of another run


def test_a_damaged_record_is_made_good(tmp_path):
    run = _full(tmp_path / "r")
    run.record_path(0).write_text("{")
    assert shard_is_finished(run, 0)
    assert json.loads(run.record_path(0).read_text())["execution"] == {"recovered": True}


def test_an_owner_who_lets_go_while_another_looks_keeps_its_record(tmp_path, monkeypatch):
    run = _open(tmp_path / "r")

    def finished_just_now(_lock):
        _fill(run, 0)
        return False

    monkeypatch.setattr(locks, "is_held", finished_just_now)
    assert shard_is_finished(run, 0)
    assert "recovered" not in json.loads(run.record_path(0).read_text())["execution"]


def test_a_run_that_another_process_begins_at_the_same_moment_is_joined(tmp_path, monkeypatch):
    begun = []

    def begun_just_now(path):
        monkeypatch.undo()
        begun.append(_full(path))
        return True

    monkeypatch.setattr("statsnorm.rundir.run._is_taken", begun_just_now)
    assert _open(tmp_path / "r") == begun[0]
