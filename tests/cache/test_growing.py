"""Entries that are read while they grow: what is published is seen, survives, and is only ever added to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from blake3 import blake3

from voco_video.cache import CacheKey, FrameCache
from voco_video.errors import CacheError

KEY = CacheKey("ab" * 32, "cd" * 32, {"stream": "door"})


@pytest.fixture
def cache(tmp_path) -> FrameCache:
    return FrameCache(tmp_path / "cache")


def frames(first: int, stop: int) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    numbers = torch.arange(first, stop, dtype=torch.float32)
    return {"embeds": numbers[:, None, None].expand(-1, 2, 4)}, np.arange(first, stop, dtype=np.float64)


def numbers_in(entry) -> list[int]:
    tensor = entry.read()["embeds"]
    assert tensor.shape[1:] == (2, 4)
    assert torch.equal(tensor[:, 0, 0].double(), torch.from_numpy(entry.pts_seconds.copy()))
    return tensor[:, 0, 0].int().tolist()


def files(entry) -> list[str]:
    return sorted(path.name for path in entry.directory.glob("segment-*"))


def test_readers_see_what_is_published_and_nothing_else(cache):
    other = FrameCache(cache.cache_dir)
    with cache.growing_writer(KEY, facts={"source": "camera"}) as writer:
        assert other.get(KEY) is None
        writer.append(*frames(0, 3))
        assert other.get(KEY) is None
        writer.publish()
        early = other.get(KEY)
        writer.append(*frames(3, 5))
        assert numbers_in(other.get(KEY)) == [0, 1, 2]
        writer.set_facts({"num_dropped_frames": 4})
        writer.publish()
        later = other.get(KEY)
        assert (numbers_in(early), numbers_in(later)) == ([0, 1, 2], [0, 1, 2, 3, 4])
        assert later.is_growing
        assert (early.facts, later.facts) == ({"source": "camera"}, {"source": "camera", "num_dropped_frames": 4})
        assert [entry.digest for entry in other.entries()] == [KEY.digest]
        assert [(result.status, result.reason) for result in other.verify()] == [("ok", "")]
        assert other.is_being_written(KEY.digest)
        writer.publish(is_ended=True)
    assert not other.is_being_written(KEY.digest)
    assert not other.get(KEY).is_growing
    assert numbers_in(other.find(KEY.digest[:8])) == [0, 1, 2, 3, 4]


def test_publications_are_merged_and_their_files_go_when_nobody_reads(cache):
    with cache.growing_writer(KEY, facts={}, segment_frames=8) as writer:
        for first in range(0, 6, 2):
            writer.append(*frames(first, first + 2))
            writer.publish()
        early = cache.get(KEY)
        assert len(files(early)) == 3
        writer.append(*frames(6, 9))
        writer.publish()
        later = cache.get(KEY)
        assert numbers_in(later) == list(range(9))
        assert len(files(later)) == 5, "a reader may still need the four that were merged"
        assert numbers_in(early) == list(range(6))
        early.close()
        later.close()
        writer.append(*frames(9, 20))
        writer.publish()
        assert len(files(later)) == 2
        assert numbers_in(early) == list(range(6)), "an entry that was closed reads on from the merged files"
        assert numbers_in(cache.get(KEY)) == list(range(20))


def test_files_that_a_reader_kept_are_tidied_up_later(cache):
    with cache.growing_writer(KEY, facts={}, segment_frames=4) as writer:
        writer.append(*frames(0, 2))
        writer.publish()
        reader = cache.get(KEY)
        writer.append(*frames(2, 4))
        writer.publish()
    assert sorted(result.status for result in cache.verify()) == ["ok", "stale", "stale"]
    cache.prune()
    assert numbers_in(reader) == [0, 1]
    assert len(files(reader)) == 3
    reader.close()
    cache.prune()
    assert len(files(reader)) == 1
    assert numbers_in(cache.get(KEY)) == [0, 1, 2, 3]


def test_a_later_run_goes_on_where_the_last_publication_was(cache):
    def interrupted_run():
        with cache.growing_writer(KEY, facts={"source": "camera"}) as writer:
            writer.append(*frames(0, 3))
            writer.publish(is_ended=True)
            writer.append(*frames(3, 4))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_run()
    with cache.growing_writer(KEY, facts={}) as writer:
        assert (writer.num_frames, writer.first_pts_seconds, writer.last_pts_seconds) == (4, 0.0, 3.0)
        assert writer.facts == {"source": "camera"}
        writer.append(*frames(4, 6))
    entry = cache.get(KEY)
    assert numbers_in(entry) == list(range(6))
    assert entry.is_growing, "what ended once goes on"


def test_a_torn_line_does_not_count_and_is_written_over(cache):
    """Cut at every byte of the last line: the frames before it stay, those in it come again."""
    with cache.growing_writer(KEY, facts={}) as writer:
        writer.append(*frames(0, 2))
        writer.publish()
        whole = writer.log.size_bytes
        writer.append(*frames(2, 4))
        writer.publish()
        directory = writer.directory
    data = (directory / "growing.txt").read_bytes()
    for size in range(whole, len(data)):
        (directory / "growing.txt").write_bytes(data[:size])
        assert numbers_in(cache.get(KEY)) == [0, 1]
    with cache.growing_writer(KEY, facts={}) as writer:
        assert writer.num_frames == 2
        writer.append(*frames(2, 5))
    assert numbers_in(cache.get(KEY)) == [0, 1, 2, 3, 4]
    assert [result.status for result in cache.verify()] == ["ok"]


def test_a_torn_beginning_is_no_entry(cache):
    with cache.growing_writer(KEY, facts={}) as writer:
        writer.append(*frames(0, 2))
    log = writer.directory / "growing.txt"
    data = log.read_bytes()
    for size in (0, 10, data.index(b"\n"), data.index(b"\n") + 1, len(data) - 1):
        log.write_bytes(data[:size])
        assert cache.get(KEY) is None
        assert cache.entries() == []
    with pytest.raises(CacheError, match="unfinished"):
        cache.find(KEY.digest)
    with cache.growing_writer(KEY, facts={}) as writer:
        writer.append(*frames(0, 3))
    assert numbers_in(cache.get(KEY)) == [0, 1, 2]


@pytest.mark.parametrize("place", [5, 200, -40])
def test_altered_bytes_are_found(cache, place):
    with cache.growing_writer(KEY, facts={}) as writer:
        for first in (0, 2):
            writer.append(*frames(first, first + 2))
            writer.publish()
    log = writer.directory / "growing.txt"
    data = bytearray(log.read_bytes())
    data[place] ^= 1
    log.write_bytes(data)
    with pytest.raises(CacheError, match="damaged"):
        cache.get(KEY)
    assert [result.status for result in cache.verify()] == ["damaged"]
    with pytest.raises(CacheError, match="--force"), cache.growing_writer(KEY, facts={}):
        pass
    cache.prune()
    with cache.growing_writer(KEY, facts={}, restart=True) as writer:
        writer.append(*frames(0, 1))
    assert numbers_in(cache.get(KEY)) == [0]


def test_a_damaged_segment_is_found(cache):
    with cache.growing_writer(KEY, facts={}) as writer:
        writer.append(*frames(0, 2))
    segment = next(writer.directory.glob("segment-*"))
    data = bytearray(segment.read_bytes())
    data[-3] ^= 1
    segment.write_bytes(data)
    assert [result.status for result in cache.verify()] == ["damaged"]


def test_pruning_and_removing_leave_a_stream_alone_while_it_runs(cache):
    with cache.growing_writer(KEY, facts={}) as writer:
        writer.append(*frames(0, 2))
        writer.publish()
        assert cache.prune(0, partial=True) == []
        with pytest.raises(CacheError, match="being written"):
            cache.remove(KEY.digest)
        with pytest.raises(CacheError, match="by another process"), cache.growing_writer(KEY, facts={}):
            pass
        writer.append(*frames(2, 4))
    reader = cache.get(KEY)
    assert cache.prune(0) == [], "somebody reads it"
    assert numbers_in(reader) == [0, 1, 2, 3]
    reader.close()
    assert cache.prune(partial=True) == [], "what is published is no leftover of an interrupted run"
    assert cache.prune(0) == [KEY.digest]
    assert cache.get(KEY) is None


def test_starting_over_keeps_what_a_reader_has_open(cache):
    with cache.growing_writer(KEY, facts={}) as writer:
        writer.append(*frames(0, 4))
    reader = cache.get(KEY)
    with cache.growing_writer(KEY, facts={}, restart=True) as writer:
        writer.append(*frames(10, 12))
    assert numbers_in(reader) == [0, 1, 2, 3]
    assert numbers_in(cache.get(KEY)) == [10, 11]
    reader.close()
    with pytest.raises(CacheError, match="replaced"):
        reader.read()


def test_frames_that_cannot_follow(cache):
    with cache.growing_writer(KEY, facts={}) as writer:
        writer.append(*frames(5, 7))
        with pytest.raises(CacheError, match=r"at 3\.0 s comes after one at 6\.0 s"):
            writer.append(*frames(3, 4))
        with pytest.raises(CacheError, match="cannot append"):
            writer.append({"embeds": torch.zeros(1, 3, 4)}, np.array([9.0]))
        writer.publish()
        with pytest.raises(CacheError, match="cannot append"):
            writer.append({"embeds": torch.zeros(1, 2, 4, dtype=torch.int8)}, np.array([9.0]))
    with (
        pytest.raises(CacheError, match="no frames"),
        cache.growing_writer(CacheKey("ab" * 32, "cd" * 32, {"stream": "empty"}), facts={}) as writer,
    ):
        writer.publish(is_ended=True)


def published_in_steps(cache: FrameCache, *, num_steps: int = 6, is_ended: bool = True) -> Path:
    """An entry of two frames a step, of which the first four steps were merged; returns its log."""
    with cache.growing_writer(KEY, facts={"source": "camera"}, segment_frames=8) as writer:
        for step in range(num_steps):
            writer.append(*frames(2 * step, 2 * step + 2))
            writer.set_facts({"num_dropped_frames": step})
            writer.publish()
        if is_ended:
            writer.publish(is_ended=True)
    return writer.directory / "growing.txt"


def damaged_logs(lines: list[bytes]) -> dict[str, list[bytes]]:
    """A log's lines with one lost or doubled, or two swapped, in every way but at the end."""
    damaged: dict[str, list[bytes]] = {}
    for i in range(len(lines)):
        damaged[f"doubled {i}"] = [*lines[: i + 1], *lines[i:]]
        damaged[f"doubled at the end {i}"] = [*lines, lines[i]]
        if i < len(lines) - 1:
            damaged[f"lost {i}"] = [*lines[:i], *lines[i + 1 :]]
        for j in range(i):
            swapped = list(lines)
            swapped[i], swapped[j] = lines[j], lines[i]
            damaged[f"swapped {i}, {j}"] = swapped
    return damaged


def test_a_line_that_is_lost_doubled_or_swapped_is_noticed(cache):
    log = published_in_steps(cache)
    lines = log.read_bytes().splitlines(keepends=True)
    for name, damaged in damaged_logs(lines).items():
        log.write_bytes(b"".join(damaged))
        with pytest.raises(CacheError, match=r"damaged cache entry .*growing\.txt"):
            cache.get(KEY)
        assert [result.status for result in cache.verify()] == ["damaged"], name


def test_a_lost_end_gives_true_frames_and_is_said(cache, caplog):
    with cache.growing_writer(KEY, facts={}) as writer:
        for first in (0, 2, 4):
            writer.append(*frames(first, first + 2))
            writer.publish()
        log = writer.directory / "growing.txt"
        assert numbers_in(cache.get(KEY)) == list(range(6))
    data = log.read_bytes()
    assert not caplog.text
    for cut in (data[: data.rindex(b"\n", 0, -1) + 1], data[:-1], data[:-40]):
        log.write_bytes(cut)
        caplog.clear()
        assert numbers_in(cache.get(KEY)) == [0, 1, 2, 3]
        assert "only its first 4 frames can be read" in caplog.text
    with cache.growing_writer(KEY, facts={}) as writer:
        writer.append(*frames(4, 5))
        writer.publish()
        caplog.clear()
        assert numbers_in(cache.get(KEY)) == [0, 1, 2, 3, 4]
        assert not caplog.text


def test_another_entrys_log_is_never_gone_on_with(cache):
    other = CacheKey("ab" * 32, "cd" * 32, {"stream": "garden"})
    with cache.growing_writer(other, facts={}) as writer:
        writer.append(*frames(50, 52))
    log = published_in_steps(cache)
    log.write_bytes((writer.directory / "growing.txt").read_bytes())
    with pytest.raises(CacheError, match="another key"):
        cache.get(KEY)
    with pytest.raises(CacheError, match="another key"), cache.growing_writer(KEY, facts={}):
        pass


def write_as_before(cache: FrameCache, *, num_steps: int) -> Path:
    """A log as voco-video wrote it before lines were chained, each line with a checksum of its own text alone."""
    log = published_in_steps(cache, num_steps=num_steps)
    contents = [json.loads(line.partition(b" ")[2]) for line in log.read_bytes().splitlines()]
    assert contents[0].pop("is_chained")
    texts = [json.dumps(content, sort_keys=True, separators=(",", ":")) for content in contents]
    lines = [f"{blake3(text.encode()).hexdigest()} {text}\n".encode() for text in texts]
    log.write_bytes(b"".join(lines))
    return log


def test_logs_from_before_lines_were_chained_are_read_and_gone_on_with(cache):
    log = write_as_before(cache, num_steps=6)
    entry = cache.get(KEY)
    assert numbers_in(entry) == list(range(12))
    assert entry.facts == {"source": "camera", "num_dropped_frames": 5}
    assert not entry.is_growing
    assert [result.status for result in cache.verify()] == ["ok"]
    entry.close()
    with cache.growing_writer(KEY, facts={}) as writer:
        assert writer.num_frames == 12
        writer.append(*frames(12, 14))
    assert numbers_in(cache.get(KEY)) == list(range(14))
    assert b"is_chained" not in log.read_bytes()


def test_in_logs_from_before_frames_that_do_not_follow_are_noticed(cache):
    log = write_as_before(cache, num_steps=6)
    lines = log.read_bytes().splitlines(keepends=True)
    num_noticed = 0
    for damaged in damaged_logs(lines).values():
        log.write_bytes(b"".join(damaged))
        try:
            entry = cache.get(KEY)
        except CacheError:
            num_noticed += 1
        else:
            assert numbers_in(entry) == list(range(12)), "lines of facts alone, whose order nothing tells"
            entry.close()
    assert num_noticed > len(damaged_logs(lines)) / 2
