"""What each shipped analysis needs: the command to give where a run holds nothing for it."""

from __future__ import annotations

from collections.abc import Mapping

FROZEN = "--treatment none,frozen:prefix --reference SRC"
CROSSED = (
    "a crossed design, at least 3 styles x 2 contrast levels, through a network with normalisers: "
    f"extract --design FILE --network cin26 {FROZEN}"
)
NEEDS: Mapping[str, str] = {
    "cin_style": "a design through several indices of one network: extract --design FILE "
    "--network cin26 --index I,J,K,...",
    "divergence": "two conditions, two styles of a design, or two domains of a manifest, of at "
    "least 6 images: extract --condition original,style",
    "dose_response": "training on two style doses or more: train --norm in,bn "
    "--condition original,style,styles-4,blend-50",
    "figure1": "training curves: train --norm in,bn",
    "group_tests": "two conditions, or a manifest with a column 'domain' or 'class', of at least 8 "
    "images a group: extract --condition original,style",
    "invariance": "the test of the first layer: extract --network cin26 --invariance",
    "manipulation": "plain conditions: extract --network vgg16,pixels "
    "--condition original,contrast,style,ck,placebo",
    "natural_domains": "a manifest with a column 'domain': extract --images FILE.csv "
    f"--network cin26 {FROZEN}",
    "norm_zoo": "one set of weights under several normalisers: extract --design FILE "
    f"--network vgg16+zoo {FROZEN}",
    "reemergence": CROSSED,
    "removed_variance": CROSSED,
}


def nothing_for(analysis: str) -> str:
    """Return why `analysis` was left out although its summary refused nothing.

    >>> nothing_for("figure1")
    'needs training curves: train --norm in,bn'
    """
    need = NEEDS.get(analysis)
    return f"needs {need}" if need else "the tables hold nothing that it needs"
