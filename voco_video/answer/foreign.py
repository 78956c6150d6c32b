"""Recognising videos of something that the model was never trained on, by the entry's facts or else by its tokens."""

from __future__ import annotations

from collections.abc import Sequence

from voco_video.answer.frame_budget import spread
from voco_video.cache import CacheEntry
from voco_video.checkpoint.recommended import DEFAULT
from voco_video.checkpoint.world import VISION, FrameCounts, World, stored_features
from voco_video.stored_tokens import compressor_of, read_tokens

MAX_FRAMES = 64  # of an entry that does not record it, whose tokens are looked at


def counted(world: World, entry: CacheEntry) -> FrameCounts | None:
    """Count the foreign frames of an entry; None where nothing tells.

    Raises:
        CacheError: the entry is damaged.
    """
    return FrameCounts.of_fact(entry.facts.get("world")) or counted_by_tokens(world, entry)


def counted_by_tokens(world: World, entry: CacheEntry) -> FrameCounts | None:
    """Count the foreign frames among at most `MAX_FRAMES` of an entry, by the tokens that it holds; None as above."""
    if compressor_of(entry).name != "voco" or world.familiar.keys() == {VISION}:
        return None
    found: list[FrameCounts] = []
    for frame in spread(entry.num_frames, MAX_FRAMES).tolist():
        one = world.count(stored_features(read_tokens(entry, frame, frame + 1)))
        found += [] if one is None else [one]
    return sum(found[1:], found[0]) if found else None


def foreign_note(world: World, counts: Sequence[FrameCounts]) -> str:
    """Say that videos are of something else than the model knows, and what to do; empty where none of them is."""
    foreign = [one for one in counts if one.is_foreign]
    if not foreign:
        return ""
    num_foreign, num_frames = sum(one.num_foreign for one in foreign), sum(one.num_frames for one in foreign)
    few = "" if len(foreign) == len(counts) else f" in {len(foreign)} of {len(counts)} videos"
    return (
        f"this model was trained on {world.about} and on nothing else, and {num_foreign} of {num_frames} frames{few} "
        f"are unlike that, so what it says of them means nothing; ask a model of real videos, such as {DEFAULT.short}"
    )
