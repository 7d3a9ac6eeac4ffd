from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from test_extract import QUICK, make_photos

from statsnorm.errors import StatsnormError
from statsnorm.extraction import extract
from statsnorm.load import Tables
from statsnorm.networks import load_network, normalisers
from statsnorm.swap import conditional_normalisers, swap
from statsnorm.swap_names import expand_swap, parse_swap, random_orders

NAMES = ("contract.0.norm", "contract.1.norm", "res.0.0.norm", "res.0.1.norm", "expand.0.norm")
KNOWN = tuple(map(str, range(26)))


@pytest.fixture(scope="module")
def cin26():
    return load_network("cin26")


@pytest.fixture(scope="module")
def x():
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def run(network, x, index):
    with torch.inference_mode():
        return network.forward(x, index)


def by_hand(cin26, x, index, change):
    """Run a network whose state was changed key by key: `change(key, own, other) -> own`."""
    own, other = 3, 7
    state = {k: v.clone() for k, v in cin26.module.state_dict().items()}
    for key, value in state.items():
        if ".norm." in key:
            value[own] = change(key, value[own], value[other])
    with torch.inference_mode():
        fed = cin26.preprocess(x)
        chosen = torch.full((len(x),), int(index))
        return torch.func.functional_call(cin26.module, state, (fed, chosen))


def test_everything_swapped_is_the_other_index(cin26, x):
    swapped = run(swap(cin26, "swap:both:to=7", index="3"), x, "3")
    assert_array_equal(swapped, run(cin26, x, "7"))
    assert not torch.equal(swapped, run(cin26, x, "3"))


@pytest.mark.parametrize(
    ("treatment", "change"),
    [
        ("swap:gamma:to=7", lambda k, own, other: other if "weight" in k else own),
        ("swap:beta:to=7", lambda k, own, other: other if "bias" in k else own),
        ("swap:both@expand.2.norm:to=7", lambda k, a, b: b if "expand.2" in k else a),
        ("swap:both@contract+res.4:to=7",
         lambda k, a, b: b if k.startswith(("contract.", "res.4.")) else a),
        ("swap:gamma@res:to=7", lambda k, a, b: b if k.startswith("res") and "weight" in k else a),
        ("blend:0.25:to=7", lambda _, a, b: 0.75 * a + 0.25 * b),
    ],
)  # fmt: skip
def test_against_a_state_changed_by_hand(cin26, x, treatment, change):
    before = {k: v.clone() for k, v in cin26.module.state_dict().items()}
    swapped = swap(cin26, treatment, index="3")
    torch.testing.assert_close(run(swapped, x, "3"), by_hand(cin26, x, "3", change))
    for key, value in cin26.module.state_dict().items():
        assert torch.equal(value, before[key]), key  # the network itself is left as it was


def test_weights_that_do_not_change_are_shared(cin26):
    own = dict(cin26.module.named_parameters())
    swapped = dict(swap(cin26, "swap:both@res.0.0.norm:to=7", index="3").module.named_parameters())
    copied = [name for name in own if own[name] is not swapped[name]]
    assert sorted(copied) == ["res.0.0.norm.bias", "res.0.0.norm.weight"]


def test_each_others_and_a_style_for_itself():
    given = {"indices": ("3", "7", "9"), "known": KNOWN, "seed": 0}
    each = expand_swap("swap:both@each:to=7", NAMES, index="3", **given)
    assert each == tuple(f"swap:both@{name}:to=7" for name in NAMES)
    others = expand_swap("swap:gamma:to=others", NAMES, index="3", **given)
    assert others == ("swap:gamma:to=7", "swap:gamma:to=9")
    assert expand_swap("swap:gamma:to=3", NAMES, index="3", **given) == ()
    assert expand_swap("blend:0.5:to=others", NAMES, index="9", **given) == (
        "blend:0.5:to=3",
        "blend:0.5:to=7",
    )


def test_orders_are_chains_in_pairs_with_their_reverse():
    given = {"indices": ("3", "7"), "known": KNOWN}
    made = expand_swap("swap:both@orders-4:to=7", NAMES, index="3", seed=1, **given)
    wheres = [parse_swap(one).where for one in made]
    longest = [where for where in wheres if len(where) == len(NAMES) - 1]
    assert len(longest) == 4
    for where in longest:
        assert all(where[:k] in wheres for k in range(1, len(where)))
        assert len(set(where)) == len(where)
    lines = random_orders(NAMES, 4, "1:3:7")
    assert lines[1] == lines[0][::-1]
    assert lines[2] != lines[0]
    other = expand_swap("swap:both@orders-4:to=3", NAMES, index="7", seed=0, **given)
    assert [parse_swap(one).where for one in other] != wheres
    assert made == expand_swap("swap:both@orders-4:to=7", NAMES, index="3", seed=1, **given)


def test_every_normaliser_joins_at_every_place_equally_often():
    places = np.zeros((5, 5))
    for k in range(2000):
        for place, name in enumerate(random_orders(NAMES, 1, str(k))[0]):
            places[NAMES.index(name), place] += 1
    assert np.abs(places / 2000 - 0.2).max() < 4 * np.sqrt(0.2 * 0.8 / 2000)


@pytest.mark.parametrize(
    ("treatment", "message"),
    [
        ("swap:gamma", "must be written"),
        ("swap:delta:to=7", "must be written"),
        ("swap:gamma@:to=7", "must be written"),
        ("swap:gamma:7", "must be written"),
        ("blend:1.5:to=7", "between 0 and 1"),
        ("blend:half:to=7", "between 0 and 1"),
        ("swap:both:to=26", "style to swap to: '26'"),
        ("swap:both@contarct:to=7", "did you mean 'contract"),
    ],
)
def test_what_cannot_be_meant_is_refused(treatment, message):
    given = {"index": "3", "indices": ("3",), "known": KNOWN, "seed": 0}
    with pytest.raises(StatsnormError, match=message):
        expand_swap(treatment, NAMES, **given)


def test_only_conditional_normalisers_count(cin26, x):
    names = tuple(normalisers(cin26, x))
    assert len(conditional_normalisers(cin26, names)) == 18
    single = replace(cin26, indices=("0",))
    assert conditional_normalisers(single, names) == ()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"), range(3))


def test_through_extract_into_tables(photos, tmp_path):
    asked = {**QUICK, "vgg_of_output": "vgg16", "vgg_taps": ["relu2_1"]}
    treatments = ["none", "swap:both:to=others", "swap:both@each:to=5", "blend:0.5:to=5"]
    treatments += ["swap:both@contract.0.norm:to=5"]  # asked for twice, run once
    extract(photos, out=tmp_path / "r", networks=["cin26"], indices=["2", "5"], untrained=1,
            taps=["post_norm", "output"], treatments=treatments, **asked)  # fmt: skip
    tables = Tables(tmp_path / "r")
    keys = tables.keys()
    assert keys[keys["iteration"] == -1]["treatment"].nunique() == 1 + 2 + 18 + 1
    assert set(keys[keys["iteration"] == 0]["treatment"]) == {"none"}
    mine = {"tap": "relu2_1", "iteration": -1, "treatment": "none", "index": "5"}
    target = tables.array(mine, axes=("image",))
    swapped = tables.array({**mine, "treatment": "swap:both:to=5", "index": "2"}, axes=("image",))
    assert_array_equal(swapped.mean, target.mean)
    one = {**mine, "treatment": "swap:both@expand.2.norm:to=5", "index": "2"}
    assert not np.allclose(tables.array(one, axes=("image",)).mean, target.mean)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"networks": ["vgg16"], "treatments": ["swap:both:to=5"]}, "no conditional normalisers"),
        ({"networks": ["cin26"], "treatments": ["swap:both:to=others"]}, "at least two indices"),
        ({"networks": ["cin26"], "treatments": ["swap:both@rse:to=5"]}, "unknown part"),
        ({"networks": ["cin26"], "treatments": ["swop:both:to=5"]}, "unknown treatment"),
    ],
)
def test_bad_requests_write_nothing(photos, tmp_path, asked, message):
    with pytest.raises(StatsnormError, match=message):
        extract(photos, out=tmp_path / "r", **QUICK, **asked)
    assert not (tmp_path / "r").exists()
