"""Copies of really encoded files with one thing in them made odd: times, flags, packets, order."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
from av.stream import Disposition

from tests.helpers.clips import SAME_EVERY_TIME

_TS_BYTES = 188


def join(target: Path, *sources: Path) -> Path:
    """One recording behind the other, as `cat` makes it."""
    target.write_bytes(b"".join(source.read_bytes() for source in sources))
    return target


def remux(
    source: Path,
    target: Path,
    edit: Callable[[list[Any]], list[Any]],
    *,
    format: str | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Copy the packets that `edit` makes of those of the video stream."""
    with (
        av.open(str(source)) as old,
        av.open(str(target), "w", format=format, container_options={**SAME_EVERY_TIME, **(options or {})}) as new,
    ):
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in edit([packet for packet in old.demux(video=0) if packet.size]):
            packet.stream = stream
            new.mux(packet)
    return target


def edit_ts_times(source: Path, target: Path, change: Callable[[int, int], int | None]) -> Path:
    """Copy an MPEG-TS with the time of each picture's packet replaced by `change(number in the file, ticks)`; None
    takes it away. Decoding times go with it by the same amount.
    """
    data = bytearray(source.read_bytes())
    for number, start in enumerate(_ts_pictures(data)):
        has_dts = data[start + 7] >> 6 == 3
        pts = _get_ts_time(data, start + 9)
        new = change(number, pts)
        if new is None:
            data[start + 7] &= 0x3F
        elif new != pts:
            _set_ts_time(data, start + 9, new)
            if has_dts:
                _set_ts_time(data, start + 14, max(0, _get_ts_time(data, start + 14) + new - pts))
    target.write_bytes(data)
    return target


def _ts_pictures(data: bytearray) -> Iterator[int]:
    """Where the headers of video packets (PES) begin."""
    for place in range(0, len(data) - _TS_BYTES + 1, _TS_BYTES):
        starts, adaptation = data[place + 1] & 0x40, data[place + 3] >> 4 & 3
        if not starts or not adaptation & 1:
            continue
        payload = place + 4 + (1 + data[place + 4] if adaptation & 2 else 0)
        if data[payload : payload + 3] == b"\0\0\1" and data[payload + 3] >> 4 == 0xE and data[payload + 7] >> 6:
            yield payload


def _get_ts_time(data: bytearray, place: int) -> int:
    a, b, c, d, e = data[place : place + 5]
    return (a >> 1 & 7) << 30 | b << 22 | (c >> 1) << 15 | d << 7 | e >> 1


def _set_ts_time(data: bytearray, place: int, ticks: int) -> None:
    ticks %= 1 << 33
    data[place] = data[place] & 0xF0 | (ticks >> 30 & 7) << 1 | 1
    data[place + 1], data[place + 2] = ticks >> 22 & 0xFF, (ticks >> 15 & 0x7F) << 1 | 1
    data[place + 3], data[place + 4] = ticks >> 7 & 0xFF, (ticks & 0x7F) << 1 | 1


def edit_mkv_times(source: Path, target: Path, change: Callable[[int, int], int]) -> Path:
    """Copy a Matroska file with the time (16 bits, from the cluster's) of each block replaced."""
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        places = [(packet.pos, bytes(packet)[:8]) for packet in container.demux(video=0) if packet.size]
    for number, (position, head) in enumerate(places):
        start = data.index(head, position) - 4  # track, time (2), flags, then the picture
        (ticks,) = struct.unpack_from(">h", data, start + 1)
        struct.pack_into(">h", data, start + 1, change(number, ticks))
    target.write_bytes(data)
    return target


def drop_box(source: Path, target: Path, kind: bytes) -> Path:
    """Copy an mp4 without what a kind of box says, such as the composition offsets (ctts) or keyframes (stss)."""
    data = bytearray(source.read_bytes())
    place = data.index(kind)
    data[place : place + 4] = b"free"
    target.write_bytes(data)
    return target


def edit_mp4_offsets(source: Path, target: Path, change: Callable[[int, int], int]) -> Path:
    """Copy an mp4 with its composition offsets replaced; `change` is called for each run of equal ones."""
    data = bytearray(source.read_bytes())
    place = data.index(b"ctts") + 8
    (num_runs,) = struct.unpack_from(">I", data, place)
    for number in range(num_runs):
        (offset,) = struct.unpack_from(">i", data, place + 8 + 8 * number)
        struct.pack_into(">i", data, place + 8 + 8 * number, change(number, offset))
    target.write_bytes(data)
    return target


def spoil_packets(source: Path, target: Path, numbers: set[int]) -> Path:
    """Copy a file with these packets (in file order) filled with bytes that decode to nothing."""
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    place = 0
    for number, packet in enumerate(packets):
        place = data.index(packet, place)
        if number in numbers:
            data[place + 4 : place + len(packet)] = b"\xff" * (len(packet) - 4)
        place += len(packet)
    target.write_bytes(data)
    return target


def replace_bytes(source: Path, target: Path, old: bytes, new: bytes) -> Path:
    """Copy a file with the first of these bytes replaced by as many others."""
    data = source.read_bytes()
    place = data.index(old)
    target.write_bytes(data[:place] + new + data[place + len(old) :])
    return target


def flag_keyframes(source: Path, target: Path, is_key: Callable[[int], bool]) -> Path:
    """Copy a file with the container's keyframe flags replaced, number by number."""

    def edit(packets: list[Any]) -> list[Any]:
        for number, packet in enumerate(packets):
            packet.is_keyframe = is_key(number)
        return packets

    return remux(source, target, edit)


def _with_data_of(whole: Any, data: bytes) -> Any:
    """A packet that holds other data at the same time."""
    packet = av.Packet(data)
    packet.pts, packet.dts, packet.duration = whole.pts, whole.dts, whole.duration
    packet.time_base = whole.time_base
    return packet


def show_again(source: Path, target: Path, numbers: set[int]) -> Path:
    """Copy a VP9 file with these packets saying nothing but that the latest reference is shown again."""

    def edit(packets: list[Any]) -> list[Any]:
        # Two bits that open every frame, two of the profile, the one that means "show again", three with the place.
        return [
            _with_data_of(packet, b"\x88") if number in numbers else packet for number, packet in enumerate(packets)
        ]

    return remux(source, target, edit)


def uncode_pictures(source: Path, target: Path, numbers: set[int]) -> Path:
    """Copy an MPEG-4 file at 25 fps with these P-pictures made empty ("not coded"): the one before stays."""

    def edit(packets: list[Any]) -> list[Any]:
        for number in numbers:
            data = bytearray(bytes(packets[number])[:8])
            # Start code (4 bytes), type (2 bits), seconds (1), mark (1), time (5), mark (1): then whether it is coded.
            data[5] &= ~0x20
            packets[number] = _with_data_of(packets[number], bytes(data))
        return packets

    return remux(source, target, edit)


def add_cover(source: Path, target: Path) -> Path:
    """Copy a file and put a cover picture in front, a second video stream."""
    with av.open(str(source)) as old, av.open(str(target), "w", container_options=SAME_EVERY_TIME) as new:
        cover = new.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 640, 480, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        stream = new.add_stream_from_template(old.streams.video[0])
        picture = av.VideoFrame(640, 480, "yuvj420p")
        picture.pts = 0
        new.mux(cover.encode(picture))
        new.mux(cover.encode(None))
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    return target
