"""Two decoders side by side give what one gives: the same frames in the same order, the same ends."""

import contextlib
import threading
import time

import numpy as np
import pytest

import voco_video.video.container as container
import voco_video.video.packet_index as packet_index
from tests.helpers.clips import CLIPS
from voco_video.errors import VideoError
from voco_video.options.sampling import Sampling
from voco_video.video import decode_plan, two_decoders
from voco_video.video.container import DamagedError
from voco_video.video.decode_plan import CannotSeekError, DecodeSpan, SpanReader, plan_spans
from voco_video.video.reading import open_video, read_frames
from voco_video.video.scaling import Fit
from voco_video.video.two_decoders import pays_off

SMALL = Fit(height=48, width=64)
SAMPLINGS = [Sampling(num_frames=4), Sampling(num_frames=9), Sampling(fps=1.3), Sampling(fps=1000)]
NAMES = ["h264_bframes.mp4", "h264_opengop.ts", "hevc_opengop.mp4", "vp9_altref.webm", "vp8_altref.webm"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("clips")


@pytest.fixture
def opened(monkeypatch):
    """Has two decoders wherever there are two spans, and says how often the second one has been opened."""
    sources = []

    class CountedSource(container.Source):
        def __init__(self, path, **options):
            sources.append(path)
            super().__init__(path, **options)

    monkeypatch.setattr(two_decoders, "Source", CountedSource)
    monkeypatch.setattr(two_decoders, "MIN_PACKETS_FOR_SECOND", 1)
    monkeypatch.setattr(two_decoders, "num_processors", lambda: 2)
    return sources


def read_by_one_lane(path, sampling):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(two_decoders, "num_processors", lambda: 1)
        return read_frames(path, sampling, fit=SMALL)


def lane_threads():
    return [thread for thread in threading.enumerate() if thread.name == two_decoders.THREAD_NAME]


def assert_same(got, expected):
    assert np.array_equal(got.pts_seconds, expected.pts_seconds)
    assert np.array_equal(got.pixels, expected.pixels)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kept_bytes", [0, packet_index.MAX_KEPT_PACKET_BYTES], ids=["large file", "small file"])
@pytest.mark.parametrize("held_bytes", [1, two_decoders.MAX_WAITING_FRAME_BYTES])
@pytest.mark.parametrize("num_threads", [None, 1])
def test_two_decoders_give_what_one_gives(folder, monkeypatch, opened, name, kept_bytes, held_bytes, num_threads):
    path = CLIPS[name].write(folder)
    monkeypatch.setattr(two_decoders, "threads_per_decoder", lambda runs, frame_bytes: num_threads)
    monkeypatch.setattr(packet_index, "MAX_KEPT_PACKET_BYTES", kept_bytes)
    monkeypatch.setattr(two_decoders, "MAX_WAITING_FRAME_BYTES", held_bytes)
    monkeypatch.setattr(decode_plan, "SEEK_PACKETS", 5)
    num_side_by_side = 0
    for sampling in SAMPLINGS:
        expected = read_by_one_lane(path, sampling)
        opened.clear()
        assert_same(read_frames(path, sampling, fit=SMALL), expected)
        num_side_by_side += len(opened)
    assert num_side_by_side >= (2 if num_threads else 1)
    assert not lane_threads()


@pytest.mark.parametrize("error", [DamagedError, CannotSeekError])
@pytest.mark.parametrize("bad_run", [0, 1, 2])
def test_a_shortcut_that_fails_in_either_lane_loses_no_frame(folder, monkeypatch, opened, error, bad_run):
    path = CLIPS["h264_bframes.mp4"].write(folder)
    expected = read_by_one_lane(path, SAMPLINGS[1])
    entries = []

    class FailsOnce(SpanReader):
        def read(self, run):
            entries.append(run.entry_packet)
            if len(entries) == bad_run + 1:
                raise error("as if")
            return super().read(run)

    monkeypatch.setattr(two_decoders, "SpanReader", FailsOnce)
    assert_same(read_frames(path, SAMPLINGS[1], fit=SMALL), expected)
    assert opened
    assert not lane_threads()


@pytest.mark.parametrize("how", ["close", "video", "error"])
def test_no_lane_outlives_its_reading(folder, monkeypatch, opened, how):
    monkeypatch.setattr(two_decoders, "MAX_WAITING_FRAME_BYTES", 1)  # both decoders wait when the reading ends
    video = open_video(CLIPS["h264_bframes.mp4"].write(folder))
    batches = video.batches(Sampling(num_frames=9), fit=SMALL, batch_size=1, prefetch_batches=1)
    next(batches)
    assert len(lane_threads()) == 2
    if how == "error":
        with contextlib.suppress(RuntimeError), contextlib.closing(batches):
            raise RuntimeError("the consumer's own")
    else:
        (batches if how == "close" else video).close()
    assert not lane_threads()


@pytest.mark.parametrize("num_threads", [None, 1])
def test_the_first_lane_goes_on_where_the_file_cannot_be_opened_again(folder, monkeypatch, opened, num_threads):
    path = CLIPS["h264_bframes.mp4"].write(folder)
    monkeypatch.setattr(two_decoders, "threads_per_decoder", lambda runs, frame_bytes: num_threads)
    expected = read_by_one_lane(path, SAMPLINGS[1])

    def vanished(path, **options):
        opened.append(path)
        raise VideoError(f"{path}: no such file")

    monkeypatch.setattr(two_decoders, "Source", vanished)
    assert_same(read_frames(path, SAMPLINGS[1], fit=SMALL), expected)
    assert opened


def test_what_a_lane_fails_with_reaches_the_reader(folder, monkeypatch, opened):
    def fails(self, *args, **options):
        raise MemoryError("no room")

    monkeypatch.setattr(two_decoders, "SpanReader", fails)
    with pytest.raises(VideoError, match="no room"):
        read_frames(CLIPS["h264_bframes.mp4"].write(folder), SAMPLINGS[1], fit=SMALL)
    assert not lane_threads()


def test_frames_that_nobody_asks_for_yet_are_bounded(folder, monkeypatch, opened):
    put, most = two_decoders._Handover._put, []
    monkeypatch.setattr(two_decoders, "MAX_WAITING_FRAME_BYTES", 1)

    def watched(self, number, item, size_bytes):
        put(self, number, item, size_bytes)
        most.append(self._held_bytes / size_bytes)

    monkeypatch.setattr(two_decoders._Handover, "_put", watched)
    video = open_video(CLIPS["h264_bframes.mp4"].write(folder))
    for _ in video.batches(Sampling(num_frames=9), fit=SMALL, batch_size=1, prefetch_batches=0):
        time.sleep(0.005)  # slower than the decoders
    assert opened
    assert max(most) <= two_decoders.NUM_DECODERS


def test_a_second_decoder_is_opened_for_enough_work_alone(folder, monkeypatch):
    monkeypatch.setattr(two_decoders, "num_processors", lambda: 2)
    with open_video(CLIPS["h264_bframes.mp4"].write(folder)) as video:
        index = video._index
    planned = plan_spans(index, np.arange(0, len(index.pts), 13), can_jump=True)
    lengths = sorted(run.num_packets for run in planned)
    assert len(planned) > 1
    for enough in (sum(lengths[:-1]), sum(lengths[:-1]) + 1):
        monkeypatch.setattr(two_decoders, "MIN_PACKETS_FOR_SECOND", enough)
        assert pays_off(planned) == (enough == sum(lengths[:-1]))
    monkeypatch.setattr(two_decoders, "MIN_PACKETS_FOR_SECOND", 1)
    assert not pays_off(planned[:1])
    assert not pays_off([])
    monkeypatch.setattr(two_decoders, "num_processors", lambda: 1)
    assert not pays_off(planned)


def test_decoders_have_one_thread_each_where_none_waits_for_another(monkeypatch):
    def of(num_packets, num_frames):
        return DecodeSpan(0, 0, True, np.arange(num_frames), num_packets - 1)

    monkeypatch.setattr(two_decoders, "num_processors", lambda: 2)
    even = [of(250, 8)] * 6
    assert two_decoders.threads_per_decoder(even, frame_bytes=1 << 20) == 1
    assert two_decoders.threads_per_decoder([*even, of(20, 1)], frame_bytes=1 << 20) == 1
    assert (
        two_decoders.threads_per_decoder([of(250, 8), of(50, 2)], frame_bytes=1 << 20) is None
    )  # one would be alone at the end
    assert two_decoders.threads_per_decoder([of(250, 250)] * 6, frame_bytes=1 << 20) is None  # more than may wait
    monkeypatch.setattr(two_decoders, "num_processors", lambda: 4)
    assert two_decoders.threads_per_decoder(even, frame_bytes=1 << 20) is None  # which would leave processors idle
