"""The pages of docs/: their commands run or at least parse, their links lead somewhere, they name what exists."""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path

import pytest

from scripts.docs_pages import BORROWED, COMMANDS_MARK, OPTIONS_MARK, RECOMMENDED_MARK, command_line_reference, commands
from tests.helpers.pages import (
    DOCS,
    PAGES,
    ROOT,
    Block,
    anchors,
    blocks,
    check_benchmark,
    check_options,
    check_python,
    check_shell,
    extras,
    inline_code,
    links,
    run_blocks,
)
from voco_video.cli.help import split_help

ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
NAV = re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
MARKS = re.compile(r"run|run by tests/[\w/]+\.py|not run: \w.+|main command|test command")


def in_order_of_nav() -> list[Path]:
    """The pages as a reader goes through them."""
    return [ROOT / "docs" / name for name in NAV if name not in BORROWED]


@pytest.mark.slow
def test_every_command_runs_and_prints_what_its_page_shows(tmp_path):
    chosen = [block for page in in_order_of_nav() for block in blocks(page) if block.is_run]
    assert len(chosen) >= 8
    run_blocks(chosen, tmp_path, in_one_process=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_of_code_says_whether_it_is_run_and_holds_what_exists(page):
    for block in blocks(page):
        if block.language in ("bash", "python"):
            assert MARKS.fullmatch(block.mark), f"{page.name} does not say whether this is run:\n{block.code}"
        check_block(block)


def check_block(block: Block) -> None:
    """AssertionError unless a block is what its language says, with options and names that exist."""
    if block.language == "bash":
        check_shell(block.code)
    elif block.language == "python":
        check_python(block.code)
    elif block.language == "json":
        json.loads(block.code)
    else:
        raise AssertionError(f"{block.page.name}: nothing checks a block of {block.language}")


def test_a_block_with_a_mistake_is_noticed():
    for code in (
        "voco-video ask clip.mp4 --fsp 4",
        "voco-video aks",
        "voco-video inspect",
        "python -m benchmarks.speed.x",
    ):
        with pytest.raises(AssertionError):
            check_shell(code)
    with pytest.raises(AssertionError):
        check_shell("pip install '.[tests]'")
    with pytest.raises(AssertionError):
        check_python("import voco_video\nvoco_video.load('x')")
    with pytest.raises(AssertionError):
        check_python("import voco_video\nvoco_video.load_model('x', bits=4)")


@pytest.mark.parametrize("page", [*PAGES, ROOT / "SECURITY.md"], ids=lambda page: page.stem)
def test_what_stands_in_backticks_exists(page):
    for code in inline_code(page):
        if code.startswith("voco-video "):
            check_options(re.sub(r"[\"'].*?[\"']", "x", code).split()[1:])
        elif match := re.match(
            r"(?:python -m )?((?:benchmarks\.)?(?:speed|quality|library)\.\w+|benchmarks\.\w+)( .*)?$", code
        ):
            module = match[1] if match[1].startswith("benchmarks.") else f"benchmarks.{match[1]}"
            check_benchmark([module, *(match[2] or "").split()])
        elif re.match(r"(?:voco_video|benchmarks|configs|docs|scripts|tests|\.ci)/[\w./-]*$", code):
            assert (ROOT / code).exists(), f"{page.name} names {code}"
        elif match := re.match(r"([a-z_]+/)+\w*\.py$", code):
            assert (ROOT / "voco_video" / code).exists() or (ROOT / code).exists(), f"{page.name} names {code}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "SECURITY.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in links(page):
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(path), f"{page.name} links to {target}"


def test_every_page_is_in_the_navigation():
    assert sorted({*NAV} - {*BORROWED}) == [page.name for page in DOCS]


def test_the_command_line_page_has_every_command_and_option():
    text = command_line_reference()
    marks = ((COMMANDS_MARK, "command-line.md"), (OPTIONS_MARK, "options.md"), (RECOMMENDED_MARK, "checkpoints.md"))
    for mark, page in marks:
        assert mark in (ROOT / "docs" / page).read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## voco-video ([\w -]+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    assert sections.keys() == commands().keys()
    for name, command in commands().items():
        shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
        options = {option for parameter in shown for option in parameter.opts if option.startswith("--")}
        assert {option for option in options if option not in sections[name]} <= {"--help"}, name


@pytest.mark.parametrize("name", commands())
def test_the_examples_of_help_are_commands_that_work(name):
    examples = "\n".join(split_help(commands()[name].help)[1])
    assert f"voco-video {name}" in examples, f"{name} --help shows no examples, or would wrap them"
    check_shell(examples)


def test_the_extras_are_all_explained():
    table = (ROOT / "docs" / "install.md").read_text(encoding="utf-8").split("## Extras")[1].split("\n## ")[0]
    named = {
        word
        for row in table.splitlines()
        if row.startswith("| `")
        for word in re.findall(r"`([\w-]+)`", row.split("|")[1])
    }
    assert named == set(extras())


def test_the_file_tree_names_what_exists():
    tree = ARCHITECTURE.split("## The folders")[1].split("```")[1]
    package, named = ROOT / "voco_video", set()
    for line in tree.splitlines():
        if match := re.match(r"  (\w+(?:\.py|/))\s", line):
            named.add(match[1].rstrip("/"))
            assert (package / match[1]).exists(), match[1]
    modules = {p.name for p in package.iterdir() if p.suffix == ".py" or (p.is_dir() and p.name != "__pycache__")}
    assert modules - {"__init__.py"} == named


def test_the_order_of_imports_is_the_one_that_is_held():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    held = settings["importlinter:contract:layers"]["layers"].split("\n")[1:]
    shown = ARCHITECTURE.split("## The order of imports")[1].split("```text\n")[1].split("```")[0]
    assert shown.split("\n")[:-1] == held
