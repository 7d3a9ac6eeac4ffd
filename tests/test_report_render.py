"""Writing a report: files, bytes, order of the page, what is left out, what is refused."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from report_cases import ANALYSIS, EVIL, PICKY, write_analysis, write_run

from statsnorm.cli.report import report as command
from statsnorm.errors import SchemaError, StatsnormError
from statsnorm.extraction import extract
from statsnorm.report import document
from statsnorm.report.discover import find_analyses, shipped_names
from statsnorm.report.encode import (
    csv_bytes,
    parquet_bytes,
    read_parquet,
    repacked,
    rounded,
    sha256,
)
from statsnorm.report.latex import tex_bytes
from statsnorm.report.needs import NEEDS
from statsnorm.report.provenance import plan_note, without_paths
from statsnorm.report.render import plain, prose
from statsnorm.report.verification import verify
from statsnorm.report.write import ReportResult, replace_directory, write_report

PLAN = Path(__file__).resolve().parents[1] / "analyses" / "plan.toml"


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> ReportResult:
    folder = tmp_path_factory.mktemp("report")
    run = write_run(folder / "run-a")
    own = [write_analysis(folder / "fake.py"), write_analysis(folder / "picky.py", PICKY)]
    return write_report(run, out=folder / "out", analyses=own, seed=3)


def read(result: ReportResult, name: str) -> str:
    return (result.out / name).read_text(encoding="utf-8")


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def test_the_directory_holds_what_the_design_says(written):
    files = set(contents(written.out))
    assert {"report.html", "report.md", "provenance.json", "inputs/plan.toml"} <= files
    for form in ("csv", "parquet", "tex"):
        assert {
            f"tables/{n}.{form}" for n in ("effects", "gates", "claims", "fake.removed")
        } <= files
    assert {f"figures/fake.by_tap.{form}" for form in ("svg", "png", "pdf")} <= files
    assert {"inputs/fake.removed.parquet", "inputs/fake.images.parquet"} <= files
    assert written.verdicts == (("H5a", "supported"),)


def test_the_first_screen_comes_first_and_in_order(written):
    page = read(written, "report.html")
    body = page[page.index("<body>") :]
    order = [
        "IN removed 65.0\u00a0% of style variance",  # headline
        '<dl class="scope">',
        '<ul class="gates"',
        '<ul class="claims">',
        "3 of 24 specifications disagree",
        "Figure 1. By tap",
        'id="decisions"',
        'id="gates"',
        'id="invariance"',
        'id="results"',
        'id="methods"',
        'id="exploratory"',
        'id="limitations"',
        'id="literature"',
        'id="provenance"',
    ]
    places = [body.index(text) for text in order]
    assert places == sorted(places)


def test_a_design_with_one_file_under_two_names_is_refused(tmp_path):
    run = write_run(tmp_path / "run", design={"styles": ["cin26:1"]})
    with pytest.raises(StatsnormError, match=r"are one file; an image is one unit of a design"):
        write_report(run, out=tmp_path / "out", analyses=[write_analysis(tmp_path / "fake.py")])


def test_deviations_stand_before_the_exploratory_claims(written):
    said = "A rule was set after the data had been seen."
    text, page = read(written, "report.md"), read(written, "report.html")
    assert "states any" not in text + page
    place = text.index(f"- Variance that normalisation removes: {said}")
    assert text.index("## Deviations") < place < text.index("## Limitations")
    assert page.index('id="exploratory"') < page.index(said) < page.index('id="limitations"')


def test_effects_have_the_columns_of_the_design(written):
    effects = pd.read_csv(written.out / "tables/effects.csv")
    assert list(effects.columns) == [
        *("hypothesis", "family", "statistic", "tap", "estimate", "low", "high", "se", "dof"),
        *("n_units", "pvalue", "p_adjusted", "threshold", "verdict", "analysis"),
    ]
    assert effects["estimate"].tolist() == [0.65]


def test_an_analysis_without_its_tables_is_left_out_with_the_reason(written):
    assert written.left_out == (
        ("picky", "the runs hold no training curves; give a run of statsnorm train"),
    )
    assert "no training curves" in read(written, "report.html")
    assert "no training curves" in read(written, "report.md")


def test_every_shipped_analysis_says_what_it_needs(tmp_path):
    extract("embedded", networks=["pixels"], size=16, out=tmp_path / "run")
    left = dict(write_report(tmp_path / "run", out=tmp_path / "report").left_out)
    shipped = {a.name for a in find_analyses()}
    assert left.keys() >= shipped - {"manipulation"}
    for name in ("report.md", "report.html"):
        assert "No analysis that ran states any." in (tmp_path / "report" / name).read_text()
    assert NEEDS.keys() <= set(shipped_names())
    for name, reason in left.items():
        assert "hold nothing" not in reason, name


def test_provenance_names_every_other_file_with_its_hash(written):
    provenance = json.loads(read(written, "provenance.json"))
    files = contents(written.out)
    del files["provenance.json"]
    assert {n: f["sha256"] for n, f in provenance["files"].items()} == {
        n: sha256(c) for n, c in files.items()
    }
    assert provenance["files"]["tables/fake.removed.parquet"]["rows"] == 6
    assert provenance["seed"] == 3
    assert provenance["plan"] == {"shipped": True, "sha256": sha256(PLAN.read_bytes())}
    run = provenance["runs"][0]
    assert run["tables"]["images"]["rows"] == 2
    assert run["executions"] == [{"device": "cpu", "versions": {"torch": "2.9.0"}}]
    assert provenance["environment"]["libraries"]["numpy"] == np.__version__


def test_no_path_of_the_machine_and_no_time_stands_in_a_report(written, tmp_path_factory):
    for name, content in contents(written.out).items():
        assert b"/home/ada" not in content, name
        assert str(tmp_path_factory.getbasetemp()).encode() not in content, name
    assert b"dc:date" not in (written.out / "figures/fake.by_tap.svg").read_bytes()
    assert b"Software" not in (written.out / "figures/fake.by_tap.png").read_bytes()
    assert b"CreationDate" not in (written.out / "figures/fake.by_tap.pdf").read_bytes()


def test_file_names_are_shown_and_never_markup(written):
    for name in ("report.html", "report.md"):
        text = read(written, name)
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert" in text
    assert EVIL in read(written, "tables/fake.images.csv")


def test_the_page_forbids_every_request_and_all_but_its_own_style_and_script(written):
    page = read(written, "report.html")
    policy = html.unescape(page[page.index("Content-Security-Policy") :][:500])
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        inside = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
        assert len(inside) == 1
        digest = base64.b64encode(hashlib.sha256(inside[0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not re.search(r"<[^>]* style=", page)
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert len(page) < 5_000_000


def test_ids_are_unique_and_every_link_within_the_page_has_a_target(written):
    page = read(written, "report.html")
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    links = set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page))
    assert links <= set(ids)
    files = set(re.findall(r'href="((?:tables|figures|inputs)/[^"]+)"', page))
    assert files <= set(contents(written.out))


SCRIPT = """
import sys, locale
from statsnorm.report.write import write_report
for name in ("de_DE.UTF-8", "C.UTF-8"):
    try:
        locale.setlocale(locale.LC_ALL, name)
        break
    except locale.Error:
        pass
write_report(sys.argv[1], out=sys.argv[2], analyses=[sys.argv[3]], seed=3)
"""


def test_two_processes_write_the_same_bytes(tmp_path):
    run, own = write_run(tmp_path / "run"), write_analysis(tmp_path / "fake.py")
    settings = [
        {"PYTHONHASHSEED": "1", "TZ": "UTC", "LC_ALL": "C"},
        {"PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8", "LANG": "de_DE.UTF-8"},
    ]
    found = []
    for number, extra in enumerate(settings):
        out = tmp_path / str(number) / "out"
        subprocess.run(
            [sys.executable, "-c", SCRIPT, str(run), str(out), str(own)],
            env={**os.environ, "MPLBACKEND": "Agg", **extra},
            check=True,
        )
        found.append(contents(out))
    assert found[0].keys() == found[1].keys()
    assert [n for n in found[0] if found[0][n] != found[1][n]] == []


def test_a_sentence_changes_with_its_table(tmp_path):
    run = write_run(tmp_path / "run")
    changed = ANALYSIS.replace("np.linspace(0.4, 0.9, 6)", "np.linspace(0.2, 0.3, 6)")
    own = write_analysis(tmp_path / "fake.py", changed)
    result = write_report(run, out=tmp_path / "out", analyses=[own])
    assert result.headline == "IN removed 25.0 % of style variance; untrained: 40 %."
    assert "R<sub>S</sub> = 0.25 [0.15, 0.3]" in read(result, "report.html")


def test_the_seed_changes_draws_and_another_analysis_does_not(tmp_path):
    run, own = write_run(tmp_path / "run"), write_analysis(tmp_path / "fake.py")
    twin = write_analysis(tmp_path / "aaa.py")
    draws = [
        write_report(run, out=tmp_path / name, analyses=chosen, seed=seed)
        for name, chosen, seed in [("a", [own], 1), ("b", [twin, own], 1), ("c", [own], 2)]
    ]
    tables = [pd.read_parquet(r.out / "tables/fake.noise.parquet")["draw"] for r in draws]
    assert tables[0].equals(tables[1])
    assert not tables[0].equals(tables[2])
    other = pd.read_parquet(draws[1].out / "tables/aaa.noise.parquet")["draw"]
    assert not tables[0].equals(other)


def test_skipped_images_are_listed_and_the_status_is_1(tmp_path):
    run, own = write_run(tmp_path / "run", skipped=2), write_analysis(tmp_path / "fake.py")
    out = tmp_path / "out"
    ran = CliRunner().invoke(command, [str(run), "--analysis", str(own), "--out", str(out)])
    assert ran.exit_code == 1
    assert "2 images were dropped" in ran.stdout
    assert "truncated file" in (out / "report.html").read_text(encoding="utf-8")


def test_the_command_prints_where_the_report_is_and_what_it_says(tmp_path):
    run, own = write_run(tmp_path / "run"), write_analysis(tmp_path / "fake.py")
    arguments = [str(run), "--analysis", str(own), "--out", str(tmp_path / "out"), "--seed", "3"]
    ran = CliRunner().invoke(command, arguments)
    assert ran.exit_code == 0, ran.output
    assert ran.stdout.splitlines() == [
        str(tmp_path / "out" / "report.html"),
        "IN removed 65.0 % of style variance; untrained: 40 %.",
        "H5a: supported",
        "done: fake",
    ]


def test_an_analysis_that_was_named_and_left_out_gives_status_1(tmp_path):
    run, own = write_run(tmp_path / "run"), write_analysis(tmp_path / "fake.py")
    picky = write_analysis(tmp_path / "picky.py", PICKY)
    arguments = [str(run), "--analysis", str(own), "--out", str(tmp_path / "out")]
    ran = CliRunner().invoke(command, [*arguments, "--analysis", str(picky)])
    assert ran.exit_code == 1
    assert "asked for, but left out: picky: the runs hold no training curves" in ran.stdout
    unnamed = write_report(run, out=tmp_path / "all")  # shipped ones, none of which fits
    assert unnamed.left_out
    assert unnamed.complete
    assert "asked for" not in str(unnamed)
    assert unnamed.headline.endswith("“Left out” says what each analysis needs.")


def test_a_failing_run_is_told_and_the_others_are_written(tmp_path):
    run, own = write_run(tmp_path / "run"), write_analysis(tmp_path / "fake.py")
    source = PICKY.replace(
        'raise StatsnormError("the runs hold no training curves; give a run of statsnorm train")',
        'return {"images": tables.images()[["image"]]}',
    ).replace('raise AssertionError("never reached")', 'raise StatsnormError("<b>no</b>")')
    bad = write_analysis(tmp_path / "bad.py", source)
    result = write_report(run, out=tmp_path / "out", analyses=[bad, own])
    assert result.failed == (("bad", "<b>no</b>"),)
    assert not result.complete
    assert "&lt;b&gt;no&lt;/b&gt;" in read(result, "report.html")
    assert result.verdicts == (("H5a", "supported"),)


def test_an_old_report_is_replaced_and_a_strange_folder_is_not(tmp_path):
    run, own = write_run(tmp_path / "run"), write_analysis(tmp_path / "fake.py")
    out = tmp_path / "out"
    write_report(run, out=out, analyses=[own])
    (out / "tables" / "stale.csv").write_text("old")
    write_report(run, out=out, analyses=[own])
    assert not (out / "tables" / "stale.csv").exists()
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "thesis.tex").write_text("years of work")
    with pytest.raises(StatsnormError, match="not empty and no report"):
        write_report(run, out=strange, analyses=[own])
    assert [p.name for p in strange.iterdir()] == ["thesis.tex"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fake.py", "out", "run", "strange"]


def test_nothing_is_left_behind_when_a_run_is_missing(tmp_path):
    own = write_analysis(tmp_path / "fake.py")
    with pytest.raises(StatsnormError, match="nowhere"):
        write_report(tmp_path / "nowhere", out=tmp_path / "out", analyses=[own])
    assert [p.name for p in tmp_path.iterdir()] == ["fake.py"]


def test_an_unfinished_run_is_refused(tmp_path):
    run, own = write_run(tmp_path / "run"), write_analysis(tmp_path / "fake.py")
    (run / "done.json").unlink()
    with pytest.raises(StatsnormError, match="not finished"):
        write_report(run, out=tmp_path / "out", analyses=[own])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def run(a, b, c): ...", "lacks summarise"),
        ("import nothing_of_that_name", "cannot be imported"),
        ("def run(:", "cannot be imported"),
    ],
)
def test_a_bad_analysis_file_is_refused(tmp_path, source, message):
    with pytest.raises(StatsnormError, match=message):
        find_analyses([write_analysis(tmp_path / "own.py", source)])


def test_unknown_and_doubled_analyses_are_refused(tmp_path):
    with pytest.raises(StatsnormError, match="unknown analysis 'removed_varianc'"):
        find_analyses(["removed_varianc"])
    with pytest.raises(StatsnormError, match="cannot be read"):
        find_analyses([tmp_path / "none.py"])
    (tmp_path / "other").mkdir()
    twins = [write_analysis(tmp_path / "fake.py"), write_analysis(tmp_path / "other" / "fake.py")]
    with pytest.raises(StatsnormError, match="two analyses are called 'fake'"):
        find_analyses(twins)


def test_a_figure_without_its_table_or_function_is_refused(tmp_path):
    run = write_run(tmp_path / "run")
    for change, message in [
        (('table="removed"', 'table="gone"'), "is no table of it"),
        (('draw="bars"', 'draw="bras"'), "unknown figure function 'bras'"),
    ]:
        own = write_analysis(tmp_path / "fake.py", ANALYSIS.replace(*change))
        with pytest.raises(StatsnormError, match=message):
            write_report(run, out=tmp_path / "out", analyses=[own])


def test_parquet_does_not_depend_on_index_categories_or_the_last_bits():
    frame = pd.DataFrame({"x": [0.1 + 0.2, np.nan], "name": ["a", None], "n": [1, 2]})
    strange = frame.assign(x=[0.3, np.nan], name=pd.Categorical(frame["name"]))
    strange.index = pd.Index([7, 9])
    assert parquet_bytes(frame) == parquet_bytes(strange)
    back = read_parquet(parquet_bytes(frame), "t")
    assert back["x"].dtype == np.float64
    assert back["x"].iloc[0] == 0.3
    assert back["n"].dtype == np.int64


def test_parquet_keeps_lists_and_empty_columns_and_names_what_it_cannot_store():
    frame = pd.DataFrame({"v": [[0.1 + 0.2, 1.0], [2.0, 3.0]], "none": [None, None]})
    back = read_parquet(parquet_bytes(frame), "t")
    np.testing.assert_array_equal(back["v"].iloc[0], [0.3, 1.0])
    assert back["none"].isna().all()
    with pytest.raises(SchemaError, match="column 'mix'"):
        parquet_bytes(pd.DataFrame({"mix": [1, "a"]}))
    for read in (read_parquet, repacked):
        with pytest.raises(SchemaError, match=r"inputs/x\.parquet is damaged"):
            read(b"PAR1 no", "inputs/x.parquet")


def test_parquet_packs_like_bytes_of_floats_together_and_changes_no_value():
    rng = np.random.default_rng(0)
    values = 0.06 * (1 + 0.01 * rng.standard_normal((200, 50)))  # replicates about one value
    frame = pd.DataFrame(
        {"tap": ["a", "b"] * 100, "values": [rounded(row) for row in values], "x": values[:, 0]}
    )
    packed, plain = parquet_bytes(frame), io.BytesIO()
    frame.to_parquet(plain, compression="zstd", index=False)
    assert len(packed) < 0.8 * len(plain.getvalue())
    assert repacked(plain.getvalue(), "t")[-4:] == b"PAR1"
    assert repacked(packed, "t") == packed
    back = read_parquet(packed, "t")
    np.testing.assert_array_equal(np.stack(back["values"]), np.stack(frame["values"]))


def test_csv_has_six_digits_and_quotes_what_needs_it():
    frame = pd.DataFrame({"x": [1 / 3, np.nan], "b": [True, False], "s": ['a,"b"', "é"]})
    assert csv_bytes(frame).decode() == 'x,b,s\n0.333333,true,"a,""b"""\n,false,é\n'


def test_latex_escapes_what_it_shows_and_leaves_lists_out():
    frame = pd.DataFrame(
        {"R_S": [-1 / 3, 2e-7], "what": ["50 % \\input{x}", "a & b"], "points": [[1.0], [2.0]]}
    )
    assert tex_bytes(frame).decode().splitlines() == [
        r"% \usepackage{booktabs}",
        "% left out, a list in each row: points",
        r"\begin{tabular}{rl}",
        r"\toprule",
        r"R\_S & what \\",
        r"\midrule",
        r"$-0.3333$ & 50 \% \textbackslash{}input\{x\} \\",
        r"$2\times10^{-7}$ & a \& b \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_inputs_that_are_large_to_commit_are_told(written):
    assert 0 < written.input_bytes < 100_000
    assert "inputs/ holds" not in str(written)
    assert "inputs/ holds 2.5 MB: more than the 2 MB" in str(
        replace(written, input_bytes=2_500_000)
    )


WIDE = """
\"\"\"Far too much to show: many rows, long lists, a drawing of many points.\"\"\"

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Drawing

from statsnorm.report.model import Figure, Report

ROWS, NAMES = 1500, [f"t{i}" for i in range(14)]


def summarise(tables):
    return {"x": pd.DataFrame({"x": np.arange(ROWS, dtype=float)})}


def run(inputs, plan, rng):
    table = pd.DataFrame({"x": inputs["x"]["x"], "words": ["w" * 200] * ROWS})
    table["list"] = [list(map(float, range(40)))] * ROWS
    figures = [
        Figure(name=n, draw="cloud", table=n, caption="Points.", alt="A cloud.") for n in NAMES
    ]
    tables = {n: table for n in NAMES}
    return Report(name="wide", title="Wide", question=__doc__, tables=tables, figures=figures)


def cloud(table):
    figure = Drawing(figsize=(7, 3))
    axis = figure.subplots()
    for x in table["x"]:  # a path each
        axis.plot([x, x + 1], [np.sin(x), np.cos(x)])
    return figure
"""


@pytest.mark.slow
def test_the_page_stays_below_5_mb_whatever_the_tables_hold(tmp_path):
    run, own = write_run(tmp_path / "run"), write_analysis(tmp_path / "wide.py", WIDE)
    result = write_report(run, out=tmp_path / "out", analyses=[own])
    page = read(result, "report.html")
    assert len(page.encode()) < 5_000_000
    assert "A cloud. This page has no room for it" in page
    assert "of 1,500 rows; all are in" in page


def test_sentences_are_escaped_and_symbols_set():
    assert prose("R_S is <b>, 97 %") == "R<sub>S</sub> is &lt;b&gt;, 97\u00a0%"
    assert prose("R_S_perp - 1 >= -0.5 x a-1") == "R<sub>S⊥</sub> − 1 ≥ −0.5 x a-1"
    assert prose("omega2_s, IMG_1.jpg, relu3_1") == "ω²<sub>s</sub>, IMG_1.jpg, relu3_1"
    assert plain("[x](y) `z` _q_ a_b") == "\\[x\\](y) \\`z\\` \\_q\\_ a_b"


def test_paths_are_cut_and_relative_names_are_kept():
    assert without_paths(["/a/b/c.pt", "x/y.jpg", "C:\\d\\e.pt", 3]) == [
        "…/c.pt",
        "x/y.jpg",
        "…/e.pt",
        3,
    ]


def test_the_plan_note_says_changed_in_capitals():
    def runs(*hashes):
        return [{"config": {}, "executions": [{"plan_sha256": h}]} for h in hashes]

    assert "not changed" in plan_note("a" * 64, runs("a" * 64))
    assert "CHANGED" in plan_note("a" * 64, runs("a" * 64, "b" * 64))
    assert "do not record" in plan_note("a" * 64, [{"config": {}, "executions": [{}]}])
    some = [*runs("a" * 64), {"executions": [{}]}]
    assert "not changed since the runs that record them" in plan_note("a" * 64, some)


def test_stored_tables_open_with_plain_pyarrow(written):
    table = pq.read_table(written.out / "tables/fake.removed.parquet")
    assert table.column_names == ["tap", "removed", "low", "high"]
    assert table.schema.metadata is None


def test_the_public_names_work_in_any_order_of_imports():
    code = (
        "import statsnorm{first}\n"
        "import statsnorm\n"
        "for call in (statsnorm.report, statsnorm.verify):\n"
        "    assert callable(call)\n"
        "try:\n"
        "    statsnorm.report([], out='never', seed=-1)\n"
        "except statsnorm.errors.StatsnormError as error:\n"
        "    print(error)\n"
    )
    for first in (".errors", ".report.model", ".report"):
        ran = subprocess.run(
            [sys.executable, "-c", code.format(first=first)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert ran.stdout == "seed must not be negative, got -1\n"


def test_a_report_that_cannot_take_its_place_leaves_the_old_one(tmp_path, monkeypatch):
    folder = tmp_path / "r"
    replace_directory(folder, {"a.txt": b"old"})
    rename = Path.rename

    def broken(self, target):
        if self.name == "new":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises(OSError, match="No space"):
        replace_directory(folder, {"a.txt": b"new"})
    assert (folder / "a.txt").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["r"]


def test_the_seed_reaches_a_summary_that_draws(tmp_path):
    source = ANALYSIS.replace("def summarise(tables):", "def summarise(tables, *, seed):").replace(
        "np.linspace(0.4, 0.9, 6)", "np.random.default_rng(seed).uniform(size=6)"
    )
    assert source.count("seed") == 2
    path, run = write_analysis(tmp_path / "drawn.py", source), write_run(tmp_path / "run")
    found = {}
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_report([run], analyses=[str(path)], out=tmp_path / name, seed=seed)
        found[name] = (tmp_path / name / "inputs" / "drawn.removed.parquet").read_bytes()
    assert found["a"] == found["b"] != found["c"]
    assert verify(tmp_path / "c", [run], analyses=[str(path)]).equal


def test_the_headline_points_to_left_out_only_where_something_was():
    assert document._tally((), ()) == "No claim could be judged from these tables."
    assert "“Left out”" in document._tally((), (("picky", "needs curves"),))
