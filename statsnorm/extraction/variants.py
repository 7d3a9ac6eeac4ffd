"""Networks x treatments x indices x untrained seeds: what every batch of inputs is run through."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from statsnorm.cells import NetworkCell
from statsnorm.correlations import drawn_channels
from statsnorm.errors import StatsnormError, unknown
from statsnorm.extraction.plan import ExtractConfig
from statsnorm.freeze import batch_statistics, freeze, population_statistics
from statsnorm.networks import Network, load_network, normalisers, require_runs, untrained
from statsnorm.networks.norms import norm_kind
from statsnorm.networks.zoo import split_norm
from statsnorm.rows import TapColumns
from statsnorm.swap import conditional_normalisers, swap
from statsnorm.swap_names import OTHERS, expand_swap, is_swap, parse_swap
from statsnorm.taps import Tap, find_taps, select_taps

_FIXED = {"frozen", "actnorm"}  # normalisers that adapt to nothing already: not to be frozen

Reference = Callable[[], Iterable[Tensor]]
"""Yields batches of reference cells for the calibration of frozen maps."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Variant:
    """One network as it is run: treated, at one index, with the taps that are read."""

    network: Network
    cell: NetworkCell
    taps: tuple[Tap, ...]
    batch_statistics: bool  # BN in train mode: rows depend on the composition of the batch

    @property
    def index(self) -> str:
        """The network's own condition."""
        return self.cell.index

    @property
    def composition(self) -> str:
        """How its batches are composed; "" where a row does not depend on its neighbours."""
        return self.cell.batch_kind if self.batch_statistics else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputVgg:
    """The VGG that sees what generators make."""

    network: Network
    taps: tuple[Tap, ...]

    def cell(self, generator: NetworkCell) -> NetworkCell:
        """Return the cell of the rows: VGG's name, everything else the generator's."""
        return replace(generator, network=self.network.name, source=generator.network)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variants:
    """All variants of a run, in the order of their rows."""

    all: tuple[Variant, ...]
    output: OutputVgg | None

    def correlated(self, channels: int, patterns: Sequence[str], *, seed: int) -> Variants:
        """Return the variants with correlations of at most so many channels at some taps.

        Taps of one channel have none.

        Raises
        ------
        StatsnormError
            If a pattern matches no tap that is read.
        """
        read = [tap for variant in self.all for tap in variant.taps]
        read += self.output.taps if self.output else ()
        chosen = set(select_taps(read, patterns or ["*"]))

        def marked(taps: tuple[Tap, ...]) -> tuple[Tap, ...]:
            return tuple(
                replace(tap, correlated=drawn_channels(tap.channels, channels, seed=seed))
                if tap in chosen and tap.channels > 1
                else tap
                for tap in taps
            )

        output = self.output and replace(self.output, taps=marked(self.output.taps))
        return Variants(all=tuple(replace(v, taps=marked(v.taps)) for v in self.all), output=output)

    def __iter__(self) -> Iterator[Variant]:
        """Iterate over the variants."""
        return iter(self.all)


def load_networks(config: ExtractConfig, *, device: str) -> tuple[Network, ...]:
    """Load the networks under study onto the device.

    Raises
    ------
    StatsnormError
        If a network is unknown, cannot take the size, or two have the same identity.
    """
    bases = [split_norm(spec)[0] for spec in config.networks]
    vggs = [name for name in bases if name in ("vgg16", "vgg19")]
    networks = []
    for spec in config.networks:
        base, _ = split_norm(spec)
        takes_weights = base in vggs or (not vggs and spec == config.networks[0])
        network = load_network(spec, weights=config.weights if takes_weights else None)
        network.check_size(config.size, config.size)
        networks.append(_placed(network, device))
    seen = [(n.name, n.norm, n.cell, n.seed, n.iteration) for n in networks]
    if double := [key for key in seen if seen.count(key) > 1]:
        raise StatsnormError(
            f"two networks are both called {double[0][0]!r} (norm {double[0][1]!r}, cell "
            f"{double[0][2]!r}); give them to two runs, or their checkpoints different cells"
        )
    return tuple(networks)


def load_output_vgg(
    config: ExtractConfig, networks: Sequence[Network], *, device: str
) -> OutputVgg | None:
    """Load the VGG of the output, or None if no network makes an image or none was asked for."""
    if config.vgg_of_output == "none" or not any(n.postprocess for n in networks):
        return None
    vggs = config.networks and [n for n in config.networks if n in ("vgg16", "vgg19")]
    weights = config.weights if config.vgg_of_output in vggs else None
    vgg = _placed(load_network(config.vgg_of_output, weights=weights), device)
    x = probe(config, device)
    require_runs(vgg, x)
    found = find_taps(vgg, x)
    chosen = select_taps(found, config.vgg_taps)
    return OutputVgg(network=vgg, taps=tuple(replace(t, kind="vgg_of_output") for t in chosen))


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
    surveys = [_Survey(config, network, x) for network in networks]
    _check_treatments(config, surveys)
    _check_taps(config, surveys)
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


def probe(config: ExtractConfig, device: str) -> Tensor:
    """Return one image of fixed noise at the size of the run, to find taps with."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, 3, config.size, config.size, generator=generator).to(device)


def tap_columns(tap: Tap) -> TapColumns:
    """Return the columns of `moments` that describe a tap."""
    return TapColumns(
        tap=tap.name,
        call=tap.call,
        tap_kind=tap.kind,
        depth=tap.depth,
        pixels=tap.pixels,
        by_construction=all(tap.by_construction),
    )


def tap_rows(variants: Variants) -> list[dict[str, Any]]:
    """Return the rows of taps.parquet, one a network, treatment, source and tap."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for variant in variants:
        read = [(variant.cell, tap) for tap in variant.taps]
        if variants.output and variant.network.postprocess:
            cell = variants.output.cell(variant.cell)
            read += [(cell, tap) for tap in variants.output.taps]
        for cell, tap in read:
            key = (cell.network, cell.norm, cell.treatment, cell.source, tap.name, tap.call)
            rows.setdefault(key, _tap_row(cell, tap))
    return list(rows.values())


def describe_variants(config: ExtractConfig, variants: Variants) -> dict[str, Any]:
    """Return the part of the hashed configuration that concerns the networks."""
    networks: dict[str, Any] = {}
    for variant in variants:
        cell = variant.cell
        name = " ".join(filter(None, [cell.network, cell.norm, cell.cell, str(cell.iteration)]))
        entry = networks.setdefault(
            name, {"sha256": [], "treatments": [], "indices": [], "taps": []}
        )
        for key, value in (
            ("sha256", variant.network.sha256),
            ("treatments", cell.treatment),
            ("indices", cell.index),
        ):
            if value not in entry[key]:
                entry[key].append(value)
        entry["taps"] = entry["taps"] or [tap.label for tap in variant.taps]
        if training := dict(variant.network.training):
            known = entry.setdefault("training", [])
            known += [training] if training not in known else []
    output = variants.output
    described = output and {
        "network": output.network.name,
        "sha256": output.network.sha256,
        "taps": [tap.label for tap in output.taps],
    }
    composed = any(variant.batch_statistics for variant in variants)
    return {
        "networks": networks,
        "vgg_of_output": described,
        "untrained": config.untrained,
        "bn_mode": ",".join(config.bn_modes),
        "batch_kind": ",".join(config.batch_kinds),
        "composed_batch_size": config.batch_size if composed else None,
        "precision": config.precision,
        **_describe_correlations(config, variants),
    }


def _describe_correlations(config: ExtractConfig, variants: Variants) -> dict[str, Any]:
    if not config.correlations:
        return {}  # the hash of a run without them is what it was before there were any
    taps = [tap for variant in variants for tap in variant.taps]
    taps += variants.output.taps if variants.output else ()
    names = dict.fromkeys(tap.label for tap in taps if tap.correlated)
    return {"correlations": {"channels": config.correlations, "taps": list(names)}}


class _Survey:
    """What an architecture offers, found once: random weights have the same taps."""

    def __init__(self, config: ExtractConfig, network: Network, x: Tensor) -> None:
        require_runs(network, x)
        self.network, self._x, self._patterns = network, x, config.taps
        found = normalisers(network, x)
        self.has_places = bool(found)
        self.normalisers = tuple(name for name, m in found.items() if norm_kind(m) not in _FIXED)
        self._taps = {"none": find_taps(network, x, also=config.taps)}
        self.conditional = conditional_normalisers(network, self.normalisers)
        self._seed = config.seed

    def fits(self, treatment: str) -> bool:
        """Return whether a treatment can be done; raise if it is none at all."""
        if treatment == "none":
            return True
        if treatment == "bn_train":
            return _has_bn(self.network)
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


def _batchings(
    config: ExtractConfig, network: Network, treatment: str
) -> tuple[tuple[str, str], ...]:
    """Return the (BN mode, kind of batch) pairs in which a treated network is run."""
    modes = ("train",) if treatment == "bn_train" else config.bn_modes
    if not _has_bn(network):
        modes = ("eval",)
    kinds = {"eval": config.batch_kinds[:1], "train": config.batch_kinds}
    return tuple((mode, kind) for mode in modes for kind in kinds[mode])


def _settled(config: ExtractConfig, network: Network, reference: Reference) -> Network:
    """Return a network whose fresh batch normalisers know a population, if eval mode asks them."""
    asked = network.population and "eval" in config.bn_modes
    return population_statistics(network, reference) if asked else network


def _variant(
    survey: _Survey,
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
    if train and _has_bn(treated):
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


def channels_last(network: Network) -> bool:
    """Return whether a network runs faster with the channels last in memory.

    On a CPU, 16 x 3 x 128 x 128, VGG-16: 0.8 against 1.4 s; instance normalisation has no such
    kernel, cin26: 0.7 against 0.5 s.
    """
    return network.norm == "none" and network.layout == "nchw"


def _placed(network: Network, device: str) -> Network:
    network.module.to(device)
    if channels_last(network):
        network.module.to(memory_format=torch.channels_last)
    return network


def _has_bn(network: Network) -> bool:
    batch_norm = torch.nn.modules.batchnorm._BatchNorm
    return any(isinstance(module, batch_norm) for module in network.module.modules())


def _indices(config: ExtractConfig, network: Network, *, only_first: bool) -> tuple[str, ...]:
    if not network.indices:
        return ("",)
    for index in config.indices:
        if index not in network.indices:
            raise unknown(f"index of network {network.name!r}:", index, network.indices)
    chosen = config.indices or network.indices[:1]
    return chosen[:1] if only_first else chosen


def _check_treatments(config: ExtractConfig, surveys: Sequence[_Survey]) -> None:
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


def _check_taps(config: ExtractConfig, surveys: Sequence[_Survey]) -> None:
    """Raise unless every pattern matches a tap of at least one network, and every network one."""
    select_taps([tap for survey in surveys for tap in survey.all_taps], config.taps)
    for survey in surveys:
        if not survey.taps(survey.network, "none"):
            raise StatsnormError(f"network {survey.network.name!r} has none of the taps asked for")


def _selected(found: Sequence[Tap], patterns: Sequence[str]) -> tuple[Tap, ...]:
    """Return the taps that match any of the patterns; a pattern may match none here."""
    chosen: set[Tap] = set()
    for pattern in patterns:
        try:
            chosen |= set(select_taps(found, [pattern]))
        except StatsnormError:  # another network has it: _check_taps made sure
            continue
    return tuple(tap for tap in found if tap in chosen)


def _tap_row(cell: NetworkCell, tap: Tap) -> dict[str, Any]:
    return {
        "network": cell.network,
        "norm": cell.norm,
        "treatment": cell.treatment,
        "source": cell.source,
        "tap": tap.name,
        "call": tap.call,
        "tap_kind": tap.kind,
        "depth": tap.depth,
        "module": tap.module,
        "module_type": tap.module_type,
        "channels": tap.channels,
        "height": tap.height,
        "width": tap.width,
        "layout": tap.layout,
        "drop_tokens": tap.drop_tokens,
        "eps": tap.eps,
        "by_construction": list(tap.by_construction),
    }
