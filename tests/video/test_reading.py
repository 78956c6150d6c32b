"""Frames out of really encoded files: each is identified by the number drawn into it, and the quick ways of reading
are compared, bit by bit, with a plain decode of everything from the first packet on.
"""

import contextlib
import gc
import logging
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import voco_video.video.packet_index as packet_index
import voco_video.video.pyav_reader as decoding
from tests.helpers.clips import (
    CLIPS,
    HEIGHT,
    WIDTH,
    Clip,
    cut_start,
    damage,
    draw,
    drop_packets,
    hide_pictures,
    read_numbers,
    truncate,
    turn,
    unmark_references,
)
from tests.helpers.edits import show_again
from voco_video.errors import UsageError, VideoError
from voco_video.options.sampling import Sampling
from voco_video.video import decode_plan
from voco_video.video.container import Source
from voco_video.video.frames import FrameBatch
from voco_video.video.other_readers import check_backend
from voco_video.video.packet_index import scan
from voco_video.video.picture_index import index_frames
from voco_video.video.reading import open_video, probe, read_frames
from voco_video.video.sampling import pick_frames
from voco_video.video.scaling import Fit, FrameScaler, Orientation, plan_layout

BACKENDS = ["pyav", "decord", "torchcodec"]
ALL = Sampling(fps=1000)
SMALL = Fit(height=48, width=64)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(params=list(CLIPS))
def clip(request, folder):
    return CLIPS[request.param].write(folder)


@pytest.fixture
def bframes(folder):
    return CLIPS["h264_bframes.mp4"].write(folder)


@pytest.fixture(params=BACKENDS)
def backend(request):
    try:
        check_backend(request.param)
    except UsageError as error:  # not installed, or torchcodec without the system's FFmpeg libraries
        pytest.skip(str(error))
    return request.param


def decode_plainly(path, fit=None):
    """Every frame [(pts, pixels)] by one thread from the first packet to the last, past errors, in output order.

    Pixels are None where there are errors in them.
    """
    with Source(path) as source:
        _, facts = scan(source)
    scaler = FrameScaler(
        fit,
        stored_height=facts.stored_height,
        stored_width=facts.stored_width,
        sample_aspect_ratio=facts.sample_aspect_ratio,
        orientation=facts.orientation,
    )
    frames = []
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        stream.thread_type, stream.codec_context.thread_count = "SLICE", 1
        for packet in container.demux(stream):
            with contextlib.suppress(av.error.FFmpegError):
                for frame in packet.decode():
                    pixels = scaler.new_batch(1)[0]
                    scaler.write(frame, pixels)
                    frames.append((frame.pts, None if frame.is_corrupt else pixels))
    return frames


def random_samplings(video, seed, count=6):
    rng = np.random.default_rng(seed)
    end = video.info.end_seconds
    for _ in range(count):
        yield Sampling(timestamps=tuple(rng.uniform(0, end, rng.integers(1, 9))))
    yield Sampling(num_frames=int(rng.integers(1, 12)))
    yield ALL


# --- the right frames


@pytest.mark.one_in(3)
def test_every_backend_gives_the_frames_the_plan_names(clip, backend):
    with open_video(clip, backend=backend) as video:
        for sampling in random_samplings(video, seed=1):
            plan = video.plan(sampling)
            batches = list(video.batches(sampling, batch_size=7, prefetch_batches=0))
            times = np.concatenate([batch.pts_seconds for batch in batches])
            numbers = [number for batch in batches for number in read_numbers(batch.pixels)]
            assert times.tolist() == plan.tolist()
            assert numbers == np.searchsorted(video.pts_seconds, plan).tolist()
            assert video.num_undecodable == 0


@pytest.mark.one_in(3)
@pytest.mark.parametrize("seek_packets", [5, 200])
def test_shortcuts_change_no_pixel(clip, monkeypatch, seek_packets):
    monkeypatch.setattr(decode_plan, "SEEK_PACKETS", seek_packets)
    reference = [pixels for _, pixels in decode_plainly(clip, SMALL)]
    with open_video(clip) as video:
        assert len(reference) == video.info.num_frames
        for sampling in random_samplings(video, seed=seek_packets):
            frames = np.searchsorted(video.pts_seconds, video.plan(sampling))
            expected = np.stack([reference[frame] for frame in frames])
            got = np.concatenate([batch.pixels for batch in video.batches(sampling, fit=SMALL)])
            assert np.array_equal(got, expected), sampling
            assert np.array_equal(read_frames(clip, sampling, fit=SMALL).pixels, expected), sampling


@pytest.mark.parametrize("name", ["h264_refresh.mp4", "h264_opengop.mp4", "hevc_opengop.mp4"])
def test_each_frame_alone(folder, name):
    path = CLIPS[name].write(folder)
    reference = [pixels for _, pixels in decode_plainly(path, SMALL)]
    with open_video(path) as video:
        for frame, time_ in enumerate(video.pts_seconds.tolist()):
            sampling = Sampling(timestamps=(time_,))
            (batch,) = video.batches(sampling, fit=SMALL, prefetch_batches=0)
            assert np.array_equal(batch.pixels[0], reference[frame]), frame
            assert np.array_equal(read_frames(path, sampling, fit=SMALL).pixels[0], reference[frame]), frame


@pytest.fixture
def opened(monkeypatch):
    """What has been opened to decode from, beside what `open_video` opens and leaves to the first reading: more than
    once per later reading means that a shortcut had to be given up.
    """
    sources = []

    class CountedSource(Source):
        def __init__(self, path, **options):
            sources.append(path)
            super().__init__(path, **options)

    monkeypatch.setattr(decoding, "Source", CountedSource)
    return sources


def test_low_layers_are_not_skipped_below_high_ones(folder, tmp_path, opened):
    path = unmark_references(CLIPS["hevc_layers.mp4"].write(folder), tmp_path / "layers.mp4")
    reference = [pixels for _, pixels in decode_plainly(path, SMALL)]
    with open_video(path) as video:
        for frame in range(30):
            opened.clear()
            sampling = Sampling(timestamps=(video.pts_seconds[frame],))
            (batch,) = video.batches(sampling, fit=SMALL, prefetch_batches=0)
            assert np.array_equal(batch.pixels[0], reference[frame]), frame
            assert len(opened) == min(frame, 1)


# No usable times, or keyframes that are none: read from the start, as they should be.
SLOW_CLIPS = {"h264.avi", "mpeg4.avi", "h264_refresh.mp4"}


@pytest.mark.parametrize("name", sorted(set(CLIPS) - SLOW_CLIPS))
def test_sound_files_are_gone_through_once(folder, name, opened):
    with open_video(CLIPS[name].write(folder)) as video:
        for number, sampling in enumerate(random_samplings(video, seed=3)):
            opened.clear()
            list(video.batches(sampling))
            assert len(opened) == min(number, 1), sampling


@pytest.mark.parametrize("name", ["h264_opengop.mp4", "h264_opengop.ts", "hevc_opengop.mp4", "vp9_altref.webm"])
def test_seeking_is_given_up_where_the_container_lands_too_late(folder, monkeypatch, name):
    path = CLIPS[name].write(folder)
    monkeypatch.setattr(decode_plan, "SEEK_PACKETS", 5)
    monkeypatch.setattr(packet_index, "MAX_KEPT_PACKET_BYTES", 0)
    monkeypatch.setattr(decode_plan._Cursor, "_find_place", lambda self, latest: False)
    late = Sampling(timestamps=(probe(path).end_seconds - 0.1,))
    assert read_numbers(read_frames(path, late).pixels) == [CLIPS[name].num_frames - 3]


def test_edit_list_hides_frames_but_still_decodes_from_them(bframes, tmp_path, backend):
    path = cut_start(bframes, tmp_path / "edit.mp4", num_frames=30, ticks_per_frame=512)
    with open_video(path, backend=backend) as video:
        batches = list(video.batches(ALL))
    numbers = [number for batch in batches for number in read_numbers(batch.pixels)]
    assert numbers == list(range(30, 120))
    assert batches[0].pts_seconds[0] == 0.0


def test_pictures_of_vp9_that_are_shown_again(folder, tmp_path, opened):
    whole = Clip("whole.webm", "libvpx-vp9", num_frames=60).write(tmp_path)
    path = show_again(whole, tmp_path / "again.webm", {5, 6, 17, 40})
    plain = decode_plainly(path, SMALL)
    assert [(plain[number][1] == plain[number - 1][1]).all() for number in (5, 6, 17, 40)] == [True] * 4
    with open_video(path) as video:
        assert video.info.num_frames == len(plain) == 60
        for number, sampling in enumerate(random_samplings(video, seed=7)):
            opened.clear()
            wanted = video.plan(sampling)
            batches = list(video.batches(sampling, fit=SMALL))
            expected = [plain[place][1] for place in np.searchsorted(video.pts_seconds, wanted)]
            assert np.array_equal(np.concatenate([batch.pixels for batch in batches]), expected)
            assert np.array_equal(np.concatenate([batch.pts_seconds for batch in batches]), wanted)
            assert len(opened) == min(number, 1), "no shortcut was given up"


def test_pictures_never_shown_are_not_counted(folder, tmp_path, backend):
    path = hide_pictures(CLIPS["vp8_altref.webm"].write(folder), tmp_path / "hidden.webm", every=4)
    shown = [number for number in range(60) if number % 4 != 3]
    assert probe(path).num_frames == len(shown)
    assert read_numbers(read_frames(path, ALL, backend=backend).pixels) == shown
    assert read_numbers(read_frames(path, Sampling(timestamps=(0.3, 1.2)), backend=backend).pixels) == [6, 30]


def test_repeated_timestamps_repeat_the_frame(bframes):
    batch = read_frames(bframes, Sampling(timestamps=(2.0, 1.0, 2.0, 2.01)))
    assert read_numbers(batch.pixels) == [25, 50, 50, 50]


def test_keyframes_only(bframes, backend):
    batch = read_frames(bframes, Sampling(keyframes=True), backend=backend)
    assert read_numbers(batch.pixels) == [0, 24, 48, 72, 96]


@pytest.mark.parametrize(("room_bytes", "is_kept"), [(-1, False), (1000, False), (1 << 20, True)])
def test_the_first_reading_uses_what_opening_has_left(bframes, monkeypatch, opened, room_bytes, is_kept):
    monkeypatch.setattr(packet_index, "MAX_KEPT_PACKET_BYTES", bframes.stat().st_size + room_bytes)
    times = Sampling(timestamps=(0.0, 0.04, 1.0))
    with open_video(bframes) as video:
        (first,) = video.batches(times, prefetch_batches=0)
        num_opened = len(opened)
        (second,) = video.batches(times, prefetch_batches=0)
    assert (num_opened, len(opened)) == ((0, 1) if is_kept else (1, 2))
    assert read_numbers(first.pixels) == [0, 1, 25]
    assert np.array_equal(first.pixels, second.pixels)


def test_an_unread_video_leaves_no_open_file(bframes):
    def num_open():
        return sum(str(bframes) in os.path.realpath(link) for link in Path("/proc/self/fd").iterdir())

    if not Path("/proc/self/fd").exists():
        pytest.skip("this system does not list open files")
    video = open_video(bframes)
    assert num_open() == 1
    video.close()
    assert num_open() == 0
    assert read_numbers(read_frames(bframes, Sampling(num_frames=1)).pixels) == [60]
    assert num_open() == 0


def test_jumps_go_to_the_last_keyframe_that_saves_decoding(bframes):
    with Source(bframes) as source:
        packets, _ = scan(source)
        index = index_frames(source, packets)
    planned = decode_plan.plan_spans(index, np.array([3, 20, 30, 71, 100]), can_jump=True)
    assert [(run.entry_packet, run.frames.tolist()) for run in planned] == [(0, [3, 20, 30]), (48, [71]), (96, [100])]
    (run,) = decode_plan.plan_spans(index, np.array([3, 100]), can_jump=False)
    assert run.entry_packet == 0


# --- geometry and colour


MATRICES = {
    "90": (0, 1, -1, 0),
    "180": (-1, 0, 0, -1),
    "270": (0, -1, 1, 0),
    "mirror": (-1, 0, 0, 1),
    "flip": (1, 0, 0, -1),
    "transpose": (0, 1, 1, 0),
    "antitranspose": (0, -1, -1, 0),
}


@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
def test_display_matrix_is_obeyed(bframes, tmp_path, matrix, backend):
    path = turn(bframes, tmp_path / "turned.mp4", matrix)
    stored = read_frames(bframes, Sampling(timestamps=(1.0,))).pixels[0]
    a, b, c, d = matrix
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    new_x, new_y = a * x + c * y, b * x + d * y  # as the file format defines it, point by point
    expected = np.empty((WIDTH, HEIGHT, 3) if b else (HEIGHT, WIDTH, 3), np.uint8)
    expected[new_y - new_y.min(), new_x - new_x.min()] = stored
    assert np.array_equal(read_frames(path, Sampling(timestamps=(1.0,)), backend=backend).pixels[0], expected)
    info = probe(path)
    assert (info.height, info.width) == expected.shape[:2]


def test_turning_goes_with_scaling(bframes, tmp_path):
    path = turn(bframes, tmp_path / "turned.mp4", MATRICES["90"])
    for mode in ("crop", "pad", "stretch"):
        pixels = read_frames(path, Sampling(num_frames=1), fit=Fit(90, 50, mode)).pixels[0]
        upright = read_frames(path, Sampling(num_frames=1)).pixels[0]
        layout = plan_layout(Fraction(160), Fraction(96), Fit(90, 50, mode))
        scaled = np.asarray(
            Image.fromarray(upright).resize((layout.scaled_width, layout.scaled_height), Image.Resampling.BICUBIC)
        )
        expected = np.zeros((90, 50, 3), np.uint8)
        expected[layout.paste_top :, layout.paste_left :][: layout.kept_height, : layout.kept_width] = scaled[
            layout.crop_top :, layout.crop_left :
        ][: layout.kept_height, : layout.kept_width]
        # Scaling yuv is not quite scaling rgb; a misplaced picture gives 40.
        assert np.abs(pixels.astype(int) - expected).mean() < 8


@pytest.mark.parametrize("size", [(360, 640), (640, 360), (480, 633), (336, 336), (100, 101)])
def test_crop_is_clips_own_geometry(size):
    height, width = size
    layout = plan_layout(Fraction(height), Fraction(width), Fit(336, 336))
    short, long = sorted(size)
    assert sorted((layout.scaled_height, layout.scaled_width)) == [336, int(336 * long / short)]
    assert layout.crop_top == (layout.scaled_height - 336) // 2
    assert layout.crop_left == (layout.scaled_width - 336) // 2


def test_wide_pixels_are_made_square(folder, backend):
    path = CLIPS["h264_wide_pixels.mp4"].write(folder)
    info = probe(path)
    assert (info.height, info.width, info.sample_aspect_ratio) == (96, 213, Fraction(4, 3))
    assert read_frames(path, backend=backend).pixels.shape[1:3] == (96, 213)
    padded = read_frames(path, fit=Fit(120, 120, "pad", pad_rgb=(9, 8, 7)), backend=backend).pixels[0]
    rows = np.flatnonzero((padded != (9, 8, 7)).any(axis=(1, 2)))
    assert len(rows) == round(120 * 96 / (160 * 4 / 3))
    assert (padded[: rows[0]] == (9, 8, 7)).all()
    assert (padded[rows[-1] + 1 :] == (9, 8, 7)).all()


@pytest.mark.parametrize(("colorspace", "tag"), [("ITU709", 1), ("SMPTE170M", 6)])
def test_colour_matrix_is_the_one_the_file_names(tmp_path, colorspace, tag, backend):
    colour, path = (200, 40, 90), tmp_path / "colour.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.height = stream.width = 64
        stream.codec_context.colorspace = tag
        picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), colour, np.uint8), format="rgb24")
        frame = picture.reformat(format="yuv420p", dst_colorspace=colorspace)
        frame.colorspace = tag
        container.mux([*stream.encode(frame), *stream.encode(None)])
    pixels = read_frames(path, backend=backend).pixels
    assert np.abs(pixels.astype(int) - colour).max() <= 3


@pytest.mark.parametrize("options", [{}, {"colorspace": 1}, {"color_range": 2}], ids=str)
def test_planes_are_scaled_as_packed_pixels_with_whole_chroma(bframes, options):
    """In packed pixels of odd width the scaler keeps all of the chroma; planes are the quick way to that."""
    with av.open(str(bframes)) as container:
        frame = next(container.decode(video=0))
    for name, value in options.items():
        setattr(frame, name, value)
    pixels = np.empty((51, 75, 3), np.uint8)
    FrameScaler(Fit(51, 75, "stretch"), stored_height=frame.height, stored_width=frame.width).write(frame, pixels)
    packed = frame.reformat(75, 51, "rgb24", interpolation="BICUBIC").to_ndarray()
    assert np.array_equal(pixels, packed)


def test_ten_bit_comes_out_as_eight(folder):
    pixels = read_frames(CLIPS["h264_10bit.mkv"].write(folder), Sampling(timestamps=(0.0,))).pixels[0]
    assert np.abs(pixels.astype(int) - draw(0)).mean() < 20


@pytest.mark.parametrize(
    "options",
    [{"height": 0, "width": 4}, {"height": 4, "width": 2.5}, {"height": 4, "width": 4, "mode": "fill"},
     {"height": 4, "width": 4, "pad_rgb": (0, 0, 300)}],
)  # fmt: skip
def test_bad_fits_are_refused(options):
    with pytest.raises(UsageError, match="Fit"):
        Fit(**options)


def test_orientation_without_a_matrix_is_upright():
    assert Orientation.from_matrix(None) == Orientation()


# --- what is said about a video


def test_info_counts_instead_of_believing_headers(folder):
    info = probe(CLIPS["h264_vfr.mkv"].write(folder))
    pts = np.array(CLIPS["h264_vfr.mkv"].pts) / 1000
    assert info.num_frames == 60
    assert info.first_pts_seconds == pts[0]
    assert info.end_seconds > pts[-1]
    assert info.duration_seconds == info.end_seconds - pts[0]
    assert info.average_fps == pytest.approx(60 / info.duration_seconds)
    assert info.codec == "h264"


def test_times_are_those_of_the_file(folder):
    for name in ("h264_vfr.mp4", "h264_vfr.mkv"):
        with open_video(CLIPS[name].write(folder)) as video:
            assert video.pts_seconds.tolist() == [tick / 1000 for tick in CLIPS[name].pts]


def test_late_start_is_kept(folder):
    info = probe(CLIPS["h264_late.mp4"].write(folder))
    assert info.first_pts_seconds == 8.0
    assert info.end_seconds == pytest.approx(10.4)


def test_one_frame(folder, backend):
    batch = read_frames(CLIPS["h264_one_frame.mp4"].write(folder), backend=backend)
    assert read_numbers(batch.pixels) == [0]


def test_several_video_streams_are_counted(folder):
    assert probe(CLIPS["h264_two.mkv"].write(folder)).num_video_streams == 2


def test_still_image_is_one_frame(tmp_path):
    Image.fromarray(draw(7)).save(tmp_path / "still.png")
    batch = read_frames(tmp_path / "still.png")
    assert np.array_equal(batch.pixels[0], draw(7))


# --- batches, threads, resuming


@pytest.mark.parametrize("batch_size", [1, 7, 120, 500])
@pytest.mark.parametrize("prefetch_batches", [0, 1, 3])
def test_batches_add_up(bframes, batch_size, prefetch_batches):
    with open_video(bframes) as video:
        batches = list(video.batches(ALL, fit=SMALL, batch_size=batch_size, prefetch_batches=prefetch_batches))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert np.concatenate([batch.pts_seconds for batch in batches]).tolist() == video.plan(ALL).tolist()


@pytest.mark.parametrize("first_frame", [0, 1, 5, 11, 12])
def test_going_on_where_a_reading_stopped(bframes, first_frame, backend):
    sampling = Sampling(num_frames=12)
    with open_video(bframes, backend=backend) as video:
        whole = read_frames(bframes, sampling, fit=SMALL, backend=backend)
        rest = list(video.batches(sampling, fit=SMALL, batch_size=4, first_frame=first_frame))
    pixels = np.concatenate([whole.pixels[:0], *[batch.pixels for batch in rest]])
    assert np.array_equal(pixels, whole[first_frame:].pixels)


def test_two_readings_at_once_do_not_mix(bframes):
    with open_video(bframes) as video:
        pairs = zip(video.batches(ALL, batch_size=5), video.batches(ALL, batch_size=5), strict=True)
        assert all(np.array_equal(one.pixels, other.pixels) for one, other in pairs)


def decoding_threads():
    return [thread for thread in threading.enumerate() if thread.name == "voco-video-decode"]


@pytest.mark.parametrize("how", ["break", "raise", "close", "video"])
def test_stopping_early_ends_the_thread_promptly(bframes, how):
    video = open_video(bframes)
    batches = video.batches(ALL, batch_size=1, prefetch_batches=1)
    next(batches)
    assert decoding_threads()
    if how == "raise":
        with contextlib.suppress(RuntimeError), contextlib.closing(batches):
            raise RuntimeError("the consumer's own")
    elif how == "break":
        for _ in batches:
            break
        del batches
        gc.collect()
    elif how == "close":
        batches.close()
    else:
        video.close()
    assert not decoding_threads()


def test_errors_cross_the_thread(bframes, monkeypatch):
    def fail(self, frame, out):
        raise MemoryError("no room for the picture")

    monkeypatch.setattr(FrameScaler, "write", fail)
    with open_video(bframes) as video, pytest.raises(VideoError, match=rf"{bframes.name}.*no room"):
        list(video.batches(ALL))
    assert not decoding_threads()


def test_memory_does_not_grow_with_the_video(bframes):
    frame_bytes = HEIGHT * WIDTH * 3
    with open_video(bframes) as video:
        tracemalloc.start()
        for _ in video.batches(ALL, batch_size=4, prefetch_batches=2):
            time.sleep(0.005)  # let the decoder run ahead as far as it may
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 30 * frame_bytes  # of 120


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"prefetch_batches": -1}, {"first_frame": -1}, {"first_frame": 99}]
)
def test_bad_batch_options_are_refused_at_once(bframes, options):
    with open_video(bframes) as video, pytest.raises(UsageError, match=next(iter(options))):
        video.batches(Sampling(num_frames=3), **options)


def test_frame_batch_is_checked_and_sliced():
    pixels, times = np.zeros((3, 2, 2, 3), np.uint8), np.arange(3.0)
    assert FrameBatch(pixels, times)[1:].pts_seconds.tolist() == [1, 2]
    for wrong in [(pixels[..., :2], times), (pixels.astype(float), times), (pixels, times[:2]), (pixels, -times)]:
        with pytest.raises(UsageError):
            FrameBatch(*wrong)


# --- damage


def expected_from(frames, video, plan, repeats=False):
    """The rule for damaged files, literally: the last decoded frame at or before each planned one, each once."""
    index, decoded, latest = video._index, {}, None
    for number, (pts, pixels) in enumerate(frames):
        if index.is_from_pictures:  # not all of the file's own times can be right
            pts = int(index.pts[number])
        # A decoder may give a damaged picture late; time does not go backwards for it.
        if pixels is not None and pts in set(index.pts.tolist()) and (latest is None or pts > latest):
            decoded[pts], latest = pixels, pts
    times = sorted(decoded)
    chosen = []
    for pts in index.pts[np.searchsorted(index.pts_seconds, plan)].tolist():
        before = [time for time in times if time <= pts]
        stand_in = before[-1] if before else times[0]
        if repeats or stand_in not in chosen:
            chosen.append(stand_in)
    return chosen, np.stack([decoded[pts] for pts in chosen])


DAMAGED = ["h264_bframes.mp4", "h264_opengop.ts", "hevc_opengop.mp4", "vp9_altref.webm", "mpeg2.ts"]


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("num_bytes", [3, 60])
def test_damaged_files_keep_what_decodes(folder, tmp_path, name, num_bytes):
    source = CLIPS[name].write(folder)
    path = damage(source, tmp_path / name, start=0.3, stop=0.6, num_bytes=num_bytes)
    plain = decode_plainly(path, SMALL)
    with open_video(path) as video:
        for _ in range(3):
            batches = list(video.batches(ALL, fit=SMALL))
            ticks, pixels = expected_from(plain, video, video.plan(ALL))
            times = np.concatenate([batch.pts_seconds for batch in batches])
            assert times.tolist() == video._index.to_seconds(np.array(ticks)).tolist()
            assert np.array_equal(np.concatenate([batch.pixels for batch in batches]), pixels)


@pytest.mark.parametrize("name", ["h264_vfr.mkv", "h264_opengop.ts", "vp8_altref.webm"])
def test_truncated_files_keep_their_beginning(folder, tmp_path, name, backend):
    path = truncate(CLIPS[name].write(folder), tmp_path / name, 0.6)
    with open_video(path, backend=backend) as video:
        numbers = [n for batch in video.batches(ALL) for n in read_numbers(batch.pixels)]
        # The last picture is cut through, so what it shows is not certain.
        assert numbers[:-3] == list(range(len(numbers) - 3))
        assert 20 < len(numbers) < CLIPS[name].num_frames


def blank(source, target, packets_to_blank):
    """Blank the contents of some pictures, so that they do not decode at all, without touching their times."""
    with av.open(str(source)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    data = bytearray(source.read_bytes())
    for packet in packets[packets_to_blank]:
        data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    target.write_bytes(data)
    return target


@pytest.mark.parametrize("sampling", [ALL, Sampling(fps=6), Sampling(timestamps=(1.2, 1.3, 1.33, 1.35, 3.0))], ids=str)
def test_undecodable_frames_give_way_to_the_last_one_before(bframes, tmp_path, caplog, sampling):
    path = blank(bframes, tmp_path / "blank.mp4", slice(30, 36))
    with open_video(path) as video, caplog.at_level(logging.WARNING, "voco_video"):
        batches = list(video.batches(sampling, fit=SMALL))
        repeats = sampling.timestamps is not None
        ticks, pixels = expected_from(decode_plainly(path, SMALL), video, video.plan(sampling), repeats)
        times = np.concatenate([batch.pts_seconds for batch in batches])
        assert times.tolist() == video._index.to_seconds(np.array(ticks)).tolist()
        assert np.array_equal(np.concatenate([batch.pixels for batch in batches]), pixels)
        missing = set(np.round(video.plan(sampling), 6)) - set(np.round(times, 6))
        assert video.num_undecodable >= len(missing) > 0
        assert f"{video.num_undecodable} of {len(video.plan(sampling))} frames could not be decoded" in caplog.text


@pytest.mark.parametrize(
    "read", [read_frames, lambda path: list(open_video(path).batches(ALL))], ids=["all", "batches"]
)
def test_file_of_which_nothing_decodes(bframes, tmp_path, read):
    path = blank(bframes, tmp_path / "blank.mp4", slice(None))
    with pytest.raises(VideoError, match=r"blank.mp4: not one of \d+ frames could be decoded"):
        read(path)


@pytest.mark.parametrize(("name", "num_packets"), [("h264_opengop.ts", 30), ("hevc_opengop.mp4", 20), ("mpeg2.ts", 7)])
def test_recording_that_begins_in_mid_stream(folder, tmp_path, opened, name, num_packets):
    path = drop_packets(CLIPS[name].write(folder), tmp_path / name.replace("mp4", "mkv"), num_packets=num_packets)
    plain = decode_plainly(path, SMALL)
    with open_video(path) as video:
        assert not video._index.is_keyframe[0]
        for sampling in (ALL, Sampling(num_frames=7), Sampling(timestamps=(0.0, 1.5, 2.4, 2.4))):
            plan, repeats = video.plan(sampling), sampling.timestamps is not None
            opened.clear()
            got = list(video.batches(sampling, fit=SMALL))
            assert len(opened) <= 2  # once for the lead, once for the rest
            ticks, pixels = expected_from(plain, video, plan, repeats)
            assert np.array_equal(np.concatenate([batch.pixels for batch in got]), pixels)
            times = np.concatenate([batch.pts_seconds for batch in got])
            assert times.tolist() == video._index.to_seconds(np.array(ticks)).tolist()
            for first_frame in range(len(plan) + 1) if len(plan) < 20 else ():
                done = expected_from(plain, video, plan[:first_frame], repeats)[0] if first_frame else []
                rest = list(video.batches(sampling, fit=SMALL, first_frame=first_frame))
                assert sum(map(len, rest)) == len(ticks) - len(done)


def test_going_on_in_a_damaged_file_repeats_nothing(bframes, tmp_path):
    path = blank(bframes, tmp_path / "blank.mp4", slice(30, 36))
    with open_video(path) as video:
        plan = video.plan(ALL)
        whole = np.concatenate([batch.pts_seconds for batch in video.batches(ALL)])
        for last in whole[25:50]:
            # How a caller goes on who knows only the time of the last frame it has.
            first_frame = int(np.searchsorted(plan, last, side="right"))
            rest = np.concatenate([[], *[b.pts_seconds for b in video.batches(ALL, first_frame=first_frame)]])
            assert rest[rest > last].tolist() == whole[whole > last].tolist()


# --- what is not a video


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("missing.mp4", None, "no such file"),
        ("empty.mp4", b"", "empty"),
        ("notes.txt", b"only words\n" * 50, "not a video file"),
        ("words.mp4", b"only words\n" * 50, "cannot open it as a video"),
        ("data.json", b'{"a": [1, 2, 3]}', "cannot open it as a video"),
        ("list.m3u8", b"#EXTM3U\n#EXTINF:1,\nhttp://localhost/x.ts\n", "video"),
    ],
)
def test_what_is_not_a_video_is_named_with_the_reason(tmp_path, name, content, reason):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VideoError, match=reason) as error:
        open_video(path)
    assert str(path) in str(error.value)


def test_directory_is_refused(tmp_path):
    with pytest.raises(VideoError, match="directory"):
        open_video(tmp_path)


def test_sound_without_pictures_is_refused(tmp_path):
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.raises(VideoError, match=r"no video stream \(only audio\)"):
        open_video(path)


def test_truncated_header_is_refused(bframes, tmp_path):
    with pytest.raises(VideoError, match="cannot open it"):
        open_video(truncate(bframes, tmp_path / "cut.mp4", 0.5))


def test_unknown_backend(bframes):
    with pytest.raises(UsageError, match="unknown video backend 'opencv'; choose one of pyav, decord, torchcodec"):
        open_video(bframes, backend="opencv")


@pytest.mark.parametrize("name", ["decord", "torchcodec"])
def test_backend_that_is_not_installed(bframes, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=rf"pip install 'voco-video\[{name}\]'"):
        open_video(bframes, backend=name)


def test_import_is_cheap():
    names = ("av", "decord", "torchcodec", "cv2")
    code = f"import sys, voco_video.video.reading; print([m for m in {names} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


# --- real clips

SOUND_CLIPS = [
    "flipping_a_pancake.mkv", "flower.mp4", "flower.webm", "llamafactory_1.mp4", "mmaction2_demo.mp4",
    "mmaction2_part_0_vfr.mp4", "mmaction2_test.mp4", "msvd/QzulzuWr0Zw_20_45.mp4", "msvd/rlQ2kW-FvMk_66_79.mp4",
    "nasa_13013.mp4", "stream-of-water-audioless.webm", "videollava_sample_demo_22.mp4", "edge/nasa_13013_rotated.mp4",
    "edge/realshort.mp4", "edge/test_non_zero_start.mp4", "edge/video_0.mov", "edge/video_90.mov",
]  # fmt: skip


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", SOUND_CLIPS)
def test_real_clip_equals_a_plain_decode(shared, name):
    path = shared / "clips" / name
    frames = decode_plainly(path, SMALL)
    sampling = Sampling(fps=2)
    with open_video(path) as video:
        assert len(frames) == video.info.num_frames
        picked = pick_frames(video.pts_seconds, video._index.is_keyframe, video.info.end_seconds, sampling)
        batch = read_frames(path, sampling, fit=SMALL)
        assert batch.pts_seconds.tolist() == video.pts_seconds[picked].tolist()
        assert np.array_equal(batch.pixels, np.stack([frames[frame][1] for frame in picked]))


def test_real_corrupted_clip_keeps_what_decodes(shared, caplog):
    path = shared / "clips" / "edge" / "corrupted.mp4"
    with open_video(path) as video, caplog.at_level(logging.WARNING, "voco_video"):
        batches = list(video.batches(ALL, fit=SMALL))
        ticks, pixels = expected_from(decode_plainly(path, SMALL), video, video.plan(ALL))
    assert np.array_equal(np.concatenate([batch.pixels for batch in batches]), pixels)
    assert len(ticks) == 48
    assert video.num_undecodable == 2  # one does not come, one comes with an error in it
    assert "could not be decoded" in caplog.text


def test_real_phone_clip_is_upright(shared):
    info = probe(shared / "clips" / "edge" / "video_90.mov")
    assert (info.height, info.width, info.rotation_degrees) == (568, 320, 90)


def test_real_clip_twice_in_two_codecs_looks_the_same(shared):
    times = Sampling(timestamps=(1.0, 2.5, 4.0))
    one, other = (read_frames(shared / "clips" / f"flower.{kind}", times, fit=SMALL) for kind in ("mp4", "webm"))
    assert np.abs(one.pixels.astype(int) - other.pixels).mean() < 6
    assert np.abs(one.pts_seconds - other.pts_seconds).max() < 0.02
