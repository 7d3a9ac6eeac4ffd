"""Pages that are made from the code: the table reference, and the list of analyses."""

from __future__ import annotations

import ast
import csv
from pathlib import Path
from typing import Any

from statsnorm.cells import MEANINGS as KEYS
from statsnorm.report.discover import ORDER
from statsnorm.report.model import EFFECT_COLUMNS
from statsnorm.tables import SCHEMA_VERSION, SCHEMAS

ROOT = Path(__file__).resolve().parents[1]

MEANINGS: dict[str, str] = {
    **KEYS,
    "image": "content identity: the path below the source",
    "tap": "name of the place, e.g. `relu4_1`, `res.2.1.norm.in`",
    "call": "n-th run of that module in one pass",
    "tap_kind": "input, pre_norm, post_norm, post_act, next_pre_norm, residual_sum, output, "
    "vgg_of_output, module",
    "depth": "order in which the taps are reached",
    "pixels": "pixels (or tokens) that mean and variance are over",
    "by_construction": "true where a normaliser fixes the moments (moments: of all channels; taps: "
    "the mask by channel)",
    "mean": "mean over pixels, one a channel",
    "var": "population variance over pixels (divided by their number), one a channel",
    "channels": "how many channels (taps), or which ones (correlations)",
    "correlation": "correlations between `channels` over pixels, upper triangle by rows",
    "block": "target style and seed that all cells of a block share",
    "target": "the target style",
    "split": "train: the minibatch; heldout: a fixed set",
    "style_loss": "style loss, before its weight",
    "content_loss": "content loss, before its weight",
    "total_loss": "what the optimiser saw",
    "lr": "learning rate",
    "seconds": "since the cell began; not part of any hash",
    "module": "dotted name of the module",
    "module_type": "its class",
    "height": "of the activation",
    "width": "of the activation, or of the image file",
    "layout": "nchw, nhwc or tokens",
    "drop_tokens": "class and register tokens that were left out",
    "eps": "of the normaliser at the tap; nan elsewhere",
    "parameter": "name of a parameter of the level: gain, offset, gamma, ...",
    "value": "its value",
    "sha256": "of the image file's bytes",
    "path": "where the file lay",
    "stage": "find, decode, resize or condition",
    "reason": "what went wrong, in one line",
    "distance": "relative squared feature distance at relu4_2 to the image's own original",
    "random_distance": "the same to another image's original; null where there is none",
    "outside": "share of the input's values (channels x pixels) below 0 or above 1, kept so",
    "least": "the least value of the input",
    "greatest": "the greatest",
    "scope": "first layer or output",
    "transform": "what was done to the input",
    "dtype": "of the arithmetic",
    "eps_mode": "as trained, or 0",
    "padding": "of the first convolution",
    "relative_change": "|change| / |output|, L2",
    "ratio_observed": "ratio of output sds, where a formula exists",
    "ratio_formula": "sqrt((v + eps) / (v + eps / g^2))",
    "must": "hold or fail",
}


def write(folder: Path) -> None:
    """Write the generated pages below the documentation's folder."""
    (folder / "tables.md").write_text(tables_page(), encoding="utf-8")
    (folder / "conditions.md").write_text(conditions_page(), encoding="utf-8")
    (folder / "analyses.md").write_text(analyses_page(), encoding="utf-8")
    (folder / "precision-table.md").write_text(precision_table(), encoding="utf-8")


def tables_page() -> str:
    """Return the table reference: every column of every schema, its type and meaning."""
    parts = [
        "# Tables\n",
        f"Schema version {SCHEMA_VERSION}, in the footer of every file with the run's hash. Key "
        "columns are plain strings, so row-group statistics work: a filter on `tap` reads one row "
        "group. This page is generated from `statsnorm.tables`.\n",
    ]
    for name, schema in SCHEMAS.items():
        parts += [f"## {name}\n", "| column | type | meaning |", "|---|---|---|"]
        parts += [
            f"| `{field.name}` | {_type(field)} | {_meaning(name, field.name)} |"
            for field in schema
        ]
        parts.append("")
    columns = ", ".join(f"`{name}`" for name in EFFECT_COLUMNS)
    parts += ["## effects\n", f"The result table of every report: {columns}.\n"]
    return "\n".join(parts)


def _type(field: Any) -> str:
    text = str(field.type).replace("<element: ", "&lt;").replace(" not null>", "&gt;")
    return text + (", nullable" if field.nullable else "")


def _meaning(table: str, column: str) -> str:
    """Return what a column means; a column without a meaning is an error of ours."""
    own = {"iteration": "recorded iteration", "condition": "of the training images"}
    if table == "curves" and column in own:
        return own[column]
    return MEANINGS[column].replace("|", "\\|")


def conditions_page() -> str:
    """Return the table of conditions that stands in the module that makes them."""
    path = ROOT / "statsnorm" / "images" / "conditions.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return f"# Conditions\n\n{text}\n"


def analyses_page() -> str:
    """Return one section an analysis: its question, and its figure in a committed report."""
    parts = [
        "# Analyses\n",
        "One script a question in `analyses/`. `statsnorm report` runs all that the tables allow. "
        "This page is generated from the scripts.\n",
    ]
    paths = {path.stem: path for path in sorted((ROOT / "analyses").glob("[a-z]*.py"))}
    for path in (paths[name] for name in [*ORDER, *sorted(paths.keys() - set(ORDER))]):
        question = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        first, _, rest = question.partition("\n")
        parts += [f"## {path.stem}\n", f"**{first}**\n", rest.strip() + "\n"]
        if figure := _figure(path.stem):
            report = figure.parents[1].name
            parts += [
                f"![{first}](../reports/{report}/figures/{figure.name})\n",
                f"From the committed report `reports/{report}`.\n",
            ]
    return "\n".join(parts)


def _figure(analysis: str) -> Path | None:
    """Return the first figure that a committed report has of an analysis."""
    found = sorted(
        path
        for folder in sorted((ROOT / "reports").iterdir())
        if (folder / "provenance.json").exists() and folder.name != "demo"
        for path in (folder / "figures").glob(f"{analysis}.*.svg")
    )
    return found[0] if found else None


def precision_table() -> str:
    """Return the errors of each precision at the worst tap of each network, by device."""
    parts = []
    for path in sorted((ROOT / "reports" / "benchmarks").glob("precision-*.csv")):
        device = path.stem.removeprefix("precision-")
        if device.endswith("-gates"):
            continue
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        worst: dict[tuple[str, str, str], dict[str, str]] = {}
        for row in rows:
            key = (row["network"], row["moment"], row["precision"])
            if key not in worst or float(row["p95"]) > float(worst[key]["p95"]):
                worst[key] = row
        parts += [
            f"On {device.upper()}, relative error against float64, at the tap where the 95th "
            "percentile over images and channels is largest:\n",
            "| network | moment | precision | tap | median | 95 % | all finite |",
            "|---|---|---|---|---|---|---|",
        ]
        parts += [
            f"| {r['network']} | {r['moment']} | {r['precision']} | `{r['tap']}` | {r['median']} "
            f"| {r['p95']} | {'yes' if r['finite'] == 'True' else 'no'} |"
            for r in worst.values()
        ]
        parts.append("")
    return "\n".join(parts)
