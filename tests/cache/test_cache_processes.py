"""The frame cache under SIGKILL, Ctrl-C and several processes at once, with real processes.

They come from multiprocessing's fork server, which imports torch once instead of once per process.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

from tests.helpers.cached_frames import assert_same, frames, key, pts, write
from voco_video.cache import EntryWriter, FrameCache
from voco_video.errors import CacheError

NUM_FRAMES = 48
NUM_KILLS = 54
NUM_READS = 60
NUM_CHANGES = 40  # by each of two processes, while others read
WRITER_SOURCE = sys.modules[EntryWriter.__module__].__file__ or ""
CACHE_SOURCE = str(Path(WRITER_SOURCE).parent)

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["torch", "voco_video.cache", "cached_frames", "pytest"])


@pytest.fixture
def cache(tmp_path: Path) -> FrameCache:
    return FrameCache(tmp_path / "cache")


@contextmanager
def running(target: Callable[..., None], *args: Any) -> Iterator[Connection]:
    """`target(connection, *args)` in a process of its own; yields our end of the connection."""
    ours, theirs = processes.Pipe()
    process = processes.Process(target=target, args=(theirs, *args), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        process.join(timeout=60)
        process.kill()


def write_until_killed(parent: Connection, cache: FrameCache, num_lines: int | None) -> None:
    """Write an entry; with `num_lines`, die by SIGKILL at that line of the cache's own code."""
    parent.send(os.getpid())
    if num_lines is not None:
        sys.settrace(at_line(num_lines, lambda: os.kill(os.getpid(), signal.SIGKILL)))
    write(cache, key(), NUM_FRAMES)
    sys.settrace(None)
    parent.send("finished")


def at_line(num_lines: int, action: Callable[[], None], *, source: str = CACHE_SOURCE) -> Callable[..., Any]:
    """A trace function that runs `action` at the `num_lines`-th line executed in files under `source`."""
    count = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Callable[..., Any] | None:
        nonlocal count
        if not frame.f_code.co_filename.startswith(source):
            return None
        count += event == "line"
        if count == num_lines:
            count += 1
            action()
        return trace

    return trace


def interrupt() -> None:
    raise KeyboardInterrupt


def count_lines(cache: FrameCache) -> int:
    """How many lines of the cache's own code writing the entry takes."""
    lines: list[None] = []

    def trace(frame: FrameType, event: str, arg: Any) -> Callable[..., Any] | None:
        if not frame.f_code.co_filename.startswith(CACHE_SOURCE):
            return None
        if event == "line":
            lines.append(None)
        return trace

    sys.settrace(trace)
    try:
        write(cache, key(), NUM_FRAMES)
    finally:
        sys.settrace(None)
    return len(lines)


def check_survivor(cache: FrameCache, num_safe_before: int) -> int:
    """Assert that nothing is damaged or lost; returns the number of safe frames."""
    assert all(result.ok for result in cache.verify()), cache.verify()
    entry = cache.get(key())
    if entry is not None:
        with entry:
            assert_same(entry.read(), frames(0, NUM_FRAMES))
            assert entry.pts_seconds.tolist() == pts(0, NUM_FRAMES).tolist()
        cache.remove(entry.digest)
        return 0
    num_safe = sum(partial.num_frames for partial in cache.partial())
    assert num_safe >= num_safe_before
    return num_safe


def test_sigkill_at_any_moment_loses_no_safe_frame(cache: FrameCache, tmp_path: Path) -> None:
    randomness = random.Random(0)
    undisturbed = FrameCache(tmp_path / "undisturbed")
    num_lines = count_lines(undisturbed)
    started = time.perf_counter()
    write(FrameCache(tmp_path / "timed"), key(), NUM_FRAMES)
    seconds = time.perf_counter() - started
    num_safe = num_finished = 0
    for kill in range(NUM_KILLS):
        # Alternately anywhere in the code, and anywhere in time (mostly inside a write or an fsync).
        at_line = randomness.randrange(1, num_lines + 1) if kill % 2 else None
        with running(write_until_killed, cache, at_line) as child:
            pid = child.recv()
            if at_line is None:
                time.sleep(randomness.uniform(0, seconds))
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with suppress(EOFError):
                num_finished += child.recv() == "finished"
        num_safe = check_survivor(cache, num_safe)
    assert num_finished < NUM_KILLS / 2
    assert_same(write(cache, key(), NUM_FRAMES).read(), write(undisturbed, key(), NUM_FRAMES).read())
    cache.prune()
    assert [result.status for result in cache.verify()] == ["ok"]


def test_ctrl_c_at_any_line_loses_and_repeats_no_frame(cache: FrameCache, tmp_path: Path) -> None:
    num_lines = count_lines(FrameCache(tmp_path / "undisturbed"))
    randomness = random.Random(1)
    num_safe = 0
    for _ in range(120):
        sys.settrace(at_line(randomness.randrange(1, num_lines // 2), interrupt))
        try:
            with suppress(KeyboardInterrupt):
                write(cache, key(), NUM_FRAMES)
        finally:
            sys.settrace(None)
        num_safe = check_survivor(cache, num_safe)


def append_rest(writer: EntryWriter) -> None:
    while writer.num_frames < 2:
        start = writer.num_frames
        writer.append(frames(start, start + 1), pts(start, start + 1))


def test_a_caller_may_catch_ctrl_c_at_any_line_and_go_on(cache: FrameCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # nothing here survives a power cut anyway
    for num_lines in range(1, 400):
        key_of_line = key(line=num_lines)
        with cache.writer(key_of_line, facts={}, segment_frames=1) as writer:
            sys.settrace(at_line(num_lines, interrupt, source=WRITER_SOURCE))
            for _ in range(2):  # the second time undisturbed
                with suppress(KeyboardInterrupt):
                    append_rest(writer)
            was_interrupted = sys.gettrace() is None  # Python drops a trace function that raises
            sys.settrace(None)
        assert cache.partial()[0].num_frames == 2
        with cache.writer(key_of_line, facts={}) as writer, writer.finish() as entry:
            assert_same(entry.read(), frames(0, 2))
        cache.remove(entry.digest)
        if not was_interrupted:
            return
    pytest.fail("appending takes more lines than this test tries")


def write_slowly(parent: Connection, cache: FrameCache) -> None:
    waited: list[bool] = []
    with cache.writer(key(), facts={}, on_wait=lambda: waited.append(True)) as writer:
        was_written_by_other = writer.entry is not None
        while writer.entry is None and writer.num_frames < NUM_FRAMES:
            writer.append(
                frames(writer.num_frames, writer.num_frames + 8),
                pts(writer.num_frames, writer.num_frames + 8),
            )
            time.sleep(0.05)
        assert_same(writer.finish().read(), frames(0, NUM_FRAMES))
    parent.send((was_written_by_other, len(waited)))


def test_of_several_writers_one_writes_and_the_others_wait_for_it(cache: FrameCache) -> None:
    with (
        running(write_slowly, cache) as a,
        running(write_slowly, cache) as b,
        running(write_slowly, cache) as c,
    ):
        reports = sorted(child.recv() for child in (a, b, c))
    assert [was_written_by_other for was_written_by_other, _ in reports] == [False, True, True]
    assert all(num_waits <= 1 for _, num_waits in reports)
    assert [result.status for result in cache.verify()] == ["ok"]


def hold_lock_until_killed(parent: Connection, cache: FrameCache) -> None:
    with cache.writer(key(), facts={}) as writer:
        writer.append(frames(0, 4), pts(0, 4))
        writer.flush()
        parent.send(os.getpid())
        time.sleep(60)


def test_the_lock_of_a_killed_writer_is_free(cache: FrameCache) -> None:
    waited: list[bool] = []

    def kill_it() -> None:
        waited.append(True)
        os.kill(pid, signal.SIGKILL)

    with running(hold_lock_until_killed, cache) as child:
        pid = child.recv()
        with cache.writer(key(), facts={}, on_wait=kill_it) as writer:
            assert writer.num_frames == 4
    assert waited == [True]


def prune_everything(parent: Connection, cache: FrameCache) -> None:
    parent.send(cache.prune(0))


def test_no_process_prunes_what_another_reads(cache: FrameCache) -> None:
    entry = write(cache, key(), NUM_FRAMES)
    with running(prune_everything, cache) as child:
        assert child.recv() == []
    assert_same(entry.read(), frames(0, NUM_FRAMES))
    entry.close()
    with running(prune_everything, cache) as child:
        assert child.recv() == [entry.digest]


def replace_and_delete(parent: Connection, cache: FrameCache) -> None:
    """Until told to stop: write, replace, remove and prune entries as fast as possible."""
    randomness = random.Random(os.getpid())
    num_done = 0
    while not parent.poll():
        name = randomness.choice("ab")
        action = randomness.randrange(4)
        with suppress(CacheError):  # the other one may be writing, or have removed it
            if action == 0:
                cache.remove(key(name).digest)
            elif action == 1:
                cache.prune(0)
            else:
                with cache.writer(key(name), facts={}, restart=action == 2, segment_frames=4) as writer:
                    while writer.entry is None and writer.num_frames < 12:
                        start = writer.num_frames
                        writer.append(frames(start, start + 4), pts(start, start + 4))
                    writer.finish()
        num_done += 1
        if num_done == NUM_CHANGES:
            parent.send("has changed much")
    parent.send("stopped")


def test_readers_see_whole_entries_while_others_replace_and_delete_them(cache: FrameCache) -> None:
    """However long it takes: some hundred reads, and changes enough beside them by each of the others."""
    num_reads = 0
    expected = frames(0, 12)
    with running(replace_and_delete, cache) as a, running(replace_and_delete, cache) as b:
        while num_reads < NUM_READS or not (a.poll() and b.poll()):
            entry = cache.get(key(random.choice("ab")))
            if entry is None:
                continue
            with entry:
                part = entry.read(9, 12)
                assert_same(entry.read(), expected)
            assert torch.equal(part["values"], expected["values"][9:])
            num_reads += 1
        for child in (a, b):
            assert child.recv() == "has changed much"
            child.send("stop")
        for child in (a, b):
            assert child.recv() == "stopped"
    cache.prune(0, partial=True)
    assert not [path for path in cache.cache_dir.glob("*/*") if path.is_dir()]
