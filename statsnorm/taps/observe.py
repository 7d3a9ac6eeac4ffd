"""Watch tensors pass through a module: hooks and a function mode, gone when the block ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from statsnorm.networks.blocks import Sum

_ADDITIONS = frozenset({"add", "add_", "__add__", "__iadd__", "__radd__"})


class Site(NamedTuple):
    """A place in a module: the input or output of a child, or a sum computed within it."""

    module: str  # dotted name, "" for the root
    side: str  # input, output, sum


Visit = Callable[[Site, int, nn.Module, Tensor], None]
"""Called as `visit(site, call, module, tensor)`; `call` counts from 0 at each site."""


@contextmanager
def observe(root: nn.Module, visit: Visit, sites: Collection[Site] | None = None) -> Iterator[None]:
    """Call `visit` on every tensor that passes one of `sites` within the block.

    The tensor is live: reduce or copy it at once, the next in-place operation overwrites it.
    Of several tensors (a tuple, keyword arguments) the first is shown. Sums are additions of
    two activations of one shape that no module of its own computes, as in the residual blocks
    of most foreign networks; they are caught only where a site asks for them.

    Parameters
    ----------
    root : nn.Module
        Watched from its own input and output ("" in a :class:`Site`) down to every child.
    visit : callable
        `visit(site, call, module, tensor)`; may raise to end the forward pass.
    sites : collection of Site, optional
        What to watch; everything if left out.
    """
    modules = dict(root.named_modules())
    calls: Counter[Site] = Counter()

    def report(site: Site, value: Any) -> None:
        if (x := _first_tensor(value)) is not None:
            calls[site] += 1
            visit(site, calls[site] - 1, modules[site.module], x)

    with ExitStack() as stack:
        if sites is None or any(site.side == "sum" for site in sites):
            stack.enter_context(_sums(modules, report, sites))
        for name, module in modules.items():
            if sites is None or Site(name, "input") in sites:
                hook = _before(Site(name, "input"), report)
                handle = module.register_forward_pre_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
            if sites is None or Site(name, "output") in sites:
                handle = module.register_forward_hook(_after(Site(name, "output"), report))
                stack.callback(handle.remove)
        yield


def _before(site: Site, report: Callable[[Site, Any], None]) -> Callable[..., None]:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        report(site, (*args, *kwargs.values()))

    return hook


def _after(site: Site, report: Callable[[Site, Any], None]) -> Callable[..., None]:
    def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        report(site, output)

    return hook


@contextmanager
def _sums(
    modules: dict[str, nn.Module],
    report: Callable[[Site, Any], None],
    sites: Collection[Site] | None,
) -> Iterator[None]:
    """Report residual additions under the innermost module that runs them."""
    running = [""]

    def enter(name: str) -> Callable[..., None]:
        return lambda *_: running.append(name)

    def leave(*_: object) -> None:
        running.pop()

    def added(total: Tensor) -> None:
        site = Site(running[-1], "sum")
        if not isinstance(modules[site.module], Sum) and (sites is None or site in sites):
            report(site, total)

    with ExitStack() as stack:
        for name, module in modules.items():
            stack.callback(module.register_forward_pre_hook(enter(name)).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        stack.enter_context(_Additions(added))
        yield


class _Additions(TorchFunctionMode):
    """Catches `a + b` and `a += b` of two activations of one shape."""

    def __init__(self, added: Callable[[Tensor], None]) -> None:
        super().__init__()
        self._added = added

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in _ADDITIONS and _residual(args):
            self._added(result)
        return result


def _residual(operands: tuple[Any, ...]) -> bool:
    """Whether an addition is one of two activations, not of a weight, bias or position."""
    if len(operands) < 2:
        return False
    a, b = operands[:2]
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return False
    weights = isinstance(a, nn.Parameter) or isinstance(b, nn.Parameter)
    return not weights and a.ndim >= 3 and a.shape == b.shape and a.is_floating_point()


def _first_tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, tuple | list):
        return next((x for x in value if isinstance(x, Tensor)), None)
    return None
