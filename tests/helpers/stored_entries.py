"""Entries with known frames, written into caches of any kind."""

from __future__ import annotations

import numpy as np
import torch

from voco_video.cache import CacheEntry, CacheKey, FrameCache


def key_of(number: int) -> CacheKey:
    """The key of one of many entries."""
    return CacheKey(f"{number:064x}", "cd" * 32, {"form": "embeds", "num_voco_tokens": 2, "number": number})


def frames_of(number: int, num_frames: int, *, width: int = 64, form: str = "embeds") -> dict[str, torch.Tensor]:
    """The frames of that entry: different for each number, and for each frame of it."""
    generator = torch.Generator().manual_seed(number)
    if form == "embeds":
        return {"embeds": torch.randn(num_frames, 2, width, generator=generator)}
    shape = (num_frames, 3, 2, 2, width // 8)
    return {
        "keys": torch.randn(shape, generator=generator),
        "values": torch.randn(shape, generator=generator),
        "positions": torch.arange(num_frames * 2, dtype=torch.int32).reshape(num_frames, 2),
    }


def write_entry(
    cache: FrameCache, number: int, num_frames: int, *, width: int = 64, form: str = "embeds", restart: bool = False
) -> CacheEntry:
    """Write the entry, eight frames at a time."""
    frames = frames_of(number, num_frames, width=width, form=form)
    with cache.writer(key_of(number), facts={"source": f"/videos/{number}.mp4"}, restart=restart) as writer:
        for start in range(writer.num_frames, num_frames, 8):
            stop = min(start + 8, num_frames)
            writer.append({name: tensor[start:stop] for name, tensor in frames.items()}, np.arange(start, stop) / 2)
        return writer.finish()


def same_frames(entry: CacheEntry, number: int, start: int = 0, stop: int | None = None, *, width: int = 64) -> bool:
    """Tell whether a window of an entry is what was written."""
    form = "embeds" if "embeds" in entry.tensors else "kv"
    wanted, read = frames_of(number, entry.num_frames, width=width, form=form), entry.read(start, stop)
    return set(read) == set(wanted) and all(torch.equal(read[name], wanted[name][start:stop]) for name in wanted)
