"""The frame cache: round trips, windows, batches, keys, lookups."""

from __future__ import annotations

import os
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from tests.helpers.cached_frames import assert_same, frames, key, pts, write
from voco_video.cache import CacheKey, FrameCache, digest_file
from voco_video.cache.int8 import dequantize, quantize
from voco_video.errors import CacheError, UsageError


@pytest.fixture
def cache(tmp_path: Path) -> FrameCache:
    return FrameCache(tmp_path / "cache")


DTYPES = ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
DTYPES += ["int64", "int32", "int16", "int8", "uint8", "bool"]


@pytest.mark.parametrize("dtype", [getattr(torch, name) for name in DTYPES], ids=DTYPES)
def test_round_trip_is_bitwise_for_every_dtype(cache: FrameCache, dtype: torch.dtype) -> None:
    tensors = {"x": torch.arange(7 * 3).view(7, 3).to(dtype), "y": torch.ones(7, 1, dtype=torch.uint8)}
    with cache.writer(key(), facts={}, segment_frames=4) as writer:
        for start in (0, 3, 6):
            writer.append({name: t[start : start + 3] for name, t in tensors.items()}, pts(start, min(start + 3, 7)))
        writer.finish()
    entry = FrameCache(cache.cache_dir).get(key())
    assert entry is not None
    read = entry.read()
    assert {name: t.dtype for name, t in read.items()} == {"x": dtype, "y": torch.uint8}
    for name, tensor in tensors.items():
        assert torch.equal(read[name].view(torch.uint8), tensor.view(torch.uint8))


def test_int8_round_trip_keeps_the_quantized_bits(cache: FrameCache) -> None:
    stored = quantize(frames(0, 6))
    with cache.writer(key(), facts={}) as writer:
        writer.append(stored, pts(0, 6))
        entry = writer.finish()
    assert_same(entry.read(), stored)
    restored = dequantize(entry.read(2, 4), dtype=torch.float32)
    torch.testing.assert_close(restored, frames(2, 4), rtol=0.01, atol=0.01)


def test_an_entry_tells_everything_about_itself(cache: FrameCache) -> None:
    before = time.time()
    entry = write(cache, key(form="kv"), facts={"video": "clip.mp4", "size": (3, 4)})
    assert entry.num_frames == 10
    assert entry.key == key(form="kv")
    assert entry.digest == entry.key.digest == entry.directory.name
    assert entry.facts == {"video": "clip.mp4", "size": [3, 4]}
    assert {name: (spec.dtype, spec.shape) for name, spec in entry.tensors.items()} == {
        "keys": (torch.float32, (2, 3)),
        "values": (torch.float32, (5,)),
    }
    assert entry.bytes_per_frame == 4 * (6 + 5)
    assert entry.size_bytes == sum(f.stat().st_size for f in entry.directory.glob("segment-*"))
    assert entry.pts_seconds.dtype == np.float64
    np.testing.assert_array_equal(entry.pts_seconds, pts(0, 10))
    assert before - 1 <= entry.created.timestamp() <= time.time()
    assert not list(entry.directory.glob("journal*"))


def test_every_window_equals_the_same_slice_of_everything(cache: FrameCache) -> None:
    entry = write(cache, key(), num_frames=11, batch=3)  # segments of 6 and 5
    everything = frames(0, 11)
    for start in range(12):
        for stop in range(start, 12):
            assert_same(entry.read(start, stop), {name: t[start:stop] for name, t in everything.items()})
    for window in [(-1, 3), (3, 2), (0, 12)]:
        with pytest.raises(UsageError, match="not within"):
            entry.read(*window)


def test_a_window_opens_only_its_segments(cache: FrameCache) -> None:
    entry = write(cache, key(), num_frames=12)  # segments of 4
    for index in (0, 2):
        (entry.directory / f"segment-{index:06d}.safetensors").unlink()
    assert_same(entry.read(5, 7), frames(5, 7))
    with pytest.raises(CacheError, match=r"segment-000002.safetensors is missing.*cache rm"):
        entry.read(5, 9)


def test_a_window_inside_a_segment_is_mapped_not_copied(cache: FrameCache) -> None:
    entry = write(cache, key())
    window = entry.read(1, 3)["keys"]
    segment = entry.directory / "segment-000000.safetensors"
    assert window.untyped_storage().nbytes() == segment.stat().st_size  # all of the file: a view, not a copy
    assert mapped_file(window.data_ptr()) == str(segment)
    window.fill_(7)  # private to this read
    assert_same(entry.read(1, 3), frames(1, 3))
    entry.verify()


def test_a_longer_window_is_read_from_its_segments(cache: FrameCache) -> None:
    entry = write(cache, key(), num_frames=12)  # segments of 4
    for window in ((0, 12), (3, 5), (2, 11), (4, 12)):
        assert_same(entry.read(*window), frames(*window))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "preadv", lambda fd, buffers, offset, read=os.preadv: read(fd, [buffers[0][:5]], offset))
        assert_same(entry.read(1, 12), frames(1, 12))  # no more at once than the system likes to give
        patch.setattr(os, "preadv", lambda fd, buffers, offset: 0)
        with pytest.raises(CacheError, match=r"segment-000000\.safetensors was cut off while it was read"):
            entry.read(1, 12)


def test_a_row_of_each_frame_is_read_alone(cache: FrameCache) -> None:
    entry = write(cache, key(), num_frames=12)  # segments of 4
    for start, stop in ((0, 12), (1, 3), (2, 11), (5, 5)):
        whole = frames(start, stop)
        for row in (0, 1, -1):
            read = entry.read_row(["keys", "values"], row, start, stop)
            assert_same(read, {name: whole[name][:, row] for name in ("keys", "values")})
    with pytest.raises(UsageError, match="not within"):
        entry.read_row(["keys"], 0, 3, 13)


def mapped_file(address: int) -> str:
    """The file that is memory-mapped at an address of this process."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(part, 16) for part in line.split()[0].split("-"))
        if begin <= address < end:
            return line.split(maxsplit=5)[-1]
    raise AssertionError(f"nothing is mapped at {address:#x}")


def test_segments_are_ordinary_safetensors_files(cache: FrameCache) -> None:
    entry = write(cache, key())
    with safe_open(entry.directory / "segment-000001.safetensors", framework="pt") as file:
        assert file.metadata() == {
            "format_version": "1", "key_digest": entry.digest, "first_frame": "4", "num_frames": "4"
        }  # fmt: skip
        assert torch.equal(file.get_tensor("values"), frames(4, 8)["values"])
        assert file.get_tensor("pts_seconds").tolist() == pts(4, 8).tolist()


def test_an_append_is_never_split_and_full_segments_are_flushed(cache: FrameCache) -> None:
    with cache.writer(key(), facts={}, segment_frames=4) as writer:
        for start, stop in [(0, 3), (3, 6), (6, 16), (16, 17)]:
            writer.append(frames(start, stop), pts(start, stop))
        entry = writer.finish()
    starts = [s.first_frame for s in entry._manifest.segments]
    assert starts == [0, 6, 16]
    assert_same(entry.read(), frames(0, 17))


def test_large_frames_make_small_segments(cache: FrameCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voco_video.cache.writer.MAX_SEGMENT_BYTES", 80)
    entry = write(cache, key(), num_frames=6)
    assert len(entry._manifest.segments) == 3


def test_appended_tensors_may_be_reused_by_the_caller(cache: FrameCache) -> None:
    with cache.writer(key(), facts={}) as writer:
        buffer, times = frames(0, 2), pts(0, 2)
        writer.append(buffer, times)
        for tensor in buffer.values():
            tensor.zero_()
        times += 5
        writer.append(
            {name: t.transpose(0, -1).contiguous().transpose(0, -1) for name, t in frames(2, 4).items()},
            pts(2, 4),
        )
        entry = writer.finish()
    assert_same(entry.read(), frames(0, 4))
    np.testing.assert_array_equal(entry.pts_seconds, pts(0, 4))


@pytest.mark.parametrize(
    ("tensors", "times", "message"),
    [
        ({"x": torch.zeros(3, 2)}, pts(0, 2), "2 frames on axis 0"),
        ({"x": torch.zeros(2, dtype=torch.complex64)}, pts(0, 2), "storable"),
        ({"pts_seconds": torch.zeros(2)}, pts(0, 2), "reserved"),
        ({"x": torch.zeros(2)}, np.array([0.0, np.nan]), "finite"),
        ({"x": torch.zeros(2)}, np.array([1.0, 0.0]), "ascending"),
        ({"x": torch.zeros(0)}, np.zeros(0), "nothing to append"),
        ({}, pts(0, 2), "nothing to append"),
        ({"x": torch.tensor(1.0)}, np.array(0.0), "nothing to append"),
    ],
)
def test_bad_batches_are_refused(
    cache: FrameCache, tensors: dict[str, torch.Tensor], times: np.ndarray, message: str
) -> None:
    with cache.writer(key(), facts={}) as writer, pytest.raises(CacheError, match=message):
        writer.append(tensors, times)
    with cache.writer(key(), facts={}) as writer, pytest.raises(CacheError, match="no frames"):
        writer.finish()


def test_a_batch_must_continue_the_ones_before(cache: FrameCache) -> None:
    with cache.writer(key(), facts={}, segment_frames=2) as writer:
        for flushed in (False, True):
            writer.append({"x": torch.zeros(1, 3)}, np.array([5.0 + flushed]))
            with pytest.raises(CacheError, match="cannot append"):
                writer.append({"x": torch.zeros(1, 4)}, np.array([9.0]))
            with pytest.raises(CacheError, match="comes after"):
                writer.append({"x": torch.zeros(1, 3)}, np.array([4.0]))
        writer.finish()
        with pytest.raises(CacheError, match="complete"):
            writer.append({"x": torch.zeros(1, 3)}, np.array([9.0]))
    with cache.writer(key("b"), facts={}) as writer:
        pass
    with pytest.raises(CacheError, match="has ended"):
        writer.append({"x": torch.zeros(1, 3)}, np.array([9.0]))


def test_any_field_or_setting_changes_the_digest() -> None:
    base = CacheKey("ab" * 32, "cd" * 32, {"k": 1, "nested": {"a": [1, 2], "b": None}})
    others = [
        CacheKey("ab" * 31 + "ac", "cd" * 32, base.settings),
        CacheKey("ab" * 32, "cd" * 31 + "ce", base.settings),
        CacheKey("cd" * 32, "ab" * 32, base.settings),
        *(CacheKey("ab" * 32, "cd" * 32, {**base.settings, "k": k}) for k in (2, 1.0, "1", True, None)),
        CacheKey("ab" * 32, "cd" * 32, {"k": 1, "nested": {"a": [2, 1], "b": None}}),
    ]
    assert len({k.digest for k in [base, *others]}) == len(others) + 1
    assert CacheKey("ab" * 32, "cd" * 32, {"nested": {"b": None, "a": (1, 2)}, "k": 1}) == base
    assert CacheKey.from_json(base.to_json()) == base
    assert len({base, CacheKey.from_json(base.to_json())}) == 1


def test_the_digest_is_a_promise_to_caches_on_disk() -> None:
    digest = CacheKey("ab" * 32, "cd" * 32, {"form": "kv", "fps": 0.5}).digest
    assert digest == "425a44bd4e18c9ba4e0728ef1bd5efd2041009cf60d4d6540d48dcaac93a9511"


@pytest.mark.parametrize(
    ("digest", "settings"),
    [("ab", {}), ("AB" * 32, {}), ("ab" * 32, {"x": object()}), ("ab" * 32, {"x": np.nan})],
)
def test_bad_keys_are_refused(digest: str, settings: dict[str, Any]) -> None:
    with pytest.raises(CacheError):
        CacheKey(digest, "cd" * 32, settings)


def test_settings_are_copied() -> None:
    settings = {"list": [1]}
    made = key(**settings)
    settings["list"].append(2)
    assert made.settings == {"list": [1]}


@pytest.mark.parametrize("size_bytes", [0, 1, 1 << 20, (1 << 20) + 1])
def test_digest_of_a_file_depends_on_its_bytes_alone(tmp_path: Path, size_bytes: int) -> None:
    data = bytes(range(256)) * (size_bytes // 256 + 1)
    (tmp_path / "a").write_bytes(data[:size_bytes])
    (tmp_path / "b").write_bytes(data[:size_bytes])
    assert digest_file(tmp_path / "a") == digest_file(str(tmp_path / "b")) != digest_file(__file__)
    with pytest.raises(CacheError, match="missing"):
        digest_file(tmp_path / "missing")


def test_absent_unfinished_and_finished(cache: FrameCache) -> None:
    assert cache.get(key()) is None
    assert not cache.contains(key())
    assert (cache.entries(), cache.partial(), cache.verify(), cache.prune()) == ([], [], [], [])
    with cache.writer(key(), facts={"video": "v"}, segment_frames=4) as writer:
        writer.append(frames(0, 6), pts(0, 6))
        assert cache.partial()[0].is_being_written
        assert [r.reason for r in cache.verify()] == ["being written now"]
    assert cache.get(key()) is None
    (partial,) = cache.partial()
    assert (partial.num_frames, partial.key, partial.facts) == (6, key(), {"video": "v"})
    assert not partial.is_being_written
    assert [(r.status, r.ok) for r in cache.verify()] == [("partial", True)]
    with pytest.raises(CacheError, match="unfinished"):
        cache.find(key().digest)
    write(cache, key())
    assert cache.contains(key())
    assert cache.partial() == []
    assert [(r.status, r.reason) for r in cache.verify()] == [("ok", "")]


def test_find_takes_an_unambiguous_prefix(cache: FrameCache) -> None:
    digests = [write(cache, key(name)).digest for name in "abcdefghijklmnopqrstuvw"]
    assert cache.find(digests[3][:16]).digest == digests[3]
    for prefix in ("", "x", digests[3] + "0"):
        with pytest.raises(CacheError, match="no cache entry"):
            cache.find(prefix)
    with pytest.raises(CacheError, match="give at least 4 digits"):
        cache.find(digests[3][:3])
    twin = digests[3][:4] + "0" * 60
    (cache.cache_dir / twin[:2] / twin).mkdir()
    with pytest.raises(CacheError, match=f"2 cache entries start with .*; give more digits: .*{digests[3][:12]}"):
        cache.find(digests[3][:4])
    assert cache.find(digests[3][:5]).digest == digests[3]


def test_a_complete_entry_needs_no_writing(cache: FrameCache) -> None:
    write(cache, key())
    with cache.writer(key(), facts={}) as writer:
        assert writer.entry is not None
        assert writer.num_frames == 10
        assert writer.finish() is writer.entry


def test_a_closed_entry_opens_again_for_reading(cache: FrameCache) -> None:
    write(cache, key())
    (entry,) = cache.entries()
    assert_same(entry.read(2, 7), frames(2, 7))
    with entry:
        pass
    cache.remove(entry.digest[:10])
    with pytest.raises(CacheError, match="was deleted"):
        entry.read()


def test_cache_and_entries_travel_to_worker_processes(cache: FrameCache) -> None:
    entry = pickle.loads(pickle.dumps(write(cache, key())))
    assert_same(entry.read(2, 7), frames(2, 7))
    assert pickle.loads(pickle.dumps(cache)).contains(key())


def test_open_files_do_not_grow_with_reads_and_entries(cache: FrameCache) -> None:
    entries = [write(cache, key(name), num_frames=40) for name in "abc"]
    num_open = len(os.listdir("/dev/fd"))
    tensors = [entry.read() for entry in entries for _ in range(5)] + [entries[0].read(1, 2) for _ in range(50)]
    assert len(os.listdir("/dev/fd")) == num_open
    assert len(cache.entries()) == 3
    del entries, tensors
    assert len(os.listdir("/dev/fd")) == num_open - 2 * 3
