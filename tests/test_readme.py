"""README shows real commands with their real output: run them, and compare all but numbers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
_BLOCK = re.compile(r"<!-- run -->\n```(bash|python)\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", re.DOTALL)


def skeleton(text: str) -> list[str]:
    """Lines without what may differ between two runs: numbers, digests, units of size, alignment."""
    text = re.sub(r"\b[0-9a-f]{8,64}\b", "#", text)
    text = re.sub(r"\d+([.:]\d+)*", "#", text)
    text = re.sub(r"\b(B|KiB|MiB)\b", "#", text)
    text = re.sub(r"[ ▁▂▃▄▅▆▇█─]+", " ", text)
    return [line.strip() for line in text.splitlines() if line.strip()]


@pytest.mark.slow
def test_every_command_runs_and_prints_what_readme_shows(tmp_path):
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "VOCO_VIDEO_CACHE_DIR": str(tmp_path / "cache"),
    }
    blocks = _BLOCK.findall(README)
    assert len(blocks) >= 3
    for language, code, shown in blocks:
        command = ["bash", "-euo", "pipefail", "-c", code] if language == "bash" else [sys.executable, "-c", code]
        ran = subprocess.run(
            command, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert ran.returncode == 0, f"{code}\n{ran.stdout}"
        if shown:
            printed = ran.stdout.replace(str(tmp_path / "cache"), "~/.cache/voco-video")
            assert skeleton(printed) == skeleton(shown), printed


def test_the_two_commands_are_there():
    for mark in ("main command", "test command"):
        block = README.split(f"<!-- {mark} -->")[1].split("<!-- end -->")[0]
        assert block.count("```bash") == 1


def test_the_file_tree_names_what_exists():
    root = Path(__file__).parent.parent
    tree = README.split("## What is where")[1].split("```")[1]
    package, named = root / "voco_video", set()
    for line in tree.splitlines():
        if match := re.match(r"  (\w+(?:\.py|/))\s", line):
            named.add(match[1].rstrip("/"))
            assert (package / match[1]).exists(), match[1]
    modules = {p.name for p in package.iterdir() if p.suffix == ".py" or (p.is_dir() and p.name != "__pycache__")}
    assert modules - {"__init__.py"} == named
