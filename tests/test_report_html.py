"""The page in a real Chromium: no request, no error; sort, filter, download, enlarge, fold."""

from __future__ import annotations

import re
import shutil
from importlib.resources import files
from itertools import pairwise, product
from pathlib import Path

import pytest
from playwright.sync_api import expect
from report_cases import write_analysis, write_run

from statsnorm.report.render import TEMPLATES
from statsnorm.report.write import write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
OPTIONS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

MANY = '''
"""Rows to sort, a column with gaps, and a name that would be markup."""

import pandas as pd

from statsnorm.report.model import Report


def summarise(tables):
    rows = [(f"tap {i}", float(v), 'a "b", <i>c</i>') for i, v in enumerate([3, -1, 20, 0.5])]
    frame = pd.DataFrame(rows, columns=["tap", "value", "text"])
    frame.loc[3, "value"] = None
    return {"rows": frame}


def run(inputs, plan, rng):
    return Report(name="many", title="<b>Many</b>", question=__doc__, tables=dict(inputs))
'''


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("html")
    own = [write_analysis(folder / "fake.py"), write_analysis(folder / "many.py", MANY)]
    return write_report(write_run(folder / "run"), out=folder / "out", analyses=own).out


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS))
        yield opened
        opened.close()


@pytest.fixture
def opened(browser, page_file):
    """Yield a function that opens the page; at the end nothing may have gone wrong in it."""
    seen: list[str] = []
    contexts = []

    def open_page(*, width=1400, scheme="light", fragment="", **options):
        size = {"width": width, "height": 900}
        contexts.append(browser.new_context(viewport=size, color_scheme=scheme, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.on("dialog", lambda dialog: seen.append("a script of a file name ran"))
        page.on("request", lambda request: seen.append(request.url))
        page.goto(f"{(page_file / 'report.html').as_uri()}{fragment}")
        assert seen.pop(0).endswith("report.html")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert seen == []


def column(page, anchor: str, number: int) -> list[str]:
    script = (
        "([anchor, number]) => Array.from(document.querySelectorAll(`[id='${anchor}'] tbody tr`))"
        ".filter(row => !row.hidden).map(row => row.cells[number].textContent)"
    )
    return page.evaluate(script, [anchor, number])


@needs_chromium
@pytest.mark.parametrize(("width", "scheme"), list(product((1400, 700, 390), ("light", "dark"))))
def test_the_page_fits_its_width_and_asks_for_nothing(opened, width, scheme):
    page = opened(width=width, scheme=scheme)
    for opened_folds in (False, True):
        if opened_folds:
            page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
        assert page.evaluate("document.documentElement.scrollWidth") == width
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    lightness = sum(map(int, re.findall(r"\d+", colour)[:3])) / 3
    assert (lightness > 200) == (scheme == "light")


@needs_chromium
def test_the_first_screen_holds_headline_gates_claim_and_picture(opened):
    page = opened()
    for selector in ("h1", ".scope", ".gates", ".claims .badge", ".first figure .art"):
        box = page.locator(selector).first.bounding_box()
        assert box is not None
        assert box["y"] + min(box["height"], 300) < 900, selector
    assert page.locator(".claims .badge").inner_text() == "✓supported"
    assert page.locator(".gate.failed").inner_text().split() == ["M3", "0.5", "✗failed"]


@needs_chromium
def test_tables_sort_both_ways_with_gaps_last(opened):
    page = opened(fragment="#a-many-t-rows")
    header = page.locator("#a-many-t-rows th").nth(1)
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    assert column(page, "a-many-t-rows", 1) == ["-1", "3", "20", ""]
    header.locator("button").press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    assert column(page, "a-many-t-rows", 1) == ["20", "3", "-1", ""]


@needs_chromium
def test_tables_filter_and_download_what_is_left(opened, tmp_path):
    page = opened(fragment="#a-many-t-rows", accept_downloads=True)
    box = page.locator("#a-many-t-rows")
    box.locator("input").fill("tap 2")
    assert column(page, "a-many-t-rows", 0) == ["tap 2"]
    assert box.locator("[role=status]").inner_text() == "1 of 4 rows"
    with page.expect_download() as waiting:
        box.locator("[data-do=csv]").click()
    waiting.value.save_as(tmp_path / "rows.csv")
    assert waiting.value.suggested_filename == "a-many-t-rows.csv"
    text = (tmp_path / "rows.csv").read_text(encoding="utf-8")
    assert text == 'tap,value,text\ntap 2,20,"a ""b"", <i>c</i>"\n'


@needs_chromium
def test_the_decision_table_filters_by_group_and_downloads_with_it(opened, tmp_path):
    page = opened(fragment="#decisions", accept_downloads=True)
    box = page.locator("#decisions [data-table]")
    box.locator("input").fill("nothing of that name")
    assert box.locator("[role=status]").inner_text() == "0 of 1 rows"
    assert not box.locator("th[scope=rowgroup]").is_visible()
    box.locator("input").fill("removes most")  # words of the group's heading
    assert box.locator("[role=status]").inner_text() == "1 of 1 rows"
    box.locator("thead button").first.click()
    assert box.locator("tbody tr").first.locator("th").count() == 1  # the heading stays on top
    with page.expect_download() as waiting:
        box.locator("[data-do=csv]").click()
    waiting.value.save_as(tmp_path / "rows.csv")
    lines = (tmp_path / "rows.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("hypothesis,verdict,statistic,at,")
    assert lines[1].startswith("H5a,supported,RS,res.5,")


@needs_chromium
def test_gates_sort_by_what_was_measured(opened):
    page = opened(fragment="#gates")
    page.locator("#gates thead button", has_text="measured").click()
    assert page.locator("#gates tbody tr td:first-child").all_inner_texts() == ["M3", "M1"]


@needs_chromium
@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (1400, "dark"), (700, "light")])
def test_axe_finds_nothing(opened, width, scheme):
    axe = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    page = opened(width=width, scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    assert [(v["id"], v["impact"], v["nodes"][0]["html"][:120]) for v in found] == []


@needs_chromium
def test_a_claim_unfolds_by_key_and_says_when_specifications_disagree(opened):
    page = opened()
    claim = page.locator(".claims summary").first
    assert "specifications disagree" in claim.inner_text()
    sentence = page.get_by_text("0.65 [0.55, 0.7], 2 images.").first
    assert not sentence.is_visible()
    claim.focus()
    claim.press("Enter")
    expect(sentence).to_be_visible()


@needs_chromium
def test_figures_enlarge_by_key_and_come_back(opened):
    page = opened()
    button = page.locator("figure .enlarge").first
    button.focus()
    button.press("Enter")
    enlarged = page.locator("dialog[open] .stage svg")
    expect(enlarged).to_have_count(1)
    assert enlarged.bounding_box()["height"] > 500
    page.keyboard.press("Escape")
    expect(page.locator("dialog[open]")).to_have_count(0)
    expect(page.locator("figure .art svg")).to_have_count(1)
    expect(button).to_be_focused()
    page.locator("figure .art").first.click()
    expect(enlarged).to_have_count(1)


@needs_chromium
def test_deep_links_open_the_folds_around_them(opened):
    page = opened(fragment="#a-fake-t-noise")  # in the appendix, which is folded
    expect(page.locator("#a-fake-t-noise table")).to_be_visible()
    assert page.locator("#a-fake-t-noise").bounding_box()["y"] < 900
    page.locator(".toc a[href='#provenance']").click()
    expect(page.get_by_text("names every file of this report")).to_be_visible()


@needs_chromium
@pytest.mark.parametrize("fragment", ["#methods", "#howto", "#provenance", "#results"])
def test_the_contents_mark_what_was_linked_to(opened, fragment):
    page = opened(fragment=fragment)
    marked = page.locator(".toc a[aria-current]")
    expect(marked).to_have_attribute("href", fragment)
    page.evaluate("scrollTo({ top: 0, behavior: 'instant' })")
    expect(marked).to_have_attribute("href", "#summary")
    for link in ("#limitations", "#decisions"):
        page.locator(f".toc a[href='{link}']").click()
        expect(marked).to_have_attribute("href", link)


@needs_chromium
def test_the_page_prints_everything(opened):
    page = opened()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not([open])").count() > 3
    page.emulate_media(media="print")
    assert not page.locator(".toc").is_visible()
    assert page.locator("figure .art svg").first.is_visible()
    assert page.pdf().startswith(b"%PDF")


@needs_chromium
def test_the_theme_button_turns_light_to_dark(opened):
    page = opened()
    page.locator("[data-do=theme]").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(228, 228, 223)"


@needs_chromium
def test_every_control_and_figure_has_a_name(opened):
    page = opened()
    nameless = page.evaluate(
        "Array.from(document.querySelectorAll('button,a,input,[role=img],[role=region],nav'))"
        ".filter(e => !(e.getAttribute('aria-label') || e.textContent.trim()"
        " || e.getAttribute('aria-labelledby'))).map(e => e.outerHTML.slice(0, 80))"
    )
    assert nameless == []
    levels = page.evaluate(
        "Array.from(document.querySelectorAll('h1,h2,h3,h4')).map(h => +h.tagName[1])"
    )
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


@needs_chromium
def test_the_page_reads_without_scripts(opened):
    page = opened(java_script_enabled=False)
    assert page.locator("h1").is_visible()
    assert not page.locator("figure .enlarge").first.is_visible()
    assert not page.locator("[data-do=csv]").first.is_visible()


def relative_luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_and_badges_have_the_contrast_of_wcag_aa():
    style = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    themes = re.findall(r"color-scheme: (?:light|dark);(.*?)\n\s*}", style, flags=re.DOTALL)
    assert len(themes) >= 3
    for theme in themes[:3]:
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", theme))
        pairs = [(n, f"{n}-bg") for n in ("yes", "no", "open", "split", "mute")]
        pairs += list(product(("ink", "soft", "link"), ("paper", "card", "tint")))
        pairs += [("open", "paper"), ("ink", "mark")]
        for front, back in pairs:
            low, high = sorted(relative_luminance(colours[c]) for c in (front, back))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (front, back)
