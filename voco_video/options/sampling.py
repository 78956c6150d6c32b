"""Which frames of a video are taken."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from voco_video.errors import UsageError
from voco_video.options.fields import Options, documented, option

_WAYS = ("fps", "num_frames", "keyframes", "timestamps")


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


@documented
@dataclass(frozen=True)
class Sampling(Options, panel="Sampling"):
    """One way of sampling frames and, for all but ``timestamps``, a window in seconds of the video's own clock.

    ``fps`` takes one frame every 1/fps seconds from the start of the window, ``num_frames`` those at the centres of
    that many equal parts of it. Times may be negative, for videos whose clock begins before 0.

    Raises:
        UsageError: a value that cannot be right, or more than one way of sampling.

    >>> Sampling()
    Sampling(fps=1.0, num_frames=None, keyframes=False, timestamps=None, start_seconds=None, end_seconds=None)
    >>> print(Sampling(num_frames=8, start_seconds=30, end_seconds=60))
    8 frames, 30.0-60.0 s
    """

    fps: float | None = option(
        None, "Frames per second to sample.", above=0, at_most=1e6, unset="1, unless frames are sampled in another way"
    )
    num_frames: int | None = option(None, "Sample this many frames, spread evenly.", unit="frames", at_least=1)
    keyframes: bool = option(False, "Take the file's own keyframes: nearly free.")
    timestamps: tuple[float, ...] | None = option(
        None,
        "Take the frames shown at these seconds, one for each: 1.5,20,61.",
        metavar="S,S,...",
        parse=parse_timestamps,
    )
    start_seconds: float | None = option(
        None, "Start of the window.", flag="--start", unit="seconds", unset="the first frame"
    )
    end_seconds: float | None = option(
        None, "End of the window; a frame at it is left out.", flag="--end", unit="seconds", unset="the video's end"
    )

    def __post_init__(self) -> None:
        if isinstance(self.timestamps, Iterable) and not isinstance(self.timestamps, str):
            object.__setattr__(self, "timestamps", tuple(self.timestamps))
        super().__post_init__()
        given = [name for name in _WAYS if getattr(self, name) is not None and getattr(self, name) is not False]
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
        way = next(name for name in _WAYS if getattr(self, name))
        value = getattr(self, way)
        settings: dict[str, Any] = {"policy": way, way: list(value) if way == "timestamps" else value}
        if way != "timestamps":
            settings.update(start_seconds=self.start_seconds, end_seconds=self.end_seconds)
        return settings

    def __str__(self) -> str:
        if self.timestamps is not None:
            shown = ", ".join(f"{time:g}" for time in self.timestamps[:4])
            return f"at {shown}{', ...' if len(self.timestamps) > 4 else ''} s ({len(self.timestamps)} times)"
        way = f"{self.fps:g} fps" if self.fps else f"{self.num_frames} frames" if self.num_frames else "keyframes"
        if self.start_seconds is None and self.end_seconds is None:
            return way
        start = "start" if self.start_seconds is None else self.start_seconds
        end = "end" if self.end_seconds is None else self.end_seconds
        return f"{way}, {start}-{end} s"


def _plain(value: Any, *, is_whole: bool) -> Any:
    """Convert numbers of any kind, also NumPy's, to Python's own."""
    if isinstance(value, tuple):
        return tuple(map(float, value))
    if value is None:
        return None
    return int(value) if is_whole else float(value)
