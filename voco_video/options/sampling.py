"""Which frames of a video are taken."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from voco_video.errors import UsageError
from voco_video.options.fields import Options, option

_POLICIES = ("fps", "num_frames", "keyframes", "timestamps")


def parse_timestamps(text: str) -> tuple[float, ...]:
    """Read seconds with commas between them.

    Raises:
        UsageError: something in it is not a number.

    >>> parse_timestamps("1.5,20")
    (1.5, 20.0)
    """
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise UsageError(f"timestamps={text!r}: give seconds with commas between them, as in 1.5,20,61") from error


@dataclass(frozen=True)
class Sampling(Options):
    """One policy and, for all but `timestamps`, an optional window in seconds of the video's own clock.

    fps:            one frame every 1/fps seconds from the start of the window (the default policy, at 1.0)
    num_frames:     the frames at the centres of that many equal parts of the window
    keyframes:      every keyframe in the window; nearly free to decode
    timestamps:     the frames shown at these times, one per time, in time order
    start_seconds:  beginning of the window (default: the first frame)
    end_seconds:    end of the window, not included (default: the end of the video)

    Times may be negative, for videos whose clock begins before 0. Raises UsageError for values that cannot be right,
    and when more than one policy is given.

    >>> Sampling()
    Sampling(fps=1.0, num_frames=None, keyframes=False, timestamps=None, start_seconds=None, end_seconds=None)
    >>> print(Sampling(num_frames=8, start_seconds=30, end_seconds=60))
    8 frames, 30.0-60.0 s
    """

    fps: float | None = option(
        None, "Frames per second to sample.", above=0, at_most=1e6, unset="1, unless another policy is given"
    )
    num_frames: int | None = option(None, "Sample this many frames, spread evenly.", at_least=1)
    keyframes: bool = option(False, "Take the file's own keyframes: nearly free.")
    timestamps: tuple[float, ...] | None = option(
        None,
        "Take the frames shown at these seconds: 1.5,20,61.",
        metavar="S,S,...",
        parse=parse_timestamps,
    )
    start_seconds: float | None = option(None, "Start of the window, seconds.", flag="--start")
    end_seconds: float | None = option(None, "End of the window, seconds.", flag="--end")

    def __post_init__(self) -> None:
        if isinstance(self.timestamps, Iterable) and not isinstance(self.timestamps, str):
            object.__setattr__(self, "timestamps", tuple(self.timestamps))
        super().__post_init__()
        given = [name for name in _POLICIES if getattr(self, name) is not None and getattr(self, name) is not False]
        if len(given) > 1:
            values = " and ".join(f"{name}={getattr(self, name)!r}" for name in given)
            raise UsageError(f"{values}: choose one way of sampling frames")
        if not given:
            object.__setattr__(self, "fps", 1.0)
        for name in ("fps", "num_frames", "timestamps", "start_seconds", "end_seconds"):
            object.__setattr__(self, name, _plain(getattr(self, name), is_whole=name == "num_frames"))
        self._check_times()

    def _check_times(self) -> None:
        start, end = self.start_seconds, self.end_seconds
        if self.timestamps is not None:
            if not self.timestamps:
                raise UsageError("timestamps=(): give at least one time in seconds")
            if not all(map(math.isfinite, self.timestamps)):
                raise UsageError(f"timestamps={self.timestamps}: all have to be finite")
            object.__setattr__(self, "timestamps", tuple(sorted(self.timestamps)))
            if start is not None or end is not None:
                window = f"start_seconds={start}" if start is not None else f"end_seconds={end}"
                raise UsageError(f"{window}: timestamps name their own times; leave it out")
        if start is not None and end is not None and start >= end:
            raise UsageError(f"start_seconds={start} is not before end_seconds={end}: the window is empty")

    def describe(self) -> dict[str, Any]:
        """Return the settings that decide which frames are taken, as plain values; equal samplings give equal dicts.

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


def _plain(value: Any, *, is_whole: bool) -> Any:
    """Convert numbers of any kind, also NumPy's, to Python's own."""
    if isinstance(value, tuple):
        return tuple(map(float, value))
    if value is None:
        return None
    return int(value) if is_whole else float(value)
