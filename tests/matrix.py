"""The matrix of clips: container by codec by oddity, each with the numbers and times that its pictures must have.

What a clip must give is written down from how it is made, not read from it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from clips import Clip
from edits import (
    drop_box,
    edit_mkv_times,
    edit_mp4_offsets,
    edit_ts_times,
    join,
    spoil_packets,
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
    **options: object,
) -> Case:
    def make(folder: Path) -> Path:
        if not (folder / name).exists():
            edit(source.write(folder), folder / name, *arguments, **options)
        return folder / name

    shown = tuple(range(len(times))) if numbers is None else tuple(numbers)
    return Case(name, make, tuple(times), shown, num_lost, is_fast)


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

MATRIX = [*TIMES, *PLAIN]
