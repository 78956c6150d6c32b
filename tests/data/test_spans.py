"""Times in answers: read by the rules, compared by hand-computed values."""

from __future__ import annotations

import pytest

from voco_video.data.spans import iou, read_span, spans_text


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("The event happens in 24.3 - 30.4 seconds.", (24.3, 30.4)),
        ("The event 'person turn a light on' happens in the 24.3 - 30.4 seonds.", (24.3, 30.4)),
        ("24.3-30.4", (24.3, 30.4)),
        ("from 5 to 10", (5, 10)),
        ("From 5s to 10s.", (5, 10)),
        ("between 5 seconds and 10 seconds", (5, 10)),
        ("It starts at 24.3 seconds and ends at 30.4 seconds.", (24.3, 30.4)),
        ("Starting time: 0.8 seconds\nEnding time: 1.1 seconds", (0.8, 1.1)),
        ("0:24 to 0:30", (24, 30)),
        ("starts at 00:00:18 and ends at 00:01:23.5.", (18, 83.5)),
        ("[1:02:03, 1:02:05]", (3723, 3725)),
        ("12 – 7", (7, 12)),
        ("first 1 - 2, then 5 - 6", (1, 2)),
        ("[5.0, 9.5]", (5, 9.5)),
        ("The 2 men sit in the 4 - 9 seconds", (4, 9)),
        ("at 12 seconds", None),
        ("at the beginning", None),
        ("", None),
    ],
)
def test_read_span(text: str, span: tuple[float, float] | None) -> None:
    assert read_span(text) == span


def test_a_reference_reads_as_itself() -> None:
    windows = [(0.0, 16.0), (24.3, 30.45), (100.0, 150.0)]
    assert [read_span(spans_text([window])) for window in windows] == windows


@pytest.mark.parametrize(
    ("one", "other", "value"),
    [
        ((0, 10), (0, 10), 1),
        ((0, 10), (5, 15), 5 / 15),
        ((0, 10), (2, 4), 2 / 10),
        ((0, 1), (1, 2), 0),
        ((0, 1), (8, 9), 0),
        ((3, 3), (3, 3), 0),
        ((3, 3), (0, 9), 0),
    ],
)
def test_iou(one: tuple[float, float], other: tuple[float, float], value: float) -> None:
    assert iou(one, other) == iou(other, one) == pytest.approx(value)
