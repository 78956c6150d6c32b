"""Entries by name, by the path of their video, by the beginning of their digest; names under crashes and races."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers.cached_frames import frames, key, pts, write
from voco_video.cache import CacheKey, FrameCache
from voco_video.errors import CacheError, UsageError
from voco_video.files.digest import digest_file


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FrameCache:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return FrameCache(tmp_path / "cache")


def of_file(cache: FrameCache, path: Path, **settings: object) -> str:
    """Write an entry of a file, as compressing it would; returns its digest."""
    its_key = CacheKey(digest_file(path), "cd" * 32, settings)
    with write(cache, its_key, facts={"source": str(path.resolve())}) as entry:
        return entry.digest


def found(cache: FrameCache, given: object) -> list[str]:
    return [label.digest for label in cache.candidates(str(given))]


def test_an_entry_is_found_by_everything_that_names_it(cache: FrameCache) -> None:
    clip, copy = Path("clip.mp4"), Path("copy.mp4")
    clip.write_bytes(b"one")
    digest = of_file(cache, clip)
    write(cache, key("unrelated")).close()
    cache.names.give("flower", digest)
    shutil.copy(clip, copy)
    for given in ("flower", digest, digest[:4], digest[:12], "clip.mp4", clip.resolve(), copy):
        assert found(cache, given) == [digest], given
        assert cache.find(str(given)).digest == digest
    clip.unlink()
    assert found(cache, "clip.mp4") == [digest], "its file is gone"
    assert found(cache, "./clip.mp4") == [digest]
    for given in ("", "flow", "clip", digest[:3], "none.mp4", "\0", digest[:-1] + "x", "/"):
        assert found(cache, given) == [], given
        with pytest.raises(CacheError) as error:
            cache.find(given)
        assert error.value.exit_code == 2


def test_a_file_comes_first_then_a_name_then_a_digest(cache: FrameCache) -> None:
    named, other = write(cache, key("a")).digest, write(cache, key("b")).digest
    cache.names.give(other[:4], named)
    assert found(cache, other[:4]) == [named], "a name comes before the beginning of a digest"
    assert found(cache, other[:5]) == [other]
    file = Path(other[:4])
    file.write_bytes(b"a video")
    of_it = of_file(cache, file)
    assert found(cache, file) == [of_it], "a file comes before a name"
    with pytest.raises(UsageError, match="is a whole digest"):
        cache.names.give(other, named)
    Path("door").write_bytes(b"")
    with pytest.raises(UsageError, match="is a file here"):
        cache.names.give("door", named)


def test_several_entries_of_one_video_are_listed(cache: FrameCache) -> None:
    clip = Path("clip.mp4")
    clip.write_bytes(b"one")
    digests = {of_file(cache, clip, compressor=name) for name in ("full", "pool:4")}
    assert set(found(cache, clip)) == digests
    with pytest.raises(
        CacheError, match=r"2 cache entries are of clip\.mp4; give the digest of one: .*full.*pool:4|pool:4.*full"
    ):
        cache.find("clip.mp4")
    clip.write_bytes(b"another version")
    assert set(found(cache, clip)) == digests, "they were made from this path"


def test_a_name_is_of_one_entry_and_an_entry_has_one(cache: FrameCache) -> None:
    a, b = write(cache, key("a")).digest, write(cache, key("b")).digest
    cache.names.give("door", a)
    cache.names.give("door", a)
    with pytest.raises(UsageError, match=rf"name='door' is the name of entry {a[:12]} already"):
        cache.names.give("door", b)
    cache.give_name("door", "yard")
    assert (found(cache, "yard"), found(cache, "door")) == ([a], [])
    cache.names.give("door", b)
    assert cache.names.by_digest() == {a: "yard", b: "door"}
    cache.names.drop(a)
    assert cache.names.by_digest() == {b: "door"}
    cache.remove("door")
    assert cache.names.by_digest() == {}
    cache.names.give("door", a)


@pytest.mark.parametrize(
    "name", ["", " ", " door", "a/b", "..", "-x", "~me", "https://host/a", "a\nb", "x" * 101, "ab" * 32]
)
def test_what_is_no_name(cache: FrameCache, name: str) -> None:
    digest = write(cache, key()).digest
    with pytest.raises(UsageError, match="choose another name"):
        cache.names.give(name, digest)


@pytest.mark.parametrize("name", ["door", "Haustür 2", "cafe", "dead beef", "前門", "a.b", "x" * 100, "😀" * 50])
def test_what_is_a_name(cache: FrameCache, name: str) -> None:
    digest = write(cache, key()).digest
    cache.names.give(name, digest)
    assert (cache.names.by_digest(), found(cache, name)) == ({digest: name}, [digest])


def test_a_name_whose_entry_is_pruned_is_free(cache: FrameCache) -> None:
    a = write(cache, key("a")).digest
    cache.names.give("door", a)
    shutil.rmtree(cache.cache_dir / a[:2])
    assert cache.names.digest_of("door") is None
    b = write(cache, key("b")).digest
    cache.names.give("door", b)
    cache.find("door").close()
    assert cache.prune(0) == [b]
    assert not list((cache.cache_dir / "names").iterdir())


def test_names_go_with_a_copy_of_the_cache(cache: FrameCache, tmp_path: Path) -> None:
    digest = write(cache, key()).digest
    cache.names.give("door", digest)
    shutil.copytree(cache.cache_dir, tmp_path / "copy")
    assert FrameCache(tmp_path / "copy").find("door").digest == digest


def test_a_cache_from_before_there_were_names(tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).parent / "written_before" / "cache", tmp_path / "cache")
    cache = FrameCache(tmp_path / "cache")
    labels = {label.digest[:4]: label for label in cache.labels()}
    assert {label.state for label in labels.values()} == {"whole", "growing", "unfinished"}
    assert all(not label.name and len(label.video_digest) == 64 for label in labels.values())
    growing = labels["49eb"]
    assert found(cache, growing.stream) == [growing.digest], "the name of a live source, from its key"
    cache.give_name(growing.stream, "yard")
    assert (found(cache, "yard"), found(cache, growing.stream)) == ([growing.digest], [])
    assert all(result.ok for result in cache.verify())


def test_damaged_and_unfinished_entries_have_names_too(cache: FrameCache) -> None:
    with cache.writer(key("a"), facts={}) as writer:
        writer.append(frames(0, 2), pts(0, 2))
        cache.names.give("half", key("a").digest)
    with pytest.raises(CacheError, match="cache entry half is unfinished"):
        cache.find("half")
    with write(cache, key("b")) as entry:
        (entry.directory / "manifest.json").write_bytes(b"{")
    cache.names.give("broken", entry.digest)
    assert [result.status for result in cache.verify("broken")] == ["damaged"]
    (cache.cache_dir / "names" / "other.json").write_bytes(b"[]")
    assert {cache.remove("half"), cache.remove("broken")} == {key("a").digest, key("b").digest}


def test_of_many_who_want_a_name_one_gets_it(cache: FrameCache) -> None:
    digests = [write(cache, key(name)).digest for name in "abcdefgh"]

    def give(digest: str) -> bool:
        try:
            FrameCache(cache.cache_dir).names.give("door", digest)
        except UsageError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(give, digests))
    assert won.count(True) == 1
    assert cache.names.by_digest() == {digests[won.index(True)]: "door"}


_RENAMES = """
import sys
from voco_video.cache.names import EntryNames
from voco_video.cache.paths import CachePaths
from pathlib import Path
names = EntryNames(CachePaths(Path(sys.argv[1])))
print("begun", flush=True)
number = 0
while True:
    names.give(f"name {number % 7}", sys.argv[2])
    number += 1
"""


def test_a_killed_renaming_leaves_whole_names(cache: FrameCache) -> None:
    digest, other = write(cache, key("a")).digest, write(cache, key("b")).digest
    cache.names.give("other", other)
    for delay_seconds in (0.0, 0.003, 0.01, 0.02):
        arguments = [sys.executable, "-c", _RENAMES, str(cache.cache_dir), digest]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(delay_seconds)
            for _ in range(20):  # readers meet the entry under some name all the time, or under two
                assert cache.names.digest_of("other") == other
            child.send_signal(signal.SIGKILL)
        names = [name for name in (f"name {n}" for n in range(7)) if cache.names.digest_of(name) is not None]
        assert {cache.names.digest_of(name) for name in names} <= {digest}
        cache.names.give("mine", digest)
        assert cache.names.by_digest() == {digest: "mine", other: "other"}, "the lock went with the process"


def test_reading_notes_the_use_once_an_hour_at_most(cache: FrameCache, monkeypatch: pytest.MonkeyPatch) -> None:
    with write(cache, key()) as entry:
        manifest = entry.directory / "manifest.json"
    now = time.time()
    for age_seconds, is_written in ((0, False), (3500, False), (3700, True), (10**6, True)):
        os.utime(manifest, (now - age_seconds, now - age_seconds))
        opened = cache.get(key())
        assert opened is not None
        opened.close()
        assert (manifest.stat().st_mtime > now - age_seconds + 1) == is_written, age_seconds


def test_a_dry_run_says_what_pruning_does(cache: FrameCache) -> None:
    for number, name in enumerate("abcd"):
        with write(cache, key(name)) as entry:
            pass
        os.utime(entry.directory / "manifest.json", (1, 1000 + number))
    with cache.writer(key("half"), facts={}) as writer:
        writer.append(frames(0, 2), pts(0, 2))
    held = cache.entries()[0]
    _ = held.read()
    for max_bytes in (10**9, 5000, 0):
        planned = cache.prune(max_bytes, partial=True, dry_run=True)
        assert len(cache.entries()) + len(cache.partial()) == len(cache.labels())
        before = {label.digest for label in cache.labels()}
        assert cache.prune(max_bytes, partial=True) == planned
        assert before - {label.digest for label in cache.labels()} == set(planned)
    held.close()
