"""Which frames of a video each way of sampling takes (pure functions: no decoding here).

One rule decides every case: **the frame for time t is the last one whose presentation time is <= t**, that is
the picture a player shows at t; before the first frame it is the first frame.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from voco_video.errors import UsageError
from voco_video.options.sampling import Sampling

# Presentation times are whole ticks (1/90000 s or coarser in practice) rounded to float64 seconds. Without slack,
# t = 1/3 would miss the frame stored at 10/30 s by one unit in the last place.
TIME_SLACK_SECONDS = 1e-6


def pick_frames(
    pts_seconds: npt.NDArray[np.float64],
    is_keyframe: npt.NDArray[np.bool_],
    end_of_stream_seconds: float,
    sampling: Sampling,
) -> npt.NDArray[np.int64]:
    """Indices [F] of the frames that `sampling` asks for, in time order.

    pts_seconds: [M] presentation times, sorted; is_keyframe: [M]; end_of_stream_seconds: when the last frame ends.
    `fps`, `num_frames` and `keyframes` never repeat a frame: a video with fewer frames gives fewer.

    Raises:
        UsageError: the window or a timestamp lies outside the video, or holds no keyframe.

    >>> pts = np.array([0.0, 0.4, 0.8, 1.2, 1.6])
    >>> pick_frames(pts, pts == 0, 2.0, Sampling(fps=1))
    array([0, 2])
    >>> pick_frames(pts, pts == 0, 2.0, Sampling(timestamps=(1.9, 0.5, 0.6)))
    array([1, 1, 4])
    """
    first = min(0.0, float(pts_seconds[0])) - TIME_SLACK_SECONDS
    earliest = sampling.timestamps[0] if sampling.timestamps is not None else sampling.start_seconds
    if earliest is not None and earliest < first:
        raise UsageError(f"{earliest:g} s is before the beginning of the video, which is at {pts_seconds[0]:.3f} s")
    if sampling.timestamps is not None:
        return _at_timestamps(pts_seconds, end_of_stream_seconds, np.array(sampling.timestamps))
    start, end = _window(pts_seconds, end_of_stream_seconds, sampling)
    if sampling.keyframes:
        return _keyframes_between(pts_seconds, is_keyframe, start, end)
    if sampling.num_frames is not None:
        step = (end - start) / sampling.num_frames
        return _on_grid(pts_seconds, start + step / 2, step, sampling.num_frames)
    assert sampling.fps is not None
    num_ticks = max(1.0, math.ceil((end - start - TIME_SLACK_SECONDS) * sampling.fps))
    return _on_grid(pts_seconds, start, 1.0 / sampling.fps, num_ticks)


def _on_grid(
    pts_seconds: npt.NDArray[np.float64], first: float, step: float, num_ticks: float
) -> npt.NDArray[np.int64]:
    """Frames shown at the times first + i * step for i < num_ticks, each once.

    Counted from the frames' side (does a tick fall while this frame is shown?), so that memory follows the number
    of frames however fine the grid is.
    """
    ticks_before = np.ceil((pts_seconds - first - TIME_SLACK_SECONDS) / step)  # [M]
    ticks_before = np.clip(ticks_before, 0.0, num_ticks)
    ticks_before[0] = 0.0  # before the first frame it is the first frame
    ticks_until_next = np.append(ticks_before[1:], num_ticks)
    return np.flatnonzero(ticks_until_next > ticks_before).astype(np.int64)


def _keyframes_between(
    pts_seconds: npt.NDArray[np.float64], is_keyframe: npt.NDArray[np.bool_], start: float, end: float
) -> npt.NDArray[np.int64]:
    inside = (pts_seconds >= start - TIME_SLACK_SECONDS) & (pts_seconds < end - TIME_SLACK_SECONDS)
    indices = np.flatnonzero(is_keyframe & inside).astype(np.int64)
    if not len(indices):
        raise UsageError(
            f"no keyframe between {start:.3f} and {end:.3f} s (the video has {int(is_keyframe.sum())}); "
            "sample by fps or num_frames, or widen the window"
        )
    return indices


def _at_timestamps(
    pts_seconds: npt.NDArray[np.float64], end_of_stream_seconds: float, times: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    if times[-1] > end_of_stream_seconds + TIME_SLACK_SECONDS:
        raise UsageError(
            f"timestamp {times[-1]:g} s is past the end of the video, which runs from "
            f"{pts_seconds[0]:.3f} to {end_of_stream_seconds:.3f} s"
        )
    indices = np.searchsorted(pts_seconds, times + TIME_SLACK_SECONDS, side="right") - 1
    return np.maximum(indices, 0).astype(np.int64)


def _window(
    pts_seconds: npt.NDArray[np.float64], end_of_stream_seconds: float, sampling: Sampling
) -> tuple[float, float]:
    first = float(pts_seconds[0])
    start = first if sampling.start_seconds is None else max(sampling.start_seconds, first)
    end = end_of_stream_seconds
    if sampling.end_seconds is not None:
        end = min(sampling.end_seconds, end)
    if start >= end:
        raise UsageError(
            f"the window {sampling} holds nothing of this video, which runs from {first:.3f} to "
            f"{end_of_stream_seconds:.3f} s"
        )
    return start, end
