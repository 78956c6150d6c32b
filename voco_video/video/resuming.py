"""Where an interrupted run goes on in a video, whose frames may each be merged of several pictures."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from voco_video.video.frames import FrameBatch


def next_planned(
    plan: np.ndarray, num_frames: int, per_frame: int, last_pts_seconds: float | None, *, keeps_count: bool
) -> tuple[int, int]:
    """Find where in the plan an interrupted run goes on: after its frames, by time, as a damaged file gives fewer.

    Args:
        num_frames: frames that are there already.
        per_frame: pictures of each.
        last_pts_seconds: the time of the last frame's first picture.
        keeps_count: every planned picture was given, if need be another in its place: then it goes on by count.

    Returns:
        The place in the plan, and how many pictures from there on belong to the last frame.
    """
    if last_pts_seconds is None or keeps_count:
        return min(num_frames * per_frame, len(plan)), 0
    return int(np.searchsorted(plan, last_pts_seconds, side="right")), per_frame - 1


def later_pictures(
    batches: Iterator[FrameBatch], last_pts_seconds: float | None, num_merged: int
) -> Iterator[FrameBatch]:
    """Pass over pictures that an interrupted run had already: in a damaged file some stand in for others.

    Args:
        num_merged: further pictures to pass over, that the last frame was merged of.
    """
    for batch in batches:
        first = 0 if last_pts_seconds is None else int(np.searchsorted(batch.pts_seconds, last_pts_seconds, "right"))
        num_passed = min(num_merged, len(batch) - first)
        num_merged -= num_passed
        first += num_passed
        if first < len(batch):
            yield batch[first:] if first else batch
