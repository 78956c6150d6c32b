"""The running sum of a cache's bytes: never below what is there, and all entries are looked at only now and then."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers.cached_frames import assert_same, frames, key, pts, write
from voco_video.cache import FrameCache
from voco_video.cache.paths import CachePaths, usage
from voco_video.cache.room import CacheSize, writes_between_looks

KILLED = """
import os, sys
from tests.helpers.cached_frames import frames, key, pts
from voco_video.cache import FrameCache
with FrameCache(sys.argv[1]).writer(key(sys.argv[2]), facts={}, segment_frames=2) as writer:
    writer.append(frames(0, 8), pts(0, 8))
    os._exit(9)
"""


@pytest.fixture
def cache(tmp_path: Path) -> FrameCache:
    return FrameCache(tmp_path / "cache")


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Something for each time that all entries were looked at."""
    seen: list[int] = []
    real = FrameCache._prune

    def counting(self: FrameCache, *args: int, **options: bool) -> list[str]:
        seen.append(1)
        return real(self, *args, **options)

    monkeypatch.setattr(FrameCache, "_prune", counting)
    return seen


def bytes_there(cache: FrameCache) -> int:
    """Sum up all entries the slow, obvious way."""
    return sum(usage(path)[0] for path in CachePaths(cache.cache_dir).directories())


def recorded(cache: FrameCache) -> int:
    return json.loads((cache.cache_dir / "size.json").read_text())["num_bytes"]


def kill_while_writing(cache: FrameCache, name: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, cache.cache_dir, name], check=False)
    assert done.returncode == 9


def test_the_sum_is_what_is_there_and_writes_do_not_look_at_all(cache: FrameCache, looks: list[int]) -> None:
    for number in range(12):
        write(cache, key(str(number)), num_frames=2 + number).close()
        assert recorded(cache) == bytes_there(cache)
    assert len(looks) == 1, "the first write, which knows of no sum"
    with cache.writer(key("partial"), facts={}, segment_frames=2) as writer:
        writer.append(frames(0, 4), pts(0, 4))
    assert recorded(cache) == bytes_there(cache), "what is unfinished takes room, too"
    write(cache, key("partial")).close()
    assert recorded(cache) == bytes_there(cache)
    with cache.growing_writer(key("live"), facts={}) as growing:
        growing.append(frames(0, 4), pts(0, 4))
        growing.publish()
    assert recorded(cache) == bytes_there(cache)
    assert len(looks) == 1


def test_every_so_many_writes_what_others_put_there_is_found(cache: FrameCache, looks: list[int]) -> None:
    write(cache, key("first")).close()
    write(cache, key("copied")).close()
    copied = CachePaths(cache.cache_dir).directory(key("copied").digest)
    (copied / "segment-000009.safetensors").write_bytes(bytes(5000))  # as an earlier version might
    for number in range(writes_between_looks(2)):
        write(cache, key(str(number)), num_frames=1).close()
    assert len(looks) == 2
    assert recorded(cache) == bytes_there(cache)
    assert writes_between_looks(800) == 100, "a constant price for a write, however many entries there are"


@pytest.mark.parametrize("is_shared", [False, True])
def test_it_never_grows_past_its_bound(tmp_path: Path, is_shared: bool) -> None:
    """Also where a second writer, as of another process, does every second write."""
    with write(FrameCache(tmp_path / "one"), key("one")) as entry:
        size = usage(entry.directory)[0]
    caches = [FrameCache(tmp_path / "cache", max_bytes=5 * size + size // 2) for _ in range(2)]
    for number in range(30):
        write(caches[number % 2 if is_shared else 0], key(str(number))).close()
        assert bytes_there(caches[0]) <= caches[0].max_bytes, number
    assert len(caches[0].entries()) == 5


def test_what_a_killed_process_wrote_counts(cache: FrameCache) -> None:
    write(cache, key("a")).close()
    kill_while_writing(cache, "killed")
    assert recorded(cache) < bytes_there(cache)
    write(cache, key("b")).close()  # whoever writes next finds it
    assert recorded(cache) == bytes_there(cache)
    small = FrameCache(cache.cache_dir, max_bytes=bytes_there(cache))
    kill_while_writing(cache, "killed too")
    write(small, key("c")).close()
    assert not small.contains(key("a")), "so the bound is kept"
    assert_same(write(small, key("killed")).read(), frames(0, 10))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"num_bytes": "7"}', b'{"other": 1}', b'{"open": [1]}', b"\xff"]
)
def test_a_broken_file_means_looking_at_all(cache: FrameCache, content: bytes, looks: list[int]) -> None:
    write(cache, key("a")).close()
    (cache.cache_dir / "size.json").write_bytes(content)
    looks.clear()
    write(cache, key("b")).close()
    assert looks == [1]
    assert recorded(cache) == bytes_there(cache)


def test_a_file_that_cannot_be_written_means_looking_at_all(
    cache: FrameCache, monkeypatch: pytest.MonkeyPatch, looks: list[int]
) -> None:
    write(cache, key("a")).close()
    (cache.cache_dir / "size.json").unlink()
    (cache.cache_dir / "size.json").mkdir()
    looks.clear()
    for name in "bc":
        write(cache, key(name)).close()
    assert looks == [1, 1]
    assert len(cache.entries()) == 3


def test_writers_that_end_while_all_are_looked_at_are_counted(cache: FrameCache) -> None:
    write(cache, key("a")).close()
    with cache._size.look() as sizes:
        sizes |= {path.name: usage(path)[0] for path in CachePaths(cache.cache_dir).directories()}
        write(cache, key("b")).close()
    assert recorded(cache) == bytes_there(cache)


def test_the_later_of_two_looks_counts(cache: FrameCache) -> None:
    write(cache, key("a")).close()
    before = recorded(cache)
    with cache._size.look() as first:
        with cache._size.look() as second:
            second["0" * 64] = before
        first["0" * 64] = 1  # as if it had looked before something was written
    assert recorded(cache) == before


def test_many_threads_and_removals_never_make_it_too_small(cache: FrameCache) -> None:
    def work(seed: int) -> None:
        chosen = random.Random(seed)
        for _ in range(6):
            name = str(chosen.randrange(8))
            if chosen.random() < 0.6:
                write(cache, key(name), num_frames=3).close()
            else:
                cache.prune(chosen.randrange(20_000))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert recorded(cache) >= bytes_there(cache)
    cache.prune()
    assert recorded(cache) == bytes_there(cache)


def test_a_whole_digest_and_digits_do_not_list_all(cache: FrameCache, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = []
    for number in range(6):
        with write(cache, key(str(number)), num_frames=1) as entry:
            digests.append(entry.digest)
    listed: list[Path] = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path=".": listed.append(Path(os.fspath(path))) or real(path))
    with cache.find(digests[0]) as entry:
        assert entry.digest == digests[0]
    assert not listed
    assert cache.candidates(digests[1])[0].digest == digests[1]
    assert cache.candidates(digests[2][:12])[0].digest == digests[2]
    others = {digest for digest in digests if digest[:2] != digests[2][:2]}
    assert not {path.name for path in listed} & {digest[:2] for digest in others}


def test_one_size_of_one_cache_is_one_file(tmp_path: Path) -> None:
    """Two caches share nothing, and a sum may be asked for before there is a cache."""
    cache = FrameCache(tmp_path / "there")
    write(cache, key()).close()
    assert not CacheSize(CachePaths(tmp_path / "there")).may_exceed(10**9)
    assert CacheSize(CachePaths(tmp_path / "there")).may_exceed(1)
