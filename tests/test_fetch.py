"""Downloads against a server of this test's own: one that breaks off, lies, and errs."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from click.testing import CliRunner
from PIL import Image

from statsnorm import fetch as fetching
from statsnorm.cli import main
from statsnorm.errors import StatsnormError
from statsnorm.fetch import Remote, download, fetch
from statsnorm.images.sources import find_images

DATA = bytes(range(256)) * 40  # 10,240 bytes


class Server(ThreadingHTTPServer):
    """Serves `data`; each answer is made by the next of `manners`, the last one for ever."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.data, self.manners, self.asked = DATA, [{}], []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/zips/val2017.zip"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        manner = server.manners.pop(0) if len(server.manners) > 1 else server.manners[0]
        asked = self.headers.get("Range")
        server.asked.append(asked)
        if "status" in manner:
            self.send_error(manner["status"])
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if manner.get("ignores_range"):
            start = 0
        body = server.data[start:]
        begins = start + manner.get("shift", 0)
        self.send_response(206 if start else 200)
        if start:
            end = len(server.data)
            self.send_header("Content-Range", f"bytes {begins}-{end - 1}/{end}")
        if manner.get("length", True) is not None:
            self.send_header("Content-Length", str(len(body) + manner.get("lie", 0)))
        self.end_headers()
        self.wfile.write(body[: manner.get("sent")])

    def log_message(self, *_args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fetching.time, "sleep", lambda _seconds: None)
    server = Server()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def remote(server, *, size=None, data=None):
    data = server.data if data is None else data
    return Remote(server.url, hashlib.sha256(data).hexdigest(), len(data) if size is None else size)


@pytest.mark.parametrize("size", [None, 0])
def test_a_download_goes_on_where_it_broke_off(server, tmp_path, size):
    server.manners = [{"sent": 1000}, {"sent": 5000}, {}]
    seen = []
    path = download(
        remote(server, size=size), tmp_path / "a" / "f", progress=lambda *now: seen.append(now)
    )
    assert path.read_bytes() == DATA
    assert server.asked == [None, "bytes=1000-", "bytes=6000-"]
    assert seen[-1] == (len(DATA), len(DATA), "val2017.zip")
    assert [p.name for p in path.parent.iterdir()] == ["f"]


def test_a_later_call_goes_on_too(server, tmp_path):
    server.manners = [{"sent": 700}, {"sent": 0}]
    with pytest.raises(StatsnormError, match="700 bytes are kept, the same command goes on"):
        download(remote(server), tmp_path / "f")
    assert (tmp_path / "f.part").read_bytes() == DATA[:700]
    server.manners, server.asked = [{}], []
    assert download(remote(server), tmp_path / "f").read_bytes() == DATA
    assert server.asked == ["bytes=700-"]
    server.manners, server.asked = [{"status": 500}], []
    assert download(remote(server), tmp_path / "f").read_bytes() == DATA  # nothing to do
    assert not server.asked


@pytest.mark.parametrize(
    "manners",
    [
        [{"sent": 900}, {"ignores_range": True}],  # answers 200 from the start
        [{"sent": 900}, {"shift": 5, "ignores_range": False}, {}],  # 206 of another place
        [{"status": 503}, {"sent": 10}, {"status": 502}, {}],
        [{"lie": 5000}, {}],  # says more than it sends
        [{"lie": -5000}, {}],  # says less: the reader stops there
    ],
    ids=["no-ranges", "another-place", "errors-between", "too-long", "too-short"],
)
def test_a_server_with_bad_manners_still_gives_the_right_bytes(server, tmp_path, manners):
    server.manners = manners
    assert download(remote(server), tmp_path / "f").read_bytes() == DATA


def test_a_length_that_lies_cannot_pass_where_the_size_is_not_known(server, tmp_path):
    server.manners = [{"lie": -5000}]
    with pytest.raises(StatsnormError, match="another SHA-256"):
        download(remote(server, size=0), tmp_path / "f")
    assert not list(tmp_path.iterdir())


def test_other_bytes_are_thrown_away_and_told(server, tmp_path):
    wanted = remote(server)
    server.data = DATA[:-1] + b"!"
    with pytest.raises(StatsnormError, match="another SHA-256"):
        download(wanted, tmp_path / "f")
    assert not list(tmp_path.iterdir())


def test_an_endless_file_is_cut_short(server, tmp_path):
    wanted = remote(server)
    server.data = DATA * 3
    with pytest.raises(StatsnormError, match="sends more than the 10240 bytes"):
        download(wanted, tmp_path / "f")
    assert not (tmp_path / "f").exists()
    assert (tmp_path / "f.part").stat().st_size <= len(DATA)


def test_what_is_there_but_something_else_is_not_overwritten(server, tmp_path):
    (tmp_path / "f").write_bytes(b"mine")
    with pytest.raises(StatsnormError, match="move it away"):
        download(remote(server), tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == b"mine"


def test_no_file_and_no_network_are_one_line(server, tmp_path):
    server.manners = [{"status": 404}]
    with pytest.raises(StatsnormError, match="404"):
        download(remote(server), tmp_path / "f")
    assert len(server.asked) == 1  # asking again would not help
    nowhere = Remote("http://127.0.0.1:9/f", "00")
    with pytest.raises(StatsnormError, match=r"refused; is there a network\?$"):
        download(nowhere, tmp_path / "f")


def archive(folder="val2017"):
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(picture, "JPEG")
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name in ("000000000139.jpg", "000000000285.jpg"):
            file.writestr(f"{folder}/{name}", picture.getvalue())
        file.writestr("../../outside.jpg", picture.getvalue())
    return data.getvalue()


@pytest.fixture
def coco(server, monkeypatch):
    def serve(data):
        server.data = data
        monkeypatch.setitem(fetching.COCO, "coco-val2017", remote(server))

    serve(archive())
    return serve


def test_photographs_are_fetched_unpacked_and_found(server, coco, tmp_path):
    out = tmp_path / "deep" / "data"
    server.manners = [{"sent": 100}, {}]
    done = CliRunner().invoke(main, ["fetch", "coco-val2017", "--out", str(out)])
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"{out / 'val2017'}\n"
    names = [ref.image for ref in find_images(out / "val2017")]
    assert names == ["000000000139.jpg", "000000000285.jpg"]
    assert not (out / "val2017.zip").exists()
    assert not (tmp_path / "outside.jpg").exists()  # an archive writes nowhere else
    server.asked.clear()
    assert fetch("coco-val2017", out=out) == out / "val2017"
    assert not server.asked


def test_an_archive_of_something_else_is_told(coco, tmp_path):
    coco(archive("train2017"))
    with pytest.raises(StatsnormError, match="holds no folder 'val2017'"):
        fetch("coco-val2017", out=tmp_path)
    coco(b"no archive at all")
    with pytest.raises(StatsnormError, match=r"move it away|could not unpack"):
        fetch("coco-val2017", out=tmp_path)


def test_an_unknown_name_is_refused_in_one_line(tmp_path):
    done = CliRunner().invoke(main, ["fetch", "coco-val2018", "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert "unknown data 'coco-val2018'; did you mean" in done.stderr
