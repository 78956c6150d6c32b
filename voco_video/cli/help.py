"""``--help`` of every command: what it does, examples, and its options in the same groups in the same order everywhere.

An option names its group as typer's ``rich_help_panel``; `PANELS` is their order. Text alone is written, so that help
reads the same in a terminal, a pipe and a page of the documentation.
"""

from __future__ import annotations

import inspect
import os
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from voco_video.options.answering import WHAT_IS_SEEN
from voco_video.options.cluster import CLUSTER
from voco_video.options.compression import FOLLOWING, STORAGE
from voco_video.options.engine import ENGINE
from voco_video.options.loading import MODEL
from voco_video.serve.settings import SAFETY, SERVER

OPTIONS, DATA, QUESTIONS, OUTPUT = "Options", "Data", "Questions", "Output"
PANELS = (
    *(OPTIONS, SERVER, SAFETY, DATA, QUESTIONS, "Sampling", "Compression", CLUSTER, FOLLOWING, WHAT_IS_SEEN),
    *("Generation", "Judge"),
    *(MODEL, ENGINE, STORAGE, OUTPUT),
)
"""The groups of options, in the order in which help shows them."""

_EXAMPLES = "\b\nExamples:\n"
_WIDEST_NAME = 26  # a longer one has its text on the next line


@dataclass(frozen=True)
class Section:
    """Rows of help under a heading: the name of an argument, option or command, and what it is."""

    heading: str
    rows: list[tuple[str, str]]


class Command(TyperCommand):
    """A command with help in groups, which also takes the earlier spellings of its options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line, with earlier spellings replaced by today's."""
        return super().parse_args(ctx, _respelt(args, FORMER.get(self.name or "", {})))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """List what may follow the command's name."""
        return ["[OPTIONS]", *(_usage(param) for param in self.params if _is_shown_argument(param))]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help page."""
        formatter.write(page(self, ctx, width=formatter.width))


class Group(TyperGroup):
    """A command that has commands of its own, in groups."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help page."""
        formatter.write(page(self, ctx, width=formatter.width))


FORMER: Mapping[str, Mapping[str, str]] = {
    "ask": {"--strip": "--out"},
    "find": {"--strip": "--out"},
    "inspect": {"--output": "--out"},
    "demo": {"--folder": "--out"},
}
"""Spellings of version 0.1.0 that still work, by command; a note names today's."""


def _respelt(args: Sequence[str], former: Mapping[str, str]) -> list[str]:
    """Replace former spellings, and say so."""
    respelt: list[str] = []
    for number, arg in enumerate(args):
        if arg == "--":
            return [*respelt, *args[number:]]
        name, equals, value = arg.partition("=")
        if name in former:
            typer.echo(f"note: {name} is called {former[name]} now; the old name still works", err=True)
            name = former[name]
        respelt.append(f"{name}{equals}{value}")
    return respelt


def page(command: Any, context: Any, *, width: int) -> str:
    """Write the help page of a command: usage, what it does, examples, details, arguments and options in groups."""
    about, examples = split_help(command.help)
    first, *details = about.split("\n\n")
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    blocks = [_filled(f"Usage: {usage}", width, hanging=4), _filled(first, width)]
    if examples:
        lines = [line for example in examples for line in wrapped_command(example, width - 2)]
        blocks.append("\n".join([_heading("Examples"), *(f"  {line}" for line in lines)]))
    blocks += [_filled(paragraph, width) for paragraph in details]
    return "\n\n".join([*blocks, written(list(sections(command, context)), width=width)]) + "\n"


def written(shown: Sequence[Section], *, width: int) -> str:
    """Write sections one below the other, with their texts in one column."""
    longest = max((len(name) for section in shown for name, _ in section.rows if len(name) <= _WIDEST_NAME), default=0)
    return "\n\n".join("\n".join([_heading(one.heading), *_table(one.rows, longest, width)]) for one in shown)


def split_help(text: str | None) -> tuple[str, list[str]]:
    """Split the docstring of a command into its text and its examples."""
    before, _, rest = inspect.cleandoc(text or "").partition(_EXAMPLES)
    examples, _, after = rest.partition("\n\n")
    about = "\n\n".join(part.strip() for part in (before, after) if part.strip())
    return about, [line.strip() for line in examples.splitlines() if line.strip()]


def sections(command: Any, context: Any) -> Iterator[Section]:
    """List the arguments, the commands and the options of a command, each in its group."""
    params = [param for param in command.get_params(context) if not param.hidden]
    if rows := [_row(param) for param in params if param.param_type_name == "argument"]:
        yield Section("Arguments", rows)
    inner = getattr(command, "commands", {})
    panels = dict.fromkeys(one.rich_help_panel or "Commands" for one in inner.values())
    for panel in panels:
        named = [(name, one) for name, one in inner.items() if (one.rich_help_panel or "Commands") == panel]
        yield Section(panel, [(name, first_sentence(one.help)) for name, one in named])
    options = [param for param in params if param.param_type_name == "option"]
    has_output = any(panel_of(param) == OUTPUT for param in options)
    for panel in PANELS:
        rows = [_row(param) for param in options if panel_of(param) == panel and param.name != "help"]
        if panel == (OUTPUT if has_output else OPTIONS):
            rows += [_row(param) for param in options if param.name == "help"]
        if rows:
            yield Section(panel, rows)


def panel_of(param: Any) -> str:
    """Return the group of an option."""
    return getattr(param, "rich_help_panel", None) or OPTIONS


def first_sentence(text: str | None) -> str:
    """Return the first sentence of a command's help, without its full stop.

    >>> first_sentence("List files; nothing else. It is fast.")
    'List files; nothing else'
    """
    first = split_help(text)[0].partition("\n\n")[0].replace("\n", " ")
    return first.partition(". ")[0].removesuffix(".")


def _is_shown_argument(param: Any) -> bool:
    return param.param_type_name == "argument" and not param.hidden


def _usage(param: Any) -> str:
    """Write an argument as the usage line shows it: in brackets where it may be left out."""
    name = param.metavar or param.name.upper()
    return name if param.required else f"[{name}]"


def _row(param: Any) -> tuple[str, str]:
    """Return the name and the text of an argument or option."""
    text = param.help or ""
    if param.param_type_name == "argument":
        return param.metavar or param.name.upper(), text
    names = ", ".join(sorted(param.opts, key=len))
    if param.secondary_opts:
        names += f" / {', '.join(param.secondary_opts)}"
    is_flag = getattr(param, "is_flag", False)
    if not is_flag:
        names += f" {param.metavar or param.name.upper().replace('_', '-')}"
    if param.required:
        text += " [required]"
    elif "[default:" not in text and not (is_flag or param.default is None or param.default == ""):
        text += f" [default: {param.default}]"
    return names, text


def wrapped_command(line: str, width: int) -> list[str]:
    r"""Break a command into lines that a shell takes as one.

    >>> print("\n".join(wrapped_command("voco-video ask clip.mp4 'who moves?' --fps 2 --json", 34)))
    voco-video ask clip.mp4 \
        'who moves?' --fps 2 --json
    """
    lines, current = [], ""
    for word in _shell_words(line):
        if current and len(current) + 1 + len(word) + 2 > width:
            lines.append(f"{current} \\")
            current = f"    {word}"
        else:
            current = f"{current} {word}" if current else word
    return [*lines, current]


def _shell_words(line: str) -> list[str]:
    """Split a command at spaces outside quotes; an option stays with its value."""
    words: list[str] = []
    for piece in line.split(" "):
        is_open = words and (words[-1].count('"') % 2 or words[-1].count("'") % 2)
        is_value = words and words[-1].startswith("--") and " " not in words[-1] and not piece.startswith("-")
        if is_open or is_value:
            words[-1] += f" {piece}"
        else:
            words.append(piece)
    return words


def _heading(text: str) -> str:
    """Write a heading, bold in a terminal."""
    return f"{text}:" if "NO_COLOR" in os.environ else typer.style(f"{text}:", bold=True)


def _filled(text: str, width: int, *, hanging: int = 0) -> str:
    return textwrap.fill(
        re.sub(r"[ \n]+", " ", text),
        width,
        subsequent_indent=" " * hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _table(rows: Iterable[tuple[str, str]], longest: int, width: int) -> Iterator[str]:
    """Write names with their texts beside them, or below where a name is long."""
    indent = longest + 4
    for name, text in rows:
        # A default stays on one line.
        text = re.sub(r"\[default: .{,16}\]$", lambda default: default[0].replace(" ", "\xa0"), text)
        lines = _filled(text, width - indent).replace("\xa0", " ").splitlines()
        beside = len(name) <= longest and lines
        yield f"  {name:<{longest}}  {lines.pop(0)}" if beside else f"  {name}"
        yield from (" " * indent + line for line in lines)
