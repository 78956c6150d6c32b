"""Writing one entry so that a crash at any byte loses at most the frames since the last segment.

Frames gather in memory, go to disk as a segment, and count once the entry's log names it. Finishing a whole entry
writes the manifest, whose existence makes it complete, and only then removes the log. An entry that grows is read by
its log.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from voco_video.cache.entry import CacheEntry, Manifest
from voco_video.cache.key import CacheKey, plain_json
from voco_video.cache.locks import GROWING, JOURNAL, MANIFEST, os_errors_as_cache_errors, unread
from voco_video.cache.segment import (
    MAX_SEGMENT_BYTES,
    Batch,
    Segment,
    SegmentReader,
    TensorSpec,
    check_batch,
    segment_file,
    write_segment,
)
from voco_video.cache.segment_log import SegmentLog, read_published, read_safe, superseded_files
from voco_video.errors import CacheError
from voco_video.files.atomic_write import fsync_directory, write_atomically

logger = logging.getLogger(__name__)


class SegmentWriter:
    """What writers of whole and of growing entries share: frames become segments, which a log names.

    Attributes:
        log: the frames that no crash takes away.
    """

    log_file: str
    is_readable: bool  # while it is written

    def __init__(
        self, directory: Path, key: CacheKey, *, facts: Mapping[str, Any], segment_frames: int, reader: SegmentReader
    ) -> None:
        self.directory, self.key = directory, key
        self.log = SegmentLog(key, time.time())
        self._facts = plain_json(facts, what="facts")  # those that the next line of the log records
        self._segment_frames, self._reader = segment_frames, reader
        self._buffer: list[Batch] = []
        self._is_closed = False

    @property
    def num_frames(self) -> int:
        """Index of the next frame to append; at the start, frames that are safe from an earlier run."""
        return self._buffer[-1].stop_frame if self._buffer else self.log.num_frames

    @property
    def first_pts_seconds(self) -> float | None:
        """Time of the first frame; None before it was appended."""
        batches = self.log.segments or self._buffer
        return float(batches[0].pts_seconds[0]) if batches else None

    @property
    def last_pts_seconds(self) -> float | None:
        """Time of the last frame that was appended or is safe from an earlier run; None before the first."""
        batches = self._buffer or self.log.segments
        return float(batches[-1].pts_seconds[-1]) if batches else None

    def append(self, tensors: Mapping[str, torch.Tensor], pts_seconds: np.ndarray) -> None:
        """Add F whole frames; they reach the disk when a full segment has gathered, always as one piece.

        Args:
            tensors: [F, …] by name, on any device; the same names, dtypes and frame shapes each time.
                Copied or written before this returns.
            pts_seconds: float64 [F], finite, ascending within and across calls.

        Raises:
            CacheError: wrong shapes or times, the entry is already complete, or writing failed (disk full).
        """
        self._check_open()
        pts_seconds = np.array(pts_seconds, dtype=np.float64)
        tensors = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
        check_batch(tensors, pts_seconds)
        batch = Batch(self.num_frames, tensors, pts_seconds)
        self._check_continues(batch)
        is_full = self._is_full([*self._buffer, batch])
        self._buffer.append(batch if is_full else batch.copied())
        if is_full:
            self.flush()

    def note(self, facts: Mapping[str, Any]) -> None:
        """Have the log record JSON values with the next segment, for a run that goes on after this one."""
        self._facts = {**self._facts, **plain_json(facts, what="facts")}

    def flush(self) -> None:
        """Write all buffered frames as one segment now."""
        # Ctrl-C may have hit between naming a segment in the log and emptying the buffer: skip what is safe.
        pending = [batch for batch in self._buffer if batch.first_frame >= self.log.num_frames]
        if pending:
            with os_errors_as_cache_errors(f"write to cache entry {self.directory}"):
                self._write(pending, {})
        self._buffer = []

    def close(self, *, after_error: bool = False) -> None:
        """Flush for the last time; `after_error`, log a second error rather than hide the first."""
        self._is_closed = True
        try:
            self.flush()
        except CacheError as error:
            if not after_error:
                raise
            logger.warning("%s; %d frames are safe", error, self.log.num_frames)

    def _open_directory(self, log: SegmentLog | None) -> None:
        """Make the entry's directory, and go on with the log of an earlier run."""
        self.directory.mkdir(parents=True, exist_ok=True)
        fsync_directory(self.directory.parent)
        self.log = log or self.log

    def _check_open(self) -> None:
        if self._is_closed:
            raise CacheError(f"the `with` block that wrote {self.directory} has ended; ask FrameCache for a new writer")

    def _check_continues(self, batch: Batch) -> None:
        expected = self._buffer[-1].specs if self._buffer else self.log.tensors
        if expected and batch.specs != expected:
            raise CacheError(f"frames of {self.directory} have {expected}, cannot append {batch.specs}")
        last_pts = -math.inf if self.last_pts_seconds is None else self.last_pts_seconds
        if batch.pts_seconds[0] < last_pts:
            raise CacheError(f"frame {batch.first_frame} at {batch.pts_seconds[0]} s comes after one at {last_pts} s")

    def _is_full(self, batches: Sequence[Batch | Segment]) -> bool:
        return (
            sum(batch.num_frames for batch in batches) >= self._segment_frames
            or sum(batch.size_bytes for batch in batches) >= MAX_SEGMENT_BYTES
        )

    def _write(self, batches: Sequence[Batch], change: Mapping[str, Any]) -> None:
        """Write frames as one segment and name it in the log."""
        index = self.log.num_files
        while self.is_readable and (self.directory / segment_file(index)).exists():
            index += 1  # a reader may know a file that we wrote and could not name
        try:
            segment = write_segment(self.directory, index, batches, key_digest=self.key.digest)
            fsync_directory(self.directory)  # the file's name must not appear later than the line that names it
            self._record({"segment": segment.to_json(), **change}, tensors=batches[0].specs)
        except OSError:
            (self.directory / segment_file(index)).unlink(missing_ok=True)  # frees its space
            raise

    def _record(self, change: Mapping[str, Any], *, tensors: Mapping[str, TensorSpec]) -> None:
        """Add a line to the log, with the facts that are new."""
        facts = {"facts": self._facts} if self._facts else {}
        self.log = self.log.append(self.directory / self.log_file, {**facts, **change}, tensors=tensors)
        self._facts = {}


class EntryWriter(SegmentWriter):
    """Receives one video's compressed frames in order. Comes from `FrameCache.writer`, which holds the lock.

    Attributes:
        entry: the finished `CacheEntry`; set from the start if it is already complete, else by `finish()`.
    """

    log_file, is_readable = JOURNAL, False

    def __init__(
        self, directory: Path, key: CacheKey, *, facts: Mapping[str, Any], segment_frames: int, reader: SegmentReader
    ) -> None:
        super().__init__(directory, key, facts=facts, segment_frames=segment_frames, reader=reader)
        self._entry_facts = self._facts
        self.entry = self._finished()
        if self.entry is None:
            with os_errors_as_cache_errors(f"write to cache entry {directory}"):
                self._open_directory(read_safe(directory))
                self._discard_rest()

    @property
    def num_frames(self) -> int:
        """Index of the next frame to append; at the start, frames that are safe from an interrupted run."""
        return super().num_frames if self.entry is None else self.entry.num_frames

    def finish(self, facts: Mapping[str, Any] | None = None) -> CacheEntry:
        """Complete the entry and return it, open; `facts` are added to those given to `FrameCache.writer`.

        Raises:
            CacheError: no frame was appended, `facts` are not JSON, or writing failed.
        """
        if self.entry is not None:
            return self.entry
        self._check_open()
        self._entry_facts = {**self._entry_facts, **plain_json(facts or {}, what="facts")}
        self.flush()
        if not self.log.segments:
            raise CacheError(f"cannot finish cache entry {self.directory}: no frames were appended")
        manifest = Manifest(self.key, self.log.tensors, tuple(self.log.segments), self._entry_facts, time.time())
        with os_errors_as_cache_errors(f"finish cache entry {self.directory}"):
            write_atomically(self.directory / MANIFEST, manifest.encode(), is_durable=True)
            (self.directory / JOURNAL).unlink()
        self.entry = self._finished()
        assert self.entry is not None
        return self.entry

    def _finished(self) -> CacheEntry | None:
        """Open the entry where it is complete."""
        return CacheEntry.open(self.directory, reader=self._reader)

    def _check_open(self) -> None:
        super()._check_open()
        if self.entry is not None:
            raise CacheError(f"cache entry {self.directory} is complete; open it with restart=True to replace it")

    def _discard_rest(self) -> None:
        """Delete whatever the log does not name."""
        named = {segment.file for segment in self.log.segments} | ({JOURNAL} if self.log.size_bytes else set())
        for path in self.directory.iterdir():
            if path.name not in named:
                path.unlink()
        if self.log.size_bytes:
            os.truncate(self.directory / JOURNAL, self.log.size_bytes)


class GrowingWriter(SegmentWriter):
    """Receives frames of a source as they come. Comes from `FrameCache.growing_writer`, which holds the lock."""

    log_file, is_readable = GROWING, True

    def __init__(
        self, directory: Path, key: CacheKey, *, facts: Mapping[str, Any], segment_frames: int, reader: SegmentReader
    ) -> None:
        super().__init__(directory, key, facts={}, segment_frames=segment_frames, reader=reader)
        self._is_rewriting = False
        with os_errors_as_cache_errors(f"write to cache entry {directory}"):
            self._open_directory(read_published(directory))
            self._is_tidy = delete_superseded(directory, self.log)
        self.set_facts(facts)

    @property
    def num_published_frames(self) -> int:
        """Frames that readers see, and that no crash takes away."""
        return self.log.num_frames

    @property
    def facts(self) -> dict[str, Any]:
        """The facts as they will be after the next publication."""
        return {**self.log.facts, **self._facts}

    def set_facts(self, facts: Mapping[str, Any]) -> None:
        """Store JSON values with the next publication, in the place of earlier ones of the same name.

        Raises:
            CacheError: they are not JSON.
        """
        now = self.facts
        self._facts |= {n: v for n, v in plain_json(facts, what="facts").items() if n not in now or now[n] != v}

    def flush(self) -> None:
        """Publish buffered frames, if there are any."""
        if self._buffer:
            self.publish()

    def publish(self, *, is_ended: bool = False) -> None:
        """Make everything appended so far readable, and safe from a crash.

        Args:
            is_ended: the source is over.

        Raises:
            CacheError: nothing was ever appended and the source is over, or writing failed.
        """
        ended = {"is_ended": True} if is_ended else {}
        with os_errors_as_cache_errors(f"write to cache entry {self.directory}"):
            self._read_again_if_rewritten()
            pending = [batch for batch in self._buffer if batch.first_frame >= self.num_published_frames]
            if pending:
                self._write(pending, ended)
            elif self.log.segments and (self._facts or ended):
                self._record(ended, tensors=self.log.tensors)
            elif ended:
                raise CacheError(f"cannot finish cache entry {self.directory}: no frames were appended")
            self._buffer = []
            self._merge(ended)
            self._is_tidy = self._is_tidy or delete_superseded(self.directory, self.log)

    def _merge(self, ended: Mapping[str, bool]) -> None:
        """Write the small segments at the end as one, once they make a full one or the source has ended."""
        tail: list[Segment] = []
        for segment in reversed(self.log.segments):
            if self._is_full([segment]):
                break
            tail.insert(0, segment)
        if len(tail) > 1 and (ended or self._is_full(tail)):
            self._write([self._read(segment) for segment in tail], {"num_replaced": len(tail), **ended})
            self._is_tidy = False
            self._rewrite_log()

    def _read(self, segment: Segment) -> Batch:
        directory_fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            mapped = self._reader.open(directory_fd, segment, specs=self.log.tensors, key_digest=self.key.digest)
            tensors = {name: mapped[name] for name in self.log.tensors}
        finally:
            os.close(directory_fd)
        return Batch(segment.first_frame, tensors, np.array(segment.pts_seconds))

    def _rewrite_log(self) -> None:
        """Rewrite the log where that is worth its time; where it fails, the longer log is as good."""
        if self.log.is_wasteful:
            self._is_rewriting = True
            with suppress(OSError), unread(self.directory) as is_unread:
                self.log = self.log.rewrite(self.directory / GROWING, is_read=not is_unread)
                self._is_rewriting = False

    def _read_again_if_rewritten(self) -> None:
        """Read the log again where rewriting it was cut short, by Ctrl-C or a full disk: it may be either one."""
        if self._is_rewriting:
            self.log = read_published(self.directory) or self.log
            self._is_rewriting = False


def write_finished(directory: Path, manifest: Manifest, files: Iterable[tuple[Segment, bytes]]) -> None:
    """Write a whole entry at once where there is none: its files, then its manifest. The caller has its write lock."""
    with os_errors_as_cache_errors(f"write to cache entry {directory}"):
        directory.mkdir(parents=True)
        try:
            fsync_directory(directory.parent)
            for segment, data in files:
                with open(directory / segment.file, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            write_atomically(directory / MANIFEST, manifest.encode(), is_durable=True)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise


@contextmanager
def closing_writer(writer: SegmentWriter) -> Iterator[None]:
    """Close a writer after the block; where the block fails, its error is the one that is raised."""
    try:
        yield
    except BaseException:
        writer.close(after_error=True)
        raise
    writer.close()


def delete_superseded(directory: Path, log: SegmentLog | None) -> bool:
    """Delete `superseded_files`; False if somebody reads the entry. The caller has its write lock."""
    with unread(directory) as is_unread:
        for path in superseded_files(directory, log) if is_unread else ():
            path.unlink(missing_ok=True)
    return is_unread
