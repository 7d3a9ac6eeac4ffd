"""What the literature says beside which a report is read; nothing here is computed.

`checked` says where a statement or number was read: in the paper, its abstract, the authors'
README, or a secondary source; "memory" is quoted from memory and must be read again before it
is cited.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One published statement and what it bears on."""

    work: str
    statement: str
    bears_on: str
    checked: str


ROWS: tuple[Row, ...] = (
    Row(
        "Ulyanov et al. 2016, 2017 (instance normalisation)",
        "The loss should not depend on the contrast of the content image; normalising each image "
        "at training and at test time trains faster than batch normalisation.",
        "H1, H2",
        "memory",
    ),
    Row(
        "Huang & Belongie 2017 (AdaIN), section 4",
        "Equalising luminance does not close the gap between instance and batch normalisation, "
        "style-normalising the training images nearly does: instance normalisation performs a "
        "form of style normalisation. Three curves, one seed each.",
        "H1-H4, H5",
        "paper",
    ),
    Row(
        "Dumoulin et al. 2017 (conditional instance normalisation)",
        "32 styles share 99.8 % of the parameters; a style is its (gamma, beta).",
        "H6",
        "secondary source",
    ),
    Row(
        "Li et al. 2017 (Demystifying neural style transfer)",
        "Matching channel means and variances transfers style about as well as matching Gram "
        "matrices.",
        "moments as the statistics of style",
        "abstract",
    ),
    Row(
        "Pan et al. 2018 (IBN-Net)",
        "Appearance divergence sits in shallow layers; instance normalisation in the shallow half "
        "improves ImageNet top-1 error: ResNet-50 24.27 to 22.54, ResNet-101 22.48 to 21.39.",
        "H5d: in deep layers it removes content",
        "authors' README",
    ),
    Row(
        "Zhou et al. 2021 (MixStyle)",
        "Shallow-layer means and deviations carry the domain; mixing them helps in lower layers, "
        "never in the last.",
        "H5a, by depth",
        "paper",
    ),
    Row(
        "Jin et al. 2020 (style normalisation and restitution)",
        "Instance normalisation removes style and identity information; what is lost must be "
        "restored.",
        "H5d",
        "memory",
    ),
    Row(
        "Labatie et al. 2021",
        "Instance normalisation causes a lack of variability in instance statistics, in random "
        "networks too.",
        "the untrained column",
        "memory",
    ),
    Row(
        "Kalischek et al. 2021; Zhang et al. 2022 (EFDM)",
        "Mean and standard deviation are not enough: higher moments carry style as well.",
        "limits of all moment analyses",
        "memory",
    ),
    Row(
        "Reproductions of AdaIN fig. 1, or a split of style, contrast and content",
        "We found none.",
        "the whole report",
        "our search",
    ),
)
"""Rows in reading order."""
