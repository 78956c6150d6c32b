"""The frame cache on a store, as its users see it."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from voco_video.cache.checking import VerifyResult
from voco_video.cache.entry import CacheEntry
from voco_video.cache.key import CacheKey, is_digest
from voco_video.cache.lookup import EntryLabel
from voco_video.cache.remote.catalogue import RemoteCatalogue
from voco_video.cache.remote.layout import ENTRIES, RemoteManifest, manifest_path
from voco_video.cache.remote.location import following_refused, store_url, tier_folder
from voco_video.cache.remote.objects import ObjectStore, StoredObject
from voco_video.cache.remote.publishing import publish, read_remote_manifest
from voco_video.cache.remote.reader import RemoteEntry
from voco_video.cache.remote.tier import SegmentTier
from voco_video.cache.store import FrameCache
from voco_video.cache.writer import EntryWriter, GrowingWriter
from voco_video.errors import CacheError, UsageError
from voco_video.options.sizes import parse_size

ORPHAN_SECONDS = 24 * 3600.0
"""Objects that no manifest names are deleted once they are so old: a writer may still be about to name younger ones."""
_BATCH = 256  # manifests read side by side

logger = logging.getLogger(__name__)


class RemoteCache(FrameCache):
    """Compressed videos on a store that fsspec reaches, shared by any number of machines.

    An entry is made on this machine, as in a `FrameCache`, and copied to the store when it is finished. So an
    interrupted run goes on with the same command on the same machine, and a copy that failed is made up for. Frames are
    read by ranges and kept in the local tier, in the folder `cache_dir`.

    Machines do not wait for each other: where two make the same entry, each has a result of its own there, and the
    last one counts.

    Args:
        cache_dir: the URL of the store; credentials come from the environment, not from it.
        max_bytes: bound of the local tier, as of a `FrameCache`. The store itself has none.

    Raises:
        UsageError: the URL holds credentials, or is no place for a cache.

    Example:
        >>> import numpy as np, torch
        >>> cache = RemoteCache("memory://doctest/frames")
        >>> key = CacheKey("ab" * 32, "cd" * 32, {"form": "embeds"})
        >>> with cache.writer(key, facts={"video": "clip.mp4"}) as writer:
        ...     writer.append({"embeds": torch.ones(6, 2, 8)}, np.arange(6.0))
        ...     entry = writer.finish()
        >>> RemoteCache("memory://doctest/frames").get(key).read(2, 5)["embeds"].shape
        torch.Size([3, 2, 8])
    """

    is_remote = True

    def __init__(self, cache_dir: Path | str | None = None, *, max_bytes: int | str | None = None) -> None:
        url = store_url(cache_dir)
        if url is None:
            raise UsageError(f"{cache_dir}: is a folder; give the URL of a store, such as s3://bucket/prefix")
        super().__init__(tier_folder(url), max_bytes=max_bytes)
        self.objects = ObjectStore(url)
        self.tier = SegmentTier(self.cache_dir / "segments", self.max_bytes)
        self._remote = RemoteCatalogue(self.objects)
        self._catalogue, self.names = self._remote, self._remote.names

    def contains(self, key: CacheKey) -> bool:
        """See `FrameCache.contains`; takes one request."""
        return self._remote.has(key.digest)

    @contextmanager
    def growing_writer(self, key: CacheKey, **_: Any) -> Iterator[GrowingWriter]:
        """Refuse: what grows would be written again with every publication.

        Raises:
            UsageError: always.
        """
        raise UsageError(following_refused(self.location))
        yield  # so that it is a context manager

    def entries(self) -> list[CacheEntry]:
        """List all entries, latest written first; damaged ones are left out. Reads every manifest."""
        digests, entries = self._remote.digests(), list[CacheEntry]()
        for begin in range(0, len(digests), _BATCH):
            some = digests[begin : begin + _BATCH]
            found = self.objects.read_many([manifest_path(digest) for digest in some])
            for digest, data in zip(some, found):
                try:
                    if data is not None:
                        entries.append(self._entry(RemoteManifest.decode(data, digest)))
                except CacheError as error:
                    logger.warning("damaged cache entry %s in %s: %s", digest[:12], self.location, error)
        return sorted(entries, key=lambda entry: entry.last_used, reverse=True)

    def remove(self, given: str) -> str:
        """Delete the one entry that a word stands for, and its name; returns its digest.

        Who reads it meanwhile gets an error that says so.

        Raises:
            CacheError: the word stands for no entry or for several, or the store cannot be written.
        """
        digest = given if is_digest(given) and self._remote.has(given) else self._one(given).digest
        self._delete(digest)
        return digest

    def verify(self, given: str | None = None, *, full: bool = True) -> list[VerifyResult]:
        """See `FrameCache.verify`; what no manifest names is stale."""
        if given is None:
            digests = self._remote.digests()
        else:
            digests = [label.digest for label in self.candidates(given)] or [self._one(given).digest]
        results = [self._verified(digest, full=full) for digest in digests]
        if given is None:
            results += [
                VerifyResult(digest, Path(one.path), "stale", "no manifest names it")
                for digest, objects in self._orphans().items()
                for one in objects
            ]
        return results

    def prune(self, max_bytes: int | str | None = None, *, partial: bool = False, dry_run: bool = False) -> list[str]:
        """Delete the entries that were written first until those on the store take `max_bytes`; None deletes none.

        Also deletes what no manifest names and is older than a day, the names of entries that are gone, copies on this
        machine beyond the bound of the tier, and with `partial` what was begun here and is not finished.
        """
        limit = None if max_bytes is None else parse_size(max_bytes, name="max_bytes")
        written, sizes = self._remote.listed(), self._sizes()
        removed, total = [], sum(sizes.get(digest, 0) for digest in written)
        for digest in sorted(written, key=lambda digest: written[digest].modified or 0.0):
            if limit is None or total <= limit:
                break
            if not dry_run:
                self._delete(digest)
            total -= sizes.get(digest, 0)
            removed.append(digest)
        if not dry_run:
            before = time.time() - ORPHAN_SECONDS
            for orphans in self._orphans().values():
                if all(one.modified is not None and one.modified < before for one in orphans):
                    self.objects.delete([one.path for one in orphans])
            self.names.tidy()
            self.tier.make_room(self.max_bytes)
        if partial:
            super().prune(self.max_bytes, partial=True, dry_run=dry_run)
        return removed

    def size_of(self, label: EntryLabel) -> int:
        """See `FrameCache.size_of`."""
        return label.size_bytes

    def publish(self, entry: CacheEntry, *, replace: bool = False) -> CacheEntry:
        """Copy an entry of a folder to the store and return it as it is there.

        Args:
            replace: also where the store has an entry of this key; its readers go on with it until a prune.

        Raises:
            CacheError: it still grows, is damaged, or the store cannot be written.
        """
        if entry.is_growing:
            raise CacheError(f"cache entry {entry.digest[:12]} still grows; copy it when its source has ended")
        remote = None if replace else read_remote_manifest(self.objects, entry.digest)
        if remote is None:
            remote = publish(self.objects, entry)
        return self._entry(remote)

    def __getnewargs__(self) -> tuple[str]:
        return (self.objects.url,)

    def __repr__(self) -> str:
        return f"RemoteCache({self.location!r}, max_bytes={self.max_bytes})"

    def _opened(self, digest: str) -> CacheEntry | None:
        remote = read_remote_manifest(self.objects, digest)
        return None if remote is None else self._entry(remote)

    def _entry(self, remote: RemoteManifest) -> RemoteEntry:
        directory = self._paths.directory(remote.digest)
        return RemoteEntry(directory, remote, objects=self.objects, tier=self.tier)

    def _entry_writer(self, *args: Any, restart: bool, **options: Any) -> EntryWriter:
        return RemoteWriter(*args, **options, cache=self, restart=restart)

    def _drop_names(self) -> None:
        """Do nothing: looking at all names is for `prune`."""

    def _verified(self, digest: str, *, full: bool) -> VerifyResult:
        path = Path(manifest_path(digest))
        try:
            entry = self._opened(digest)
            if entry is None:
                raise CacheError("it was removed meanwhile")
            entry.verify(full=full)
        except CacheError as error:
            return VerifyResult(digest, path, "damaged", str(error))
        return VerifyResult(digest, path, "ok")

    def _delete(self, digest: str) -> None:
        """Delete an entry's manifest, then its objects; those of other publications are left to `prune`."""
        try:
            remote = read_remote_manifest(self.objects, digest)
        except CacheError as error:
            if not self._remote.has(digest):
                raise
            logger.info("%s: its objects are left to a prune", error)
            remote = None
        self.names.drop(digest)
        self.objects.delete([manifest_path(digest)])
        if remote is not None:
            self.objects.delete(list(remote.objects))
            self.tier.forget(segment["blake3"] for segment in remote.content["segments"])

    def _sizes(self) -> dict[str, int]:
        sizes: dict[str, int] = defaultdict(int)
        for one in self.objects.listed(ENTRIES):
            sizes[one.path.split("/")[2]] += one.size_bytes
        return sizes

    def _orphans(self) -> dict[str, list[StoredObject]]:
        """Find the objects of publications that no manifest names, by the digests of their entries.

        Objects are listed before manifests are read: what is published meanwhile is no orphan.
        """
        by_publication: dict[tuple[str, str], list[StoredObject]] = defaultdict(list)
        for one in self.objects.listed(ENTRIES):
            parts = one.path.split("/")
            if len(parts) == 5 and is_digest(parts[2]):
                by_publication[parts[2], parts[3]].append(one)
        digests = sorted({digest for digest, _ in by_publication})
        orphans: dict[str, list[StoredObject]] = defaultdict(list)
        for begin in range(0, len(digests), _BATCH):
            some = digests[begin : begin + _BATCH]
            found = dict(zip(some, self.objects.read_many([manifest_path(digest) for digest in some])))
            for (digest, publication), objects in by_publication.items():
                if digest in found and not _is_named(found[digest], digest, publication):
                    orphans[digest] += objects
        return orphans


class RemoteWriter(EntryWriter):
    """Writes an entry on this machine and copies it to the store when it is finished.

    What was finished here and could not be copied, is copied when the next writer of its key begins.
    """

    def __init__(self, *args: Any, cache: RemoteCache, restart: bool, **options: Any) -> None:
        self._cache, self._replaces = cache, restart
        super().__init__(*args, **options)

    def _finished(self) -> CacheEntry | None:
        there = None if self._replaces else self._cache.get(self.key)
        if there is None:
            there = self._published()
        if there is not None and self.directory.exists():
            with suppress(OSError):
                self._cache._paths.discard(self.directory)
        return there

    def _published(self) -> CacheEntry | None:
        """Copy what is complete here to the store; its files go on as the copies of the tier."""
        local = super()._finished()
        if local is None:
            return None
        try:
            published = self._cache.publish(local, replace=True)
        except CacheError as error:
            safe = f"its frames are safe in {self.directory}, and the same command tries again"
            raise CacheError(f"{error}; {safe}") from error
        local.close()
        for segment in local.manifest.segments:
            self._cache.tier.adopt(segment.blake3, self.directory / segment.file)
        return published


def _is_named(data: bytes | None, digest: str, publication: str) -> bool:
    """Tell whether a manifest names a publication; one that is damaged may name any."""
    try:
        return data is not None and RemoteManifest.decode(data, digest).publication == publication
    except CacheError:
        return True
