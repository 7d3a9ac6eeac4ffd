from __future__ import annotations

import functools
import hashlib
import io
import pickle
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import VGG16_Weights

from statsnorm.errors import StatsnormError
from statsnorm.networks import load_network
from statsnorm.networks.vgg import build_vgg
from statsnorm.networks.weights import load_state, read_checkpoint, save_checkpoint

PACKAGE = Path(__file__).resolve().parents[1] / "statsnorm"


class Trap:
    """Unpickling this writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.pt", "w.pkl"])
@pytest.mark.parametrize("writer", ["torch", "legacy", "pickle"])
def test_a_pickle_is_refused_and_never_run(tmp_path, name, writer):
    path, sprung = tmp_path / name, tmp_path / "sprung"
    if writer == "pickle":
        path.write_bytes(pickle.dumps(Trap(sprung)))
    else:
        torch.save(Trap(sprung), path, _use_new_zipfile_serialization=writer == "torch")
    for attempt in (
        lambda: load_network(str(path)),
        lambda: load_network("vgg16", weights=str(path)),
        lambda: load_network("cin26", weights=str(path)),
    ):
        with pytest.raises(StatsnormError, match=r"is a PyTorch pickle.*convert it with"):
            attempt()
    assert not sprung.exists()


def test_nothing_in_the_package_unpickles():
    calls = re.compile(r"torch\.load\(|pickle\.loads?\(|allow_pickle=True|weights_only=False")
    guilty = [p for p in PACKAGE.rglob("*.py") if calls.search(p.read_text(encoding="utf-8"))]
    assert guilty == []


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(4)}, path)
    whole = path.read_bytes()
    for data in (b"", b"abc", whole[:-1], whole[:20], b"\xff" * 64, whole[:8] + b"{" * 80):
        path.write_bytes(data)
        with pytest.raises(StatsnormError, match="is not a valid safetensors file"):
            read_checkpoint(path)
    save_file({"ok": torch.zeros(1), "bad": torch.tensor([1.0, torch.nan])}, path)
    with pytest.raises(StatsnormError, match="holds nan or inf in 'bad'"):
        read_checkpoint(path)
    with pytest.raises(StatsnormError, match="no weights file at"):
        read_checkpoint(tmp_path)  # a folder


def test_half_precision_is_widened_and_the_hash_is_the_files(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(3, dtype=torch.float16), "i": torch.ones(2).long()}, path)
    checkpoint = read_checkpoint(path)
    assert checkpoint.state["a"].dtype == torch.float32
    assert checkpoint.state["i"].dtype == torch.int64
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert checkpoint.metadata == {}


def test_load_state_names_what_does_not_fit():
    module, state = nn.BatchNorm1d(3), dict(nn.BatchNorm1d(3).state_dict())
    load_state(module, {k: v for k, v in state.items() if "num" not in k}, "f")
    with pytest.raises(StatsnormError, match=r"'f' lacks 'bias', expected shape \(3,\)"):
        load_state(module, {k: v for k, v in state.items() if k != "bias"}, "f")
    with pytest.raises(StatsnormError, match=r"'bias' has shape \(4,\), expected \(3,\)"):
        load_state(module, state | {"bias": torch.zeros(4)}, "f")
    with pytest.raises(StatsnormError, match="holds 'extra', which this architecture has not"):
        load_state(module, state | {"extra": torch.zeros(4)}, "f")


def test_the_same_state_gives_the_same_bytes(tmp_path):
    module, metadata = (
        build_vgg("vgg16", convolutions=2),
        dict(zip("zyxwvutsr", range(9), strict=True)),
    )
    paths = [tmp_path / f"{i}.safetensors" for i in range(5)]
    said = {save_checkpoint(path, module, metadata) for path in paths}
    assert {path.read_bytes() for path in paths} == {paths[0].read_bytes()}
    assert said == {hashlib.sha256(paths[0].read_bytes()).hexdigest()}
    back = read_checkpoint(paths[0])
    assert back.metadata == {k: str(v) for k, v in metadata.items()}
    assert all(torch.equal(back.state[k], v) for k, v in module.state_dict().items())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "g.safetensors"
    save_checkpoint(path, nn.Linear(2, 2), {})
    before = path.read_bytes()

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, nn.Linear(2, 2), {})
    assert [p.name for p in tmp_path.iterdir()] == ["g.safetensors"]
    assert path.read_bytes() == before


class Handler(BaseHTTPRequestHandler):
    def __init__(self, files, *args):
        self.files = files
        super().__init__(*args)

    def do_GET(self):
        name = self.path.lstrip("/")
        if name not in self.files:
            self.send_error(404)
            return
        self.send_response(200)
        data, sent = self.files[name]
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:sent])

    def log_message(self, *_args):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Serve files as torchvision's hub does, into a cache of this test's own.

    Yields (files, url): files maps a name to its bytes and how many of them are sent.
    """
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("statsnorm.fetch.time.sleep", lambda _seconds: None)
    files = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, files))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield files, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def tiny_vgg16(*, zipped=True):
    """Return torchvision's file with one repeated number a tensor: right shapes, few bytes."""
    shapes = {k: v.shape for k, v in build_vgg("vgg16").state_dict().items()}
    positions = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    state = {"classifier.0.weight": torch.zeros(()).expand(4096, 25088)}
    for number, (key, shape) in enumerate(shapes.items()):
        name = f"features.{positions[number // 2]}.{key.rpartition('.')[2]}"
        state[name] = torch.full((), number / 1000).expand(shape)
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue(), state


def serve(hub, monkeypatch, data, name=None, sent=None):
    files, url = hub
    name = name or f"vgg16-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    files[name] = data, sent
    monkeypatch.setattr(VGG16_Weights.IMAGENET1K_V1.value, "url", url + name)
    return name


@pytest.mark.parametrize("zipped", [True, False])  # torchvision's own files are of the old kind
def test_torchvision_download_and_cache(hub, monkeypatch, capsys, tmp_path, zipped):
    data, state = tiny_vgg16(zipped=zipped)
    name = serve(hub, monkeypatch, data)
    network = load_network("vgg16", weights="torchvision")
    assert capsys.readouterr().out == ""  # stdout is for results
    assert network.sha256 == hashlib.sha256(data).hexdigest()
    torch.testing.assert_close(network.module.conv5_3.weight, state["features.28.weight"].clone())
    mean, sd = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 1, 3, 1, 1)
    x = torch.rand(1, 3, 4, 4)
    torch.testing.assert_close(network.preprocess(x), (x - mean) / sd)
    hub[0].clear()  # from the cache now
    assert load_network("vgg16", weights="torchvision").sha256 == network.sha256
    cached = tmp_path / "cache" / "hub" / "checkpoints" / name
    cached.write_bytes(b"never parsed: the hash is checked first")
    with pytest.raises(StatsnormError, match="do not match the hash in their name"):
        load_network("vgg16", weights="torchvision")


def test_wrong_bytes_and_no_network_are_told(hub, monkeypatch, tmp_path):
    data, _ = tiny_vgg16()
    serve(hub, monkeypatch, data[:-1] + b"!", f"vgg16-{hashlib.sha256(data).hexdigest()[:8]}.pth")
    with pytest.raises(StatsnormError, match=r"could not get torchvision's vgg16 .*--weights FILE"):
        load_network("vgg16", weights="torchvision")
    assert not list((tmp_path / "cache" / "hub" / "checkpoints").iterdir())
    serve(hub, monkeypatch, data, sent=len(data) // 2)  # breaks off
    with pytest.raises(StatsnormError, match=r"could not get torchvision's vgg16 .* are kept"):
        load_network("vgg16", weights="torchvision")
    (part,) = (tmp_path / "cache" / "hub" / "checkpoints").iterdir()
    assert part.suffix == ".part"  # gone on from later, never taken for weights
    hub[0].clear()
    with pytest.raises(StatsnormError, match=r"404 "):
        load_network("vgg16", weights="torchvision")
    monkeypatch.setattr(
        VGG16_Weights.IMAGENET1K_V1.value, "url", "http://127.0.0.1:9/v-00000000.pth"
    )
    with pytest.raises(StatsnormError, match=r"could not get torchvision's vgg16"):
        load_network("vgg16", weights="torchvision")


def test_a_trap_served_as_torchvision_weights_is_not_sprung(hub, monkeypatch, tmp_path):
    buffer, sprung = io.BytesIO(), tmp_path / "sprung"
    torch.save(Trap(sprung), buffer)
    serve(hub, monkeypatch, buffer.getvalue())
    with pytest.raises(StatsnormError, match="could not get torchvision's vgg16 weights"):
        load_network("vgg16", weights="torchvision")
    assert not sprung.exists()


def test_a_header_whose_metadata_are_null_is_one_without(tmp_path):
    header = b'{"__metadata__":null,"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    found = read_checkpoint(path)
    assert (found.metadata, list(found.state)) == ({}, ["a"])
