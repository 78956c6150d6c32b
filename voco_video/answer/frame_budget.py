"""What a question sees of a video: a budget in tokens, and the frames that are chosen to meet it. Pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voco_video.answer.moments import format_seconds
from voco_video.errors import UsageError
from voco_video.options.answering import ViewOptions

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]

TEXT_ROOM_TOKENS = 1024  # of the context length, left to question and answer; at most a quarter of it


@dataclass(frozen=True, eq=False)
class View:
    """The frames that a question sees.

    Attributes:
        frames: their indices in time order, int64 ``[V]``.
        counts: how many of its tokens each is seen with, int64 ``[V]``.
        num_frames: F, of which these were chosen.
        policy: how; empty where all frames are seen whole.
    """

    frames: Ints
    counts: Ints
    num_frames: int
    policy: str = ""

    @property
    def num_tokens(self) -> int:
        """Tokens in all."""
        return int(self.counts.sum())

    @property
    def note(self) -> str:
        """What a reader has to know: which frames are not seen; empty where all are."""
        left_out = self.num_frames - len(self.frames)
        if not self.policy or (not left_out and self.counts.min(initial=0) == self.counts.max(initial=0)):
            return ""
        return f"saw {len(self.frames)} of {self.num_frames} frames ({self.policy}, {self.num_tokens} tokens)"


def context_budget(context_length: int | None, *, frame_length: int) -> int | None:
    """Tokens of frames that a model's trained position range has room for; None where it has no limit.

    Args:
        context_length: positions that the model was trained on.
        frame_length: positions before the first kept token.

    >>> context_budget(4096, frame_length=578)
    2494
    """
    if context_length is None:
        return None
    return max(1, context_length - frame_length - min(TEXT_ROOM_TOKENS, context_length // 4))


def everything(num_frames: int, num_voco_tokens: int) -> View:
    """All frames with all their tokens."""
    return View(np.arange(num_frames), np.full(num_frames, num_voco_tokens, np.int64), num_frames)


def choose_view(
    num_frames: int,
    num_voco_tokens: int,
    *,
    max_voco_tokens: int | None,
    options: ViewOptions,
    scores: Floats | None = None,
    is_about: npt.NDArray[np.bool_] | None = None,
) -> View:
    """Frames that meet a budget, in time order.

    Args:
        num_frames: F.
        num_voco_tokens: k that a frame is seen with; under ``elastic`` the relevant ones.
        max_voco_tokens: the budget, `ViewOptions.max_voco_tokens` or what the context length leaves; None: no limit.
        scores: ``[F]``, how much each frame has to do with the question, for policies that need it.
        is_about: ``[F]``; under ``relevant`` no other frames are seen but these and their neighbours.

    Raises:
        UsageError: the budget does not hold a single frame.

    >>> choose_view(100, 4, max_voco_tokens=12, options=ViewOptions()).frames
    array([16, 50, 83])
    >>> scores = np.where(np.arange(100) == 70, 1.0, 0.0)
    >>> relevant = ViewOptions(policy="relevant", neighbours=1)
    >>> choose_view(100, 4, max_voco_tokens=12, options=relevant, scores=scores).frames
    array([69, 70, 71])
    """
    if max_voco_tokens is None or num_frames * num_voco_tokens <= max_voco_tokens:
        return everything(num_frames, num_voco_tokens)
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
    return View(frames, np.full(len(frames), num_voco_tokens, np.int64), num_frames, options.policy)


def _elastic(num_frames: int, num_voco_tokens: int, max_voco_tokens: int, options: ViewOptions, scores: Floats) -> View:
    """Half of the budget on frames spread evenly at one token each, the rest on relevant ones at k."""
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
    return View(frames, counts[frames], num_frames, "elastic")


def spread(num_frames: int, num_chosen: int) -> Ints:
    """The frames in the middles of equal parts, at most all of them.

    >>> spread(10, 3)
    array([1, 5, 8])
    """
    num_chosen = min(num_chosen, num_frames)
    return ((2 * np.arange(num_chosen) + 1) * num_frames // (2 * num_chosen)).astype(np.int64)


def by_relevance(
    scores: Floats, neighbours: int, num_frames: int, is_about: npt.NDArray[np.bool_] | None = None
) -> Ints:
    """The most relevant frames, best first, each followed by its neighbours, nearest first; all, or those that may be.

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


def clock_frames(pts_seconds: Floats, every_seconds: float) -> Ints:
    """Which of the frames seen the time is told before: the first, then the first of each further interval.

    >>> clock_frames(np.array([3.0, 4.0, 12.0, 14.0, 40.0]), 10)
    array([0, 2, 4])
    """
    intervals = np.floor(np.asarray(pts_seconds) / every_seconds)
    return np.flatnonzero(np.diff(intervals, prepend=-np.inf) != 0)


def clock_text(seconds: float) -> str:
    """A time as the model is told it.

    >>> clock_text(3723.5)
    '[1:02:03]'
    """
    return f"[{format_seconds(math.floor(seconds), digits=0, with_hours=True)}]"


def _checked(scores: Floats | None, num_frames: int) -> Floats:
    if scores is None or len(scores) != num_frames:
        raise ValueError(f"{num_frames} frames need as many scores, not {None if scores is None else len(scores)}")
    return scores
