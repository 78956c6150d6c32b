"""The frame cache on a store, on fsspec's own store in memory: what is read, what is refused, what is left behind."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
import torch

from tests.helpers.stored_entries import frames_of, key_of, same_frames, write_entry
from voco_video.cache import FrameCache
from voco_video.cache.remote import cache as remote_cache
from voco_video.cache.remote.cache import RemoteCache
from voco_video.cache.remote.layout import manifest_path
from voco_video.cache.remote.objects import ObjectStore
from voco_video.cluster.run import _whole_path
from voco_video.errors import CacheError, UsageError
from voco_video.library.index import LibraryIndex

FS = fsspec.filesystem("memory")


@pytest.fixture
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A place in memory that no other test uses."""
    name = re.sub(r"\W+", "-", request.node.name)
    yield f"memory://{name}"
    FS.rm(f"/{name}", recursive=True) if FS.exists(f"/{name}") else None


def forget_here() -> None:
    """Delete what this machine keeps of stores."""
    shutil.rmtree(os.environ["VOCO_VIDEO_CACHE_DIR"], ignore_errors=True)


def objects(url: str) -> dict[str, bytes]:
    """All objects by their paths."""
    return {path: FS.cat_file(path) for path in FS.find(url.removeprefix("memory:/"))}


def change_object(url: str, part: str, byte: int) -> None:
    """Change a byte of the one object that has this in its path."""
    (path,) = [path for path in objects(url) if part in path]
    data = bytearray(FS.cat_file(path))
    data[byte] ^= 1
    FS.pipe_file(path, bytes(data))


@pytest.mark.parametrize("form", ["embeds", "kv"])
def test_every_window_is_what_a_folder_gives(url: str, tmp_path: Path, form: str) -> None:
    local = write_entry(FrameCache(tmp_path / "local"), 1, 70, form=form)
    write_entry(FrameCache(url), 1, 70, form=form)
    forget_here()
    entry = FrameCache(url).get(key_of(1))
    assert entry is not None
    for start, stop in [(0, 70), (3, 4), (30, 34), (0, 32), (63, 70), (5, 5), (70, None), (31, 65)]:
        mine, theirs = entry.read(start, stop), local.read(start, stop)
        assert all(torch.equal(mine[n], theirs[n]) and mine[n].shape == theirs[n].shape for n in theirs)
    name = "embeds" if form == "embeds" else "values"
    for row, start, stop in [(-1, 0, 70), (0, 31, 33), (1, 4, 4)]:
        mine, theirs = (one.read_row([name], row, start, stop) for one in (entry, local))
        assert torch.equal(mine[name], theirs[name])
    assert (entry.facts, entry.tensors, entry.pts_seconds.tolist()) == (
        local.facts,
        local.tensors,
        local.pts_seconds.tolist(),
    )
    assert same_frames(pickle.loads(pickle.dumps(entry)), 1, 2, 40)
    with pytest.raises(UsageError, match="not within"):
        entry.read(3, 71)


def test_a_window_reads_its_bytes_alone(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_entry(FrameCache(url), 1, 640, width=512)
    forget_here()
    asked: list[int] = []
    real = ObjectStore._ranges

    def counted(self: ObjectStore, *args: Any) -> list[Any]:
        found = real(self, *args)
        asked.extend(len(one) for one in found if isinstance(one, bytes))
        return found

    monkeypatch.setattr(ObjectStore, "_ranges", counted)
    entry = FrameCache(url).get(key_of(1))
    assert entry is not None
    assert same_frames(entry, 1, 100, 160, width=512)
    assert sum(asked) <= 1.1 * 60 * entry.bytes_per_frame
    del asked[:]
    assert same_frames(entry, 1, 110, 150, width=512)
    assert not asked  # it is in the tier
    again = FrameCache(url).get(key_of(1))
    assert again is not None
    assert same_frames(again, 1, 150, 170, width=512)
    assert sum(asked) <= 10 * entry.bytes_per_frame + 6000  # ten frames, and the manifest


def test_a_window_of_a_long_segment_reads_its_bytes_alone(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever appends many frames at once makes one segment of them."""
    frames = frames_of(1, 700)
    with FrameCache(url).writer(key_of(1), facts={}) as writer:
        writer.append(frames, torch.arange(700).numpy() / 2)
        assert len(writer.finish().manifest.segments) == 1
    forget_here()
    asked: list[int] = []
    real = ObjectStore.read_ranges

    def counted(self: ObjectStore, ranges: Any) -> list[bytes]:
        asked.extend(one.end - one.begin for one in ranges)
        return real(self, ranges)

    monkeypatch.setattr(ObjectStore, "read_ranges", counted)
    entry = FrameCache(url).get(key_of(1))
    assert entry is not None
    for start, stop in [(600, 700), (31, 33), (0, 1)]:
        assert same_frames(entry, 1, start, stop)
    assert sum(asked) <= 103 * entry.bytes_per_frame + 7 * 1100
    assert same_frames(FrameCache(url).get(key_of(1)), 1)  # type: ignore[arg-type]


def test_local_files_are_those_of_a_folder(url: str, tmp_path: Path) -> None:
    """The segments on a store are the very files that a folder would have."""
    local = write_entry(FrameCache(tmp_path / "local"), 1, 40)
    write_entry(FrameCache(url), 1, 40)
    files = {path.read_bytes() for path in local.directory.glob("segment-*")}
    assert files == {data for path, data in objects(url).items() if "segment-" in path}


def test_what_could_not_be_copied_is_made_up_for(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, broken = ObjectStore.write, [True]

    def write(self: ObjectStore, contents: dict[str, bytes]) -> None:
        if broken[0] and any("manifests" in path for path in contents):
            raise CacheError("the store is full")
        real(self, contents)

    monkeypatch.setattr(ObjectStore, "write", write)
    with pytest.raises(CacheError, match=r"the store is full; its frames are safe in .*the same command tries again"):
        write_entry(FrameCache(url), 1, 20)
    assert FrameCache(url).get(key_of(1)) is None  # its segments are there, and nobody sees them
    broken[0] = False
    cache = FrameCache(url)
    with cache.writer(key_of(1), facts={}) as writer:
        assert writer.entry is not None
        assert same_frames(writer.entry, 1)
    assert not list(cache.cache_dir.glob("??/*/manifest.json"))  # nothing of it is kept twice


def test_an_interrupted_run_goes_on_here(url: str) -> None:
    frames = frames_of(1, 64)
    cache = FrameCache(url)
    with cache.writer(key_of(1), facts={}, segment_frames=8) as writer:
        writer.append({"embeds": frames["embeds"][:16]}, torch.arange(16).numpy() / 2)
    assert (cache.get(key_of(1)), len(cache.partial())) == (None, 1)
    with cache.writer(key_of(1), facts={}) as writer:
        assert writer.num_frames == 16
    assert same_frames(write_entry(cache, 1, 64), 1)
    assert not cache.partial()


@pytest.mark.parametrize(("part", "byte"), [("/segment-000001", -1), ("/frames.", -1), (".json.xz", 40)])
def test_damage_is_an_error(url: str, part: str, byte: int) -> None:
    write_entry(FrameCache(url), 1, 64)
    forget_here()
    change_object(url, part, byte)
    cache = FrameCache(url)
    with pytest.raises(CacheError, match=r"checksum|unreadable"):
        cache.get(key_of(1)).read(60, 64)  # type: ignore[union-attr]
    (result,) = cache.verify()
    assert (result.ok, result.digest) == (False, key_of(1).digest)
    if part == "/segment-000001":
        assert same_frames(cache.get(key_of(1)), 1, 0, 63)  # type: ignore[arg-type]


def test_a_manifest_at_the_place_of_another_is_refused(url: str) -> None:
    cache = FrameCache(url)
    write_entry(cache, 1, 8)
    root = url.removeprefix("memory:/")
    FS.copy(f"{root}/{manifest_path(key_of(1).digest)}", f"{root}/{manifest_path(key_of(2).digest)}")
    with pytest.raises(CacheError, match="holds the result for another key"):
        cache.get(key_of(2))


def test_the_tier_is_never_believed(url: str) -> None:
    cache = FrameCache(url)
    entry = write_entry(cache, 1, 64)
    assert same_frames(entry, 1)
    for path in (cache.cache_dir / "segments").glob("*/*"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data[: len(data) - 700])  # and cut off
    assert same_frames(FrameCache(url).get(key_of(1)), 1)  # type: ignore[arg-type]


def test_the_tier_keeps_to_its_bound(url: str) -> None:
    for number in range(6):
        write_entry(FrameCache(url), number, 64, width=512)
    forget_here()
    bound = 1_000_000  # of some 263 kB for each entry
    cache = FrameCache(url, max_bytes=bound)
    assert isinstance(cache, RemoteCache)
    for number in range(6):
        assert same_frames(cache.get(key_of(number)), number, width=512)  # type: ignore[arg-type]
        assert cache.tier.size_bytes <= bound
        for path in (cache.cache_dir / "segments").glob("*/*"):  # all are a second older than the next
            os.utime(path, times=(path.stat().st_mtime - 10,) * 2)
    kept = {path.name for path in (cache.cache_dir / "segments").glob("*/*")}
    newest, oldest = (
        {s.blake3 for s in cache.get(key_of(n)).manifest.segments}  # type: ignore[union-attr]
        for n in (5, 0)
    )
    assert newest <= kept
    assert not oldest & kept


def test_the_last_of_two_writers_counts(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines that differ in bits: each manifest names its own objects, and who reads the first goes on with it."""
    first = write_entry(FrameCache(url), 1, 64)
    monkeypatch.setenv("VOCO_VIDEO_CACHE_DIR", os.environ["VOCO_VIDEO_CACHE_DIR"] + "-of-another-machine")
    other = FrameCache(url)
    with other.writer(key_of(1), facts={}, restart=True) as writer:
        writer.append(frames_of(2, 64), torch.arange(64).numpy() / 2)
        writer.finish()
    forget_here()
    assert same_frames(first, 1)
    found = FrameCache(url).get(key_of(1))
    assert found is not None
    assert torch.equal(found.read()["embeds"], frames_of(2, 64)["embeds"])
    stale = [result for result in FrameCache(url).verify() if result.status == "stale"]
    assert len(stale) == 3  # two segments and the digests of frames of the first

    assert FrameCache(url).prune() == []
    assert same_frames(first, 1)  # young orphans may be what a writer is about to name
    monkeypatch.setattr(remote_cache, "ORPHAN_SECONDS", -1.0)
    FrameCache(url).prune()
    forget_here()
    assert [result.status for result in FrameCache(url).verify()] == ["ok"]
    shutil.rmtree(first.directory.parents[1])
    with pytest.raises(CacheError, match=r"is gone; get it again in case it was replaced"):
        first.read(0, 1)


def test_who_finds_it_finished_does_not_write(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_entry(FrameCache(url), 1, 16)
    before = objects(url)
    monkeypatch.setenv("VOCO_VIDEO_CACHE_DIR", os.environ["VOCO_VIDEO_CACHE_DIR"] + "-of-another-machine")
    with FrameCache(url).writer(key_of(1), facts={}) as writer:
        assert writer.entry is not None
        assert same_frames(writer.entry, 1)
    assert objects(url) == before


def test_names_need_no_lock(url: str) -> None:
    cache = FrameCache(url)
    digests = [write_entry(cache, number, 8).digest for number in (1, 2)]
    cache.give_name(digests[0][:8], "door")
    assert cache.find("door").digest == digests[0]
    with pytest.raises(UsageError, match="is the name of entry"):
        cache.names.give("door", digests[1])
    cache.names.give("front", digests[0])
    assert (cache.names.digest_of("door"), cache.names.digest_of("front")) == (None, digests[0])
    cache.names.give("door", digests[1])
    assert cache.names.by_digest() == {digests[0]: "front", digests[1]: "door"}
    assert [label.name for label in cache.labels()] == [cache.names.by_digest()[d] for d in sorted(digests)]
    cache.remove("door")
    assert cache.names.by_digest() == {digests[0]: "front"}
    assert cache.get(key_of(2)) is None
    assert not [path for path in objects(url) if digests[1] in path]
    with pytest.raises(CacheError, match=r"no cache entry in memory://.* has the name 'door'"):
        cache.find("door")


def test_a_name_given_twice_at_once_counts_once(url: str) -> None:
    """Two that give a name to different entries at the same time: both have found it free."""
    cache = FrameCache(url)
    first, second = (write_entry(cache, number, 8).digest for number in (1, 2))
    store, names = ObjectStore(url), cache.names
    names.give("door", first)
    store.write({"names/of/" + second + ".json": json.dumps({"name": "door", "digest": second}).encode()})
    assert (names.digest_of("door"), names.by_digest()) == (first, {first: "door"})


def test_prune_takes_what_was_written_first(url: str) -> None:
    cache = FrameCache(url)
    for number in (3, 1, 2):
        write_entry(cache, number, 32)
        time.sleep(0.01)
    size = cache.size_of(cache.labels()[0])
    assert cache.prune(2 * size + 200, dry_run=True) == [key_of(3).digest]
    assert len(cache.entries()) == 3
    assert cache.prune(2 * size + 200) == [key_of(3).digest]
    assert {entry.digest for entry in cache.entries()} == {key_of(1).digest, key_of(2).digest}
    assert cache.prune() == []


def test_digits_find_an_entry_without_a_look_at_all(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FrameCache(url)
    digests = [write_entry(cache, number, 8).digest for number in range(4)]
    listed: list[str] = []
    real = ObjectStore.listed
    monkeypatch.setattr(ObjectStore, "listed", lambda self, folder: listed.append(folder) or real(self, folder))  # type: ignore[func-returns-value]
    assert cache.find(digests[2][:9]).digest == digests[2]
    assert cache.find(digests[2]).digest == digests[2]
    assert cache.get(key_of(1)) is not None
    write_entry(cache, 9, 8)
    assert listed == [f"manifests/{digests[2][:2]}"]
    with pytest.raises(CacheError, match="has the name"):
        cache.find("no such name")


def test_a_live_source_is_refused_with_a_way_out(url: str) -> None:
    with (
        pytest.raises(UsageError, match=f"objects cannot grow; follow it into a folder.* push {url}"),
        FrameCache(url).growing_writer(key_of(1), facts={}),
    ):
        pass


def test_the_index_of_a_library_is_refused_with_a_way_out(url: str) -> None:
    with pytest.raises(UsageError, match=f"kept of entries in a folder; .* cache pull {url}"):
        LibraryIndex(SimpleNamespace(cache=FrameCache(url)))  # type: ignore[arg-type]


def test_workers_are_told_of_the_default_store(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOCO_VIDEO_CACHE_DIR", url)
    assert (_whole_path(None), _whole_path(f"{url}/other")) == (url, f"{url}/other")
    monkeypatch.setenv("VOCO_VIDEO_CACHE_DIR", str(tmp_path))
    assert _whole_path(None) == str(tmp_path)


def test_folders_by_url_have_no_torn_objects(tmp_path: Path) -> None:
    """On a filesystem whose files can be seen half written, objects are written aside and renamed."""
    cache = FrameCache(f"file://{tmp_path}/shared/frames")
    assert isinstance(cache, RemoteCache)
    assert same_frames(write_entry(cache, 1, 40), 1)
    forget_here()
    assert same_frames(cache.get(key_of(1)), 1, 3, 39)  # type: ignore[arg-type]
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".aside")]
    assert [result.status for result in cache.verify()] == ["ok"]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3://AKIAX:verysecret@bucket/p", "s3://bucket/p: a cache's URL must hold no credentials"),
        ("s3://verysecret@bucket/p", "must hold no credentials"),
        ("s3://bucket/p?token=verysecret", "has no [?] and no #"),
        ("sftp://me:verysecret@host/p", "must hold no credentials"),
        ("https://me:verysecret@host/p", "must hold no credentials"),
        ("https://host/p", "nothing can be written there"),
        ("simplecache::s3://bucket/p", "nothing can be written there"),
        ("s3://", "names no place for a cache"),
        ("s3://bucket/[a-z]*", "without [*] and brackets"),
        ("nosuchkind://bucket/p", "cannot be opened"),
    ],
)
def test_urls_that_cannot_be(url: str, says: str) -> None:
    with pytest.raises((UsageError, CacheError), match=says) as caught:
        FrameCache(url).get(key_of(1))
    assert "verysecret" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_path_is_no_url() -> None:
    with pytest.raises(UsageError, match="give a URL as text"):
        FrameCache(Path("s3://bucket/p"))


def test_secrets_of_the_environment_are_not_said(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-very-secret-key")
    monkeypatch.setitem(fsspec.config.conf, "s3", {"secret": "another-secret"})

    def fail(*_: object, **__: object) -> None:
        raise OSError("signed with a-very-secret-key and another-secret")

    monkeypatch.setattr(type(FS), "cat_file", fail)
    with pytest.raises(CacheError, match=r"signed with \.\.\. and \.\.\.") as caught:
        FrameCache(url).get(key_of(1))
    assert "very-secret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_the_default_cache_may_be_a_store(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOCO_VIDEO_CACHE_DIR", url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    cache = FrameCache()
    assert (type(cache), cache.location) == (RemoteCache, url)
    assert same_frames(write_entry(cache, 1, 8), 1)
    assert list((tmp_path / "xdg" / "voco-video" / "stores").iterdir())
    assert type(pickle.loads(pickle.dumps(FrameCache(tmp_path / "here")))) is FrameCache
