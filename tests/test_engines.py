import json
import signal
import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from test_extract import QUICK, TINY, make_photos, tree

from statsnorm import locks
from statsnorm.engines import local
from statsnorm.errors import StatsnormError
from statsnorm.extraction import extract, measure, shard
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
    assert done.missing == 3
    assert "not finished: 3 files are missing" in done.summary()
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
    extract(photos, out=tmp_path / "a", **options)
    rows = measure.Meter._rows

    def small_device(self, variant, x):
        found = rows(self, variant, x)  # as on a GPU, the pass may come far before it fails
        if len(x) > 2:
            raise torch.cuda.OutOfMemoryError
        return found

    monkeypatch.setattr(measure.Meter, "_rows", small_device)
    extract(photos, out=tmp_path / "b", conditions=["original"], **options)
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
    before = signal.getsignal(signal.SIGINT)
    with local.stop_on_signals() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.wait(5)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_signals_are_left_alone_off_the_main_thread():
    found = []

    def off_main():
        with local.stop_on_signals() as stop:
            found.append((stop.is_set(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=off_main)
    thread.start()
    thread.join()
    assert found == [(False, signal.getsignal(signal.SIGTERM))]
