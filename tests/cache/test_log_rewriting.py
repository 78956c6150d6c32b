"""The log of a growing entry is rewritten when most of it no longer counts, under readers and under crashes."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch

from voco_video.cache import CacheEntry, CacheKey, FrameCache, GrowingWriter
from voco_video.cache.segment_log import SegmentLog, read_published

KEY = CacheKey("ab" * 32, "cd" * 32, {"stream": "door"})
NUM_STEPS = 400  # publications of one frame each; more lines than a log keeps without being rewritten

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["torch", "voco_video.cache", "pytest"])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FrameCache:
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # nothing here survives a power cut anyway
    return FrameCache(tmp_path / "cache")


def publish(writer: GrowingWriter, num_steps: int) -> None:
    for _ in range(num_steps):
        number = float(writer.num_frames)
        writer.append({"embeds": torch.full((1, 2), number)}, np.array([number]))
        writer.set_facts({"num_dropped_frames": int(number)})
        writer.publish()


def assert_whole(entry: CacheEntry | None, num_frames: int) -> None:
    assert entry is not None
    numbers = torch.arange(num_frames, dtype=torch.float32)
    assert torch.equal(entry.read()["embeds"][:, 0], numbers)
    assert entry.pts_seconds.tolist() == numbers.tolist()
    assert entry.facts["num_dropped_frames"] == num_frames - 1


def test_a_log_stays_a_small_multiple_of_what_it_has_to_say(cache: FrameCache) -> None:
    with cache.growing_writer(KEY, facts={"source": "camera"}, segment_frames=8) as writer:
        publish(writer, 3 * NUM_STEPS)
        assert writer.log.num_lines < 450
        assert len(writer.log.segments) == 3 * NUM_STEPS // 8
        assert (writer.directory / "growing.txt").stat().st_size == writer.log.size_bytes
        assert writer.log == read_published(writer.directory)
        writer.publish(is_ended=True)
    with cache.get(KEY) as entry:
        assert_whole(entry, 3 * NUM_STEPS)
        assert entry.facts["source"] == "camera"
        assert not entry.is_growing
    assert [result.status for result in cache.verify()] == ["ok"]
    assert len(os.listdir(writer.directory)) == 1 + 3 * NUM_STEPS // 8
    with cache.growing_writer(KEY, facts={}, segment_frames=8) as writer:
        publish(writer, 3)
    assert_whole(cache.get(KEY), 3 * NUM_STEPS + 3)


def test_a_rewritten_log_says_the_same(cache: FrameCache) -> None:
    with cache.growing_writer(KEY, facts={"source": "camera"}, segment_frames=8) as writer:
        publish(writer, 20)
        writer.publish(is_ended=True)
    before = writer.log
    path = writer.directory / "growing.txt"
    size_bytes = path.stat().st_size
    after = before.rewrite(path, is_read=False)
    assert after == read_published(writer.directory)
    assert path.stat().st_size == after.size_bytes < size_bytes / 2
    for name in ("key", "created_unix_seconds", "tensors", "segments", "facts", "is_ended", "num_files", "num_frames"):
        assert getattr(after, name) == getattr(before, name), name


def hold_and_read(parent: Connection, cache: FrameCache) -> None:
    """Open the entry, say so, and once told read all of it, first from what is open, then afresh."""
    entry = cache.get(KEY)
    assert entry is not None
    num_frames = entry.num_frames
    parent.send(num_frames)
    parent.recv()
    entry.verify()
    assert_whole(entry, num_frames)
    entry.close()
    assert_whole(cache.get(KEY), NUM_STEPS + 6)
    parent.send("right")


def test_readers_in_other_processes_stay_right_while_the_log_is_rewritten(cache: FrameCache) -> None:
    with cache.growing_writer(KEY, facts={}, segment_frames=8) as writer:
        publish(writer, 6)
        ours, theirs = processes.Pipe()
        reader = processes.Process(target=hold_and_read, args=(theirs, cache), daemon=True)
        reader.start()
        theirs.close()
        assert ours.recv() == 6
        publish(writer, NUM_STEPS)
        assert writer.log.num_lines < 400, "rewritten, although somebody reads"
        names = os.listdir(writer.directory)
        assert sum(name.startswith("growing.txt.") for name in names) == 1, "the log that the reader has open"
        assert (writer.directory / "segment-000000.safetensors").exists()
        assert cache.prune(0) == []
        ours.send("read")
        assert ours.recv() == "right"
        reader.join()
        publish(writer, 8)
        assert len(os.listdir(writer.directory)) == 1 + len(writer.log.segments)
    reader.close()


def test_an_entry_is_not_deleted_under_a_reader_of_its_replaced_log(cache: FrameCache) -> None:
    with cache.growing_writer(KEY, facts={}, segment_frames=8) as writer:
        publish(writer, 50)
        held = cache.get(KEY)
        publish(writer, NUM_STEPS)
    assert {result.status for result in cache.verify()} == {"ok", "stale"}
    assert cache.prune(0) == []
    assert_whole(held, 50)
    cache.remove(KEY.digest)
    assert_whole(held, 50)
    assert cache.get(KEY) is None
    held.close()
    cache.prune()
    assert cache.verify() == []


@pytest.mark.one_in(2)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))])
@pytest.mark.parametrize("call", ["link", "replace"])
@pytest.mark.parametrize("is_done", [False, True])
def test_rewriting_that_is_cut_short_loses_nothing(
    cache: FrameCache, monkeypatch: pytest.MonkeyPatch, error: BaseException, call: str, is_done: bool
) -> None:
    """Ctrl-C or a full disk just before or just after each of the two steps; the writer goes on."""
    real: Callable[..., None] = getattr(os, call)
    num_raised = 0

    def fail_once(*args: Path) -> None:
        nonlocal num_raised
        if is_done or num_raised:
            real(*args)
        num_raised += 1
        if num_raised == 1:
            raise error

    with cache.growing_writer(KEY, facts={}, segment_frames=8) as writer:
        publish(writer, 10)
        reader = cache.get(KEY)
        monkeypatch.setattr(os, call, fail_once)
        while writer.num_frames < NUM_STEPS:
            try:
                publish(writer, 1)
            except KeyboardInterrupt:
                assert isinstance(error, KeyboardInterrupt)
        assert num_raised > 0
        assert_whole(reader, 10)
        reader.close()
        publish(writer, 16)
        num_frames = writer.num_frames
        assert writer.log == read_published(writer.directory)
        assert len(os.listdir(writer.directory)) == 1 + len(writer.log.segments)
    assert_whole(cache.get(KEY), num_frames)
    assert [result.status for result in cache.verify()] == ["ok"]


def rewrite_until_killed(directory: Path, line: int) -> None:
    """Rewrite an entry's log and die by SIGKILL at a line of the code that does it."""
    log = read_published(directory)
    num_lines = 0

    def trace(frame, event, arg):  # type: ignore[no-untyped-def]
        nonlocal num_lines
        if Path(frame.f_code.co_filename).name not in ("segment_log.py", "atomic_write.py"):
            return None
        num_lines += event == "line"
        if num_lines == line:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    log.rewrite(directory / "growing.txt", is_read=True)
    sys.settrace(None)


def test_sigkill_at_any_line_of_rewriting_loses_nothing(cache: FrameCache) -> None:
    with cache.growing_writer(KEY, facts={}, segment_frames=2) as writer:
        publish(writer, 4)
    line, is_finished = 1, False
    while not is_finished:
        process = processes.Process(target=rewrite_until_killed, args=(writer.directory, line), daemon=True)
        process.start()
        process.join()
        is_finished = process.exitcode == 0
        assert is_finished or process.exitcode == -signal.SIGKILL
        with cache.get(KEY) as entry:
            assert_whole(entry, 4)
            entry.verify()
        line += 11
    assert line > 50
    cache.prune()
    assert [result.status for result in cache.verify()] == ["ok"]
    assert sorted(os.listdir(writer.directory))[0] == "growing.txt"
    assert len(os.listdir(writer.directory)) == 3
    with cache.growing_writer(KEY, facts={}, segment_frames=2) as writer:
        publish(writer, 2)
    assert_whole(cache.get(KEY), 6)


@pytest.mark.parametrize("is_read", [False, True])
def test_a_log_of_an_earlier_version_is_rewritten_by_the_next_prune(cache: FrameCache, is_read: bool) -> None:
    write_without_rewriting(cache)
    path = cache.find(KEY.digest).directory / "growing.txt"
    size_bytes = path.stat().st_size
    held = cache.get(KEY) if is_read else None
    assert cache.prune() == []
    assert path.stat().st_size < size_bytes / 4
    if held is not None:
        assert_whole(held, NUM_STEPS)
        held.close()
    assert_whole(cache.get(KEY), NUM_STEPS)
    cache.prune()
    assert [result.status for result in cache.verify()] == ["ok"]


def write_without_rewriting(cache: FrameCache) -> None:
    """Write an entry as earlier versions did: its log has hundreds of lines that no longer count."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SegmentLog, "is_wasteful", False)
        with cache.growing_writer(KEY, facts={}, segment_frames=8) as writer:
            publish(writer, NUM_STEPS)


def test_a_log_of_an_earlier_version_is_rewritten_once_it_goes_on(cache: FrameCache) -> None:
    write_without_rewriting(cache)
    size_bytes = (cache.find(KEY.digest).directory / "growing.txt").stat().st_size
    with cache.growing_writer(KEY, facts={}, segment_frames=8) as writer:
        publish(writer, 8)
    assert writer.log.size_bytes < size_bytes / 4
    assert_whole(cache.get(KEY), NUM_STEPS + 8)
