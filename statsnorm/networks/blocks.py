"""Named building blocks: chains that pass a style index along, residual blocks, sums."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn


class Sum(nn.Module):
    """A residual sum with a name of its own, so that it can be tapped."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return `a + b`."""
        return a + b


class Chain(nn.Sequential):
    """Children in order; those with `takes_index` are called as `child(x, index)`."""

    takes_index = True

    def __init__(self, children: Mapping[str, nn.Module]) -> None:
        super().__init__(OrderedDict(children))

    def forward(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Run `x` through all children; `index` (N,) is the style of each image, if any."""
        for child in self:
            x = child(x, index) if getattr(child, "takes_index", False) else child(x)
        return x


class Residual(nn.Module):
    """`x + branch(x)`; children are the branch's own and `sum`. No activation afterwards."""

    takes_index = True

    def __init__(self, branch: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, child in branch.items():
            self.add_module(name, child)
        self.sum = Sum()

    def forward(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Return the residual sum; same shape as `x`."""
        y = x
        for child in self.children():
            if child is not self.sum:
                y = child(y, index) if getattr(child, "takes_index", False) else child(y)
        total: Tensor = self.sum(x, y)
        return total


def conv_norm(
    conv: nn.Module, norm: nn.Module | None, act: nn.Module | None, *, up: nn.Module | None = None
) -> Chain:
    """Return a chain with children `up`, `conv`, `norm`, `act`, those that are given."""
    parts = {"up": up, "conv": conv, "norm": norm, "act": act}
    return Chain({name: part for name, part in parts.items() if part is not None})
