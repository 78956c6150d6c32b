"""Runs: from which keyframe to decode so that wanted frames come at the least work, and decoding one of them.

Reading a few frames out of many; packets left to right, `I` a keyframe, `x` a wanted frame:

    I . . . . x . . I . . . . . . . I . . x .      one run per keyframe that is worth starting at:
    [---------]                     [-----]        decode from it to the last wanted packet, drain, jump on

Within a run the decoder is told, packet by packet, to skip pictures that no other picture refers to unless they are
wanted. Neither shortcut changes a pixel against decoding from the very first packet: each picture says which packet it
comes from, and one that is not where the index has it ends the run with a DamagedError.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voco_video.video.container import DamagedError, MisplacedError, Source, decode_alone, is_whole, packet_number
from voco_video.video.packet_index import NO_TIME, StreamIndex

# A jump drains the decoder, which idles its threads for about a frame each: not worth it to save fewer packets.
JUMP_PACKETS = 8
# Reading past this many packets costs less than a seek, and cannot land in the wrong place.
SEEK_PACKETS = 200

Indices = npt.NDArray[np.int64]


class CannotSeekError(Exception):
    """The container does not go where it is asked to."""


@dataclass(frozen=True)
class Run:
    """Decode from packet `entry_packet` on and take `frames` [n] (indices, ascending).

    entry_frame:  none of `frames` is before it
    entry_shows:  the packet is a keyframe that is itself shown, so a decoder that starts well gives it first
    last_packet:  of those that hold `frames`
    """

    entry_packet: int
    entry_frame: int
    entry_shows: bool
    frames: Indices
    last_packet: int

    @property
    def num_packets(self) -> int:
        """How many are read."""
        return self.last_packet + 1 - self.entry_packet


def plan_runs(index: StreamIndex, frames: Indices, *, can_jump: bool) -> list[Run]:
    """Split wanted frames (distinct, ascending) into runs, jumping where a keyframe saves enough decoding."""
    if not len(frames):
        return []
    if not can_jump:
        return [_run_from(index, 0, frames)]
    packets, entries = index.packet_of[frames], _entries_of(index, frames)  # [F]
    next_packets = np.concatenate(([0], np.maximum.accumulate(packets)[:-1] + 1))  # [F]
    saved = index.entry_packets[entries] - next_packets
    starts = np.flatnonzero((saved >= JUMP_PACKETS) | (np.arange(len(frames)) == 0))
    stops = [*starts[1:].tolist(), len(frames)]
    return [
        _run_from(index, int(entries[start]), frames[start:stop])
        for start, stop in zip(starts.tolist(), stops, strict=True)
    ]


def _entries_of(index: StreamIndex, frames: Indices) -> Indices:
    """For each frame the latest keyframe (a place in `entry_packets`) before it both in time and in the file."""
    entries = np.minimum(
        np.searchsorted(index.entry_packets, index.packet_of[frames], side="right"),
        np.searchsorted(index.entry_frames, frames, side="right"),
    )
    return np.maximum(entries - 1, 0)


def _run_from(index: StreamIndex, entry: int, frames: Indices) -> Run:
    packet, first, last_packet = (int(part) for part in (
        index.entry_packets[entry], index.entry_frames[entry], index.packet_of[frames].max()
    ))  # fmt: skip
    if index.has_hidden:  # what follows may be its second field
        last_packet += int(index.frame_of[last_packet + 1 : last_packet + 2].tolist() == [-1])
    # Whatever the first one shows is as good as it gets: nothing lies before it.
    shows = entry > 0 and index.frame_of[packet] == first
    return Run(packet, first if entry else min(first, int(frames[0])), shows, frames, last_packet)


def keyframes_start_anew(
    path: Path,
    index: StreamIndex,
    frames: Indices,
    stop: threading.Event,
    is_alike: Callable[[Any], bool] = lambda picture: True,
) -> bool:
    """Whether each keyframe from which `frames` would be decoded is a whole picture by itself, and `is_alike`.

    Files whose picture is refreshed bit by bit mark places as keyframes where a decoder shows nothing, or shows
    what it has not got right yet.
    """
    entries = np.unique(_entries_of(index, frames))
    return all_whole(path, index.entry_packets[entries[entries > 0]].tolist(), stop, is_alike)


def all_whole(
    path: Path, packets: list[int], stop: threading.Event, is_alike: Callable[[Any], bool] = lambda picture: True
) -> bool:
    """Whether each of these packets (ascending) gives a whole picture by itself, as far as it shows one."""
    packets = list(packets)
    with Source(path, num_threads=1) as source:
        for number, packet in enumerate(source.packets()):
            if not packets or stop.is_set():
                break
            if number == packets[0]:
                packets.pop(0)
                source.name(packet, number)
                picture = decode_alone(source.decoder, packet)
                if not packet.is_discard and not (
                    picture and packet_number(picture) == number and is_whole(picture) and not picture.is_corrupt
                ):
                    return False
                if picture and not is_alike(picture):
                    return False
    return not packets or stop.is_set()


class RunReader:
    """Reads runs of a freshly opened or scanned source, in the order of the file.

    can_skip:    leave out pictures that are neither wanted nor referred to
    is_stopped:  asked at every packet; once it says yes, a `read` ends
    """

    def __init__(
        self,
        source: Source,
        index: StreamIndex,
        *,
        can_seek: bool,
        is_stopped: Callable[[], bool],
        can_skip: bool = True,
    ) -> None:
        self._source = source
        self._index = index
        self._can_skip = can_skip
        self._is_stopped = is_stopped
        self._cursor = _Cursor(source, index, can_seek=can_seek)

    def read(self, run: Run) -> Iterator[tuple[int, Any]]:
        """Yield (frame index, `av.VideoFrame` the way up it is stored) for each frame of a run after the one before.

        Raises DamagedError, after the frames before it, at the first error, MisplacedError at the first picture that
        is not the one that the index has there, and CannotSeekError.
        """
        wanted = deque(run.frames.tolist())
        latest, entry_is_due = -1, run.entry_shows
        for picture in self._decode(run):
            frame = self._index.frame_shown_by(picture)
            if 0 <= frame < run.entry_frame:
                continue  # shown before the keyframe that the run starts at: not decodable from there, nor wanted
            if picture.is_corrupt:
                raise DamagedError(f"the picture of packet {packet_number(picture)} is corrupt")
            if frame <= latest:
                raise MisplacedError(f"the picture of packet {packet_number(picture)} is not where it should be")
            if entry_is_due and not (frame == run.entry_frame and is_whole(picture)):
                raise DamagedError(f"decoding does not start exactly at packet {run.entry_packet}")
            latest, entry_is_due = frame, False
            if frame == wanted[0]:
                yield wanted.popleft(), picture
            elif frame > wanted[0]:
                break
            if not wanted:
                return
        if wanted and not self._is_stopped():
            raise MisplacedError(f"packet {self._index.packet_of[wanted[0]]} does not become a picture in its place")

    def _decode(self, run: Run) -> Iterator[Any]:
        """Every frame the decoder gives for a run, skipping what is neither wanted nor referred to."""
        import av

        decoder, top_layer, frame_of = self._source.decoder, self._index.max_temporal_layer, self._index.frame_of
        is_wanted = np.zeros(run.num_packets, np.bool_)
        is_wanted[self._index.packet_of[run.frames] - run.entry_packet] = True
        # A packet that shows nothing may be the second field of the one before.
        shows_nothing = frame_of[run.entry_packet : run.last_packet + 1] < 0
        is_wanted[1:] |= shows_nothing[1:] & is_wanted[:-1]
        skipping = None
        try:
            yield from self._cursor.jump_to(run.entry_packet)
            for number, packet in self._cursor.read_through(run.last_packet):
                # Shown before the run's first frame: it may build on what lies before the run, and is not needed.
                if 0 <= frame_of[number] < run.entry_frame:
                    continue
                skip = self._can_skip and not is_wanted[number - run.entry_packet]
                if top_layer and skip:
                    skip = self._source.temporal_layer(packet) == top_layer
                if self._is_stopped():
                    return
                if skip is not skipping:
                    decoder.skip_frame = "NONREF" if skip else "DEFAULT"
                    skipping = skip
                yield from decoder.decode(packet)
            with contextlib.suppress(av.error.EOFError):  # `scan` had to do it already
                yield from decoder.decode(None)
        except av.error.FFmpegError as error:
            raise DamagedError(f"decoding fails ({error.strerror})") from error


class _Cursor:
    """A place in the packet list of a freshly opened or scanned source, and the ways forward."""

    def __init__(self, source: Source, index: StreamIndex, *, can_seek: bool) -> None:
        self._source = source
        self._index = index
        self._can_seek = can_seek
        self._packets = iter(source.kept_packets) if source.kept_packets else source.packets()
        self._next_packet = 0
        places = zip(index.seek_pts.tolist(), index.entry_packets.tolist(), strict=True)
        self._packet_of_seek_pts = {pts: packet for pts, packet in places if pts != NO_TIME}

    def read_through(self, last_packet: int) -> Iterator[tuple[int, Any]]:
        """Yield (number, packet) from here to `last_packet`, which is included."""
        while self._next_packet <= last_packet:
            packet, number = next(self._packets, None), self._next_packet
            if packet is None:
                raise DamagedError(f"it ends before packet {last_packet}")
            if packet.is_keyframe and self._packet_of_seek_pts.get(packet.pts, number) != number:
                raise DamagedError("its packets come in another order than before")
            self._next_packet = number + 1
            if not self._source.kept_packets:  # else `scan` has named it, and another lane may be reading it
                self._source.name(packet, number)
            yield number, packet

    def jump_to(self, entry_packet: int) -> Sequence[Any]:
        """Make the decoder go on with `entry_packet`, at or after the present place.

        It starts afresh there, unless it has begun already; returns the frames that it has given since then.
        """
        begun, self._source.begun = self._source.begun, None
        if begun and entry_packet == 0:
            for _ in self.read_through(begun.num_packets - 1):
                pass
            return begun.frames
        self._source.decoder.flush_buffers()
        if (
            self._can_seek
            and self._packet_of_seek_pts
            and entry_packet - self._next_packet >= SEEK_PACKETS
            and not self._source.kept_packets
        ):
            self._seek(entry_packet)
        for _ in self.read_through(entry_packet - 1):
            pass
        return ()

    def _seek(self, entry_packet: int) -> None:
        """Seek to a place at or before `entry_packet`; raise CannotSeekError if the container does not."""
        import av

        entry = int(np.searchsorted(self._index.entry_packets, entry_packet))
        # Some containers search by decoding time, some land late for reasons of their own: ask for earlier ones then.
        for earlier in (0, 1, 4, 16):
            target_pts = int(self._index.seek_pts[max(0, entry - earlier)])
            with contextlib.suppress(av.error.FFmpegError):
                self._source.container.seek(target_pts, stream=self._source.stream)
                if self._find_place(entry_packet):
                    return
        raise CannotSeekError

    def _find_place(self, latest_packet: int) -> bool:
        """After a seek: recognise the first keyframe by its time. False if that is past `latest_packet`."""
        self._packets = self._source.packets()
        for packet in self._packets:
            number = self._packet_of_seek_pts.get(packet.pts) if packet.is_keyframe else None
            if number is not None:
                self._packets = itertools.chain((packet,), self._packets)
                self._next_packet = number
                return number <= latest_packet
        return False
