"""README and docs/ as tests read them: their code blocks, their commands, what their words in backticks name."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer.main

import voco_video
from voco_video.cli import app

ROOT = Path(__file__).parent.parent.parent
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, ROOT / "CONTRIBUTING.md", *DOCS]

_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]+) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$(?:\n\n```text\n(?P<shown>.*?)^```$)?",
    re.DOTALL | re.MULTILINE,
)
_OPERATORS = {"|", "||", "&", "&&", ";", ">", ">>", "<", "(", ")"}


@dataclass(frozen=True)
class Block:
    """A block of code in a page.

    Attributes:
        mark: the comment before it: "run", "not run: …", "run by …"; empty where there is none.
        shown: the output that the page shows below it.
    """

    page: Path
    mark: str
    language: str
    code: str
    shown: str

    @property
    def is_run(self) -> bool:
        """Whether the tests run it as it stands."""
        return self.mark == "run"


def blocks(page: Path) -> list[Block]:
    """The code blocks of a page, those of output left out."""
    found = _BLOCK.finditer(page.read_text(encoding="utf-8"))
    values = [[match[name] or "" for name in ("mark", "language", "code", "shown")] for match in found]
    return [Block(page, *value) for value in values if value[1] != "text"]


def without_blocks(page: Path) -> str:
    """A page's prose and tables."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))


def inline_code(page: Path) -> list[str]:
    """What stands between single backticks."""
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", without_blocks(page))


def run_blocks(chosen: Sequence[Block], folder: Path, *, in_one_process: bool = False) -> None:
    """Run blocks in order, and compare what they print with what their page shows.

    Args:
        folder: where they run; the frame cache is in it, too.
        in_one_process: start Python once for all, which takes a fraction of the time; blocks of bash may then have
            nothing but commands of ours.
    """
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "VOCO_VIDEO_CACHE_DIR": str(folder / "cache"),
    }
    if in_one_process:
        runner = [sys.executable, str(Path(__file__).with_name("run_blocks.py"))]
        codes = json.dumps([[block.language, block.code] for block in chosen])
        ran = _run(runner, folder, environment, stdin=codes)
        printed = ran.split("\f")[1:]
        assert len(printed) == len(chosen), ran
    else:
        commands = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
        printed = [_run([*commands[block.language], block.code], folder, environment) for block in chosen]
    for block, output in zip(chosen, printed, strict=True):
        if block.shown:
            output = output.replace(str(folder / "cache"), "~/.cache/voco-video")
            assert skeleton(output) == skeleton(block.shown), output


def _run(command: list[str], folder: Path, environment: dict[str, str], *, stdin: str | None = None) -> str:
    """What a command prints, errors included; AssertionError unless it succeeds."""
    ran = subprocess.run(
        command, cwd=folder, env=environment, text=True, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert ran.returncode == 0, f"{command[-1]}\n{ran.stdout}"
    return ran.stdout


def skeleton(text: str) -> list[str]:
    """Lines without what may differ between two runs: numbers, digests, units of size, how long ago, alignment."""
    text = re.sub(r"\b[0-9a-f]{8,64}\b", "#", text)
    text = re.sub(r"\d+([.:]\d+)*", "#", text)
    text = re.sub(r"\b(B|KiB|MiB)\b", "#", text)
    text = re.sub(r"\bnow\b|# (min|h|d)\b", "#", text)  # how long ago
    text = re.sub(r"[ ▁▂▃▄▅▆▇█─]+", " ", text)
    return [line.strip() for line in text.splitlines() if line.strip()]


def shell_commands(code: str) -> Iterator[list[str]]:
    """The words of every simple command of a shell script, those after pipes and other operators too."""
    for line in code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in _OPERATORS:
                words.append(word)
            elif words:
                yield words
                words = []


def check_shell(code: str) -> None:
    """AssertionError unless every command of ours that a script has exists, with these options."""
    for words in shell_commands(code):
        programs = [Path(word).name for word in words]
        if "voco-video" in programs:
            check_command(words[programs.index("voco-video") + 1 :])
        elif words[:2] == ["python", "-m"] and words[2].partition(".")[0] == "benchmarks":
            check_benchmark(words[2:])
        elif programs[0] == "pip":
            check_extras(words)


def check_command(words: Sequence[str]) -> None:
    """AssertionError unless `voco-video` takes these arguments; nothing is run."""
    command, words = _command_of(words)
    try:
        command.make_context("voco-video", list(words))
    except Exception as error:  # typer brings exceptions of its own, or those of click
        raise AssertionError(f"voco-video {command.name} {shlex.join(words)}: {error}") from error


def check_options(words: Sequence[str]) -> None:
    """AssertionError unless the command exists and has the options; arguments may be missing."""
    command, words = _command_of(words)
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    named = {word.partition("=")[0] for word in words if re.match(r"--\w", word)}
    assert named <= known | {"--help"}, f"voco-video {command.name}: no {named - known}"


def _command_of(words: Sequence[str]) -> tuple[Any, Sequence[str]]:
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"{command.name} has no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


def check_benchmark(words: Sequence[str]) -> None:
    """AssertionError unless the module is there and the options stand somewhere in the benchmarks' code."""
    assert importlib.util.find_spec(words[0]) is not None, words[0]
    source = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "benchmarks").rglob("*.py")))
    for word in words[1:]:
        if word.startswith("--"):
            field = word.removeprefix("--").replace("-", "_")
            assert f'"{word}"' in source or re.search(rf"\b{field}:", source), f"{words[0]} has no {word}"


def check_extras(words: Sequence[str]) -> None:
    """AssertionError unless pyproject.toml has the extras that a pip command names."""
    known = set(extras())
    for word in words:
        if match := re.fullmatch(r"(?:\.|voco-video)\[([\w,-]+)\]", word):
            assert set(match[1].split(",")) <= known, word


def extras() -> list[str]:
    """The extras of pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = text.split("[project.optional-dependencies]")[1].split("\n[")[0]
    return re.findall(r"^([\w-]+) = \[", section, re.MULTILINE)


def check_python(code: str) -> None:
    """AssertionError unless the code compiles and uses names of ours that exist, with keywords that they take."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "voco_video":
            assert hasattr(voco_video, node.attr), f"voco_video has no {node.attr}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            _check_keywords(node, node.func.attr)


def _check_keywords(call: ast.Call, name: str) -> None:
    owners = [voco_video, voco_video.VideoModel, voco_video.CompressedVideo, voco_video.FrameCache]
    functions = [function for owner in owners if callable(function := getattr(owner, name, None))]
    named = {keyword.arg for keyword in call.keywords if keyword.arg}
    known = [set(inspect.signature(function).parameters) for function in functions]
    assert not functions or any(named <= parameters for parameters in known), f"{name} takes no {named}"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as mkdocs and GitHub make them."""
    headings = re.findall(r"^#+ (.+)$", without_blocks(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    """The targets of a page's links and pictures that are no addresses of the web."""
    targets = re.findall(r"\]\(([^)\s]+)\)", without_blocks(page))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]
