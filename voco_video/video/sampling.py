"""Which frames of a video to look at: a policy and a window in, indices of frames out. Pure, no video is touched.

One rule decides every case: **the frame for time t is the last one whose presentation time is <= t**, that is
the picture a player shows at t; before the first frame it is the first frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from voco_video.errors import UsageError

# Presentation times are whole ticks (1/90000 s or coarser in practice) rounded to float64 seconds. Without slack,
# t = 1/3 would miss the frame stored at 10/30 s by one unit in the last place.
TIME_SLACK_SECONDS = 1e-6
_POLICIES = ("fps", "num_frames", "keyframes", "timestamps")


@dataclass(frozen=True)
class Sampling:
    """One policy and, for all but `timestamps`, an optional window in seconds of the video's own clock.

    Attributes:
        fps: one frame every 1/fps seconds from the start of the window (the default policy, at 1.0).
        num_frames: the frames at the centres of that many equal parts of the window.
        keyframes: every keyframe in the window; nearly free to decode.
        timestamps: the frames shown at these times, one per time, in time order.
        start_seconds: beginning of the window (default: the first frame).
        end_seconds: end of the window, not included (default: the end of the video).

    Times may be negative, for videos whose clock begins before 0. Raises UsageError for values that cannot be right,
    and when more than one policy is given.

    >>> Sampling()
    Sampling(fps=1.0, num_frames=None, keyframes=False, timestamps=None, start_seconds=None, end_seconds=None)
    >>> print(Sampling(num_frames=8, start_seconds=30, end_seconds=60))
    8 frames, 30.0-60.0 s
    """

    fps: float | None = None
    num_frames: int | None = None
    keyframes: bool = False
    timestamps: tuple[float, ...] | None = None
    start_seconds: float | None = None
    end_seconds: float | None = None

    def __post_init__(self) -> None:
        given = [name for name in _POLICIES if getattr(self, name) is not None and getattr(self, name) is not False]
        if len(given) > 1:
            raise UsageError(f"choose one way of sampling frames, not {' and '.join(given)}")
        if not given:
            object.__setattr__(self, "fps", 1.0)
        self._check_policy()
        self._check_window()

    def _check_policy(self) -> None:
        if not isinstance(self.keyframes, bool):
            raise UsageError(f"keyframes must be True or False, not {self.keyframes!r}")
        if self.fps is not None:
            object.__setattr__(self, "fps", _seconds("fps", self.fps))
            if not 0 < self.fps <= 1e6:
                raise UsageError(f"fps must be above 0 (at most 1e6), not {self.fps:g}; 0.1 is one frame per 10 s")
        if self.num_frames is not None:
            if isinstance(self.num_frames, bool) or not isinstance(self.num_frames, (int, np.integer)):
                raise UsageError(f"num_frames must be a whole number, not {self.num_frames!r}")
            if self.num_frames < 1:
                raise UsageError(f"num_frames must be at least 1, not {self.num_frames}")
            object.__setattr__(self, "num_frames", int(self.num_frames))
        if self.timestamps is not None:
            if not isinstance(self.timestamps, (tuple, list, np.ndarray)):
                raise UsageError(f"timestamps must be a sequence of seconds, not {self.timestamps!r}")
            times = sorted(_seconds("timestamps", time) for time in self.timestamps)
            if not times:
                raise UsageError("timestamps is empty; give at least one time in seconds")
            object.__setattr__(self, "timestamps", tuple(times))

    def _check_window(self) -> None:
        for name in ("start_seconds", "end_seconds"):
            value = getattr(self, name)
            if value is None:
                continue
            object.__setattr__(self, name, _seconds(name, value))
            if self.timestamps is not None:
                raise UsageError(f"timestamps name their own times; leave out {name}={value}")
        start, end = self.start_seconds, self.end_seconds
        if start is not None and end is not None and start >= end:
            raise UsageError(f"the window is empty: start_seconds={start} is not before end_seconds={end}")

    def describe(self) -> dict[str, Any]:
        """The settings that decide which frames come, as plain JSON values; equal samplings give equal dicts.

        >>> Sampling(fps=2, start_seconds=5).describe()
        {'policy': 'fps', 'fps': 2.0, 'start_seconds': 5.0, 'end_seconds': None}
        """
        policy = next(name for name in _POLICIES if getattr(self, name))
        value = getattr(self, policy)
        settings: dict[str, Any] = {"policy": policy, policy: list(value) if policy == "timestamps" else value}
        if policy != "timestamps":
            settings.update(start_seconds=self.start_seconds, end_seconds=self.end_seconds)
        return settings

    def __str__(self) -> str:
        if self.timestamps is not None:
            shown = ", ".join(f"{time:g}" for time in self.timestamps[:4])
            return f"at {shown}{', ...' if len(self.timestamps) > 4 else ''} s ({len(self.timestamps)} times)"
        policy = f"{self.fps:g} fps" if self.fps else f"{self.num_frames} frames" if self.num_frames else "keyframes"
        if self.start_seconds is None and self.end_seconds is None:
            return policy
        start = "start" if self.start_seconds is None else self.start_seconds
        end = "end" if self.end_seconds is None else self.end_seconds
        return f"{policy}, {start}-{end} s"


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


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise UsageError(f"{name} must be a number, not {value!r}")
    if not math.isfinite(value):
        raise UsageError(f"{name} must be finite, not {value}")
    return float(value)
