"""Tables that fit the terminal that they are printed on: one line a row, numbers right, text left.

Where a table is wider than its terminal, the words of its headings go below each other, then long texts are cut, then
columns that can be spared are left out, and that is said. Where all that is not enough, each row becomes a block of
lines. A file or a pipe has no width: there every column stands, whole, and nothing but text is written.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TextIO

from voco_video.cli.encoding import shown

if TYPE_CHECKING:
    from rich.console import Console

_GAP = 2  # blanks between columns
_COMFORTABLE = 16  # a text is cut down to this many characters before a column is left out,
_SHORTEST = 8  # and down to this many where no column can be spared
_NUMBER = re.compile(r"[-+<≤~]?\d[\d,.:]*(?: ?(?:%|x|ms|s|h|[KMGT]?i?B))?(?: ?[\[(±].*)?")
_NOTHING = ("", "-", "–", "?")


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: its heading.
        right: whether it is aligned right; None where all of its cells are numbers.
        cut: what of a text that is too long gives way: its middle, as of a file's name, or its end; None: it is never
            cut, as a digest that is to be copied. Numbers never are.
        spare: 0 for a column that always stands; others are left out of too narrow terminals, the largest first.
        brackets: what stands in brackets behind the numbers; it is left out where that is not enough.
    """

    name: str
    right: bool | None = None
    cut: Literal["middle", "end"] | None = "middle"
    spare: int = 0
    brackets: str = ""


@dataclass(frozen=True)
class _Shown:
    """What fits of a table.

    Attributes:
        widths: of the columns that are shown, by number, in cells of the terminal.
        brief: the columns that are shown without what stands in brackets.
    """

    widths: dict[int, int]
    brief: frozenset[int] = frozenset()


def print_table(columns: Sequence[str | Column], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their columns on standard output, and an empty line.

    Args:
        columns: headings, or columns that say how they may be narrowed.
        rows: a cell for each column.
    """
    out = sys.stdout
    # Measured as they will look: an encoding may lack some of the characters.
    cells = [[shown(cell, out) for cell in row] for row in rows]
    table = [
        _aligned(one if isinstance(one, Column) else Column(one), [row[number] for row in cells], out)
        for number, one in enumerate(columns)
    ]
    width = terminal_width(out)
    laid_out = _lay_out(table, cells, width)
    if laid_out is None:
        assert width is not None
        _print_blocks(table, cells, width, out)
    else:
        _print_lines(table, cells, laid_out, width, out)
    print(file=out)


def terminal_width(stream: TextIO) -> int | None:
    """Return how many characters a line of this terminal holds, now; None where it is a file or a pipe."""
    if not stream.isatty():
        return None
    if (given := os.environ.get("COLUMNS", "")).isdigit() and int(given) > 0:
        return int(given)
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80  # some that are none of a size say 0
    except (OSError, ValueError):
        return 80


def console_on(stream: TextIO, width: int | None = None) -> Console:
    """Make rich's console on a stream; it writes styles on a terminal alone, and none where NO_COLOR is set."""
    from rich.console import Console

    plain = not stream.isatty() or bool(os.environ.get("NO_COLOR"))
    return Console(
        file=stream, width=width, height=None if width is None else 25, force_terminal=stream.isatty(),
        color_system=None if plain else "auto", highlight=False, markup=False, emoji=False,
    )  # fmt: skip


def shortened(text: str, width: int, *, cut: str = "middle", ellipsis: str = "…") -> str:
    """Cut a text that is wider than so many cells of a terminal; wide characters take two.

    >>> shortened("holiday-2024-001.mp4", 12), shortened("where is it?", 8, cut="end"), shortened("日本語.mp4", 8)
    ('holida…1.mp4', 'where i…', '日本…mp4')
    """
    from rich.cells import cell_len

    if cell_len(text) <= width:
        return text
    room = width - cell_len(ellipsis)
    if room <= 0:
        return _head(text, width)
    tail = 0 if cut == "end" else room // 2
    return _head(text, room - tail) + ellipsis + _tail(text, tail)


def _head(text: str, width: int) -> str:
    """Return as much of the beginning of a text as fits."""
    from rich.cells import cell_len

    end = min(len(text), width)
    while end and cell_len(text[:end]) > width:
        end -= 1
    return text[:end]


def _tail(text: str, width: int) -> str:
    """Return as much of the end of a text as fits, and no mark without the letter that it belongs to."""
    from rich.cells import cell_len

    start = len(text) - min(len(text), width)
    while start < len(text) and (cell_len(text[start:]) > width or cell_len(text[start]) == 0):
        start += 1
    return text[start:]


def _aligned(column: Column, cells: Sequence[str], stream: TextIO) -> Column:
    """Say whether a column's cells are numbers where it does not say so, and never cut those."""
    right = column.right
    if right is None:
        filled = [cell for cell in cells if cell not in _NOTHING]
        right = bool(filled) and all(_NUMBER.fullmatch(cell) for cell in filled)
    return replace(column, name=shown(column.name, stream), right=right, cut=None if right else column.cut)


def _lay_out(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None) -> _Shown | None:
    """Choose what is shown of a table; None where one line cannot hold a row."""
    from rich.cells import cell_len

    def folded(i: int, *, brief: bool = False) -> int:
        cells = [_brief(row[i]) if brief else row[i] for row in rows]
        return max(map(cell_len, [*cells, *columns[i].name.split()]))

    numbers = range(len(columns))
    whole = {i: max(map(cell_len, [columns[i].name, *(row[i] for row in rows)])) for i in numbers}
    if width is None or _total(whole) <= width:
        return _Shown(whole)
    widths = {i: folded(i) for i in numbers}
    brief: set[int] = set()
    while (narrowed := _narrowed(widths, columns, width, _COMFORTABLE)) is None:
        spare = max(widths, key=lambda i: (columns[i].spare, i))
        with_brackets = [i for i in widths if columns[i].brackets and folded(i, brief=True) < widths[i]]
        if columns[spare].spare:
            del widths[spare]
        elif with_brackets:
            brief.add(with_brackets[-1])
            widths[with_brackets[-1]] = folded(with_brackets[-1], brief=True)
        else:
            narrowed = _narrowed(widths, columns, width, _SHORTEST)
            return None if narrowed is None else _Shown(narrowed, frozenset(brief))
    for i in sorted(whole.keys() - widths.keys(), key=lambda i: columns[i].spare):  # a narrow one may fit after all
        more = dict(sorted({**widths, i: folded(i)}.items()))
        if (wider := _narrowed(more, columns, width, _COMFORTABLE)) is not None:
            widths, narrowed = more, wider
    return _Shown(narrowed, frozenset(brief))


def _brief(cell: str) -> str:
    return cell.partition(" [")[0]


def _narrowed(widths: dict[int, int], columns: Sequence[Column], width: int, shortest: int) -> dict[int, int] | None:
    """Take from the widest texts until the line fits; None where that is not enough."""
    narrowed = dict(widths)
    while (excess := _total(narrowed) - width) > 0:
        texts = [i for i in narrowed if columns[i].cut is not None and narrowed[i] > shortest]
        if not texts:
            return None
        widest = max(texts, key=lambda i: narrowed[i])
        others = [narrowed[i] for i in texts if narrowed[i] < narrowed[widest]]
        narrowed[widest] -= max(1, min(excess, narrowed[widest] - max([shortest, *others])))
    return narrowed


def _total(widths: dict[int, int]) -> int:
    return sum(widths.values()) + _GAP * (len(widths) - 1)


def _print_lines(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], fitting: _Shown, width: int | None, out: TextIO
) -> None:
    """Print one line a row, and which columns were left out."""
    from rich.box import Box
    from rich.table import Table
    from rich.text import Text

    blank, dash = "    \n", shown("─", out)
    rule = Box(f"{blank * 2} {dash * 2} \n{blank * 5}", ascii=True)  # as it is, whatever the encoding
    table = Table(box=rule, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0), border_style="dim")
    for i, cell_width in fitting.widths.items():
        align: Literal["left", "right"] = "right" if columns[i].right else "left"
        table.add_column(Text(columns[i].name, overflow="fold"), justify=align, width=cell_width, vertical="bottom")
    ellipsis = shown("…", out)
    for row in rows:
        cells = {i: _brief(row[i]) if i in fitting.brief else row[i] for i in fitting.widths}
        cut = [
            shortened(cells[i], n, cut=columns[i].cut or "end", ellipsis=ellipsis) for i, n in fitting.widths.items()
        ]
        table.add_row(*(Text(cell, no_wrap=True, overflow="crop") for cell in cut))
    console = console_on(out, width or _total(fitting.widths))
    with console.capture() as drawn:
        console.print(table)
    print("\n".join(line.rstrip() for line in drawn.get().splitlines()), file=out)
    left_out = [column.name for i, column in enumerate(columns) if i not in fitting.widths]
    if fitting.brief:
        brief = [columns[i] for i in sorted(fitting.brief)]
        left_out.append(f"{brief[0].brackets} of {', '.join(column.name for column in brief)}")
    if left_out:
        assert width is not None
        print_wrapped(f"left out, as there is no room: {', '.join(left_out)}", file=out)


def _print_blocks(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int, out: TextIO) -> None:
    """Print each row as a block of lines; what may be cut is cut to one line."""
    from rich.cells import cell_len

    indent = max(cell_len(column.name) for column in columns) + _GAP
    ellipsis = shown("…", out)
    for number, row in enumerate(rows):
        if number:
            print(file=out)
        for column, cell in zip(columns, row, strict=True):
            name = column.name + " " * (indent - cell_len(column.name))
            room = max(width - indent, _SHORTEST)
            print(name + (shortened(cell, room, cut=column.cut, ellipsis=ellipsis) if column.cut else cell), file=out)


def print_wrapped(text: str, *, indent: int = 0, file: TextIO | None = None) -> None:
    """Print a text with its lines broken between words, where it is printed on a terminal.

    A word that is wider than the terminal stays whole, so that it can be copied.

    Args:
        indent: blanks before the second line and those after it.
        file: standard output where it is None.
    """
    stream = file or sys.stdout
    width = terminal_width(stream)
    for line in text.split("\n"):
        print(line if width is None else "\n".join(_wrapped(shown(line, stream), width, indent)), file=stream)


def print_error(text: str) -> None:
    """Print a text as ``error: ...`` on standard error, whatever names of files it quotes."""
    lines = [shown(line, sys.stderr) for line in f"error: {text}".split("\n")]
    print_wrapped("\n".join(lines), file=sys.stderr)


def _wrapped(text: str, width: int, indent: int) -> list[str]:
    """Break a text between words.

    >>> _wrapped("note: one two three", 11, 2)
    ['note: one', '  two three']
    """
    from rich.cells import cell_len

    lines: list[str] = []
    line = ""
    for word in re.findall(r"\s*\S+", text):
        if line.strip() and cell_len(line + word) > width:
            lines.append(line)
            line = " " * indent + word.strip()
        else:
            line += word
    return [*lines, line]
