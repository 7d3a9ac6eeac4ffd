"""Faults injected into the real commands: nothing finished is lost, nothing half-made is left."""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from commands import (
    CountChanges,
    Ended,
    KillAt,
    Limit,
    SignalAt,
    StopCellAfter,
    WrongClock,
    identities,
    leftovers,
    run,
    tree,
)
from PIL import Image
from safetensors import safe_open

from statsnorm import rundir
from statsnorm.errors import StatsnormError
from statsnorm.report.write import write_report

TINY = "tiny_networks:instance_norm"
QUICK = ("--size", "16", "--device", "cpu", "--vgg-of-output", "none")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(6):
        coarse = np.random.default_rng(seed).integers(30, 226, (5, 6, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((24, 20), Image.Resampling.BICUBIC)
        image.save(folder / f"{seed}.png")
    return folder


def extract(photos: Path, out: Path, *more: object) -> tuple[object, ...]:
    return (
        *("extract", "--images", photos, "--out", out, *QUICK, "--network", TINY),
        *("--shard-size", "2", "--batch-size", "4", "--condition", "original,contrast", *more),
    )


def train(photos: Path, out: Path, *more: object) -> tuple[object, ...]:
    return (
        *("train", "--images", photos, "--target", photos / "0.png", "--out", out),
        *("--norm", "in,bn", "--iterations", "6", "--width", "4", "--residual-blocks", "1"),
        *("--size", "16", "--heldout", "2", "--batch-size", "2", "--checkpoint-every", "2"),
        *("--device", "cpu", *more),
    )


COMMANDS = {"extract": extract, "train": train}


@pytest.fixture(scope="module")
def undisturbed(photos, tmp_path_factory):
    """Return for a command its finished run and how many changes of files it took."""
    made: dict[str, tuple[Path, int]] = {}

    def finished(name: str) -> tuple[Path, int]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            out, report = folder / "run", folder / "changes"
            count = CountChanges(out, report)
            ended = run(folder / "said", *COMMANDS[name](photos, out), before=[count])
            assert ended.status == 0, ended.stderr
            assert leftovers(out) == []
            made[name] = out, int(report.read_text())
        return made[name]

    return finished


def killed_and_gone_on(name: str, photos: Path, folder: Path, point: int) -> Path:
    """Kill a command at a point, give it again, and return the run."""
    out = folder / "run"
    words = COMMANDS[name](photos, out)
    ended = run(folder / "first", *words, before=[KillAt(out, point)])
    assert ended.status == -9, ended.stderr
    finished = identities(out)
    ended = run(folder / "second", *words)
    assert ended.status == 0, ended.stderr
    now = identities(out)
    assert {name: now[name] for name in finished} == finished, "a finished unit was made again"
    assert leftovers(out) == []
    return out


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_a_few_points_and_given_again(name, photos, undisturbed, tmp_path):
    whole, changes = undisturbed(name)
    points = [1, *np.random.default_rng(7).integers(2, changes, 2).tolist(), changes - 20, changes]
    for point in points:
        out = killed_and_gone_on(name, photos, tmp_path / str(point), point)
        assert tree(out) == tree(whole), f"killed at change {point} of {changes}"


def test_a_decoder_that_crashes_leaves_no_half_file_and_its_shard_is_made_again(photos, tmp_path):
    mine = shutil.copytree(photos, tmp_path / "photos")
    words, whole = (
        tuple("tiny_networks:crashing" if word == TINY else word for word in extract(mine, out))
        for out in (tmp_path / "r", tmp_path / "whole")
    )
    marker = mine / "3.crash"
    marker.write_text("once")
    ended = run(tmp_path / "first", *words)
    assert ended.status == -signal.SIGSEGV, ended.stderr
    assert not marker.exists()
    assert not rundir.info(tmp_path / "r").finished
    assert rundir.info(tmp_path / "r").damaged == rundir.info(tmp_path / "r").running == ()
    ended = run(tmp_path / "second", *words)
    assert ended.status == 0, ended.stderr
    assert run(tmp_path / "third", *whole).status == 0
    assert tree(tmp_path / "r") == tree(tmp_path / "whole")
    assert leftovers(tmp_path / "r") == []


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_twenty_random_points_and_given_again(name, photos, undisturbed, tmp_path):
    whole, changes = undisturbed(name)
    points = np.random.default_rng(20).choice(np.arange(1, changes + 1), 20, replace=False)
    for point in points.tolist():
        out = killed_and_gone_on(name, photos, tmp_path / str(point), point)
        assert tree(out) == tree(whole), f"killed at change {point} of {changes}"


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_one_run_killed_again_and_again(name, photos, undisturbed, tmp_path):
    whole, changes = undisturbed(name)
    out, rng = tmp_path / "run", np.random.default_rng(21)
    words, finished = COMMANDS[name](photos, out), {}
    for turn in range(20):
        point = int(rng.integers(1, max(2, changes // 3)))
        ended = run(tmp_path / str(turn), *words, before=[KillAt(out, point)])
        assert ended.status in (-9, 0), ended.stderr
        now = identities(out)
        assert {name: now[name] for name in finished} == finished
        finished = now
    assert run(tmp_path / "last", *words).status == 0
    assert tree(out) == tree(whole)
    assert leftovers(out) == []


def test_the_state_of_a_cell_is_removed_also_by_whoever_finds_it_finished(photos, tmp_path):
    """Its maker may die between the last file of the cell and the removal of its state."""
    out = tmp_path / "run"
    assert run(tmp_path / "said", *train(photos, out)).status == 0
    part = out / "generators" / "b00-0-in-original.part.safetensors"
    part.write_bytes(b"state")
    assert run(tmp_path / "said", *train(photos, out)).status == 0
    assert leftovers(out) == []


# Signals.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_signal_at_any_point_says_how_to_go_on(name, number, photos, undisturbed, tmp_path):
    whole, changes = undisturbed(name)
    for point in np.random.default_rng(number).integers(1, changes // 2, 2).tolist():
        out = tmp_path / str(point) / "run"
        words = COMMANDS[name](photos, out)
        ended = run(tmp_path / "first", *words, before=[SignalAt(out, point, int(number))])
        assert ended.status == 2, (ended.stdout, ended.stderr)
        assert "give the same command again" in ended.stderr.splitlines()[-1]
        assert "Traceback" not in ended.stderr
        assert [n for n in leftovers(out) if not n.endswith(".part.safetensors")] == []
        assert run(tmp_path / "second", *words).status == 0
        assert tree(out) == tree(whole)
        assert leftovers(out) == []


def test_a_stopped_cell_goes_on_where_it_was(photos, tmp_path):
    """Not only at a checkpoint: with none due, the state is written when the signal comes."""
    out = tmp_path / "run"
    words = train(photos, out, "--checkpoint-every", "100000", "--iterations", "12")
    ended = run(tmp_path / "said", *words, before=[StopCellAfter(5)])
    assert ended.status == 2, ended.stderr
    assert "b00-0-in-original as far as it came: give the same command again" in ended.stderr
    (part,) = out.rglob("*.part.safetensors")
    with safe_open(part, framework="np") as state:
        assert state.metadata()["iteration"] == "5"
    assert run(tmp_path / "said", *words).status == 0
    other = tmp_path / "other"
    again = train(photos, other, "--checkpoint-every", "0", "--iterations", "12")
    assert run(tmp_path / "said", *again).status == 0
    assert tree(out) == tree(other)


def test_a_damaged_state_of_a_cell_is_not_gone_on_from(photos, tmp_path):
    """safetensors has no checksum: one bit of a weight would go unseen."""
    out, other = tmp_path / "run", tmp_path / "other"
    ended = run(tmp_path / "said", *train(photos, out), before=[StopCellAfter(4)])
    assert ended.status == 2
    (part,) = out.rglob("*.part.safetensors")
    content = bytearray(part.read_bytes())
    content[-5] ^= 16
    part.write_bytes(content)
    for folder in (out, other):
        assert run(tmp_path / "said", *train(photos, folder)).status == 0
    assert tree(out) == tree(other)


# Disks.


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_that_may_not_grow_is_one_sentence(name, photos, undisturbed, tmp_path):
    whole, _ = undisturbed(name)
    out = tmp_path / "run"
    words = COMMANDS[name](photos, out)
    for most in (700, 3000):  # not even run.json; then some tables
        ended = run(tmp_path / "first", *words, before=[Limit(resource.RLIMIT_FSIZE, most)])
        assert_refused(ended, "cannot write", str(out), "File too large")
        assert leftovers(out) == []
    assert run(tmp_path / "second", *words).status == 0
    assert tree(out) == tree(whole)


@pytest.fixture
def small_disk(tmp_path):
    """Yield a function that mounts a tmpfs of so many kB, or skips where that is not allowed."""
    mounted = []

    def mount(kilobytes: int) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        options = f"size={kilobytes}k"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no file system can be mounted here: {error}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_one_sentence_and_the_run_goes_on(
    name, photos, undisturbed, tmp_path, small_disk
):
    whole, _ = undisturbed(name)
    disk = small_disk(96 if name == "extract" else 64)
    out, ballast = disk / "run", disk / "ballast"
    words = COMMANDS[name](photos, out)
    ballast.write_bytes(bytes((60 if name == "extract" else 40) * 1024))
    ended = run(tmp_path / "first", *words)
    assert_refused(ended, "cannot write", str(out), "No space left on device", "make room")
    assert leftovers(out) == []
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
    assert run(tmp_path / "second", *words).status == 0
    assert tree(out) == tree(whole)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_read_only_target(name, photos, undisturbed, tmp_path, small_disk):
    whole, _ = undisturbed(name)
    disk = small_disk(4096)
    shutil.copytree(whole, disk / "whole")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    ended = run(tmp_path / "new", *COMMANDS[name](photos, disk / "run"))
    assert_refused(ended, f"cannot write to {disk / 'run'}", "Read-only file system")
    ended = run(tmp_path / "info", "info", disk / "whole")  # what is finished can be read
    assert ended.status == 0, ended.stderr


def assert_refused(ended: Ended, *words: str) -> None:
    """Assert exit status 2 and one line on stderr, progress aside, with all these words."""
    assert ended.status == 2, (ended.stdout, ended.stderr)
    assert "Traceback" not in ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("statsnorm: ")
    for word in words:
        assert word in last


# Damage afterwards.


@pytest.mark.parametrize("name", COMMANDS)
def test_damage_is_found_by_info_and_report_and_mended_by_the_same_command(
    name, photos, undisturbed, tmp_path
):
    whole, _ = undisturbed(name)
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    rng = np.random.default_rng(3)
    for file in sorted(json.loads((out / "done.json").read_text())["files"]):
        content = bytearray((out / file).read_bytes())
        place = int(rng.integers(4, len(content)))
        flipped = bytes(content[:place]) + bytes([content[place] ^ 4]) + bytes(content[place + 1 :])
        for damaged in (flipped, content[:place]):
            (out / file).write_bytes(damaged)
            assert rundir.info(out).damaged == (file,)
            with pytest.raises(StatsnormError, match=r"1 files of run .* damaged, first " + file):
                write_report(out, out=tmp_path / "report")
            (out / file).write_bytes(content)
    (out / file).write_bytes(damaged)
    first = sorted(p for p in out.rglob("*.parquet") if p.parent.name in ("moments", "curves"))[0]
    first.write_bytes(first.read_bytes()[:-1])
    assert run(tmp_path / "info", "info", out).status == 1
    ended = run(tmp_path / "said", "report", out, "--out", tmp_path / "report")
    assert_refused(ended, "are damaged", "give the command that made it again")
    assert not (tmp_path / "report").exists()
    assert run(tmp_path / "again", *COMMANDS[name](photos, out)).status == 0
    assert tree(out) == tree(whole)


# Clocks.


def test_what_the_clock_says_does_not_matter(photos, undisturbed, tmp_path):
    whole, changes = undisturbed("extract")
    out = tmp_path / "run"
    words = extract(photos, out)
    assert run(tmp_path / "said", *words, before=[KillAt(out, changes * 2 // 3)]).status == -9
    finished = identities(out)
    assert finished
    for path, seconds in zip(out.rglob("*"), itertools.cycle((0, 5_000_000_000)), strict=False):
        os.utime(path, (seconds, seconds))  # 1970 and 2128
    before = identities(out)
    assert run(tmp_path / "said", *words, before=[WrongClock()]).status == 0
    now = identities(out)
    assert {name: now[name] for name in before} == before
    assert tree(out) == tree(whole)
