from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from goldens import FOLDER
from onnx_graph import cin26_graph, needs_graph, run_graph
from safetensors.torch import load_file, save_file

from statsnorm.errors import StatsnormError
from statsnorm.networks import load_network, normalisers
from statsnorm.networks.texture_nets import reference_photographs
from statsnorm.networks.weights import EMBEDDED, read_embedded

FLOAT64, FLOAT32 = 1e-4, 5e-4  # largest absolute difference of any output pixel


@pytest.fixture(scope="module")
def network():
    return load_network("cin26")


@pytest.mark.parametrize("style", [0, 3, 25])
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, FLOAT64 / 100), (torch.float32, FLOAT32)]
)
def test_against_golden_tensors_of_the_published_graph(network, style, dtype, bound):
    golden = load_file(FOLDER / "cin26.safetensors")
    module, found = copy.deepcopy(network.module).to(dtype), {}
    for tap in ("contract.1.act", "res.2.sum"):
        module.get_submodule(tap).register_forward_hook(
            lambda _m, _i, out, tap=tap: found.update({tap: out.clone()})
        )
    found["output"] = module(golden["image"].to(dtype), torch.tensor([style]))
    for tap, value in found.items():
        assert value.dtype == dtype
        expected = golden[f"{style}/{tap}"]
        scale = max(1.0, float(expected.abs().max()))
        assert float((value.double() - expected).abs().max()) < bound * scale, tap


@needs_graph
def test_all_styles_against_the_published_graph_in_float64(network):
    photograph = reference_photographs()[3:4, :, 64:112, 64:112].contiguous()
    graph = cin26_graph(dtype=np.float64)
    module = copy.deepcopy(network.module).double()
    for style in range(26):
        (expected,) = run_graph(graph, photograph.numpy(), style)
        got = module(photograph.double(), torch.tensor([style])).numpy()
        narrow = network.forward(photograph, str(style)).numpy()
        assert got.dtype == expected.dtype == np.float64
        assert np.abs(got - expected).max() < 1e-9
        assert np.abs(narrow - expected).max() < FLOAT32


@needs_graph
def test_all_styles_against_the_published_graph_in_onnxruntime(network):
    photograph = reference_photographs()[1:2, :, 64:144, 64:144].contiguous()
    graph = cin26_graph(dtype=np.float32)
    module = copy.deepcopy(network.module).double()
    for style in range(26):
        (expected,) = run_graph(graph, photograph.numpy(), style)
        got = module(photograph.double(), torch.tensor([style])).numpy()
        assert np.abs(got - expected).max() < FLOAT64
        narrow = network.forward(photograph, str(style)).numpy()
        assert np.abs(narrow - expected).max() < FLOAT32


def test_styles_mix_in_a_batch_and_batches_do_not_mix_images(network):
    x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    index = torch.tensor([5, 0, 25])
    together = network.module(x, index)
    for i in range(3):
        alone = network.forward(x[i : i + 1], str(int(index[i])))
        torch.testing.assert_close(together[i : i + 1], alone, atol=2e-5, rtol=0)


def test_normalisers_in_running_order(network):
    names = list(normalisers(network, torch.rand(1, 3, 16, 16)))
    blocks = [f"res.{i}.{j}.norm" for i in range(6) for j in range(2)]
    ends = [[f"{part}.{i}.norm" for i in range(3)] for part in ("contract", "expand")]
    assert names == [*ends[0], *blocks, *ends[1]]


def test_local_weights_and_their_errors(tmp_path, network):
    state = read_embedded("cin26").state
    path = tmp_path / "cin.safetensors"
    save_file(state, path)
    own = load_network("cin26", weights=str(path))
    x = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(own.forward(x, "7"), network.forward(x, "7"))
    save_file(state | {"res.1.0.w": torch.zeros(32, 32, 5, 5)}, path)
    with pytest.raises(
        StatsnormError, match=r"'res.1.0.w' has shape \(32, 32, 5, 5\), expected \("
    ):
        load_network("cin26", weights=str(path))


def test_damaged_embedded_weights_are_refused(monkeypatch):
    monkeypatch.setitem(EMBEDDED, "cin26", (EMBEDDED["cin26"][0], "0" * 64))
    with pytest.raises(StatsnormError, match="damaged"):
        load_network("cin26")


def test_index_and_size_are_checked(network):
    x = torch.rand(1, 3, 16, 16)
    with pytest.raises(StatsnormError, match="needs an index, 0 to 25"):
        network.forward(x)
    with pytest.raises(StatsnormError, match="index of network 'cin26'"):
        network.forward(x, "26")
    with pytest.raises(StatsnormError, match="multiples of 4, got 16 x 18; use size 16"):
        network.forward(torch.rand(1, 3, 16, 18), "0")
