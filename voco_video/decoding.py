"""Decoding with PyAV: exactly the frames asked for, in time order, each once decoded as little else as can be.

    wanted frames -> runs (`plan_runs`) -> one decoder, or two side by side (`read_side_by_side`) -> frames

When a stream proves damaged (an error, a corrupt flag, a wanted frame that does not come) all shortcuts are given up:
the rest is read from the first packet on, by one thread, past every error, so that the same file gives the same
frames every time.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from voco_video.demuxing import Source, StreamIndex
from voco_video.lanes import pays_side_by_side, read_side_by_side
from voco_video.runs import CannotSeekError, DamagedError, Indices, Run, RunReader, plan_runs

logger = logging.getLogger("voco_video")

# Codecs known to start anew at a keyframe; any other is decoded from the first packet on.
_EXACT_ENTRY_CODECS = frozenset({
    "h264", "hevc", "vvc", "av1", "vp8", "vp9", "mpeg1video", "mpeg2video", "mpeg4", "h263", "theora", "mjpeg",
    "prores", "dnxhd", "ffv1", "huffyuv", "rawvideo", "png",
})  # fmt: skip


class FrameReader:
    """Reads frames of one file by index, each call to `read` from a freshly opened source.

    source:           a scanned one, used up and closed by the first `read` instead of opening another
    stop:             set by another thread to have a `read` end at the next packet
    num_undecodable:  planned frames of the latest `read` that did not decode
    """

    def __init__(self, path: Path, index: StreamIndex, stop: threading.Event, source: Source | None = None) -> None:
        self.num_undecodable = 0
        self._source = source
        self._path = path
        self._index = index
        self._stop = stop

    def read(self, plan: Indices, first_frame: int = 0, *, repeats: bool = False) -> Iterator[tuple[int, Any]]:
        """Yield (frame index, `av.VideoFrame` the way up it is stored) for plan[first_frame:], never decreasing.

        A planned frame that does not decode gives way to the last one before it that does (or the first of all);
        unless `repeats`, no frame comes twice.
        """
        self.num_undecodable = 0
        # A recording cut out of a longer one begins with pictures that build on what is missing.
        num_in_lead = int(np.searchsorted(plan, self._index.first_keyframe))
        position, previous = first_frame, None  # in the plan: the next to yield; what came for the one before
        if num_in_lead and position <= num_in_lead:
            previous = yield from self._read_past_damage(plan[:num_in_lead], position, repeats=repeats)
            position = num_in_lead
        try:
            for frame_index, frame in self._read_quickly(np.unique(plan[position:])):
                while position < len(plan) and plan[position] == frame_index:
                    if repeats or frame_index != previous:
                        yield frame_index, frame
                    position += 1
        except DamagedError as damage:
            logger.info("%s: %s; reading it from the start instead", self._path, damage)
            yield from self._read_past_damage(plan, position, repeats=repeats)
        if self.num_undecodable:
            logger.warning(
                "%s: %d of %d frames could not be decoded; the last frame before each stands in for it",
                self._path,
                self.num_undecodable,
                len(plan) - first_frame,
            )

    def _read_quickly(self, frames: Indices) -> Iterator[tuple[int, Any]]:
        """Yield each of `frames` (distinct, ascending) or raise DamagedError at the first that does not come intact."""
        if self._index.is_counted:
            raise DamagedError("its frames carry no usable times")
        num_read, can_seek, can_jump = 0, True, True
        while num_read < len(frames):
            try:
                with self._open_source() as source:
                    can_jump = can_jump and source.decoder.codec.canonical_name in _EXACT_ENTRY_CODECS
                    runs = plan_runs(self._index, frames[num_read:], can_jump=can_jump)
                    # Closed before the source is: other threads may be reading from that.
                    with contextlib.closing(self._read_runs(source, runs, can_seek=can_seek)) as found:
                        for frame_index, frame in found:
                            yield frame_index, frame
                            num_read += 1
                    if self._stop.is_set():
                        return
            except CannotSeekError:
                can_seek = False
            except DamagedError:
                # A keyframe may be one in name only (gradual refresh, wrong flags): once more without relying on any.
                if not can_jump:
                    raise
                can_jump = False

    def _read_runs(
        self, source: Source, runs: Sequence[Run], *, can_seek: bool
    ) -> Generator[tuple[int, Any], None, None]:
        if pays_side_by_side(runs):
            yield from read_side_by_side(source, self._path, self._index, runs, can_seek=can_seek, stop=self._stop)
            return
        reader = RunReader(source, self._index, can_seek=can_seek, is_stopped=self._stop.is_set)
        for run in runs:
            yield from reader.read(run)

    def _open_source(self) -> Source:
        source, self._source = self._source, None
        return source or Source(self._path)

    def _read_past_damage(
        self, plan: Indices, position: int, *, repeats: bool
    ) -> Generator[tuple[int, Any], None, int | None]:
        """plan[position:] from the first packet on: for each frame the last decoded one not after it.

        Returns the index of what stands for the plan's last frame.
        """
        # What the frame before gave decides whether this one would repeat it, also when a caller resumes here.
        before = max(position - 1, 0)
        previous: int | None = None
        for number, (frame_index, frame) in enumerate(self._stand_ins(plan[before:]), start=before):
            is_new = repeats or frame_index != previous
            previous = frame_index
            if number < position:
                continue
            self.num_undecodable += int(frame_index != plan[number])
            if is_new:
                yield frame_index, frame
        return previous

    def _stand_ins(self, wanted: Indices) -> Iterator[tuple[int, Any]]:
        """For each of `wanted` (not decreasing) the last decoded frame not after it, or the first of all."""
        position, latest = 0, None
        for frame_index, frame in self._decode_everything():
            while position < len(wanted) and wanted[position] < frame_index:
                yield latest or (frame_index, frame)
                position += 1
            latest = frame_index, frame
            while position < len(wanted) and wanted[position] == frame_index:
                yield latest
                position += 1
            if position == len(wanted):
                return
        while latest is not None and position < len(wanted):
            yield latest
            position += 1

    def _decode_everything(self) -> Iterator[tuple[int, Any]]:
        """Every frame that decodes from the first packet on, whatever errors lie between, in time order."""
        # One thread where there is damage: concealment of errors differs from run to run when several decode at once.
        with Source(self._path, num_threads=None if self._index.is_counted else 1) as source:
            latest, count = -1, 0
            for frame in _decode_leniently(source):
                if self._index.is_counted:
                    frame_index, count = count, count + 1
                    if frame_index >= len(self._index.pts):
                        return
                elif frame.pts is None:
                    continue
                else:
                    frame_index = int(np.searchsorted(self._index.pts, frame.pts))
                    if frame_index <= latest or frame_index == len(self._index.pts):
                        continue
                    if self._index.pts[frame_index] != frame.pts:
                        continue
                if self._stop.is_set():
                    return
                latest = frame_index
                yield frame_index, frame


def _decode_leniently(source: Source) -> Iterator[Any]:
    import av

    for packet in source.packets():
        with contextlib.suppress(av.error.FFmpegError):
            yield from source.decoder.decode(packet)
    with contextlib.suppress(av.error.FFmpegError):
        yield from source.decoder.decode(None)
