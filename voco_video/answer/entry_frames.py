"""Frames of one or several cache entries, read in chunks, by window of time, or one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from torch import Tensor

from voco_video.answer.frame_scorer import token_features, value_features
from voco_video.cache import CacheEntry
from voco_video.cache.int8 import dequantize
from voco_video.model.tokens import VocoTokens
from voco_video.stored_tokens import dtype_of, form_of, read_tokens
from voco_video.video.subtitles import Cue

CHUNK_BYTES = 64 << 20
FRAMES_PER_STEP = 256  # frames per step of a search, so few that products stay in the processor's cache


@dataclass(frozen=True)
class EntryFrames:
    """Frames ``start:stop`` of one cache entry, and what is said in their video."""

    entry: CacheEntry
    start: int
    stop: int
    cues: tuple[Cue, ...] = field(default=(), repr=False)

    @property
    def num_frames(self) -> int:
        """Number of these frames."""
        return self.stop - self.start

    @property
    def pts_seconds(self) -> npt.NDArray[np.float64]:
        """The frames' times in their own video."""
        return self.entry.pts_seconds[self.start : self.stop]

    def between(self, start_seconds: float, stop_seconds: float) -> EntryFrames | None:
        """Return the frames of a window of time; None if there are none."""
        first, last = np.searchsorted(self.pts_seconds, [start_seconds, stop_seconds], side="left")
        if first >= last:
            return None
        return replace(self, start=self.start + int(first), stop=self.start + int(last))


def read_chunks(parts: Sequence[EntryFrames]) -> Iterator[VocoTokens]:
    """Read all frames in order, in chunks of at most `CHUNK_BYTES`; memory-mapped, so nothing is copied."""
    for part in parts:
        size = max(1, CHUNK_BYTES // max(1, part.entry.bytes_per_frame))
        for begin, end in part.entry.mapped_windows(part.start, part.stop):
            for start in range(begin, end, size):
                yield read_tokens(part.entry, start, min(start + size, end))


def read_features(parts: Sequence[EntryFrames]) -> Iterator[Tensor]:
    """Read the features of all frames (see `token_features`), ``[F, K, W]``, in order, some at a time."""
    for part in parts:
        form, dtype = form_of(part.entry), dtype_of(part.entry)
        for start in range(part.start, part.stop, FRAMES_PER_STEP):
            stop = min(start + FRAMES_PER_STEP, part.stop)
            if form == "embeds":
                yield token_features(read_tokens(part.entry, start, stop))
            else:
                names = [name for name in part.entry.tensors if name.partition(".")[0] == "values"]
                rows = part.entry.read_row(names, -1, start, stop)
                yield value_features(dequantize(rows, dtype=dtype)["values"])


def read_chosen(parts: Sequence[EntryFrames], frames: npt.NDArray[np.int64], *, num_voco_tokens: int) -> VocoTokens:
    """Read some of the frames, with the first tokens of each.

    Args:
        frames: their indices over all parts, ascending, at least one.
        num_voco_tokens: number of tokens of each frame.
    """
    pieces, first = [], 0
    for part in parts:
        inside = frames[(frames >= first) & (frames < first + part.num_frames)] - first + part.start
        for run in np.split(inside, np.flatnonzero(np.diff(inside) != 1) + 1) if len(inside) else []:
            tokens = read_tokens(part.entry, int(run[0]), int(run[-1]) + 1)
            pieces.append(tokens.first(num_voco_tokens) if tokens.num_voco_tokens else tokens)
        first += part.num_frames
    return VocoTokens.cat(pieces)
