"""Entries that earlier versions wrote are read, found and continued: nothing ever writes to `written_before/`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from blake3 import blake3

from voco_video import load_model
from voco_video.cache import CacheKey, FrameCache
from voco_video.cache.entry import CacheEntry

BEFORE = Path(__file__).parent / "written_before"
EXPECTED = json.loads((BEFORE / "expected.json").read_text())


@pytest.fixture
def cache(tmp_path) -> FrameCache:
    """A cache of entries that were written before packages had folders, in a copy that a test may change."""
    shutil.copytree(BEFORE / "cache", tmp_path / "cache")
    return FrameCache(tmp_path / "cache")


def content(entry: CacheEntry) -> dict[str, Any]:
    """An entry's times and tensors, as expected.json has them."""
    tensors = {
        name: [list(t.shape), str(t.dtype), blake3(t.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()]
        for name, t in sorted(entry.read().items())
    }
    return {"digest": entry.digest, "pts_seconds": entry.pts_seconds.tolist(), "tensors": tensors}


@pytest.mark.parametrize("name", ["whole", "int8", "growing"])
def test_an_earlier_entry_is_read(cache, name):
    assert content(cache.find(EXPECTED[name]["digest"])) == EXPECTED[name]


def test_earlier_entries_are_sound(cache):
    assert {result.digest: result.status for result in cache.verify()} == {
        EXPECTED[name]["digest"]: "partial" if name == "interrupted" else "ok"
        for name in ("whole", "int8", "growing", "interrupted")
    }


def test_an_earlier_growing_entry_goes_on(cache):
    key = CacheKey("ab" * 32, "cd" * 32, {"stream": "door"})
    with cache.growing_writer(key, facts={"source": "camera"}) as writer:
        writer.append({"embeds": torch.full((1, 2, 4), 13.0)}, np.array([13.0]))
        writer.publish(is_ended=True)
    entry = cache.get(key)
    assert entry.read()["embeds"][:, 0, 0].tolist() == list(range(14))
    assert not entry.is_growing


def test_an_earlier_interrupted_entry_goes_on(cache):
    key = CacheKey("ab" * 32, "cd" * 32, {"interrupted": True})
    assert key.digest == EXPECTED["interrupted"]["digest"]
    with cache.writer(key, facts={"source": "camera"}, segment_frames=2) as writer:
        assert writer.num_frames == 5
        writer.append({"embeds": torch.full((1, 2, 4), 5.0)}, np.array([5.0]))
        writer.finish()
    assert cache.get(key).read()["embeds"][:, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_an_earlier_video_is_found_and_answers_as_it_did(cache):
    model = load_model("voco-tiny", cache_dir=cache.cache_dir)
    video = model.compress(BEFORE / "clip.mp4", num_frames=3)
    assert video.from_cache
    assert {question: video.ask(question).text for question in EXPECTED["answers"]} == EXPECTED["answers"]
