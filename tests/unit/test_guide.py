"""The guide says the same in both languages, and what it names is there."""

import inspect
import re
import shlex
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path

import pytest

from hpcpar.config import Config, parse
from hpcpar.tools import TOOLS

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "guide"
LANGUAGES = "en", "zh"
PAGES = sorted({path.stem for path in GUIDE.glob("*/*.md")})
KEYS = {
    f"{section.name}.{key.name}"
    for section in fields(Config)
    if is_dataclass(section.type)
    for key in fields(section.type)
}
TOP = {key.name for key in fields(Config)}


def text(language: str, page: str) -> str:
    return (GUIDE / language / f"{page}.md").read_text("utf-8")


def paths(words: str) -> list[str]:
    """Files of the repository, in the order in which they are named."""
    return re.findall(r"\b(?:hpcpar|docs|tests|benchmarks|slurm|tools)/[\w./]*\w", words)


def links(words: str) -> list[str]:
    """Pages and pictures that are linked to, without their anchors."""
    return [link for link in re.findall(r"\]\(([^)#\s]+)", words) if "://" not in link]


def commands(words: str) -> list[list[str]]:
    """What is to be typed, word by word, without comments."""
    blocks = re.findall(r"^```([^\n]*)\n(.*?)^```", words, flags=re.M | re.S)
    lines = "".join(block for kind, block in blocks if not kind).replace("\\\n", " ").splitlines()
    typed = [line.strip() for line in lines if line.strip().startswith(("mpirun ", "python "))]
    return [shlex.split(line, comments=True) for line in typed]


def flags(words: list[str]) -> set[str]:
    return {word[2:].partition("=")[0] for word in words if word.startswith("--")}


def test_keys_are_found():
    assert {"parallel.zero", "run.dir", "sync.mode"} <= KEYS and "parallel.zer" not in KEYS


@pytest.mark.parametrize("page", PAGES)
def test_both_languages_say_the_same(page):
    one, other = (text(language, page) for language in LANGUAGES)
    assert f"](../zh/{page}.md)" in one and f"](../en/{page}.md)" in other
    for part in (paths, commands, lambda words: re.findall(r"\$\$(.*?)\$\$", words, flags=re.S)):
        assert part(one) == part(other)
    assert set(links(one)) ^ set(links(other)) == {f"../zh/{page}.md", f"../en/{page}.md"}
    for words in one, other:
        assert page == "index" or (commands(words) and 25 <= words.count("\n") <= 60)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_index_has_every_page(language):
    listed = re.search(r"```{toctree}\n.*?\n\n(.*?)```", text(language, "index"), flags=re.S)
    assert listed and sorted([*listed[1].split(), "index"]) == PAGES
    assert {f"{page}.md" for page in PAGES} - {"index.md"} <= set(links(text(language, "index")))


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("language", LANGUAGES)
def test_what_a_page_names_is_there(language, page):
    words = text(language, page)
    for path in paths(words):
        assert (ROOT / path).is_file(), path
    for link in links(words):
        assert (GUIDE / language / link).is_file(), link
    for key in re.findall(r"--([a-z]+\.[a-z_]+)", words):
        assert key in KEYS, key


@pytest.mark.parametrize("page", PAGES)
def test_commands_can_be_typed(page):
    """Training takes its keys and values, tools and programs know their flags."""
    for words in commands(text("en", page)):
        if "hpcpar.train" in words:
            parse(words[words.index("hpcpar.train") + 1 :])
            continue
        program = words[words.index("python") + 1 :]
        if program[:2] == ["-m", "hpcpar"]:
            tool = program[2]
            assert tool in TOOLS, tool
            function = getattr(import_module(f"hpcpar.tools.{tool}"), tool)
            assert flags(program) <= {*inspect.signature(function).parameters, *TOP, *KEYS}
        elif program[0] != "product.py":  # its text is on the page
            told = (ROOT / program[0]).read_text("utf-8")
            assert all(f'"--{flag}"' in told for flag in flags(program)), program
