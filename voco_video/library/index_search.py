"""Bounds on the scores of a library's videos, from its index alone.

    coarse codes of every frame -> a bound each          fine codes of the frames that may matter -> a narrow bound each

What may matter is decided by the best scores that are certain: a frame that cannot reach them is not looked at again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from voco_video.library.index_codes import Floats, Question
from voco_video.library.index_file import IndexFile, fine_checks

APPROXIMATE_SLACK = 0.5
"""Share of the distance to a centroid that an approximate search reckons with. Were errors of coarse codes of random
direction, a key in 400 would be further off; `python -m benchmarks.library.search` measures what is missed."""
_CHUNK_FRAMES = 8192  # of which coarse codes stay in the processor's cache
_SEED_FRAMES = 2048  # whose fine codes are read first


@dataclass(frozen=True, eq=False)
class Shard:
    """The videos of one index that are searched.

    Attributes:
        index: their index.
        rows: theirs, ``[V]``; each of at least one frame.
        question: as the scorer of their form sees it.
        slack: see `Question.tables`.
    """

    index: IndexFile
    rows: np.ndarray
    question: Question
    slack: float = 1.0

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """Where each video's frames begin among all that are searched, ``[V + 1]``."""
        return np.concatenate([[0], np.cumsum(self.rows["num_frames"])])

    @cached_property
    def coarse(self) -> Floats:
        """No frame's score is above this, ``[F]`` (where `slack` is 1)."""
        tables = self.question.tables(self.index.codebook, slack=self.slack)
        bounds = np.empty(self.starts[-1], np.float32)

        def compute(part: slice) -> None:
            rows = self.rows[part]
            codes = _joined([self.index.coarse[first:stop]["codes"] for first, stop in _runs(rows)])
            begin = self.starts[part.start]
            bounds[begin : begin + len(codes)] = self.question.coarse(tables, codes)

        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            list(threads.map(compute, self._parts()))
        return bounds

    def _parts(self) -> Iterator[slice]:
        """Cut the videos into parts of so many frames, or of one video."""
        first = 0
        while first < len(self.rows):
            stop = int(np.searchsorted(self.starts, self.starts[first] + _CHUNK_FRAMES, side="right")) - 1
            stop = max(stop, first + 1)
            yield slice(first, stop)
            first = stop

    def videos_of(self, frames: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the videos of frames."""
        return np.searchsorted(self.starts, frames, side="right") - 1

    def fine(self, frames: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Bound the scores of frames from below and above by their fine codes; damaged codes bound nothing."""
        videos = self.videos_of(frames)
        places = self.rows["first_frame"][videos] + frames - self.starts[videos]
        codes = self.index.fine[places]  # [n, K * H]
        low, high = self.question.fine(codes)
        is_sound = fine_checks(codes) == self.index.coarse["fine_check"][places]
        return np.where(is_sound, low, -np.float32(np.inf)), np.where(is_sound, high, np.float32(np.inf))


@dataclass(eq=False)
class Bounds:
    """What is known of the best score of each video of some shards.

    Attributes:
        shards: whose videos come one after the other.
        num_wanted: how many moments are looked for.
        known: scores of moments elsewhere.
        low, high: no video's best frame scores less or more, ``[V]``; -inf where it cannot be among the best.
        num_read: frames whose fine codes were read.
    """

    shards: Sequence[Shard]
    num_wanted: int
    known: Sequence[float] = ()
    low: Floats = field(init=False)
    high: Floats = field(init=False)
    num_read: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        count = sum(len(shard.rows) for shard in self.shards)
        self.low = np.full(count, -np.inf, np.float32)
        self.high = np.full(count, -np.inf, np.float32)
        firsts = np.cumsum([0, *(len(shard.rows) for shard in self.shards)]).tolist()
        seeds = [_largest(shard.coarse, _SEED_FRAMES) for shard in self.shards]
        for first, shard, frames in zip(firsts, self.shards, seeds):  # the most promising of all before any others
            self._read(first, shard, frames)
        for first, shard, seen in zip(firsts, self.shards, seeds):
            frames = np.setdiff1d(np.flatnonzero(shard.coarse >= self.threshold()), seen, assume_unique=True)
            for start in range(0, len(frames), _CHUNK_FRAMES):
                part = frames[start : start + _CHUNK_FRAMES]
                self._read(first, shard, part[shard.coarse[part] >= self.threshold()])

    def threshold(self) -> float:
        """Return the score that a moment needs to be among the best, as far as is certain."""
        scores = np.concatenate([self.low, np.asarray(self.known, np.float32)])
        if len(scores) < self.num_wanted:
            return -np.inf
        return float(np.partition(scores, len(scores) - self.num_wanted)[len(scores) - self.num_wanted])

    def _read(self, first: int, shard: Shard, frames: npt.NDArray[np.int64]) -> None:
        low, high = shard.fine(frames)
        videos = first + shard.videos_of(frames)
        np.maximum.at(self.low, videos, low)
        np.maximum.at(self.high, videos, high)
        self.num_read += len(frames)


def _largest(bounds: Floats, count: int) -> npt.NDArray[np.int64]:
    """Return the places of the largest bounds, in order of place."""
    if len(bounds) <= count:
        return np.arange(len(bounds))
    return np.sort(np.argpartition(bounds, len(bounds) - count)[len(bounds) - count :])


def _runs(rows: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield where the frames of rows lie, those that follow on each other as one run."""
    first = stop = None
    for begin, count in zip(rows["first_frame"].tolist(), rows["num_frames"].tolist(), strict=True):
        if begin != stop:
            if first is not None and stop is not None:
                yield first, stop
            first = begin
        stop = begin + count
    if first is not None and stop is not None:
        yield first, stop


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
