"""Really encoded test videos. Each picture carries its own number in black and white blocks that survive lossy
coding and scaling, so a test can say which frame it was given, whatever the time stamps claim.
"""

from __future__ import annotations

import contextlib
import os
import struct
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

HEIGHT, WIDTH = 96, 160
SAME_EVERY_TIME = {"fflags": "+bitexact"}  # no random numbers, no dates
_BITS, _COLUMNS, _ROWS = 16, 8, 2
_BLOCK = 20  # pixels; the blocks fill the upper 40 of 96 rows


@dataclass(frozen=True)
class Clip:
    """How a test video is made; `pts` are ticks of `time_base`, by default 0, 1, 2, ... of 1/rate."""

    name: str
    codec: str = "libx264"
    num_frames: int = 60
    rate: int = 25
    pts: tuple[int, ...] | None = None
    time_base: Fraction | None = None
    pixel_format: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)
    sample_aspect_ratio: Fraction | None = None
    height: int = HEIGHT
    width: int = WIDTH
    format: str | None = None
    num_video_streams: int = 1
    first_number: int = 0

    def write(self, folder: Path) -> Path:
        """Encode into `folder` (once) and return the file."""
        path = folder / self.name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._encode(path)
        return path

    def _encode(self, path: Path) -> None:
        time_base = self.time_base or Fraction(1, self.rate)
        pts = self.pts or tuple(range(self.num_frames))
        with av.open(str(path), "w", format=self.format, container_options=SAME_EVERY_TIME) as container:
            streams = [self._add_stream(container, time_base) for _ in range(self.num_video_streams)]
            for number, tick in enumerate(pts, self.first_number):
                for stream in streams:
                    picture = draw(number, self.height, self.width)
                    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=self.pixel_format)
                    frame.pts, frame.time_base = tick, time_base
                    container.mux(stream.encode(frame))
            for stream in streams:
                container.mux(stream.encode(None))
        _end_real_time()

    def _add_stream(self, container, time_base):
        stream = container.add_stream(self.codec, rate=self.rate, options=dict(self.options))
        stream.height, stream.width, stream.pix_fmt = self.height, self.width, self.pixel_format
        stream.codec_context.time_base = time_base
        stream.codec_context.thread_count = 1
        if self.sample_aspect_ratio:
            stream.codec_context.sample_aspect_ratio = self.sample_aspect_ratio
        return stream


def _end_real_time() -> None:
    """SVT-AV1, where root runs it, puts the whole process before all others of the machine, for good."""
    if hasattr(os, "sched_setscheduler"):
        for thread in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError):
                os.sched_setscheduler(int(thread.name), os.SCHED_OTHER, os.sched_param(0))


def draw(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Picture [height, width, 3] of this number: its bits on top, below them a texture that moves and changes."""
    picture = np.empty((height, width, 3), np.uint8)
    y, x = np.mgrid[:height, :width]
    picture[..., 0] = (x * 2 + number * 3) % 256
    picture[..., 1] = (y * 3 + number * 5) % 256
    picture[..., 2] = (
        np.random.default_rng(number // 4)
        .integers(0, 256, (height // 8 + 1, width // 8 + 1))
        .repeat(8, 0)
        .repeat(8, 1)[:height, :width]
    )
    block_y, block_x = height * 40 // HEIGHT // _ROWS, width // _COLUMNS
    for bit in range(_BITS):
        row, column = divmod(bit, _COLUMNS)
        value = 235 if number >> bit & 1 else 16
        picture[row * block_y : (row + 1) * block_y, column * block_x : (column + 1) * block_x] = value
    return picture


def read_number(picture: np.ndarray) -> int:
    """The number of a decoded picture [h, w, 3], at any size that keeps its whole area in view."""
    height, width = picture.shape[:2]
    number = 0
    for bit in range(_BITS):
        row, column = divmod(bit, _COLUMNS)
        y = int((row + 0.5) * height * 40 / HEIGHT / _ROWS)
        x = int((column + 0.5) * width / _COLUMNS)
        number |= int(picture[y - 1 : y + 2, x - 1 : x + 2].mean() > 128) << bit
    return number


def read_numbers(pixels: np.ndarray) -> list[int]:
    """The numbers of pictures [F, h, w, 3]."""
    return [read_number(picture) for picture in pixels]


def turn(source: Path, target: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Copy an mp4 with the (a, b, c, d) of its display matrix replaced, as cameras do held sideways."""
    data = bytearray(source.read_bytes())
    start = data.index(b"tkhd") + 4 + 4 + 20 + 16
    a, b, c, d = (value << 16 for value in matrix)
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    target.write_bytes(data)
    return target


def cut_start(source: Path, target: Path, *, num_frames: int, ticks_per_frame: int) -> Path:
    """Copy an mp4 with an edit list that hides its first frames: they stay in the file, to decode the others from."""
    data = bytearray(source.read_bytes())
    start = data.index(b"elst") + 4 + 8
    duration, media_time = struct.unpack(">ii", data[start : start + 8])
    media_time += num_frames * ticks_per_frame
    data[start : start + 8] = struct.pack(">ii", duration, media_time)
    target.write_bytes(data)
    return target


def hide_pictures(source: Path, target: Path, *, every: int) -> Path:
    """Copy a VP8 file with the "show" bit of each n-th picture cleared: it is still decoded, and referred to."""
    with av.open(str(source)) as old, av.open(str(target), "w", container_options=SAME_EVERY_TIME) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [packet for packet in old.demux(video=0) if packet.size]
        for number, packet in enumerate(packets):
            if number % every == every - 1:
                data = bytearray(bytes(packet))
                data[0] &= ~0x10
                packet.update(bytes(data))
            packet.stream = stream
            new.mux(packet)
    return target


def drop_packets(source: Path, target: Path, *, num_packets: int) -> Path:
    """Copy a file without its first packets, as a recording of something that had begun before."""
    with av.open(str(source)) as old, av.open(str(target), "w", container_options=SAME_EVERY_TIME) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in [packet for packet in old.demux(video=0) if packet.size][num_packets:]:
            packet.stream = stream
            new.mux(packet)
    return target


def unmark_references(source: Path, target: Path) -> Path:
    """Copy an HEVC mp4 with the pictures of layer 1 marked as no references (TSA_R to TSA_N), which is allowed: the
    mark speaks of their own layer only, and those of layer 2 still refer to them.
    """
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        for packet in container.demux(video=0):
            if packet.size and bytes(packet)[4] >> 1 == 3:
                data[packet.pos + 4] = 2 << 1
    target.write_bytes(data)
    return target


def damage(source: Path, target: Path, *, start: float = 0.0, stop: float = 1.0, num_bytes: int = 200) -> Path:
    """Copy a file with bytes flipped between two fractions of its length."""
    data = bytearray(source.read_bytes())
    places = np.random.default_rng(0).integers(int(len(data) * start), int(len(data) * stop), num_bytes)
    for place in places:
        data[place] ^= 0xFF
    target.write_bytes(data)
    return target


def truncate(source: Path, target: Path, fraction: float) -> Path:
    """Copy the first part of a file."""
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * fraction)])
    return target


_GOP = {"g": "24", "bf": "3", "preset": "ultrafast", "x264-params": "b-pyramid=normal:bframes=3:b-adapt=0:ref=3"}
_RANDOM_GAPS = tuple(np.cumsum(np.random.default_rng(7).integers(5, 200, 60)).tolist())

CLIPS = {
    clip.name: clip
    for clip in [
        Clip("h264_bframes.mp4", options=_GOP, num_frames=120),
        Clip("h264_opengop.mp4", options={**_GOP, "x264-params": _GOP["x264-params"] + ":open-gop=1"}, num_frames=120),
        Clip("h264_opengop.ts", options={**_GOP, "x264-params": _GOP["x264-params"] + ":open-gop=1"}, num_frames=120),
        Clip("h264_refresh.mp4", options={**_GOP, "bf": "0", "x264-params": "intra-refresh=1:bframes=0"}),
        Clip("h264_vfr.mp4", options=_GOP, pts=_RANDOM_GAPS, time_base=Fraction(1, 1000)),
        Clip("h264_vfr.mkv", options=_GOP, pts=_RANDOM_GAPS, time_base=Fraction(1, 1000)),
        Clip("h264_late.mp4", options=_GOP, pts=tuple(range(200, 260))),
        Clip("h264_wide_pixels.mp4", options=_GOP, sample_aspect_ratio=Fraction(4, 3), num_frames=30),
        Clip("h264_10bit.mkv", options=_GOP, pixel_format="yuv420p10le"),
        Clip("h264_two.mkv", options=_GOP, num_video_streams=2, num_frames=30),
        Clip("h264_one_frame.mp4", num_frames=1),
        Clip("h264.avi", options=_GOP),
        Clip("h264_intra.mov", options={"g": "1", "preset": "ultrafast"}, num_frames=30),
        Clip("hevc_opengop.mp4", codec="libx265", num_frames=100, options={
            "preset": "ultrafast", "x265-params": "keyint=20:min-keyint=20:bframes=4:b-adapt=0:log-level=none"
        }),
        Clip("hevc_layers.mp4", codec="libx265", num_frames=60, options={
            "preset": "ultrafast", "x265-params": "keyint=30:bframes=4:b-adapt=0:temporal-layers=3:log-level=none"
        }),
        Clip("hevc_10bit.mkv", codec="libx265", pixel_format="yuv420p10le", num_frames=40, options={
            "preset": "ultrafast", "x265-params": "keyint=20:log-level=none"
        }),
        Clip("vp8_altref.webm", codec="libvpx", options={
            "auto-alt-ref": "1", "lag-in-frames": "16", "g": "30", "deadline": "good", "cpu-used": "5", "b": "200k"
        }),
        Clip("vp9_altref.webm", codec="libvpx-vp9", options={
            "auto-alt-ref": "1", "lag-in-frames": "16", "g": "30", "deadline": "good", "cpu-used": "8", "b": "200k"
        }),
        Clip("av1.mkv", codec="libsvtav1", num_frames=40, options={
            "preset": "12", "g": "20", "svtav1-params": "lp=1"
        }),
        Clip("mpeg4.avi", codec="mpeg4", options={"bf": "2", "g": "15", "b": "800k"}),
        Clip("mpeg2.ts", codec="mpeg2video", options={"bf": "2", "g": "15", "b": "1500k"}),
        Clip("moving.gif", codec="gif", pixel_format="rgb8", num_frames=30),
        Clip("mjpeg.mov", codec="mjpeg", pixel_format="yuvj420p", num_frames=30),
    ]
}  # fmt: skip
