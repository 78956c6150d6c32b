"""Sources that are still being made: growing files, pipes, HTTP and RTSP, followed, asked about, killed and resumed."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.clips import CLIPS, Clip
from tests.helpers.live_sources import growing, http_server, pieces, remuxed, rtsp_server
from voco_video import cli
from voco_video.api import VideoModel, load_model
from voco_video.cache import FrameCache
from voco_video.errors import CacheError, UsageError, VideoError
from voco_video.follow import Stream
from voco_video.options.compression import CompressOptions
from voco_video.options.sampling import Sampling
from voco_video.stored_tokens import read_tokens
from voco_video.video.live_source import LiveReader, parse_source
from voco_video.video.pacing import FrameQueue, frames_on_grid
from voco_video.video.reading import open_video
from voco_video.video.sampling import pick_frames
from voco_video.video.timeline import Timeline

GOP = {"g": "12", "bf": "2", "preset": "ultrafast"}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> VideoModel:
    return load_model("voco-tiny", cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    """Five seconds of MPEG-TS."""
    return Clip("recording.ts", options=GOP, num_frames=125).write(tmp_path_factory.mktemp("clips"))


def run_to_end(stream) -> list:
    with stream:
        return list(stream)


def assert_same_frames(video, whole) -> None:
    """The same times, and the same tokens to the last bit or nearly: batches fall otherwise."""
    assert np.array_equal(video.pts_seconds, whole.pts_seconds)
    tokens, expected = video.tokens().tensors(), whole.tokens().tensors()
    assert tokens.keys() == expected.keys()
    for name, tensor in tokens.items():
        assert torch.allclose(tensor.float(), expected[name].float(), rtol=0, atol=1e-5), name


# ---------------------------------------------------------------------- pace


def test_the_grid_takes_what_sampling_takes_of_the_whole_video():
    rng = np.random.default_rng(0)
    for _ in range(300):
        num_frames = int(rng.integers(1, 60))
        ticks = rng.integers(0, 9000) + np.cumsum(rng.integers(1, rng.integers(2, 12000), num_frames))
        pts = ticks / 9000
        end = pts[-1] + rng.uniform(0.001, 1.0)
        fps = float(rng.choice([0.1, 0.3, 1.0, 2.0, 7.0, 30.0]))
        expected = pts[pick_frames(pts, np.ones(num_frames, bool), end, Sampling(fps=fps))]
        taken = frames_on_grid(((float(t), None) for t in pts), fps=fps, end_seconds=lambda end=end: float(end))
        assert [t for t, _ in taken] == expected.tolist()


def test_nothing_is_taken_before_it_is_known():
    """While frames may still come, the last one may yet give way to a later one of the same second."""
    times = iter([(0.0, "a"), (0.4, "b"), (0.9, "c"), (1.1, "d")])
    assert list(frames_on_grid(times, fps=1)) == [(0.0, "a"), (0.9, "c")]


def test_a_full_queue_thins_evenly_and_counts():
    queue = FrameQueue(4, thins=True)
    for number in range(16):
        queue.put(float(number), np.zeros((2, 2, 3), np.uint8))
    batch = queue.take(10, timeout_seconds=0)
    assert (len(batch), queue.num_dropped, queue.newest_seconds) == (4, 12, 15.0)
    assert batch.pts_seconds[0] == 0.0
    assert batch.pts_seconds[-1] == 15.0
    assert np.diff(batch.pts_seconds).max() <= 10
    assert queue.take(1, timeout_seconds=0.01) is None


def test_a_slow_reader_of_a_thinning_queue_gets_an_even_selection():
    queue, taken = FrameQueue(4, thins=True), []
    for number in range(200):
        queue.put(float(number), np.zeros((1, 1, 3), np.uint8))
        if number % 4 == 3:
            taken += queue.take(1, timeout_seconds=0).pts_seconds.tolist()
    assert len(taken) == 50
    assert len(taken) + queue.num_dropped == 200 - 3, "what is neither taken nor dropped still waits"
    assert np.diff(taken[8:]).max() <= 8, "twice the average of 4 apart at most"


def test_a_queue_that_waits_loses_nothing_and_holds_back_the_source():
    queue, put = FrameQueue(2, thins=False), []

    def feed():
        for number in range(6):
            queue.put(float(number), np.zeros((1, 1, 3), np.uint8))
            put.append(number)
        queue.close(VideoError("it broke off"))

    source = threading.Thread(target=feed)
    source.start()
    time.sleep(0.1)
    assert put == [0, 1]
    taken = [queue.take(1, timeout_seconds=1).pts_seconds[0] for _ in range(6)]
    with pytest.raises(VideoError, match="broke off"):
        queue.take(1, timeout_seconds=1)
    source.join()
    assert (taken, queue.num_dropped) == ([0, 1, 2, 3, 4, 5], 0)


def test_one_clock_through_late_frames_and_clocks_set_back():
    times = [100.0, 100.04, 100.08, 100.06, 100.12, 3.0, 3.04]
    timeline = Timeline(0.04, eager=True, place_first=lambda pts: 50.0)
    placed = [pts for pts, _ in timeline.placed((t, None) for t in times)]
    assert placed == pytest.approx([50.0, 50.04, 50.08, 50.10, 50.12, 50.16, 50.20])
    assert timeline.num_set_back == 1


# ---------------------------------------------------------------------- sources


def test_what_a_source_is(tmp_path, monkeypatch):
    file, fifo = tmp_path / "a.ts", tmp_path / "fifo"
    file.touch()
    os.mkfifo(fifo)
    assert (parse_source(file).kind, parse_source(file).name) == ("file", str(file.resolve()))
    assert parse_source(fifo).kind == "pipe"
    url = parse_source("rtsp://me:secret@host:554/a?b=c")
    assert (url.kind, url.name) == ("url", "rtsp://me@host:554/a?b=c")
    assert "secret" not in repr(url)
    with pytest.raises(VideoError, match="no such file"):
        parse_source(tmp_path / "none.ts")
    with pytest.raises(VideoError, match="is a folder"):
        parse_source(tmp_path)
    monkeypatch.setattr("sys.stdin", type("Keyboard", (), {"isatty": lambda self: True})())
    with pytest.raises(UsageError, match="keyboard"):
        parse_source("-")


@pytest.mark.parametrize("name", ["h264_opengop.ts", "h264_vfr.mkv", "vp9_altref.webm"])
def test_catching_up_skips_old_groups_of_pictures_and_decodes_the_rest_exactly(tmp_path, name):
    path = CLIPS[name].write(tmp_path)
    with open_video(path) as video:
        times = video.pts_seconds.tolist()
    middle = times[len(times) * 2 // 3]
    read = {}
    for after in (None, middle):
        reader = LiveReader(parse_source(path), idle_seconds=0.01, end_marker=None, stop=threading.Event())
        reader.open()
        read[after] = {pts: frame.to_ndarray(format="rgb24") for pts, frame in reader.frames(after_seconds=after)}
        reader.close()
    with open_video(path) as video:
        assert list(read[None]) == times
        assert reader.end_seconds == pytest.approx(video.info.end_seconds)
    for pts in times[len(times) * 2 // 3 + 1 :]:
        assert np.array_equal(read[middle][pts], read[None][pts]), pts
    if name == "h264_opengop.ts":
        assert len(read[middle]) < len(times)


def test_unreachable_and_unreadable_sources(model, tmp_path, recording):
    def error_of(source) -> str:
        with pytest.raises(VideoError) as caught:
            run_to_end(model.open_stream(source, idle_seconds=0.2))
        assert len(str(caught.value).splitlines()) == 1
        return str(caught.value)

    assert "Connection refused" in error_of("rtsp://127.0.0.1:1/camera")
    assert "Connection refused" in error_of("http://127.0.0.1:1/live.ts")
    with http_server(b"no video" * 999, seconds=0.1) as url:
        assert "404" in error_of(url + "x")
        assert "is not video" in error_of(url)
    text = tmp_path / "text.ts"
    text.write_text("no video\n" * 999)
    assert "as video while it is written" in error_of(text)
    empty = tmp_path / "empty.ts"
    empty.touch()
    assert "no data came" in error_of(empty)
    plain = remuxed(recording, tmp_path / "plain.mp4")
    assert "fragmented MP4" in error_of(plain), "its index comes last"
    plain.write_bytes(plain.read_bytes()[:20000])
    assert "fragmented MP4" in error_of(plain)
    playlist = tmp_path / "playlist.m3u8"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:8\n#EXTINF:8,\n{recording}\n#EXT-X-ENDLIST\n")
    error_of(playlist)
    assert all("stream" not in entry.key.settings for entry in model.cache.entries())
    assert all(result.ok for result in model.cache.verify())


def test_options_that_cannot_be_right(model, recording):
    for options, message in [
        ({"fps": 0}, "fps"),
        ({"publish_seconds": 0}, "publish_seconds=0"),
        ({"idle_seconds": -1}, "idle_seconds=-1"),
        ({"when_behind": "panic"}, "'panic'"),
        ({"name": " "}, "empty name"),
        ({"resume": True, "name": "door"}, "leave out"),
        ({"resume": True}, "nothing to resume"),
        ({"compressor": "none"}, "nothing to follow"),
    ]:
        with pytest.raises(UsageError, match=message):
            model.open_stream(recording, **options)
    with pytest.raises(UsageError, match="whole files only"):
        Stream(model.voco, recording, cache=model.cache, compress=CompressOptions(decoder="decord"))


# ---------------------------------------------------------------------- followed to the end


@pytest.mark.parametrize(
    ("name", "options"), [("a.ts", {}), ("a.mkv", {}), ("a.mp4", {"movflags": "frag_keyframe+empty_moov"})]
)
def test_a_growing_file(model, tmp_path, recording, name, options):
    whole = remuxed(recording, tmp_path / f"whole-{name}", options)
    seen: list[int] = []
    with growing(whole.read_bytes(), tmp_path / name, seconds=1.5) as path:
        stream = model.open_stream(path, fps=4, publish_seconds=0.2, end_marker=path.with_suffix(".done"))
        with stream:
            with pytest.raises(CacheError, match="nothing is published yet"):
                _ = stream.video
            for progress in stream:
                if progress.num_published_frames and not progress.is_ended:
                    seen.append(len(stream.video))
        assert progress.is_ended
    assert seen == sorted(seen)
    assert 0 < seen[0] < len(stream.video)
    assert_same_frames(stream.video, model.compress(whole, fps=4))
    assert stream.entry.facts["video"]["codec"] == "h264"
    assert min(asdict(stream.seconds).values()) > 0, "every stage says what it took"


def test_asking_while_it_runs_answers_like_the_published_frames(model, tmp_path, recording):
    with growing(recording.read_bytes(), tmp_path / "a.ts", seconds=1.5) as path:
        with model.open_stream(path, fps=4, publish_seconds=0.2) as stream:
            for progress in stream:
                if progress.num_published_frames >= 6:
                    break
            video = stream.video
            answer = video.ask("what is there?", max_new_tokens=4)
            whole = model.compress(recording, fps=4, end_seconds=float(video.pts_seconds[-1]) + 0.2)
            assert_same_frames(video, whole)
            assert answer.token_ids == whole.ask("what is there?", max_new_tokens=4).token_ids
        assert stream.entry.is_growing, "left in the middle"


def test_an_end_marker_ends_a_file_at_once(model, tmp_path, recording):
    (tmp_path / "done").touch()
    started = time.monotonic()
    last = run_to_end(model.open_stream(recording, end_marker=tmp_path / "done", idle_seconds=60))[-1]
    assert last.is_ended
    assert last.num_published_frames == 5
    assert time.monotonic() - started < 30


def test_a_named_pipe_and_standard_input(model, tmp_path, recording, monkeypatch):
    os.mkfifo(tmp_path / "fifo")
    writer = threading.Thread(target=lambda: (tmp_path / "fifo").write_bytes(recording.read_bytes()))
    stream = model.open_stream(tmp_path / "fifo", fps=4)
    writer.start()
    run_to_end(stream)
    writer.join()
    assert_same_frames(stream.video, model.compress(recording, fps=4))

    read_fd, write_fd = os.pipe()

    def write():
        with os.fdopen(write_fd, "wb") as pipe:
            for piece in pieces(recording.read_bytes(), 5):
                pipe.write(piece)
                pipe.flush()

    monkeypatch.setattr("sys.stdin", os.fdopen(read_fd))
    writer = threading.Thread(target=write)
    writer.start()
    stream = model.open_stream("-", fps=4)
    run_to_end(stream)
    writer.join()
    assert stream.source_name == "standard input"
    assert_same_frames(stream.video, model.compress(recording, fps=4))


def test_http(model, recording):
    with http_server(recording.read_bytes(), seconds=1.5) as url:
        stream = model.open_stream(url, fps=4, idle_seconds=5, publish_seconds=0.3, when_behind="wait")
        steps = run_to_end(stream)
    published = [step.num_published_frames for step in steps]
    assert published[-1] == 20
    assert len(set(published)) > 2, "published while it ran"
    assert_same_frames(stream.video, model.compress(recording, fps=4))


def test_rtsp(model, tmp_path):
    """The camera's own clock starts with its second frame: FFmpeg gives the first no time."""
    path = Clip("camera.ts", options={**GOP, "bf": "0"}, num_frames=80).write(tmp_path)
    with rtsp_server(path, speed=3) as url:
        stream = model.open_stream(url, fps=4, idle_seconds=3, publish_seconds=0.3, when_behind="wait")
        steps = run_to_end(stream)
    assert steps[-1].is_ended
    pts = stream.video.pts_seconds
    assert pts == pytest.approx(np.arange(len(pts)) / 4 + pts[0], abs=0.05), "a frame of 25 a second for each quarter"
    assert len(pts) >= 12
    assert_same_frames(stream.video, model.compress(path, timestamps=pts.round(6).tolist()))


def test_a_url_that_falls_silent_has_ended(model, tmp_path):
    path = Clip("camera.ts", options={**GOP, "bf": "0"}, num_frames=80).write(tmp_path)
    with rtsp_server(path, speed=0.2) as url:  # a frame in 0.2 s
        stream = model.open_stream(url, fps=25, idle_seconds=0.04, publish_seconds=0.3)
        assert run_to_end(stream)[-1].is_ended
    assert len(stream.video) < 75


# ---------------------------------------------------------------------- interrupted and resumed


def test_a_file_goes_on_where_it_was_interrupted(model, tmp_path, recording):
    data = recording.read_bytes()
    path = tmp_path / "a.ts"
    path.write_bytes(data[: len(data) // 2])
    options = {"fps": 4, "idle_seconds": 0.2, "batch_size": 4}
    with model.open_stream(path, name="file", **options) as stream:
        for progress in stream:
            if progress.num_frames >= 8:
                break
    assert stream.entry.num_frames == progress.num_frames
    path.write_bytes(data)
    last = model.open_stream(path, resume=True, **options)
    assert last.key == stream.key
    run_to_end(last)
    assert progress.num_frames < len(last.video)
    assert_same_frames(last.video, model.compress(recording, fps=4))
    facts = last.entry.facts
    assert (len(facts["sessions"]), facts["gaps"]) == (2, [])
    run_to_end(model.open_stream(path, name="file", **options))
    assert len(last.video) == len(stream.video), "nothing new, nothing twice"
    other = Clip("late.ts", options=GOP, pts=tuple(range(50, 100))).write(tmp_path)
    with pytest.raises(VideoError, match="begins at"):
        run_to_end(model.open_stream(other, name="file", **options))
    run_to_end(model.open_stream(other, name="file", force=True, **options))
    assert stream.video.pts_seconds[0] == pytest.approx(2.0, abs=0.2)


class Clock:
    """The module `time`, where it is another time of day."""

    monotonic, perf_counter, thread_time = time.monotonic, time.perf_counter, time.thread_time

    def __init__(self, unix_seconds: float) -> None:
        self.time = lambda: unix_seconds


def test_a_file_that_seemed_to_have_ended_goes_on(model, tmp_path, recording):
    """Where it stopped, its last frame stood for the rest of a grid step: one frame more than of the whole file."""
    data, path = recording.read_bytes(), tmp_path / "a.ts"
    for size in (len(data) // 2, len(data)):
        path.write_bytes(data[:size])
        stream = model.open_stream(path, name="slow", fps=4, idle_seconds=0.2)
        assert run_to_end(stream)[-1].is_ended
    whole = model.compress(recording, fps=4).pts_seconds
    assert np.isin(whole, stream.video.pts_seconds).all()
    assert len(stream.video) - len(whole) <= 1


def test_a_live_source_goes_on_by_the_time_that_went_by(model, recording, monkeypatch):
    lengths, ends = [], []
    for started in (1000.0, 1060.0):
        monkeypatch.setattr("voco_video.video.source_thread.time", Clock(started))
        with http_server(recording.read_bytes(), seconds=0.3) as url:
            stream = model.open_stream(url, name="live", fps=4, idle_seconds=5, when_behind="wait")
            run_to_end(stream)
        lengths.append(len(stream.video))
        ends.append(float(stream.video.pts_seconds[-1]))
    pts, facts = stream.video.pts_seconds, stream.entry.facts
    assert lengths == [20, 40]
    assert (np.diff(pts) > 0).all()
    first, second = facts["sessions"]
    assert pts[20] == second["first_pts_seconds"]
    assert (first["started_unix_seconds"], second["started_unix_seconds"]) == (1000.0, 1060.0)
    assert pts[20] - pts[0] == pytest.approx(60.0)
    assert facts["gaps"] == [{"start_seconds": ends[0], "end_seconds": float(pts[20])}]
    for name, tensor in read_tokens(stream.entry).tensors().items():
        assert torch.allclose(tensor[:20].float(), tensor[20:].float(), atol=1e-5), f"{name}: the pictures came twice"
    monkeypatch.setattr(
        "voco_video.video.source_thread.time", Clock(1001.0)
    )  # set back: there is no going back on the entry's
    with http_server(recording.read_bytes(), seconds=0.3) as url:
        run_to_end(model.open_stream(url, name="live", fps=4, idle_seconds=5, when_behind="wait"))
    assert stream.video.pts_seconds[40] == pytest.approx(pts[39] + 0.25)


def test_two_runs_under_one_name_are_refused_and_names_keep_entries_apart(model, recording):
    with model.open_stream(recording, name="once") as stream:
        with pytest.raises(CacheError, match="by another process"):
            model.open_stream(recording, name="once")
        others = [model.open_stream(recording), model.open_stream(recording), model.open_stream(recording, name="two")]
        assert len({s.key for s in [stream, *others]}) == 4
        for other in others:
            other.close()
    assert model.compress(recording).parts[0].entry.key != stream.key


# ---------------------------------------------------------------------- slower than the source


@pytest.fixture
def slow_model(model, monkeypatch) -> VideoModel:
    """Takes a quarter of a second for a frame."""
    from voco_video.compress import compress_batch

    def slowly(voco, pixels, *arguments):
        time.sleep(0.25 * len(pixels))
        return compress_batch(voco, pixels, *arguments)

    monkeypatch.setattr("voco_video.follow.compress_batch", slowly)
    return model


def test_a_live_source_is_thinned_and_the_rest_counted(slow_model, recording):
    with http_server(recording.read_bytes(), seconds=2) as url:
        stream = slow_model.open_stream(url, fps=5, batch_size=3, idle_seconds=5)
        steps = run_to_end(stream)
    last, entry = steps[-1], stream.entry
    assert last.num_dropped_frames > 5
    assert last.num_frames + last.num_dropped_frames == 25
    assert entry.facts["num_dropped_frames"] == last.num_dropped_frames
    assert max(step.lag_seconds for step in steps) > 0
    assert entry.pts_seconds[0] == 0.08
    assert entry.pts_seconds[-1] > 4.5, "the newest is kept"
    whole = slow_model.compress(recording, fps=5)
    assert np.isin(entry.pts_seconds, whole.pts_seconds).all()


def test_a_file_waits_for_a_slow_model(slow_model, recording):
    stream = slow_model.open_stream(recording, fps=2, batch_size=3, idle_seconds=0.2)
    last = run_to_end(stream)[-1]
    assert (last.num_frames, last.num_dropped_frames) == (10, 0)


# ---------------------------------------------------------------------- other processes


def _run_cli(arguments: list[str], cache_dir: str, output: str) -> None:
    """The program in a child, its output in a file."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.environ["VOCO_VIDEO_CACHE_DIR"] = cache_dir
    sys.argv = ["voco-video", *arguments]
    cli.main()


@pytest.fixture(scope="module")
def processes():
    """Children that fork from a server which has imported everything, so that one costs a second, not five."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["voco_video.api", "transformers.models.llava.modeling_llava", "test_stream"])
    return context


@contextlib.contextmanager
def following(processes, cache: FrameCache, *arguments) -> Iterator:
    """`voco-video compress --follow` in a child; gives it and the file with what it prints."""
    output = cache.cache_dir.parent / "output.txt"
    command = ["compress", *map(str, arguments), "--follow"]
    child = processes.Process(target=_run_cli, args=(command, str(cache.cache_dir), str(output)))
    child.start()
    try:
        yield child, output
    finally:
        child.kill()
        child.join()


def wait_for_frames(cache: FrameCache, num_frames: int):
    deadline = time.monotonic() + 200  # a child imports all there is first
    while time.monotonic() < deadline:
        for entry in cache.entries():
            if entry.num_frames >= num_frames:
                return entry
        time.sleep(0.02)
    raise AssertionError(f"{num_frames} frames were never published")


@pytest.mark.slow
def test_asked_from_another_process_then_killed_then_resumed(model, tmp_path, recording, processes):
    model = VideoModel(model.voco, FrameCache(tmp_path / "cache"))
    options = ("--fps", "4", "--name", "door", "--publish-seconds", "0.3", "--batch-size", "4")
    more = threading.Event()
    with growing(recording.read_bytes(), tmp_path / "a.ts", seconds=5.0, second_half=more) as path:
        with following(processes, model.cache, path, *options, "--idle-seconds", "200") as (child, output):
            entry = wait_for_frames(model.cache, 6)
            video = model.open(entry.digest[:12])
            assert video.ask("what is there?", max_new_tokens=2).num_frames == len(video) >= 6
            assert model.cache.is_being_written(entry.digest)
            assert entry.is_growing
            more.set()
            later = wait_for_frames(model.cache, len(video) + 3)
            assert model.cache.prune(0) == []
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            assert "voco-video ask door" in output.read_text()
        assert not model.cache.is_being_written(entry.digest)
        assert [r.status for r in model.cache.verify() if r.status != "stale"] == ["ok"]
        left = model.cache.get(entry.key)
        assert left.num_frames >= later.num_frames, "what was published is safe"
        stream = model.open_stream(path, fps=4, name="door", batch_size=4, end_marker=tmp_path / "a.done")
        run_to_end(stream)
    assert stream.key == entry.key
    assert_same_frames(stream.video, model.compress(recording, fps=4))
    assert np.array_equal(video.pts_seconds, stream.video.pts_seconds[: len(video)])


@pytest.mark.slow
def test_ctrl_c_publishes_what_is_compressed_and_exits_with_130(tmp_path, recording, processes):
    cache = FrameCache(tmp_path / "cache")
    with growing(recording.read_bytes(), tmp_path / "a.ts", seconds=3.0) as path:
        with following(processes, cache, path, "--fps", "4", "--publish-seconds", "1") as (child, output):
            entry = wait_for_frames(cache, 2)
            os.kill(child.pid, signal.SIGINT)
            child.join(60)
            assert child.exitcode == 130
        text = output.read_text()
    assert "interrupted; go on with" in text
    assert "Traceback" not in text
    assert cache.get(entry.key).num_frames >= 2


# ---------------------------------------------------------------------- the command line


@pytest.fixture
def run(monkeypatch, tmp_path, capfd):
    """Run the program in this process, as its entry point does; gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["voco-video", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return (ended.value.code or 0, *capfd.readouterr())

    return call


def test_following_on_the_command_line(run, recording, tmp_path):
    cut = tmp_path / "cut.ts"
    cut.write_bytes(recording.read_bytes())
    code, out, err = run("compress", cut, "--follow", "--idle-seconds", 0.2, "--fps", 2, "--name", "door")
    assert (code, "growing" in out) == (0, False)
    assert "cut.ts" in out
    assert "ask while it grows: voco-video ask" in err
    code, out, _ = run("compress", cut, "--follow", "--idle-seconds", 0.2, "--fps", 2, "--name", "door", "--json")
    facts = json.loads(out)
    assert (code, facts["num_frames"], facts["is_growing"], facts["name"]) == (0, 10, False, "door")
    code, out, _ = run("cache", "ls", "--json")
    (listed,) = json.loads(out)["entries"]
    assert (listed["stream"], listed["is_growing"], listed["digest"]) == ("door", False, facts["digest"])
    code, out, _ = run("ask", facts["digest"][:12], "what is there?", "--anyway", "--max-new-tokens", 2)
    assert code == 0


def test_an_interrupted_stream_is_marked_in_the_list(run, tmp_path, model, recording):
    cache = FrameCache(os.environ["VOCO_VIDEO_CACHE_DIR"])
    with VideoModel(model.voco, cache).open_stream(recording, fps=2, name="door") as stream:
        while not next(stream).num_frames:
            pass
        stream_key = stream.key
    assert cache.get(stream_key).is_growing
    _, out, _ = run("cache", "ls")
    assert "growing" in out
    assert "1 growing but written by no process" in out
    assert run("cache", "verify")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--resume",), "--resume goes with --follow"),
        (("--follow", "--num-frames", "3"), "leave out --num-frames"),
        (("--follow", "--start", "3"), "leave out --start"),
        (("--follow", "--decoder", "decord"), "leave out --decoder decord"),
        (("--follow", "--compressor", "none"), "nothing to follow"),
        (("--follow", "--idle-seconds", "0"), "--idle-seconds 0.0"),
        (("--follow", "other.mp4"), "one source, not 2"),
    ],
)
def test_options_that_contradict_each_other(run, recording, arguments, message):
    code, out, err = run("compress", recording, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_a_source_that_is_not_there(run):
    code, _, err = run("compress", "rtsp://127.0.0.1:1/camera", "--follow")
    assert (code, err.count("error: ")) == (1, 1)
    assert "rtsp://127.0.0.1:1/camera: cannot be reached (Connection refused)" in err
    code, _, err = run("compress", "none.ts", "--follow")
    assert (code, "no such file" in err) == (2, True)
