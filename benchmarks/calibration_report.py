"""The report of the calibration: a pure function of its rows, so that it can be made again.

`inputs/rows.parquet` has one row a quantity; `calibration.json` says seed, real moments, code and
library versions. Everything else in the folder is rebuilt from these two.
"""

from __future__ import annotations

import fnmatch
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from calibration_figures import coverage_figure, size_figure

from statsnorm.report import provenance
from statsnorm.report.drawing import draw
from statsnorm.report.encode import csv_bytes, json_bytes, parquet_bytes, read_parquet, sha256
from statsnorm.report.model import Figure
from statsnorm.report.write import replace_directory

LAWS = ("gaussian", "t5", "real")
LIMIT = "limit"  # an assumption is broken on purpose: no bar, not counted
SHARES = ("coverage", "size", "power", LIMIT)
CHECKS = {
    "coverage": "Coverage of intervals",
    "size": "Size of tests",
    "bias": "Unbiasedness of variance components",
    "recovery": "Recovery of planted removed fractions",
    "exact": "What must hold exactly",
    "power": "Power",
    LIMIT: "Where an assumption fails: tests at 5 % without symmetry",
}
REASONS = Path(__file__).with_name("calibration_reasons.toml")
REPORTS = ", in reports"
INTERVALS = "intervals, 40 x "
DESIGNS = """\
Sizes are contents x styles x contrast levels. Effects of every factor are drawn independently,
correlated over 16 channels (4 shared latent variables and one of each channel's own), with
variances content 1, style 1, contrast .5, content x style .5, content x contrast .2, style x
contrast .2, three-way .1; before and after a treatment they correlate by .8. Laws: *gaussian*;
*t5*, the same with t-distributed latents of 5 degrees of freedom; *real*, effects drawn with
replacement from those that least squares finds in {real}. Removed fractions are planted by scaling
each factor's effects; unless said otherwise R_S .5, R_I .3, R_K .3. "In reports" is the interval
that analyses print (`statsnorm.removal.ratios`); where it covered exactly as that of
`statsnorm.stats` it has no line of its own."""
BARS = """\
Bars: 95 % intervals cover 93 to 97 % with 16 styles or more, and in all that has no styles; at
least 92 % with 8 styles; Fieller's at least 94 %; Clopper-Pearson at least 95 %; 90 % intervals 88
to 92 %. Size at most 5 % + 2 Monte-Carlo standard errors. Component estimates within 3 Monte-Carlo
standard errors of the truth, mean removed fractions within .02. Skewed differences break the null
of sign flips (symmetry), so there is no bar for them: what they do to a verdict is a limitation,
which the analysis of training curves prints where the differences of its blocks are skewed."""


def write_calibration(rows: pd.DataFrame, out: Path, *, seed: int, real: Mapping[str, Any]) -> None:
    """Write the report of `rows` as the folder `out`."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    about = {
        "seed": seed,
        "real": dict(real),
        "environment": provenance.environment(),
        "code": {path.name: sha256(path.read_bytes()) for path in sources},
    }
    replace_directory(out, build_calibration(rows, about))


def read_calibration(folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the rows and the origin that a report keeps."""
    rows = read_parquet((folder / "inputs/rows.parquet").read_bytes(), "rows")
    return rows.fillna({"law": ""}), json.loads((folder / "calibration.json").read_bytes())


def build_calibration(rows: pd.DataFrame, about: Mapping[str, Any]) -> dict[str, bytes]:
    """Return every file of the report: path below the folder -> bytes."""
    kept = parquet_bytes(rows)
    rows = read_parquet(kept, "rows").fillna({"law": ""})  # rounded as they are stored
    shown = _without_twins(rows)
    files = {"inputs/rows.parquet": kept, "calibration.json": json_bytes(dict(about))}
    for check in CHECKS:
        if len(mine := rows[rows["check"] == check]):
            files[f"tables/{check}.csv"] = csv_bytes(mine.drop(columns="check"))
    figures = list(_figures(shown))
    for name, figure, table in figures:
        own = {"coverage_figure": coverage_figure, "size_figure": size_figure}
        drawn = draw(figure, table, own=own)
        files[f"figures/{name}.svg"], files[f"figures/{name}.png"] = drawn.svg, drawn.png
    captions = {name: figure.caption for name, figure, _ in figures}
    files["report.md"] = _page(rows, about, captions).encode()
    return dict(sorted(files.items()))


def _without_twins(rows: pd.DataFrame) -> pd.DataFrame:
    """Leave out what reports print where it covered exactly as the interval of `stats` did."""
    key = ["check", "title", "quantity"]
    reports = rows["quantity"].str.endswith(REPORTS)
    twin = rows.assign(quantity=rows["quantity"].str.removesuffix(REPORTS))
    base = rows[~reports].set_index([*key, "law"])["value"]
    same = [
        bool(r) and base.get(tuple(k), None) == v
        for r, k, v in zip(
            reports, twin[[*key, "law"]].to_numpy().tolist(), rows["value"], strict=True
        )
    ]
    whole = rows.assign(same=same).groupby(key)["same"].transform("all")
    return rows[~whole]


def _figures(rows: pd.DataFrame) -> Iterator[tuple[str, Figure, pd.DataFrame]]:
    coverage = rows[(rows["check"] == "coverage") & (rows["law"] != "")]
    of_removal = coverage["title"].str.startswith(INTERVALS)
    wanted = (
        (
            "coverage_removed",
            "coverage_figure",
            coverage[of_removal],
            "Coverage of 95 % intervals around what is removed, by number of styles.",
        ),
        (
            "coverage_other",
            "coverage_figure",
            coverage[~of_removal & ~coverage["quantity"].str.contains("without an end")],
            "Coverage of all other intervals; those of equivalence tests are 90 % intervals.",
        ),
        ("size", "size_figure", rows[rows["check"] == "size"], "Size of tests at nominal 5 %."),
    )
    for name, draws, table, caption in wanted:
        if len(table):
            text = (
                f"{caption} Bars are +- 2 Monte-Carlo standard errors; grey: where they must lie."
            )
            figure = Figure(name=name, draw=draws, table="rows", caption=text, alt=caption)
            yield name, figure, table.reset_index(drop=True)


def _page(rows: pd.DataFrame, about: Mapping[str, Any], captions: Mapping[str, str]) -> str:
    real = about["real"]
    origin = (
        f"the log sd of channels at VGG-16 {real['tap']} of 24 photographs x 16 styles of cin26 x "
        f"5 gains ({real['shape']} before 16 channels are picked evenly)"
        if real
        else "a run (not made here)"
    )
    parts = ["# Calibration", *summary(rows), *_missed(rows)]
    parts += [f"![{text}](figures/{name}.svg)\n\n*{text}*" for name, text in captions.items()]
    for check, title in CHECKS.items():
        mine = _without_twins(rows[rows["check"] == check])
        if len(mine):
            parts += [f"## {title}", _table(mine, check)]
    replicates = ", ".join(f"{n}" for n in sorted(set(rows["replicates"]), reverse=True))
    parts += [
        "## How it was made",
        DESIGNS.format(real=origin),
        BARS,
        f"Replicates: {replicates} (the fewer ones: whole analyses). Seed {about['seed']}, one "
        "stream a cell. `make calibrate` makes all of it again; versions, code and the hash of the "
        "real moments stand in [calibration.json](calibration.json), every number in "
        "[tables/](tables/).",
    ]
    return "\n\n".join(parts) + "\n"


def summary(rows: pd.DataFrame) -> list[str]:
    """Return the findings as sentences."""
    barred = rows[rows["check"] != LIMIT]
    text = [f"**{int(barred['passed'].sum())} of {len(barred)} numbers lie within their bars.**"]
    many = rows[(rows["check"] == "coverage") & rows["title"].str.contains("x 16 x|x 24 x")]
    many = many[~many["quantity"].str.contains("without an end")]
    few = rows[(rows["check"] == "coverage") & rows["title"].str.contains("x 8 x")]
    few = few[~few["quantity"].str.contains("without an end")]
    for styles, mine in (("16 or more styles", many), ("8 styles", few)):
        if len(mine):
            text.append(
                f"- 95 % intervals of designs with {styles}: coverage "
                f"{100 * mine['value'].min():.1f} to {100 * mine['value'].max():.1f} %, median "
                f"{100 * mine['value'].median():.1f} % ({len(mine)} quantities; "
                f"{int(mine['passed'].sum())} within their bars)."
            )
    sizes = rows[rows["check"] == "size"]
    if len(sizes):
        text.append(
            f"- Tests at 5 %: size at most {100 * sizes['value'].max():.1f} % "
            f"({len(sizes)} tests and laws; {int(sizes['passed'].sum())} within their bars)."
        )
    text += [*_limits(rows), *_pipeline(rows)]
    return ["\n".join([text[0], "", *text[1:]])]


def _limits(rows: pd.DataFrame) -> Iterator[str]:
    limits = rows[rows["check"] == LIMIT]
    for title, mine in limits.groupby("title", sort=False):
        sizes = "; ".join(f"{r['quantity']} {_value(r)}" for r in mine.to_dict("records"))
        yield f"- Limitation, {title} (exponential less its mean), at 5 %: {sizes}."


def _pipeline(rows: pd.DataFrame) -> Iterator[str]:
    null = rows[(rows["check"] == "exact") & rows["quantity"].str.contains("supported")]
    for r in null.to_dict("records"):
        what = f"{r['value']:g} {r['quantity']} in {r['replicates']} runs"
        yield f"- {r['title'].capitalize()}: {what}."
    for r in rows[rows["check"] == "recovery"].to_dict("records"):
        law = f", {r['law']}" if r["law"] else ""
        yield (
            f"- {r['quantity']} ({r['title']}{law}): mean error {r['value']:+.4f} "
            f"+- {r['mc_se']:.4f}."
        )


def _missed(rows: pd.DataFrame) -> list[str]:
    """Return the list of rows outside their bars, each with its reason."""
    reasons = tomllib.loads(REASONS.read_text(encoding="utf-8"))["reason"]
    lines = []
    for r in rows[~rows["passed"].astype(bool)].to_dict("records"):
        why = [
            x["why"]
            for x in reasons
            if fnmatch.fnmatchcase(r["title"], x["title"])
            and fnmatch.fnmatchcase(r["quantity"], x["quantity"])
            and r["check"] == x["check"]
        ]
        law = f", {r['law']}" if r["law"] else ""
        lines.append(
            f"- {r['check']}, {r['title']}{law}, {r['quantity']}: {_value(r)} (bar {_bar(r)}). "
            f"{why[0] if why else 'No reason is known.'}"
        )
    return ["## Outside their bars", "\n".join(lines)] if lines else []


def _table(rows: pd.DataFrame, check: str) -> str:
    """Return one line a quantity with a column a law; a number outside its bar is bold."""
    laws = [law for law in (*LAWS, "") if (rows["law"] == law).any()]
    names = [law or "value" for law in laws]
    lines = [f"| | | {' | '.join(names)} | bar |", f"| --- | --- |{' ---: |' * len(laws)} --- |"]
    for (title, quantity), mine in rows.groupby(["title", "quantity"], sort=False):
        by = {r["law"]: r for r in mine.to_dict("records")}
        cells = [_marked(by[law]) if law in by else "" for law in laws]
        bar = "" if check in ("bias", LIMIT) else _bar(next(iter(by.values())))
        lines.append(f"| {title} | {quantity} | {' | '.join(cells)} | {bar} |")
    return "\n".join(lines)


def _marked(row: Mapping[str, Any]) -> str:
    return _value(row) if row["passed"] else f"**{_value(row)}**"


def _value(row: Mapping[str, Any]) -> str:
    if row["check"] in SHARES:
        return f"{100 * row['value']:.1f} ± {100 * row['mc_se']:.1f} %"
    if row["check"] == "exact":
        return f"{row['value']:.2g}"
    return f"{row['value']:+.4f} ± {row['mc_se']:.4f}"


def _bar(row: Mapping[str, Any]) -> str:
    unit = 100.0 if row["check"] in SHARES else 1.0
    sign = " %" if unit > 1 else ""
    low, high = row["low"] * unit, row["high"] * unit
    if low == float("-inf"):
        return f"at most {high:.3g}{sign}"
    return f"at least {low:.3g}{sign}" if high == float("inf") else f"{low:.3g} to {high:.3g}{sign}"
