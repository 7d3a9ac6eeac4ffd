"""A network under study: a module, what it is fed, what it returns, and where it came from."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from statsnorm.errors import StatsnormError, unknown
from statsnorm.networks.norms import norm_kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A module in eval mode without gradients, and everything needed to feed and name it."""

    name: str  # column `network`
    module: nn.Module
    norm: str  # in, bn, cin, ln, gn, frozen, none; mixtures joined by `+`
    preprocess: Callable[[Tensor], Tensor]  # (N, 3, H, W) RGB in [0, 1] -> module input
    postprocess: Callable[[Tensor], Tensor] | None = None  # -> unclipped RGB; None: no image
    indices: tuple[str, ...] = ()  # the module's style indices "0".."25"; () = unconditioned
    sha256: str = ""  # of the weights
    multiple: int = 1  # image sides must be multiples of this
    layout: str = "nchw"  # nchw, nhwc or tokens
    cell: str = ""
    seed: int = -1
    iteration: int = -1
    training: Mapping[str, str] = field(default_factory=dict)  # block, target, condition, ...
    population: bool = False  # BN's running statistics are yet to be taken from reference images

    def forward(self, x: Tensor, index: str = "") -> Tensor:
        """Return the module's output for images `x`, without postprocessing.

        Parameters
        ----------
        x : Tensor, shape (N, 3, H, W)
            RGB in [0, 1], float.
        index : str
            Style index for all N images; required if and only if `indices` is not empty.

        Raises
        ------
        StatsnormError
            If a side is no multiple of `multiple`, or the index is missing or unknown.
        """
        self.check_size(x.shape[-2], x.shape[-1])
        chosen = self.style_index(index, x.shape[0], x.device)
        fed = self.preprocess(x)
        output: Tensor = self.module(fed) if chosen is None else self.module(fed, chosen)
        return output

    def style_index(self, index: str, n: int, device: torch.device | str) -> Tensor | None:
        """Return the index as a LongTensor (n,), or None for an unconditioned network."""
        if index not in (self.indices or ("",)):
            if not self.indices:
                raise StatsnormError(f"network {self.name!r} takes no index, got {index!r}")
            if not index:
                last = self.indices[-1]
                raise StatsnormError(f"network {self.name!r} needs an index, 0 to {last}")
            raise unknown(f"index of network {self.name!r}:", index, self.indices)
        if not self.indices:
            return None
        return torch.full((n,), self.indices.index(index), dtype=torch.long, device=device)

    def check_size(self, height: int, width: int) -> None:
        """Raise if an image of this size cannot pass the network unchanged."""
        m = self.multiple
        if height % m or width % m:
            near = max(m, round(min(height, width) / m) * m)
            raise StatsnormError(
                f"network {self.name!r} needs sides that are multiples of {m}, "
                f"got {height} x {width}; use size {near}"
            )


def study(module: nn.Module) -> nn.Module:
    """Return `module` in eval mode with gradients off, as a network under study must be."""
    return module.eval().requires_grad_(False)


def state_sha256(module: nn.Module) -> str:
    """Return the SHA-256 of a module's state: names, shapes, dtypes and bytes, by name."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        array = value.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(array.shape)} {array.dtype}\n".encode())
        digest.update(array.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def norm_of(module: nn.Module) -> str:
    """Return the kinds of normalisers in `module`, joined by `+` in order, or `none`.

    >>> norm_of(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.InstanceNorm2d(8)))
    'bn+in'
    """
    kinds = dict.fromkeys(kind for m in module.modules() if (kind := norm_kind(m)))
    return "+".join(kinds) or "none"


def normalisers(network: Network | nn.Module, x: Tensor) -> dict[str, nn.Module]:
    """Return the normalisers of a network by name, in the order in which they first run.

    Found by type (see :func:`statsnorm.networks.norms.norm_kind`) with one probe forward of
    `x`: images (N, 3, H, W) in [0, 1] for a :class:`Network`, the module's own input for a
    bare module. A conditional network is probed at its first index. A normaliser that does
    not run on `x` is left out.
    """
    module = network.module if isinstance(network, Network) else network
    with running_normalisers(module) as seen, torch.inference_mode():
        if isinstance(network, Network):
            network.forward(x, network.indices[0] if network.indices else "")
        else:
            network(x)
    return seen


@contextmanager
def running_normalisers(module: nn.Module) -> Iterator[dict[str, nn.Module]]:
    """Yield a dict that is filled with the normalisers, by name, as they first run."""
    seen: dict[str, nn.Module] = {}
    with ExitStack() as stack:
        for name, child in module.named_modules():
            if norm_kind(child):
                hook = _remember(seen, name)
                stack.callback(child.register_forward_pre_hook(hook).remove)
        yield seen


@contextmanager
def must_run(network: Network, x: Tensor) -> Iterator[None]:
    """Turn what a pass of images like `x` (N, 3, H, W) raises into what a user can mend.

    Raises
    ------
    StatsnormError
        If the network cannot run on them.
    """
    try:
        yield
    except (RuntimeError, AssertionError, ValueError, TypeError, LookupError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        height, width = x.shape[-2:]
        raise StatsnormError(
            f"network {network.name!r} cannot run on images of {width} x {height} pixels "
            f"({reason.rstrip('.')}); give another size, or a factory with its own preprocessing"
        ) from error


def _remember(seen: dict[str, nn.Module], name: str) -> Callable[[nn.Module, object], None]:
    def hook(module: nn.Module, _inputs: object) -> None:
        seen.setdefault(name, module)

    return hook


def untrained(network: Network, seed: int) -> Network:
    """Return the same architecture with fresh random weights.

    Every module is reset by its own PyTorch default (convolutions: Kaiming uniform with
    a = sqrt(5), biases uniform within 1 / sqrt(fan in)); normalisers get scale 1, shift 0,
    running mean 0 and running variance 1. Parameters that no module resets (class tokens,
    position embeddings) are drawn from N(0, 0.02^2), the default of vision transformers.
    Drawn on the CPU from `seed` alone, so the same on every device; the global random state
    is left as it was.

    Returns
    -------
    Network
        Same name; `seed` as given, `iteration` 0, `cell` "".
    """
    device = next((p.device for p in network.module.parameters()), torch.device("cpu"))
    module = copy.deepcopy(network.module).cpu()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        done: set[int] = set()
        for child in module.modules():
            reset = getattr(child, "reset_parameters", None) or getattr(
                child, "_reset_parameters", None
            )
            if callable(reset):
                reset()
                done |= {id(p) for p in child.parameters(recurse=False)}
        for parameter in module.parameters():
            if id(parameter) not in done:
                parameter.normal_(std=0.02)
    module = study(module)
    digest = state_sha256(module)
    return replace(
        network,
        module=module.to(device),
        sha256=digest,
        cell="",
        seed=seed,
        iteration=0,
        training={},
    )
