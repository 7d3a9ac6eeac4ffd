"""What a run says of itself: its hashed configuration, the files it will hold, its taps."""

from __future__ import annotations

from typing import Any

from statsnorm.cells import NetworkCell
from statsnorm.extraction.feed import Feed
from statsnorm.extraction.plan import ExtractConfig, describe_inputs
from statsnorm.extraction.variants import Variants
from statsnorm.rows import TapColumns
from statsnorm.rundir import Expected
from statsnorm.taps import Tap


def described(feed: Feed, variants: Variants, *, content: bool) -> tuple[dict[str, Any], Expected]:
    """Return the scientific configuration of a run and the files that it will hold."""
    config = feed.config
    science = {
        "kind": "extract",
        **describe_inputs(config, feed.inputs),
        **describe_variants(config, variants),
        "condition_parameters": dict(feed.parameters),
        "invariance": config.invariance,
    }
    files = ["taps.parquet", "levels.parquet", *(["invariance.parquet"] * config.invariance)]
    expected = Expected(
        shards=-(-len(feed.inputs.refs) // config.shard_size),
        sharded=(
            *("images", "skipped", "outside"),
            *(("content",) if content else ()),
            *(("correlations",) if config.correlations else ()),
            "moments",
        ),
        files=tuple(files),
    )
    return science, expected


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
