"""Where things are in a cache directory, and how an entry leaves it.

<cache_dir>/
    3f/3fa9…/manifest.json                 written last; its existence means the entry is whole
             segment-000000.safetensors
             segment-000001.safetensors
    81/81c0…/journal.txt                   an unfinished entry: which segments are safe
             segment-000000.safetensors
    c2/c24e…/growing.txt                   an entry that is readable while it grows: what is published
             growing.txt.5d1f…             the log before it was rewritten, while a reader has it open
             segment-000000.safetensors
    size.json                              how many bytes there are; see `voco_video.cache.room`
    locks/3fa9….lock                       flock of the one writer
    names/91c4….json                       a name that people gave to an entry
    trash/3fa9….0a1b…                      deleted; its files go when no reader has them open
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from voco_video.cache.key import is_digest
from voco_video.cache.locks import (
    FULL,
    GROWING,
    JOURNAL,
    MANIFEST,
    WriteLock,
    delete_unless_held,
    index_path,
    is_held,
    is_locked,
    os_errors_as_cache_errors,
    unread,
)
from voco_video.errors import CacheError, used_wrongly
from voco_video.files.atomic_write import aside_files
from voco_video.options.sizes import size_of_environment

DEFAULT_MAX_BYTES = 50 * 10**9


@dataclass(frozen=True)
class CachePaths:
    """Paths under `cache_dir`; digests are 64 hex digits."""

    cache_dir: Path

    @property
    def trash_dir(self) -> Path:
        """Where discarded entries lie until nobody reads them."""
        return self.cache_dir / "trash"

    def directory(self, digest: str) -> Path:
        """Return the directory of an entry, existing or not; CacheError if `digest` is not a whole digest."""
        if not is_digest(digest):
            raise CacheError(f"a cache digest is 64 lowercase hex digits, not {digest!r}")
        return self.cache_dir / digest[:2] / digest

    def directories(self, beginning: str = "") -> list[Path]:
        """List the directories of all entries in any state, by digest; of those only that begin with these digits."""
        folder = beginning[:2] if len(beginning) >= 2 else "[0-9a-f][0-9a-f]"
        paths = self.cache_dir.glob(f"{folder}/{beginning}*")
        return sorted(path for path in paths if is_digest(path.name) and path.name[:2] == path.parent.name)

    def trash(self) -> list[Path]:
        """List the directories of discarded entries."""
        return sorted(self.trash_dir.glob("*"))

    def make_lock_path(self, digest: str) -> Path:
        """Return the path for `WriteLock`, in a directory that exists afterwards."""
        self._lock_path(digest).parent.mkdir(parents=True, exist_ok=True)
        return self._lock_path(digest)

    def is_being_written(self, digest: str) -> bool:
        """Tell whether a process holds the entry's write lock."""
        return is_locked(self._lock_path(digest))

    @contextmanager
    def unwritten(self, directory: Path) -> Iterator[bool]:
        """Yield whether no process writes the entry at `directory`; if so, none begins to during the block."""
        lock: WriteLock | None = None
        is_unwritten = True
        try:
            lock = WriteLock.try_acquire(self.make_lock_path(directory.name))
            is_unwritten = lock is not None
        except OSError as error:
            # No room for a lock file: then no writer has one, and none can begin before there is room.
            if error.errno not in FULL:
                raise
        try:
            yield is_unwritten
        finally:
            if lock is not None:
                lock.release(delete_file=not directory.exists())

    def discard(self, directory: Path) -> None:
        """Take an entry out of the cache in one step; readers keep it. The caller has its write lock.

        Raises:
            CacheError: the disk has no room to set the entry aside for a reader that has it open.
        """
        discarded = self.trash_dir / f"{directory.name}.{uuid.uuid4().hex}"
        try:
            self.trash_dir.mkdir(exist_ok=True)
            directory.rename(discarded)
        except OSError as error:
            if error.errno not in FULL:
                raise
            discarded = directory  # a full disk may have no room for another name, so its files go where they are
        if not delete_unless_held(discarded) and discarded == directory:
            raise CacheError(
                f"cannot remove cache entry {directory}: a process has it open, and the full disk has no room to set "
                "it aside; stop that process or remove another entry"
            )

    def evict(self, directory: Path, *, complete: bool, dry_run: bool = False) -> bool:
        """Discard an entry unless somebody writes or reads it, it is no longer as `complete` as it was, or it is gone.

        Others may do the same at the same time. With `dry_run` it stays, and is only looked at.
        """
        if dry_run:
            return directory.exists() and not self.is_being_written(directory.name) and not is_held(directory)
        with self.unwritten(directory) as is_unwritten:
            is_as_it_was = directory.exists() and is_complete(directory) == complete
            if not is_unwritten or not is_as_it_was or is_held(directory):
                return False
            self.discard(directory)
            return True

    def tidy(self, directory: Path) -> None:
        """Delete what crashes left in an entry's directory, and an empty directory; shorten an old stream's log."""
        if not leftovers(directory) and not _is_empty(directory) and not _has_wasteful_log(directory):
            return
        from voco_video.cache.segment_log import read_published  # imports torch, and looking entries up needs none

        with self.unwritten(directory) as is_unwritten:
            if not is_unwritten:
                return
            with unread(directory) as is_unread:
                with suppress(CacheError, OSError):  # the longer log is as good
                    if (log := read_published(directory)) and log.is_wasteful:
                        log.rewrite(directory / GROWING, is_read=not is_unread)
                for path in leftovers(directory) if is_unread else ():
                    path.unlink()
            if _is_empty(directory):
                directory.rmdir()

    def empty_trash(self) -> None:
        """Delete the discarded entries that nobody reads."""
        for directory in self.trash():
            delete_unless_held(directory)

    def _lock_path(self, digest: str) -> Path:
        return self.cache_dir / "locks" / f"{digest}.lock"


def is_complete(directory: Path) -> bool:
    """Tell whether `directory` holds an entry to read, finished or growing (which may still be damaged)."""
    return index_path(directory) is not None


def is_growing(directory: Path) -> bool:
    """Tell whether `directory` holds an entry that is readable while it is written."""
    return (directory / GROWING).exists()


def _is_empty(directory: Path) -> bool:
    with suppress(FileNotFoundError):  # others may delete it meanwhile
        return not any(directory.iterdir())
    return False


def _has_wasteful_log(directory: Path) -> bool:
    """Tell whether a stream's log is much longer than it needs to be, as earlier versions left it."""
    if not is_growing(directory):
        return False
    from voco_video.cache.segment_log import read_published

    with suppress(CacheError):
        log = read_published(directory)
        return log is not None and log.is_wasteful
    return False


def leftovers(directory: Path) -> list[Path]:
    """List files that only a crash leaves behind, provided nobody is writing the entry."""
    if is_growing(directory):
        from voco_video.cache.segment_log import read_published, superseded_files

        with suppress(CacheError):  # where it is damaged, nothing says what is left over
            return superseded_files(directory, read_published(directory))
        return []
    names = ["manifest.json.tmp", *([JOURNAL] if is_complete(directory) else [])]  # the first from earlier versions
    leftover_files = [directory / name for name in names if (directory / name).exists()]
    return [*leftover_files, *aside_files(directory / MANIFEST)]


def usage(directory: Path) -> tuple[int, float]:
    """Return (bytes on disk, Unix seconds of last use) of an entry; (0, 0) once it is gone."""
    try:
        with os.scandir(directory) as files:
            stats = {file.name: file.stat() for file in files}
    except (FileNotFoundError, NotADirectoryError):
        return 0, 0.0
    index = index_path(directory)
    times = [stats[index.name]] if index and index.name in stats else list(stats.values())
    return sum(stat.st_size for stat in stats.values()), max((stat.st_mtime for stat in times), default=0.0)


def check_cache_dir(cache_dir: Path) -> None:
    """Raise CacheError where something else than a folder is in the place of a cache."""
    try:
        with os_errors_as_cache_errors(f"use cache directory {cache_dir}"):
            if cache_dir.exists() and not cache_dir.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except CacheError as error:
        raise used_wrongly(error) from error.__cause__


def default_max_bytes() -> int:
    """Return above how many bytes the frame cache is pruned by default; see `FrameCache`."""
    return size_of_environment("VOCO_VIDEO_CACHE_MAX_BYTES", DEFAULT_MAX_BYTES)
