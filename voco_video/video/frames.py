"""Frames as the rest of the package sees them: upright RGB pixels of one size, each with its time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voco_video.errors import UsageError
from voco_video.video.scaling import Fit, FitMode, FrameScaler, Layout, Orientation, display_size, plan_layout

__all__ = [
    "Fit",
    "FitMode",
    "FrameBatch",
    "FrameGroups",
    "FrameScaler",
    "Layout",
    "Orientation",
    "display_size",
    "grouped",
    "plan_layout",
]


@dataclass(frozen=True)
class FrameBatch:
    """Frames with their times.

    Attributes:
        pixels: uint8 [F, H, W, 3], RGB, upright, square pixels.
        pts_seconds: float64 [F], the presentation time of each frame, never decreasing.

    >>> batch = FrameBatch(np.zeros((3, 2, 2, 3), np.uint8), np.array([0.0, 0.5, 1.0]))
    >>> len(batch), batch[1:].pts_seconds
    (3, array([0.5, 1. ]))
    """

    pixels: npt.NDArray[np.uint8]
    pts_seconds: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.shape[3] != 3 or self.pixels.dtype != np.uint8:
            raise UsageError(f"pixels must be uint8 [F, H, W, 3], not {self.pixels.dtype} {self.pixels.shape}")
        if self.pts_seconds.dtype != np.float64 or self.pts_seconds.shape != self.pixels.shape[:1]:
            raise UsageError(
                f"pts_seconds must be float64 [{len(self.pixels)}], one time per frame, not "
                f"{self.pts_seconds.dtype} {self.pts_seconds.shape}"
            )
        if np.any(np.diff(self.pts_seconds) < 0):
            raise UsageError(f"pts_seconds must not decrease, got {self.pts_seconds}")

    def __len__(self) -> int:
        return len(self.pts_seconds)

    def __getitem__(self, frames: slice) -> FrameBatch:
        if not isinstance(frames, slice):
            raise TypeError(f"a FrameBatch is sliced, as in batch[2:3]; got {frames!r}")
        return FrameBatch(self.pixels[frames], self.pts_seconds[frames])


@dataclass(frozen=True)
class FrameGroups:
    """Pictures of a video in groups of P, each group read as one frame.

    Attributes:
        pixels: uint8 [F, P, H, W, 3].
        seconds: float64 [F, P], the time of each picture.
    """

    pixels: npt.NDArray[np.uint8]
    seconds: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.seconds)

    def __getitem__(self, groups: slice) -> FrameGroups:
        return FrameGroups(self.pixels[groups], self.seconds[groups])

    @property
    def pts_seconds(self) -> npt.NDArray[np.float64]:
        """The time of each group's first picture, float64 [F]."""
        return self.seconds[:, 0]

    @staticmethod
    def of(batch: FrameBatch, size: int, *, merges: bool = True) -> FrameGroups:
        """Group pictures; the last one is repeated where they do not fill the last group.

        Args:
            size: P.
            merges: put P pictures in a row into a group; else repeat each P times.

        >>> batch = FrameBatch(np.zeros((3, 2, 2, 3), np.uint8), np.array([0.0, 0.5, 1.0]))
        >>> FrameGroups.of(batch, 2).seconds.tolist()
        [[0.0, 0.5], [1.0, 1.0]]
        """
        if merges:
            index = np.arange(-(-len(batch) // size) * size).clip(max=len(batch) - 1).reshape(-1, size)
        else:
            index = np.arange(len(batch))[:, None].repeat(size, 1)
        return FrameGroups(batch.pixels[index], batch.pts_seconds[index])


def grouped(batches: Iterable[FrameBatch], size: int, *, merges: bool = True) -> Iterator[FrameGroups]:
    """Group the pictures of a video as `FrameGroups.of` does, across batches; only the last group may be repeated."""
    left: FrameBatch | None = None
    for batch in batches:
        if left is not None:
            pixels, pts = np.concatenate([left.pixels, batch.pixels]), np.append(left.pts_seconds, batch.pts_seconds)
            batch, left = FrameBatch(pixels, pts), None
        num_whole = len(batch) // size * size if merges else len(batch)
        if num_whole < len(batch):
            left = batch[num_whole:]
        if num_whole:
            yield FrameGroups.of(batch[:num_whole], size, merges=merges)
    if left is not None:
        yield FrameGroups.of(left, size)
