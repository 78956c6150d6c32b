"""Decoding with PyAV: exactly the frames asked for, in time order, each once decoded as little else as can be.

    wanted frames -> runs (`plan_runs`) -> one decoder, or two side by side (`read_side_by_side`) -> frames

When a stream proves damaged or other than its index (an error, a corrupt picture, one that comes from another packet
than it should) all shortcuts are given up: the rest is read from the first packet on, by one thread, past every error,
so that the same file gives the same frames every time.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from voco_video.video.container import REPORTING_CODECS, DamagedError, MisplacedError, Source, decode_on
from voco_video.video.decode_plan import CannotSeekError, Indices, Run, RunReader, plan_runs
from voco_video.video.packet_index import StreamIndex
from voco_video.video.picture_facts import PictureCopier
from voco_video.video.picture_index import index_again
from voco_video.video.two_decoders import pays_side_by_side, read_side_by_side

logger = logging.getLogger("voco_video")

# Codecs known to start anew at a keyframe; any other is decoded from the first packet on.
_EXACT_ENTRY_CODECS = frozenset({
    "h264", "hevc", "vvc", "av1", "vp8", "vp9", "mpeg1video", "mpeg2video", "mpeg4", "theora", "mjpeg",
    "prores", "dnxhd", "rawvideo", "png",
})  # fmt: skip


class FrameReader:
    """Reads frames of one file by index, each call to `read` from a freshly opened source.

    source:           a scanned one, used up and closed by the first `read` instead of opening another
    stop:             set by another thread to have a `read` end at the next packet
    num_undecodable:  planned frames of the latest `read` that did not decode without errors
    """

    def __init__(self, path: Path, index: StreamIndex, stop: threading.Event, source: Source | None = None) -> None:
        self.num_undecodable = 0
        self._source = source
        self._path = path
        self._index = index
        self._stop = stop

    def read(self, plan: Indices, first_frame: int = 0, *, repeats: bool = False) -> Iterator[tuple[int, Any]]:
        """Yield (time in ticks, `av.VideoFrame` the way up it is stored) for plan[first_frame:], never decreasing.

        A planned frame that does not decode without errors gives way to the last one before it that does (or the
        first of all); unless `repeats`, no frame comes twice.
        """
        self.num_undecodable = 0
        wanted: list[int] = self._index.pts[plan].tolist()
        # A recording cut out of a longer one begins with pictures that build on what is missing.
        num_in_lead = int(np.searchsorted(plan, self._index.first_keyframe))
        position, previous = first_frame, None  # in the plan: the next to yield; the time of what came before
        if num_in_lead and position <= num_in_lead:
            previous = yield from self._read_past_damage(wanted[:num_in_lead], position, repeats=repeats)
            position = num_in_lead
        try:
            for frame_index, frame in self._read_quickly(np.unique(plan[position:])):
                while position < len(plan) and plan[position] == frame_index:
                    if repeats or wanted[position] != previous:
                        yield wanted[position], frame
                    position += 1
        except DamagedError as damage:
            logger.info("%s: %s; reading it from the start instead", self._path, damage)
            if isinstance(damage, MisplacedError):
                self._index = index_again(self._path)
            yield from self._read_past_damage(wanted, position, repeats=repeats)
        if self.num_undecodable:
            logger.warning(
                "%s: %d of %d frames could not be decoded; the last good frame before each stands in for it",
                self._path,
                self.num_undecodable,
                len(plan) - first_frame,
            )

    def _read_quickly(self, frames: Indices) -> Iterator[tuple[int, Any]]:
        """Yield each of `frames` (distinct, ascending) or raise DamagedError at the first that does not come intact."""
        if self._index.is_damaged:
            raise DamagedError("it is damaged")
        num_read, can_seek, takes_shortcuts = 0, True, not self._index.is_from_pictures
        while num_read < len(frames):
            try:
                with self._open_source() as source:
                    codec = source.decoder.codec.canonical_name
                    takes_shortcuts = takes_shortcuts and codec in _EXACT_ENTRY_CODECS
                    if codec not in _EXACT_ENTRY_CODECS | REPORTING_CODECS:
                        raise DamagedError("its decoder would not say if it were damaged")
                    runs = plan_runs(self._index, frames[num_read:], can_jump=takes_shortcuts)
                    # Closed before the source is: other threads may be reading from that.
                    with contextlib.closing(
                        self._read_runs(source, runs, can_seek=can_seek, can_skip=takes_shortcuts)
                    ) as found:
                        for frame_index, frame in found:
                            yield frame_index, frame
                            num_read += 1
                    if self._stop.is_set():
                        return
            except CannotSeekError:
                can_seek = False
            except DamagedError:
                # A keyframe may be one in name only (gradual refresh, wrong flags): once more without relying on any.
                # Nothing is skipped then, or damage that has been met might be passed over.
                if not takes_shortcuts:
                    raise
                takes_shortcuts = False

    def _read_runs(
        self, source: Source, runs: Sequence[Run], *, can_seek: bool, can_skip: bool
    ) -> Generator[tuple[int, Any], None, None]:
        if pays_side_by_side(runs):
            yield from read_side_by_side(source, self._path, self._index, runs, can_seek=can_seek, stop=self._stop)
            return
        reader = RunReader(source, self._index, can_seek=can_seek, can_skip=can_skip, is_stopped=self._stop.is_set)
        for run in runs:
            yield from reader.read(run)

    def _open_source(self) -> Source:
        source, self._source = self._source, None
        return source or Source(self._path)

    def _read_past_damage(
        self, wanted: Sequence[int], position: int, *, repeats: bool
    ) -> Generator[tuple[int, Any], None, int | None]:
        """wanted[position:] from the first packet on: for each of these times the last picture not later than it.

        Returns the time of what stands for the last one.
        """
        # What the frame before gave decides whether this one would repeat it, also when a caller resumes here.
        before = max(position - 1, 0)
        previous: int | None = None
        for number, (pts, picture) in enumerate(self._stand_ins(wanted[before:]), start=before):
            is_new = repeats or pts != previous
            previous = pts
            if number < position:
                continue
            self.num_undecodable += pts != wanted[number] or picture.is_corrupt
            if is_new:
                yield pts, picture
        return previous

    def _stand_ins(self, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """For each of these times (not decreasing) the last picture not later than it, or the first of all."""
        position, latest = 0, None
        with contextlib.closing(self._decode_everything()) as pictures:
            for pts, picture in pictures:
                while position < len(wanted) and wanted[position] < pts:
                    yield latest or (pts, picture)
                    position += 1
                latest = pts, picture
                while position < len(wanted) and wanted[position] == pts:
                    yield latest
                    position += 1
                if position == len(wanted) or self._stop.is_set():
                    return
        while latest is not None and position < len(wanted):
            yield latest
            position += 1

    def _decode_everything(self) -> Generator[tuple[int, Any], None, None]:
        """Every good picture from the first packet on, with its time in ticks, later than the one before.

        Pictures with errors in them come only where there is no other.
        """
        for are_bad_ones_good in (False, True):
            latest = -1
            copier = PictureCopier()
            with Source(self._path, lenient=True) as source:
                for picture in decode_on(source):
                    frame, is_good = self._index.frame_shown_by(picture), are_bad_ones_good or not picture.is_corrupt
                    own = copier.copy(picture)
                    # What a decoder makes of damage may depend on which of its buffers are still in use.
                    del picture
                    # A damaged picture may come late: time does not go back for it.
                    if frame > latest and is_good:
                        latest = frame
                        yield int(self._index.pts[frame]), own
            if latest >= 0:
                return
