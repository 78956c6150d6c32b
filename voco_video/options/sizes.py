"""Sizes and lengths of time as people write them: ``500K``, ``2G``, ``1.5GiB``, ``90m``, ``30d``."""

from __future__ import annotations

import os
import re

from voco_video.errors import UsageError

SIZES = "give a number of bytes, or one with K, M, G or T behind it, as in 500K, 2G or 1.5GiB"
_SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+) *([KMGT]?)(I?B)?", re.IGNORECASE | re.ASCII)
_AGE = re.compile(r"(\d+(?:\.\d*)?|\.\d+) *([SMHDW])", re.IGNORECASE | re.ASCII)
_AGE_SECONDS = {"S": 1, "M": 60, "H": 3600, "D": 86400, "W": 7 * 86400}


def parse_size(text: str | int, *, name: str) -> int:
    """Read a size in bytes. K, M, G, T and KiB, MiB, ... count in steps of 1024; KB, MB, ... in steps of 1000.

    Args:
        text: the size; a whole number is one of bytes.
        name: what has this size, for the message.

    Raises:
        UsageError: not a size.

    >>> [parse_size(text, name="max_bytes") for text in ("500K", "1.5GiB", "2kb", "0", 7)]
    [512000, 1610612736, 2000, 0, 7]
    """
    found = _SIZE.fullmatch(str(text).strip())
    if found is None or isinstance(text, bool):
        raise UsageError(f"{name}={text!r} is no size; {SIZES}")
    number, unit, ending = found.groups()
    if not unit and (ending or "b").lower() != "b":
        raise UsageError(f"{name}={text!r} is no size; {SIZES}")
    step = 1000 if unit and (ending or "").lower() == "b" else 1024
    size_bytes = float(number) * step ** " KMGT".index(unit.upper() or " ")
    if not size_bytes < 2**63:
        raise UsageError(f"{name}={text!r} is more than any disk holds; {SIZES}")
    return int(number) if number.isdigit() and not unit else int(size_bytes)


def size_of_environment(variable: str, default: int) -> int:
    """Read a size from an environment variable; the default where it is not set or empty.

    Raises:
        UsageError: not a size.
    """
    text = os.environ.get(variable)
    return parse_size(text, name=variable) if text else default


def parse_age(text: str) -> float:
    """Read a length of time in seconds: a number with s, m, h, d or w (weeks) behind it.

    Raises:
        UsageError: not a length of time.

    >>> parse_age("90m"), parse_age("30d"), parse_age("1.5 h")
    (5400.0, 2592000.0, 5400.0)
    """
    found = _AGE.fullmatch(text.strip())
    if found is None:
        raise UsageError(
            f"older_than={text!r} is no length of time; give a number with s, m, h, d or w, as in 12h or 30d"
        )
    return float(found[1]) * _AGE_SECONDS[found[2].upper()]
