"""Domain and class of images, as a manifest gives them: which can be used, and what for."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from statsnorm.errors import StatsnormError
from statsnorm.stats.unbalanced import tables_joining

Frame = pd.DataFrame

CROSSED, NESTED = "domain x class", "images within domains"


@dataclass(frozen=True, slots=True)
class Labels:
    """Domain and class of the images that can be used, and what was left out."""

    table: Frame  # image, domain, class; one row an image, sorted
    design: str
    unlabelled: int
    lonely: int  # images alone in their cell
    apart: int = 0  # images of classes and domains that no two others share

    @property
    def factors(self) -> tuple[str, ...]:
        """Name the labels that split the images."""
        return ("domain", "class") if self.design == CROSSED else ("domain",)


def domain_labels(images: Frame, least: int) -> Labels | None:
    """Return the labels of a manifest with a column `domain` and perhaps `class`.

    Cells with fewer than `least` images are left out: their own spread is unknown; so are classes
    and domains that are not crossed with any two of the others.

    Raises
    ------
    StatsnormError
        If an image has two domains, two images are one file, fewer than two domains are left, or
        domain and class are confounded.
    """
    if "domain" not in images or not (images["domain"].fillna("") != "").any():
        return None
    given = images.assign(**{"class": images.get("class", "")})
    table = given[["image", "domain", "class"]].fillna("").drop_duplicates()
    crossed = len(set(table["class"]) - {""}) > 1
    known = table["domain"] != ""
    known &= (table["class"] != "") | (not crossed)
    unlabelled = table["image"].nunique() - table.loc[known, "image"].nunique()
    table = table[known].sort_values("image", ignore_index=True)
    if (twice := table["image"].duplicated()).any():
        name = table.loc[twice, "image"].iloc[0]
        raise StatsnormError(f"image {name!r} has two domains or classes; give it one")
    _require_distinct(images[images["image"].isin(table["image"])])
    by = ["domain", "class"] if crossed else ["domain"]
    if crossed:
        _require_crossed(table)
    size = table.groupby(by)["image"].transform("size")
    kept = table[size >= least].reset_index(drop=True)
    lonely = len(table) - len(kept)
    if kept["domain"].nunique() < 2:
        raise StatsnormError(
            f"natural domains need two domains with {least} images in a cell, "
            f"got {', '.join(sorted(set(kept['domain']))) or 'none'}"
        )
    if not crossed:
        return Labels(kept, NESTED, unlabelled, lonely)
    _require_crossed(kept)
    joined = _joined(kept)
    return Labels(joined, CROSSED, unlabelled, lonely, len(kept) - len(joined))


def _joined(table: Frame) -> Frame:
    """Leave out the classes and domains that stand in no table of two classes x two domains.

    They say nothing of V_domain or V_class, so they are no units of them.
    """
    counts = pd.crosstab(table["class"], table["domain"])
    tables = pd.DataFrame(
        tables_joining(counts.to_numpy() > 0), index=counts.index, columns=counts.columns
    )
    classes, domains = tables.index[tables.any(axis=1)], tables.columns[tables.any(axis=0)]
    kept = table["class"].isin(classes) & table["domain"].isin(domains)
    return table[kept].reset_index(drop=True)


def _require_distinct(images: Frame) -> None:
    """Refuse two labelled images that are one file: a copy would count twice."""
    if "sha256" not in images:
        return
    files = images[["image", "sha256"]].drop_duplicates().sort_values("image")
    files = files.assign(first=files.groupby("sha256")["image"].transform("first"))
    copies = files[files["image"] != files["first"]]
    if len(copies):
        first, second = copies.iloc[0][["first", "image"]]
        raise StatsnormError(f"images {first!r} and {second!r} are one file; give it once")


def _require_crossed(table: Frame) -> None:
    counts = pd.crosstab(table["class"], table["domain"])
    if tables_joining(counts.to_numpy() > 0).any():
        return
    classes = table.groupby("domain")["class"].agg(lambda x: ", ".join(sorted(set(x))[:3]))
    listed = "; ".join(f"{domain}: {names}" for domain, names in list(classes.items())[:4])
    raise StatsnormError(
        "domain and class are confounded: no two classes occur in the same two domains "
        f"({listed}), so V_domain cannot be told from V_class; give classes that several domains "
        "share, or leave the column `class` out"
    )
