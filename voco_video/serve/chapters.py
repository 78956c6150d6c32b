"""Chapters of a video: where its cached frames change most, found without pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from voco_video.answer.compressed_video import CompressedVideo
from voco_video.answer.entry_frames import read_features
from voco_video.answer.moments import frame_ends
from voco_video.errors import UsageError
from voco_video.model.inference import undisturbed

_MAX_WINDOW = 8  # frames on each side of a border that are compared
_MIN_FRAMES = 2  # of a chapter
_MIN_CHANGE = 0.05  # 1 minus the cosine of what is before a border and behind it
_MIN_SPREAD = 0.01  # how far frames lie from their mean, as a share of their own length


@dataclass(frozen=True)
class Chapter:
    """A stretch of a video between two changes.

    Attributes:
        start_seconds, end_seconds: from its first frame to the end of its last.
        change: how much its first frames differ from those before, 0 to 2; 0 for the first chapter.
    """

    start_seconds: float
    end_seconds: float
    change: float


@undisturbed()
def find_chapters(video: CompressedVideo, *, max_chapters: int = 8) -> list[Chapter]:
    """Cut a video where the tokens of its frames change most.

    Frames are compared by the direction of their tokens' mean features; a border is a local maximum of the difference
    between the frames before and behind it that stands out from the others.

    Raises:
        UsageError: the frames keep no tokens.
    """
    if video.num_voco_tokens == 0:
        raise UsageError("these frames keep no tokens (compressor 'none'), so no chapters can be found")
    means = torch.cat([chunk.float().mean(dim=1).cpu() for chunk in read_features(video.parts)])  # [F, W]
    apart = means - means.mean(dim=0)
    if float(apart.norm(dim=-1).mean()) < _MIN_SPREAD * float(means.norm(dim=-1).mean()):
        changes = np.zeros(len(means))  # a still picture, whose noise would be cut
    else:
        changes = frame_changes(torch.nn.functional.normalize(apart, dim=-1).numpy())
    pts, ends = video.pts_seconds, frame_ends(video.pts_seconds)
    starts = [0, *borders(changes, max_borders=max_chapters - 1)]
    stops = [*starts[1:], len(pts)]
    return [
        Chapter(float(pts[first]), float(ends[last - 1]), float(changes[first]) if first else 0.0)
        for first, last in zip(starts, stops)
    ]


def frame_changes(directions: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Compute how much the frames behind each frame's beginning differ from those before it.

    Args:
        directions: unit vectors ``[F, W]``.

    Returns:
        ``[F]``, 1 minus the cosine of the two means; 0 where there is nothing before.
    """
    num_frames = len(directions)
    window = min(_MAX_WINDOW, max(1, num_frames // 4))
    sums = np.concatenate([np.zeros((1, directions.shape[1])), np.cumsum(directions, axis=0, dtype=np.float64)])
    changes = np.zeros(num_frames)
    for frame in range(1, num_frames):
        before = sums[frame] - sums[max(0, frame - window)]
        behind = sums[min(num_frames, frame + window)] - sums[frame]
        lengths = float(np.linalg.norm(before) * np.linalg.norm(behind))
        changes[frame] = 1 - float(before @ behind) / lengths if lengths > 1e-12 else 0.0
    return changes


def borders(changes: Sequence[float] | npt.NDArray[np.float64], *, max_borders: int) -> list[int]:
    """Choose the frames before which a video is cut, ascending: the largest changes that stand out, none too near.

    >>> borders([0.0, 0.1, 0.1, 1.2, 0.1, 0.1, 0.2, 0.1, 0.1, 1.0, 0.1, 0.1], max_borders=4)
    [3, 9]
    """
    values = np.asarray(changes, np.float64)
    if len(values) < 2 * _MIN_FRAMES or max_borders < 1:
        return []
    floor = float(values[1:].mean() + values[1:].std())
    chosen: list[int] = []
    for frame in np.argsort(-values, kind="stable").tolist():
        if len(chosen) == max_borders or values[frame] <= max(floor, _MIN_CHANGE):
            break
        if all(abs(frame - other) >= _MIN_FRAMES for other in (0, *chosen, len(values))):
            chosen.append(frame)
    return sorted(chosen)
