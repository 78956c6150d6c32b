"""The cache format's page is enough to write a reader from: the one that it shows reads what the package writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.cached_frames import frames, key, pts, write
from tests.helpers.pages import ROOT, blocks
from voco_video.cache import CacheEntry, FrameCache
from voco_video.cache.int8 import dequantize, quantize

PAGE = ROOT / "docs" / "cache-format.md"


@pytest.fixture(scope="module")
def reader() -> dict[str, Any]:
    """The functions of the page's reader, which imports nothing of ours."""
    (block,) = [block for block in blocks(PAGE) if block.language == "python"]
    assert "voco_video" not in block.code
    assert "torch" not in block.code
    names: dict[str, Any] = {}
    exec(block.code, names)
    return names


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def assert_same_frames(read_entry: Callable[[Path], dict[str, np.ndarray]], entry: CacheEntry) -> None:
    found, expected = read_entry(entry.directory), entry.read()
    np.testing.assert_array_equal(found.pop("pts_seconds"), entry.pts_seconds)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], as_numpy(tensor))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_an_entry_is_read_by_the_page_alone(tmp_path, reader, dtype):
    cache = FrameCache(tmp_path)
    with cache.writer(key(fps=0.04, name="ünïcode 𝄞", tiny=1e-7, big=1e16), facts={}, segment_frames=4) as writer:
        writer.append(frames(0, 10, dtype), pts(0, 10))
        entry = writer.finish({"video": "clip.mp4"})
    assert_same_frames(reader["read_entry"], entry)


def test_an_entry_of_several_segments_is_read(tmp_path, reader):
    assert_same_frames(reader["read_entry"], write(FrameCache(tmp_path), key(), 11))


def test_entries_of_earlier_versions_are_read(reader):
    entries = FrameCache(Path(__file__).parent / "written_before" / "cache").entries()
    assert {entry.is_growing for entry in entries} == {False, True}
    for entry in entries:
        assert_same_frames(reader["read_entry"], entry)


def test_a_growing_entry_is_read_after_every_publication(tmp_path, reader):
    cache = FrameCache(tmp_path)
    with cache.growing_writer(key(), facts={"source": "door"}, segment_frames=4) as writer:
        for frame in range(11):
            writer.append(frames(frame, frame + 1), pts(frame, frame + 1))
            writer.set_facts({"last": frame})
            writer.publish()
            with cache.find(key().digest) as entry:
                assert entry.num_frames == frame + 1
                assert_same_frames(reader["read_entry"], entry)
                assert reader["read_log"]((entry.directory / "growing.txt").read_bytes())["facts"] == entry.facts
        writer.publish(is_ended=True)
    assert_same_frames(reader["read_entry"], cache.find(key().digest))


def test_a_lost_line_of_a_log_is_noticed(tmp_path, reader):
    cache = FrameCache(tmp_path)
    with cache.growing_writer(key(), facts={}, segment_frames=100) as writer:
        for frame in range(4):
            writer.append(frames(frame, frame + 1), pts(frame, frame + 1))
            writer.publish()
    path = cache.find(key().digest).directory / "growing.txt"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], *lines[3:]]))
    with pytest.raises(ValueError, match="a line of the log is damaged"):
        reader["read_entry"](path.parent)


def test_int8_is_what_the_page_says(tmp_path, reader):
    cache, tensors = FrameCache(tmp_path), frames(0, 4)
    with cache.writer(key(storage="int8"), facts={}) as writer:
        writer.append(quantize(tensors), pts(0, 4))
        entry = writer.finish()
    found = reader["read_entry"](entry.directory)
    for name, tensor in dequantize(entry.read(), dtype=torch.float32).items():
        restored = found[f"{name}.int8"] * found[f"{name}.scale"][..., None]
        np.testing.assert_allclose(restored, tensor.numpy(), rtol=1e-6)


@pytest.mark.parametrize("file", ["manifest.json", "segment-000001.safetensors"])
def test_damage_is_noticed(tmp_path, reader, file):
    entry = write(FrameCache(tmp_path), key())
    path = entry.directory / file
    data = bytearray(path.read_bytes())
    place = data.index(b'"num_frames": ') + 14 if file == "manifest.json" else len(data) // 2
    data[place] ^= 1  # another digit, another value
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="damaged"):
        reader["read_entry"](entry.directory)


def test_another_keys_entry_is_noticed(tmp_path, reader):
    entry = write(FrameCache(tmp_path), key())
    moved = entry.directory.rename(entry.directory.with_name("0" * 64))
    with pytest.raises(ValueError, match="another key"):
        reader["read_entry"](moved)
