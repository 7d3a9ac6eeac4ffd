"""Many processes and hosts on one run: every shard made once, and by somebody."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from commands import leftovers, run, start, tree
from test_extract import QUICK, TINY, make_photos

from statsnorm import locks
from statsnorm.extraction import extract
from statsnorm.rundir import info

ELSEWHERE = {"host": "elsewhere", "pid": 1, "started": "another boot/1"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"), range(8))


@pytest.fixture
def hasty(monkeypatch):
    """Let owners on other hosts count as gone after 0.4 s without a sign of life."""
    monkeypatch.setattr(locks, "STALE_AFTER", 0.4)
    monkeypatch.setattr("statsnorm.engines.local.BETWEEN_LOOKS", 0.05)


class LogShards:
    """Append a line to a file for every shard that is written, and take a while over each."""

    def __init__(self, log: Path, seconds: float = 0.0) -> None:
        self.log, self.seconds = log, seconds

    def __call__(self) -> None:
        from statsnorm.engines import local

        write = local.write_shard

        def logged(run, shard, tables):
            with self.log.open("a") as file:
                file.write(f"{shard}\n")
            time.sleep(self.seconds)
            return write(run, shard, tables)

        local.write_shard = logged


def test_many_processes_share_one_run(photos, tmp_path):
    out, log = tmp_path / "run", tmp_path / "log"
    words = ("extract", "--images", photos, "--out", out, "--network", TINY, "--shard-size", "1")
    words += ("--size", "16", "--device", "cpu", "--vgg-of-output", "none")
    watched = [LogShards(log, 0.1)]
    at_work = [start(tmp_path / str(i), *words, before=watched) for i in range(3)]
    ended = [one.wait() for one in at_work]
    assert {one.status for one in ended} <= {0, 1}, [one.stderr for one in ended]
    assert info(out).finished
    assert Counter(log.read_text().split()) == {str(shard): 1 for shard in range(8)}
    makers = {
        json.loads(path.read_text())["execution"]["process"]
        for path in (out / "log").glob("shard-*.json")
    }
    assert len(makers) > 1
    extract(photos, out=tmp_path / "one", networks=[TINY], **{**QUICK, "shard_size": 1})
    assert tree(out) == tree(tmp_path / "one")
    assert leftovers(out) == []


def test_what_a_process_leaves_when_it_dies_another_takes_up(photos, tmp_path):
    """The second finds a shard held, does the others, and asks again at the end."""
    out = tmp_path / "run"
    words = ("extract", "--images", photos, "--out", out, "--network", TINY, "--shard-size", "1")
    words += ("--size", "16", "--device", "cpu", "--vgg-of-output", "none")
    first = start(tmp_path / "first", *words, before=[LogShards(tmp_path / "a", 600)])
    while not (tmp_path / "a").exists():
        assert first.alive()
        time.sleep(0.01)
    held = sorted(path.stem for path in (out / "locks").glob("*.json"))
    assert held
    second = start(tmp_path / "second", *words, before=[LogShards(tmp_path / "b", 0.5)])
    while not (tmp_path / "b").exists():
        assert second.alive()
        time.sleep(0.01)
    os.kill(first.pid, 9)
    assert second.wait().status == 0
    assert info(out).finished
    assert leftovers(out) == []


@pytest.fixture
def half_done(photos, tmp_path):
    """Return a run of which a process on another host holds shard 1."""
    out = tmp_path / "r"
    extract(photos, out=out, networks=[TINY], shard="0/3", **QUICK)
    lock = out / "locks" / "shard-00001.json"
    lock.write_text(json.dumps(ELSEWHERE))
    return out, lock


def test_a_silent_owner_on_another_host_is_given_up(half_done, photos, hasty):
    out, lock = half_done
    assert info(out).running == ("shard-00001",)
    began = time.monotonic()
    done = extract(photos, out=out, networks=[TINY], **QUICK)
    assert done.missing == 0
    assert time.monotonic() - began >= 0.4
    assert not lock.exists()


def test_an_owner_on_another_host_that_gives_signs_of_life_is_left_to_it(half_done, photos, hasty):
    out, lock = half_done
    over = threading.Event()

    def live() -> None:
        while not over.wait(0.1):
            locks._renew(lock)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        done = extract(photos, out=out, networks=[TINY], **QUICK)
    finally:
        over.set()
        thread.join()
    assert done.missing == 4
    assert json.loads(lock.read_text()) == ELSEWHERE


def test_locks_that_are_held_are_renewed_whatever_the_clock_says(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT", 0.01)
    mine, theirs = tmp_path / "mine.json", tmp_path / "theirs.json"
    assert locks.acquire(mine)
    theirs.write_text(json.dumps(ELSEWHERE))
    for path in (mine, theirs):
        os.utime(path, (0, 0))
    with locks.signs_of_life(tmp_path):
        deadline = time.monotonic() + 20
        while mine.stat().st_mtime_ns < 3_000_000_000 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert mine.stat().st_mtime_ns >= 3_000_000_000
    assert theirs.stat().st_mtime_ns == 0
    locks.release(mine)


def test_a_lock_torn_by_a_crash_of_the_machine_is_nobodys(photos, tmp_path):
    out = tmp_path / "r"
    extract(photos, out=out, networks=[TINY], shard="0/3", **QUICK)
    (out / "locks" / "shard-00001.json").write_bytes(b"")
    (out / "locks" / "shard-00002.json").write_text('{"host": 3}')
    assert info(out).running == ()
    assert extract(photos, out=out, networks=[TINY], **QUICK).missing == 0
    assert leftovers(out) == []


def test_two_commands_on_one_training_run_train_each_cell_once(photos, tmp_path):
    words = (
        *("train", "--images", photos, "--target", photos / "0.png", "--norm", "in,bn,none"),
        *("--condition", "original", "--iterations", "4", "--width", "4", "--size", "16"),
        *("--residual-blocks", "1", "--heldout", "2", "--batch-size", "2", "--device", "cpu"),
    )
    at_work = [start(tmp_path / str(i), *words, "--out", tmp_path / "run") for i in range(2)]
    ended = [one.wait() for one in at_work]
    assert {one.status for one in ended} <= {0, 1}, [one.stderr for one in ended]
    assert info(tmp_path / "run").finished
    assert run(tmp_path / "one", *words, "--out", tmp_path / "other").status == 0
    assert tree(tmp_path / "run") == tree(tmp_path / "other")
