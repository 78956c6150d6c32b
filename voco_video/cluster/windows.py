"""A long video in windows: cut where decoding can begin, and joined to the entry that it would have uncut.

Frames go through a model in batches, and numbers depend in their last digits on which frames share one. So windows end
where batches do, as near to a keyframe as that allows, and joining appends the same batches that an uncut run appends.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from voco_video.auto_compressor import frames_of_sampling, pictures_per_frame, with_compressor
from voco_video.cache import CacheEntry, CacheKey, FrameCache
from voco_video.cache.window import Window
from voco_video.checkpoint.world import FrameCounts
from voco_video.cluster.pieces import Cut
from voco_video.entry_keys import entry_key, video_digest
from voco_video.errors import CacheError, VideoError
from voco_video.options.compression import CompressOptions, parse_compressor
from voco_video.options.sampling import Sampling
from voco_video.video.media_files import as_video_errors
from voco_video.video.reading import open_video
from voco_video.video.sources import LocalVideo

if TYPE_CHECKING:
    from voco_video.api import VideoModel

LEAST_WINDOWS = 1.5  # a video that is hardly longer than a window is not cut


class UnfitWindowsError(Exception):
    """Windows that do not add up to what an uncut run gives, as frames of a damaged file are missing."""


def cut(
    model: VideoModel, local: LocalVideo, sampling: Sampling, options: CompressOptions, window_seconds: float
) -> Cut | None:
    """Cut a long video into windows; None where it stays whole: it is short, few frames are taken, or it is there.

    With ``batch_size="auto"`` batches depend on what is free on each machine, so nothing is cut.
    """
    size = options.batch_size
    if sampling.timestamps is not None or isinstance(size, str) or not _is_long(local, window_seconds):
        return None
    digest = video_digest(local)
    state = file_state(local)
    key_with = partial(entry_key, model.voco, digest, sampling=sampling, fingerprint=model.fingerprint)
    known = replace(local, digest=digest)
    options, _ = with_compressor(
        model.voco, options, lambda auto: frames_of_sampling(model.voco, known, model.cache, sampling, auto, key_with)
    )
    compressor = parse_compressor(options.compressor)
    if not compressor.sees_frames or (not options.force and model.cache.contains(key_with(options=options))):
        return None
    with open_video(known, backend=options.decoder) as video:
        plan, keyframes = video.plan(sampling), video.keyframe_seconds
    ends = window_ends(plan, keyframes, size * pictures_per_frame(model.voco, compressor, options), window_seconds)
    if len(ends) < 2:
        return None
    return Cut(digest, state, options, tuple(map(Window, [0, *ends], ends)))


def window_ends(plan: np.ndarray, keyframes: np.ndarray, batch: int, window_seconds: float) -> list[int]:
    """Choose where windows end: at multiples of a batch, where the fewest frames lie between a keyframe and the cut.

    Args:
        plan: [P] times of the pictures that are taken, in seconds.
        keyframes: [M] times at which decoding can begin.
        batch: pictures that go through the model at once.

    Returns:
        The number of the picture after each window; the last is P.

    >>> window_ends(np.arange(100.0), np.arange(0, 100, 7.0), 4, 30)
    [28, 64, 100]
    """
    seconds = float(plan[-1] - plan[0])
    num_windows = max(1, round(seconds / window_seconds))
    ends: list[int] = []
    for number in range(1, num_windows):
        target = float(plan[0]) + seconds * number / num_windows
        low, high = np.searchsorted(plan, [target - window_seconds / 4, target + window_seconds / 4]) / batch
        nearest = round(int(np.searchsorted(plan, target)) / batch)  # where a batch is longer than a window
        multiples = batch * np.unique([nearest, *range(math.ceil(low), math.floor(high) + 1)])
        multiples = multiples[(multiples > (ends[-1] if ends else 0)) & (multiples < len(plan))]
        if not len(multiples):
            continue
        starts = np.append(plan[0], keyframes[keyframes > plan[0]])
        lead_in = plan[multiples] - starts[np.searchsorted(starts, plan[multiples], side="right") - 1]
        best = np.lexsort((abs(plan[multiples] - target), lead_in))[0]
        ends.append(int(multiples[best]))
    return [*ends, len(plan)]


def check_unchanged(local: LocalVideo, cut: Cut) -> LocalVideo:
    """Return the video with its digest, which is not computed again; refuse one that changed since it was cut.

    Raises:
        VideoError: it did.
    """
    is_same = local.digest == cut.digest if local.digest is not None else file_state(local) == cut.state
    if not is_same:
        raise VideoError(f"{local.name}: the file changed while it was compressed")
    return replace(local, digest=cut.digest)


def file_state(local: LocalVideo) -> str:
    """Return what tells that a file on this machine, or a disk that machines share, has not changed."""
    if local.digest is not None or local.path is None:
        return ""
    status = os.stat(local.path)
    return f"{status.st_size} bytes, {status.st_mtime_ns} ns"


def join(model: VideoModel, cut: Cut, sampling: Sampling) -> tuple[CacheEntry | None, tuple[Window, ...]]:
    """Join the entries of a video's windows to the entry of the video, and drop them.

    Returns:
        The entry; or None, and the windows that are not in the cache.

    Raises:
        UnfitWindowsError: frames are missing in a window; the windows are dropped.
        CacheError: the cache cannot be written, or an entry is damaged.
    """
    cache, options = model.cache, cut.options
    assert isinstance(options.batch_size, int)
    key = entry_key(model.voco, cut.digest, sampling=sampling, options=options, fingerprint=model.fingerprint)
    keys = [window.key(key) for window in cut.windows]
    whole = None if options.force else cache.get(key)
    if whole is None:
        opened = [cache.get(one) for one in keys]
        missing = tuple(window for window, entry in zip(cut.windows, opened) if entry is None)
        if missing:
            return None, missing
        entries = [entry for entry in opened if entry is not None]
        per_frame = pictures_per_frame(model.voco, parse_compressor(options.compressor), options)
        if not all(_is_whole(entry, window, per_frame) for entry, window in zip(entries, cut.windows)):
            _drop(cache, keys)
            raise UnfitWindowsError
        whole = _written(cache, key, entries, options)
        for entry in entries:
            entry.close()
    _drop(cache, keys)
    return whole, ()


def _written(cache: FrameCache, key: CacheKey, entries: Sequence[CacheEntry], options: CompressOptions) -> CacheEntry:
    """Append the batches of windows, as an uncut run does; goes on with what an interrupted joining left."""
    size = options.batch_size
    assert isinstance(size, int)
    with cache.writer(key, facts={}, restart=options.force) as writer:
        first_frame = 0
        for entry in entries:
            for start in range(0, entry.num_frames, size):
                stop = min(start + size, entry.num_frames)
                if writer.entry is None and first_frame + start >= writer.num_frames:
                    writer.append(entry.read(start, stop), entry.pts_seconds[start:stop])
            first_frame += entry.num_frames
        return writer.finish(_joined_facts([entry.facts["whole"] for entry in entries]))


def _joined_facts(each: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Put the facts of windows together: those of the first, as an uncut run has them, and sums of what is counted."""
    facts = {**each[0], "num_undecodable_frames": sum(one["num_undecodable_frames"] for one in each)}
    counts = [count for one in each if (count := FrameCounts.of_fact(one.get("world"))) is not None]
    if counts:
        facts["world"] = sum(counts[1:], counts[0]).as_fact()
    return facts


def _is_whole(entry: CacheEntry, window: Window, per_frame: int) -> bool:
    num_pictures = window.stop_picture - window.first_picture
    return not entry.facts["whole"]["num_undecodable_frames"] and entry.num_frames == -(-num_pictures // per_frame)


def _drop(cache: FrameCache, keys: Sequence[CacheKey]) -> None:
    for key in keys:
        try:
            cache.remove(key.digest)
        except CacheError:  # it is gone already, or somebody has it; a later prune takes it
            continue


def _is_long(local: LocalVideo, window_seconds: float) -> bool:
    """Tell whether a file says that it is longer than a window, or says nothing about that; it is not read for that."""
    if local.path is None or not os.path.isfile(local.path) or not np.isfinite(window_seconds):
        return False
    return _said_seconds(local.path) > LEAST_WINDOWS * window_seconds


def _said_seconds(path: Path) -> float:
    import av

    try:
        with as_video_errors(path), av.open(str(path), metadata_errors="ignore") as container:
            return container.duration / av.time_base if container.duration else float("inf")
    except VideoError:  # which compressing it says better
        return 0.0
