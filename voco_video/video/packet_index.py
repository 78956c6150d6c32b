"""Where the frames of a file are, from its packets alone: one pass over the container, decoding the first picture only.

What packets say is a plan: reading by it checks each picture (`runs.py`). Where the packets contradict themselves or
are known not to tell, the file is decoded once and listed by its pictures instead (`picture_index.py`).

A small file is opened and read once: its packets and the decoder that has begun on them stay for the first reading.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from voco_video.errors import VideoError
from voco_video.video.container import (
    MAX_PACKETS_TO_FIRST_PICTURE,
    Begun,
    Source,
    StreamFacts,
    decode_on,
    packet_number,
    stream_facts,
)
from voco_video.video.packet_headers import PictureHeaders

Ticks = npt.NDArray[np.int64]

# The packets of a file no larger than this are kept; opening a larger one again costs little beside decoding it.
KEPT_BYTES = 32 << 20
_PACKET_BYTES = 1 << 10  # what a packet takes beside its data, generously
NO_TIME = -(1 << 62)
# In a sound stream no picture is shown further from its place in the file than a decoder can reorder.
_MAX_REORDERED = 32
# A single first or last picture this many times as far away as all the others together has a wrong time.
_MAX_END_JUMP = 100
_MAX_STILL_SECONDS = 600  # as long as that the last picture of a recorded screen may well have been waited for
_GAP_STEPS = 10  # usual steps that are a gap, if they last a second or more
_NUM_TRIED = 64  # packets that are decoded to see whether the file's marks and times mean what they say
# Codecs in which a picture may build on others. (In the rest every packet is a keyframe.)
_INTER_CODECS = frozenset({"h264", "hevc", "vvc", "av1", "vp8", "vp9", "mpeg1video", "mpeg2video", "mpeg4", "h263"})


@dataclass(frozen=True)
class StreamIndex:
    """Which frames a video stream shows, when, and where they are in the file.

    M frames in the order in which they are shown, N packets in file order (some show nothing: cut away by an edit
    list, a second field, a picture that is only referred to).

    pts:                 [M] presentation times in ticks of `time_base` seconds, ascending
    is_keyframe:         [M]
    packet_of:           [M] file-order number of the packet that holds the frame
    entry_packets:       [E] file-order numbers of the packets at which decoding can start, ascending
    entry_frames:        [E] the first frame that decodes exactly from there, ascending
    seek_pts:            [E] the packets' own times, to seek by; NO_TIME where they have none
    end_pts:             when the last frame ends
    has_hidden:          some packets show nothing
    max_temporal_layer:  HEVC only; above 0, a "non-reference" picture may still serve a higher layer
    is_from_pictures:    listed by decoding everything, since the packets do not tell
    is_damaged:          decoding everything met errors, or a packet is marked as damaged or is out of place
    """

    time_base: Fraction
    pts: Ticks
    is_keyframe: npt.NDArray[np.bool_]
    packet_of: Ticks
    entry_packets: Ticks
    entry_frames: Ticks
    seek_pts: Ticks
    end_pts: int
    num_packets: int
    has_hidden: bool
    max_temporal_layer: int
    is_from_pictures: bool = False
    is_damaged: bool = False

    @property
    def pts_seconds(self) -> npt.NDArray[np.float64]:
        """[M] presentation times in seconds."""
        return self.to_seconds(self.pts)

    @property
    def first_keyframe(self) -> int:
        """Index of the first frame that is one; 0 where the file marks none."""
        return int(np.argmax(self.is_keyframe))

    @cached_property
    def frame_of(self) -> Ticks:
        """[N] the frame that a packet holds; -1 for a packet that shows nothing."""
        frame_of = np.full(self.num_packets, -1, np.int64)
        frame_of[self.packet_of] = np.arange(len(self.packet_of))
        return frame_of

    def frame_shown_by(self, picture: Any) -> int:
        """The frame that a decoded picture is, by the packet it comes from; -1 where that shows nothing or is lost."""
        number = packet_number(picture)
        return int(self.frame_of[number]) if number >= 0 else -1

    def to_seconds(self, ticks: Ticks | int) -> Any:
        """Ticks to float64 seconds, one rounding only, so that 1 000 ticks of 1/1000 s are exactly 1.0."""
        return np.multiply(ticks, self.time_base.numerator) / np.float64(self.time_base.denominator)


@dataclass(frozen=True)
class PacketList:
    """The packets of a video stream in file order; times in ticks, NO_TIME where there is none.

    pts, dts, is_key, shows:  [N]; `shows` is False for a packet that is known to show nothing
    last_duration:            of the frame shown last by its time; 0 where it is not known
    may_show_nothing:         some packet looks as if it showed nothing, and only decoding can tell
    is_damaged:               some packet is, or is out of place
    """

    pts: Ticks
    dts: Ticks
    is_key: npt.NDArray[np.bool_]
    shows: npt.NDArray[np.bool_]
    last_duration: int
    max_temporal_layer: int
    may_show_nothing: bool
    is_damaged: bool

    def __len__(self) -> int:
        return len(self.pts)


def scan(source: Source) -> tuple[PacketList, StreamFacts]:
    """List every packet of a freshly opened source. Raises VideoError when there is no packet at all.

    Takes the time of reading the file once; keeps in the source what a first reading can go on with.
    """
    rows, start, headers = _Rows(), _Start(source.decoder), PictureHeaders(source.decoder)
    kept: list[Any] = []
    room_bytes = KEPT_BYTES - source.path.stat().st_size  # for what packets take beside their data
    for number, packet in enumerate(source.packets()):
        source.name(packet, number)
        shows = headers.shows_picture(packet) and not packet.is_discard
        rows.add(packet, shows=shows, layer=source.temporal_layer(packet))
        room_bytes -= _PACKET_BYTES
        if room_bytes >= 0:
            kept.append(packet)
        else:
            kept.clear()
        if not start.frames and number < MAX_PACKETS_TO_FIRST_PICTURE:
            start.decode(packet)
    packets = rows.packet_list(headers)
    if not packets.shows.any():
        raise VideoError(f"{source.path}: its video stream holds no frames")
    if not start.frames:
        start.drain(len(packets))
    # Where it cannot go on, the decoder may have learned other parameters from later packets: it is not used again.
    if kept and start.begun:
        source.kept_packets, source.begun = kept, start.begun
    return packets, stream_facts(source, start.frames[0] if start.frames else None)


class _Start:
    """Decodes packets from the first on until a picture comes, so that the first reading can go on from there."""

    def __init__(self, decoder: Any) -> None:
        self.frames: list[Any] = []
        self._decoder = decoder
        self._num_packets = 0
        self._can_go_on = True

    @property
    def begun(self) -> Begun | None:
        return Begun(self._num_packets, self.frames) if self._can_go_on else None

    def decode(self, packet: Any) -> None:
        import av

        self._num_packets += 1
        try:
            self.frames += self._decoder.decode(packet)
        except av.error.FFmpegError:
            self._can_go_on = False

    def drain(self, num_packets: int) -> None:
        """Get what the decoder still holds: of a stream of so few packets all pictures; then nothing is left to do."""
        import av

        self._can_go_on &= self._num_packets == num_packets
        try:
            self.frames += self._decoder.decode(None)
        except av.error.FFmpegError:
            self._can_go_on = False


class _Rows:
    """The demux pass's findings, one number per packet."""

    def __init__(self) -> None:
        self._pts, self._dts = array("q"), array("q")
        self._is_key, self._shows = array("b"), array("b")
        self._max_layer = 0
        self._has_corrupt = False
        self._latest_dts = NO_TIME
        self._latest_pts, self._latest_duration = NO_TIME, 0

    def add(self, packet: Any, *, shows: bool, layer: int) -> None:
        pts, dts = usable_ticks(packet.pts), usable_ticks(packet.dts)
        self._pts.append(pts)
        self._dts.append(dts)
        self._is_key.append(packet.is_keyframe)
        self._shows.append(shows)
        if shows and pts >= self._latest_pts:
            self._latest_pts, self._latest_duration = pts, packet.duration or 0
        self._max_layer = max(self._max_layer, layer)
        is_set_back = dts != NO_TIME and dts < self._latest_dts and packet.is_keyframe
        self._has_corrupt |= packet.is_corrupt or (NO_TIME < dts < self._latest_dts and not is_set_back)
        self._latest_dts = dts if is_set_back else max(dts, self._latest_dts)

    def packet_list(self, headers: PictureHeaders) -> PacketList:
        return PacketList(
            pts=np.frombuffer(self._pts, np.int64),
            dts=np.frombuffer(self._dts, np.int64),
            is_key=np.frombuffer(self._is_key, np.bool_),
            shows=np.frombuffer(self._shows, np.bool_),
            # Of the last frame, where it has two fields, each of their packets lasts half as long.
            last_duration=0 if headers.has_second_fields else self._latest_duration,
            max_temporal_layer=self._max_layer,
            may_show_nothing=headers.may_show_nothing,
            is_damaged=self._has_corrupt,
        )


def usable_ticks(ticks: int | None) -> int:
    """A time that can be reckoned with, else NO_TIME."""
    return NO_TIME if ticks is None or abs(ticks) > -NO_TIME else ticks


def index_from_packets(source: Source, packets: PacketList) -> StreamIndex | None:
    """The frames of a scanned source, listed by what its packets say; None where they do not tell.

    They do not where times are missing, repeated or far from where the packets lie, where the container knows only
    the order of decoding, and where marks turn out not to mean what they say.
    """
    if (
        packets.is_damaged
        or packets.may_show_nothing
        or (source.decoder.has_b_frames and knows_decoding_order_only(source))
    ):
        return None
    numbers = np.flatnonzero(packets.shows)
    order = _shown_order(packets.pts[numbers], packets.dts[numbers])
    if order is None or _has_wild_time(packets.pts[numbers], order, source.stream):
        return None
    if _is_doubtful(source, packets) and not _first_pictures_agree(source, packets, numbers[order]):
        return None
    packet_of = numbers[order]
    pts = packets.pts[packet_of]
    entry_packets, entry_frames, seek_pts = _entries(packets, pts)
    return StreamIndex(
        time_base=source.stream.time_base,
        pts=pts,
        is_keyframe=packets.is_key[packet_of],
        packet_of=packet_of,
        entry_packets=entry_packets,
        entry_frames=entry_frames,
        seek_pts=seek_pts,
        end_pts=int(pts[-1]) + (packets.last_duration if packets.last_duration > 0 else usual_step(pts, source.stream)),
        num_packets=len(packets),
        has_hidden=not packets.shows.all(),
        max_temporal_layer=packets.max_temporal_layer,
    )


def _shown_order(pts: Ticks, dts: Ticks) -> Ticks | None:
    """Packets (places in `pts`) in the order of their times; None where those cannot all be right."""
    order = np.argsort(pts, kind="stable")
    in_order = pts[order]
    known_dts = dts[dts != NO_TIME]
    has_times = NO_TIME not in pts and bool((in_order[1:] > in_order[:-1]).all())
    is_near = np.abs(order - np.arange(len(order))).max() <= _MAX_REORDERED
    if not (has_times and is_near and bool((known_dts[1:] >= known_dts[:-1]).all())):
        return None
    return order


def _has_wild_time(pts: Ticks, order: Ticks, stream: Any) -> bool:
    """Whether some packet's time may be far off: it is on the other side of a gap than the packets around it."""
    in_order = pts[order]
    steps = np.diff(in_order)
    least = max(_GAP_STEPS * float(np.median(steps)), float(1 / stream.time_base)) if len(steps) else 0.0
    gaps = np.flatnonzero(steps > least)  # the frame before each
    latest_before = np.maximum.accumulate(order)
    earliest_after = np.minimum.accumulate(order[::-1])[::-1]
    return bool((latest_before[gaps] > earliest_after[gaps + 1]).any()) or bool(wild_ends(in_order, stream))


def wild_ends(pts: Ticks, stream: Any) -> list[int]:
    """Which of the first and the last (0, -1) of ascending times is absurdly far from all others."""
    if len(pts) < 4:
        return []
    first, second, last_but_one, last = pts[[0, 1, -2, -1]].tolist()
    most = max(_MAX_END_JUMP * (last_but_one - second), int(_MAX_STILL_SECONDS / stream.time_base))
    return [end for end, jump in ((0, second - first), (-1, last - last_but_one)) if jump > most]


def _entries(packets: PacketList, pts: Ticks) -> tuple[Ticks, Ticks, Ticks]:
    """Keyframes whose times ascend, as in `StreamIndex`; the first packet where no other is marked."""
    numbers = np.flatnonzero(packets.is_key & (packets.pts != NO_TIME))
    times = packets.pts[numbers]
    earlier = np.concatenate(([NO_TIME], np.maximum.accumulate(times)[:-1])) if len(times) else times
    numbers = numbers[times > earlier]
    if not len(numbers):
        return np.zeros(1, np.int64), np.zeros(1, np.int64), packets.pts[:1]
    times = packets.pts[numbers]
    return numbers, np.searchsorted(pts, times), times


def knows_decoding_order_only(source: Source) -> bool:
    """Whether the container, as AVI or none at all, has no times but those at which packets are decoded."""
    from av.format import Flags

    container_format = source.container.format
    return container_format.name == "avi" or bool(container_format.flags & Flags.no_timestamps.value)


def _is_doubtful(source: Source, packets: PacketList) -> bool:
    """Whether a few pictures should be decoded before the packets are believed."""
    if source.decoder.codec.canonical_name not in _INTER_CODECS or len(packets) < 2:
        return False
    pts = packets.pts[packets.shows]
    may_be_reordered = bool(source.decoder.has_b_frames) and bool((pts[1:] > pts[:-1]).all())
    return may_be_reordered or bool(packets.is_key.all())


def _first_pictures_agree(source: Source, packets: PacketList, packet_of: Ticks) -> bool:
    """Whether the first pictures come in the order, and are keyframes where, the packets say so."""
    with Source(source.path, lenient=True) as fresh:
        found: list[tuple[int, bool]] = []
        for picture in decode_on(fresh):
            found.append((packet_number(picture), bool(picture.key_frame)))
            if len(found) == _NUM_TRIED:
                break
    numbers = [number for number, _ in found]
    if numbers != packet_of[: len(numbers)].tolist():
        return False
    return all(is_key or not packets.is_key[number] for number, is_key in found)


def frame_ticks(stream: Any) -> int:
    """The length of one frame at the stream's average rate, at least one tick."""
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    return max(1, round(1 / (rate * stream.time_base)))


def usual_step(pts: Ticks, stream: Any) -> int:
    """The usual time between frames in ticks, at least one."""
    return max(1, int(np.median(np.diff(pts)))) if len(pts) > 1 else frame_ticks(stream)
