"""Strangers' files are data: never unpickled, run, or written outside; escaped where shown."""

from __future__ import annotations

import ast
import base64
import hashlib
import io
import os
import pickle
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from report_cases import write_analysis

import statsnorm
from statsnorm.cli import COMMANDS, main
from statsnorm.errors import StatsnormError
from statsnorm.load import Tables
from statsnorm.networks import weights
from statsnorm.report.write import write_report
from statsnorm.rundir import info

PACKAGE = Path(statsnorm.__file__).parent
SOURCES = [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "analyses").glob("*.py")]
QUICK = ("--size", "16", "--device", "cpu", "--vgg-of-output", "none")


def cli(*words: object):
    return CliRunner().invoke(main, [str(word) for word in words], prog_name="statsnorm")


def picture() -> bytes:
    data = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (18, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


# Nothing is unpickled.


def test_no_source_can_unpickle_or_evaluate():
    """`torch.load`, `np.load`, pickle and its kin, eval, exec: none stands in our code."""
    kin = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle", "yaml"}
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found += [(path.name, a.name) for a in node.names if a.name.split(".")[0] in kin]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in kin:
                # The name of an error that torchvision's own reader may raise.
                found += [(path.name, a.name) for a in node.names if a.name != "UnpicklingError"]
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in (
                    "torch.load",
                    "np.load",
                    "numpy.load",
                    "pd.read_pickle",
                    "eval",
                    "exec",
                ):
                    found.append((path.name, called))
    assert len(SOURCES) > 100
    assert found == []


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (str(self.marker),))


@pytest.mark.parametrize("kind", ["pickle", "old pickle", "torch", "legacy torch"])
def test_a_pickle_in_any_disguise_is_refused_and_not_run(tmp_path, monkeypatch, kind):
    marker, photos = tmp_path / "marker", tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(picture())
    for name in ("w.safetensors", "w.pth", "w.bin"):
        path = tmp_path / name
        if "torch" in kind:
            torch.save({"w": Bomb(marker)}, path, _use_new_zipfile_serialization=kind == "torch")
        else:
            path.write_bytes(pickle.dumps(Bomb(marker), protocol=0 if "old" in kind else 4))
        plain = ("--images", photos, "--out", tmp_path / "run", *QUICK)
        training = ("--target", photos / "a.png", "--size", "16", "--out", tmp_path / "run")
        for words in (
            ("extract", *plain, "--network", path),
            ("extract", *plain, "--network", "vgg16", "--weights", path),
            ("extract", *plain, "--network", "cin26", "--weights", path),
            ("extract", *plain, "--condition", "style", "--style-generator", path),
            ("extract", *plain, "--condition", "style", "--style-generator", f"johnson:{path}"),
            ("train", "--images", photos, *training, "--weights", path),
            ("taps", path),
            ("report", path),
            ("info", path),
        ):
            ran = cli(*words)
            assert ran.exit_code == 2, (words, ran.output)
            assert len(ran.stderr.splitlines()) == 1
        assert not marker.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "photos",
        "w.bin",
        "w.pth",
        "w.safetensors",
    ]


@pytest.mark.parametrize("network", weights.EMBEDDED)
def test_embedded_weights_with_one_bit_changed_are_refused(tmp_path, monkeypatch, network):
    name, _ = weights.EMBEDDED[network]
    shutil.copytree(PACKAGE / "assets", tmp_path / "assets", ignore=lambda *_: ["photos"])
    content = bytearray((tmp_path / "assets" / name).read_bytes())
    content[-7] ^= 1
    (tmp_path / "assets" / name).write_bytes(content)
    monkeypatch.setattr(weights.resources, "files", lambda _package: tmp_path)
    with pytest.raises(StatsnormError, match="damaged: SHA-256"):
        weights.read_embedded(network)


# A dotted factory is the one way to foreign code, and says so.


def test_only_network_and_analysis_run_code_and_their_help_says_so():
    for name in COMMANDS:
        command = main.get_command(None, name)
        for option in command.params:
            text = " ".join((getattr(option, "help", None) or "").split())
            says = re.search(r"runs that code|code is run|runs code", text)
            assert bool(says) == (option.name in ("networks", "analyses")), (name, option.name)


def test_a_dotted_name_elsewhere_is_not_imported(tmp_path, monkeypatch):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(picture())
    (tmp_path / "evil_module.py").write_text(
        "import pathlib\npathlib.Path('imported').touch()\ndef make(): return None\n"
    )
    monkeypatch.chdir(tmp_path)
    plain = ("extract", "--images", photos, "--out", "run", *QUICK)
    for words in (
        ("--weights", "evil_module:make", "--network", "vgg16"),
        ("--style-generator", "evil_module:make", "--condition", "style"),
        ("--style-generator", "gram:evil_module:make", "--condition", "style"),
        ("--taps", "evil_module:make"),
        ("--treatment", "evil_module:make"),
        ("--reference", "evil_module:make", "--treatment", "frozen:all"),
        ("--design", "evil_module:make"),
    ):
        assert cli(*plain, *words).exit_code == 2
        assert not Path("imported").exists(), words
    assert cli(*plain, "--network", "evil_module:make").exit_code == 2
    assert Path("imported").exists()  # the one that may


# Names are data.

HOSTILE = (
    b"<script>alert(1)<.png",
    b'"onload=alert(2) x=.png',
    b"&lt;b&gt;.png",
    b"two\nlines.png",
    b"bell\x07 and \x1b[31mred.png",
    b"not utf-8 \xff\xe9.png",
    b"..hidden-no.png"[2:],
    b"-rf.png",
    b"{{ 7 * 7 }}.png",
    b"x" * 240 + b".png",
    "right\u202eto left.png".encode(),
)


@pytest.fixture
def hostile(tmp_path):
    """Return a folder of images with hostile names, as many sound as broken ones."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in HOSTILE:
        (folder / os.fsdecode(name)).write_bytes(picture())
        broken = os.fsdecode(name.replace(b".png", b".jpg"))
        (folder / broken).write_text("<img src=x onerror=alert(3)>")
    return folder


def everything(folder: Path) -> set[str]:
    return {os.fsencode(p.relative_to(folder)).decode("latin-1") for p in folder.rglob("*")}


class Page(HTMLParser):
    """What a browser would see of a page: tags, scripts, styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline: dict[str, list[str]] = {"script": [], "style": []}
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in self.inline else ""

    def handle_data(self, data):
        if self._inside:
            self.inline[self._inside].append(data)

    def handle_endtag(self, tag):
        self._inside = ""


def test_hostile_names_are_shown_and_never_run_or_written(hostile, tmp_path):
    before = everything(tmp_path)
    out, report = tmp_path / "run", tmp_path / "report"
    ran = cli("extract", "--images", hostile, "--out", out, *QUICK, "--network", "pixels")
    assert ran.exit_code == 1, ran.output
    lines = [line for line in ran.stdout.splitlines() if line.startswith("left out: ")]
    assert len(lines) == len(HOSTILE)
    assert all(line.isprintable() or "\u202e" in line for line in lines)
    images = Tables(out).images()
    assert len(images) == len(HOSTILE)
    assert all(name.encode() for name in images["image"])
    own = write_analysis(tmp_path / "fake.py")
    write_report(out, out=report, analyses=[own])
    for path in sorted(everything(tmp_path) - before - {"fake.py"}):
        assert path.split("/")[0] in ("run", "report"), path
    text = (report / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "&lt;script&gt;alert(1)" in text  # it is there, as text
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert "{{ 7 * 7 }}" in text
    assert len(page.inline["script"]) == 1
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
    markdown = (report / "report.md").read_text(encoding="utf-8")
    assert "<script>" not in markdown
    assert "\x1b" not in text + markdown


def test_the_page_sends_no_request_and_sets_a_policy(hostile, tmp_path):
    cli("extract", "--images", hostile, "--out", tmp_path / "run", *QUICK, "--network", "pixels")
    own = write_analysis(tmp_path / "fake.py")
    write_report(tmp_path / "run", out=tmp_path / "report", analyses=[own])
    page = Page((tmp_path / "report" / "report.html").read_text(encoding="utf-8"))
    head = [(tag, a) for tag, a in page.tags if tag in ("meta", "style", "script", "link")]
    place = next(
        i for i, (_, a) in enumerate(head) if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert not [tag for tag, _ in head[:place] if tag != "meta"]  # before all it has to guard
    policy = {
        part.split()[0]: part.split()[1:] for part in (head[place][1]["content"] or "").split(";")
    }
    assert policy["default-src"] == ["'none'"]
    assert policy["base-uri"] == policy["form-action"] == ["'none'"]
    assert policy.get("img-src", []) in ([], ["data:"])
    assert not {"connect-src", "frame-src", "object-src", "font-src"} & set(policy)
    for kind in ("script", "style"):
        wanted = {
            "'sha256-" + base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() + "'"
            for t in page.inline[kind]
        }
        assert set(policy[f"{kind}-src"]) == wanted, kind
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            target = attributes.get(name) or ""
            local = not target or target.startswith(("#", "data:")) or ":" not in target
            assert local or (tag == "a" and target.startswith("https://")), (tag, target)
        assert tag not in ("link", "iframe", "object", "embed", "base", "form"), tag
    assert "url(" not in "".join(page.inline["style"])


def test_lists_that_lead_out_and_links_write_nothing_outside(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "a.png").write_bytes(picture())
    (outside / "target..png").write_bytes(picture())
    (inside / "link.png").symlink_to(outside / "a.png")
    (inside / "loop").symlink_to(inside)
    (inside / "nowhere.png").symlink_to(tmp_path / "gone.png")
    listing = inside / "l.txt"
    listing.write_text(f"../outside/a.png\n{outside}/target..png\nlink.png\nnowhere.png\n")
    before = everything(tmp_path)
    for source in (inside, listing):
        out = tmp_path / source.name.replace(".", "-") / "run"
        ran = cli("extract", "--images", source, "--out", out, *QUICK, "--network", "pixels")
        assert ran.exit_code in (0, 1), ran.output
        assert {p.split("/")[0] for p in everything(tmp_path) - before} <= {"in", "l-txt"}
    trained = cli(
        *("train", "--images", listing, "--target", outside / "target..png", "--norm", "in"),
        *("--out", tmp_path / "t", "--size", "16", "--iterations", "1", "--width", "2"),
        *("--residual-blocks", "1", "--heldout", "1", "--batch-size", "1", "--device", "cpu"),
    )
    assert trained.exit_code == 1, trained.output
    assert {p.split("/")[0] for p in everything(tmp_path) - before} <= {"in", "l-txt", "t"}
    assert everything(outside) == {"a.png", "target..png"}


@pytest.mark.parametrize("name", [b"\xff\xe9.png", b"x" * 250 + b".png", b"<b>\n.png"])
def test_targets_with_hostile_names(tmp_path, name):
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(2):
        (photos / f"{i}.png").write_bytes(picture())
    target = tmp_path / os.fsdecode(name)
    target.write_bytes(picture())
    ran = cli(
        *("train", "--images", photos, "--target", target, "--norm", "in", "--out", tmp_path / "r"),
        *("--size", "16", "--iterations", "1", "--width", "2", "--residual-blocks", "1"),
        *("--heldout", "1", "--batch-size", "1", "--device", "cpu", "--condition", "original"),
    )
    assert ran.exit_code == 0, (ran.output, ran.exception)
    assert info(tmp_path / "r").finished


@pytest.mark.parametrize("file", ["../../etc/passwd", "/etc/passwd", "a\0b"])
def test_a_run_that_names_files_outside_is_refused(tmp_path, file):
    import json

    from statsnorm.rundir import Expected, open_run

    run = open_run(tmp_path / "r", {"kind": "extract"}, expected=Expected(files=("a.parquet",)))
    content = json.loads((run.path / "run.json").read_text())
    content["expected"]["files"] = [file]
    (run.path / "run.json").write_text(json.dumps(content))
    with pytest.raises(StatsnormError, match="not below the run"):
        info(run.path)


def test_a_run_of_endless_shards_or_devices_does_not_keep_us(tmp_path):
    import json

    from statsnorm.rundir import Expected, open_run

    run = open_run(tmp_path / "r", {"kind": "extract"}, expected=Expected(shards=1))
    path = run.path / "run.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "expected": {**content["expected"], "shards": 10**15}}))
    with pytest.raises(StatsnormError, match="asks for 1000000000000000 shards"):
        info(run.path)


def test_messages_with_names_that_no_terminal_can_show(tmp_path):
    ran = cli("report", os.fsdecode(b"\xff\xe9"), "--out", tmp_path / "r")
    assert ran.exit_code == 2
    assert "\\udcff" in ran.stderr
