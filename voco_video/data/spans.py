"""Stretches of a video in seconds: read from an answer, written as one, and compared.

Temporal grounding asks when something happens. The reference is one window or several, and the answer is the first
window that the model names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

Span = tuple[float, float]
"""Start and end in seconds, the start first."""

_CLOCK = re.compile(r"(?<![\d:.])(?:(\d{1,2}):)?(\d{1,2}):(\d{2}(?:\.\d+)?)(?![\d:])")
_NUMBER = r"(\d+(?:\.\d+)?)"
_UNIT = r"(?:\s*(?:s|secs?|seconds?)\b)?"
_BETWEEN = r"\s*(?:-|–|—|~|\bto\b|\band\b|\buntil\b|\btill\b)\s*"
_RANGE = re.compile(rf"(?<![\w.]){_NUMBER}{_UNIT}{_BETWEEN}{_NUMBER}")
_ALONE = re.compile(rf"(?<![\w.:]){_NUMBER}{_UNIT}(?![\w:])")


def read_span(text: str) -> Span | None:
    """Read the first stretch of time that an answer names; None if it names none.

    The first of these rules that finds two times decides. They are those of lmms-eval's TimeLens task
    (lmms_eval/tasks/timelens/utils.py), with units and more words between the two times:

    1. two times of a clock: "0:24 to 0:30", "00:00:24 and ... 00:00:30";
    2. a range of seconds: "24.3 - 30.4", "from 24.3 s to 30.4 s";
    3. the first two numbers: "it starts at 24.3 s and ends at 30.4 s".

    >>> read_span("The event happens in 24.3 - 30.4 seconds."), read_span("from 1:02 until 1:10.5"), read_span("soon")
    ((24.3, 30.4), (62.0, 70.5), None)
    """
    clocks = [int(h or 0) * 3600 + int(m) * 60 + float(s) for h, m, s in _CLOCK.findall(text)]
    if len(clocks) >= 2:
        return ordered(clocks[:2])
    if found := _RANGE.search(text):
        return ordered([float(found[1]), float(found[2])])
    numbers = [float(number) for number in _ALONE.findall(text)]
    return ordered(numbers[:2]) if len(numbers) >= 2 else None


def ordered(times: Sequence[float]) -> Span:
    """Make a span of two times in either order; a few published windows end before they start."""
    return min(times), max(times)


def spans_text(spans: Iterable[Span]) -> str:
    """Write spans as an answer.

    >>> spans_text([(24.3, 30.4), (40, 42)])
    '24.3 - 30.4, 40 - 42'
    """
    return ", ".join(f"{start:g} - {end:g}" for start, end in spans)


def iou(one: Span, other: Span) -> float:
    """Compute the intersection over the union of two spans; 0 where both are empty.

    >>> iou((0, 4), (2, 6)), iou((0, 1), (2, 3))
    (0.3333333333333333, 0.0)
    """
    shared = min(one[1], other[1]) - max(one[0], other[0])
    whole = (one[1] - one[0]) + (other[1] - other[0]) - max(shared, 0.0)
    return max(shared, 0.0) / whole if whole > 0 else 0.0
