"""Lines of JSON that carry their own checksum, for files that only ever grow at their end.

Where lines are chained, a line's checksum also covers that of the line before. Then a line that is lost, doubled or
moved breaks the chain at the next one.
"""

from __future__ import annotations

import json
from typing import Any

from blake3 import blake3

from voco_video.cache.key import canonical_json

_CHECKSUM_DIGITS = 64


def encode_line(content: Any, *, after: bytes = b"") -> bytes:
    """One line: 64 hex digits of BLAKE3, a space, canonical JSON, a line feed.

    Args:
        after: the line before, where lines are chained.

    Example:
        >>> decode_line(encode_line({"a": [1, 2]}))
        {'a': [1, 2]}
    """
    text = canonical_json(content).encode()
    return _checksum(text, after) + b" " + text + b"\n"


def decode_line(line: bytes, *, after: bytes = b"") -> Any:
    """The JSON value of a line; None if the line is torn, altered, or chained to another line than `after`."""
    checksum, _, text = line.removesuffix(b"\n").partition(b" ")
    if not line.endswith(b"\n") or _checksum(text, after) != checksum:
        return None
    return json.loads(text)


def whole_lines(data: bytes) -> list[bytes]:
    """The lines of a file, each with its line feed; what follows the last line feed is left out.

    Only line feeds end a line: a byte that turned into another kind of line break must not cut one in two.
    """
    return [line + b"\n" for line in data.split(b"\n")[:-1]]


def _checksum(text: bytes, after: bytes) -> bytes:
    return blake3(after[:_CHECKSUM_DIGITS] + text).hexdigest().encode()
