"""One network under each normaliser: the same weights, the same taps, exact identities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image
from torch import nn
from torch.testing import assert_close

from statsnorm.errors import StatsnormError
from statsnorm.extraction import extract
from statsnorm.freeze import batch_statistics, freeze, population_statistics
from statsnorm.load import Tables
from statsnorm.networks import load_network, untrained
from statsnorm.networks.norms import FrozenWhiten, InstanceWhiten, make_norm
from statsnorm.networks.texture import TextureGenerator
from statsnorm.networks.weights import save_checkpoint
from statsnorm.networks.zoo import ZOO, expand_zoo, load_with_norm, split_norm
from statsnorm.taps import find_taps

DESIGN = {
    "restore": "luminance",
    "styles": {"generator": "filters", "indices": ["sepia", "grain", "halftone"]},
    "contrast": {"family": "gain", "values": [1.0, 0.5]},
}
QUICK = {"size": 16, "device": "cpu", "batch_size": 6, "vgg_of_output": None, "design": DESIGN}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("zoo")


@pytest.fixture(scope="module")
def checkpoint(folder):
    """A tiny texture generator with IN whose scales and shifts are not 1 and 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = TextureGenerator("in", width=8, blocks=1)
        for name, parameter in module.named_parameters():
            if "norm" in name:
                nn.init.uniform_(parameter, 0.5, 1.5)
    path = folder / "tiny.safetensors"
    save_checkpoint(path, module, {**module.architecture, "cell": "b0", "iteration": 7})
    return path


@pytest.fixture(scope="module")
def photos(folder):
    (folder / "photos").mkdir()
    for seed in range(6):
        rng = np.random.default_rng(seed)
        coarse = rng.integers(30, 226, (5, 6, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((40, 30), Image.Resampling.BICUBIC)
        image.save(folder / "photos" / f"{seed}.png")
    return folder / "photos"


@pytest.fixture(scope="module")
def run(folder, photos, checkpoint):
    """All kinds of batches and of normalisers of the tiny generator, in one command."""
    extract(
        photos,
        out=folder / "run",
        networks=[f"{checkpoint}+zoo"],
        treatments=["none", "frozen:prefix"],
        reference=photos,
        bn_mode=["eval", "train"],
        batch_kind=["mixed", "style-homogeneous", "content-homogeneous"],
        taps=["pre_norm", "next_pre_norm", "post_norm"],
        **QUICK,
    )
    return Tables(folder / "run")


def cells(run, tap, norm, **where):
    """Return mean and var (I, S, K, C) of the generator under one normaliser."""
    defaults = {"treatment": "none", "bn_mode": "eval", "batch_kind": "mixed"}
    found = run.array({"network": f"texture+{norm}", "tap": tap, **defaults, **where})
    assert found.missing == 0
    return found.mean, found.var


def weights(network):
    state = network.module.state_dict()
    return {k: v for k, v in state.items() if "norm" not in k}


@pytest.mark.parametrize("base", ["texture", "vgg16"])
def test_all_kinds_have_the_same_weights_and_taps(base):
    x = torch.rand(1, 3, 32, 32)
    none, *others = (load_network(f"{base}+{kind}") for kind in ZOO)
    taps = [(t.name, t.kind) for t in find_taps(none, x)]
    assert {kind for _, kind in taps} >= {"pre_norm", "post_norm", "next_pre_norm", "post_act"}
    for network in others:
        for pair in ((none, network), (untrained(none, 5), untrained(network, 5))):
            first, second = map(weights, pair)
            assert first.keys() == second.keys()
            assert all(torch.equal(first[k], second[k]) for k in first)
        assert [(t.name, t.kind) for t in find_taps(network, x)] == taps
        assert network.name == f"{base}+{network.norm}"


def test_under_none_a_vgg_is_the_plain_vgg():
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(load_network("vgg16+none").forward(x), load_network("vgg16").forward(x))


def test_a_checkpoint_keeps_its_scales_shifts_and_identity(checkpoint):
    trained = load_network(str(checkpoint))
    x = torch.rand(2, 3, 16, 16)
    again = load_network(f"{checkpoint}+in")
    assert torch.equal(again.forward(x), trained.forward(x))
    assert (again.name, again.norm, again.cell, again.iteration) == ("texture+in", "in", "b0", 7)
    other = load_network(f"{checkpoint}+none")
    assert not torch.allclose(other.forward(x), trained.forward(x))
    assert torch.equal(other.module.conv1.norm.bias, trained.module.conv1.norm.bias)


def test_names():
    assert split_norm("texture+in-whiten") == ("texture", "in-whiten")
    assert split_norm("out+bn/net.safetensors") == ("out+bn/net.safetensors", "")
    assert split_norm("package.module:make") == ("package.module:make", "")
    assert expand_zoo(["vgg16+in", "vgg16+zoo"])[:3] == ("vgg16+in", "vgg16+none", "vgg16+bn")
    assert len(expand_zoo(["vgg16+in", "vgg16+zoo"])) == len(ZOO)
    assert expand_zoo(["cin26", "cin26"]) == ("cin26", "cin26")  # for the loader to refuse


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("vgg16+inn", r"unknown norm of 'vgg16': 'inn'; did you mean .*'in'"),
        ("texture+gn0", "unknown norm of 'texture': 'gn0'"),
        ("texture+cin", "unknown norm of 'texture': 'cin'"),
        ("cin26+in", "'cin26' cannot be given another norm; vgg16, vgg19, texture"),
    ],
)
def test_what_has_no_place_in_the_zoo(spec, message):
    with pytest.raises(StatsnormError, match=message):
        load_network(spec)


def test_checkpoints_without_a_place_for_the_kind(folder):
    one = TextureGenerator("in", width=4, blocks=0, norm_at="first")
    save_checkpoint(folder / "first.safetensors", one, one.architecture)
    with pytest.raises(StatsnormError, match="has norm 'in' at 'first'"):
        load_network(f"{folder / 'first.safetensors'}+bn")
    with pytest.raises(StatsnormError, match="is for vgg16 and vgg19, not for 'texture'"):
        load_with_norm("texture", "in", weights="embedded")


def test_groups_by_number_and_the_ends_of_the_row():
    x = torch.randn(3, 8, 5, 5, dtype=torch.float64)
    assert make_norm("gn2", 8).num_groups == 2
    assert make_norm("gn32", 8).num_groups == 2  # one channel a group would be IN
    assert_close(nn.GroupNorm(8, 8).double()(x), make_norm("in", 8).double()(x))
    assert_close(make_norm("gn1", 8).double()(x), make_norm("ln", 8).double()(x))


def test_frozen_whitening_is_the_whitening_where_it_was_calibrated():
    x = torch.rand(1, 3, 24, 24)
    network = load_network("texture+in-whiten")
    frozen = freeze(network, "frozen:prefix", lambda: [x])
    assert_close(frozen.forward(x), network.forward(x), rtol=0.0, atol=3e-3)
    kinds = {type(m) for m in frozen.module.modules()}
    assert FrozenWhiten in kinds
    assert InstanceWhiten not in kinds
    more = torch.rand(4, 3, 24, 24) * torch.tensor([0.2, 0.5, 0.8, 1.0]).view(4, 1, 1, 1)
    assert not torch.allclose(frozen.forward(more), network.forward(more), atol=0.1)


def test_frozen_whitening_against_the_matrix_of_the_average_covariance():
    x = torch.randn(5, 3, 7, 7, generator=torch.Generator().manual_seed(0)).double()
    host = load_network("texture+in-whiten")
    layer = InstanceWhiten(3).double()
    bare = nn.Sequential(layer)
    network = type(host)(name="w", module=bare, norm="in-whiten", preprocess=lambda y: y)
    got = freeze(network, "frozen:all", lambda: [x]).forward(x)
    flat = x.flatten(2).numpy()
    covariance = np.mean([np.cov(image, ddof=0) for image in flat], axis=0) + 1e-5 * np.eye(3)
    values, vectors = np.linalg.eigh(covariance)
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    centred = flat - flat.mean(axis=(0, 2))[:, None]
    assert_allclose(got.flatten(2).numpy(), root @ centred, atol=1e-9)


def test_population_statistics_are_those_of_the_references():
    network = load_network("vgg16+bn")
    assert network.population
    batches = [torch.rand(3, 3, 32, 32), torch.rand(3, 3, 32, 32) * 0.5]
    settled = population_statistics(network, lambda: batches)
    assert not settled.population
    plain = load_network("vgg16")
    first = plain.module.conv1_1(plain.preprocess(torch.cat(batches)))
    layer = settled.module.norm1_1
    assert_close(layer.running_mean, first.mean((0, 2, 3)), rtol=1e-4, atol=1e-3)
    assert_close(layer.running_var, first.var((0, 2, 3)), rtol=1e-4, atol=1e-3)
    assert (network.module.norm1_1.running_mean == 0).all()


def test_one_run_holds_every_mode_and_kind(run):
    keys = run.keys()
    own = keys[keys["network"] == "texture+bn"]
    pairs = set(zip(own["treatment"], own["bn_mode"], own["batch_kind"], strict=True))
    kinds = ("mixed", "style-homogeneous", "content-homogeneous")
    batchings = [("eval", "mixed"), *(("train", kind) for kind in kinds)]
    assert pairs == {(t, *b) for t in ("none", "frozen:prefix") for b in batchings}
    others = keys[keys["network"] != "texture+bn"]
    assert set(zip(others["bn_mode"], others["batch_kind"], strict=True)) == {("eval", "mixed")}
    assert set(others[others["network"] == "texture+none"]["treatment"]) == {"none"}


def test_rows_of_one_run_are_those_of_a_run_of_their_own(run, folder, photos, checkpoint):
    extract(
        photos,
        out=folder / "alone",
        networks=[f"{checkpoint}+bn"],
        bn_mode="train",
        batch_kind="content-homogeneous",
        taps=["next_pre_norm"],
        **QUICK,
    )
    batching = {"bn_mode": "train", "batch_kind": "content-homogeneous"}
    alone = cells(Tables(folder / "alone"), "up2.norm.in", "bn", **batching)
    for a, b in zip(alone, cells(run, "up2.norm.in", "bn", **batching), strict=True):
        assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_batch_norm_is_one_affine_map_of_the_batch(run):
    """method.md 2.6: behind BN every variance inside the batch is that before it (R = 0)."""
    batching = {"bn_mode": "train", "batch_kind": "style-homogeneous"}  # 6 images: one batch
    for name in ("conv1.norm", "res1.conv2.norm"):
        (mean, var), (mean_out, var_out) = (
            cells(run, tap, "bn", **batching) for tap in (f"{name}.in", name)
        )
        v, v_out = 0.5 * np.log(var), 0.5 * np.log(var_out)
        assert_allclose(v_out.var(axis=0), v.var(axis=0), rtol=1e-3, atol=1e-7)
        share, share_out = (
            m.var(axis=0) / (m.var(axis=0) + s.mean(axis=0))
            for m, s in ((mean, var), (mean_out, var_out))
        )
        assert_allclose(share_out, share, rtol=1e-3, atol=1e-6)
        assert share.max() > 0.01
        gamma = load_gamma(run, name)
        total = mean_out.var(axis=0) + var_out.mean(axis=0)  # 1 = mean var + Var(mean)
        before = mean.var(axis=0) + var.mean(axis=0)
        assert_allclose(total, gamma**2 * before / (before + 1e-5), rtol=1e-3)


def load_gamma(run, name):
    path = run.runs[0].path.parent / "tiny.safetensors"
    return load_network(f"{path}+bn").module.get_submodule(name).weight.numpy()


def test_batch_norm_of_one_image_is_instance_norm(checkpoint):
    x = torch.rand(1, 3, 16, 16)
    bn = batch_statistics(load_network(f"{checkpoint}+bn"))
    assert_close(bn.forward(x), load_network(f"{checkpoint}+in").forward(x), rtol=1e-4, atol=1e-5)


def test_eval_mode_and_frozen_maps_are_fixed(run):
    """Behind the first normaliser v is shifted by one constant a channel: all components stay."""
    _, before = cells(run, "conv1.norm.in", "bn")
    for norm, treatment in (("bn", "none"), ("in", "frozen:prefix"), ("gn8", "frozen:prefix")):
        _, var = cells(run, "conv1.norm", norm, treatment=treatment)
        shift = 0.5 * np.log(var / before).reshape(-1, var.shape[-1])
        assert_allclose(shift, shift[:1].repeat(len(shift), axis=0), atol=2e-4)
    _, var = cells(run, "conv1.norm", "none")
    gamma = load_gamma(run, "conv1.norm")
    assert_allclose(var, gamma**2 * before, rtol=1e-4)


def test_fresh_batch_norm_in_eval_mode_needs_references(photos, tmp_path):
    options = {"images": photos, "out": tmp_path / "r", "networks": ["texture+bn"], **QUICK}
    with pytest.raises(StatsnormError, match=r"'texture\+bn' needs reference images"):
        extract(**options)
    with pytest.raises(StatsnormError, match="at least one bn mode"):
        extract(**{**options, "bn_mode": []})
    assert not (tmp_path / "r").exists()


def test_random_initialisations_replace_a_network_whose_weights_are_random(photos, tmp_path):
    nets = ["texture+none", "texture+ln"]
    options = {**QUICK, "design": None, "taps": ["conv1.norm.in"]}
    extract(photos, out=tmp_path / "r", networks=nets, untrained=2, **options)
    keys = Tables(tmp_path / "r").keys()
    found = set(zip(keys["network"], keys["seed"], keys["iteration"], strict=True))
    assert found == {(net, seed, 0) for net in nets for seed in (0, 1)}
    tables = Tables(tmp_path / "r")
    first, second, other = (
        tables.moments(network=net, seed=seed).mean
        for net, seed in ((nets[0], 1), (nets[1], 1), (nets[0], 0))
    )
    assert_allclose(first, second, rtol=1e-5, atol=1e-6)  # one seed, one set of weights
    assert not np.allclose(first, other)
