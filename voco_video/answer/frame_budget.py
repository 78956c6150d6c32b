"""Which frames of a video a question sees: a budget in tokens, and policies that select frames within it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voco_video.errors import UsageError
from voco_video.options.answering import ViewOptions

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FrameSelection:
    """The frames that a question sees.

    Attributes:
        frames: their indices in time order, int64 ``[V]``.
        counts: number of tokens that each is seen with, int64 ``[V]``.
        num_frames: F, the number of frames to select from.
        policy: how they were selected; empty if all frames are seen with all their tokens.
    """

    frames: Ints
    counts: Ints
    num_frames: int
    policy: str = ""

    @property
    def num_tokens(self) -> int:
        """Number of tokens of all selected frames."""
        return int(self.counts.sum())

    @property
    def key(self) -> tuple[bytes, bytes]:
        """Bytes that are equal for equal selections."""
        return self.frames.tobytes(), self.counts.tobytes()

    @property
    def note(self) -> str:
        """A sentence on frames that are not seen; empty if all are."""
        left_out = self.num_frames - len(self.frames)
        if not self.policy or (not left_out and self.counts.min(initial=0) == self.counts.max(initial=0)):
            return ""
        return f"saw {len(self.frames)} of {self.num_frames} frames ({self.policy}, {self.num_tokens} tokens)"


def select_frames(
    num_frames: int,
    num_voco_tokens: int,
    *,
    max_voco_tokens: int | None,
    options: ViewOptions,
    scores: Floats | None = None,
    is_about: npt.NDArray[np.bool_] | None = None,
) -> FrameSelection:
    """Select frames that fit into a budget, in time order.

    Args:
        num_frames: F.
        num_voco_tokens: k tokens that a frame is seen with; under ``elastic`` only the relevant ones.
        max_voco_tokens: the budget: `ViewOptions.max_voco_tokens`, or the room in the context; None: no limit.
        scores: ``[F]``, each frame's relevance to the question, for policies that need it.
        is_about: ``[F]``; under ``relevant`` only these frames and their neighbours are selected.

    Raises:
        UsageError: the budget is too small for a single frame.

    >>> select_frames(100, 4, max_voco_tokens=12, options=ViewOptions()).frames
    array([16, 50, 83])
    >>> scores = np.where(np.arange(100) == 70, 1.0, 0.0)
    >>> relevant = ViewOptions(policy="relevant", neighbours=1)
    >>> select_frames(100, 4, max_voco_tokens=12, options=relevant, scores=scores).frames
    array([69, 70, 71])
    """
    if max_voco_tokens is None or num_frames * num_voco_tokens <= max_voco_tokens:
        return FrameSelection(np.arange(num_frames), np.full(num_frames, num_voco_tokens, np.int64), num_frames)
    if options.policy == "elastic":
        return _elastic(num_frames, num_voco_tokens, max_voco_tokens, options, _checked(scores, num_frames))
    fitting = max_voco_tokens // num_voco_tokens
    if fitting < 1:
        raise UsageError(
            f"max_voco_tokens={max_voco_tokens}: one frame has {num_voco_tokens} tokens; give at least as many, or "
            "see fewer tokens of each frame (num_voco_tokens)"
        )
    if options.policy == "uniform":
        frames = spread(num_frames, fitting)
    elif options.policy == "recent":
        frames = np.arange(num_frames - fitting, num_frames)
    else:
        frames = np.sort(by_relevance(_checked(scores, num_frames), options.neighbours, fitting, is_about))
    return FrameSelection(frames, np.full(len(frames), num_voco_tokens, np.int64), num_frames, options.policy)


def _elastic(
    num_frames: int, num_voco_tokens: int, max_voco_tokens: int, options: ViewOptions, scores: Floats
) -> FrameSelection:
    """Spend half of the budget on evenly spread frames with one token each, the rest on relevant ones with k."""
    counts = np.zeros(num_frames, np.int64)
    counts[spread(num_frames, max(1, max_voco_tokens // 2))] = 1
    left = max_voco_tokens - int(counts.sum())
    for frame in by_relevance(scores, options.neighbours, max_voco_tokens):
        more = min(left, num_voco_tokens - int(counts[frame]))
        counts[frame] += more
        left -= more
        if not left:
            break
    frames = np.flatnonzero(counts)
    return FrameSelection(frames, counts[frames], num_frames, "elastic")


def spread(num_frames: int, num_chosen: int) -> Ints:
    """Spread frames evenly: return those in the middles of equal parts, at most all of them.

    >>> spread(10, 3)
    array([1, 5, 8])
    """
    num_chosen = min(num_chosen, num_frames)
    return ((2 * np.arange(num_chosen) + 1) * num_frames // (2 * num_chosen)).astype(np.int64)


def by_relevance(
    scores: Floats, neighbours: int, num_frames: int, is_about: npt.NDArray[np.bool_] | None = None
) -> Ints:
    """Order frames by relevance, best first, each followed by its neighbours, nearest first.

    Args:
        is_about: ``[F]``; only these are taken, and their neighbours; None: all.

    >>> by_relevance(np.array([0.0, 0.0, 3.0, 0.0, 1.0, 2.0]), neighbours=1, num_frames=5)
    array([2, 1, 3, 5, 4])
    """
    steps = [0, *(side * n for n in range(1, neighbours + 1) for side in (-1, 1))]
    peaks = np.argsort(-scores, kind="stable")
    if is_about is not None:
        peaks = peaks[is_about[peaks]]
    peaks = peaks[:num_frames]  # each is one frame itself, so more are never needed
    order = (peaks[:, None] + np.array(steps)).flatten()
    order = order[(order >= 0) & (order < len(scores))]
    _, first = np.unique(order, return_index=True)
    return order[np.sort(first)][:num_frames]


def _checked(scores: Floats | None, num_frames: int) -> Floats:
    if scores is None or len(scores) != num_frames:
        raise ValueError(f"{num_frames} frames need as many scores, not {None if scores is None else len(scores)}")
    return scores


def group_by_view(selections: Sequence[FrameSelection]) -> list[tuple[FrameSelection, list[int]]]:
    """List each different selection with the numbers of the questions that see it."""
    groups: dict[tuple[bytes, bytes], tuple[FrameSelection, list[int]]] = {}
    for i, selection in enumerate(selections):
        groups.setdefault(selection.key, (selection, []))[1].append(i)
    return list(groups.values())
