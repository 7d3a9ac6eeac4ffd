"""Verifying a report: equal, or which file, sentence, number, figure and input differs."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest
from click.testing import CliRunner
from report_cases import ANALYSIS, PICKY, write_analysis, write_run

from statsnorm.cli.verify import verify as command
from statsnorm.errors import SchemaError, StatsnormError
from statsnorm.report.compare import compare_files
from statsnorm.report.encode import json_bytes, parquet_bytes, sha256
from statsnorm.report.inputs import MANIFEST
from statsnorm.report.rebuild import rebuild
from statsnorm.report.verification import verify
from statsnorm.report.write import write_report


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify")
    run = write_run(folder / "run")
    own = [write_analysis(folder / "fake.py"), write_analysis(folder / "picky.py", PICKY)]
    write_report(run, out=folder / "report", analyses=own, seed=5)
    return folder / "report", run, own


@pytest.fixture
def copy(made, tmp_path):
    report, run, own = made
    return shutil.copytree(report, tmp_path / "report"), run, own


def found(result) -> dict[str, str]:
    return {d.file: f"{d.where}: {d.what}" for d in result.differences}


def test_a_fresh_report_is_equal_with_and_without_its_run(made):
    report, run, own = made
    for runs in ((), run):
        result = verify(report, runs, analyses=own)
        assert result.equal, str(result)
        assert result.exact
        assert result.files == len([p for p in report.rglob("*") if p.is_file()])
        assert "equal" in str(result)


def test_a_changed_sentence_is_quoted(copy):
    report, _, own = copy
    path = report / "report.md"
    path.write_text(path.read_text().replace("65.0 % of style", "95.0 % of style"))
    differences = found(verify(report, analyses=own))
    assert list(differences) == ["report.md"]
    assert "95.0 % of style" in differences["report.md"]
    assert "-> '" in differences["report.md"]


def test_a_changed_sentence_of_the_page_is_quoted_without_its_markup(copy):
    report, _, own = copy
    path = report / "report.html"
    path.write_text(path.read_text().replace("R<sub>S</sub> = 0.65", "R<sub>S</sub> = 0.75"))
    differences = found(verify(report, analyses=own))
    assert list(differences) == ["report.html"]
    assert "R S = 0.75" in differences["report.html"]


def test_a_changed_number_is_named_with_row_and_column(copy):
    report, _, own = copy
    path = report / "tables" / "fake.removed.parquet"
    table = pd.read_parquet(path)
    table.loc[2, "removed"] += 1e-6
    path.write_bytes(parquet_bytes(table))
    differences = found(verify(report, analyses=own))
    assert list(differences) == ["tables/fake.removed.parquet"]
    assert "column 'removed', row 2: 0.600001 -> 0.6" in differences["tables/fake.removed.parquet"]


def test_a_changed_figure_and_stray_and_missing_files_are_named(copy):
    report, _, own = copy
    svg = report / "figures" / "fake.by_tap.svg"
    svg.write_text(svg.read_text().replace("<path", "<path ", 1))
    (report / "tables" / "mine.csv").write_text("a\n")
    (report / "tables" / "gates.csv").unlink()
    differences = found(verify(report, analyses=own))
    figure = ": figure 1 (By tap, from tables/fake.removed) is drawn otherwise"
    assert differences == {
        "figures/fake.by_tap.svg": figure,
        "tables/gates.csv": ": is missing",
        "tables/mine.csv": ": does not belong to the report",
    }


def test_a_changed_input_is_named_first_and_what_follows_from_it(copy):
    report, _, own = copy
    name = "inputs/fake.removed.parquet"
    (report / name).write_bytes(parquet_bytes(pd.read_parquet(report / name).assign(removed=0.5)))
    result = verify(report, analyses=own)
    assert result.differences[0].file == name
    assert "was changed: sha256" in result.differences[0].what
    rest = {d.file: d for d in result.differences[1:]}
    figure = rest["figures/fake.by_tap.pdf|png|svg"]
    assert "figure 1 (By tap, from tables/fake.removed)" in str(figure)
    assert f"[from {name}]" in str(figure)
    assert "IN removed 50.0 % of style" in str(result)
    assert rest["tables/fake.removed.parquet"].because == (name,)
    assert "tables/fake.noise.parquet" not in rest


def test_a_missing_and_an_unusable_input_are_told(copy):
    report, _, own = copy
    path = report / "inputs" / "fake.removed.parquet"
    path.write_bytes(parquet_bytes(pd.read_parquet(path).drop(columns="removed")))
    told = str(verify(report, analyses=own))
    assert "fake.removed.parquet: was changed" in told
    assert "cannot be rebuilt: " in told
    path.unlink()
    assert "input inputs/fake.removed.parquet is missing" in str(verify(report, analyses=own))


def test_rebuilding_takes_todays_analysis_and_keeps_extras_and_inputs(copy):
    report, _, own = copy
    before = (report / "inputs" / "fake.removed.parquet").read_bytes()
    (report / "extras").mkdir()
    (report / "extras" / "mine.svg").write_text("<svg/>")
    own[0].write_text(ANALYSIS.replace("untrained: 40", "untrained: 41").lstrip())
    try:
        assert not verify(report, analyses=own).equal
        arguments = [str(report), *(a for path in own for a in ("--analysis", str(path)))]
        ran = CliRunner().invoke(command, [*arguments, "--rebuild"])
        assert ran.exit_code == 0, ran.output
        assert "untrained: 41 %" in (report / "report.md").read_text()
        assert verify(report, analyses=own).equal
    finally:
        write_analysis(own[0])
    assert (report / "inputs" / "fake.removed.parquet").read_bytes() == before
    assert (report / "extras" / "mine.svg").read_text() == "<svg/>"


def test_rebuilding_packs_inputs_of_an_older_statsnorm_anew(copy):
    report, _, own = copy
    name = "inputs/fake.removed.parquet"
    before, table = (report / name).read_bytes(), pd.read_parquet(report / name)
    table.to_parquet(report / name, compression="zstd", index=False)
    older = (report / name).read_bytes()
    manifest = json.loads((report / MANIFEST).read_text())
    manifest["files"][name] = sha256(older)
    (report / MANIFEST).write_bytes(json_bytes(manifest))
    rebuild(report, analyses=own)
    assert (report / name).read_bytes() == before != older
    assert verify(report, analyses=own).equal


def test_rebuilding_refuses_a_changed_input(copy):
    report, _, own = copy
    path = report / "inputs" / "fake.removed.parquet"
    path.write_bytes(parquet_bytes(pd.read_parquet(path).assign(removed=0.5)))
    with pytest.raises(SchemaError, match="was changed"):
        rebuild(report, analyses=own)


def test_an_input_changed_with_its_hash_shows_in_what_is_built_from_it(copy):
    report, run, own = copy
    path = report / "inputs" / "fake.removed.parquet"
    content = parquet_bytes(pd.read_parquet(path).assign(removed=0.5))
    path.write_bytes(content)
    manifest = json.loads((report / "inputs" / "report.json").read_text())
    manifest["files"]["inputs/fake.removed.parquet"] = sha256(content)
    (report / "inputs" / "report.json").write_bytes(json_bytes(manifest))
    differences = found(verify(report, analyses=own))
    assert {"report.html", "report.md", "tables/fake.removed.csv"} <= set(differences)
    against_run = found(verify(report, run, analyses=own))
    assert "inputs/fake.removed.parquet" in against_run


def test_another_run_is_named_with_what_it_changes(copy, tmp_path):
    report, _, own = copy
    other = write_run(tmp_path / "other", images=("a.jpg", "b.jpg", "c.jpg"))
    lines = str(verify(report, other, analyses=own))
    assert "inputs/fake.images.parquet: 2 rows -> 3 rows" in lines
    assert "run run images: is another table now" in lines
    assert "3 images." in lines  # rebuilt from the new run, so the sentence is told too
    assert "[from inputs/fake.images.parquet, " in lines


def test_a_changed_analysis_and_a_changed_draw_are_named(copy, tmp_path):
    report, _, own = copy
    changed = write_analysis(
        tmp_path / "fake.py", ANALYSIS.replace("untrained: 40", "untrained: 41")
    )
    differences = found(verify(report, analyses=[changed, own[1]]))
    assert "changed since the report was written" in differences["analysis fake"]
    assert "untrained: 40" in differences["report.md"]


def test_the_copy_of_an_own_analysis_is_never_run_unasked(copy):
    report, _, own = copy
    with pytest.raises(StatsnormError, match="'fake' is its author's own file"):
        verify(report)
    assert verify(report, analyses=[report / "inputs" / "fake.py", own[1]]).equal


def test_other_library_versions_compare_text_and_numbers(copy):
    report, _, own = copy
    manifest = json.loads((report / "inputs" / "report.json").read_text())
    manifest["environment"]["libraries"]["scipy"] = "1.0.0"
    (report / "inputs" / "report.json").write_bytes(json_bytes(manifest))
    for name in ("report.html", "report.md", "provenance.json"):
        path = report / name
        text = path.read_text()
        import scipy

        assert scipy.__version__ in text
        path.write_text(text.replace(scipy.__version__, "1.0.0"))
    svg = report / "figures" / "fake.by_tap.svg"
    svg.write_text(svg.read_text() + "\n")
    result = verify(report, analyses=own)
    assert not result.exact
    assert result.equal, str(result)
    assert any("scipy 1.0.0 then" in note for note in result.notes)
    path = report / "tables" / "fake.removed.parquet"
    table = pd.read_parquet(path)
    path.write_bytes(parquet_bytes(table.assign(removed=table["removed"] * (1 + 1e-10))))
    assert verify(report, analyses=own).equal
    path.write_bytes(parquet_bytes(table.assign(removed=table["removed"] * (1 + 1e-8))))
    assert not verify(report, analyses=own).equal


@pytest.mark.parametrize(
    ("written", "rebuilt", "equal"),
    [
        ("R is 0.123457, n 24", "R is 0.123458, n 24", True),  # one unit of the last digit
        ("R is 0.123457, n 24", "R is 0.123459, n 24", False),
        ("R is 0.12, n 24", "R is 0.12, n 25", False),  # counts are exact
        ("R is 1.5e-07", "R is 1.6e-07", True),
        ("H5a supported", "H5b supported", False),
        ("-0.5", "0.5", False),
    ],
)
def test_text_under_other_versions(written, rebuilt, equal):
    sides = {"report.md": written.encode()}, {"report.md": rebuilt.encode()}
    assert (compare_files(*sides, exact=False) == []) is equal
    assert compare_files(*sides, exact=True) != []


def test_a_line_that_is_new_shifts_no_other():
    sides = {"report.md": b"a\nb 1\nc\nd\n"}, {"report.md": b"a\nnew\nb 1\nc\nd 2\n"}
    told = [(d.where, d.what) for d in compare_files(*sides, exact=True)]
    assert told == [("line 2", "is new: 'new'"), ("line 4", "'d' -> 'd 2'")]


def test_no_report_and_a_foreign_schema_are_told(tmp_path, copy):
    with pytest.raises(StatsnormError, match="is no report"):
        verify(tmp_path / "nothing")
    report, _, own = copy
    manifest = json.loads((report / "inputs" / "report.json").read_text())
    (report / "inputs" / "report.json").write_bytes(json_bytes({**manifest, "schema": 99}))
    assert "schema 99" in str(verify(report, analyses=own))


def test_a_manifest_cannot_point_outside_the_report(copy):
    report, _, own = copy
    manifest = json.loads((report / "inputs" / "report.json").read_text())
    manifest["files"]["inputs/../../secret"] = "0" * 64
    (report / "inputs" / "report.json").write_bytes(json_bytes(manifest))
    assert "not below inputs/" in str(verify(report, analyses=own))


def test_the_command_says_equal_with_0_and_what_differs_with_1(copy):
    report, _, own = copy
    arguments = [str(report), *(a for path in own for a in ("--analysis", str(path)))]
    ran = CliRunner().invoke(command, arguments)
    assert ran.exit_code == 0
    assert f"{report}: equal, " in ran.stdout
    (report / "tables" / "gates.csv").write_text("gate\n")
    ran = CliRunner().invoke(command, arguments)
    assert ran.exit_code == 1
    assert "tables/gates.csv" in ran.stdout
