"""Runs: from which keyframe to decode so that wanted frames come at the least work, and decoding one of them.

Reading a few frames out of many; packets left to right, `I` a keyframe, `x` a wanted frame:

    I . . . . x . . I . . . . . . . I . . x .      one run per keyframe that is worth starting at:
    [---------]                     [-----]        decode from it to the last wanted packet, drain, jump on

Within a run the decoder is told, packet by packet, to skip pictures that no other picture refers to unless they are
wanted. Neither shortcut changes a pixel against decoding from the very first packet.
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

from voco_video.demuxing import Source, StreamIndex, decode_alone, is_whole

# A jump drains the decoder, which idles its threads for about a frame each: not worth it to save fewer packets.
JUMP_PACKETS = 8
# Reading past this many packets costs less than a seek, and cannot land in the wrong place.
SEEK_PACKETS = 200
# More than any codec reorders by; only nonsensical times would make it more.
_MAX_HELD_FRAMES = 32

Indices = npt.NDArray[np.int64]


class DamagedError(Exception):
    """The quick way met something that a sound stream does not have."""


class CannotSeekError(Exception):
    """The container does not go where it is asked to."""


@dataclass(frozen=True)
class Run:
    """Decode from packet `entry_packet` on and take `frames` [n] (indices, ascending), none before `entry_pts`.

    entry_shows: the packet is a keyframe that is itself shown, so a decoder that starts well gives it first.
    last_packet: of those that hold `frames`.
    settled_pts: [n] a frame may build on pictures shown after it, whose damage only shows when they come out; once
        the decoder has given a picture this late, everything that this frame can build on has come out.
    """

    entry_packet: int
    entry_pts: int
    entry_shows: bool
    frames: Indices
    settled_pts: Indices
    last_packet: int

    @property
    def num_packets(self) -> int:
        """How many are read."""
        return self.last_packet + 1 - self.entry_packet


def plan_runs(index: StreamIndex, frames: Indices, *, can_jump: bool) -> list[Run]:
    """Split wanted frames (distinct, ascending) into runs, jumping where a keyframe saves enough decoding."""
    if not len(frames):
        return []
    packets = index.packet_of[frames]  # [F]
    first_packets = np.minimum.accumulate(index.packet_of[::-1])[::-1]  # [M] of a frame and all later ones
    settled_pts = index.pts[np.searchsorted(first_packets, packets, side="right") - 1]  # [F]
    if not can_jump:
        return [_run_from(index, 0, frames, settled_pts)]
    entries = _entries_of(index, frames)  # [F]
    next_packets = np.concatenate(([0], np.maximum.accumulate(packets)[:-1] + 1))  # [F]
    saved = index.entry_packets[entries] - next_packets
    starts = np.flatnonzero((saved >= JUMP_PACKETS) | (np.arange(len(frames)) == 0))
    stops = [*starts[1:].tolist(), len(frames)]
    return [
        _run_from(index, int(entries[start]), frames[start:stop], settled_pts[start:stop])
        for start, stop in zip(starts.tolist(), stops, strict=True)
    ]


def _entries_of(index: StreamIndex, frames: Indices) -> Indices:
    """For each frame the latest keyframe (a place in `entry_packets`) before it both in time and in the file."""
    entries = np.minimum(
        np.searchsorted(index.entry_packets, index.packet_of[frames], side="right"),
        np.searchsorted(index.entry_pts, index.pts[frames], side="right"),
    )
    return np.maximum(entries - 1, 0)


def keyframes_start_anew(path: Path, index: StreamIndex, frames: Indices, stop: threading.Event) -> bool:
    """Whether each keyframe from which `frames` would be decoded is a whole picture by itself.

    Files whose picture is refreshed bit by bit mark places as keyframes where a decoder shows nothing, or shows
    what it has not got right yet.
    """
    entries = np.unique(_entries_of(index, frames))
    packets = index.entry_packets[entries[entries > 0]].tolist()
    with Source(path, num_threads=1) as source:
        for number, packet in enumerate(source.packets()):
            if not packets or stop.is_set():
                break
            if number == packets[0]:
                packets.pop(0)
                picture = decode_alone(source.decoder, packet)
                if not packet.is_discard and not (picture and picture.pts == packet.pts and is_whole(picture)):
                    return False
    return True


def _run_from(index: StreamIndex, entry: int, frames: Indices, settled_pts: Indices) -> Run:
    packet, last_packet = int(index.entry_packets[entry]), int(index.packet_of[frames].max())
    if entry == 0:  # nothing lies before it, so whatever it shows is as good as it gets
        return Run(packet, int(np.iinfo(np.int64).min), False, frames, settled_pts, last_packet)
    pts = int(index.entry_pts[entry])
    shown = np.searchsorted(index.pts, pts)
    shows = bool(shown < len(index.pts) and index.packet_of[shown] == packet)
    return Run(packet, pts, shows, frames, settled_pts, last_packet)


class RunReader:
    """Reads runs of a freshly opened or scanned source, in the order of the file.

    is_stopped:  asked at every packet; once it says yes, a `read` ends
    """

    def __init__(self, source: Source, index: StreamIndex, *, can_seek: bool, is_stopped: Callable[[], bool]) -> None:
        self._source = source
        self._index = index
        self._is_stopped = is_stopped
        self._cursor = _Cursor(source, index, can_seek=can_seek)

    def read(self, run: Run) -> Iterator[tuple[int, Any]]:
        """Yield (frame index, `av.VideoFrame` the way up it is stored) for each frame of a run after the one before.

        Raises DamagedError, after the frames before it, at the first that does not come intact, and CannotSeekError.
        """
        targets, target_pts = run.frames.tolist(), self._index.pts[run.frames].tolist()
        settled_pts, first_key_pts = run.settled_pts.tolist(), self._index.pts[self._index.first_keyframe]
        position, entry_is_due = 0, run.entry_shows
        held: deque[tuple[int, Any, int]] = deque()
        for frame in self._decode(run):
            if frame.pts is None or frame.pts < run.entry_pts:
                continue  # shown before the keyframe that the run starts at: not decodable from there, nor wanted
            if frame.is_corrupt and frame.pts >= first_key_pts:
                raise DamagedError(f"the frame at {frame.time} s is corrupt")
            if entry_is_due and (frame.pts > run.entry_pts or not is_whole(frame)):
                raise DamagedError(f"decoding does not start exactly at the frame at {frame.time} s")
            entry_is_due = False
            if position < len(targets) and frame.pts == target_pts[position]:
                held.append((targets[position], frame, settled_pts[position]))
                position += 1
            elif position < len(targets) and frame.pts > target_pts[position]:
                break
            while held and (frame.pts >= held[0][2] or len(held) > _MAX_HELD_FRAMES):
                yield held.popleft()[:2]
        if self._is_stopped():
            return
        if position < len(targets):
            time = self._index.to_seconds(target_pts[position])
            raise DamagedError(f"the frame at {time:.3f} s does not come out")
        for frame_index, frame, _ in held:
            yield frame_index, frame

    def _decode(self, run: Run) -> Iterator[Any]:
        """Every frame the decoder gives for a run, skipping what is neither wanted nor referred to."""
        import av

        decoder, top_layer = self._source.decoder, self._index.max_temporal_layer
        is_wanted = np.zeros(run.num_packets, np.bool_)
        is_wanted[self._index.packet_of[run.frames] - run.entry_packet] = True
        skipping = None
        try:
            yield from self._cursor.jump_to(run.entry_packet)
            for number, packet in self._cursor.read_through(run.last_packet):
                skip = not is_wanted[number - run.entry_packet]
                if top_layer and skip:
                    skip = self._source.temporal_layer(packet) == top_layer
                if self._is_stopped():
                    return
                if skip is not skipping:
                    decoder.skip_frame = "NONREF" if skip else "DEFAULT"
                    skipping = skip
                yield from decoder.decode(packet)
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
        pts, first, count = np.unique(index.entry_pts, return_index=True, return_counts=True)
        unique = zip(pts[count == 1].tolist(), index.entry_packets[first[count == 1]].tolist(), strict=True)
        self._packet_of_entry_pts: dict[int, int] = dict(unique)

    def read_through(self, last_packet: int) -> Iterator[tuple[int, Any]]:
        """Yield (number, packet) from here to `last_packet`, which is included."""
        while self._next_packet <= last_packet:
            packet, number = next(self._packets, None), self._next_packet
            if packet is None:
                raise DamagedError(f"it ends before packet {last_packet}")
            if packet.is_keyframe and self._packet_of_entry_pts.get(packet.pts, number) != number:
                raise DamagedError("its packets come in another order than before")
            self._next_packet = number + 1
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
        if self._can_seek and entry_packet - self._next_packet >= SEEK_PACKETS and not self._source.kept_packets:
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
            target_pts = int(self._index.entry_pts[max(0, entry - earlier)])
            with contextlib.suppress(av.error.FFmpegError):
                self._source.container.seek(target_pts, stream=self._source.stream)
                if self._find_place(entry_packet):
                    return
        raise CannotSeekError

    def _find_place(self, latest_packet: int) -> bool:
        """After a seek: recognise the first keyframe by its time. False if that is past `latest_packet`."""
        self._packets = self._source.packets()
        for packet in self._packets:
            number = self._packet_of_entry_pts.get(packet.pts) if packet.is_keyframe else None
            if number is not None:
                self._packets = itertools.chain((packet,), self._packets)
                self._next_packet = number
                return number <= latest_packet
        return False
