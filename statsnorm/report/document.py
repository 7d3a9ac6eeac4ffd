"""The order of a report: what stands on the first screen, in which section, under which number.

Everything here is text and numbers already decided by an analysis; nothing is computed but the
order, the anchors and the choice of what the first screen has room for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from statsnorm.decisions import Plan
from statsnorm.report import literature, provenance
from statsnorm.report.encode import cell, slug
from statsnorm.report.inputs import Inputs
from statsnorm.report.model import Claim, Figure
from statsnorm.report.views import (
    DECISION_COLUMNS,
    AnalysisView,
    ClaimView,
    DecisionGroup,
    Document,
    FigureView,
    Shown,
    TableView,
    figure_title,
    frame_view,
    rows_view,
    title_of,
)

FIRST_SCREEN_CLAIMS = 5
FIRST_SECTIONS = ("manipulation", "invariance")  # analyses with a section of their own


def make_document(
    inputs: Inputs, plan: Plan, shown: Sequence[Shown], failed: Mapping[str, str]
) -> Document:
    """Put the reports of all analyses into the order of a page."""
    anchors: Counter[str] = Counter()
    picture = _picture(shown)
    numbers = _numbers(shown, picture)
    views = {item.name: _analysis(item, numbers, anchors) for item in shown}
    claims = tuple(view for item in shown for view in views[item.name].claims)
    top = sorted(claims, key=lambda view: not view.claim.family)[:FIRST_SCREEN_CLAIMS]
    manifest = inputs.manifest
    left_out = tuple(_left_out(manifest, shown))
    headlines = tuple(i.report.headline for i in shown if i.report.headline)
    return Document(
        title=_runs([run["name"] for run in manifest["runs"]]),
        headlines=headlines or (_tally(claims, left_out),),
        scope=_scope([i for i in shown if i.report.headline] or shown),
        whole_scope=_scope(shown),
        gates=tuple((gate, item.name) for item in shown for gate in item.report.gates),
        top=tuple(top),
        claims=claims,
        picture=_find(views, picture),
        decisions=tuple(group for item in shown for group in _decisions(item, views[item.name])),
        checks=tuple(v for n, v in views.items() if n == "manipulation"),
        invariances=tuple(v for n, v in views.items() if n == "invariance"),
        results=tuple(v for n, v in views.items() if n not in FIRST_SECTIONS),
        literature=rows_view(
            "literature", "Literature", list(literature.ROWS), literature.Row._fields
        ),
        left_out=left_out,
        failed=failed,
        skipped=frame_view("skipped", "Images left out", inputs.skipped, "inputs/skipped"),
        manifest=manifest,
        plan=plan,
        plan_note=provenance.plan_note(plan.sha256, manifest["runs"]),
        origin=_origin(manifest),
    )


def _analysis(
    item: Shown, numbers: Mapping[tuple[str, str], int], anchors: Counter[str]
) -> AnalysisView:
    report, base = item.report, f"a-{slug(item.name)}"
    tables = {
        name: frame_view(
            f"{base}-t-{slug(name)}",
            title_of(name),
            frame,
            f"tables/{slug(item.name)}.{slug(name)}",
        )
        for name, frame in item.tables.items()
    }
    figures = [
        _figure(item, figure, numbers[item.name, figure.name], tables[figure.table])
        for figure in report.figures
    ]
    hidden = set(report.appendix)
    return AnalysisView(
        id=base,
        report=report,
        claims=tuple(_claim(claim, item.name, anchors) for claim in report.claims),
        figures=tuple(
            f for f, src in zip(figures, report.figures, strict=True) if src.name not in hidden
        ),
        tables=tuple(view for name, view in tables.items() if name not in hidden),
        appendix_figures=tuple(
            f for f, src in zip(figures, report.figures, strict=True) if src.name in hidden
        ),
        appendix_tables=tuple(view for name, view in tables.items() if name in hidden),
    )


def _figure(item: Shown, figure: Figure, number: int, table: TableView) -> FigureView:
    return FigureView(
        id=f"a-{slug(item.name)}-f-{slug(figure.name)}",
        number=number,
        title=figure_title(figure.name),
        caption=figure.caption,
        alt=figure.alt,
        drawing=item.drawings[figure.name],
        stem=f"figures/{slug(item.name)}.{slug(figure.name)}",
        table=table,
    )


def _claim(claim: Claim, analysis: str, anchors: Counter[str]) -> ClaimView:
    base = f"claim-{slug(claim.hypothesis)}"
    anchors[base] += 1
    number = anchors[base]
    return ClaimView(id=base if number == 1 else f"{base}-{number}", claim=claim, analysis=analysis)


def _picture(shown: Sequence[Shown]) -> tuple[str, str]:
    """Return (analysis, figure) of the first screen: of the analysis with the headline, if any."""
    for item in sorted(shown, key=lambda item: not item.report.headline):
        names = [figure.name for figure in item.report.figures]
        if item.report.picture in names:
            return item.name, item.report.picture
        if visible := [name for name in names if name not in item.report.appendix]:
            return item.name, visible[0]
    return "", ""


def _numbers(shown: Sequence[Shown], picture: tuple[str, str]) -> dict[tuple[str, str], int]:
    """Return figure numbers in the order of the page: picture, sections, appendix."""
    rank = {name: i for i, name in enumerate(FIRST_SECTIONS)}
    ordered = sorted(shown, key=lambda item: rank.get(item.name, len(rank)))
    keys = [
        (item.name, figure.name)
        for appendix in (False, True)
        for item in ordered
        for figure in item.report.figures
        if (figure.name in item.report.appendix) == appendix
    ]
    return {
        key: i for i, key in enumerate(dict.fromkeys([picture, *keys]), 1 if any(picture) else 0)
    }


def _find(views: Mapping[str, AnalysisView], picture: tuple[str, str]) -> FigureView | None:
    analysis, name = picture
    if not name:
        return None
    view = views[analysis]
    wanted = f"{view.id}-f-{slug(name)}"
    return next(f for f in (*view.figures, *view.appendix_figures) if f.id == wanted)


def _scope(shown: Sequence[Shown]) -> tuple[tuple[str, str], ...]:
    merged: dict[str, dict[str, None]] = {}
    for item in shown:
        for key, value in item.report.scope.items():
            merged.setdefault(key, {})[str(value)] = None
    return tuple((key, "; ".join(values)) for key, values in merged.items())


def _runs(names: Sequence[str]) -> str:
    if len(names) > 4:
        return f"{', '.join(names[:3])} and {len(names) - 3} further runs"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _tally(claims: Sequence[ClaimView], left_out: Sequence[object]) -> str:
    if not claims:
        more = "; “Left out” says what each analysis needs" if left_out else ""
        return f"No claim could be judged from these tables{more}."
    count = Counter(view.claim.verdict for view in claims)
    parts = ", ".join(f"{n} {verdict}" for verdict, n in sorted(count.items()))
    return f"{len(claims)} {'claim' if len(claims) == 1 else 'claims'} judged: {parts}."


def _decisions(item: Shown, view: AnalysisView) -> list[DecisionGroup]:
    """Return the judged rows of `effects` by hypothesis; a claim without any keeps one row."""
    effects = item.effects[item.effects["verdict"].map(cell) != ""]
    rows: dict[str, list[tuple[str, ...]]] = {}
    for effect in effects.to_dict("records"):
        rows.setdefault(cell(effect["hypothesis"]), []).append(
            _decision({str(k): v for k, v in effect.items()})
        )
    first: dict[str, ClaimView] = {}
    for claim in view.claims:
        first.setdefault(claim.claim.hypothesis, claim)
        blank = (claim.claim.verdict, *("",) * (len(DECISION_COLUMNS) - 1))
        rows.setdefault(claim.claim.hypothesis, [blank])
    return [
        DecisionGroup(
            hypothesis=hypothesis,
            claim=first[hypothesis].claim.claim if hypothesis in first else "",
            anchor=first[hypothesis].id if hypothesis in first else "",
            rows=tuple(found),
        )
        for hypothesis, found in rows.items()
    ]


def _decision(effect: Mapping[str, Any]) -> tuple[str, ...]:
    estimate, low, high = (cell(effect[k], 3) for k in ("estimate", "low", "high"))
    interval = f"[{low or '−∞'}, {high or '∞'}]" if low or high else "[no interval]"
    return (
        cell(effect["verdict"]),
        cell(effect["statistic"]),
        cell(effect["tap"]),
        f"{estimate} {interval}" if estimate else "",
        cell(effect["threshold"], 3),
        cell(effect["p_adjusted"], 3),
        cell(effect["n_units"]),
    )


def _left_out(manifest: Mapping[str, Any], shown: Sequence[Shown]) -> list[tuple[str, str]]:
    rows = [(a["name"], a["left_out"]) for a in manifest["analyses"] if a["left_out"]]
    return rows + [(item.name, reason) for item in shown for reason in item.report.left_out]


def _origin(manifest: Mapping[str, Any]) -> tuple[TableView, ...]:
    runs = manifest["runs"]
    tables = [
        (run["name"], name, str(t["files"]), str(t["rows"]), str(t["bytes"]), t["sha256"])
        for run in runs
        for name, t in run["tables"].items()
    ]
    hashes = [(run["name"], *pair) for run in runs for pair in provenance.weights(run)]
    analyses = [
        (
            a["name"],
            "statsnorm" if a["shipped"] else "own file",
            a["sha256"],
            t["file"],
            str(t["rows"]),
        )
        for a in manifest["analyses"]
        for t in a["tables"] or [{"file": "", "rows": 0}]
    ]
    environment = manifest["environment"]
    versions = [(name, v, "report") for name, v in sorted(environment["libraries"].items())]
    for run in runs:
        for execution in run["executions"]:
            where = f"{run['name']} on {execution.get('device', 'an unrecorded device')}"
            found = execution.get("versions", {})
            versions += [(str(k), str(v), where) for k, v in sorted(found.items())]
    return (
        rows_view(
            "p-runs",
            "Tables of the runs",
            tables,
            ("run", "table", "files", "rows", "bytes", "sha256"),
        ),
        rows_view("p-hashes", "Weights and data", hashes, ("run", "what", "sha256")),
        rows_view(
            "p-analyses",
            "Analyses and their inputs",
            analyses,
            ("analysis", "from", "sha256", "input", "rows"),
        ),
        rows_view("p-versions", "Library versions", versions, ("library", "version", "used by")),
    )
