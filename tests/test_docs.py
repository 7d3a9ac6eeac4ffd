"""Help, README and docstrings: nothing public is unsaid; examples are commands that exist."""

from __future__ import annotations

import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import statsnorm
from statsnorm.cli import COMMANDS, main

README = Path(__file__).resolve().parents[1] / "README.md"


def command(name: str) -> click.Command:
    found = main.get_command(click.Context(main), name)
    assert found is not None
    return found


def examples(text: str) -> list[list[str]]:
    """Return the indented `statsnorm ...` lines of a text, lines that end in a backslash joined."""
    joined = re.sub(r"\\\n\s*", " ", text)
    lines = (line.strip() for line in joined.splitlines() if line.startswith("  "))
    parts = (part for line in lines for part in line.split("&&"))
    words = (shlex.split(part, comments=True) for part in parts if "statsnorm " in part)
    return [line[1:] for line in words if line[:1] == ["statsnorm"]]


@pytest.fixture
def parse(monkeypatch):
    """Let click parse a command line as if every folder and file in it were there."""
    monkeypatch.setattr(click.Path, "convert", lambda _self, value, _param, _ctx: Path(value))

    def parsed(arguments: list[str]) -> None:
        command(arguments[0]).make_context(arguments[0], arguments[1:]).close()

    return parsed


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_says_what_it_is_for(name):
    found = command(name)
    assert found.name == name
    assert (found.help or "").strip()
    assert found.short_help == COMMANDS[name]
    for parameter in found.params:
        assert not isinstance(parameter, click.Option) or parameter.help, parameter.opts


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_an_example_that_can_be_pasted(name, parse):
    shown = CliRunner().invoke(main, [name, "--help"], prog_name="statsnorm").stdout
    own = [words for words in examples(shown) if words[0] == name]
    assert own, "no example in the help"
    for words in own:
        parse(words)


def test_the_readme_names_every_command():
    text = README.read_text(encoding="utf-8")
    missing = [name for name in COMMANDS if f"statsnorm {name}" not in text]
    assert not missing


def test_the_table_of_conditions_names_all_of_them():
    from statsnorm.images import conditions

    text = conditions.__doc__ or ""
    assert [name for name in conditions.BUILT_IN if f"\n| {name} |" not in text] == []


@pytest.mark.parametrize("name", ["extract", "train"])
def test_the_help_of_condition_names_all_of_them(name):
    from statsnorm.images import conditions

    (option,) = (p for p in command(name).params if p.name == "conditions")
    said = set(re.findall(r"[\w-]+", getattr(option, "help", None) or ""))
    assert {*conditions.BUILT_IN} - said == set()


def test_the_examples_of_readme_and_main_help_parse(parse):
    found = examples(README.read_text(encoding="utf-8")) + examples(main.help or "")
    assert len(found) >= 4
    for words in found:
        assert words[0] in COMMANDS
        parse(words)


@pytest.mark.parametrize("page", ["quickstart", "recipes"])
def test_the_examples_of_the_pages_parse(page, parse):
    text = (README.parent / "docs" / f"{page}.md").read_text(encoding="utf-8")
    found = examples(text)
    assert len(found) >= 4
    for words in found:
        assert words[0] in COMMANDS
        parse(words)


@pytest.mark.parametrize("name", [n for n in statsnorm.__all__ if not n.startswith("__")])
def test_every_public_name_has_a_docstring(name):
    text = inspect.getdoc(getattr(statsnorm, name)) or "nothing"
    assert len(text.splitlines()[0]) > 20


def test_public_names_are_listed_where_they_come_from():
    assert set(statsnorm.__all__) == {*statsnorm._WHERE, "__version__"}
    assert set(dir(statsnorm)) >= set(statsnorm.__all__)


def test_the_documentation_builds_without_a_warning(tmp_path):
    """Also generates the command, table and analysis pages: a column without a meaning fails."""
    root = README.parent
    done = subprocess.run(
        [
            *(sys.executable, "-m", "sphinx", "-W", "-q", "-E", "-b", "text"),
            *("-d", str(tmp_path / "cache"), str(root / "docs"), str(tmp_path / "out")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    tables = (root / "docs" / "tables.md").read_text(encoding="utf-8")
    assert "| `by_construction` | bool |" in tables
    commands = (tmp_path / "out" / "commands.txt").read_text(encoding="utf-8").splitlines()
    example = "statsnorm extract --images photos/ --network vgg16 --out runs/vgg"
    assert f"   {example}" in commands, "examples stand as code, options with both hyphens"
    wrapped = commands.index("   statsnorm extract --images photos/ --network vgg16 \\")
    assert commands[wrapped + 1].startswith("       --condition original,contrast,style")


@pytest.mark.parametrize("name", [n for n in statsnorm.__all__ if not n.startswith("__")])
def test_every_public_name_is_in_the_documentation(name):
    text = (README.parent / "docs" / "api.md").read_text(encoding="utf-8")
    assert f"statsnorm.{name}\n" in text
