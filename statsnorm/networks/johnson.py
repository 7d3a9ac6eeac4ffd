"""Johnson et al.'s transform network in the TensorFlow form of fast-style-transfer.

Johnson, Alahi & Fei-Fei 2016, supplement, table 1, with instance normalisation. What
TensorFlow's "SAME" means, which symmetric padding is not: at stride 2 and even sides the one
row and column of zeros stand at the bottom and right only; a transposed convolution with
stride 2 drops its last row and column. Normalisation eps is 1e-3. No ReLU after a residual sum,
nor before the output `150 tanh(y) + 127.5` on the 0..255 scale. Convolutions have no bias.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from statsnorm.networks.blocks import Chain, Residual, conv_norm
from statsnorm.networks.colour import BYTES, ColourOutput
from statsnorm.networks.network import Network, study
from statsnorm.networks.norms import make_norm
from statsnorm.networks.weights import Checkpoint, load_state

EPS = 1e-3
BLOCKS = 5
TO_RGB = ColourOutput(mean=(127.5, 127.5, 127.5), sd=(150.0, 150.0, 150.0), scale=255.0)


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding: output side ceil(side / stride).

    Of the total padding `max((ceil(n / s) - 1) s + k - n, 0)` the smaller half stands before.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pad `x` (N, C, H, W) with zeros and convolve."""
        top, bottom = self._padding(x.shape[2], 0)
        left, right = self._padding(x.shape[3], 1)
        return super().forward(F.pad(x, (left, right, top, bottom)))

    def _padding(self, side: int, axis: int) -> tuple[int, int]:
        kernel, stride = self.kernel_size[axis], self.stride[axis]
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        return total // 2, total - total // 2


class SameConvTranspose2d(nn.ConvTranspose2d):
    """The gradient of a 3x3 :class:`SameConv2d` of stride 2 at even sides: twice the side."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Spread `x` (N, C, H, W) to (N, C', 2H, 2W), last row and column dropped."""
        full = super().forward(x, output_size)  # (N, C', 2H + 1, 2W + 1)
        return full[:, :, : 2 * x.shape[2], : 2 * x.shape[3]]


def build_johnson() -> Chain:
    """Return the architecture with fresh weights.

    Children conv1 to conv3, res1 to res5 (`conv1`, `conv2`, `sum`), up1, up2, out; each
    convolution is a chain of `conv`, `norm` and, where there is one, `act`.
    """
    layers: dict[str, nn.Module] = {
        "conv1": _step(SameConv2d(3, 32, 9, bias=False), nn.ReLU(inplace=True)),
        "conv2": _step(SameConv2d(32, 64, 3, stride=2, bias=False), nn.ReLU(inplace=True)),
        "conv3": _step(SameConv2d(64, 128, 3, stride=2, bias=False), nn.ReLU(inplace=True)),
    }
    for i in range(1, BLOCKS + 1):
        layers[f"res{i}"] = Residual(
            {
                "conv1": _step(SameConv2d(128, 128, 3, bias=False), nn.ReLU(inplace=True)),
                "conv2": _step(SameConv2d(128, 128, 3, bias=False), None),
            }
        )
    up1 = SameConvTranspose2d(128, 64, 3, stride=2, bias=False)
    up2 = SameConvTranspose2d(64, 32, 3, stride=2, bias=False)
    layers["up1"] = _step(up1, nn.ReLU(inplace=True))
    layers["up2"] = _step(up2, nn.ReLU(inplace=True))
    layers["out"] = _step(SameConv2d(32, 3, 9, bias=False), nn.Tanh())
    return Chain(layers)


def _step(conv: nn.Conv2d | nn.ConvTranspose2d, act: nn.Module | None) -> Chain:
    return conv_norm(conv, make_norm("in", conv.out_channels, eps=EPS), act)


def is_johnson(checkpoint: Checkpoint) -> bool:
    """Return whether a file says, by its stated output or its keys, that it is such a net."""
    stated = checkpoint.metadata.get("output", "").replace(" ", "").startswith("150*tanh")
    return stated or {"res1.conv1.weight", "up2.norm.weight"} <= set(checkpoint.state)


def load_johnson(checkpoint: Checkpoint) -> Network:
    """Return the network of a `johnson_*.safetensors` file; its name is the file's stem."""
    module = build_johnson()
    load_state(module, checkpoint.state, checkpoint.source, key=_file_key)
    return Network(
        name=Path(checkpoint.source).stem,
        module=study(module),
        norm="in",
        preprocess=BYTES,
        postprocess=TO_RGB,
        sha256=checkpoint.sha256,
        multiple=4,
    )


def _file_key(own: str) -> str:
    return own.replace(".conv.weight", ".weight")
