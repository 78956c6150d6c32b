"""Where the frames of a file are, by decoding all of it once: for files whose packets do not tell.

That is the truth of a file: each picture with its own time, in the order in which it is shown.
"""

from __future__ import annotations

import itertools
import logging
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from voco_video.errors import VideoError
from voco_video.video.container import DamagedError, Source, packet_number
from voco_video.video.packet_index import (
    NO_TIME,
    PacketList,
    StreamIndex,
    Ticks,
    frame_ticks,
    index_from_packets,
    knows_decoding_order_only,
    scan,
    usable_ticks,
    usual_step,
    wild_ends,
)
from voco_video.video.timeline import Timeline, log_repairs

logger = logging.getLogger("voco_video")


@dataclass(frozen=True)
class _Pictures:
    """What decoding a whole file shows: P pictures in the order in which they are shown.

    failed_packets:  numbers of those that did not decode
    is_damaged:      some did not, or a picture was concealed
    """

    packet_of: Ticks
    pts: Ticks
    is_key: npt.NDArray[np.bool_]
    last_duration: int
    failed_packets: Sequence[int]
    is_damaged: bool


def index_frames(source: Source, packets: PacketList) -> StreamIndex:
    """The frames of a scanned source: from its packets where these tell, else from its pictures.

    Says what had to be repaired. Raises VideoError when it has to be decoded and not one picture comes.
    """
    return index_from_packets(source, packets) or index_from_pictures(source, packets)


def index_again(path: Path) -> StreamIndex:
    """The frames of a file listed by its pictures, where reading has shown that its packets mislead."""
    with Source(path) as source:
        packets, _ = scan(source)
        return index_from_pictures(source, packets)


def index_from_pictures(source: Source, packets: PacketList) -> StreamIndex:
    """The frames of a scanned source, listed by decoding all of it from the start."""
    logger.info("%s: its packets do not tell when its frames are shown; decoding it once to list them", source.path)
    pictures = _decode_all(source.path)
    if not len(pictures.pts):
        raise VideoError(f"{source.path}: not one frame could be decoded")
    packet_of, pts, is_key = _with_times(source, packets, pictures)
    entry_frames = _entries(packet_of, is_key)
    has_duration = packets.last_duration and pictures.last_duration > 0
    duration = pictures.last_duration if has_duration else usual_step(pts, source.stream)
    return StreamIndex(
        time_base=source.stream.time_base,
        pts=pts,
        is_keyframe=is_key,
        packet_of=packet_of,
        entry_packets=packet_of[entry_frames],
        entry_frames=entry_frames,
        seek_pts=np.full(len(entry_frames), NO_TIME, np.int64),
        end_pts=int(pts[-1]) + duration,
        num_packets=len(packets),
        has_hidden=len(packet_of) < len(packets),
        max_temporal_layer=packets.max_temporal_layer,
        is_from_pictures=True,
        is_damaged=pictures.is_damaged or packets.is_damaged,
    )


def _decode_all(path: Path) -> _Pictures:
    try:
        with Source(path) as source:
            return _list_pictures(source, strict=True)
    except DamagedError:
        with Source(path, lenient=True) as source:
            return _list_pictures(source, strict=False)


def _list_pictures(source: Source, *, strict: bool) -> _Pictures:
    import av

    packet_of, pts, is_key, failed_packets = array("q"), array("q"), array("b"), []
    last_duration, is_damaged = 0, False
    for number, packet in enumerate(itertools.chain(source.packets(), [None])):  # None gets what the decoder holds
        if packet is not None:
            source.name(packet, number)
        try:
            pictures = source.decoder.decode(packet)
        except av.error.FFmpegError as error:
            if strict:
                raise DamagedError(f"decoding fails ({error.strerror})") from error
            is_damaged = True
            failed_packets.append(number)
            continue
        for picture in pictures:
            if picture.is_corrupt and strict:
                raise DamagedError("a picture is corrupt")
            is_damaged |= picture.is_corrupt
            packet_of.append(packet_number(picture))
            pts.append(usable_ticks(picture.pts))
            is_key.append(bool(picture.key_frame))
            last_duration = picture.duration or 0
    return _Pictures(
        packet_of=np.frombuffer(packet_of, np.int64),
        pts=np.frombuffer(pts, np.int64),
        is_key=np.frombuffer(is_key, np.bool_),
        last_duration=last_duration,
        failed_packets=failed_packets,
        is_damaged=is_damaged,
    )


def _with_times(source: Source, packets: PacketList, pictures: _Pictures) -> tuple[Ticks, Ticks, npt.NDArray[np.bool_]]:
    """(packet, time, whether it is a keyframe) of each frame, in the order in which they are shown."""
    if _has_decoding_times_only(source, packets, pictures):
        return _in_slots(source, packets, pictures)
    own: list[int | None] = [None if time == NO_TIME else time for time in pictures.pts.tolist()]
    known = np.sort(pictures.pts[pictures.pts != NO_TIME])
    for end in wild_ends(known, source.stream):
        own[own.index(int(known[end]))] = None
    timeline = Timeline(frame_ticks(source.stream))
    pts = np.array([time for time, _ in timeline.placed((time, None) for time in own)], np.int64)
    if 2 * timeline.num_repaired > len(own):
        return _in_slots(source, packets, pictures)
    log_repairs(logger, source.path, timeline)
    if pictures.failed_packets:
        logger.warning("%s: %d packet(s) could not be decoded", source.path, len(pictures.failed_packets))
    return pictures.packet_of, pts, pictures.is_key


def _has_decoding_times_only(source: Source, packets: PacketList, pictures: _Pictures) -> bool:
    """Whether times follow the order in which pictures are decoded, and say nothing of that in which they are shown."""
    is_reordered = bool((np.diff(pictures.packet_of) < 0).any())
    return knows_decoding_order_only(source) or (is_reordered and _ascend(packets.pts[packets.shows]))


def _ascend(times: Ticks) -> bool:
    return bool((times[1:] > times[:-1]).all())


def _in_slots(source: Source, packets: PacketList, pictures: _Pictures) -> tuple[Ticks, Ticks, npt.NDArray[np.bool_]]:
    """As `_with_times`, where packets' times say when some picture is shown, but not which.

    Each packet that should show something has a slot, also one that did not decode. A picture takes the slot after
    the pictures before it and the packets that were lost before it.
    """
    numbers = np.flatnonzero(packets.shows)
    # Where a container has only times of decoding, presentation times are FFmpeg's guess.
    times = packets.dts if knows_decoding_order_only(source) else packets.pts
    slots = _slot_times(source, times[numbers])
    lost = np.setdiff1d(numbers, pictures.packet_of)
    latest = np.maximum.accumulate(pictures.packet_of)
    place_of = np.arange(len(latest)) + np.searchsorted(lost, latest)  # [P]
    if (num_missing := int(place_of[-1]) + 1 - len(slots)) > 0:  # some packets gave more pictures than one
        step = usual_step(slots, source.stream)
        slots = np.concatenate((slots, slots[-1] + step * np.arange(1, num_missing + 1)))
    failed = np.isin(lost, pictures.failed_packets)
    lost_place_of = np.setdiff1d(np.arange(len(slots)), place_of)[: len(lost)]
    packet_of = np.concatenate((pictures.packet_of, lost[failed]))
    place_of = np.concatenate((place_of, lost_place_of[failed]))
    is_key = np.concatenate((pictures.is_key, np.zeros(failed.sum(), np.bool_)))
    order = np.argsort(place_of, kind="stable")
    return packet_of[order], slots[place_of[order]], is_key[order]


def _slot_times(source: Source, times: Ticks) -> Ticks:
    """Packets' times in order, or evenly spaced ones where these are unusable, too."""
    times = np.sort(times)
    if times[0] != NO_TIME and len(np.unique(times)) == len(times):
        return times
    step, known = frame_ticks(source.stream), times[times != NO_TIME]
    logger.warning(
        "%s: most of its frames carry no usable time; they are counted, at %.6g frames per second",
        source.path,
        1 / (step * source.stream.time_base),
    )
    return (int(known[0]) if len(known) else 0) + np.arange(len(times), dtype=np.int64) * step


def _entries(packet_of: Ticks, is_key: npt.NDArray[np.bool_]) -> Ticks:
    """Frames from which decoding can start: keyframes that follow each other in the file, too."""
    frames, latest_packet = [], -1
    for frame in np.flatnonzero(is_key).tolist():
        if packet_of[frame] > latest_packet:
            frames.append(frame)
            latest_packet = int(packet_of[frame])
    return np.array(frames or [0], np.int64)
