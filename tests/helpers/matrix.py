"""The matrix of clips: container by codec by oddity, each with the numbers and times that its pictures must have.

What a clip must give is written down from how it is made, not read from it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from tests.helpers.clips import Clip, cut_start, hide_pictures, read_numbers, turn
from tests.helpers.edits import (
    add_cover,
    drop_box,
    edit_mkv_times,
    edit_mp4_offsets,
    edit_ts_times,
    flag_keyframes,
    join,
    remux,
    replace_bytes,
    spoil_packets,
    uncode_pictures,
)

HEIGHT, WIDTH = 64, 96
_STEP = 0.04


@dataclass(frozen=True)
class Case:
    """A clip, and what it must give.

    make:           write it into a folder; the file that is to be read
    times:          seconds of each picture that is shown, in order
    numbers:        what each of them shows
    num_lost:       pictures that cannot be decoded; for each of these, `numbers` has what stands in for it
    is_fast:        one of those that run with the suite
    """

    name: str
    make: Callable[[Path], Path]
    times: tuple[float, ...]
    numbers: tuple[int, ...]
    num_lost: int = 0
    is_fast: bool = False
    quarter_turns: int = 0  # anticlockwise, of what is shown, to the picture as it was drawn
    read: Callable[[np.ndarray], list[int]] = read_numbers

    @property
    def step(self) -> float:
        """The usual time between two pictures."""
        steps = sorted(b - a for a, b in itertools.pairwise(self.times))
        return steps[len(steps) // 2] if steps else _STEP


def even(count: int, first: float = 0.0, step: float = _STEP) -> tuple[float, ...]:
    """`count` times, one each `step` seconds."""
    return tuple(first + step * number for number in range(count))


def clip(name: str, codec: str = "libx264", num_frames: int = 30, **settings: object) -> Clip:
    """A small clip of the matrix."""
    settings = {"height": HEIGHT, "width": WIDTH, "options": OPTIONS.get(codec, {}), **settings}
    return Clip(name, codec=codec, num_frames=num_frames, **settings)  # type: ignore[arg-type]


_H264 = {"g": "12", "bf": "2", "preset": "ultrafast", "x264-params": "b-adapt=0:bframes=2"}
_NO_B = {"g": "12", "bf": "0", "preset": "ultrafast", "x264-params": "bframes=0"}
_HEVC = {"preset": "ultrafast", "x265-params": "keyint=12:min-keyint=12:bframes=3:b-adapt=0:log-level=none"}
_VPX = {"auto-alt-ref": "1", "lag-in-frames": "16", "g": "15", "deadline": "good", "cpu-used": "8", "b": "200k"}
_RGB = {"pixel_format": "rgb24"}
_MPEG = {"bf": "2", "g": "12", "b": "1500k"}
OPTIONS = {
    "libx264": _H264,
    "libx265": _HEVC,
    "libvpx": _VPX,
    "libvpx-vp9": _VPX,
    "libsvtav1": {"preset": "12", "g": "15", "svtav1-params": "lp=1"},
    "mpeg4": _MPEG,
    "mpeg2video": _MPEG,
    "mpeg1video": _MPEG,
    "mjpeg": {"q:v": "3", "qmin": "2", "qmax": "4"},
}


def _plain(made: Clip, *, first: float = 0.0, is_fast: bool = False) -> Case:
    base = made.time_base or Fraction(1, made.rate)
    ticks = made.pts or tuple(range(made.num_frames))
    times = tuple(first + float(tick * base) for tick in ticks)
    return Case(made.name, made.write, times, tuple(range(made.num_frames)), is_fast=is_fast)


def _edited(
    name: str,
    source: Clip,
    edit: Callable[..., Path],
    *arguments: object,
    times: Sequence[float],
    numbers: Sequence[int] | None = None,
    num_lost: int = 0,
    is_fast: bool = False,
    quarter_turns: int = 0,
    **options: object,
) -> Case:
    def make(folder: Path) -> Path:
        if not (folder / name).exists():
            edit(source.write(folder), folder / name, *arguments, **options)
        return folder / name

    shown = tuple(range(len(times))) if numbers is None else tuple(numbers)
    return Case(name, make, tuple(times), shown, num_lost, is_fast, quarter_turns)


def _joined(name: str, first: Clip, second: Clip, times: Sequence[float], is_fast: bool = False) -> Case:
    def make(folder: Path) -> Path:
        return join(folder / name, first.write(folder), second.write(folder))

    numbers = [clip.first_number + number for clip in (first, second) for number in range(clip.num_frames)]
    return Case(name, make, tuple(times), tuple(numbers), is_fast=is_fast)


TS_B, TS = clip("h264_b.ts"), clip("h264.ts", options=_NO_B)
MKV_B, MKV = clip("h264_b.mkv"), clip("h264.mkv", options=_NO_B)
MP4_B, AVI_B = clip("h264_b.mp4"), clip("h264_b.avi")
_LATE_B = 2 * _STEP  # where an MPEG-TS begins whose B-frames come two behind
_GAP = (*even(15), *even(15, 10.0))


def _gap(name: str, **settings: object) -> Clip:
    """15 pictures, a pause until 10 s, 15 more."""
    return clip(name, pts=(*range(15), *range(250, 265)), **settings)


# --- times

TIMES = [
    *(_plain(each, is_fast=True) for each in (MP4_B, AVI_B)),
    *(_plain(each) for each in (MKV_B, MKV, TS)),
    _plain(TS_B, first=_LATE_B, is_fast=True),
    _edited("none.ts", TS, edit_ts_times, lambda n, t: None if n == 17 else t, times=even(30)),
    _edited("none_b.ts", TS_B, edit_ts_times, lambda n, t: None if n == 17 else t, times=even(30, _LATE_B),
            is_fast=True),
    _edited("none_first.ts", TS, edit_ts_times, lambda n, t: None if n == 0 else t + 9000, times=even(30, 0.1)),
    _edited("none_last.ts", TS, edit_ts_times, lambda n, t: None if n == 29 else t, times=even(30)),
    _edited("none_three.ts", TS, edit_ts_times, lambda n, t: None if n in (4, 5, 20) else t, times=even(30)),
    _edited("none_all.ts", TS, edit_ts_times, lambda n, t: None, times=even(30)),
    _edited("none_all_b.ts", TS_B, edit_ts_times, lambda n, t: None, times=even(30)),
    _edited("none_most.ts", TS, edit_ts_times, lambda n, t: t if n % 5 == 0 else None, times=even(30)),
    _edited("none_gap.ts", _gap("gap.ts", options=_NO_B), edit_ts_times, lambda n, t: None if n == 8 else t, times=_GAP,
            is_fast=True),
    _edited("wild.ts", TS, edit_ts_times, lambda n, t: t + 90000 * 3000 if n == 17 else t, times=even(30),
            is_fast=True),
    _edited("wild_b.ts", TS_B, edit_ts_times, lambda n, t: t + 90000 * 30 if n == 17 else t, times=even(30, _LATE_B)),
    _edited("wild_back.ts", TS, edit_ts_times, lambda n, t: t - 90000 if n == 28 else t, times=even(30)),
    _edited("wild_two.ts", TS, edit_ts_times, lambda n, t: t + 90000 * 5 * n if n in (9, 10) else t, times=even(30)),
    _edited("wild.mp4", clip("wild_base.mp4"), lambda source, target: edit_mp4_offsets(
        drop_box(source, target, b"edts"), target, lambda n, offset: offset + 12800 * 30 if n == 7 else offset
    ), times=even(30, _LATE_B)),
    _edited("wild_b.mkv", MKV_B, edit_mkv_times, lambda n, t: t + 20000 if n == 7 else t, times=even(30)),
    _edited("repeated.mkv", MKV, edit_mkv_times, lambda n, t: t - 40 if n == 20 else t, times=even(30)),
    _edited("repeated_b.mkv", MKV_B, edit_mkv_times, lambda n, t: t - 40 if n == 7 else t, times=even(30),
            is_fast=True),
    _edited("repeated_gap.mkv", _gap("gap.mkv", options=_NO_B), edit_mkv_times,
            lambda n, t: t - 40 if n == 8 else t, times=_GAP),
    _edited("repeated.ts", TS, edit_ts_times, lambda n, t: t - 3600 if n == 20 else t, times=even(30)),
    _joined("joined.ts", TS_B, clip("second.ts", first_number=100), even(60, _LATE_B), is_fast=True),
    _joined("joined_late.ts", clip("late.ts", pts=tuple(range(250, 280))),
            clip("third.ts", num_frames=40, first_number=100), even(70, 10.0)),
    _joined("joined_no_b.ts", clip("long.ts", num_frames=50, options=_NO_B),
            clip("fourth.ts", options=_NO_B, first_number=100), even(80)),
    _joined("joined_ahead.ts", TS_B, clip("ahead.ts", pts=tuple(range(500, 530)), first_number=100),
            (*even(30, _LATE_B), *even(30, 20.0)), is_fast=True),
    _joined("joined.mpg", clip("one.mpg", "mpeg2video"), clip("two.mpg", "mpeg2video", first_number=100),
            even(60, 0.54)),
    _plain(_gap("gap_b.mp4")),
    _plain(_gap("gap_b.ts"), first=_LATE_B, is_fast=True),
    _plain(_gap("gap_b.mkv")),
    _plain(_gap("gap.flv"), first=_LATE_B, is_fast=True),
    _plain(clip("late.mp4", pts=tuple(range(200, 230)))),
    _plain(clip("late.mkv", pts=tuple(range(200, 230)))),
    _plain(clip("vfr.mp4", pts=tuple(n * n for n in range(30)), time_base=Fraction(1, 100)), is_fast=True),
    _plain(clip("vfr.mkv", pts=tuple(n * n for n in range(30)), time_base=Fraction(1, 100))),
    _plain(clip("vfr.webm", "libvpx", pts=tuple(n * n for n in range(30)), time_base=Fraction(1, 100))),
    _edited("negative.mkv", MKV, edit_mkv_times, lambda n, t: t - 400, times=even(30, -0.4), is_fast=True),
    _edited("negative.mp4", clip("negative_base.mp4"), lambda source, target: edit_mp4_offsets(
        drop_box(source, target, b"edts"), target, lambda n, offset: offset - 512 * 15), times=even(30, -0.52),
            is_fast=True),
    _edited("no_offsets.mp4", MP4_B, lambda source, target: drop_box(
        drop_box(source, target, b"edts"), target, b"ctts"), times=even(30), is_fast=True),
    _edited("hole.avi", AVI_B, spoil_packets, set(range(16, 24)), times=even(30),
            numbers=[*range(16), *[15] * 8, *range(24, 30)], num_lost=8),
    _edited("hole.mkv", MKV, spoil_packets, set(range(15, 24)), times=even(30),
            numbers=[*range(15), *[14] * 9, *range(24, 30)], num_lost=9, is_fast=True),
]  # fmt: skip

# --- containers and codecs

PLAIN = [
    _plain(clip(name, codec, **settings), first=num_late * _STEP)
    for codec, num_late, settings, names in (
        ("libx264", 0, {}, "h264.mov h264.3gp h264.264"), ("libx264", 2, {}, "h264.flv h264.nut"),
        ("libx264", 1, {}, "h264.asf"), ("libx265", 0, {}, "hevc.mp4 hevc.mkv hevc.265"),
        ("libvpx", 0, {}, "vp8.webm"), ("libvpx-vp9", 0, {}, "vp9.webm vp9.mp4 vp9.ivf"),
        ("libsvtav1", 0, {}, "av1.mkv av1.mp4 av1.ivf av1.obu"),
        ("mpeg4", 0, {}, "mpeg4.avi mpeg4.mp4 mpeg4.mkv"), ("mpeg4", 1, {}, "mpeg4.nut"),
        ("mpeg4", -1, {"format": "m4v"}, "mpeg4.m4v"),
        ("mpeg2video", 0, {}, "mpeg2.m2v mpeg2.mkv"), ("mpeg1video", 0, {}, "mpeg1.m1v"),
        ("mjpeg", 0, {"pixel_format": "yuvj420p"}, "mjpeg.avi mjpeg.mkv mjpeg.mjpeg"),
        ("ffv1", 0, {}, "ffv1.mkv ffv1.avi"), ("prores_ks", 0, {"pixel_format": "yuv422p10le"}, "prores.mov"),
        ("apng", 0, _RGB, "apng.apng"), ("png", 0, _RGB, "png.mov"), ("qtrle", 0, _RGB, "qtrle.mov"),
        ("huffyuv", 0, {"pixel_format": "yuv422p"}, "huffyuv.avi"), ("ffvhuff", 0, {}, "ffvhuff.avi"),
        ("utvideo", 0, {}, "utvideo.avi"), ("rawvideo", 0, {}, "raw.avi raw.nut"),
        ("rawvideo", 0, {"format": "yuv4mpegpipe"}, "raw.y4m"), ("wmv1", 0, {}, "wmv1.asf"),
        ("wmv2", 0, {"format": "asf"}, "wmv2.wmv"), ("msmpeg4v2", 0, {}, "msmpeg4.avi"), ("flv", 0, {}, "flv1.flv"),
    )
    for name in names.split()
]  # fmt: skip

# --- flags, packets, streams, sizes

_OPEN_GOP = {**_H264, "x264-params": _H264["x264-params"] + ":open-gop=1:b-pyramid=normal:ref=3"}
_MBAFF = {**_H264, "x264-params": "tff=1:bframes=2:b-adapt=0"}
_CODED = [number for number in range(30) if number not in (11, 23)]
_FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}

ODD = [
    _plain(clip("open_gop.mp4", options=_OPEN_GOP, num_frames=50), is_fast=True),
    _plain(clip("open_gop.mkv", options=_OPEN_GOP, num_frames=50)),
    _plain(clip("open_gop.ts", options=_OPEN_GOP, num_frames=50), first=_LATE_B),
    _plain(clip("hevc.ts", "libx265", num_frames=50), first=_LATE_B),
    _plain(clip("one.mp4", num_frames=1), is_fast=True),
    _plain(clip("one.ts", num_frames=1)),
    _plain(clip("one.gif", "gif", num_frames=1, pixel_format="rgb8")),
    _plain(clip("one.webm", "libvpx-vp9", num_frames=1)),
    _plain(clip("two.mp4", num_frames=2)),
    _plain(clip("two.mkv", num_frames=2), is_fast=True),
    _plain(clip("two.avi", num_frames=2)),
    _plain(clip("two.264", num_frames=2)),
    _plain(clip("moving.gif", "gif", pixel_format="rgb8")),
    _edited("hidden.webm", clip("shown.webm", "libvpx"), hide_pictures, every=4, is_fast=True,
            times=[_STEP * n for n in range(30) if n % 4 != 3], numbers=[n for n in range(30) if n % 4 != 3]),
    _plain(clip("mbaff.ts", options=_MBAFF), first=_LATE_B, is_fast=True),
    _plain(clip("mbaff.mp4", options=_MBAFF)),
    _plain(clip("interlaced.ts", "mpeg2video", options={**_MPEG, "flags": "+ildct+ilme", "field_order": "tt"}),
           first=_STEP),
    _plain(clip("skips.avi", "mpeg4", pts=(*range(10), *range(15, 35)), options={"g": "12", "bf": "0", "b": "1500k"}),
           is_fast=True),
    *(_edited(f"empty.{ending}", clip(f"full.{ending}", "mpeg4", options={"g": "12", "bf": "0", "b": "1500k"}),
              uncode_pictures, {11, 23}, times=[_STEP * number for number in _CODED], numbers=_CODED,
              is_fast=ending == "avi") for ending in ("avi", "mp4", "mkv")),
    _edited("all_key.mp4", MP4_B, drop_box, b"stss", times=even(30), is_fast=True),
    _edited("all_key.mkv", MKV_B, flag_keyframes, lambda n: True, times=even(30)),
    _edited("no_key.mkv", MKV_B, flag_keyframes, lambda n: False, times=even(30)),
    _edited("wrong_key.mkv", MKV_B, flag_keyframes, lambda n: n % 7 == 3, times=even(30), is_fast=True),
    _edited("wrong_key.mp4", MP4_B, flag_keyframes, lambda n: n % 7 == 3, times=even(30)),
    _edited("wrong_key.nut", clip("h264_b.nut"), flag_keyframes, lambda n: n % 7 == 3, times=even(30, _LATE_B)),
    _edited("wrong_key.avi", clip("mpeg4_b.avi", "mpeg4"), flag_keyframes, lambda n: n % 7 == 3, times=even(30)),
    _plain(clip("streams.mkv", num_video_streams=2)),
    _plain(clip("streams.mp4", num_video_streams=2)),
    _plain(clip("streams.ts", num_video_streams=2), first=_LATE_B, is_fast=True),
    _edited("cover.mp4", MP4_B, add_cover, times=even(30)),
    _edited("cover.mkv", MKV_B, add_cover, times=even(30)),
    _joined("sizes.ts", TS_B, clip("large.ts", height=128, width=192, first_number=100), even(60, _LATE_B),
            is_fast=True),
    *(_edited(f"turned{degrees}.mp4", MP4_B, turn, matrix, times=even(30), quarter_turns=turns, is_fast=degrees == 90)
      for degrees, turns, matrix in ((90, 1, (0, 1, -1, 0)), (180, 2, (-1, 0, 0, -1)), (270, 3, (0, -1, 1, 0)))),
    _edited("fragments.mp4", MP4_B, remux, list, options=_FRAGMENTS, times=even(30, _LATE_B), is_fast=True),
    _edited("fragments_hevc.mp4", clip("whole.mp4", "libx265"), remux, list, options=_FRAGMENTS,
            times=even(30, _LATE_B)),
    _edited("unknown_length.mkv", MKV_B, remux, list, options={"live": "1"}, times=even(30)),
    _edited("m2ts.ts", MP4_B, remux, list, options={"mpegts_m2ts_mode": "1"}, format="mpegts", times=even(30, _LATE_B)),
    _edited("wrong_rate.mkv", MKV_B, replace_bytes, b"\x23\xe3\x83\x84" + (40_000_000).to_bytes(4, "big"),
            b"\x23\xe3\x83\x84" + (100_000_000).to_bytes(4, "big"), times=even(30), is_fast=True),
    _edited("edit_list.mp4", MP4_B, cut_start, num_frames=10, ticks_per_frame=512, times=even(20),
            numbers=range(10, 30)),
    _edited("wraps.ts", TS, edit_ts_times, lambda n, t: t + (1 << 33) - 45000, times=even(30, -0.5)),
    _plain(clip("wide.mp4", height=66, width=98), is_fast=True),
    _plain(clip("odd.mkv", "ffv1", height=65, width=97, pixel_format="yuv444p")),
    _plain(clip("odd.avi", "mjpeg", height=65, width=97, pixel_format="yuvj420p")),
    _plain(clip("odd.gif", "gif", height=65, width=97, pixel_format="rgb8")),
    *(_plain(clip(f"{pixels}.mkv", pixel_format=pixels)) for pixels in ("yuv420p10le", "yuv422p", "yuv444p", "gray")),
    *(_plain(clip(f"{pixels}_ffv1.mkv", "ffv1", pixel_format=pixels))
      for pixels in ("gray", "gray16le", "yuva420p", "bgra", "yuv410p")),
    _plain(clip("alpha.webm", "libvpx-vp9", pixel_format="yuva420p")),
    _plain(clip("alpha.mov", "prores_ks", pixel_format="yuva444p10le"), is_fast=True),
    _plain(clip("alpha.apng", "apng", pixel_format="rgba")),
    _plain(clip("argb.mov", "qtrle", pixel_format="argb")),
    _plain(clip("wide_pixels.mp4", sample_aspect_ratio=Fraction(4, 3))),
    _plain(clip("hevc_10bit.mp4", "libx265", pixel_format="yuv420p10le")),
    _plain(clip("av1_10bit.mp4", "libsvtav1", pixel_format="yuv420p10le")),
    _plain(clip("dnxhd.mov", "dnxhd", num_frames=4, height=720, width=1280, pixel_format="yuv422p",
                options={"b": "90M"})),
    _plain(clip("h263.3gp", "h263", height=96, width=128, options={"b": "1500k"})),
    _plain(clip("mpeg2.mxf", "mpeg2video")),
    _plain(clip("mpeg2.vob", "mpeg2video"), first=0.54),
    _plain(clip("jpeg2000.mov", "jpeg2000", pixel_format="rgb24")),
    _plain(clip("cinepak.mov", "cinepak", pixel_format="rgb24", num_frames=6)),
    _plain(clip("svq1.mov", "svq1", pixel_format="yuv410p", options={"b": "1500k"})),
    _plain(clip("snow.nut", "snow", options={"qscale": "1", "strict": "-2"})),
    _plain(clip("magicyuv.avi", "magicyuv", pixel_format="gbrp")),
    _plain(clip("vp8.ogg", "libvpx")),
    _plain(clip("av1.avif", "libsvtav1", format="avif")),
]  # fmt: skip

MATRIX = [*TIMES, *PLAIN, *ODD]
