"""Tables: as wide as they have to be in a pipe, as wide as there is room on a terminal."""

from __future__ import annotations

import io
import sys

import pytest
from rich.cells import cell_len

from voco_video.cli import tables
from voco_video.cli.tables import Column, print_table, print_wrapped, shortened

COLUMNS = [
    "video",
    Column("entry", cut=None),
    "frames",
    Column("vision tokens", right=True),
    Column("from", spare=1),
    "size",
    Column("model", spare=2),
]
NAMES = ["clip.mp4", "日本語の長い名前のビデオファイル.mkv", "🎬🎬 film 👩‍👩‍👧.mp4"]
NAMES += ["a-very-long-name-" * 5 + "0001.mp4"]
ROWS = [
    [name, f"{n:012x}", str(10**n), f"{64 * 10**n}", "0:04.00", f"{n}.5 MiB", "assets/voco-tiny"]
    for n, name in enumerate(NAMES)
]


class _Stream(io.TextIOWrapper):
    def __init__(self, encoding: str, *, is_terminal: bool) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, errors="voco-video", write_through=True)
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch):
    """What a function prints on a terminal so many characters wide, or into a pipe, line by line."""
    monkeypatch.setenv("TERM", "dumb")  # no styles

    def call(show, *arguments, width: int | None = None, encoding: str = "utf-8") -> list[str]:
        stream = _Stream(encoding, is_terminal=width is not None)
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", stream)
            if width is not None:
                patched.setenv("COLUMNS", str(width))
            show(*arguments)
        return stream.buffer.getvalue().decode(encoding).splitlines()

    return call


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_pipe_gets_everything_whole(printed, encoding):
    heading, rule, *lines, last = printed(print_table, COLUMNS, ROWS, encoding=encoding)
    assert last == ""
    assert len(lines) == len(ROWS)
    assert heading.split() == ["video", "entry", "frames", "vision", "tokens", "from", "size", "model"]
    assert set(rule) == ({"─"} if encoding == "utf-8" else {"-"})
    for line, row in zip(lines, ROWS, strict=True):
        name = row[0].encode(encoding, "voco-video").decode(encoding)
        assert line.split() == " ".join([name, *row[1:]]).split()
        assert line.startswith(name)
    ends = {cell_len(line[: line.index(" MiB")]) for line in lines}
    assert len(ends) == 1, "numbers end below each other, beside names of wide characters too"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("width", [120, 100, 80, 72, 60])
def test_one_line_a_row_and_none_too_wide(printed, width, encoding):
    lines = printed(print_table, COLUMNS, ROWS, width=width, encoding=encoding)
    assert max(map(cell_len, lines)) <= width
    for row in ROWS:
        (line,) = (line for line in lines if row[1] in line)
        assert all(number in line for number in row[2:4]), "numbers and digests are never cut"
    left_out = [line.removeprefix("no room here for ") for line in lines if line.startswith("no room")]
    assert left_out in ([], ["model"], ["from, model"]), "the largest `spare` goes first, and it is said"


@pytest.mark.parametrize("width", [40, 30])
def test_a_block_of_lines_where_one_cannot_hold_a_row(printed, width):
    lines = printed(print_table, COLUMNS, ROWS, width=width)
    assert max(map(cell_len, lines)) <= width
    assert lines.count("") == len(ROWS)
    assert [line.split()[-1] for line in lines if line.startswith("frames")] == ["1", "10", "100", "1000"]


def test_headings_are_folded_before_anything_is_cut(printed):
    wide = printed(print_table, ["run", "difference to the first"], [["k8", "0.51"]])
    assert wide[0] == "run  difference to the first"
    narrow = printed(print_table, ["run", "difference to the first"], [["k8", "0.51"]], width=16)
    assert narrow == ["     difference", "         to the", "run       first", "───────────────", "k8         0.51", ""]


def test_numbers_are_right_and_text_is_left(printed):
    columns = ["name", "number", "size", "share", "score", "words", Column("range", right=True)]
    rows = [
        ["1", "7", "9 B", "5 %", "–", "8 frames", "0.0-7.0"],
        ["22", "12,345", "10.5 MiB", "100 %", "41.1 [39.2, 43.1]", "x", "10.0-20.0"],
    ]
    lines = printed(print_table, columns, rows)
    assert lines[2:4] == [
        "   1       7       9 B    5 %                  –  8 frames    0.0-7.0",
        "  22  12,345  10.5 MiB  100 %  41.1 [39.2, 43.1]  x         10.0-20.0",
    ]


def test_no_rows_and_names_that_would_move_the_cursor(printed):
    assert printed(print_table, ["a", "b"], []) == ["a  b", "────", ""]
    lines = printed(print_table, ["name"], [["a\nb\x1b[2J\t\u202egnp.exe"]], width=80)
    assert lines[2] == r"a\nb\x1b[2J\t\u202egnp.exe"


@pytest.mark.parametrize("text", [*NAMES, "e\u0301" * 20, "👩‍👩‍👧" * 9])
@pytest.mark.parametrize("cut", ["middle", "end"])
def test_texts_are_cut_to_cells_of_the_terminal(text, cut):
    for width in range(1, 30):
        short = shortened(text, width, cut=cut)
        assert cell_len(short) <= width
        assert short == text or width < cell_len(text)
        assert short.startswith(text[: short.find("…")] if "…" in short else "")


def test_long_words_stay_whole_where_a_text_is_wrapped(printed):
    path = "/a/very/long/path/to/a/file.mp4"
    assert printed(print_wrapped, f"written: {path} and more", width=20) == ["written:", path, "and more"]
    assert printed(print_wrapped, f"written: {path} and more") == [f"written: {path} and more"]


def test_terminals_without_a_size(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert tables.terminal_width(_Stream("utf-8", is_terminal=True)) == 80
    assert tables.terminal_width(_Stream("utf-8", is_terminal=False)) is None
