"""The frame cache after interruptions and damage: resume what is whole, never return other bytes."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from tests.helpers.cached_frames import assert_same, frames, key, pts, write
from voco_video.cache import FrameCache
from voco_video.errors import CacheError


@pytest.fixture
def cache(tmp_path: Path) -> FrameCache:
    return FrameCache(tmp_path / "cache")


def test_an_interrupted_run_loses_only_its_current_batch(cache: FrameCache) -> None:
    with suppress(KeyboardInterrupt), cache.writer(key(), facts={}, segment_frames=4) as writer:
        writer.append(frames(0, 3), pts(0, 3))
        raise KeyboardInterrupt
    with cache.writer(key(), facts={}, segment_frames=4) as writer:
        assert writer.num_frames == 3
        with pytest.raises(CacheError, match="cannot append"):
            writer.append({"x": torch.zeros(1)}, pts(3, 4))
    assert_same(write(cache, key()).read(), frames(0, 10))


@pytest.mark.parametrize("what", ["flip", "truncate", "delete", "torn journal", "stray file"])
def test_resuming_keeps_whole_segments_and_drops_the_rest(cache: FrameCache, what: str) -> None:
    with cache.writer(key(), facts={}, segment_frames=2) as writer:
        for start in range(0, 8, 2):
            writer.append(frames(start, start + 2), pts(start, start + 2))
    directory = cache.partial()[0].directory
    damage(directory, what)
    num_safe = 8 if what == "stray file" else 4
    assert f"{num_safe} frames safe" in cache.verify()[0].reason
    with cache.writer(key(), facts={}) as writer:
        assert writer.num_frames == num_safe
        assert len(list(directory.iterdir())) == num_safe // 2 + 1
    assert_same(write(cache, key()).read(), frames(0, 10))


def damage(directory: Path, what: str) -> None:
    """Make the third of four segments of an unfinished entry unusable, or add a file nobody vouches for."""
    segment, journal = directory / "segment-000002.safetensors", directory / "journal.txt"
    if what == "flip":
        flip(segment, 400)
    elif what == "truncate":
        os.truncate(segment, 300)
    elif what == "delete":
        segment.unlink()
    elif what == "torn journal":
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(b"".join(lines[:3]) + lines[3][:-5])
    else:
        (directory / "segment-000004.safetensors").write_bytes(b"torn")


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << (position % 8)
    path.write_bytes(data)


@pytest.mark.parametrize("file", ["manifest.json", "segment-000000.safetensors", "segment-000001.safetensors"])
def test_every_flipped_byte_and_every_truncation_is_noticed(cache: FrameCache, file: str) -> None:
    with cache.writer(key(), facts={"video": "v"}, segment_frames=1) as writer:
        for start in (0, 1):
            writer.append({"x": torch.full((1, 4), float(start))}, pts(start, start + 1))
        path = writer.finish().directory / file
    sound = path.read_bytes()
    for position in range(len(sound)):
        flip(path, position)
        assert_damaged(cache, full_verify=position % 20 == 0)
        path.write_bytes(sound)
        if position % 20 == 0:
            os.truncate(path, position)
            assert_damaged(cache, full_verify=True)
            path.write_bytes(sound)
    entry = cache.get(key())
    assert entry is not None
    entry.read()


def assert_damaged(cache: FrameCache, *, full_verify: bool) -> None:
    with pytest.raises(CacheError, match=r"damaged cache entry .*; delete it with `voco-video cache rm"):
        read_all(cache)
    if full_verify:
        assert [result.ok for result in cache.verify()] == [False]


def read_all(cache: FrameCache) -> None:
    entry = cache.get(key())
    assert entry is not None
    with entry:
        entry.read()


def test_a_file_that_changes_after_it_was_verified_is_noticed(cache: FrameCache) -> None:
    entry = write(cache, key())
    entry.read()
    flip(entry.directory / "segment-000001.safetensors", -1)
    assert_same(entry.read(0, 4), frames(0, 4))
    with pytest.raises(CacheError, match="checksum"):
        entry.read(4, 8)


def test_entries_in_each_others_place_are_noticed(cache: FrameCache, tmp_path: Path) -> None:
    a, b = write(cache, key("a")), write(cache, key("b"))
    a.directory.rename(tmp_path / "swap")
    b.directory.rename(a.directory)
    (tmp_path / "swap").rename(b.directory)
    for name in "ab":
        with pytest.raises(CacheError, match="another key"):
            cache.get(key(name))
    assert [r.ok for r in cache.verify()] == [False, False]
    assert cache.entries() == []


def test_segments_in_each_others_place_are_noticed(cache: FrameCache) -> None:
    a, b = write(cache, key("a")), write(cache, key("b"))
    shutil.copy(b.directory / "segment-000001.safetensors", a.directory)
    with pytest.raises(CacheError, match="checksum"):
        a.read()
    shutil.copy(a.directory / "segment-000000.safetensors", b.directory / "segment-000001.safetensors")
    with pytest.raises(CacheError, match="checksum"):
        b.read()


def test_an_unfinished_entry_of_another_key_is_not_resumed(cache: FrameCache) -> None:
    for name in "ab":
        with cache.writer(key(name), facts={}) as writer:
            writer.append(frames(0, 2), pts(0, 2))
    a, b = (cache.cache_dir / key(name).digest[:2] / key(name).digest for name in "ab")
    shutil.rmtree(a)
    shutil.copytree(b, a)
    with cache.writer(key("a"), facts={}) as writer:
        assert writer.num_frames == 0


def test_a_damaged_entry_can_be_removed_or_restarted(cache: FrameCache) -> None:
    for repair in ("restart", "remove"):
        with write(cache, key()) as entry:
            flip(entry.directory / "manifest.json", 5)
        with pytest.raises(CacheError, match="--force"), cache.writer(key(), facts={}):
            pass
        if repair == "restart":
            with cache.writer(key(), facts={}, restart=True) as writer:
                assert writer.num_frames == 0
        else:
            assert cache.remove(key().digest) == key().digest
            assert not list((cache.cache_dir / "locks").iterdir())
    assert cache.verify() == []
