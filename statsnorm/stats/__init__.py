"""Statistics on (images, styles, levels, channels) arrays; numpy and scipy only, loaded late."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from statsnorm.errors import unknown

NAMES: dict[str, tuple[str, ...]] = {
    "statsnorm.stats.blups": ("level_scores",),
    "statsnorm.stats.bootstrap": (
        "pigeonhole_bootstrap",
        "pigeonhole_removed",
        "pigeonhole_weights",
    ),
    "statsnorm.stats.components": (
        "BASE",
        "FACTORS",
        "component_replicates",
        "component_shares",
        "crossed_components",
        "style_leverage",
    ),
    "statsnorm.stats.differences": (
        "difference_from_replicates",
        "removed_difference_from_replicates",
    ),
    "statsnorm.stats.distances": (
        "energy_distance",
        "feature_divergence",
        "frechet",
        "group_distances",
        "median_bandwidth",
        "mmd",
        "standardise",
    ),
    "statsnorm.stats.effects": ("clopper_pearson", "hedges_gz"),
    "statsnorm.stats.equivalence": (
        "noninferiority_paired",
        "paired_t",
        "tost_paired",
        "welch_tost",
    ),
    "statsnorm.stats.fieller": ("explained_fraction", "fieller_interval"),
    "statsnorm.stats.fisher": ("fisher_ratio", "ledoit_wolf"),
    "statsnorm.stats.gaussian": ("gaussian_divergence", "gaussian_frechet"),
    "statsnorm.stats.inputs": ("is_constant",),
    "statsnorm.stats.jackknife": (
        "jackknife_replicates",
        "simultaneous_intervals",
        "two_way_jackknife",
    ),
    "statsnorm.stats.multiplicity": (
        "benjamini_hochberg",
        "benjamini_yekutieli",
        "holm",
        "intersection_union",
    ),
    "statsnorm.stats.oneway": ("nested", "one_way", "one_way_replicates"),
    "statsnorm.stats.permanova": ("permanova",),
    "statsnorm.stats.permdisp": ("permdisp",),
    "statsnorm.stats.permutation": (
        "block_permutation_test",
        "sign_flip_test",
        "simultaneous_band",
        "step_down_maxt",
    ),
    "statsnorm.stats.power": ("minimum_effect", "paired_power", "required_pairs"),
    "statsnorm.stats.removed": (
        "mean_removed_from_replicates",
        "removed_fraction",
        "removed_from_replicates",
        "removed_replicates",
    ),
    "statsnorm.stats.replicated": ("replicated_components",),
    "statsnorm.stats.scale_free": ("live_channels", "scale_free"),
    "statsnorm.stats.selectivity": (
        "selectivity",
        "selectivity_from_replicates",
        "selectivity_replicates",
    ),
    "statsnorm.stats.shapley": ("channel_statistics", "gram_split", "shapley_values"),
    "statsnorm.stats.survival": (
        "iterations_to_threshold",
        "log_rank",
        "restricted_mean",
        "restricted_mean_difference",
    ),
    "statsnorm.stats.traces": ("design_replicates", "trace_replicates"),
    "statsnorm.stats.trend": ("page_trend",),
    "statsnorm.stats.unbalanced": ("unbalanced_components", "unbalanced_replicates"),
    "statsnorm.stats.ustatistic": (
        "ustatistic_components",
        "ustatistic_replicates",
        "weighted_component",
    ),
    "statsnorm.probes": ("probe",),  # scikit-learn pulls pandas in: only when asked for
}
"""Home of every public name; a name is imported when it is first used."""

_HOME = {name: module for module, names in NAMES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(str(unknown("name in statsnorm.stats", name, _HOME)))
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__


class _Stats(ModuleType):
    """Keeps `stats.permanova` the function when its module of the same name is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and name in _HOME:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Stats
