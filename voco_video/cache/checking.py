"""What is wrong with an entry: unfinished, damaged, or left behind by a crash."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from voco_video.cache.entry import CacheEntry
from voco_video.cache.key import CacheKey
from voco_video.cache.locks import os_errors_as_cache_errors
from voco_video.cache.paths import CachePaths, is_growing, leftovers, usage
from voco_video.cache.segment import SegmentReader
from voco_video.cache.segment_log import read_safe
from voco_video.errors import CacheError


@dataclass(frozen=True)
class PartialEntry:
    """An interrupted entry, or one being written now; its `num_frames` safe frames are not computed again."""

    digest: str
    directory: Path
    key: CacheKey
    facts: Mapping[str, Any]
    num_frames: int
    size_bytes: int
    last_used: datetime
    is_being_written: bool


@dataclass(frozen=True)
class VerifyResult:
    """What `FrameCache.verify` found at `path`.

    `status` is "ok", "damaged" (delete it or compress again), "partial" (resumable) or "stale" (a leftover that the
    next prune removes); `reason` says more, and is empty for "ok".
    """

    digest: str
    path: Path
    status: Literal["ok", "damaged", "partial", "stale"]
    reason: str = ""

    @property
    def ok(self) -> bool:
        """False only for damage."""
        return self.status != "damaged"


def read_partial(paths: CachePaths, directory: Path) -> PartialEntry | None:
    """Read an unfinished entry; None where it has no frame that is worth resuming."""
    try:
        log = read_safe(directory, full=False)
    except OSError:  # it was deleted meanwhile, or cannot be read
        return None
    if log is None or not log.segments:
        return None
    size_bytes, last_used = usage(directory)
    return PartialEntry(
        digest=directory.name,
        directory=directory,
        key=log.key,
        facts=log.facts,
        num_frames=log.num_frames,
        size_bytes=size_bytes,
        last_used=datetime.fromtimestamp(last_used, timezone.utc),
        is_being_written=paths.is_being_written(directory.name),
    )


def verify_directory(paths: CachePaths, directory: Path, *, reader: SegmentReader, full: bool) -> list[VerifyResult]:
    """Check an entry, and list what a crash left in its directory; see `FrameCache.verify`."""
    digest, is_written = directory.name, paths.is_being_written(directory.name)
    if is_written and not is_growing(directory):
        return [VerifyResult(digest, directory, "partial", "being written now")]
    unnamed = [] if is_written else leftovers(directory)  # the writer's next segment is no leftover
    stale = [VerifyResult(digest, path, "stale", "left by a crash") for path in unnamed]
    try:
        entry = CacheEntry.open(directory, reader=reader)
        if entry is None:
            with os_errors_as_cache_errors(f"read cache entry {directory}"):
                log = read_safe(directory, full=full)
            reason = f"unfinished, {log.num_frames if log else 0} frames safe"
            return [VerifyResult(digest, directory, "partial", reason), *stale]
        with entry:
            entry.verify(full=full)
    except CacheError as error:
        return [VerifyResult(digest, directory, "damaged", str(error)), *stale]
    return [VerifyResult(digest, directory, "ok"), *stale]


def verify_directories(
    paths: CachePaths, directories: Iterable[Path], trash: Iterable[Path], *, reader: SegmentReader, full: bool
) -> list[VerifyResult]:
    """Check some entries, and list what is in the trash; see `FrameCache.verify`."""
    results = [verify_directory(paths, path, reader=reader, full=full) for path in directories]
    reason = "deleted while a reader had it open"
    stale = [VerifyResult(path.name[:64], path, "stale", reason) for path in trash]
    return [*chain.from_iterable(results), *stale]
