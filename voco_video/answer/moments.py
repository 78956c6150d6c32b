"""Stretches of a video, found from scores of its frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Moment:
    """A stretch of video that a question is about, or that an answer rests on.

    Attributes:
        start_seconds, end_seconds: from its first frame to the end of its last.
        peak_seconds: time of the frame with the highest score.
        score: score of that frame: of a search see `voco_video.answer.search.FrameScores`, else its share of attention.
        share: part of an answer's attention to the video that its frames got, 0 to 1; None for a moment of a search.
        is_likely: of a search, whether it more likely than not shows what was asked for; None where the model has not
            learned to tell, so that only the order of scores has a meaning.
    """

    start_seconds: float
    end_seconds: float
    peak_seconds: float
    score: float
    share: float | None = None
    is_likely: bool | None = None


def format_seconds(seconds: float, *, digits: int = 2, with_hours: bool = False) -> str:
    """Write seconds as a clock shows them.

    Args:
        digits: number of digits after the seconds.
        with_hours: whether to write hours that are 0.

    >>> format_seconds(3723.5), format_seconds(61.25), format_seconds(59.996), format_seconds(-0.5)
    ('1:02:03.50', '1:01.25', '1:00.00', '-0:00.50')
    >>> format_seconds(75.4, digits=0, with_hours=True)
    '0:01:15'
    """
    units = round(abs(float(seconds)) * 10**digits)  # rounded before it is split, so 60 seconds never appear
    sign = "-" if seconds < 0 and units else ""
    whole, fraction = divmod(units, 10**digits)
    hours, minutes = divmod(whole // 60, 60)
    clock = f"{hours}:{minutes:02d}" if hours or with_hours else f"{minutes}"
    return f"{sign}{clock}:{whole % 60:02d}" + (f".{fraction:0{digits}d}" if digits else "")


def find_moments(scores: Floats, pts_seconds: Floats, *, num_moments: int, is_calibrated: bool = False) -> list[Moment]:
    """Find the stretches around the best frames, best first; scores in a stretch stay above half of its height.

    Height is measured from the median of all scores, so the unit of scores does not matter.

    Args:
        scores: ``[F]``, see `voco_video.answer.search.FrameScores`.
        pts_seconds: ``[F]``; no moment crosses a gap, or the border of a video, where times go back.
        num_moments: how many at most.
        is_calibrated: whether scores are logarithms of odds, which tell likely moments from unlikely ones.

    >>> scores, pts = np.array([0.0, 0.0, 9.0, 8.0, 0.0, 5.0, 0.0]), np.arange(7.0)
    >>> [(m.start_seconds, m.end_seconds) for m in find_moments(scores, pts, num_moments=2)]
    [(2.0, 4.0), (5.0, 6.0)]
    """
    if not len(scores):
        return []
    floor, ends = float(np.median(scores)), frame_ends(pts_seconds)
    taken = np.zeros(len(scores), bool)
    moments: list[Moment] = []
    for peak in np.argsort(-scores, kind="stable").tolist():
        if len(moments) == num_moments or (moments and scores[peak] <= floor):
            break
        if taken[peak]:
            continue
        is_in = (scores > (scores[peak] + floor) / 2) & ~taken
        is_in[peak] = True
        first, last = _run_around(peak, is_in, ends[:-1] == pts_seconds[1:])
        taken[max(first - 1, 0) : last + 2] = True  # its neighbours are not moments of their own
        times = float(pts_seconds[first]), float(ends[last]), float(pts_seconds[peak])
        score = float(scores[peak])
        moments.append(Moment(*times, score=score, is_likely=score > 0 if is_calibrated else None))
    return moments


def shared_moments(shares: Floats, pts_seconds: Floats, *, num_moments: int) -> list[Moment]:
    """Find stretches of frames with more than an even share of something, such as attention; largest sum first.

    Args:
        shares: ``[F]`` summing to 1.

    Returns:
        Moments with the sums of their frames' shares; those of all stretches would sum to at most 1.

    >>> shares, pts = np.array([0.1, 0.4, 0.3, 0.1, 0.1]), np.arange(5.0)
    >>> shared_moments(shares, pts, num_moments=3)
    [Moment(start_seconds=1.0, end_seconds=3.0, peak_seconds=1.0, score=0.4, share=0.7, is_likely=None)]
    """
    ends, is_in = frame_ends(pts_seconds), shares >= 1 / max(len(shares), 1)
    goes_on = ends[:-1] == pts_seconds[1:]
    moments, start = [], 0
    while start < len(shares):
        if not is_in[start]:
            start += 1
            continue
        first, last = _run_around(start, is_in, goes_on)
        peak = first + int(np.argmax(shares[first : last + 1]))
        times = float(pts_seconds[first]), float(ends[last]), float(pts_seconds[peak])
        share = float(shares[first : last + 1].sum())
        moments.append((share, Moment(*times, score=float(shares[peak]), share=share)))
        start = last + 1
    return [moment for _, moment in sorted(moments, key=lambda m: -m[0])[:num_moments]]


def frame_ends(pts_seconds: Floats) -> Floats:
    """Compute when each frame ends: when the next one begins, or after the usual interval if none follows soon.

    >>> frame_ends(np.array([0.0, 1.0, 2.0, 9.0, 10.0, 0.0])).tolist()
    [1.0, 2.0, 3.0, 10.0, 11.0, 1.0]
    """
    steps = np.diff(pts_seconds)
    usual = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    follows = (steps > 0) & (steps <= 2 * usual)
    ends = np.asarray(pts_seconds, np.float64) + usual
    ends[:-1][follows] = pts_seconds[1:][follows]
    return ends


def _run_around(peak: int, is_in: npt.NDArray[np.bool_], goes_on: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Return the first and last frame of the run of frames around ``peak`` that are in and have no gap between them."""
    first = last = peak
    while first > 0 and is_in[first - 1] and goes_on[first - 1]:
        first -= 1
    while last + 1 < len(is_in) and is_in[last + 1] and goes_on[last]:
        last += 1
    return first, last
