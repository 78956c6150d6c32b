"""Writing one entry so that a crash at any byte loses at most the frames since the last segment.

A segment counts once the journal names it with its checksum; the journal's lines carry their own. Finishing
writes the manifest, whose existence makes the entry complete, and only then removes the journal.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from voco_video.cache.checked_lines import decode_line, encode_line, whole_lines
from voco_video.cache.entry import CacheEntry, Manifest
from voco_video.cache.key import FORMAT_VERSION, CacheKey, plain_json
from voco_video.cache.locks import MANIFEST, fsync_directory, os_errors_as_cache_errors
from voco_video.cache.segment import (
    MAX_SEGMENT_BYTES,
    Batch,
    Segment,
    SegmentReader,
    TensorSpec,
    check_batch,
    check_continues,
    check_size,
    segment_file,
    write_segment,
)
from voco_video.errors import CacheError

JOURNAL = "journal.txt"
MANIFEST_TEMPORARY = MANIFEST + ".tmp"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Journal:
    """What an unfinished entry has safely on disk: whole segments, without a gap, from frame 0."""

    key: CacheKey
    facts: Mapping[str, Any]
    tensors: Mapping[str, TensorSpec] = field(default_factory=dict)
    segments: tuple[Segment, ...] = ()
    size_bytes: int = 0  # of the journal file, up to the end of the last segment's line

    @property
    def num_frames(self) -> int:
        """In whole segments."""
        return self.segments[-1].stop_frame if self.segments else 0

    @classmethod
    def load(cls, directory: Path, *, full: bool = True) -> Journal | None:
        """Read as far as lines and segments are sound; None if there is no beginning.

        Args:
            full: check each segment's checksum, not only its size.
        """
        try:
            lines = whole_lines((directory / JOURNAL).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            journal = cls._begun(decode_line(lines[0])) if lines else None
        except (CacheError, ValueError, LookupError, TypeError, AttributeError):
            journal = None
        if journal is None or journal.key.digest != directory.name:
            return None
        journal = replace(journal, size_bytes=len(lines[0]))
        for line in lines[1:]:
            segment = journal._sound_segment(directory, line, full=full)
            if segment is None:
                break
            journal = journal._with(segment, size_bytes=journal.size_bytes + len(line))
        return journal

    @classmethod
    def _begun(cls, header: Mapping[str, Any] | None) -> Journal | None:
        if header is None or header["format_version"] != FORMAT_VERSION:
            return None
        tensors = {name: TensorSpec.from_json(spec) for name, spec in header["tensors"].items()}
        return cls(CacheKey.from_json(header["key"]), dict(header["facts"]), tensors)

    def append(self, directory: Path, segment: Segment, *, tensors: Mapping[str, TensorSpec]) -> Journal:
        """Record one more segment durably; returns the journal that includes it."""
        journal, data = self, b""
        if not self.size_bytes:
            journal = replace(self, tensors=tensors)
            data = journal._header_line()
        data += encode_line(segment.to_json())
        with open(directory / JOURNAL, "ab") as file:
            file.truncate(self.size_bytes)  # drops what an interrupted append may have left
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return journal._with(segment, size_bytes=self.size_bytes + len(data))

    def discard_rest(self, directory: Path) -> None:
        """Delete whatever in `directory` this journal does not vouch for."""
        kept = {segment.file for segment in self.segments} | ({JOURNAL} if self.size_bytes else set())
        for path in directory.iterdir():
            if path.name not in kept:
                path.unlink()
        if self.size_bytes:
            os.truncate(directory / JOURNAL, self.size_bytes)

    def _with(self, segment: Segment, *, size_bytes: int) -> Journal:
        return replace(self, segments=(*self.segments, segment), size_bytes=size_bytes)

    def _header_line(self) -> bytes:
        tensors = {name: spec.to_json() for name, spec in self.tensors.items()}
        facts = {"key": self.key.to_json(), "facts": self.facts, "tensors": tensors}
        return encode_line({"format_version": FORMAT_VERSION, **facts})

    def _sound_segment(self, directory: Path, line: bytes, *, full: bool) -> Segment | None:
        directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            content = decode_line(line)
            if content is None:
                raise CacheError(f"a line of {JOURNAL} does not match its checksum")
            segment = Segment.from_json(content)
            check_continues(self.segments, segment)
            check_size(directory_fd, segment)
            if full:
                SegmentReader().open(directory_fd, segment, specs=self.tensors, key_digest=self.key.digest)
        except (CacheError, ValueError, LookupError, TypeError, AttributeError) as error:
            logger.warning("%s: frames from %d on are compressed again: %s", directory, self.num_frames, error)
            return None
        finally:
            os.close(directory_fd)
        return segment


class EntryWriter:
    """Receives one video's compressed frames in order. Comes from `FrameCache.writer`, which holds the lock.

    Attributes:
        entry: the finished `CacheEntry`; set from the start if it is already complete, else by `finish()`.
        num_frames: index of the next frame to append; at the start, frames safe from an interrupted run.
    """

    def __init__(
        self,
        directory: Path,
        key: CacheKey,
        *,
        facts: Mapping[str, Any],
        segment_frames: int,
        reader: SegmentReader,
    ) -> None:
        self.directory, self.key = directory, key
        self._facts = plain_json(facts, what="facts")
        self._segment_frames, self._reader = segment_frames, reader
        self._buffer: list[Batch] = []
        self._is_closed = False
        self.entry = CacheEntry.open(directory, reader=reader)
        self._journal = Journal(key, self._facts)
        if self.entry is None:
            self._resume()

    @property
    def num_frames(self) -> int:
        """Appended so far, those of an interrupted run included."""
        if self.entry is not None:
            return self.entry.num_frames
        return self._buffer[-1].stop_frame if self._buffer else self._journal.num_frames

    @property
    def last_pts_seconds(self) -> float | None:
        """Time of the last frame that was appended or is safe from an interrupted run; None before the first."""
        batches = self._buffer or self._journal.segments
        return float(batches[-1].pts_seconds[-1]) if batches else None

    def append(self, tensors: Mapping[str, torch.Tensor], pts_seconds: np.ndarray) -> None:
        """Add F whole frames; they reach the disk when `segment_frames` have gathered, always as one piece.

        Args:
            tensors: [F, …] by name, on any device; the same names, dtypes and frame shapes each time.
                Copied or written before this returns.
            pts_seconds: float64 [F], finite, ascending within and across calls.

        Raises:
            CacheError: wrong shapes or times, the entry is already complete, or writing failed (disk full).
        """
        self._check_open()
        if self.entry is not None:
            raise CacheError(f"cache entry {self.directory} is complete; open it with restart=True to replace it")
        pts_seconds = np.array(pts_seconds, dtype=np.float64)
        tensors = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
        check_batch(tensors, pts_seconds)
        batch = Batch(self.num_frames, tensors, pts_seconds)
        self._check_continues(batch)
        is_full = self._is_full([*self._buffer, batch])
        self._buffer.append(batch if is_full else batch.copied())
        if is_full:
            self.flush()

    def flush(self) -> None:
        """Write all buffered frames as one segment now."""
        # Ctrl-C may have hit between committing to the journal and emptying the buffer: skip what is safe.
        pending = [batch for batch in self._buffer if batch.first_frame >= self._journal.num_frames]
        if pending:
            with os_errors_as_cache_errors(f"write to cache entry {self.directory}"):
                self._journal = self._write(pending)
        self._buffer = []

    def finish(self, facts: Mapping[str, Any] | None = None) -> CacheEntry:
        """Complete the entry and return it, open; `facts` are added to those given to `FrameCache.writer`.

        Raises:
            CacheError: no frame was appended, `facts` are not JSON, or writing failed.
        """
        if self.entry is not None:
            return self.entry
        self._check_open()
        self._facts = {**self._facts, **plain_json(facts or {}, what="facts")}
        self.flush()
        if not self._journal.segments:
            raise CacheError(f"cannot finish cache entry {self.directory}: no frames were appended")
        with os_errors_as_cache_errors(f"finish cache entry {self.directory}"):
            self._publish()
        self.entry = CacheEntry.open(self.directory, reader=self._reader)
        assert self.entry is not None
        return self.entry

    def close(self, *, after_error: bool = False) -> None:
        """Flush for the last time; `after_error`, log a second error rather than hide the first."""
        self._is_closed = True
        try:
            self.flush()
        except CacheError as error:
            if not after_error:
                raise
            logger.warning("%s; %d frames are safe", error, self._journal.num_frames)

    def _check_open(self) -> None:
        if self._is_closed:
            raise CacheError(f"the `with` block that wrote {self.directory} has ended; call FrameCache.writer again")

    def _resume(self) -> None:
        with os_errors_as_cache_errors(f"write to cache entry {self.directory}"):
            self.directory.mkdir(parents=True, exist_ok=True)
            fsync_directory(self.directory.parent)
            self._journal = Journal.load(self.directory) or self._journal
            self._journal.discard_rest(self.directory)

    def _is_full(self, batches: list[Batch]) -> bool:
        return (
            sum(batch.num_frames for batch in batches) >= self._segment_frames
            or sum(batch.size_bytes for batch in batches) >= MAX_SEGMENT_BYTES
        )

    def _check_continues(self, batch: Batch) -> None:
        expected = self._buffer[-1].specs if self._buffer else self._journal.tensors
        if expected and batch.specs != expected:
            raise CacheError(f"frames of {self.directory} have {expected}, cannot append {batch.specs}")
        last_pts = self._buffer[-1].pts_seconds[-1] if self._buffer else self._last_safe_pts()
        if batch.pts_seconds[0] < last_pts:
            raise CacheError(f"frame {batch.first_frame} at {batch.pts_seconds[0]} s comes after one at {last_pts} s")

    def _last_safe_pts(self) -> float:
        return self._journal.segments[-1].pts_seconds[-1] if self._journal.segments else -math.inf

    def _write(self, batches: list[Batch]) -> Journal:
        index = len(self._journal.segments)
        try:
            segment = write_segment(self.directory, index, batches, key_digest=self.key.digest)
            return self._journal.append(self.directory, segment, tensors=batches[0].specs)
        except OSError:
            (self.directory / segment_file(index)).unlink(missing_ok=True)  # room for whoever needs it
            raise

    def _publish(self) -> None:
        manifest = Manifest(self.key, self._journal.tensors, self._journal.segments, self._facts, time.time())
        temporary = self.directory / MANIFEST_TEMPORARY
        with open(temporary, "wb") as file:
            file.write(manifest.encode())
            file.flush()
            os.fsync(file.fileno())
        fsync_directory(self.directory)  # the segments' names must not appear later than the manifest's
        os.rename(temporary, self.directory / MANIFEST)
        fsync_directory(self.directory)
        (self.directory / JOURNAL).unlink()
