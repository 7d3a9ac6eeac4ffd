"""Everything before the first shard: images found, networks loaded, conditions calibrated."""

from __future__ import annotations

import platform

from statsnorm.allocator import keep_freed_memory
from statsnorm.devices import arithmetic
from statsnorm.errors import StatsnormError
from statsnorm.extraction.describe import described
from statsnorm.extraction.feed import Feed
from statsnorm.extraction.loading import load_networks, load_output_vgg
from statsnorm.extraction.pilot import condition_parameters, reference_batches
from statsnorm.extraction.plan import ExtractConfig, plan_inputs
from statsnorm.extraction.shard import Job, content_wanted
from statsnorm.extraction.treated import plan_variants
from statsnorm.extraction.variants import Variants
from statsnorm.rundir import Run, config_hash


def prepare(config: ExtractConfig, *, device: str) -> tuple[Feed, Variants]:
    """Find images, load networks and generators, calibrate: everything before the first shard."""
    with arithmetic("fp32"):
        inputs = plan_inputs(config, device=device)
        networks = load_networks(config, device=device)
        output = load_output_vgg(config, networks, device=device)
        parameters = condition_parameters(config, inputs, device=device)
        feed = Feed(config=config, inputs=inputs, parameters=parameters)
        reference = reference_batches(feed, device=device)
        made = plan_variants(config, networks, reference=reference, device=device)
    variants = Variants(all=made, output=output)
    if config.correlations:
        most, taps = config.correlations, config.correlation_taps
        variants = variants.correlated(most, taps, seed=config.seed)
    return feed, variants


def prepare_job(config: ExtractConfig, run: Run, *, device: str) -> Job:
    """Prepare the job of a run that another process has opened.

    Raises
    ------
    StatsnormError
        If this process finds other images, weights or versions than the run was opened with.
    """
    keep_freed_memory()
    feed, variants = prepare(config, device=device)
    content = content_wanted(feed, variants)
    science, _ = described(feed, variants, content=content)
    if config_hash(science) != run.hash:
        raise StatsnormError(
            f"a worker on {platform.node()} would make another run than {run.path}: it does not "
            "find the same images, weights or versions"
        )
    return Job(run=run, feed=feed, variants=variants, device=device, with_content=content)
