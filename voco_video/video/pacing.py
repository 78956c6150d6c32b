"""From a source's pace to a model's: a steady rate, and a queue that does not grow."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

from voco_video.video.frames import FrameBatch
from voco_video.video.sampling import TIME_SLACK_SECONDS

Frame = TypeVar("Frame")
FrameTimes = Iterator[tuple[float, Frame]]  # (pts_seconds, frame)


def frames_on_grid(
    frames: FrameTimes[Frame],
    *,
    fps: float,
    first_seconds: float | None = None,
    end_seconds: Callable[[], float | None] = lambda: None,
) -> FrameTimes[Frame]:
    """The frames that `Sampling(fps=fps)` takes of a whole video, each as soon as the next one shows that it is one.

    Args:
        frames: (pts_seconds, frame) with ascending times.
        first_seconds: where the grid of 1/fps seconds starts, by default at the first frame, which then is taken.
        end_seconds: called when the frames are over: when the last one ends, or None where that is not known.

    >>> times = [0.0, 0.4, 0.8, 1.2, 1.6]
    >>> [pts for pts, _ in frames_on_grid(((t, None) for t in times), fps=1, end_seconds=lambda: 2.0)]
    [0.0, 0.8]
    """
    held: tuple[float, Frame] | None = None
    num_before_held = 0

    def num_ticks_before(pts: float) -> int:
        assert first_seconds is not None
        return max(0, math.ceil((pts - first_seconds - TIME_SLACK_SECONDS) / (1 / fps)))

    for pts, frame in frames:
        if first_seconds is None:
            first_seconds = pts
        num_before = num_ticks_before(pts)
        if held is not None and num_before > num_before_held:
            yield held
        held, num_before_held = (pts, frame), num_before
    end = end_seconds()
    if held is not None and end is not None and max(1, num_ticks_before(end)) > num_before_held:
        yield held


class FrameQueue:
    """Frames on their way from the source's thread to the model, at most `capacity` of them.

    Args:
        thins: when full, a new frame takes the place of a waiting one, so that the source need not wait. It is the one
            whose neighbours are closest together: what is left stays as even as it can be.

    Attributes:
        num_dropped: frames that made place.
        newest_seconds: time of the newest frame that was put in.
    """

    def __init__(self, capacity: int, *, thins: bool) -> None:
        self.num_dropped = 0
        self.newest_seconds = -np.inf
        self._capacity, self._thins = capacity, thins
        self._waiting: list[tuple[float, np.ndarray]] = []  # (pts_seconds, pixels [H, W, 3])
        self._last_taken_seconds = -np.inf
        self._is_closed, self._error = False, None  # type: tuple[bool, BaseException | None]
        self._changed = threading.Condition()

    def put(self, pts_seconds: float, pixels: np.ndarray) -> None:
        """Add a frame; waits for room unless the queue thins or is closed."""
        with self._changed:
            while len(self._waiting) >= self._capacity and not self._thins and not self._is_closed:
                self._changed.wait()
            self._waiting.append((pts_seconds, pixels))
            if len(self._waiting) > self._capacity:
                self._drop_one()
            self.newest_seconds = pts_seconds
            self._changed.notify_all()

    def take(self, max_frames: int, *, timeout_seconds: float) -> FrameBatch | None:
        """What waits, oldest first; None when nothing came in time or nothing will. Raises the source's error."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed, timeout_seconds)
            taken, self._waiting = self._waiting[:max_frames], self._waiting[max_frames:]
            self._changed.notify_all()
            if not taken:
                if self._error is not None:
                    raise self._error
                return None
            self._last_taken_seconds = taken[-1][0]
        return FrameBatch(np.stack([pixels for _, pixels in taken]), np.array([pts for pts, _ in taken]))

    def close(self, error: BaseException | None = None) -> None:
        """No more frames come, because of `error` if there was one. Lets a waiting `put` go."""
        with self._changed:
            if not self._is_closed:
                self._is_closed, self._error = True, error
            self._changed.notify_all()

    @property
    def is_over(self) -> bool:
        """Nothing waits, and nothing will; never so where `take` has an error to raise."""
        with self._changed:
            return self._is_closed and not self._waiting and self._error is None

    def _drop_one(self) -> None:
        times = [self._last_taken_seconds, *(pts for pts, _ in self._waiting)]
        gaps = [after - before for before, after in zip(times, times[2:])]  # left by each of waiting[:-1]
        del self._waiting[int(np.argmin(gaps))]
        self.num_dropped += 1
