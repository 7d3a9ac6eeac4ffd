import json
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest
import torch
from commands import run
from test_extract import QUICK, TINY, make_photos, tree

from statsnorm import locks, stopping
from statsnorm.engines import decoders, local
from statsnorm.errors import StatsnormError
from statsnorm.extraction import extract, feed, measure, shard
from statsnorm.load import load_moments
from statsnorm.rundir import info


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"), range(8))


def test_a_shard_in_other_hands_is_left_to_them(photos, tmp_path):
    out = tmp_path / "r"
    options = {**QUICK, "networks": [TINY]}
    extract(photos, out=out, shard="0/3", **options)
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    lock = out / "locks" / "shard-00001.json"
    owner = {"host": locks.this_process().host, "pid": other.pid, "started": ""}
    lock.write_text(json.dumps(owner))
    done = extract(photos, out=out, **options)
    assert done.missing == 4
    assert "not finished: 4 files are missing" in done.summary()
    assert info(out).running == ("shard-00001",)
    other.communicate(b"\n")
    assert extract(photos, out=out, **options).missing == 0
    assert not list((out / "locks").glob("*.json"))


def test_disk_full_is_one_sentence_and_leaves_no_lock(photos, tmp_path, monkeypatch):
    out = tmp_path / "r"
    options = {**QUICK, "networks": [TINY]}

    def full(path, *_args, **_options):
        if path.name == "shard-00001.parquet":
            raise OSError(28, "No space left on device")
        return write_table(path, *_args, **_options)

    write_table = shard.write_table
    with monkeypatch.context() as patch:
        patch.setattr(shard, "write_table", full)
        with pytest.raises(StatsnormError, match=r"cannot write shard 1 .*No space left on device"):
            extract(photos, out=out, **options)
    assert not list((out / "locks").glob("*.json"))
    assert info(out).running == ()
    extract(photos, out=out, **options)
    extract(photos, out=tmp_path / "whole", **options)
    assert tree(out) == tree(tmp_path / "whole")


def test_decoding_runs_ahead_by_a_bounded_number_of_images(photos, tmp_path, monkeypatch):
    ready, most, lock = [0], [0], threading.Lock()
    load_image, add = local.load_image, shard.ShardWork.add

    def counted(job, ref):
        with lock:
            ready[0] += 1
            most[0] = max(most[0], ready[0])
        return load_image(job, ref)

    def taken(self, results, passed):
        with lock:
            ready[0] -= len(results)
        add(self, results, passed)

    monkeypatch.setattr(local, "GROUP", 1)
    monkeypatch.setattr(local, "load_image", counted)
    monkeypatch.setattr(shard.ShardWork, "add", taken)
    extract(photos, out=tmp_path / "r", networks=[TINY], **QUICK)
    assert ready == [0]
    assert 1 < most[0] <= local.AHEAD + 1


def test_workers_and_groups_do_not_change_the_bytes(photos, tmp_path, monkeypatch):
    options = {**QUICK, "networks": [TINY], "shard_size": 8}
    extract(photos, out=tmp_path / "a", workers=1, **options)
    extract(photos, out=tmp_path / "b", workers=4, **options)
    monkeypatch.setattr(local, "GROUP", 3)
    extract(photos, out=tmp_path / "c", workers=4, **options)
    assert tree(tmp_path / "a") == tree(tmp_path / "b") == tree(tmp_path / "c")


def test_out_of_memory_halves_the_batch_and_keeps_the_rows(photos, tmp_path, monkeypatch):
    options = {**QUICK, "networks": [TINY, "vgg16"], "taps": ["post_act"], "batch_size": 6}
    options["conditions"] = ["original", "contrast"]  # alone, originals have no content distances
    extract(photos, out=tmp_path / "a", **options)
    rows = measure.Meter._rows

    def small_device(self, variant, x):
        found = rows(self, variant, x)  # as on a GPU, the pass may come far before it fails
        if len(x) > 2:
            raise torch.cuda.OutOfMemoryError
        return found

    monkeypatch.setattr(measure.Meter, "_rows", small_device)
    extract(photos, out=tmp_path / "b", **options)
    a, b = load_moments(tmp_path / "a"), load_moments(tmp_path / "b")
    assert list(a["image"]) == list(b["image"])
    for x, y in zip(a["mean"], b["mean"], strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5 * np.abs(x).max())
    log = json.loads((tmp_path / "b" / "log" / "shard-00000.json").read_text())["execution"]
    assert log["memory_halvings"] > 0
    content = [next((tmp_path / r / "content").glob("*0.parquet")) for r in "ab"]
    frames = [pd.read_parquet(f) for f in content]
    np.testing.assert_allclose(
        frames[0]["random_distance"], frames[1]["random_distance"], rtol=1e-4
    )


def test_the_second_signal_acts_as_it_would_have():
    found = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & ignores it
    try:
        with stopping.stop_on_signals() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.wait(5)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, found)


def test_signals_are_left_alone_off_the_main_thread():
    found = []

    def off_main():
        with stopping.stop_on_signals() as stop:
            found.append((stop.is_set(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=off_main)
    thread.start()
    thread.join()
    assert found == [(False, signal.getsignal(signal.SIGTERM))]


class HangOn2:
    """Let the decoder of 2.png never come back; patience ends after half a second."""

    def __call__(self):
        load_image = local.load_image

        def load(job, ref):
            if ref.image == "2.png":
                time.sleep(3600)
            return load_image(job, ref)

        local.load_image = load
        decoders.PATIENCE = 0.5


def test_a_decoder_that_hangs_is_named_and_keeps_nobody_from_leaving(photos, tmp_path):
    words = ("extract", "--images", photos, "--out", tmp_path / "r", "--network", TINY)
    words += ("--size", "16", "--device", "cpu", "--vgg-of-output", "none", "--shard-size", "1")
    ended = run(tmp_path / "said", *words, "--workers", "2", before=[HangOn2()])
    assert ended.status == 2
    assert "image '2.png' has been decoding for 0 s" in ended.stderr.splitlines()[-1]
    there = info(tmp_path / "r")
    assert there.running == there.damaged == ()
    assert "moments/shard-00000.parquet" not in there.missing
    assert run(tmp_path / "said", *words).status == 0
    assert info(tmp_path / "r").finished


AN_ERROR_WHILE_DECODING = """
import time, torch
from statsnorm.engines.decoders import Decoders
x = torch.rand(1500, 1500, dtype=torch.float64)
with Decoders(1) as decoders:
    decoders.submit(lambda: x @ x)
    time.sleep(0.05)
    raise SystemExit(7)
"""


def test_an_error_while_a_decoder_is_in_compiled_code_keeps_its_exit_status():
    ended = subprocess.run([sys.executable, "-c", AN_ERROR_WHILE_DECODING], check=False)
    assert ended.returncode == 7


@pytest.mark.parametrize("death", [ZeroDivisionError("by accident"), SystemExit(3)])
def test_a_decoder_that_dies_is_named(photos, tmp_path, monkeypatch, death):
    load_image = local.load_image

    def load(job, ref):
        if ref.image == "4.png":
            raise death
        return load_image(job, ref)

    with monkeypatch.context() as patch:
        patch.setattr(local, "load_image", load)
        with pytest.raises(StatsnormError, match=r"decoder of image '4\.png' died of"):
            extract(photos, out=tmp_path / "r", networks=[TINY], **QUICK)
    assert info(tmp_path / "r").running == ()
    assert extract(photos, out=tmp_path / "r", networks=[TINY], **QUICK).missing == 0


@pytest.mark.parametrize("fits", [1, 2, 3, 5])
def test_halved_batches_give_content_distances_of_the_right_images(
    photos, tmp_path, monkeypatch, fits
):
    """A pass that fails behind relu4_2 has left its features: they must not count twice."""
    options = {**QUICK, "networks": ["vgg16"], "conditions": ["original", "contrast"]}
    options |= {"batch_size": 7, "shard_size": 8}
    extract(photos, out=tmp_path / "a", **options)
    rows, passes = measure.Meter._rows, [0]

    def small_device(self, variant, x):
        passes[0] += 1
        if len(x) == 7:
            raise torch.cuda.OutOfMemoryError  # before relu4_2
        found = rows(self, variant, x)
        if len(x) > fits:
            raise torch.cuda.OutOfMemoryError  # behind it
        return found

    monkeypatch.setattr(measure.Meter, "_rows", small_device)
    extract(photos, out=tmp_path / "b", **options)
    for table, columns in (("content", ["distance", "random_distance"]), ("moments", ["mean"])):
        a, b = (pd.read_parquet(tmp_path / r / table) for r in "ab")
        keys = ["image", "condition", *(["tap"] if table == "moments" else [])]
        a, b = (f.sort_values(keys, ignore_index=True) for f in (a, b))
        for column in columns:
            for x, y in zip(a[column], b[column], strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5 * np.abs(x).max())
    wanted = 3 * -(-7 // fits)  # 16 inputs in three batches of 7
    assert passes[0] < 2 * wanted + 8  # what fitted is remembered


def test_style_generators_are_given_smaller_batches_too(photos, tmp_path, monkeypatch):
    options = {**QUICK, "networks": ["pixels"], "conditions": ["original", "style"]}
    extract(photos, out=tmp_path / "a", **options)
    style_image = feed.style_image

    def small_device(x, *given, **more):
        if len(x) > 2:
            raise torch.cuda.OutOfMemoryError
        return style_image(x, *given, **more)

    monkeypatch.setattr(feed, "style_image", small_device)
    extract(photos, out=tmp_path / "b", **options)
    a, b = load_moments(tmp_path / "a"), load_moments(tmp_path / "b")
    for x, y in zip(a["mean"], b["mean"], strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5)
    log = json.loads((tmp_path / "b" / "log" / "shard-00000.json").read_text())["execution"]
    assert log["memory_halvings"] == 1


def test_one_image_that_does_not_fit_is_one_sentence(photos, tmp_path, monkeypatch):
    def refuse(*_given):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr(measure.Meter, "_rows", refuse)
    with pytest.raises(StatsnormError, match="one image of 16 x 16 pixels does not fit"):
        extract(photos, out=tmp_path / "r", networks=[TINY], **QUICK)
    assert info(tmp_path / "r").running == ()


def test_other_errors_of_torch_are_not_taken_for_a_lack_of_memory(photos, tmp_path, monkeypatch):
    def refuse(*_given):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(measure.Meter, "_rows", refuse)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        extract(photos, out=tmp_path / "r", networks=[TINY], **QUICK)
