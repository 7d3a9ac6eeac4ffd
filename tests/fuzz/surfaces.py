"""What strangers give us, bent in every way: each must give a result or be refused.

A surface is a function of a generator and an empty folder. It makes one case, feeds it to the
code that reads such things, and checks what came back; a StatsnormError is a refusal.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save as dump_safetensors

from statsnorm.cli import main
from statsnorm.decisions import load_plan
from statsnorm.errors import StatsnormError
from statsnorm.extraction import extract
from statsnorm.images.decode import decode
from statsnorm.images.design import load_design_file
from statsnorm.images.sources import find_images
from statsnorm.load import Tables, load_design, load_moments
from statsnorm.networks import load_network
from statsnorm.networks.texture import TextureGenerator
from statsnorm.report.discover import find_analyses
from statsnorm.rundir import finish, info, read_run, record_shard

Rng = np.random.Generator
Surface = Callable[[Rng, Path], None]

PIXEL_LIMIT = 200_000
_ENCODINGS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    *(("JPEG", mode, {}) for mode in ("L", "RGB", "CMYK")),
    ("JPEG", "RGB", {"progressive": True}),
    *(("PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    *(("GIF", "P", {}), ("WEBP", "RGB", {}), ("WEBP", "RGBA", {"lossless": True})),
    *(("TIFF", mode, {}) for mode in ("1", "L", "RGB", "RGBA", "CMYK", "F", "I;16", "YCbCr")),
    *(("TIFF", "RGB", {"compression": c}) for c in ("tiff_lzw", "tiff_deflate", "jpeg")),
    *(("BMP", mode, {}) for mode in ("1", "L", "P", "RGB")),
    *(("PPM", mode, {}) for mode in ("1", "L", "RGB", "I;16")),
    *(("JPEG2000", mode, {}) for mode in ("L", "RGB", "RGBA")),
    ("AVIF", "RGB", {}),
)


@cache
def _encoded() -> tuple[bytes, ...]:
    """Return one small sound file of every format, mode and depth that Pillow writes here."""
    rng, files = np.random.default_rng(0), []
    for kind, mode, options in _ENCODINGS:
        if mode == "I;16":
            image = Image.fromarray(rng.integers(0, 65536, (11, 13), dtype=np.uint16))
        elif mode == "F":
            image = Image.fromarray(rng.random((11, 13), dtype=np.float32))
        else:
            image = Image.fromarray(rng.integers(0, 256, (11, 13, 3), dtype=np.uint8)).convert(mode)
        data = io.BytesIO()
        try:
            image.save(data, kind, **options)
        except (OSError, KeyError):  # this Pillow was built without it
            continue
        files.append(data.getvalue())
    return tuple(files)


def bent(rng: Rng, data: bytes, other: bytes = b"") -> bytes:
    """Return bytes with one to three things done to them: cut, flipped, lied about, spliced."""
    for _ in range(int(rng.integers(1, 4))):
        size = max(1, len(data))
        place = int(rng.integers(0, size if rng.random() < 0.5 else min(size, 80)))
        what = rng.integers(0, 7)
        if what == 0:
            data = data[:place]
        elif what == 1:
            data = data[:place] + rng.bytes(int(rng.integers(1, 9))) + data[place + 1 :]
        elif what == 2:  # a number of the header says something enormous, or nothing
            width = int(rng.choice([2, 4, 8]))
            number = int(rng.choice([0, 1, 255, 65535, 2**31 - 1, 2**32 - 1, 2**63 - 1]))
            order = "big" if rng.random() < 0.5 else "little"
            said = (number % 2 ** (8 * width)).to_bytes(width, order)
            data = data[:place] + said + data[place + width :]
        elif what == 3:
            data = data[:place] + other[int(rng.integers(0, len(other) + 1)) :]
        elif what == 4:
            data = data[:place] + data[place + int(rng.integers(1, 30)) :]
        elif what == 5:
            data = data[:place] + data[place : place + 20] * int(rng.integers(1, 50)) + data[place:]
        elif size > 1:
            flipped = bytearray(data)
            flipped[place % len(data)] ^= 1 << int(rng.integers(0, 8))
            data = bytes(flipped)
    return data


def images(rng: Rng, folder: Path) -> None:
    """Decode the bytes of an image that were bent."""
    files = _encoded()
    data, other = (files[int(rng.integers(0, len(files)))] for _ in range(2))
    path = folder / "a.img"
    path.write_bytes(bent(rng, data, other))
    size = None if rng.random() < 0.3 else int(rng.choice([1, 16, 33]))
    found = decode(path, size=size, pixel_limit=PIXEL_LIMIT)
    assert found.pixels.dtype == torch.float32
    assert found.pixels.shape[0] == 3
    assert size is None or found.pixels.shape[1:] == (size, size)
    assert found.width * found.height <= PIXEL_LIMIT
    assert bool((found.pixels >= 0).all() & (found.pixels <= 1).all())  # no nan either


@cache
def _checkpoints() -> tuple[tuple[dict[str, torch.Tensor], dict[str, str]], ...]:
    found = []
    for norm, styles in (("in", 1), ("bn", 1), ("cin", 2)):
        generator = TextureGenerator(norm, width=2, blocks=1, styles=styles)
        metadata = {k: str(v) for k, v in generator.architecture.items()}
        found.append((dict(generator.state_dict()), {**metadata, "cell": "c", "seed": "3"}))
    johnson = {"res1.conv1.weight": torch.zeros(3), "up2.norm.weight": torch.zeros(3)}
    found.append((johnson, {"output": "150*tanh(x)+127.5"}))
    found.append(({"features.0.weight": torch.zeros(4, 3, 3, 3)}, {}))
    found.append(({"conv.weight": torch.zeros(2, 3, 1, 1)}, {"source": "texture_nets 2016"}))
    return tuple(found)


_ODD = (
    *("", "0", "-1", "1", "7", "1024", "999999999999", "1e9", "nan", "in", "bn", "all", "last"),
    *("\u0000", "<script>", "../..", "x" * 3000, "texture", "ünï", "None", "[]"),
)


def safetensors(rng: Rng, folder: Path) -> None:
    """Load a network from a checkpoint whose header or bytes were bent."""
    state, metadata = _checkpoints()[int(rng.integers(0, len(_checkpoints())))]
    state, metadata = dict(state), dict(metadata)
    for _ in range(int(rng.integers(0, 3))):
        keys = [*metadata, "width", "blocks", "styles", "norm", "norm_at", "rest"]
        metadata[str(rng.choice(keys))] = str(rng.choice(_ODD))
    if rng.random() < 0.3 and state:
        name = str(rng.choice(list(state)))
        kind = rng.integers(0, 4)
        if kind == 0:
            del state[name]
        elif kind == 1:
            state[name] = torch.full_like(state[name].float(), float("nan"))
        elif kind == 2:
            state[name] = torch.zeros(int(rng.integers(0, 5)), int(rng.integers(0, 5)))
        else:
            state[str(rng.choice(_ODD))] = state[name].clone()
    data = dump_safetensors(state, metadata)
    if rng.random() < 0.6:
        data = _bent_header(rng, data) if rng.random() < 0.5 else bent(rng, data)
    path = folder / "w.safetensors"
    path.write_bytes(data)
    nodes = ["nn.Sequential", "nn.SpatialConvolution", "nn.GenNoise", "nn.X", 3]
    tree: Any = {"type": str(rng.choice(nodes)), "modules": [], "key": "conv", "pad": -1}
    for _ in range(int(rng.integers(0, 120))):
        tree = {"type": "nn.Sequential", "modules": [tree]}
    (folder / "architecture.json").write_bytes(bent(rng, json.dumps(tree).encode()))
    network = load_network(str(path))
    with torch.inference_mode():
        made = network.forward(
            torch.rand(1, 3, 16, 16), network.indices[0] if network.indices else ""
        )
    assert made.shape[0] == 1


def _bent_header(rng: Rng, data: bytes) -> bytes:
    size = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = {"a": {}}
    with contextlib.suppress(ValueError):
        header = json.loads(data[8 : 8 + size]) or header
    name = str(rng.choice(list(header)))
    values = [
        [],
        [2**62],
        [-1],
        ["a"],
        None,
        {},
        1e300,
        [0, 2**40],
        "F64",
        "BOOL",
        "F8_E4M3",
        {"a": 1},
    ]
    value = values[int(rng.integers(0, len(values)))]
    if isinstance(header[name], dict) and rng.random() < 0.8:
        header[name][str(rng.choice(["shape", "dtype", "data_offsets", "odd"]))] = value
    else:
        header[name] = value
    text = json.dumps(header).encode()
    lies = (0, 2**20, 2**50, 2**64 - 1)
    claimed = len(text) if rng.random() < 0.8 else lies[int(rng.integers(0, len(lies)))]
    return claimed.to_bytes(8, "little") + text + data[8 + size :]


_VALUES: tuple[Any, ...] = (
    *(0, 1, -1, 2, 5, 10**9, 10**30, 0.5, 1.0, -0.5, 1e308, "inf", "nan", True, False),
    *("", "gain", "offset", "gamma", "equalise", "channel-gain", "luminance", "none", "cin26"),
    *("filters", "gram:", "johnson:/nowhere", "x.safetensors", "\\u0000", "sepia", "..", "a\\nb"),
    *([], [1], [0.5, 1.0], [0.5, 0.5], [[0.5, 0.25]], [[1, 1, 1]], ["sepia"], [0, 3], ["99"]),
    *([[[]]], {}, {"a": 1}, "1979-05-27", "x" * 2000),
)
_KEYS = (
    *("contrast", "limit", "restore", "seed", "strength", "styles", "generator", "indices"),
    *("allow_out_of_range", "family", "k", "values", "odd", "a b"),
)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, str):
        bare = value in ("inf", "nan", "1979-05-27")
        return value if bare else f'"{value}"'
    return repr(value)


def designs(rng: Rng, folder: Path) -> None:
    """Read a design file made of the right keys and odd values, or bent as text."""
    tables: dict[str, dict[str, Any]] = {
        "": {"restore": "none", "limit": 0, "seed": 3, "strength": [0.5, 1.0]},
        "[styles]": {"generator": "cin26", "indices": [0, 3]},
        "[contrast]": {"family": "gain", "values": [0.5, 1.0]},
    }
    for _ in range(int(rng.integers(0, 4))):
        table = tables[str(rng.choice(list(tables)))]
        value = _VALUES[int(rng.integers(0, len(_VALUES)))]
        key = str(rng.choice(_KEYS if rng.random() < 0.3 or not table else list(table)))
        if rng.random() < 0.3:
            table.pop(key, None)
        else:
            table[key] = value
    lines = []
    for name, table in tables.items():
        lines.append("[[styles]]" if name == "[styles]" and rng.random() < 0.2 else name)
        lines += [f"{k if ' ' not in k else repr(k)} = {_toml(v)}" for k, v in table.items()]
    data = "\n".join(lines).encode()
    path = folder / "d.toml"
    path.write_bytes(bent(rng, data) if rng.random() < 0.4 else data)
    design = load_design_file(path)
    cells = design.cells()
    assert len(cells) == len(set(cells)) > 0


def plans(rng: Rng, folder: Path) -> None:
    """Read decision rules that were bent."""
    import statsnorm

    data = (Path(statsnorm.__file__).parents[1] / "analyses" / "plan.toml").read_bytes()
    lines = data.split(b"\n")
    for _ in range(int(rng.integers(1, 4))):
        place = int(rng.integers(0, len(lines)))
        key, equals, _ = lines[place].partition(b"=")
        value = _VALUES[int(rng.integers(0, len(_VALUES)))]
        if equals and rng.random() < 0.7:
            lines[place] = key + b"= " + _toml(value).encode()
        else:
            del lines[place]
    path = folder / "plan.toml"
    path.write_bytes(b"\n".join(lines))
    assert load_plan(path).rules


def lists(rng: Rng, folder: Path) -> None:
    """Find the images of a list or manifest that was bent."""
    (folder / "a.png").write_bytes(_encoded()[4])
    texts = ("a.png\nb.png\n", "image,domain\na.png,x\nb.png,y\n", "image\tc\na.png\t\xe9\n")
    which = int(rng.integers(0, 3))
    path = folder / ("l.txt", "l.csv", "l.tsv")[which]
    odd = str(rng.choice(["/etc/passwd", "../../x", "\0", "\r\n", '"', "\u2028", "x" * 5000]))
    text = texts[which] + (odd + "\n" if rng.random() < 0.5 else "")
    data = text.encode("utf-8", "surrogateescape")
    path.write_bytes(bent(rng, data) if rng.random() < 0.7 else data)
    for ref in find_images(path):
        ref.image.encode()
        assert ref.image.isprintable() or "\u00ad" in ref.image or not ref.image.isascii()


@cache
def _finished() -> Path:
    """Return a finished run: a crossed design through a network with normalisers, and VGG."""
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="fuzz-run-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    photos = folder / "photos"
    photos.mkdir()
    rng = np.random.default_rng(1)
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(photos / f"{i}.png")
    extract(
        photos,
        out=folder / "run",
        networks=["tiny_networks:instance_norm", "pixels"],
        design={
            "styles": {"generator": "filters", "indices": ["sepia", "grain"]},
            "contrast": {"family": "gain", "values": [0.5, 1.0]},
        },
        treatments=["none", "frozen:prefix"],
        reference=photos,
        untrained=1,
        vgg_of_output=None,
        **{"size": 16, "device": "cpu", "shard_size": 4, "batch_size": 8},
    )
    return folder / "run"


def tables(rng: Rng, folder: Path) -> None:
    """Read tables of a stranger's run with every loader, and judge them with an analysis."""
    run = shutil.copytree(_finished(), folder / "run")
    names = ["moments/shard-00000", "images/shard-00000", "taps", "levels", "skipped/shard-00000"]
    for _ in range(int(rng.integers(1, 3))):
        path = run / f"{rng.choice(names, p=[0.6, 0.1, 0.1, 0.1, 0.1])}.parquet"
        if rng.random() < 0.25:
            path.write_bytes(bent(rng, path.read_bytes()))
        else:
            sound = pq.read_table(_finished() / path.relative_to(run))
            pq.write_table(_bent_table(rng, sound), path)
    opened = read_run(run)
    try:
        record_shard(opened, 0, opened.expected.of_shard(0), {})
        record_shard(opened, "singles", opened.expected.files, {})
    except (OSError, pa.ArrowException):  # no table at all: info has to say so
        assert info(run).damaged
    else:
        finish(opened)
    _read_all(rng, run)


def _read_all(rng: Rng, run: Path) -> None:
    refused = None
    for read in (
        lambda: load_moments(run, layout=str(rng.choice(["nested", "tidy", "matrix"]))),
        lambda: load_moments(run, tap="1", layout="matrix"),
        lambda: load_design(run, tap="1.in", network="tiny_in", treatment="none", seed=-1),
        lambda: (Tables(run).images(), Tables(run).taps(), Tables(run).skipped()),
        lambda: info(run),
        lambda: _judge(rng, run),
    ):
        try:
            read()
        except StatsnormError as error:
            refused = error
    if refused is not None:
        raise refused


def _judge(rng: Rng, run: Path) -> None:
    analyses = find_analyses(None)
    chosen = analyses[int(rng.integers(0, len(analyses)))]
    frames = chosen.function("summarise")(Tables(run))
    if frames:
        chosen.function("run")(frames, load_plan(), np.random.default_rng(0))


def _bent_table(rng: Rng, table: Any) -> Any:
    column = str(rng.choice(table.column_names))
    place = table.column_names.index(column)
    kind, n = table.schema.field(column).type, table.num_rows
    what = rng.integers(0, 9)
    values = table.column(column).to_pylist()
    if what == 0:
        return table.drop_columns([column])
    if what == 1:
        return table.slice(0, int(rng.integers(0, n + 1)))
    if what == 2:
        return pa.concat_tables([table, table.slice(0, int(rng.integers(0, n + 1)))])
    if what == 3:
        return table.take(pa.array(rng.permutation(n)))
    if what == 4:
        return table.append_column("odd", pa.array(["x"] * n))
    if what == 5 and n:
        values[int(rng.integers(0, n))] = None
    elif n:
        for k in rng.integers(0, n, 1 if rng.random() < 0.5 else n):
            values[int(k)] = _odd_value(rng, kind, values[int(k)])
    changed = pa.array(values, kind)
    field = pa.field(column, kind)
    return table.set_column(place, field, changed)


def _odd_value(rng: Rng, kind: Any, value: Any) -> Any:
    if pa.types.is_string(kind):
        return str(
            rng.choice(["", "<script>", "x" * 500, "\n", "../..", "cin26:1", "none", "a:b:c"])
        )
    if pa.types.is_list(kind):
        if pa.types.is_boolean(kind.value_type):
            return [True] * int(rng.integers(0, 9))
        numbers = [float("nan"), float("inf"), -1.0, 0.0, 1e38, 1e-38]
        number = numbers[int(rng.integers(0, len(numbers)))]
        return [number] * (int(rng.integers(0, 9)) if rng.random() < 0.3 else len(value or []))
    if pa.types.is_boolean(kind):
        return not value
    if pa.types.is_floating(kind):
        return float(rng.choice([np.nan, np.inf, -1.0, 0.0, 1e300]))
    most = 2 ** (kind.bit_width - 1) - 1
    return int(rng.choice([0, -1, 1, most, -most - 1]))


def directories(rng: Rng, folder: Path) -> None:
    """Say what a stranger's run directory holds when its JSON was bent."""
    run = shutil.copytree(_finished(), folder / "run")
    for path in rng.choice(sorted(run.rglob("*.json")), 2, replace=False).tolist():
        content = json.loads(path.read_text())
        values = [None, [], {}, "x", -1, 10**30, "../../etc/passwd", "/dev/zero", True, ["a"]]
        spot: Any = content
        while isinstance(spot, dict) and spot:
            key = str(rng.choice(list(spot)))
            if rng.random() < 0.4 or not isinstance(spot[key], dict):
                spot[key] = values[int(rng.integers(0, len(values)))]
                break
            spot = spot[key]
        data = json.dumps(content).encode()
        path.write_bytes(bent(rng, data) if rng.random() < 0.3 else data)
    held = run / "locks" / "shard-00000.json"
    held.write_bytes(bent(rng, b'{"host": "x", "pid": 3, "started": ""}'))
    found = info(run)
    assert all((run / name).resolve().is_relative_to(run.resolve()) for name in found.damaged)
    load_moments(run)


_WORDS = (
    *("", "0", "1", "-1", "2", "8", "16", "1e309", "nan", "inf", "-inf", "9" * 40, "0x10", "1/2"),
    *("a\nb", "../x", "/dev/null", "/dev/zero", "\udcff", "<script>", "x" * 5000, "é", "="),
    *("vgg16", "pixels", "tiny_networks:instance_norm", "os:getcwd", "a:b:c", ":", "cin26"),
    *("original", "style", "contrast", "mine=", "=x", "x=/nowhere", "placebo", "frozen:", "none"),
    *("embedded", "torchvision", "relu1_1", "*", "[", "cpu", "cuda:99", "mps", "fp32", "bf16"),
    *("1,2", ",,", "in", "bn", "gain", "0/3", "3/0", "100000", "1000000000"),
)
_OPTIONS = {
    "extract": (
        *("--network", "--condition", "--design", "--size", "--taps", "--vgg-taps", "--treatment"),
        *("--vgg-of-output", "--reference", "--index", "--untrained", "--weights", "--style-index"),
        *("--style-generator", "--strength", "--restore", "--bn-mode", "--batch-kind", "--device"),
        *("--batch-size", "--precision", "--workers", "--shard", "--shard-size", "--engine"),
        *("--max-skipped", "--pixel-limit", "--seed", "--out", "--images", "--dry-run", "--odd"),
    ),
    "train": (
        *("--norm", "--condition", "--blocks", "--iterations", "--size", "--batch-size", "--lr"),
        *("--loss", "--weights", "--statistics", "--style-weight", "--norm-at", "--width"),
        *("--residual-blocks", "--heldout", "--checkpoint-every", "--style-generator", "--seed"),
        *("--style-index", "--device", "--precision", "--target", "--images", "--out"),
    ),
    "taps": ("--size", "--weights"),
    "info": ("--odd",),
    "report": ("--analysis", "--plan", "--seed"),
    "verify": ("--analysis",),
}


def options(rng: Rng, folder: Path) -> None:
    """Run a command with odd words for some of its options."""
    photos = folder / "photos"
    photos.mkdir()
    for i in range(2):
        (photos / f"{i}.png").write_bytes(_encoded()[8])
    command = str(rng.choice(list(_OPTIONS), p=[0.5, 0.25, 0.05, 0.05, 0.1, 0.05]))
    words = [command, *_sound(command, folder)]
    for _ in range(int(rng.integers(1, 3))):
        option, word = str(rng.choice(_OPTIONS[command])), _WORDS[int(rng.integers(0, len(_WORDS)))]
        words += [option] if option == "--dry-run" else [option, word]
    with contextlib.chdir(folder):  # an --out may be a plain word
        ran = CliRunner().invoke(main, words, prog_name="statsnorm")
    shown = [word if len(word) < 80 else word[:80] + "..." for word in words]
    if ran.exception is not None and not isinstance(ran.exception, SystemExit):
        raise AssertionError(f"{shown} ended in {ran.exception!r}") from ran.exception
    assert ran.exit_code in (0, 1, 2), shown
    assert not list(folder.rglob("*.tmp")), shown
    if ran.exit_code == 2:
        raise StatsnormError(ran.stderr[-300:])


def _sound(command: str, folder: Path) -> list[str]:
    photos, out = str(folder / "photos"), str(folder / "run")
    plain = ["--images", photos, "--out", out, "--size", "8", "--device", "cpu"]
    if command == "extract":
        return [*plain, "--network", "pixels", "--workers", "1"]
    if command == "train":
        small = ["--width", "2", "--residual-blocks", "1", "--heldout", "1", "--iterations", "1"]
        return [*plain, "--target", photos + "/0.png", *small, "--norm", "in", "--size", "16"]
    if command == "taps":
        return ["pixels"]
    if command == "report":
        return [str(_finished()), "--analysis", "invariance", "--out", out]
    return [str(_finished())]


SURFACES: dict[str, Surface] = {
    "images": images,
    "safetensors": safetensors,
    "designs": designs,
    "plans": plans,
    "lists": lists,
    "tables": tables,
    "directories": directories,
    "options": options,
}
