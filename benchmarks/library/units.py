"""Numbers as tables show them: three digits that count, in the unit that reads best."""

from __future__ import annotations

import math


def number(value: float) -> str:
    """Three digits that count, thousands with a comma.

    >>> number(1234567), number(51.1), number(0.04167), number(595.2)
    ('1,230,000', '51.1', '0.0417', '595')
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = 2 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)
    return f"{rounded:,.{max(0, digits)}f}" if digits > 0 else f"{rounded:,.0f}"


def scaled(value: float, units: tuple[str, ...], step: float = 1000.0) -> str:
    """A number in the largest of the units that leaves it at 1 or more.

    >>> scaled(8200, ("B", "kB", "MB"))
    '8.20 kB'
    """
    place = 0
    while place + 1 < len(units) and round(value, 6) >= step:
        value, place = value / step, place + 1
    return f"{number(value)} {units[place]}"


def size(value: float) -> str:
    """Bytes."""
    return scaled(value, ("B", "kB", "MB", "GB", "TB", "PB"))


def dollars(value: float) -> str:
    """Dollars; less than a cent is said to be that."""
    return "< $0.01" if 0 < value < 0.01 else f"${number(value)}"


def duration(seconds: float) -> str:
    """Seconds, minutes, hours or days."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{number(seconds / length)} {unit}"
    return f"{number(seconds)} s" if seconds >= 0.1 or seconds == 0 else f"{number(seconds * 1000)} ms"


def percent(share: float) -> str:
    """A share in percent, one digit behind the point."""
    return f"{100 * share:.1f} %"
