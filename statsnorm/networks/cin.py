"""CIN-26: the conditional instance normalisation network with 26 painting styles.

Dumoulin, Shlens & Kudlur 2017, "A learned representation for artistic style". Three
reflection-padded convolutions (9x9 to 32, two of 3x3 with stride 2 to 32), six residual blocks
of 32 without ReLU after the sum, nearest upsampling by 2 and 3x3 to 8, the same to 4, 9x9 to 3;
conditional instance normalisation (eps 1e-5) after every convolution, none has a bias; ReLU
everywhere except after the second convolution of a block and at the end, where a sigmoid stands.
"""

from __future__ import annotations

from torch import nn

from statsnorm.networks.blocks import Chain, Residual, conv_norm
from statsnorm.networks.colour import unchanged
from statsnorm.networks.network import Network, study
from statsnorm.networks.norms import ConditionalInstanceNorm
from statsnorm.networks.weights import load_state, read_checkpoint, read_embedded

STYLES = 26
_RES = 6


def _block(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    act: nn.Module | None,
    stride: int = 1,
    up: nn.Module | None = None,
) -> Chain:
    conv = nn.Conv2d(
        inputs,
        outputs,
        kernel,
        stride,
        padding=kernel // 2,
        padding_mode="reflect",
        bias=False,
    )
    return conv_norm(conv, ConditionalInstanceNorm(outputs, styles=STYLES), act, up=up)


def _residual() -> Residual:
    return Residual(
        {"0": _block(32, 32, 3, act=nn.ReLU(inplace=True)), "1": _block(32, 32, 3, act=None)}
    )


def _double() -> nn.Module:
    return nn.Upsample(scale_factor=2, mode="nearest")


def build_cin26() -> Chain:
    """Return the architecture with fresh weights, called as `module(x, index)`.

    Children `contract.0` to `.2`, `res.0` to `.5` (each `0`, `1`, `sum`), `expand.0` to `.2`;
    every convolution has siblings `norm` and, but for the second of a block, `act`.
    """
    relu = nn.ReLU
    contract = {
        "0": _block(3, 32, 9, act=relu(inplace=True)),
        "1": _block(32, 32, 3, stride=2, act=relu(inplace=True)),
        "2": _block(32, 32, 3, stride=2, act=relu(inplace=True)),
    }
    expand = {
        "0": _block(32, 8, 3, act=relu(inplace=True), up=_double()),
        "1": _block(8, 4, 3, act=relu(inplace=True), up=_double()),
        "2": _block(4, 3, 9, act=nn.Sigmoid()),
    }
    blocks = Chain({str(i): _residual() for i in range(_RES)})
    return Chain({"contract": Chain(contract), "res": blocks, "expand": Chain(expand)})


def load_cin26(weights: str | None = None) -> Network:
    """Return CIN-26 with its embedded weights, or those of a `.safetensors` file.

    Input and output are RGB in [0, 1]; sides are multiples of 4; `indices` "0" to "25".
    """
    embedded = weights in (None, "embedded")
    checkpoint = read_embedded("cin26") if embedded else read_checkpoint(str(weights))
    module = build_cin26()
    load_state(module, checkpoint.state, checkpoint.source, key=_file_key)
    return Network(
        name="cin26",
        module=study(module),
        norm="cin",
        preprocess=unchanged,
        postprocess=unchanged,
        indices=tuple(str(i) for i in range(STYLES)),
        sha256=checkpoint.sha256,
        multiple=4,
    )


def _file_key(own: str) -> str:
    for ours, theirs in (("conv.weight", "w"), ("norm.weight", "norm.gamma")):
        if own.endswith(ours):
            return own.removesuffix(ours) + theirs
    return own.removesuffix("norm.bias") + "norm.beta"
