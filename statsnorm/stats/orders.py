"""Random orders of rows within blocks, for permutation tests."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from statsnorm.errors import StatsnormError
from statsnorm.stats.samples import Index, level_codes

CHUNK = 1 << 22  # numbers in one batch of permuted rows: 32 MiB of float64


def block_orders(
    n: int, blocks: ArrayLike | None, permutations: int, rng: np.random.Generator
) -> Iterator[Index]:
    """Yield random orders (n,) of the rows that move rows within their block only."""
    if blocks is None:
        for _ in range(permutations):
            yield rng.permutation(n)
        return
    codes, _ = level_codes("blocks", blocks, n=n)
    by_block = np.argsort(codes, kind="stable")
    if np.bincount(codes).max() < 2:
        raise StatsnormError("blocks must hold at least two rows somewhere; none can be permuted")
    for _ in range(permutations):
        order = np.empty(n, dtype=np.intp)
        order[by_block] = np.lexsort((rng.random(n), codes))
        yield order


def chunks(orders: Iterator[Index], size: int) -> Iterator[Index]:
    """Yield the orders in stacks (at most size, n)."""
    stack: list[Index] = []
    for order in orders:
        stack.append(order)
        if len(stack) == size:
            yield np.stack(stack)
            stack = []
    if stack:
        yield np.stack(stack)
