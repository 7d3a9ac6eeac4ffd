"""Numbers with their nouns."""

from __future__ import annotations

_SINGULAR = {"classes": "class", "indices": "index"}


def counted(n: int, plural: str) -> str:
    """Return a number with its noun, in the singular for 1.

    >>> counted(1, "trained networks"), counted(8, "blocks"), counted(0, "images")
    ('1 trained network', '8 blocks', '0 images')
    >>> counted(1, "indices")
    '1 index'
    """
    if n != 1:
        return f"{n} {plural}"
    before, _, noun = plural.rpartition(" ")
    return " ".join(filter(None, ["1", before, _SINGULAR.get(noun, noun.removesuffix("s"))]))
