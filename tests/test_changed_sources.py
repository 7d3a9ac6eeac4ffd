"""Images that disappear or change between two runs of the same command."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from click.testing import CliRunner
from commands import tree
from test_extract import QUICK, TINY, make_photos

from statsnorm.cli import main
from statsnorm.errors import StatsnormError
from statsnorm.extraction import extract


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    return make_photos(folder, range(4))


@pytest.fixture
def listed(photos):
    """Return a list of the images: what a folder lacks is another source, what a list lacks not."""
    path = photos / "list.txt"
    path.write_text("".join(f"{i}.png\n" for i in range(4)))
    return path


def again(source, out, **more):
    return extract(source, out=out, networks=[TINY], **{**QUICK, **more})


def test_a_changed_image_is_reported_and_its_rows_stay_those_of_the_old_file(photos, tmp_path):
    out = tmp_path / "r"
    assert again(photos, out).changed == ()
    before = tree(out)
    shutil.copy(photos / "3.png", photos / "1.png")
    done = again(photos, out)
    (line,) = done.changed
    assert line.startswith("1.png: has other bytes than when it was measured (")
    assert f"changed: {line}; its rows are of the old file" in done.summary()
    assert tree(out) == before
    assert len(again(photos, tmp_path / "new").changed) == 0


def test_a_touched_image_is_not_reported(photos, tmp_path):
    again(photos, tmp_path / "r")
    os.utime(photos / "1.png", (7, 7))
    assert again(photos, tmp_path / "r").changed == ()


def test_an_image_that_is_gone_from_a_list_is_reported(listed, photos, tmp_path):
    again(listed, tmp_path / "r")
    (photos / "2.png").unlink()
    done = again(listed, tmp_path / "r")
    assert done.changed == ("2.png: gone since it was measured (No such file or directory)",)
    assert done.missing == 0


def test_an_image_that_is_gone_from_a_folder_makes_another_configuration(photos, tmp_path):
    again(photos, tmp_path / "r")
    (photos / "2.png").unlink()
    with pytest.raises(StatsnormError, match=r"images\.count: 4 there, 3 here"):
        again(photos, tmp_path / "r")


def test_a_changed_version_of_the_users_is_reported(photos, tmp_path):
    mine = shutil.copytree(photos, tmp_path / "mine")
    more = {"conditions": ["original", f"mine={mine}"]}
    again(photos, tmp_path / "r", **more)
    shutil.copy(photos / "3.png", mine / "0.png")
    (line,) = again(photos, tmp_path / "r", **more).changed
    assert line.startswith("0.png (condition mine): has other bytes")


def test_the_images_table_serves_where_the_log_says_nothing(photos, tmp_path):
    out = tmp_path / "r"
    again(photos, out)
    for path in (out / "log").glob("shard-*.json"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "execution": {"recovered": True}}))
    assert again(photos, out).changed == ()
    shutil.copy(photos / "3.png", photos / "1.png")
    assert len(again(photos, out).changed) == 1


def test_the_command_lists_them_and_ends_with_status_one(photos, tmp_path):
    words = ["extract", "--images", str(photos), "--out", str(tmp_path / "r"), "--network", TINY]
    words += ["--size", "16", "--device", "cpu", "--vgg-of-output", "none"]
    assert CliRunner().invoke(main, words).exit_code == 0
    shutil.copy(photos / "3.png", photos / "1.png")
    ran = CliRunner().invoke(main, words)
    assert ran.exit_code == 1
    assert "changed: 1.png: has other bytes" in ran.stdout


def test_changed_reference_images_are_another_configuration(photos, tmp_path):
    """They calibrate the frozen maps: shards made before and after would not belong together."""
    other = tmp_path / "other"
    other.mkdir()
    make_photos(other, [20, 21])
    more = {"treatments": ["none", "frozen:prefix"], "reference": other}
    again(photos, tmp_path / "r", **more)
    make_photos(other, [21]).joinpath("21.png").replace(other / "20.png")
    make_photos(other, [21])
    with pytest.raises(StatsnormError, match=r"reference\.content_sha256"):
        again(photos, tmp_path / "r", **more)


def test_changed_training_images_are_another_configuration(photos, tmp_path):
    from statsnorm.training import train

    options = {
        "target": [photos / "0.png"],
        "out": tmp_path / "run",
        "norm": ("in",),
        "condition": ("original",),
        **{"size": 16, "iterations": 1, "width": 4, "residual_blocks": 0, "device": "cpu"},
    }
    train(photos, **options)
    shutil.copy(photos / "3.png", photos / "1.png")
    with pytest.raises(StatsnormError, match=r"images\.sha256"):
        train(photos, **options)


def told(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["info", *map(str, words)])
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.exit_code, done.output


def test_info_hashes_the_sources_of_a_finished_run(photos, tmp_path):
    mine = shutil.copytree(photos, tmp_path / "mine")
    out = tmp_path / "r"
    again(photos, out, conditions=["original", f"mine={mine}"])
    assert "files hashed" not in told(out)[1]
    status, said = told(out, "--sources", photos, "--sources", f"mine={mine}")
    assert (status, "sources: 8 files hashed, 0 differ" in said) == (0, True)
    times = (photos / "1.png").stat()
    content = bytearray((photos / "1.png").read_bytes())
    content[-1] ^= 1  # one bit, and the same size and time
    (photos / "1.png").write_bytes(content)
    os.utime(photos / "1.png", ns=(times.st_atime_ns, times.st_mtime_ns))
    (photos / "2.png").unlink()
    (mine / "0.png").unlink()
    assert told(out)[0] == 0
    status, said = told(out, "--sources", photos)
    lines = [line for line in said.splitlines() if line.startswith(("sources:", "changed:"))]
    assert status == 1
    assert lines[0] == "sources: 4 files hashed, 2 differ"
    assert lines[1].startswith("changed: 1.png: has other bytes than when it was measured (")
    assert lines[2] == "changed: 2.png: is not in the source any more"
    assert (
        "0.png (condition mine): gone"
        in told(out, "--sources", photos, "--sources", f"mine={mine}")[1]
    )


def test_info_says_what_sources_it_needs(photos, tmp_path):
    again(photos, tmp_path / "r")
    assert told(tmp_path / "r", "--sources", f"mine={photos}")[0] == 2
    assert told(tmp_path / "r", "--sources", tmp_path / "nowhere")[0] != 0
