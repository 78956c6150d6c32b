"""The frame cache as a shared place: replacing, removing, pruning, full disks, defaults."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.cached_frames import assert_same, frames, key, pts, write
from tests.helpers.full_disks import fill, small_ext4
from voco_video.cache import FrameCache
from voco_video.cache.paths import CachePaths
from voco_video.errors import CacheError, UsageError


@pytest.fixture
def cache(tmp_path: Path) -> FrameCache:
    return FrameCache(tmp_path / "cache")


def test_restart_replaces_an_entry_under_an_open_reader(cache: FrameCache) -> None:
    old = write(cache, key(), num_frames=12)
    assert_same(old.read(0, 2), frames(0, 2))  # the other segments are not open yet
    with cache.writer(key(), facts={}, restart=True) as writer:
        assert writer.num_frames == 0
        assert cache.get(key()) is None
        writer.append({"other": torch.ones(1)}, pts(0, 1))
        writer.finish()
    assert_same(old.read(), frames(0, 12))
    new = cache.get(key())
    assert new is not None
    assert_same(new.read(), {"other": torch.ones(1)})
    assert [r.status for r in cache.verify()] == ["ok", "stale"]
    old.close()
    with pytest.raises(CacheError, match="was replaced"):
        old.read()
    cache.prune()
    assert [r.status for r in cache.verify()] == ["ok"]


def test_removing_what_is_being_written_is_refused(cache: FrameCache) -> None:
    with cache.writer(key(), facts={}) as writer:
        writer.append(frames(0, 2), pts(0, 2))
        writer.flush()
        with pytest.raises(CacheError, match="being written"):
            cache.remove(key().digest)
        assert cache.prune(0, partial=True) == []
        writer.finish()


def test_prune_takes_the_least_recently_used_that_nobody_reads(cache: FrameCache) -> None:
    sizes = {}
    for name in "abcd":
        with write(cache, key(name)) as entry:
            sizes[name] = sum(f.stat().st_size for f in entry.directory.iterdir())
        os.utime(entry.directory / "manifest.json", (1, 1000 + ord(name)))
    (entry.directory / "journal.txt").write_text("left by a crash")
    held = cache.get(key("a"))  # makes it the latest used, and holds it
    assert cache.prune(sum(sizes.values())) == []
    assert not (entry.directory / "journal.txt").exists()
    assert cache.prune(sum(sizes.values()) - 1) == [key("b").digest]
    assert cache.prune(0) == [key("c").digest, key("d").digest]
    assert held is not None
    assert_same(held.read(), frames(0, 10))
    held.close()
    assert cache.prune(0) == [key("a").digest]
    assert not list(cache.cache_dir.glob("*/*"))


def test_an_entry_deleted_while_it_is_being_opened_is_absent(cache: FrameCache, tmp_path: Path) -> None:
    with write(cache, key()) as entry:
        pass
    with ThreadPoolExecutor() as threads, open(entry.directory / "manifest.json", "r+b") as manifest:
        fcntl.flock(manifest, fcntl.LOCK_EX)  # as whoever deletes it does
        opening = threads.submit(cache.get, key())
        time.sleep(0.2)
        entry.directory.rename(tmp_path / "trash")
        shutil.rmtree(tmp_path / "trash")
        fcntl.flock(manifest, fcntl.LOCK_UN)
        assert opening.result(timeout=10) is None


def test_finishing_prunes_others_but_not_itself(cache: FrameCache) -> None:
    with write(cache, key("a")):
        pass
    small = FrameCache(cache.cache_dir, max_bytes=1)
    with write(small, key("b")) as entry:
        assert [e.digest for e in small.entries()] == [entry.digest]


def test_prune_drops_unfinished_entries_only_when_asked(cache: FrameCache) -> None:
    with cache.writer(key(), facts={}) as writer:
        writer.append(frames(0, 2), pts(0, 2))
    assert cache.prune(0) == []
    assert cache.prune(0, partial=True) == [key().digest]
    with cache.writer(key(), facts={}):
        pass
    assert cache.verify()[0].reason == "unfinished, 0 frames safe"
    cache.prune()
    assert cache.verify() == []


def test_a_full_disk_keeps_what_was_written(cache: FrameCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with cache.writer(key(), facts={}, segment_frames=2) as writer:
        writer.append(frames(0, 2), pts(0, 2))
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(CacheError, match=r"No space left .*; make room .* finished frames are kept"):
            writer.append(frames(2, 4), pts(2, 4))
        assert len(list(cache.cache_dir.glob("*/*/segment-*"))) == 1
        with pytest.raises(CacheError, match="No space"):  # leaving the block tries once more
            writer.close()
        monkeypatch.undo()
    assert cache.partial()[0].num_frames == 4
    assert_same(write(cache, key()).read(), frames(0, 10))


def test_a_disk_without_one_free_block_can_be_freed(tmp_path: Path) -> None:
    with small_ext4(tmp_path) as disk:
        cache = FrameCache(disk / "cache")
        for name in "abcd":
            write(cache, key(name)).close()
        with cache.writer(key("partial"), facts={}) as writer:
            writer.append(frames(0, 2), pts(0, 2))
        fill(disk)
        free = os.statvfs(disk).f_bfree
        cache.remove(key("a").digest)
        assert os.statvfs(disk).f_bfree > free
        fill(disk)
        pruned = cache.prune(0, partial=True)
        assert sorted(pruned) == sorted(key(name).digest for name in ("b", "c", "d", "partial"))
        assert cache.entries() == cache.partial() == cache.verify() == []
        assert_same(write(cache, key()).read(), frames(0, 10))


def allow_no_new_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk as ext4 shows it: no directory can be made, nothing be renamed, no file created."""

    def refusing_new(real: Callable[..., Any], is_new: Callable[..., bool]) -> Callable[..., Any]:
        def call(*args: Any, **rest: Any) -> Any:
            if is_new(*args):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **rest)

        return call

    monkeypatch.setattr(
        os, "open", refusing_new(os.open, lambda path, flags, *_: flags & os.O_CREAT and not os.path.exists(path))
    )
    monkeypatch.setattr(os, "mkdir", refusing_new(os.mkdir, lambda path, *_: not os.path.exists(path)))
    monkeypatch.setattr(os, "rename", refusing_new(os.rename, lambda *_: True))


def test_removing_and_pruning_need_no_room(cache: FrameCache, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abcd":
        write(cache, key(name)).close()
    (cache.cache_dir / "locks" / f"{key('a').digest}.lock").unlink()
    held = cache.get(key("d"))
    assert held is not None
    allow_no_new_names(monkeypatch)
    with pytest.raises(CacheError, match="No space"):
        write(cache, key("e"))
    assert cache.remove(key("a").digest) == key("a").digest
    with pytest.raises(CacheError, match="a process has it open, and the full disk has no room to set it aside"):
        cache.remove(key("d").digest)
    assert_same(held.read(), frames(0, 10))
    assert cache.prune(0) == [key("b").digest, key("c").digest]
    held.close()
    assert cache.prune(0) == [key("d").digest]
    assert cache.verify() == []


def test_what_cannot_be_deleted_does_not_keep_the_rest(
    cache: FrameCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in "abc":
        write(cache, key(name)).close()
    real_rename = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if path.name == key("b").digest:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real_rename(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    assert cache.prune(0) == [key("a").digest, key("c").digest]
    assert f"{key('b').digest}: Permission denied" in caplog.text
    with pytest.raises(CacheError, match="Permission denied"):
        cache.prune(0)


def test_an_entry_that_another_process_evicts_first_is_passed_over(
    cache: FrameCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For each step of pruning: another prune removes everything just before it."""
    other = FrameCache(cache.cache_dir)
    for step in ("tidy", "unwritten", "discard", "evict"):
        write(cache, key("a")).close()
        with cache.writer(key("b"), facts={}) as writer:
            writer.append(frames(0, 2), pts(0, 2))
        real, calls = getattr(CachePaths, step), []

        def first_the_other(paths: CachePaths, *args: Any, real: Any = real, calls: list = calls, **rest: Any) -> Any:  # type: ignore[type-arg]
            calls.append(args)
            if len(calls) == 1:
                other.prune(0, partial=True)
            return real(paths, *args, **rest)

        monkeypatch.setattr(CachePaths, step, first_the_other)
        cache.prune(0, partial=True)
        monkeypatch.undo()
        assert calls
        assert cache.verify() == []
        assert not list((cache.cache_dir / "locks").iterdir())


def test_a_cache_directory_that_cannot_be_used_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=r"file: Not a directory; .*not a file"):
        FrameCache(tmp_path / "file")
    with pytest.raises(CacheError, match="Not a directory"):
        write(FrameCache(tmp_path / "file" / "below"), key())

    def read_only(path: object, flags: int, mode: int = 0o777, **rest: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real_open(path, flags, mode, **rest)  # type: ignore[arg-type]

    cache, real_open = FrameCache(tmp_path / "cache"), os.open
    write(cache, key()).close()
    monkeypatch.setattr(os, "open", read_only)
    monkeypatch.setattr(os, "utime", lambda *args: read_only("", os.O_RDWR))
    entry = FrameCache(cache.cache_dir).get(key())
    assert entry is not None
    assert_same(entry.read(), frames(0, 10))
    with pytest.raises(CacheError, match=r"Read-only file system; choose a writable directory"):
        write(cache, key("b"))


def test_defaults_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("VOCO_VIDEO_CACHE_DIR", "VOCO_VIDEO_CACHE_MAX_BYTES", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert (FrameCache().cache_dir, FrameCache().max_bytes) == (
        tmp_path / ".cache" / "voco-video",
        50 * 10**9,
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert FrameCache().cache_dir == tmp_path / "xdg" / "voco-video"
    monkeypatch.setenv("VOCO_VIDEO_CACHE_DIR", "~/frames")
    monkeypatch.setenv("VOCO_VIDEO_CACHE_MAX_BYTES", "1000")
    assert (FrameCache().cache_dir, FrameCache().max_bytes) == (tmp_path / "frames", 1000)
    assert FrameCache(tmp_path, max_bytes=5).max_bytes == 5
    assert not (tmp_path / "frames").exists()
    monkeypatch.setenv("VOCO_VIDEO_CACHE_MAX_BYTES", "1.5GiB")
    assert FrameCache().max_bytes == 3 << 29
    assert FrameCache(tmp_path, max_bytes="500K").max_bytes == 500 << 10
    monkeypatch.setenv("VOCO_VIDEO_CACHE_MAX_BYTES", "fifty")
    with pytest.raises(UsageError, match="VOCO_VIDEO_CACHE_MAX_BYTES='fifty' is no size"):
        FrameCache()
    for wrong in (lambda: FrameCache(max_bytes=-1), lambda: write_with_segments_of_zero(tmp_path)):
        with pytest.raises(UsageError):
            wrong()


def write_with_segments_of_zero(cache_dir: Path) -> None:
    with FrameCache(cache_dir, max_bytes=0).writer(key(), facts={}, segment_frames=0):
        pass
