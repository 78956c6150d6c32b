"""Lines of JSON that carry their own checksum, for files that only ever grow at their end."""

from __future__ import annotations

import json
from typing import Any

from blake3 import blake3

from voco_video.cache.key import canonical_json


def encode_line(content: Any) -> bytes:
    """One line: 64 hex digits of BLAKE3, a space, canonical JSON, a line feed.

    Example:
        >>> decode_line(encode_line({"a": [1, 2]}))
        {'a': [1, 2]}
    """
    text = canonical_json(content)
    return f"{blake3(text.encode()).hexdigest()} {text}\n".encode()


def decode_line(line: bytes) -> Any:
    """The JSON value of a line; None if the line is torn or altered."""
    checksum, _, text = line.removesuffix(b"\n").partition(b" ")
    if not line.endswith(b"\n") or blake3(text).hexdigest().encode() != checksum:
        return None
    return json.loads(text)
