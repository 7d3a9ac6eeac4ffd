"""Style by optimisation: Gatys, Ecker and Bethge 2016, with VGG-16.

Gram matrices / (C H W) at relu1_1 .. relu4_1 on the 0..255 scale, squared error averaged over
entries, weight 5; content is the mean squared difference at relu4_2, weight 1 (the study's
primary training loss). L-BFGS on the logits of the pixels, which therefore stay in (0, 1), from
the plain image itself, one image at a time: nothing random, and no image depends on its
neighbours in a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import torch
from torch import Tensor

from statsnorm.errors import unknown
from statsnorm.images.decode import decode
from statsnorm.images.sources import ImageRef, require_distinct
from statsnorm.networks import Network, load_network
from statsnorm.networks.perceptual import CONTENT_TAP, STYLE_TAPS, features, gram

STYLE_WEIGHT = 5.0
TARGET_SIZE = 256
EDGE = 0.01  # how near to black and white the start may be: the logit is steep there
STEPS = 40  # function evaluations of L-BFGS


@dataclass(frozen=True, slots=True)
class GramStyles:
    """Gatys optimisation towards the Gram matrices of each target image."""

    indices: tuple[str, ...]
    sha256: str
    vgg: Network
    grams: Mapping[str, Mapping[str, Tensor]]  # style -> tap -> (1, C, C)
    steps: int
    name: str = "gram"

    def to(self, device: torch.device | str) -> GramStyles:
        """Return the generator on a device."""
        with torch.inference_mode(mode=False):  # gradients flow through the weights
            self.vgg.module.to(device)
            moved = {s: {t: g.to(device) for t, g in of.items()} for s, of in self.grams.items()}
        return GramStyles(self.indices, self.sha256, self.vgg, moved, self.steps)

    def __call__(self, x: Tensor, index: str) -> Tensor:
        """Return images (N, 3, H, W) in the style of target `index`, in (0, 1)."""
        if index not in self.indices:
            raise unknown("style of generator 'gram':", index, self.indices)
        with torch.inference_mode(False), torch.enable_grad():
            images = [self._optimise(image[None].clone(), self.grams[index]) for image in x]
        return torch.cat(images).to(x.dtype)

    def _optimise(self, plain: Tensor, target: Mapping[str, Tensor]) -> Tensor:
        content = features(self.vgg, plain, (CONTENT_TAP,))[CONTENT_TAP].detach()
        logits = plain.float().clamp(EDGE, 1 - EDGE).logit().requires_grad_(True)
        optimiser = torch.optim.LBFGS(
            [logits], max_iter=self.steps, max_eval=self.steps, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            optimiser.zero_grad()
            taps = features(self.vgg, logits.sigmoid(), (*STYLE_TAPS, CONTENT_TAP))
            style = sum(((gram(taps[tap]) - wanted) ** 2).mean() for tap, wanted in target.items())
            loss: Tensor = STYLE_WEIGHT * style + ((taps[CONTENT_TAP] - content) ** 2).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimiser.step(closure)  # type: ignore[no-untyped-call]
        return logits.detach().sigmoid()


def load_gram_styles(
    targets: Sequence[ImageRef], *, steps: int = STEPS, size: int = TARGET_SIZE
) -> GramStyles:
    """Return a generator with one style a target image.

    Parameters
    ----------
    targets : sequence of ImageRef
        Target images; resized and cropped to `size`.
    steps : int
        Function evaluations of the optimiser for each image.
    size : int
        Side of the targets in pixels.

    Raises
    ------
    StatsnormError
        If two targets are one file: a style is one unit.
    """
    require_distinct(targets)
    decoded = {target.image: decode(target, size=size) for target in targets}
    with torch.inference_mode(mode=False), torch.no_grad():
        vgg = load_network("vgg16")
        grams = {
            image: {tap: gram(x) for tap, x in features(vgg, d.pixels[None], STYLE_TAPS).items()}
            for image, d in decoded.items()
        }
    recipe = [vgg.sha256, str(steps), str(size), *(f"{i} {d.sha256}" for i, d in decoded.items())]
    digest = sha256("\n".join(recipe).encode()).hexdigest()
    return GramStyles(tuple(decoded), digest, vgg, grams, steps)
