"""What mkdocs adds to docs/: every command and option, and pages that are kept elsewhere.

mkdocs.yml names this file as a hook. Nothing that it adds is written to docs/, so it cannot go stale.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import typer.main

from voco_video.checkpoint.recommended import RECOMMENDED
from voco_video.cli import app
from voco_video.cli.help import sections, split_help

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # mkdocs loads this file by its path

from scripts.option_tables import option_tables  # noqa: E402

BORROWED = {
    "contributing.md": ROOT / "CONTRIBUTING.md",
    "changelog.md": ROOT / "CHANGELOG.md",
    "measurements.md": ROOT / "benchmarks" / "README.md",
    "results/decode.png": ROOT / "benchmarks" / "results" / "decode.png",
}
"""Files of the site that are kept outside docs/, by their place on it."""
COMMANDS_MARK = "<!-- every command -->"
OPTIONS_MARK = "<!-- every option -->"
RECOMMENDED_MARK = "<!-- recommended checkpoints -->"


def on_files(files: Any, config: Any) -> Any:
    """Add the borrowed pages to the site."""
    from mkdocs.structure.files import File

    for place, path in BORROWED.items():
        files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Put the commands in the place of their mark, and point links from and to borrowed pages to their places here."""
    if page.file.src_uri in BORROWED:
        markdown = re.sub(r"\]\((?:\.\./)?docs/", "](", markdown)
    for place, path in BORROWED.items():
        markdown = markdown.replace(f"](../{path.relative_to(ROOT)}", f"]({place}")
    markdown = markdown.replace(COMMANDS_MARK, command_line_reference())
    markdown = markdown.replace(RECOMMENDED_MARK, recommended_table())
    return markdown.replace(OPTIONS_MARK, option_tables().partition("\n")[2])


def recommended_table() -> str:
    """Return the checkpoints to begin with as a table."""
    lines = ["| name | model | parameters | memory | tokens a frame | licence |", "|---|---|---|---|---|---|"]
    for one in RECOMMENDED:
        tokens = "by the picture's shape" if one.tokens_per_frame is None else one.tokens_per_frame
        size, memory = f"{one.num_parameters / 1e9:.2f} billion", f"{one.weight_bytes / 1e9:.1f} GB"
        link = f"[{one.hub_id}](https://huggingface.co/{one.hub_id})"
        lines.append(f"| `{one.short}` | {link} | {size} | {memory} | {tokens} | {one.licence} |")
    return "\n".join(lines)


def commands() -> dict[str, Any]:
    """Every command of `voco-video` by its words, such as "cache ls", in the order of --help."""
    found: dict[str, Any] = {}
    for name, command in typer.main.get_command(app).commands.items():
        inner = getattr(command, "commands", None)
        found |= {f"{name} {n}": c for n, c in inner.items()} if inner else {name: command}
    return found


def command_line_reference() -> str:
    """Markdown with a section for each command: what it does, its arguments, its options, examples."""
    return "\n".join(_section(name, command) for name, command in commands().items())


def _section(name: str, command: Any) -> str:
    what, examples = split_help(command.help)
    first, *details = what.split("\n\n")
    context = command.context_class(command, info_name=f"voco-video {name}")
    lines = [f"## voco-video {name}", "", _plain(first), "", "```bash", *examples, "```", ""]
    lines += ["\n\n".join(map(_plain, details)), ""]
    for section in sections(command, context):
        lines += [f"| {section.heading} | |", "|---|---|"]
        lines += [f"| `{_one_line(names)}` | {_one_line(_plain(text))} |" for names, text in section.rows]
        lines.append("")
    return "\n".join(lines)


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _plain(text: str) -> str:
    """Text in which no sign is markup."""
    return re.sub(r"([<>*_|])", r"\\\1", text)
