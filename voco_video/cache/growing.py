"""An entry that grows: readable while it is written, for a source that has not ended.

    growing.txt   key, tensors, when it began                                 one line each, with its own checksum
                  + segment-000000.safetensors, frames 0-3                    published
                  + segment-000001.safetensors, frames 4-7                    published
                  + segment-000002.safetensors, frames 0-7, instead of both   merged: few large files, not many small
                  + facts; the source has ended

A line is appended once the segment that it names is safe on disk, so whatever the file holds up to its last line
feed can be read, at any moment and after a crash at any byte. Lines are chained: one that is lost, doubled or moved
is damage that is found. (Earlier versions did not chain them; in their files it is found where frames do not follow on
each other.) A lost last line cannot be told from one that was never written, but `unpublished` finds its segment.
Segments that were merged stay on disk until nobody reads the entry.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from voco_video.cache.checked_lines import decode_line, encode_line, whole_lines
from voco_video.cache.key import FORMAT_VERSION, CacheKey, plain_json
from voco_video.cache.locks import GROWING, damaged, fsync_directory, os_errors_as_cache_errors, unread
from voco_video.cache.segment import (
    MAX_SEGMENT_BYTES,
    Batch,
    Segment,
    SegmentReader,
    TensorSpec,
    check_batch,
    check_continues,
    segment_file,
    segment_index,
    write_segment,
)
from voco_video.errors import CacheError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GrowingLog:
    """What `growing.txt` says: everything published so far.

    Attributes:
        segments: without a gap, from frame 0.
        is_ended: the source is over; a later run may still go on.
        num_files: one more than the highest number of a segment file so far, merged ones included; numbers the next.
        size_bytes: of the file up to its last whole line.
        is_chained: each line's checksum covers the line before, too.
        last_line: the last whole line.
    """

    key: CacheKey
    tensors: Mapping[str, TensorSpec]
    created_unix_seconds: float
    segments: tuple[Segment, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    is_ended: bool = False
    num_files: int = 0
    size_bytes: int = 0
    is_chained: bool = True
    last_line: bytes = b""

    @property
    def num_frames(self) -> int:
        """Frames that are published."""
        return self.segments[-1].stop_frame if self.segments else 0

    @classmethod
    def decode(cls, data: bytes) -> GrowingLog | None:
        """From the file's bytes; a torn last line does not count, and None is what holds no frame yet.

        Raises:
            CacheError: a whole line is not what was written.
        """
        log: GrowingLog | None = None
        for number, line in enumerate(whole_lines(data), 1):
            content = decode_line(line, after=log.last_line if log and log.is_chained else b"")
            if content is None:
                raise CacheError(f"line {number} of {GROWING} does not match its checksum, or lines are missing")
            try:
                log = cls._begun(content, line) if log is None else log.after(content, line=line)
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise CacheError(f"line {number} of {GROWING} is unreadable: {error!r}") from error
            except CacheError as error:
                raise CacheError(f"line {number} of {GROWING}: {error}") from error
        return log if log and log.segments else None

    @classmethod
    def load(cls, directory: Path) -> GrowingLog | None:
        """From the file in `directory`; None where nothing is published, CacheError where it is damaged."""
        try:
            log = cls.decode((directory / GROWING).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except CacheError as error:
            raise damaged(directory, error) from error
        if log is not None and log.key.digest != directory.name:
            raise damaged(directory, f"it holds the result for another key, {log.key.digest}")
        return log

    def head(self) -> dict[str, Any]:
        """The first line."""
        return {
            "format_version": FORMAT_VERSION,
            "key": self.key.to_json(),
            "tensors": {name: spec.to_json() for name, spec in self.tensors.items()},
            "created_unix_seconds": self.created_unix_seconds,
            "is_chained": self.is_chained,
        }

    @classmethod
    def _begun(cls, head: Mapping[str, Any], line: bytes) -> GrowingLog:
        if head["format_version"] != FORMAT_VERSION:
            raise CacheError(f"it has format {head['format_version']}, this voco-video reads {FORMAT_VERSION}")
        return cls(
            key=CacheKey.from_json(head["key"]),
            tensors={name: TensorSpec.from_json(spec) for name, spec in head["tensors"].items()},
            created_unix_seconds=checked_unix_seconds(head["created_unix_seconds"]),
            size_bytes=len(line),
            is_chained=head.get("is_chained", False),
            last_line=line,
        )

    def after(self, change: Mapping[str, Any], *, line: bytes) -> GrowingLog:
        """The log with one more line.

        Args:
            change: any of ``segment``, ``num_replaced`` (how many of the last segments it stands for from now on),
                ``facts`` (replace those of the same name) and ``is_ended``.
            line: that says so.

        Raises:
            CacheError: the segment does not go on where the others end.
        """
        segments, num_files = self.segments, self.num_files
        if "segment" in change:
            segment, num_replaced = Segment.from_json(change["segment"]), change.get("num_replaced", 0)
            if not 0 <= num_replaced <= len(segments):
                raise CacheError(f"{segment.file} stands for {num_replaced} segments, of {len(segments)}")
            kept = segments[: len(segments) - num_replaced]
            check_continues(kept, segment)
            if num_replaced and segment.stop_frame != segments[-1].stop_frame:
                raise CacheError(f"{segment.file} ends at frame {segment.stop_frame}, not where those it replaces end")
            index = segment_index(segment.file)
            assert index is not None
            segments, num_files = (*kept, segment), max(num_files, index + 1)
        return replace(
            self,
            segments=segments,
            facts={**self.facts, **change.get("facts", {})},
            is_ended=change.get("is_ended", False),
            num_files=num_files,
            size_bytes=self.size_bytes + len(line),
            last_line=line,
        )


def checked_unix_seconds(value: Any) -> float:
    """A time stamp as JSON has it; CacheError for what is none."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1e11:
        raise CacheError(f"created_unix_seconds is {value!r}, which is no time")
    return value


def unpublished(directory: Path, log: GrowingLog, *, file_bytes: int) -> str:
    """What a growing entry has beyond its log's last line, in words; empty if nothing.

    Between two publications that is normal. While no process writes the entry, a crash or damage took the end of it.

    Args:
        file_bytes: size of the log's file.
    """
    names = (path.name for path in directory.glob("segment-*"))
    indexes = [index for name in names if (index := segment_index(name)) is not None]
    if any(index >= log.num_files for index in indexes):
        return f"has frames on disk that its {GROWING} does not name"
    return f"has a {GROWING} that ends within a line" if file_bytes > log.size_bytes else ""


def superseded_files(directory: Path, log: GrowingLog | None) -> list[Path]:
    """Segment files that the log does not name: merged, or written by a run that stopped before it published them."""
    named = {segment.file for segment in log.segments} if log else set()
    return sorted(path for path in directory.glob("segment-*.safetensors") if path.name not in named)


def delete_superseded(directory: Path, log: GrowingLog | None) -> bool:
    """Delete `superseded_files`; False if somebody reads the entry. The caller has its write lock."""
    with unread(directory) as is_unread:
        for path in superseded_files(directory, log) if is_unread else ():
            path.unlink(missing_ok=True)
    return is_unread


class GrowingWriter:
    """Receives frames of a source as they come. Comes from `FrameCache.growing_writer`, which holds the lock.

    Attributes:
        log: what is published; None before the first publication.
    """

    def __init__(
        self, directory: Path, key: CacheKey, *, facts: Mapping[str, Any], segment_frames: int, reader: SegmentReader
    ) -> None:
        self.directory, self.key = directory, key
        self._facts: dict[str, Any] = {}
        self._segment_frames, self._reader = segment_frames, reader
        self._buffer: list[Batch] = []
        with os_errors_as_cache_errors(f"write to cache entry {directory}"):
            directory.mkdir(parents=True, exist_ok=True)
            fsync_directory(directory.parent)
            self.log = GrowingLog.load(directory)
            self._is_tidy = delete_superseded(directory, self.log)
        self.set_facts(facts)

    @property
    def num_frames(self) -> int:
        """Index of the next frame to append."""
        return self._buffer[-1].stop_frame if self._buffer else self.num_published_frames

    @property
    def num_published_frames(self) -> int:
        """Frames that readers see, and that no crash takes away."""
        return self.log.num_frames if self.log else 0

    @property
    def first_pts_seconds(self) -> float | None:
        """Time of the first frame; None before it was appended."""
        if self.log:
            return self.log.segments[0].pts_seconds[0]
        return float(self._buffer[0].pts_seconds[0]) if self._buffer else None

    @property
    def last_pts_seconds(self) -> float | None:
        """Time of the last frame appended; None before the first."""
        if self._buffer:
            return float(self._buffer[-1].pts_seconds[-1])
        return self.log.segments[-1].pts_seconds[-1] if self.log else None

    @property
    def facts(self) -> dict[str, Any]:
        """The facts as they will be after the next publication."""
        return {**(self.log.facts if self.log else {}), **self._facts}

    def set_facts(self, facts: Mapping[str, Any]) -> None:
        """Store JSON values with the next publication, in the place of earlier ones of the same name.

        Raises:
            CacheError: they are not JSON.
        """
        now = self.facts
        self._facts |= {n: v for n, v in plain_json(facts, what="facts").items() if n not in now or now[n] != v}

    def append(self, tensors: Mapping[str, torch.Tensor], pts_seconds: np.ndarray) -> None:
        """Add F whole frames; `publish` makes them readable, and so does gathering a full segment.

        Args:
            tensors: [F, …] by name, on any device; the same names, dtypes and frame shapes each time. Copied.
            pts_seconds: float64 [F], finite, ascending within and across calls.

        Raises:
            CacheError: wrong shapes or times, or writing failed (disk full).
        """
        pts_seconds = np.array(pts_seconds, dtype=np.float64)
        tensors = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
        check_batch(tensors, pts_seconds)
        batch = Batch(self.num_frames, tensors, pts_seconds).copied()
        expected = self._buffer[-1].specs if self._buffer else self.log.tensors if self.log else batch.specs
        if batch.specs != expected:
            raise CacheError(f"frames of {self.directory} have {expected}, cannot append {batch.specs}")
        last_pts = -math.inf if self.last_pts_seconds is None else self.last_pts_seconds
        if pts_seconds[0] < last_pts:
            raise CacheError(f"frame {batch.first_frame} at {pts_seconds[0]} s comes after one at {last_pts} s")
        self._buffer.append(batch)
        if self._is_full(self._buffer):
            self.publish()

    def publish(self, *, is_ended: bool = False) -> None:
        """Make everything appended so far readable, and safe from a crash.

        Args:
            is_ended: the source is over.

        Raises:
            CacheError: nothing was ever appended and the source is over, or writing failed.
        """
        # Ctrl-C may have hit between committing a segment and emptying the buffer: skip what is safe.
        pending = [batch for batch in self._buffer if batch.first_frame >= self.num_published_frames]
        if not pending and self.log is None:
            if is_ended:
                raise CacheError(f"cannot finish cache entry {self.directory}: no frames were appended")
            return
        with os_errors_as_cache_errors(f"write to cache entry {self.directory}"):
            ended = {"is_ended": True} if is_ended else {}
            if pending:
                self._write(pending, {"facts": self._facts, **ended})
            elif self._facts or ended:
                self._commit({"facts": self._facts, **ended})
            self._buffer, self._facts = [], {}
            self._merge(ended)
            self._is_tidy = self._is_tidy or delete_superseded(self.directory, self.log)

    def close(self, *, after_error: bool = False) -> None:
        """Publish for the last time; `after_error`, log a second error rather than hide the first."""
        try:
            if self._buffer:
                self.publish()
        except CacheError as error:
            if not after_error:
                raise
            logger.warning("%s; %d frames are safe", error, self.num_published_frames)

    def _write(self, batches: list[Batch], change: Mapping[str, Any]) -> None:
        """Write frames as one segment and publish it."""
        index = self.log.num_files if self.log else 0
        while (self.directory / segment_file(index)).exists():  # a reader may know a file that we could not commit
            index += 1
        try:
            segment = write_segment(self.directory, index, batches, key_digest=self.key.digest)
            fsync_directory(self.directory)  # the file's name must not appear later than the line that names it
            self._commit({"segment": segment.to_json(), **change}, tensors=batches[0].specs)
        except OSError:
            (self.directory / segment_file(index)).unlink(missing_ok=True)  # room for whoever needs it
            raise

    def _commit(self, change: Mapping[str, Any], *, tensors: Mapping[str, TensorSpec] | None = None) -> None:
        """Append one line durably, the first of all after the head."""
        log, data = self.log, b""
        if log is None:
            log = GrowingLog(self.key, dict(tensors or {}), time.time())
            data = encode_line(log.head())
            log = replace(log, size_bytes=len(data), last_line=data)
        line = encode_line(change, after=log.last_line if log.is_chained else b"")
        with open(self.directory / GROWING, "ab") as file:
            file.truncate(log.size_bytes - len(data))  # drops what an interrupted run may have left
            file.write(data + line)
            file.flush()
            os.fsync(file.fileno())
        if data:
            fsync_directory(self.directory)
        self.log = log.after(change, line=line)

    def _merge(self, change: Mapping[str, Any]) -> None:
        """Write the small segments at the end as one, once they make a full one or the source has ended."""
        assert self.log is not None
        tail: list[Segment] = []
        for segment in reversed(self.log.segments):
            if self._is_full([segment]):
                break
            tail.insert(0, segment)
        if len(tail) > 1 and (change or self._is_full(tail)):
            self._write([self._read(segment) for segment in tail], {"num_replaced": len(tail), **change})
            self._is_tidy = False

    def _read(self, segment: Segment) -> Batch:
        assert self.log is not None
        directory_fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            mapped = self._reader.open(directory_fd, segment, specs=self.log.tensors, key_digest=self.key.digest)
            tensors = {name: mapped[name] for name in self.log.tensors}
        finally:
            os.close(directory_fd)
        return Batch(segment.first_frame, tensors, np.array(segment.pts_seconds))

    def _is_full(self, batches: Sequence[Batch | Segment]) -> bool:
        return (
            sum(batch.num_frames for batch in batches) >= self._segment_frames
            or sum(batch.size_bytes for batch in batches) >= MAX_SEGMENT_BYTES
        )
