"""The cache as its users see it: get an entry, write one, list, verify, remove and prune."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from voco_video.cache.checking import PartialEntry, VerifyResult, read_partial, verify_directories
from voco_video.cache.entry import CacheEntry, Manifest
from voco_video.cache.key import CacheKey, is_digest
from voco_video.cache.locks import WriteLock, os_errors_as_cache_errors
from voco_video.cache.lookup import Catalogue, EntryLabel, FolderCatalogue, all_labels, candidates, one_entry
from voco_video.cache.names import EntryNames, Names
from voco_video.cache.paths import CachePaths, check_cache_dir, default_max_bytes, is_complete, usage
from voco_video.cache.pruning import prune_after_write, prune_entries
from voco_video.cache.remote.location import store_url
from voco_video.cache.room import CacheSize
from voco_video.cache.segment import Segment, SegmentReader
from voco_video.cache.writer import EntryWriter, GrowingWriter, closing_writer, write_finished
from voco_video.errors import CacheError, UsageError
from voco_video.files.paths import default_cache_dir, expanded
from voco_video.options.sizes import parse_size

logger = logging.getLogger(__name__)


class FrameCache:
    """Compressed videos on disk, shared by any number of processes.

    Every entry is stored under a `CacheKey` and only ever returned for exactly that key. Bytes that are not
    the ones written raise CacheError; they are never returned. Needs a POSIX system with flock.

    Given a URL, it keeps them on a store: ``FrameCache("s3://bucket/prefix")``.

    Args:
        cache_dir: default: `VOCO_VIDEO_CACHE_DIR`, else `$XDG_CACHE_HOME/voco-video`, else `~/.cache/voco-video`.
            Created by the first write. Also the URL of a store, as text.
        max_bytes: above this, finishing an entry prunes others: bytes, or text such as ``"20G"``. Default:
            `VOCO_VIDEO_CACHE_MAX_BYTES`, else 50 GB.

    Raises:
        CacheError: `cache_dir` is a file.
        UsageError: `max_bytes` or its environment variable is no size; or no `cache_dir` is given and no home directory
            is known.

    Attributes:
        names: what people call entries; see `voco_video.cache.names.EntryNames`.
        cache_dir: the folder; of a cache on a store, the folder of this machine where its copies are.
        is_remote: whether it is on a store. Then looking at all entries takes a request for each.

    Example:
        >>> import tempfile, numpy as np, torch
        >>> cache = FrameCache(tempfile.mkdtemp())
        >>> key = CacheKey("ab" * 32, "cd" * 32, {"form": "embeds", "num_voco_tokens": 2})
        >>> with cache.writer(key, facts={"video": "clip.mp4"}) as writer:
        ...     while writer.num_frames < 6:  # starts above 0 if an earlier run was interrupted
        ...         writer.append({"embeds": torch.ones(3, 2, 8)}, writer.num_frames + np.arange(3.0))
        ...     entry = writer.finish()
        >>> cache.get(key).read(2, 5)["embeds"].shape
        torch.Size([3, 2, 8])
    """

    is_remote = False

    def __new__(cls, cache_dir: Path | str | None = None, **_: Any) -> FrameCache:
        """Make the kind of cache that its place takes."""
        if cls is FrameCache and store_url(cache_dir) is not None:
            from voco_video.cache.remote.cache import RemoteCache

            return super().__new__(RemoteCache)
        return super().__new__(cls)

    def __init__(self, cache_dir: Path | str | None = None, *, max_bytes: int | str | None = None) -> None:
        self.cache_dir = expanded(cache_dir or default_cache_dir()).absolute()
        self.max_bytes = default_max_bytes() if max_bytes is None else parse_size(max_bytes, name="max_bytes")
        check_cache_dir(self.cache_dir)
        self._paths, self._reader = CachePaths(self.cache_dir), SegmentReader()
        self._size = CacheSize(self._paths)
        self.names: Names = EntryNames(self._paths)
        self._catalogue: Catalogue = FolderCatalogue(self._paths)

    @property
    def location(self) -> str:
        """The folder or the URL, as it may be shown."""
        return self._catalogue.location

    def contains(self, key: CacheKey) -> bool:
        """Tell whether there is an entry to read, finished or growing; cheap, reads nothing."""
        with os_errors_as_cache_errors(f"look into cache directory {self.cache_dir}"):
            return is_complete(self._paths.directory(key.digest))

    def get(self, key: CacheKey) -> CacheEntry | None:
        """Open the entry for `key` and mark it as used now; None if it is absent or unfinished.

        One that is growing comes with the frames published so far, and `CacheEntry.is_growing`.

        Raises:
            CacheError: the entry is damaged: manifest altered, other key inside, segment missing or of another size.
        """
        return self._opened(key.digest)

    @contextmanager
    def writer(
        self,
        key: CacheKey,
        *,
        facts: Mapping[str, Any],
        restart: bool = False,
        segment_frames: int = 32,
        on_wait: Callable[[], None] | None = None,
    ) -> Iterator[EntryWriter]:
        """Write the entry for `key`, or resume writing it, as the only writer in any process or thread.

        If another writer has it, waits; if that one finishes it, `writer.entry` is set and nothing is left to
        do. Leaving the block without `finish()`, also by an exception or Ctrl-C, keeps all appended frames
        for a later run. After `finish()`, other entries are pruned down to `max_bytes`.

        Args:
            facts: JSON values stored beside the frames (video path, duration, …); not part of the key.
            restart: drop what is there, finished or not. Readers that have it open keep it.
            segment_frames: frames to gather before writing a file.
            on_wait: called once before waiting for another writer.

        Raises:
            CacheError: the entry is damaged (then use `restart`), or the cache directory cannot be written.
        """
        if segment_frames < 1:
            raise UsageError(f"segment_frames must be at least 1, not {segment_frames}")
        directory = self._paths.directory(key.digest)
        with os_errors_as_cache_errors(f"write to cache directory {self.cache_dir}"):
            lock = WriteLock.acquire(self._paths.make_lock_path(key.digest), on_wait=on_wait)
        with self._writing(directory, lock, restart=restart):
            writer = self._entry_writer(
                directory, key, facts=facts, segment_frames=segment_frames, reader=self._reader, restart=restart
            )
            is_already_complete = writer.entry is not None
            with closing_writer(writer):
                yield writer
            if writer.entry is not None and not is_already_complete:
                self._prune_after_write()

    @contextmanager
    def growing_writer(
        self,
        key: CacheKey,
        *,
        facts: Mapping[str, Any],
        source: str = "",
        restart: bool = False,
        segment_frames: int = 32,
    ) -> Iterator[GrowingWriter]:
        """Write an entry that others read meanwhile, or go on with one, as its only writer.

        What was published is an entry like any other: `get`, `entries`, `find` and `verify` see it. Leaving the
        block publishes what was appended, after an exception and Ctrl-C too. Then others are pruned.

        Args:
            facts, restart: as for `writer`; facts of an earlier run stay where there is no new one.
            source: the path or URL, for who asks for it before the first publication, which has the facts.
            segment_frames: publications are merged into files of this many frames.

        Raises:
            CacheError: another process is writing it, it is damaged, or the cache directory cannot be written.

        Example:
            >>> import tempfile, numpy as np, torch
            >>> cache = FrameCache(tempfile.mkdtemp())
            >>> key = CacheKey("ab" * 32, "cd" * 32, {"stream": "door"})
            >>> with cache.growing_writer(key, facts={}) as writer:
            ...     writer.append({"embeds": torch.ones(3, 2, 8)}, np.arange(3.0))
            ...     writer.publish()
            ...     cache.get(key)
            CacheEntry(..., num_frames=3, ...)
        """
        directory = self._paths.directory(key.digest)
        with os_errors_as_cache_errors(f"write to cache directory {self.cache_dir}"):
            lock = WriteLock.try_acquire(self._paths.make_lock_path(key.digest))
            if lock is None:
                raise CacheError(f"cache entry {key.digest[:12]} is being written by another process; one is enough")
            lock.note(source)
        with self._writing(directory, lock, restart=restart):
            writer = GrowingWriter(directory, key, facts=facts, segment_frames=segment_frames, reader=self._reader)
            with closing_writer(writer):
                yield writer
            self._prune_after_write()

    def is_being_written(self, digest: str) -> bool:
        """Tell whether a process is writing the entry now, finished or not; `digest` is a whole one."""
        return self._paths.is_being_written(digest)

    def entries(self) -> list[CacheEntry]:
        """List all entries with something to read, growing ones too, latest used first; damaged ones are left out.

        They are closed, so that listing blocks nobody; reading one opens it.
        """
        entries = []
        for directory in self._paths.directories():
            try:
                entry = CacheEntry.open(directory, reader=self._reader)
            except CacheError as error:
                logger.warning("%s", error)
                continue
            if entry is not None:
                entry.close()
                entries.append(entry)
        return sorted(entries, key=lambda entry: entry.last_used, reverse=True)

    def partial(self) -> list[PartialEntry]:
        """List all unfinished entries with frames worth resuming, latest first."""
        entries = [read_partial(self._paths, path) for path in self._paths.directories() if not is_complete(path)]
        return sorted((entry for entry in entries if entry), key=lambda entry: entry.last_used, reverse=True)

    def labels(self) -> list[EntryLabel]:
        """Read what all entries in any state say of themselves, by digest, without checking or opening them."""
        return all_labels(self._catalogue)

    def candidates(self, given: str) -> list[EntryLabel]:
        """List the entries, in any state, that a word stands for.

        Args:
            given: a name, the path of a video, or the beginning of a digest, at least four digits. A file of exactly
                this path comes first, then a name, then a digest. A video's entries are those of its content, and those
                that were made from this path.
        """
        return candidates(self._catalogue, given)

    def find(self, given: str) -> CacheEntry:
        """Open the one entry that a word stands for (see `candidates`), like `get`.

        Raises:
            CacheError: the word stands for no entry or for several, or the entry is unfinished or damaged.
        """
        entry = self._opened(given) if is_digest(given) else None
        return entry or self.open(self._one(given))

    def open(self, label: EntryLabel) -> CacheEntry:
        """Open an entry that `candidates` found, like `get`.

        Raises:
            CacheError: it is unfinished or damaged.
        """
        entry = self._opened(label.digest)
        if entry is None:
            advice = "ask again in a moment" if self.is_being_written(label.digest) else "compress it again"
            called = label.name or label.digest[:12]
            raise CacheError(f"cache entry {called} is unfinished, with nothing to read yet; {advice}")
        return entry

    def give_name(self, given: str, name: str) -> str:
        """Name the one entry that a word stands for, in the place of the name that it had; returns its digest.

        Raises:
            CacheError: the word stands for no entry or for several.
            UsageError: another entry has this name, or it is no name.
        """
        digest = self._one(given).digest
        self.names.give(name, digest)
        return digest

    def remove(self, given: str) -> str:
        """Delete the one entry that a word stands for, whatever its state, and its name; returns its digest.

        Readers that have it open keep it; a later prune frees its space.

        Raises:
            CacheError: the word stands for no entry or for several, or the entry is being written now.
        """
        directory = self._one(given).directory
        with (
            os_errors_as_cache_errors(f"remove cache entry {directory}"),
            self._paths.unwritten(directory) as is_unwritten,
        ):
            if not is_unwritten:
                raise CacheError(f"cache entry {directory.name[:12]} is being written; stop that process first")
            if directory.exists():
                self._paths.discard(directory)
        self._drop_names()
        return directory.name

    def verify(self, given: str | None = None, *, full: bool = True) -> list[VerifyResult]:
        """Check the entries that a word stands for (see `candidates`), or the whole cache.

        Args:
            full: read every byte; else only manifests and file sizes.

        Returns:
            One result per entry, damaged or not, and one per leftover of a crash.

        Raises:
            CacheError: the word stands for no entry. Damage is reported, not raised.
        """
        if given is not None:
            directories = [label.directory for label in self.candidates(given)] or [self._one(given).directory]
        else:
            directories = self._paths.directories()
        trash = self._paths.trash() if given is None else []
        return verify_directories(self._paths, directories, trash, reader=self._reader, full=full)

    def prune(self, max_bytes: int | str | None = None, *, partial: bool = False, dry_run: bool = False) -> list[str]:
        """Delete least recently used entries until the cache fits `max_bytes`, by default its own limit.

        Never deletes an entry that is open or being written, in any process, so the cache may stay above the
        limit. Also deletes what crashes left behind and, with `partial`, all unfinished entries.

        Args:
            dry_run: delete nothing, only tell.

        Returns:
            Digests of the deleted entries, in the order of deletion.

        Raises:
            CacheError: nothing could be deleted. Where only some could not, that is logged.
        """
        max_bytes = self.max_bytes if max_bytes is None else parse_size(max_bytes, name="max_bytes")
        return self._prune(max_bytes, down_to=max_bytes, partial=partial, dry_run=dry_run)

    def take_in(self, manifest: Manifest, files: Iterable[tuple[Segment, bytes]], *, replace: bool = False) -> None:
        """Write an entry that was made elsewhere, as it was there: its files, then its manifest.

        Args:
            files: those that the manifest names, in order, with the bytes that it says.
            replace: in the place of a whole entry of this key; an unfinished one always goes.

        Raises:
            CacheError: there is an entry or it is being written, or the cache cannot be written.
        """
        directory = self._paths.directory(manifest.key.digest)
        with os_errors_as_cache_errors(f"write to cache directory {self.cache_dir}"):
            lock = WriteLock.try_acquire(self._paths.make_lock_path(directory.name))
        if lock is None:
            raise CacheError(f"cache entry {directory.name[:12]} is being written here; try again when that has ended")
        with self._writing(directory, lock, restart=replace or not is_complete(directory)):
            if directory.exists():
                raise CacheError(f"cache entry {directory.name[:12]} is here already")
            write_finished(directory, manifest, files)
        self._prune_after_write()

    def size_of(self, label: EntryLabel) -> int:
        """Return the bytes that an entry takes, in any state; 0 once it is gone."""
        return usage(label.directory)[0]

    def __getnewargs__(self) -> tuple[str]:
        return (str(self.cache_dir),)

    def __repr__(self) -> str:
        return f"FrameCache({str(self.cache_dir)!r}, max_bytes={self.max_bytes})"

    def _prune(self, max_bytes: int, *, down_to: int, partial: bool = False, dry_run: bool = False) -> list[str]:
        try:
            return prune_entries(self._paths, self._size, max_bytes, down_to=down_to, partial=partial, dry_run=dry_run)
        finally:
            if not dry_run:
                self._drop_names()

    def _one(self, given: str) -> EntryLabel:
        return one_entry(self._catalogue, given)

    def _drop_names(self) -> None:
        """Drop the names of entries that are gone; where that fails, such a name is free all the same."""
        with suppress(CacheError):
            self.names.tidy()

    def _entry_writer(self, *args: Any, restart: bool, **options: Any) -> EntryWriter:
        return EntryWriter(*args, **options)

    def _opened(self, digest: str) -> CacheEntry | None:
        entry = CacheEntry.open(self._paths.directory(digest), reader=self._reader)
        if entry is None:
            return None
        entry.touch()
        if entry.unpublished and not self.is_being_written(entry.digest):
            logger.warning(
                "cache entry %s %s: a crash or damage took its end, so only its first %d frames can be read; following "
                "its source again (same name, or --resume) goes on after them",
                *(entry.digest[:12], entry.unpublished, entry.num_frames),
            )
        return entry

    @contextmanager
    def _writing(self, directory: Path, lock: WriteLock, *, restart: bool) -> Iterator[None]:
        """Hold an entry's lock for the block; with `restart` the block begins without the entry."""
        try:
            if restart and directory.exists():
                with os_errors_as_cache_errors(f"replace cache entry {directory}"):
                    self._paths.discard(directory)
            with suppress(OSError):
                self._size.begin_write(directory.name)
            yield
        finally:
            try:
                with suppress(OSError):
                    self._size.end_write(directory.name)
            finally:
                lock.release()

    def _prune_after_write(self) -> None:
        prune_after_write(self._paths, self._size, self.max_bytes, self._prune)
