"""Simulations of permutation tests and probes on moments of images (method.md 8.2, 4 and 8)."""

from __future__ import annotations

import numpy as np
from simulate import Values, inside, law, rejects, repeated

from statsnorm import stats
from statsnorm.probes import probe
from statsnorm.stats.inputs import Array

CHANNELS = 5
CONTENTS, STYLES = 8, 4
SPREAD_SIZES = (10, 15, 20)
PERMUTATIONS = 199  # the size of a permutation test is exact at any number of them


def no_style(
    rng: np.random.Generator, source: str, contents: int, levels: int, channels: int
) -> Array:
    """Return moments (I, S, K, C) in which styles differ by chance only; contents differ truly."""
    shape = (contents, STYLES, levels)
    content = law(source).draw(rng, "content", contents)[:, :channels]
    rest = law(source).draw(rng, "content_style", int(np.prod(shape)))[:, :channels]
    design: Array = 2 * content[:, None, None] + rest.reshape(*shape, channels)
    return design


def permutation_tests(rng: np.random.Generator, replicates: int, *, source: str) -> Values:
    """Return whether permutation tests on moments reject a true null."""
    content, _, style = (
        x.ravel() for x in np.meshgrid(range(CONTENTS), [0], range(STYLES), indexing="ij")
    )
    group = np.repeat(np.arange(len(SPREAD_SIZES)), SPREAD_SIZES)

    def once(rng: np.random.Generator) -> dict[str, float]:
        x = no_style(rng, source, CONTENTS, 1, CHANNELS)[:, :, 0]
        factors = {"content": content, "style": style}
        location = stats.permanova(
            x.reshape(-1, CHANNELS), factors, blocks=content, rng=rng, permutations=PERMUTATIONS
        )
        y = no_style(rng, source, CONTENTS, 2, CHANNELS)
        images = law(source).draw(rng, "content", len(group))[:, : CHANNELS + 1]
        spread = stats.permdisp(images, group, rng=rng, permutations=99)
        return {
            "PERMANOVA in blocks": rejects(location.pvalue[1]),
            "style labels in blocks": rejects(
                stats.block_permutation_test(y, rng=rng, permutations=PERMUTATIONS).pvalue
            ),
            "PERMDISP, 10 to 20 a group": rejects(spread.pvalue),
        }

    return repeated(once, rng, replicates)


def probe_tests(rng: np.random.Generator, replicates: int, *, source: str) -> Values:
    """Return whether the probe's permutation test rejects shuffled styles."""
    content, style = np.indices((CONTENTS, STYLES)).reshape(2, -1)

    def once(rng: np.random.Generator) -> dict[str, float]:
        x = no_style(rng, source, CONTENTS, 1, 3).reshape(-1, 3)
        options = {"strengths": (0.1,), "folds": 2, "blocks": content, "permutations": 19}
        found = probe(x, style, groups=content, rng=rng, **options)
        return {"probe, permutation": rejects(found.pvalue)}

    return repeated(once, rng, replicates)


def probe_intervals(rng: np.random.Generator, replicates: int, *, source: str) -> Values:
    """Return whether the probe's interval covers chance where styles are shuffled."""
    content, style = np.indices((2 * CONTENTS, STYLES)).reshape(2, -1)

    def once(rng: np.random.Generator) -> dict[str, float]:
        x = no_style(rng, source, 2 * CONTENTS, 1, 3).reshape(-1, 3)
        found = probe(x, style, groups=content, rng=rng, strengths=(0.1,))
        return {"probe accuracy covers 1/S": inside(found, 1 / STYLES)}

    return repeated(once, rng, replicates)
