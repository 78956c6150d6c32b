"""Frames that tell by their values where they belong, and a cache entry made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from voco_video.cache import CacheEntry, CacheKey, FrameCache

SEGMENT_FRAMES = 4


def key(name: str = "a", **settings: Any) -> CacheKey:
    return CacheKey(name.encode().hex().ljust(64, "0"), "cd" * 32, settings)


def frames(start: int, stop: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Tensors whose every value tells frame and place, [F, 2, 3] and [F, 5]."""
    index = torch.arange(start, stop, dtype=torch.float64)
    keys = index[:, None, None] + torch.arange(6.0).view(2, 3) / 8
    return {"keys": keys.to(dtype), "values": (-index[:, None] - torch.arange(5.0) / 8).to(dtype)}


def pts(start: int, stop: int) -> np.ndarray:
    return np.arange(start, stop) / 3


def write(
    cache: FrameCache,
    key: CacheKey,
    num_frames: int = 10,
    *,
    batch: int = 2,
    facts: Mapping[str, Any] | None = None,
) -> CacheEntry:
    with cache.writer(key, facts=facts or {}, segment_frames=SEGMENT_FRAMES) as writer:
        for start in range(writer.num_frames, num_frames, batch):
            stop = min(start + batch, num_frames)
            writer.append(frames(start, stop), pts(start, stop))
        return writer.finish()


def assert_same(read: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    assert read.keys() == expected.keys()
    for name in expected:
        assert read[name].dtype == expected[name].dtype
        assert torch.equal(read[name], expected[name]), name
