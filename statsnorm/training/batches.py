"""Which images make a minibatch: mixed, all of one style, or one photograph in several styles.

Images are numbered `style * n + photograph` where every photograph is there in several styles.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def minibatches(n_images: int, *, batch: int, iterations: int, seed: int) -> Tensor:
    """Return the image numbers of every minibatch, int64 (iterations, batch).

    Epochs are permutations of all images, laid end to end: every image serves equally often.
    """
    needed = batch * iterations
    return _epochs(n_images, needed, torch.Generator().manual_seed(seed)).reshape(iterations, batch)


def composed_minibatches(
    photographs: Sequence[int],
    *,
    n: int,
    styles: int,
    kind: str,
    batch: int,
    iterations: int,
    seed: int,
) -> Tensor:
    """Return image numbers (iterations, batch) from a crossed set of photographs and styles.

    `mixed`: photographs in turn, each in a style drawn for itself. `style-homogeneous`: the same
    photographs, the batch in one style. `content-homogeneous`: one photograph in `batch`
    different styles. Photographs and styles serve equally often, whatever the kind.

    Parameters
    ----------
    photographs : sequence of int
        Those to train on, of `n` in all.
    n, styles : int
        Photographs and styles of the set.
    """
    generator = torch.Generator().manual_seed(seed)
    count = batch * iterations
    if kind == "content-homogeneous":
        photo = _epochs(len(photographs), iterations, generator)[:, None].expand(-1, batch)
        style = torch.stack(
            [torch.randperm(styles, generator=generator)[:batch] for _ in range(iterations)]
        )
    else:
        photo = _epochs(len(photographs), count, generator).reshape(iterations, batch)
        if kind == "style-homogeneous":
            style = _epochs(styles, iterations, generator)[:, None].expand(-1, batch)
        else:
            style = _epochs(styles, count, generator).reshape(iterations, batch)
    return style * n + torch.tensor(photographs)[photo]


def heldout_batches(numbers: Sequence[int], batch: int, device: torch.device) -> tuple[Tensor, ...]:
    """Return fixed batches of `batch` image numbers; a rest that fills no batch is left out.

    Fewer images than one batch are repeated in order until they fill it.
    """
    if len(numbers) < batch:
        numbers = [numbers[i % len(numbers)] for i in range(batch)]
    full = len(numbers) // batch
    return tuple(
        torch.tensor(numbers[i * batch : (i + 1) * batch], device=device) for i in range(full)
    )


def composed_heldout(
    photographs: Sequence[int],
    *,
    n: int,
    styles: int,
    kind: str,
    batch: int,
    device: torch.device,
) -> tuple[Tensor, ...]:
    """Return fixed batches of the held-out photographs in all styles, composed as in training.

    Every kind has the same images: each `styles`-th photograph (at least one) in every style.
    """
    chosen = list(photographs[::styles])
    pairs = {
        "style-homogeneous": [(s, p) for s in range(styles) for p in chosen],
        "content-homogeneous": [(s, p) for p in chosen for s in range(styles)],
        "mixed": [((i + s) % styles, p) for s in range(styles) for i, p in enumerate(chosen)],
    }[kind]
    lines: list[list[int]] = []
    for style, photo in pairs:
        key = {"style-homogeneous": style, "content-homogeneous": photo, "mixed": 0}[kind]
        if not lines or lines[-1][0] != key:
            lines.append([key])
        lines[-1].append(style * n + photo)
    return tuple(part for line in lines for part in heldout_batches(line[1:], batch, device))


def _epochs(n: int, needed: int, generator: torch.Generator) -> Tensor:
    """Return `needed` numbers below `n`: permutations of all, laid end to end."""
    order = [torch.randperm(n, generator=generator) for _ in range(-(-needed // n))]
    return torch.cat(order)[:needed]
