"""Making room in a cache folder: what was unused longest goes first."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from voco_video.cache.locks import os_errors_as_cache_errors
from voco_video.cache.paths import CachePaths, is_complete, usage
from voco_video.cache.room import CacheSize
from voco_video.errors import CacheError

logger = logging.getLogger(__name__)


def prune_entries(
    paths: CachePaths, size: CacheSize, max_bytes: int, *, down_to: int, partial: bool = False, dry_run: bool = False
) -> list[str]:
    """Do what `FrameCache.prune` does, down to fewer bytes where there are more than ``max_bytes``; names stay."""
    removed: list[str] = []
    failures: list[CacheError] = []

    @contextmanager
    def going_on_after_failure(directory: Path) -> Iterator[None]:
        try:
            with os_errors_as_cache_errors(f"delete {directory}"):
                yield
        except CacheError as error:
            failures.append(error)

    looking = nullcontext(dict[str, int]()) if dry_run else size.look()
    with os_errors_as_cache_errors(f"prune cache directory {paths.cache_dir}"), looking as sizes:
        for directory in () if dry_run else paths.directories():
            with going_on_after_failure(directory):
                paths.tidy(directory)
        usages = [(*usage(path), path) for path in paths.directories()]
        sizes |= {path.name: size_bytes for size_bytes, _, path in usages}
        total_bytes = sum(sizes.values())
        kept_bytes = down_to if total_bytes > max_bytes else max_bytes
        for _, _, directory in sorted(usages, key=lambda item: item[1]):
            complete = is_complete(directory)
            is_unwanted = total_bytes > kept_bytes if complete else partial
            with going_on_after_failure(directory):
                if is_unwanted and paths.evict(directory, complete=complete, dry_run=dry_run):
                    total_bytes -= sizes.pop(directory.name)
                    removed.append(directory.name)
        if not dry_run:
            paths.empty_trash()
    if failures and not removed:
        raise failures[0]
    for failure in failures:
        logger.warning("%s", failure)
    return removed


def prune_after_write(paths: CachePaths, size: CacheSize, max_bytes: int, prune: Callable[..., object]) -> None:
    """Prune where the cache may be above its limit; looking at all entries each time would make filling quadratic.

    Then it goes a little below the limit, so that a full cache need not be looked at after every write either.

    Args:
        prune: as `prune_entries` from its third argument on.
    """
    try:
        try:
            paths.empty_trash()
            if not size.may_exceed(max_bytes):
                return
        except OSError:
            pass  # where the sum cannot be kept, all entries are looked at
        prune(max_bytes, down_to=max_bytes - max_bytes // 50)
    except CacheError as error:
        logger.warning("%s", error)
