"""The improved texture network: a residual generator with a choice of normaliser.

Ulyanov, Vedaldi & Lempitsky 2016, "Instance normalization", as its authors published it
(texture_nets, `models/johnson.lua`): reflection padding 4 and 9x9 to 32; two zero-padded 3x3
convolutions with stride 2 to 64 and 128; five residual blocks of two reflection-padded 3x3
convolutions at 128, no ReLU after the sum; two transposed 3x3 convolutions with stride 2
(padding 1, output padding 1) to 64 and 32; reflection-padded 3x3 to RGB. A normaliser after every
convolution except the last, ReLU after every normaliser except a block's second. All
convolutions have a bias. The reference's total-variation node is a loss, and left out.

Ours: input and output are RGB standardised by ImageNet's channel means and deviations, so that a
fresh generator starts at a grey image, and one unit of output is about 58 grey levels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from statsnorm.errors import StatsnormError, unknown
from statsnorm.networks.blocks import Chain, Residual, conv_norm
from statsnorm.networks.colour import IMAGENET, IMAGENET_MEAN, IMAGENET_SD, ColourOutput
from statsnorm.networks.network import Network, study
from statsnorm.networks.norms import CONDITIONAL, make_norm
from statsnorm.networks.weights import Checkpoint, load_state

NORM_AT = ("all", "first", "last")
FROM_RGB = IMAGENET
TO_RGB = ColourOutput(mean=IMAGENET_MEAN, sd=IMAGENET_SD)
TRAINING = ("cell", "block", "target", "condition", "seed", "iteration", "status")
_LARGEST = 1024  # a stranger's metadata must not make us allocate without bound


class TextureGenerator(Chain):
    """Generator with children conv1-conv3, res1.. (conv1, conv2, sum), up1, up2, out.

    Parameters
    ----------
    norm : str
        Any name of :data:`statsnorm.networks.norms.NORMS`.
    width : int
        Channels of the first convolution; the residual blocks have four times as many.
    blocks : int
        Residual blocks.
    norm_at : str
        `all`, or only the `first` normaliser (after conv1) or the `last` (after up2) is of
        kind `norm`; the others are of kind `rest`.
    styles : int
        Parameter sets of a conditional norm; then call `generator(x, index)`.
    rest : str
        Kind of the normalisers that `norm_at` leaves out.

    Raises
    ------
    StatsnormError
        For an unknown norm or `norm_at`, or sizes below 1.

    Examples
    --------
    >>> generator = TextureGenerator("bn", width=8, blocks=1)
    >>> [name for name, _ in generator.named_children()]
    ['conv1', 'conv2', 'conv3', 'res1', 'up1', 'up2', 'out']
    """

    def __init__(
        self,
        norm: str = "in",
        *,
        width: int = 32,
        blocks: int = 5,
        norm_at: str = "all",
        styles: int = 1,
        rest: str = "none",
    ) -> None:
        if norm_at not in NORM_AT:
            raise unknown("norm_at", norm_at, NORM_AT)
        if width < 1 or blocks < 0 or styles < 1:
            raise StatsnormError(
                "width and styles must be at least 1 and blocks at least 0, "
                f"got width={width}, styles={styles}, blocks={blocks}"
            )
        make_norm(norm, width, styles=styles)  # refuses an unknown norm, or styles it cannot have
        count = 5 + 2 * blocks  # normalisers in all
        chosen = {"all": range(count), "first": (0,), "last": (count - 1,)}[norm_at]
        kinds = [norm if i in chosen else rest for i in range(count)]
        super().__init__(_layers(kinds, width, blocks, styles))
        self.architecture: dict[str, str | int] = {
            "architecture": "texture",
            "norm": norm,
            "norm_at": norm_at,
            "rest": rest,
            "width": width,
            "blocks": blocks,
            "styles": styles,
        }


def _layers(kinds: list[str], width: int, blocks: int, styles: int) -> dict[str, nn.Module]:
    """Return the children by name; `kinds` names the normalisers in running order."""
    upcoming = iter(kinds)
    wide = 4 * width

    def norm(channels: int) -> nn.Module:
        kind = next(upcoming)
        return make_norm(kind, channels, styles=styles if kind in CONDITIONAL else 1)

    def step(conv: nn.Module, channels: int, *, act: bool = True) -> Chain:
        return conv_norm(conv, norm(channels), nn.ReLU(inplace=True) if act else None)

    layers: dict[str, nn.Module] = {
        "conv1": step(_reflected(3, width, 9), width),
        "conv2": step(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), 2 * width),
        "conv3": step(nn.Conv2d(2 * width, wide, 3, stride=2, padding=1), wide),
    }
    for i in range(1, blocks + 1):
        layers[f"res{i}"] = Residual(
            {
                "conv1": step(_reflected(wide, wide, 3), wide),
                "conv2": step(_reflected(wide, wide, 3), wide, act=False),
            }
        )
    layers["up1"] = step(_doubled(wide, 2 * width), 2 * width)
    layers["up2"] = step(_doubled(2 * width, width), width)
    layers["out"] = _reflected(width, 3, 3)
    return layers


def _reflected(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, padding_mode="reflect")


def _doubled(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)


def texture_network(
    generator: TextureGenerator,
    *,
    sha256: str = "",
    cell: str = "",
    seed: int = -1,
    iteration: int = -1,
    training: Mapping[str, str] | None = None,
) -> Network:
    """Return a generator as a network under study (eval mode, gradients off).

    A generator with several styles has the indices "0", "1", ...; sides are multiples of 4.
    """
    styles = int(generator.architecture["styles"])
    return Network(
        name="texture",
        module=study(generator),
        norm=str(generator.architecture["norm"]),
        preprocess=FROM_RGB,
        postprocess=TO_RGB,
        indices=tuple(str(i) for i in range(styles)) if takes_styles(generator) else (),
        sha256=sha256,
        multiple=4,
        cell=cell,
        seed=seed,
        iteration=iteration,
        training=training or {},
    )


def takes_styles(generator: TextureGenerator) -> bool:
    """Return whether the generator must be called with a style index."""
    architecture = generator.architecture
    return architecture["norm"] == "cin" or int(architecture["styles"]) > 1


def load_texture(checkpoint: Checkpoint) -> Network:
    """Return the generator that a checkpoint's metadata and tensors describe.

    Metadata: `architecture` of the generator, and what of :data:`TRAINING` is known.

    Raises
    ------
    StatsnormError
        If a number in the metadata is none, or a tensor does not fit the architecture.
    """
    meta = checkpoint.metadata
    try:
        width, blocks = int(meta.get("width", "32")), int(meta.get("blocks", "5"))
        styles, seed = int(meta.get("styles", "1")), int(meta.get("seed", "-1"))
        iteration = int(meta.get("iteration", "-1"))
    except ValueError as error:
        raise StatsnormError(f"{checkpoint.source!r}: bad metadata: {error}") from error
    if max(width, blocks, styles) > _LARGEST:
        raise StatsnormError(
            f"{checkpoint.source!r}: width, blocks and styles are at most {_LARGEST}, "
            f"got {width}, {blocks}, {styles}"
        )
    _check_against_tensors(checkpoint, width, blocks)
    generator = TextureGenerator(
        meta.get("norm", "in"),
        width=width,
        blocks=blocks,
        norm_at=meta.get("norm_at", "all"),
        styles=styles,
        rest=meta.get("rest", "none"),
    )
    load_state(generator, checkpoint.state, checkpoint.source)
    return texture_network(
        generator,
        sha256=checkpoint.sha256,
        cell=meta.get("cell", ""),
        seed=seed,
        iteration=iteration,
        training={k: meta[k] for k in TRAINING if k in meta} if meta.get("cell") else {},
    )


def _check_against_tensors(checkpoint: Checkpoint, width: int, blocks: int) -> None:
    """Refuse metadata that ask for more than the file holds before anything is allocated."""
    first = checkpoint.state.get("conv1.conv.weight")
    there = {key.partition(".")[0] for key in checkpoint.state if key.startswith("res")}
    name, expected = Path(checkpoint.source).name, (width, 3, 9, 9)
    if first is not None and tuple(first.shape) != expected:
        raise StatsnormError(
            f"{name!r}: 'conv1.conv.weight' has shape {tuple(first.shape)}, expected {expected}: "
            "these are the weights of another architecture"
        )
    if first is None or len(there) != blocks:
        raise StatsnormError(
            f"{name!r}: the metadata say {blocks} residual blocks, the tensors hold "
            f"{len(there)}" + ("" if first is not None else " and no conv1.conv.weight")
        )
