"""What an architecture offers, its taps, normalisers and treatments, against what is asked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from statsnorm.errors import StatsnormError, unknown
from statsnorm.extraction.plan import ExtractConfig
from statsnorm.networks import Network, must_run, running_normalisers
from statsnorm.networks.norms import norm_kind
from statsnorm.swap import conditional_normalisers
from statsnorm.swap_names import OTHERS, expand_swap, is_swap, parse_swap
from statsnorm.taps import Tap, find_taps, select_taps

_FIXED = {"frozen", "actnorm"}  # normalisers that adapt to nothing already: not to be frozen


class Survey:
    """What an architecture offers, found once: random weights have the same taps."""

    def __init__(self, config: ExtractConfig, network: Network, x: Tensor) -> None:
        self.network, self._x, self._patterns = network, x, config.taps
        # One pass for all: with few images every pass of the set-up counts.
        with must_run(network, x), running_normalisers(network.module) as found:
            self._taps = {"none": find_taps(network, x, also=config.taps)}
        self.has_places = bool(found)
        self.normalisers = tuple(name for name, m in found.items() if norm_kind(m) not in _FIXED)
        self.conditional = conditional_normalisers(network, self.normalisers)
        self._seed = config.seed

    def fits(self, treatment: str) -> bool:
        """Return whether a treatment can be done; raise if it is none at all."""
        if treatment == "none":
            return True
        if treatment == "bn_train":
            return has_batch_normalisers(self.network)
        if is_swap(treatment):
            parse_swap(treatment)
            return bool(self.conditional)
        kind, _, which = treatment.partition(":")
        if kind != "frozen" or not which:
            known = (
                *("none", "frozen:prefix", "frozen:all", "frozen:NORMALISER", "bn_train"),
                *("swap:gamma:to=STYLE", "swap:both@PART:to=STYLE", "blend:SHARE:to=STYLE"),
            )
            raise unknown("treatment", treatment, known)
        return bool(self.normalisers) and (
            which in ("prefix", "all") or which.removesuffix(".in") in self.normalisers
        )

    def expanded(self, treatment: str, index: str, indices: Sequence[str]) -> tuple[str, ...]:
        """Return what a treatment stands for at one index: itself, but for some swaps."""
        if not is_swap(treatment):
            return (treatment,)
        return expand_swap(
            treatment,
            self.conditional,
            index=index,
            indices=indices,
            known=self.network.indices,
            seed=self._seed,
        )

    @property
    def all_taps(self) -> tuple[Tap, ...]:
        """All taps of the network as it is, asked for or not."""
        return self._taps["none"]

    def taps(self, treated: Network, treatment: str) -> tuple[Tap, ...]:
        """Return the taps asked for of a network of this architecture under a treatment."""
        treatment = "none" if is_swap(treatment) else treatment  # other numbers, same places
        if treatment not in self._taps:
            self._taps[treatment] = find_taps(treated, self._x, also=self._patterns)
        found = self._taps[treatment]
        return _selected(found, self._patterns) if self._patterns else found


def check_treatments(config: ExtractConfig, surveys: Sequence[Survey]) -> None:
    """Raise unless every treatment fits a network, and some network takes the indices asked for."""
    for treatment in config.treatments:
        if not any(survey.fits(treatment) for survey in surveys):
            names = {name for survey in surveys for name in survey.normalisers}
            if treatment.startswith("frozen:") and names:
                raise unknown("normaliser", treatment.removeprefix("frozen:"), names)
            asked = ", ".join(survey.network.name for survey in surveys)
            lacking = "batch normalisers" if treatment == "bn_train" else "normalisers"
            lacking = "conditional normalisers" if is_swap(treatment) else lacking
            raise StatsnormError(
                f"treatment {treatment!r} fits none of the networks {asked}: they have no {lacking}"
            )
        alone = is_swap(treatment) and parse_swap(treatment).to == OTHERS
        if alone and len(config.indices) < 2:
            raise StatsnormError(
                f"treatment {treatment!r} needs at least two indices (--index 0,5,9)"
            )
    if config.indices and not any(survey.network.indices for survey in surveys):
        raise StatsnormError(
            f"index {config.indices[0]!r}: no network takes an index; leave it out, or add cin26"
        )


def check_taps(config: ExtractConfig, surveys: Sequence[Survey]) -> None:
    """Raise unless every pattern matches a tap of at least one network, and every network one."""
    select_taps([tap for survey in surveys for tap in survey.all_taps], config.taps)
    for survey in surveys:
        if not survey.taps(survey.network, "none"):
            raise StatsnormError(f"network {survey.network.name!r} has none of the taps asked for")


def has_batch_normalisers(network: Network) -> bool:
    """Return whether a network has a batch normaliser."""
    batch_norm = torch.nn.modules.batchnorm._BatchNorm
    return any(isinstance(module, batch_norm) for module in network.module.modules())


def _selected(found: Sequence[Tap], patterns: Sequence[str]) -> tuple[Tap, ...]:
    """Return the taps that match any of the patterns; a pattern may match none here."""
    chosen: set[Tap] = set()
    for pattern in patterns:
        try:
            chosen |= set(select_taps(found, [pattern]))
        except StatsnormError:  # another network has it: _check_taps made sure
            continue
    return tuple(tap for tap in found if tap in chosen)
