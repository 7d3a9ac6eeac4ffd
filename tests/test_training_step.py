"""The step: bits of a plain loop, nothing read back, tensors that stay; cells side by side."""

from __future__ import annotations

import pytest
import torch
from test_training import problem_of, run_cell, tiny
from torch.utils._python_dispatch import TorchDispatchMode

from statsnorm.networks import load_network
from statsnorm.training.cell import CellTraining, side_by_side
from statsnorm.training.deterministic import deterministic, reflected
from statsnorm.training.fresh import fresh_generator
from statsnorm.training.loss import losses
from statsnorm.training.plan import TrainingCell
from statsnorm.training.step import Execution, Recorded, Stepper

NORMS = ("in", "bn", "cin", "ln", "gn", "none", "in-mean", "in-sd", "actnorm")


@pytest.fixture(scope="module")
def vgg():
    return load_network("vgg16")


def stepper_of(config, vgg, norm, how=None):
    problem = problem_of(config, vgg)
    generator = fresh_generator(config, norm, 5)
    return Stepper(problem, generator, seed=5, lr=config.lr, how=how or Execution())


@pytest.mark.parametrize("norm", ["in", "bn", "actnorm"])
def test_updates_have_the_bits_of_a_plain_loop(vgg, norm):
    config = tiny(iterations=5)
    stepper = stepper_of(config, vgg, norm)
    problem, plain = problem_of(config, vgg), fresh_generator(config, norm, 5)
    module = plain.module.train().requires_grad_(True)
    adam = torch.optim.Adam(module.parameters(), lr=config.lr)
    for t, numbers in enumerate(problem.pool.order(5)):
        adam.zero_grad()
        x = problem.pool.images[numbers].contiguous(memory_format=torch.channels_last)
        index = "0" if plain.indices else ""
        output = plain.postprocess(plain.forward(x, index))
        found = losses(
            vgg, output, problem.targets, problem.pool.content(numbers), statistics="gram"
        )
        (5.0 * found.style + found.content).backward()
        adam.step()
        stepper.update()
        assert torch.equal(stepper.trace[t], torch.stack([found.style, found.content])), t
    ours = stepper.module.state_dict()
    for key, value in module.state_dict().items():
        assert torch.equal(value, ours[key]), key


class NothingReadBack(TorchDispatchMode):
    """Refuses every operation that takes a number from the device to the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        assert name not in ("aten::_local_scalar_dense", "aten::item", "aten::is_nonzero"), name
        assert "nonzero" not in name, name  # its size is read back
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("norm", "precision"), [*((n, "fp32") for n in NORMS), ("in", "bf16"), ("bn", "bf16")]
)
def test_after_the_first_calls_nothing_is_read_back_and_every_tensor_stays(vgg, norm, precision):
    stepper = stepper_of(tiny(iterations=9, precision=precision), vgg, norm)
    weights = stepper.module.parameters()
    stepper.optimiser = torch.optim.Adam(weights, lr=1e-3, fused=True)  # as on a GPU

    def places():
        state = stepper.optimiser.state_dict()["state"]
        kept = [*stepper.module.state_dict().values(), stepper.trace, stepper._at]
        kept += [v for s in state.values() for v in s.values() if isinstance(v, torch.Tensor)]
        return [v.data_ptr() for v in (*kept, stepper._heldout, stepper._numbers)]

    stepper.update()
    before = places()
    with NothingReadBack():
        stepper._update()
        for batch in (True, False):
            stepper._evaluations[batch]()
    assert places() == before
    assert int(stepper._at) == 2
    with NothingReadBack(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        stepper.trace[0, 0].item()


def test_a_recording_is_replayed_in_place_of_the_function(monkeypatch):
    """The order of calls of a GPU, with a stand-in for its graph."""
    said = []

    class Graph:
        def replay(self):
            said.append("replay")

    class Capture:
        def __init__(self, graph, stream):
            assert stream == "mine"

        def __enter__(self):
            said.append("record")

        def __exit__(self, *_):
            said.append("recorded")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "mine")
    recorded = Recorded(lambda: said.append("call"), graph=True)
    for _ in range(5):
        recorded()
    assert said == ["call"] * 3 + ["record", "call", "recorded", "replay", "replay"]


def test_cells_side_by_side_have_the_bits_of_cells_alone(vgg):
    config = tiny()
    alone = [run_cell(config, vgg, norm) for norm in ("in", "bn")]
    cells = [
        CellTraining(
            TrainingCell(block=0, target="t.png", norm=norm, condition="original", seed=5),
            problem_of(config, vgg),
            fresh_generator(config, norm, 5),
            how=Execution(),
        )
        for norm in ("in", "bn")
    ]
    assert side_by_side(cells)
    for one, other in zip(alone, cells, strict=True):
        made = other.result()
        assert (made.status, made.iteration) == ("done", config.iterations)
        for key, value in one.module.state_dict().items():
            assert torch.equal(value, made.module.state_dict()[key]), key
        for a, b in zip(one.rows, made.rows, strict=True):
            assert a["style_loss"] == b["style_loss"]


def test_a_cell_out_of_time_is_kept_and_goes_on_to_the_same_bits(vgg, tmp_path):
    part = tmp_path / "cell.part.safetensors"
    cell = TrainingCell(block=0, target="t.png", norm="bn", condition="original", seed=5)
    config = tiny()

    def begin():
        return CellTraining(
            cell,
            problem_of(config, vgg),
            fresh_generator(config, "bn", 5),
            part=part,
            how=Execution(),
        )

    first = begin()
    first.advance()
    assert not side_by_side([first], until=0.0)
    assert (first.done, part.exists()) == (1, True)
    second = begin()
    assert second.done == 1
    assert side_by_side([second])
    whole = run_cell(config, vgg, "bn")
    for key, value in whole.module.state_dict().items():
        assert torch.equal(value, second.module.state_dict()[key]), key


def test_bf16_trains_to_the_losses_of_fp32(vgg):
    a, b = (
        run_cell(tiny(precision=p, iterations=8, size=32, batch=4), vgg, "in")
        for p in ("fp32", "bf16")
    )
    one, other = ([r["style_loss"] for r in x.rows if r["split"] == "heldout"] for x in (a, b))
    assert one[0] != other[0]
    assert other == pytest.approx(one, rel=0.03)
    assert one[-1] < 0.9 * one[0]


def test_reflection_by_slices_is_the_pad_and_its_gradient():
    x = torch.randn(2, 3, 7, 9, dtype=torch.float64)
    ours, theirs = (x.clone().requires_grad_(True) for _ in range(2))
    pad = (4, 2, 3, 1)
    a, b = reflected(ours, pad), torch.nn.functional.pad(theirs, pad, mode="reflect")
    assert torch.equal(a, b)
    weight = torch.randn(a.shape, dtype=torch.float64)
    (a * weight).sum().backward()
    (b * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-13, atol=1e-13)


def test_deterministic_mode_replaces_the_pad_of_a_convolution_and_ends(monkeypatch):
    from statsnorm.training import deterministic as module

    seen = []
    monkeypatch.setattr(module, "reflected", lambda x, pad: seen.append(pad) or reflected(x, pad))
    conv = torch.nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")
    x = torch.rand(1, 3, 8, 8)
    plain = conv(x)
    assert not seen
    with deterministic(wanted=True):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.equal(conv(x), plain)
    assert seen == [(1, 1, 1, 1)]
    assert not torch.are_deterministic_algorithms_enabled()
    with deterministic(wanted=False):
        assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.slow
def test_a_compiled_step_has_the_losses_of_a_plain_one(vgg):
    a, b = (
        run_cell(tiny(), vgg, "bn", how=Execution(compile=compile)) for compile in (False, True)
    )
    for one, other in zip(a.rows, b.rows, strict=True):
        assert one["style_loss"] == pytest.approx(other["style_loss"], rel=1e-3)
