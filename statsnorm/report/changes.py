"""What a report was made from, and what of it is otherwise now: inputs, code, rules, runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from statsnorm.decisions import load_plan
from statsnorm.engines.tasks import HERE, Engine
from statsnorm.report.compare import Difference, compare_files
from statsnorm.report.discover import Analysis
from statsnorm.report.encode import sha256, slug
from statsnorm.report.inputs import PLAN, Inputs, collect
from statsnorm.shipped import shipped_plan_path

PLANS = ("plan.toml", PLAN)  # the shipped rules, and those beside the report


def of_code(inputs: Inputs, analyses: Sequence[Analysis]) -> list[Difference]:
    """Return the analyses whose source is not the one that the report was written with."""
    recorded = {entry["name"]: entry["sha256"] for entry in inputs.manifest["analyses"]}
    return [
        Difference(
            f"analysis {a.name}",
            "",
            f"changed since the report was written ({recorded[a.name][:12]} -> {a.sha256[:12]})",
        )
        for a in analyses
        if a.sha256 != recorded[a.name]
    ]


def of_plan(inputs: Inputs) -> list[Difference]:
    """Return whether the shipped decision rules are others now."""
    if not inputs.manifest["plan"]["shipped"]:
        return []
    then, now = sha256(inputs.plan), load_plan(shipped_plan_path()).sha256
    if then == now:
        return []
    return [
        Difference(
            PLANS[0], "", f"changed since the report was written ({then[:12]} -> {now[:12]})"
        )
    ]


def of_runs(
    inputs: Inputs,
    runs: Sequence[str | Path],
    analyses: Sequence[Analysis],
    *,
    exact: bool,
    progress: Callable[[str], None],
    engine: Engine = HERE,
) -> tuple[Inputs, list[Difference]]:
    """Make the inputs again from the runs; return those that now hold, and what changed."""
    again = collect(
        runs,
        analyses,
        seed=inputs.manifest["seed"],
        plan=shipped_plan_path(),
        plan_shipped=inputs.manifest["plan"]["shipped"],
        progress=progress,
        engine=engine,
    )
    then, now = (_tables(side) for side in (inputs, again))
    differences = compare_files(then, now, exact=exact)
    runs_then, runs_now = (_by_hash(side.manifest["runs"]) for side in (inputs, again))
    for run in sorted(runs_then.keys() | runs_now.keys()):
        differences += _of_run(run, runs_then.get(run), runs_now.get(run))
    changed = {difference.file for difference in differences}
    files = {name: content for name, content in now.items() if name in changed}
    if not files:
        return inputs, differences
    manifest = {**inputs.manifest, "analyses": again.manifest["analyses"]}
    return replace(inputs, manifest=manifest, files={**inputs.files, **files}), differences


def explained(difference: Difference, inputs: Inputs, causes: Sequence[Difference]) -> Difference:
    """Return a difference with the names of the changes that it may follow from.

    A table or figure follows its own analysis, that one's inputs, and the plan; pages and joint
    tables follow all.
    """
    owners = {
        entry["name"]: {f"analysis {entry['name']}", *PLANS, *(t["file"] for t in entry["tables"])}
        for entry in inputs.manifest["analyses"]
    }
    folder, _, name = difference.file.partition("/")
    mine = [
        found
        for owner, found in owners.items()
        if folder in ("tables", "figures") and name.startswith(f"{slug(owner)}.")
    ]
    names = dict.fromkeys(cause.file for cause in causes)
    because = [n for n in names if not mine or n.startswith("run ") or n in mine[0]]
    return replace(difference, because=tuple(because))


def _tables(inputs: Inputs) -> dict[str, bytes]:
    return {name: c for name, c in inputs.files.items() if name.endswith(".parquet")}


def _by_hash(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {run["hash"]: run for run in runs}


def _of_run(
    run: str, then: Mapping[str, Any] | None, now: Mapping[str, Any] | None
) -> list[Difference]:
    if then is None or now is None:
        what = "was not given" if now is None else "was given but is not of this report"
        name = (then or now or {}).get("name", "")
        return [Difference(f"run {name}", f"configuration {run[:12]}", what)]
    changed = [
        name
        for name in sorted(then["tables"].keys() | now["tables"].keys())
        if then["tables"].get(name) != now["tables"].get(name)
    ]
    return [Difference(f"run {then['name']}", name, "is another table now") for name in changed]
