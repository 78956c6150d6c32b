"""README shows real commands with their real output: run them, and compare all but numbers."""

from __future__ import annotations

import re

import pytest

from tests.helpers.pages import README, ROOT, blocks, run_blocks

TEXT = README.read_text(encoding="utf-8")
NUMBER = re.compile(r"\d+(?:\.\d+)?")


@pytest.mark.parametrize("in_one_process", [True, pytest.param(False, marks=pytest.mark.exhaustive)])
@pytest.mark.slow
def test_every_command_runs_and_prints_what_readme_shows(tmp_path, in_one_process):
    chosen = [block for block in blocks(README) if block.is_run]
    assert {block.language for block in chosen} == {"bash", "python"}
    run_blocks(chosen, tmp_path, in_one_process=in_one_process)


def test_the_two_commands_are_there():
    for mark in ("main command", "test command"):
        block = TEXT.split(f"<!-- {mark} -->")[1].split("<!-- end -->")[0]
        assert block.count("```bash") == 1


def test_it_is_read_in_minutes():
    assert len(TEXT.splitlines()) <= 150


def test_its_figures_are_those_that_were_measured():
    measured = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    known = set(NUMBER.findall(measured + (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")))
    table = TEXT.split("## Measured")[1].split("\n## ")[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| ") and "`" in line][1:]
    assert len(rows) >= 8
    for _, what, figures, *_ in rows:
        assert set(NUMBER.findall(what + figures)) <= known, figures
