"""A cache entry: its manifest, and memory-mapped reads of any window of frames."""

from __future__ import annotations

import json
import os
import time
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from blake3 import blake3

from voco_video.cache.key import FORMAT_VERSION, CacheKey, canonical_json
from voco_video.cache.locks import GROWING, MANIFEST, ReadHold, damaged, os_errors_as_cache_errors
from voco_video.cache.names import EntryNames
from voco_video.cache.paths import CachePaths
from voco_video.cache.segment import Segment, SegmentReader, TensorSpec, check_continues, check_size
from voco_video.cache.segment_log import SegmentLog, checked_unix_seconds, decode_published, unpublished
from voco_video.errors import CacheError, UsageError

_TOUCH_SECONDS = 3600.0


@dataclass(frozen=True)
class Manifest:
    """Everything about an entry except its tensors; written last: where it exists, the entry is whole.

    An entry that grows has a `SegmentLog` instead, which reads as the manifest of what is published so far.
    """

    key: CacheKey
    tensors: Mapping[str, TensorSpec]
    segments: tuple[Segment, ...]
    facts: Mapping[str, Any]
    created_unix_seconds: float
    is_growing: bool = False
    unpublished: str = field(default="", compare=False)

    @classmethod
    def of_growing(cls, log: SegmentLog, *, unpublished: str = "") -> Manifest:
        """Turn a log into a manifest of what is published; `unpublished` is what the function of that name says."""
        published = (log.key, log.tensors, tuple(log.segments), log.facts, log.created_unix_seconds)
        return cls(*published, is_growing=not log.is_ended, unpublished=unpublished)

    @property
    def pts_seconds(self) -> list[float]:
        """The time of each of the F frames."""
        return [pts for segment in self.segments for pts in segment.pts_seconds]

    @property
    def identity(self) -> dict[str, Any]:
        """What two entries with the same result have in common, as a JSON value: key, tensors, segments."""
        return {
            "key": self.key.to_json(),
            "tensors": {name: spec.to_json() for name, spec in self.tensors.items()},
            "segments": [segment.to_json() for segment in self.segments],
        }

    def encode(self) -> bytes:
        """Write the file's bytes: indented JSON that carries the BLAKE3 of its own canonical form."""
        content = {
            "format_version": FORMAT_VERSION,
            "digest": self.key.digest,
            **self.identity,
            "facts": dict(self.facts),
            "created_unix_seconds": self.created_unix_seconds,
        }
        checksum = blake3(canonical_json(content, what="manifest").encode()).hexdigest()
        return json.dumps({**content, "blake3": checksum}, indent=1, sort_keys=True).encode()

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """Rebuild a manifest from exactly the bytes of `encode`; CacheError on any other bytes."""
        try:
            content = json.loads(data)
            version = content["format_version"]
            if version != FORMAT_VERSION:
                raise CacheError(f"{MANIFEST} has format {version}, this voco-video reads {FORMAT_VERSION}")
            manifest = cls(
                key=CacheKey.from_json(content["key"]),
                tensors={name: TensorSpec.from_json(spec) for name, spec in content["tensors"].items()},
                segments=tuple(Segment.from_json(segment) for segment in content["segments"]),
                facts=dict(content["facts"]),
                created_unix_seconds=checked_unix_seconds(content["created_unix_seconds"]),
            )
            for number, segment in enumerate(manifest.segments):
                check_continues(manifest.segments[max(0, number - 1) : number], segment)
            is_intact = manifest.encode() == data and len(manifest.segments) > 0
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise CacheError(f"{MANIFEST} is unreadable: {error!r}") from error
        if not is_intact:
            raise CacheError(f"{MANIFEST} does not match its checksum")
        return manifest


class CacheEntry:
    """One compressed video in a frame cache: F frames of tensors and their presentation times.

    Comes from `FrameCache.get`. While it is open (until `close()`, the end of a `with` block or garbage
    collection) no other process deletes its files. Tensors that were read stay valid after that.

    Attributes:
        key: the `CacheKey` it was stored under; `digest` is its 64 hex digits.
        directory: where its files are.
        tensors: `TensorSpec` (dtype, shape of one frame) by tensor name.
        facts: the JSON values its writer recorded about the video and the run.
        pts_seconds: float64 [F], read-only.
        is_growing: its source had not ended when it was opened. Frames published since are not seen: get it again.
        unpublished: what a growing entry has beyond what it says, in words; empty if nothing.
    """

    def __init__(
        self, directory: Path, manifest: Manifest, *, hold: ReadHold | None, reader: SegmentReader, last_used: float
    ) -> None:
        self.directory = directory
        self.key, self.digest = manifest.key, manifest.key.digest
        self.tensors, self.facts = manifest.tensors, manifest.facts
        self.is_growing, self.unpublished = manifest.is_growing, manifest.unpublished
        self.pts_seconds = np.array(manifest.pts_seconds)
        self.pts_seconds.flags.writeable = False
        self.created = datetime.fromtimestamp(manifest.created_unix_seconds, timezone.utc)
        self.last_used = datetime.fromtimestamp(last_used, timezone.utc)
        self._manifest, self._reader = manifest, reader
        self._hold = hold

    @classmethod
    def open(cls, directory: Path, *, reader: SegmentReader) -> CacheEntry | None:
        """Open the entry at `directory`; None if there is nothing to read, CacheError if it is damaged."""
        with os_errors_as_cache_errors(f"open cache entry {directory}"):
            hold = ReadHold.acquire(directory)
            if hold is None:
                return None
            try:
                manifest = _read_manifest(directory, hold)
                if manifest is None:
                    hold.close()
                    return None
                last_used = os.fstat(hold.index_fd).st_mtime
                entry = cls(directory, manifest, hold=hold, reader=reader, last_used=last_used)
                entry.verify(full=False)
                return entry
            except BaseException:
                hold.close()
                raise

    @property
    def location(self) -> str:
        """Where it is, as it may be shown: its folder, or the URL of its objects on a store."""
        return str(self.directory)

    @property
    def name(self) -> str | None:
        """What people call it now; None where it has no name."""
        return EntryNames(CachePaths(self.directory.parents[1])).by_digest().get(self.digest)

    @property
    def manifest(self) -> Manifest:
        """What it says of itself, without its tensors."""
        return self._manifest

    @property
    def num_frames(self) -> int:
        """F: frames in the entry."""
        return len(self.pts_seconds)

    @property
    def size_bytes(self) -> int:
        """Bytes of all segment files."""
        return sum(segment.size_bytes for segment in self._manifest.segments)

    @property
    def bytes_per_frame(self) -> int:
        """Bytes of tensors that one frame takes, without file headers."""
        return sum(spec.frame_bytes for spec in self.tensors.values())

    def read(self, start: int = 0, stop: int | None = None) -> dict[str, torch.Tensor]:
        """Read frames [start, stop) as tensors [stop - start, …] by name.

        Opens only the segments that overlap the window. A window inside one segment is a memory-mapped view:
        no bytes are copied, and writing to it changes neither the file nor later reads. A longer window is
        read into memory, each byte once.

        The first read of each segment in this process reads all of it once to check its BLAKE3.

        Args:
            start: first frame index, 0 ≤ start ≤ stop.
            stop: one past the last frame index; None means `num_frames`.

        Raises:
            UsageError: the window is not within the entry.
            CacheError: a segment is not what was written, or the entry was closed and has since been deleted.

        Example:
            >>> import tempfile
            >>> from voco_video.cache import CacheKey, FrameCache
            >>> cache = FrameCache(tempfile.mkdtemp())
            >>> with cache.writer(CacheKey("ab" * 32, "cd" * 32, {}), facts={}) as writer:
            ...     writer.append({"embeds": torch.zeros(3, 2, 8)}, np.array([0.0, 1.0, 2.0]))
            ...     entry = writer.finish()
            >>> entry.read(1, 3)["embeds"].shape
            torch.Size([2, 2, 8])
        """
        stop = self._checked_stop(start, stop)
        segments = self._overlapping(start, stop)
        if len(segments) != 1:
            return self._copied(self.tensors, start, stop)
        with self._reading(segments[0].file) as directory_fd:
            # Mapped afresh for each read: views of one mapping would see each other's in-place changes.
            mapped = self._reader.open(directory_fd, segments[0], specs=self.tensors, key_digest=self.digest)
        inside = slice(start - segments[0].first_frame, stop - segments[0].first_frame)
        return {name: mapped[name][inside] for name in self.tensors}

    def read_row(
        self, names: Collection[str], row: int, start: int = 0, stop: int | None = None
    ) -> dict[str, torch.Tensor]:
        """Read one row of each frame of some tensors, such as one layer's values, as tensors [stop - start, …] by name.

        Nothing else is read, and what is read is copied.

        Args:
            row: index on the first axis of a frame; negative ones count from its end.
            start, stop: as for `read`.

        Raises:
            UsageError, CacheError: as for `read`.
        """
        stop = self._checked_stop(start, stop)
        specs = {name: replace(self.tensors[name], shape=self.tensors[name].shape[1:]) for name in names}
        return self._copied(specs, start, stop, row=row)

    def mapped_windows(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Cut frames [start, stop) into windows that `read` maps instead of copying: where segments end."""
        for segment in self._overlapping(start, stop):
            yield max(start, segment.first_frame), min(stop, segment.stop_frame)

    def verify(self, *, full: bool = True) -> None:
        """Raise CacheError unless every segment has its size and, with `full`, the BLAKE3 it was written with."""
        hold, fresh_reader = self._held(), SegmentReader()  # a new one hashes what was read before, too
        try:
            for segment in self._manifest.segments:
                check_size(hold.directory_fd, segment)
                if full:
                    fresh_reader.open(hold.directory_fd, segment, specs=self.tensors, key_digest=self.digest)
        except CacheError as error:
            raise damaged(self.directory, error) from error

    def touch(self) -> None:
        """Mark the entry as used now, so that it is pruned last; does nothing in a read-only cache.

        Written once an hour at most, so that reading a cache hardly writes to its disk.
        """
        with suppress(OSError):
            index_fd = self._held().index_fd
            if time.time() - os.fstat(index_fd).st_mtime > _TOUCH_SECONDS:
                os.utime(index_fd)

    def close(self) -> None:
        """Let the entry be deleted by others. Reading again takes hold of it again."""
        if self._hold is not None:
            self._hold.close()
            self._hold = None

    def __enter__(self) -> CacheEntry:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_hold": None}  # another process, such as a data-loader worker, takes its own

    def __repr__(self) -> str:
        return f"CacheEntry({self.digest}, num_frames={self.num_frames}, size_bytes={self.size_bytes})"

    def _overlapping(self, start: int, stop: int) -> list[Segment]:
        segments = self._manifest.segments
        first = bisect_right(segments, start, key=lambda segment: segment.stop_frame)
        return list(takewhile(lambda segment: segment.first_frame < stop, segments[first:]))

    def _checked_stop(self, start: int, stop: int | None) -> int:
        stop = self.num_frames if stop is None else stop
        if not 0 <= start <= stop <= self.num_frames:
            raise UsageError(f"frames [{start}, {stop}) are not within [0, {self.num_frames}) of {self.digest}")
        if start < stop:
            self._hold_files()  # first: an entry that grew meanwhile may have these frames in other segments now
        return stop

    def _copied(
        self, specs: Mapping[str, TensorSpec], start: int, stop: int, *, row: int | None = None
    ) -> dict[str, torch.Tensor]:
        """Read frames [start, stop), or a row of each, of any number of segments."""
        shapes = {n: (stop - start, *spec.shape) for n, spec in specs.items()}
        tensors = {n: torch.empty(shapes[n], dtype=spec.dtype, device="cpu") for n, spec in specs.items()}
        buffers = {n: (t.view(-1).view(torch.uint8).numpy().data, t[:1].nbytes) for n, t in tensors.items()}
        for segment in self._overlapping(start, stop) if start < stop else ():
            begin, end = max(start, segment.first_frame), min(stop, segment.stop_frame)
            inside = range(begin - segment.first_frame, end - segment.first_frame)
            places = {n: b[(begin - start) * size : (end - start) * size] for n, (b, size) in buffers.items()}
            with self._reading(segment.file) as directory_fd:
                self._reader.copy(
                    directory_fd, segment, inside, places, row=row, specs=self.tensors, key_digest=self.digest
                )
        return tensors

    @contextmanager
    def _reading(self, file: str) -> Iterator[int]:
        """Yield the directory's descriptor; errors in the block name the entry."""
        hold = self._held()
        try:
            with os_errors_as_cache_errors(f"read {file}"):
                yield hold.directory_fd
        except CacheError as error:
            raise damaged(self.directory, error) from error

    def _continues(self, manifest: Manifest) -> bool:
        """Tell whether this is still the entry that was opened, if with more frames or in other segments."""
        mine = self._manifest
        return manifest == mine or (
            manifest.created_unix_seconds == mine.created_unix_seconds
            and manifest.pts_seconds[: self.num_frames] == self.pts_seconds.tolist()
        )

    def _hold_files(self) -> None:
        self._held()

    def _held(self) -> ReadHold:
        if self._hold is None:
            hold = ReadHold.acquire(self.directory)
            if hold is None:
                raise CacheError(f"cache entry {self.directory} was deleted after it was closed; compress it again")
            manifest = _read_manifest(self.directory, hold)
            if manifest is None or not self._continues(manifest):
                hold.close()
                raise CacheError(f"cache entry {self.directory} was replaced after it was closed; get it again")
            self._manifest, self._hold = manifest, hold
        return self._hold


def _read_manifest(directory: Path, hold: ReadHold) -> Manifest | None:
    """Read the manifest of a finished entry, or of the published part of a growing one; None if that is empty."""
    data = os.pread(hold.index_fd, os.fstat(hold.index_fd).st_size, 0)
    try:
        if hold.index_file == GROWING:
            log = decode_published(data)
            if log is None:
                return None
            beyond = unpublished(directory, log, file_bytes=len(data))
            manifest = Manifest.of_growing(log, unpublished=beyond)
        else:
            manifest = Manifest.decode(data)
    except CacheError as error:
        raise damaged(directory, error) from error
    if manifest.key.digest != directory.name:
        raise damaged(directory, f"it holds the result for another key, {manifest.key.digest}")
    return manifest
