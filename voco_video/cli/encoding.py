"""Text that any terminal, file or pipe can take: no character that its encoding lacks, none that moves the cursor."""

from __future__ import annotations

import codecs
import io
import re
import sys
from typing import TextIO

_PLAINER = {"─": "-", "→": "->", "…": "...", "–": "-", "×": "x", "≤": "<=", "≥": ">=", "·": "|", "±": "+-"}
_PLAINER |= zip("▁▂▃▄▅▆▇█", "__.--==#", strict=True)
# What moves the cursor, colours the screen or turns the direction of writing; file names may have it.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def print_whatever_the_encoding() -> None:
    """Let standard output and error print any text: characters that their encoding lacks are replaced by plainer ones.

    Bytes of file names that are no text in the system's encoding come out as they are.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="voco-video")


def shown(text: str, stream: TextIO) -> str:
    r"""Return a text as a stream will show it: on one line, with plainer characters for those that it lacks.

    >>> shown("a\tb\x1b[31m", sys.stdout)
    'a\\tb\\x1b[31m'
    """
    text = _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
    # A stream that stands for another, while a progress bar is shown, does not know the other's encoding.
    encoding = getattr(stream, "rich_proxied_file", stream).encoding or "utf-8"
    return text.encode(encoding, "voco-video").decode(encoding, "surrogateescape")


def print_error(text: str) -> None:
    """Print a text as ``error: ...`` on standard error, whatever names of files it quotes.

    Its lines are not broken, so that a path in them can be copied.
    """
    lines = [shown(line, sys.stderr) for line in f"error: {text}".split("\n")]
    print("\n".join(lines), file=sys.stderr)


def _plainer(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff":  # a byte of a file name, see PEP 383
        return bytes([ord(character) - 0xDC00]), error.start + 1
    return _PLAINER.get(character) or character.encode("ascii", "backslashreplace").decode(), error.start + 1


codecs.register_error("voco-video", _plainer)
