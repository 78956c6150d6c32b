"""The clock: times as text before some of the frames, which tell the model when these were seen."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from voco_video.answer.moments import format_seconds
from voco_video.errors import ModelError
from voco_video.model.backbone import Backbone

Floats = npt.NDArray[np.floating]


def time_token_ids(backbone: Backbone, seconds: float) -> list[int]:
    """Return the token ids of one time.

    Raises:
        ModelError: the model has no tokenizer.
    """
    if backbone.tokenizer is None:
        raise ModelError("this checkpoint has no tokenizer, so it cannot be told the time (clock_every_seconds)")
    return backbone.token_ids(clock_text(seconds))


def clock_frames(pts_seconds: Floats, every_seconds: float) -> npt.NDArray[np.int64]:
    """Choose the frames that a time stands before: the first, then the first of each further interval.

    >>> clock_frames(np.array([3.0, 4.0, 12.0, 14.0, 40.0]), 10)
    array([0, 2, 4])
    """
    intervals = np.floor(np.asarray(pts_seconds) / every_seconds)
    return np.flatnonzero(np.diff(intervals, prepend=-np.inf) != 0)


def clock_text(seconds: float) -> str:
    """Write a time as the model reads it.

    >>> clock_text(3723.5)
    '[1:02:03]'
    """
    return f"[{format_seconds(math.floor(seconds), digits=0, with_hours=True)}]"
