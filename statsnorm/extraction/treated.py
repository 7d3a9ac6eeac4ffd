"""Networks x treatments x indices x untrained seeds: every variant of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor

from statsnorm.cells import NetworkCell
from statsnorm.errors import unknown
from statsnorm.extraction.loading import probe
from statsnorm.extraction.plan import ExtractConfig
from statsnorm.extraction.survey import (
    Survey,
    check_taps,
    check_treatments,
    has_batch_normalisers,
)
from statsnorm.extraction.variants import Variant
from statsnorm.freeze import batch_statistics, freeze, population_statistics
from statsnorm.networks import Network, untrained
from statsnorm.swap import swap
from statsnorm.swap_names import is_swap

Reference = Callable[[], Iterable[Tensor]]
"""Yields batches of reference cells for the calibration of frozen maps."""


def plan_variants(
    config: ExtractConfig, networks: Sequence[Network], *, reference: Reference, device: str
) -> tuple[Variant, ...]:
    """Return every variant of the networks, frozen maps calibrated.

    A treatment or tap that fits only some of the networks is left out for the others. Random
    initialisations are made of networks with normalisers (or places for them), once for each
    name and norm, at one index each: their conditional parameters are all alike. They replace a
    network whose own weights are random. Batch normalisers are run in every BN mode and, in
    training mode, in every kind of batch that is asked for; a network without them once.

    Raises
    ------
    StatsnormError
        If a treatment, tap or index fits no network.
    """
    x = probe(config, device)
    surveys = [Survey(config, network, x) for network in networks]
    check_treatments(config, surveys)
    check_taps(config, surveys)
    variants = []
    drawn: set[tuple[str, str]] = set()  # random weights once, however many cells were trained
    for survey in surveys:
        trained = survey.network
        again = (trained.name, trained.norm) in drawn
        drawn.add((trained.name, trained.norm))
        seeds = range(config.untrained if survey.has_places and not again else 0)
        fresh = [untrained(trained, config.seed + k) for k in seeds]
        is_random = trained.iteration == 0 and not trained.cell
        for network in fresh if fresh and is_random else (trained, *fresh):
            indices = _indices(config, trained, only_first=network is not trained)
            settled = _settled(config, network, reference)
            for treatment in filter(survey.fits, config.treatments):
                if is_swap(treatment) and network is not trained:
                    continue  # the styles of random weights are all alike
                for mode, kind in _batchings(config, network, treatment):
                    source = network if mode == "train" else settled
                    variants += [
                        _variant(survey, source, one, index, (mode, kind), reference)
                        for index in indices
                        for one in survey.expanded(treatment, index, indices)
                    ]
    # One swap may stand for itself and be the first step of an order: run it once.
    return tuple({variant.cell: variant for variant in variants}.values())


def _batchings(
    config: ExtractConfig, network: Network, treatment: str
) -> tuple[tuple[str, str], ...]:
    """Return the (BN mode, kind of batch) pairs in which a treated network is run."""
    modes = ("train",) if treatment == "bn_train" else config.bn_modes
    if not has_batch_normalisers(network):
        modes = ("eval",)
    kinds = {"eval": config.batch_kinds[:1], "train": config.batch_kinds}
    return tuple((mode, kind) for mode in modes for kind in kinds[mode])


def _settled(config: ExtractConfig, network: Network, reference: Reference) -> Network:
    """Return a network whose fresh batch normalisers know a population, if eval mode asks them."""
    asked = network.population and "eval" in config.bn_modes
    return population_statistics(network, reference) if asked else network


def _variant(
    survey: Survey,
    network: Network,
    treatment: str,
    index: str,
    batching: tuple[str, str],
    reference: Reference,
) -> Variant:
    mode, kind = batching
    train = mode == "train"
    treated = network
    if treatment.startswith("frozen:"):
        treated = freeze(network, treatment, reference, index=index)
    elif is_swap(treatment):
        treated = swap(network, treatment, index=index)
    if train and has_batch_normalisers(treated):
        treated = batch_statistics(treated)
    cell = NetworkCell(
        network=network.name,
        norm=network.norm,
        treatment=treatment,
        index=index,
        bn_mode=mode,
        batch_kind=kind,
        cell=network.cell,
        seed=network.seed,
        iteration=network.iteration,
    )
    taps = survey.taps(treated, treatment)
    return Variant(network=treated, cell=cell, taps=taps, batch_statistics=train)


def _indices(config: ExtractConfig, network: Network, *, only_first: bool) -> tuple[str, ...]:
    if not network.indices:
        return ("",)
    for index in config.indices:
        if index not in network.indices:
            raise unknown(f"index of network {network.name!r}:", index, network.indices)
    chosen = config.indices or network.indices[:1]
    return chosen[:1] if only_first else chosen
