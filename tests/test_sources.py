"""Finding images: identity, order, links, lists, manifests, pairs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from statsnorm.errors import ImageError, StatsnormError
from statsnorm.images.decode import decode
from statsnorm.images.names import original_name, relative_path, safe_name
from statsnorm.images.sources import find_images, pair_directory, require_distinct, shared_files


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(src: object) -> list[str]:
    return [ref.image for ref in find_images(src)]  # type: ignore[arg-type]


def test_embedded_are_the_24_photographs():
    refs = find_images("embedded")
    assert len(refs) == 24
    assert all(ref.path.is_file() and ref.image.endswith(".jpg") for ref in refs)


def test_folder_is_recursive_sorted_by_code_point_and_keeps_only_images(tmp_path):
    touch(tmp_path, "b.jpg", "B.JPG", "a/é.png", "a/z.webp", "a.1.jpg", "a.2.jpg", "notes.txt")
    touch(tmp_path, ".hidden.jpg", ".cache/x.jpg", "a/._z.jpg", "annotations/instances.json")
    assert names(tmp_path) == ["B.JPG", "a.1.jpg", "a.2.jpg", "a/z.webp", "a/é.png", "b.jpg"]


def test_coco_root(tmp_path):
    touch(tmp_path, "train2017/000000000009.jpg", "val2017/000000000139.jpg")
    touch(tmp_path, "annotations/instances_train2017.json")
    assert names(tmp_path) == ["train2017/000000000009.jpg", "val2017/000000000139.jpg"]


def test_order_does_not_depend_on_locale_or_hash_seed(tmp_path):
    touch(tmp_path, "a.jpg", "B.jpg", "ä.jpg", "c/d.jpg")
    code = f"from statsnorm.images.sources import *; print(ascii(find_images({str(tmp_path)!r})))"
    outputs = set()
    for locale, seed in (("C", "1"), ("C.UTF-8", "2")):
        env = os.environ | {"LC_ALL": locale, "PYTHONHASHSEED": seed, "PYTHONUTF8": "1"}
        env["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        outputs.add(subprocess.check_output([sys.executable, "-c", code], env=env))
    assert len(outputs) == 1


@pytest.mark.parametrize("src", ["no/such/folder", "", "a\0b"])
def test_missing_source(src):
    with pytest.raises(StatsnormError, match="image source"):
        find_images(src)


def test_empty_folder(tmp_path):
    touch(tmp_path, "readme.md")
    with pytest.raises(StatsnormError, match=r"no images in .*known suffixes"):
        find_images(tmp_path)


def test_one_file_is_a_source(tmp_path):
    touch(tmp_path, "one.png")
    assert names(tmp_path / "one.png") == ["one.png"]


def test_links_are_followed_once_and_never_rename(tmp_path):
    touch(tmp_path, "src/real/a.jpg", "elsewhere/b.jpg", "elsewhere/deep/c.jpg")
    src = tmp_path / "src"
    (src / "loop").symlink_to(src)
    (src / "self").symlink_to(src / "self")
    (src / "alias").symlink_to(src / "real")  # sorts before `real`, yet `real/a.jpg` stays
    (src / "zlink").symlink_to(tmp_path / "elsewhere")
    (src / "ylink").symlink_to(tmp_path / "elsewhere")
    (src / "gone.jpg").symlink_to(tmp_path / "missing.jpg")
    assert names(src) == ["gone.jpg", "real/a.jpg", "ylink/b.jpg", "ylink/deep/c.jpg"]
    gone = find_images(src)[0]
    with pytest.raises(ImageError) as caught:
        decode(gone, size=None)
    assert caught.value.stage == "find"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_odd_names_become_safe_and_stay_apart(tmp_path):
    raw = [b"new\nline.jpg", b"caf\xe9.jpg", b"caf\xc3\xa9.jpg", b"a\\x0ab.jpg", b"a\nb.jpg"]
    raw += [b"<script>.jpg", b"x..odd..jpg", b"tab\t\x7f.jpg"]
    for name in raw:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(b"x")
    refs = find_images(tmp_path)
    assert len({ref.image for ref in refs}) == len(raw)
    for ref in refs:
        assert ref.path.read_bytes() == b"x"
        ref.image.encode()  # valid UTF-8
        assert ref.image.isprintable()
    assert {os.fsencode(original_name(ref.image)) for ref in refs} == set(raw)


@pytest.mark.parametrize("text", ["plain/ä.jpg", "a\\b", "\\x0a", "\n", "\udce9\u2028", "100%.jpg"])
def test_safe_name_is_reversible(text):
    assert original_name(safe_name(text)) == text


@pytest.mark.parametrize("image", ["../a.jpg", "/etc/a.jpg", "a/../../b.jpg", "a\\x00b.jpg"])
def test_names_never_lead_out(image):
    with pytest.raises(StatsnormError, match="leads out"):
        relative_path(image)


def test_list_file_is_relative_to_itself(tmp_path, monkeypatch):
    touch(tmp_path, "data/x/a.jpg", "data/b.png")
    (tmp_path / "data/list.txt").write_bytes(b"\xef\xbb\xbfx/a.jpg\r\n\r\n./b.png\r\n")
    monkeypatch.chdir("/")
    refs = find_images(tmp_path / "data/list.txt")
    assert [ref.image for ref in refs] == ["b.png", "x/a.jpg"]
    assert all(ref.path.is_file() for ref in refs)


def test_list_with_entries_elsewhere_uses_their_common_folder(tmp_path):
    touch(tmp_path, "data/x/a.jpg", "data/y/b.jpg")
    listing = tmp_path / "lists/list.txt"
    listing.parent.mkdir()
    listing.write_text(f"../data/x/a.jpg\n{tmp_path}/data/y/b.jpg\n")
    assert names(listing) == ["x/a.jpg", "y/b.jpg"]


def test_list_keeps_a_missing_image_but_refuses_when_all_are(tmp_path):
    touch(tmp_path, "a.jpg")
    listing = tmp_path / "list.txt"
    listing.write_text("a.jpg\nb.jpg\n")
    assert names(listing) == ["a.jpg", "b.jpg"]
    listing.write_text("img/a.jpg\n")
    with pytest.raises(StatsnormError, match="relative to the list's own folder"):
        find_images(listing)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no entry"),
        ("\n\n", "no entry"),
        ("a.jpg\nx/../a.jpg\n", "lines 1 and 2"),
        ("a\0.jpg\n", "line 1 .* is not a path"),
    ],
)
def test_bad_lists(tmp_path, content, message):
    touch(tmp_path, "a.jpg")
    (tmp_path / "list.txt").write_text(content)
    with pytest.raises(StatsnormError, match=message):
        find_images(tmp_path / "list.txt")


def test_manifest_keeps_attributes(tmp_path):
    touch(tmp_path, "a.jpg", "b,c.jpg")
    manifest = tmp_path / "m.csv"
    manifest.write_text('domain,image,class\nphoto,a.jpg,dog\nart,"b,c.jpg",\n')
    refs = find_images(manifest)
    assert [ref.image for ref in refs] == ["a.jpg", "b,c.jpg"]
    assert refs[0].attributes == {"domain": "photo", "class": "dog"}
    assert refs[1].attributes == {"domain": "art", "class": ""}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; its header needs a column 'image'"),
        ("images,class\na.jpg,1\n", "no column 'image' but 'images', 'class'; rename"),
        ("image,class\na.jpg\n", "line 2 .* 1 fields, the header has 2"),
        ("image,class\na.jpg,1,2\n", "line 2 .* 3 fields"),
        ("image,class\na.jpg,1\na.jpg,1\n", "lines 2 and 3"),
        ("image,class,class\na.jpg,1,2\n", "two columns 'class'"),
        ("image\n", "no entry"),
        ('image\n"a.jpg\n', "line 2"),
        ('image,class\n"",1\n', "is not a path"),
    ],
)
def test_bad_manifests(tmp_path, content, message):
    touch(tmp_path, "a.jpg")
    (tmp_path / "m.csv").write_text(content)
    with pytest.raises(StatsnormError, match=message):
        find_images(tmp_path / "m.csv")


def test_pairs_by_path_and_then_by_stem(tmp_path):
    touch(tmp_path, "src/a.jpg", "src/a.png", "src/x/b.jpg", "src/c.1.jpg", "src/c.2.jpg")
    touch(tmp_path, "own/a.png", "own/a.webp", "own/x/b.png", "own/c.1.jpg")
    pairs = pair_directory(find_images(tmp_path / "src"), tmp_path / "own")
    found = {k: v.relative_to(tmp_path / "own").as_posix() for k, v in pairs.items()}
    assert found == {
        "a.jpg": "a.webp",  # a.png belongs to the image of that very name
        "a.png": "a.png",
        "x/b.jpg": "x/b.png",
        "c.1.jpg": "c.1.jpg",
        "c.2.jpg": "c.2.jpg",  # not there: fails when it is decoded, and is listed
    }


def test_pairs_refuse_doubt(tmp_path):
    touch(tmp_path, "src/a.jpg", "own/a.png", "own/a.webp", "other/z.jpg")
    refs = find_images(tmp_path / "src")
    with pytest.raises(StatsnormError, match=r"2 counterparts .* a.png, a.webp"):
        pair_directory(refs, tmp_path / "own")
    with pytest.raises(StatsnormError, match="no image has a counterpart"):
        pair_directory(refs, tmp_path / "other")
    with pytest.raises(StatsnormError, match="does not exist"):
        pair_directory(refs, tmp_path / "none")


def test_one_file_under_two_names_is_no_second_unit(tmp_path):
    for name, text in (("a.jpg", "one"), ("b.jpg", "two"), ("c/d.jpg", "three")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    require_distinct(find_images(tmp_path))
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    require_distinct(find_images(tmp_path))  # left to decoding
    (tmp_path / "z.jpg").write_text("one")
    with pytest.raises(StatsnormError, match=r"'a.jpg' and 'z.jpg' are one file"):
        require_distinct(find_images(tmp_path))


def test_a_copy_of_a_tested_image_is_shared_with_the_reference(tmp_path):
    for name, text in (
        ("t/a.jpg", "one"),
        ("t/b.jpg", "two"),
        ("r/c.jpg", "six"),
        ("r/d.jpg", "two"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    tested, reference = (find_images(tmp_path / name) for name in "tr")
    assert shared_files(tested, reference) == 1
    assert shared_files(tested, tested) == 2
    (tmp_path / "r" / "e.jpg").symlink_to(tmp_path / "t" / "a.jpg")
    (tmp_path / "r" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    assert shared_files(tested, find_images(tmp_path / "r")) == 2


def test_two_gram_targets_that_are_one_file_are_no_two_styles(tmp_path):
    from statsnorm.images.gram import load_gram_styles

    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_text("one")
    with pytest.raises(StatsnormError, match=r"'a.jpg' and 'b.jpg' are one file"):
        load_gram_styles(find_images(tmp_path))
