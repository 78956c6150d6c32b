"""A pseudo terminal, and what stands on its screen in the end."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.cells import cell_len

_PIECES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+")
PROGRAM = Path(sys.executable).parent / "voco-video"


@dataclass(frozen=True)
class Seen:
    """What a program did on a terminal.

    Attributes:
        code: its exit code.
        raw: all that it wrote.
        screen: the lines that stand there in the end.
        drawn: every line that ever stood there.
    """

    code: int
    raw: str
    screen: list[str]
    drawn: list[str]

    @property
    def widest(self) -> int:
        """Of what was ever drawn, in cells; what is to be copied, a path or a command, may go on in the next line."""
        prose = (line for line in self.drawn if " " in line.strip() and "voco-video " not in line)
        return max(map(cell_len, prose), default=0)


def read_screen(code: int, written: bytes, encoding: str = "utf-8") -> Seen:
    """Follow a terminal's cursor up and down through what was written."""
    raw = written.decode(encoding, "surrogateescape")
    screen, drawn, row, column = [""], [], 0, 0
    for piece in _PIECES.findall(raw):
        if piece == "\n":
            row += 1
            screen += [""] * (row + 1 - len(screen))
        elif piece == "\r":
            column = 0
        elif piece.startswith("\x1b"):
            if piece.endswith("A"):
                row = max(0, row - int(piece[2:-1] or 1))
            elif piece.endswith("K"):
                drawn.append(screen[row])
                screen[row] = "" if piece == "\x1b[2K" else screen[row][:column]
            else:
                assert piece.endswith("m"), f"{piece!r} is something that this terminal does not know"
        else:
            screen[row] = screen[row][:column] + piece + screen[row][column + len(piece) :]
            column += len(piece)
    drawn += screen
    return Seen(code, raw, [line.rstrip() for line in screen], [line.rstrip() for line in drawn])


class Terminal:
    """A pseudo terminal of so many columns; what is written to it is read meanwhile."""

    def __init__(self, columns: int) -> None:
        self._master, self.slave = pty.openpty()
        self.resize(columns)
        self._written = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def resize(self, columns: int) -> None:
        """Give it another width."""
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))

    def _read(self) -> None:
        try:
            while chunk := os.read(self._master, 1 << 16):
                self._written += chunk
        except OSError:  # the last writer is gone
            pass

    def close(self) -> bytes:
        """Return all that was written."""
        os.close(self.slave)
        self._reader.join()
        os.close(self._master)
        return bytes(self._written)


def run_in_process(
    monkeypatch: pytest.MonkeyPatch,
    columns: int,
    *arguments: object,
    environment: Mapping[str, str] | None = None,
    encoding: str = "utf-8",
) -> Seen:
    """Run the program's entry point in this process, on a terminal."""
    from voco_video import cli

    terminal = Terminal(columns)
    code = 0
    with monkeypatch.context() as patched:
        patched.setenv("TERM", "xterm-256color")
        for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
            patched.delenv(name, raising=False)
        for name, value in (environment or {}).items():
            patched.setenv(name, value)
        with (
            open(os.dup(terminal.slave), "w", encoding=encoding) as out,
            open(os.dup(terminal.slave), "w", encoding=encoding) as err,
        ):
            patched.setattr(sys, "argv", ["voco-video", *map(str, arguments)])
            patched.setattr(sys, "stdout", out)
            patched.setattr(sys, "stderr", err)
            try:
                cli.main()
            except SystemExit as exit_:
                code = int(exit_.code or 0)
    return read_screen(code, terminal.close(), encoding)


def run_program(
    columns: int, *arguments: object, environment: Mapping[str, str] | None = None, encoding: str = "utf-8"
) -> Seen:
    """Run the program in a process of its own, on a terminal."""
    terminal = Terminal(columns)
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}
    done = subprocess.run(
        [PROGRAM, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=terminal.slave,
        stderr=terminal.slave,
        env=env | {"TERM": "xterm-256color"} | dict(environment or {}),
        check=False,
    )
    return read_screen(done.returncode, terminal.close(), encoding)
