"""Entries copied between a folder and a store: what is copied, what stays, and what one that fails costs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from tests.helpers.stored_entries import frames_of, key_of, same_frames, write_entry
from voco_video.cache import FrameCache
from voco_video.cache.copying import compare, pull, push, sync
from voco_video.cache.remote.cache import RemoteCache
from voco_video.errors import CacheError, UsageError

FS = fsspec.filesystem("memory")


@pytest.fixture
def remote(request: pytest.FixtureRequest) -> Iterator[RemoteCache]:
    name = re.sub(r"\W+", "-", request.node.name)
    yield RemoteCache(f"memory://{name}")
    if FS.exists(f"/{name}"):
        FS.rm(f"/{name}", recursive=True)


def files(cache: FrameCache, number: int) -> dict[str, bytes]:
    """The files of an entry in a folder."""
    entry = cache.get(key_of(number))
    assert entry is not None
    return {path.name: path.read_bytes() for path in entry.directory.iterdir()}


def statuses(results: list) -> list[str]:  # type: ignore[type-arg]
    return [one.status for one in results]


def test_there_and_back_are_the_same_bytes(tmp_path: Path, remote: RemoteCache) -> None:
    local, other = FrameCache(tmp_path / "a"), FrameCache(tmp_path / "b")
    for number in (1, 2, 3):
        write_entry(local, number, 40)
    local.give_name(key_of(2).digest, "two")
    assert statuses(push(local, remote)) == ["copied"] * 3
    assert statuses(push(local, remote)) == ["same"] * 3
    assert statuses(pull(remote, other, ["two", key_of(3).digest[:6]])) == ["copied"] * 2
    assert statuses(pull(remote, other)).count("same") == 2
    assert all(files(local, number) == files(other, number) for number in (1, 2, 3))
    assert other.find("two").digest == key_of(2).digest
    assert all(result.status == "ok" for result in other.verify())
    assert {one.status for one in compare(other, remote)} == {"same"}


def test_a_push_leaves_the_folder_as_it_is(tmp_path: Path, remote: RemoteCache) -> None:
    local = FrameCache(tmp_path)
    write_entry(local, 1, 40)
    before = files(local, 1)
    push(local, remote)
    entry = remote.get(key_of(1))
    assert entry is not None
    assert same_frames(entry, 1)  # which fills the tier
    assert files(local, 1) == before


def test_sync_goes_both_ways_and_deletes_nothing(tmp_path: Path, remote: RemoteCache) -> None:
    local = FrameCache(tmp_path)
    write_entry(local, 1, 40)
    write_entry(remote, 2, 40)
    assert [(one.to, one.status) for one in sync(local, remote)] == [("store", "copied"), ("here", "copied")]
    assert {one.status for one in compare(local, remote)} == {"same"}
    assert statuses(sync(local, remote)) == ["same"] * 2


def test_different_results_stay_unless_told_otherwise(tmp_path: Path, remote: RemoteCache) -> None:
    """As of two machines whose sums differ in the last bit."""
    local = FrameCache(tmp_path)
    write_entry(local, 1, 16)
    with remote.writer(key_of(1), facts={}) as writer:
        writer.append(frames_of(9, 16), np.arange(16) / 2)
        writer.finish()
    for copied in (push(local, remote), pull(remote, local), sync(local, remote)):
        assert statuses(copied) == ["differs"]
    assert statuses(compare(local, remote)) == ["differs"]
    assert same_frames(local.get(key_of(1)), 1)  # type: ignore[arg-type]
    assert statuses(push(local, remote, force=True)) == ["copied"]
    assert same_frames(remote.get(key_of(1)), 1)  # type: ignore[arg-type]

    with local.writer(key_of(1), facts={}, restart=True) as writer:
        writer.append(frames_of(9, 16), np.arange(16) / 2)
        writer.finish()
    assert statuses(pull(remote, local, force=True)) == ["copied"]
    assert same_frames(local.get(key_of(1)), 1)  # type: ignore[arg-type]


def test_what_is_damaged_costs_itself_alone(tmp_path: Path, remote: RemoteCache) -> None:
    local, other = FrameCache(tmp_path / "a"), FrameCache(tmp_path / "b")
    for number in (1, 2):
        write_entry(local, number, 16)
    push(local, remote, [key_of(1).digest])
    (there,) = [
        path
        for path in FS.find("/")
        if f"{remote.location.removeprefix('memory:/')}/entries" in path and "segment" in path
    ]
    data = bytearray(FS.cat_file(there))
    data[-1] ^= 1
    FS.pipe_file(there, bytes(data))
    (segment,) = local.get(key_of(2)).directory.glob("segment-*")  # type: ignore[union-attr]
    data = bytearray(segment.read_bytes())
    data[-1] ^= 1
    segment.write_bytes(data)
    results = {one.digest: one for one in push(local, remote)}
    assert results[key_of(1).digest].status == "same"  # by its manifest; `verify` reads the bytes
    assert results[key_of(2).digest].status == "failed"
    assert "does not match its checksum" in results[key_of(2).digest].reason
    assert remote.get(key_of(2)) is None
    (pulled,) = pull(remote, other)
    assert (pulled.status, other.get(key_of(1))) == ("failed", None)
    assert not list(other.cache_dir.glob("??/*"))  # nothing half written


def test_what_still_grows_is_left_out(tmp_path: Path, remote: RemoteCache) -> None:
    local = FrameCache(tmp_path)
    for is_ended in (False, True):
        with local.growing_writer(key_of(1), facts={}, segment_frames=8) as writer:
            for start in (0, 8) if not is_ended else (16, 24):
                tensors = {name: tensor[start : start + 8] for name, tensor in frames_of(1, 32).items()}
                writer.append(tensors, np.arange(start, start + 8) / 2)
                writer.publish()
            writer.publish(is_ended=is_ended) if is_ended else None
        assert statuses(push(local, remote)) == ["copied" if is_ended else "growing"]
    entry = remote.get(key_of(1))
    assert entry is not None
    assert same_frames(entry, 1)
    assert statuses(compare(local, remote)) == ["same"]


def test_words_and_sides_that_cannot_be(tmp_path: Path, remote: RemoteCache) -> None:
    local = FrameCache(tmp_path)
    with pytest.raises(CacheError, match="no cache entry in"):
        push(local, remote, ["nothing"])
    with pytest.raises(CacheError, match="no cache entry in memory://"):
        pull(remote, local, ["nothing"])
    with pytest.raises(UsageError, match="between a folder and a store"):
        push(remote, remote)


def test_an_entry_that_is_written_here_is_not_overwritten(tmp_path: Path, remote: RemoteCache) -> None:
    local = FrameCache(tmp_path)
    write_entry(remote, 1, 16)
    with local.writer(key_of(1), facts={}) as writer:
        writer.append(frames_of(1, 16), np.arange(16) / 2)
        (pulled,) = pull(remote, local)
        assert (pulled.status, "is being written here" in pulled.reason) == ("failed", True)
        writer.finish()
    assert statuses(pull(remote, local)) == ["same"]
