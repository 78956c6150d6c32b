"""The log of an entry that is being written: a text file that names the segments that are safe on disk.

    head: key, tensors, when the entry was begun                    one line each, with its own checksum
    + segment-000000.safetensors, frames 0-3
    + segment-000001.safetensors, frames 4-7
    + segment-000002.safetensors, frames 0-7, instead of both       merged: few large files, not many small
    + facts; the source has ended

`journal.txt` is the log of an entry that is readable once it is finished, `growing.txt` the log of one that is readable
while it is written. A line is appended once the segment that it names is safe on disk, so everything up to the last
line feed can be trusted, at any moment and after a crash at any byte. Each line's checksum also covers the checksum of
the line before, so a lost, doubled or swapped line is found. (Logs of earlier versions may lack this chain; then such
damage is found where frames do not follow on each other.) A lost last line cannot be told from one that was never
written, but `unpublished` finds its segment.

Once merged segments and old facts fill many lines, the log is rewritten without them and renamed into place. A reader
that opened the old file goes on with it: the old file gets another name and stays, with the merged segments, until
nobody reads the entry.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from blake3 import blake3

from voco_video.cache.key import FORMAT_VERSION, CacheKey, canonical_json
from voco_video.cache.locks import GROWING, JOURNAL, damaged, replaced_logs
from voco_video.cache.segment import (
    Segment,
    SegmentReader,
    TensorSpec,
    check_continues,
    check_size,
    segment_index,
)
from voco_video.errors import CacheError
from voco_video.files.atomic_write import aside_files, fsync_directory, write_atomically

_CHECKSUM_DIGITS = 64

logger = logging.getLogger(__name__)


@dataclass
class SegmentLog:
    """What a log says: made new for an empty log, else by `read_published` or `read_safe`.

    Attributes:
        segments: without a gap, from frame 0.
        is_ended: the source is over; a later run may still go on.
        num_files: one more than the highest number of a segment file so far, merged ones included; numbers the next.
        num_lines: in the file.
        size_bytes: of the file up to its last whole line; 0 before the head is written.
        is_chained: each line's checksum covers the line before, too.
        last_line: the last whole line.
    """

    key: CacheKey
    created_unix_seconds: float
    tensors: Mapping[str, TensorSpec] = field(default_factory=dict)
    segments: list[Segment] = field(default_factory=list)
    facts: Mapping[str, Any] = field(default_factory=dict)
    is_ended: bool = False
    num_files: int = 0
    num_lines: int = 0
    size_bytes: int = 0
    is_chained: bool = True
    last_line: bytes = b""

    @property
    def num_frames(self) -> int:
        """Frames in all segments."""
        return self.segments[-1].stop_frame if self.segments else 0

    @property
    def is_wasteful(self) -> bool:
        """Whether so many lines say what no longer counts that `rewrite` is worth its time."""
        return self.num_lines > 256 + 1.25 * len(self.segments)

    def append(self, path: Path, change: Mapping[str, Any], *, tensors: Mapping[str, TensorSpec]) -> SegmentLog:
        """Write one more line durably, the first of all after the head; returns the log with it.

        Args:
            path: of the log.
            change: any of ``segment``, ``num_replaced`` (how many of the last segments it replaces), ``facts`` (replace
                those of the same name) and ``is_ended``.
            tensors: what every frame holds, for the head.
        """
        log = replace(self, segments=list(self.segments))
        data = b"" if self.size_bytes else log._start(tensors)
        data += log._extend(change)
        with open(path, "ab") as file:
            file.truncate(self.size_bytes)  # drops what an interrupted append may have left
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if not self.size_bytes:
            fsync_directory(path.parent)
        return log

    def rewrite(self, path: Path, *, is_read: bool) -> SegmentLog:
        """Replace the file by the shortest one that says the same; returns the log as it is then.

        Args:
            path: of the log, which names at least one segment.
            is_read: readers hold the old file, so it stays under another name.
        """
        changes: list[dict[str, Any]] = [{"segment": segment.to_json()} for segment in self.segments]
        changes[-1] |= {"facts": self.facts, "is_ended": self.is_ended}
        log = SegmentLog(self.key, self.created_unix_seconds)
        data = [log._start(self.tensors), *(log._extend(change) for change in changes)]
        if is_read:
            os.link(path, path.with_name(f"{path.name}.{uuid.uuid4().hex}"))
        write_atomically(path, b"".join(data), is_durable=True)
        return log

    @classmethod
    def decode(
        cls, data: bytes, *, check_segment: Callable[[SegmentLog, Segment], None] | None = None
    ) -> tuple[SegmentLog | None, CacheError | None]:
        """Read a log's bytes up to the first line that is not sound; a torn last line does not count.

        Args:
            check_segment: raises CacheError where a segment on disk is not what the log says.

        Returns:
            The log, None where not even its head is sound; and what is wrong with the next line, None at the end.
        """
        log: SegmentLog | None = None
        for number, line in enumerate(whole_lines(data), 1):
            try:
                content = decode_line(line, after=log.last_line if log and log.is_chained else b"")
                if content is None:
                    raise CacheError("it does not match its checksum, or lines are missing")
                if log is None:
                    log = cls._from_head(content, line)
                else:
                    log._apply(content, line, check_segment)
            except CacheError as error:
                return log, CacheError(f"line {number}: {error}")
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                return log, CacheError(f"line {number} is unreadable: {error!r}")
        return log, None

    @classmethod
    def _from_head(cls, head: Mapping[str, Any], line: bytes) -> SegmentLog:
        if head["format_version"] != FORMAT_VERSION:
            raise CacheError(f"it has format {head['format_version']}, this voco-video reads {FORMAT_VERSION}")
        return cls(  # journals of earlier versions have facts here and no time
            key=CacheKey.from_json(head["key"]),
            created_unix_seconds=checked_unix_seconds(
                head.get("created_unix_seconds", 0.0)
            ),  # earlier journals lack it
            tensors={name: TensorSpec.from_json(spec) for name, spec in head["tensors"].items()},
            facts={**head.get("facts", {})},
            num_lines=1,
            size_bytes=len(line),
            is_chained=head.get("is_chained", False),
            last_line=line,
        )

    def _start(self, tensors: Mapping[str, TensorSpec]) -> bytes:
        """Make this empty log one with a head; returns the head's line."""
        self.tensors = dict(tensors)
        head = {
            "format_version": FORMAT_VERSION,
            "key": self.key.to_json(),
            "tensors": {name: spec.to_json() for name, spec in self.tensors.items()},
            "created_unix_seconds": self.created_unix_seconds,
            "is_chained": self.is_chained,
        }
        line = encode_line(head)
        self.num_lines, self.size_bytes, self.last_line = 1, len(line), line
        return line

    def _extend(self, change: Mapping[str, Any]) -> bytes:
        """Put a change at the end; returns its line."""
        line = encode_line(change, after=self.last_line if self.is_chained else b"")
        self._apply(change, line)
        return line

    def _apply(
        self,
        change: Mapping[str, Any],
        line: bytes,
        check_segment: Callable[[SegmentLog, Segment], None] | None = None,
    ) -> None:
        """Put a line at the end, or raise and stay as it was."""
        if "file" in change:  # a line of an earlier journal is a segment and nothing else
            change = {"segment": change}
        facts = {**self.facts, **change["facts"]} if "facts" in change else self.facts
        if "segment" in change:
            self._apply_segment(Segment.from_json(change["segment"]), change.get("num_replaced", 0), check_segment)
        self.facts, self.is_ended = facts, change.get("is_ended", False)
        self.num_lines += 1
        self.size_bytes += len(line)
        self.last_line = line

    def _apply_segment(
        self, segment: Segment, num_replaced: int, check_segment: Callable[[SegmentLog, Segment], None] | None
    ) -> None:
        num_kept = len(self.segments) - num_replaced
        if not 0 <= num_kept <= len(self.segments):
            raise CacheError(f"{segment.file} replaces {num_replaced} segments, of {len(self.segments)}")
        check_continues(self.segments[max(0, num_kept - 1) : num_kept], segment)
        if num_replaced and segment.stop_frame != self.num_frames:
            raise CacheError(f"{segment.file} ends at frame {segment.stop_frame}, not where those it replaces end")
        if check_segment is not None:
            check_segment(self, segment)
        index = segment_index(segment.file)
        assert index is not None
        self.segments[num_kept:] = [segment]
        self.num_files = max(self.num_files, index + 1)


def decode_published(data: bytes) -> SegmentLog | None:
    """Read the bytes of `growing.txt`; None where they name no frame yet.

    Raises:
        CacheError: a whole line is not what was written.
    """
    log, error = SegmentLog.decode(data)
    if error is not None:
        raise CacheError(f"{GROWING}: {error}") from error
    return log if log and log.segments else None


def read_published(directory: Path) -> SegmentLog | None:
    """Read an entry's `growing.txt`; None where it publishes nothing, CacheError where it is damaged."""
    try:
        log = decode_published((directory / GROWING).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except CacheError as error:
        raise damaged(directory, error) from error
    if log is not None and log.key.digest != directory.name:
        raise damaged(directory, f"it holds the result for another key, {log.key.digest}")
    return log


def read_safe(directory: Path, *, full: bool = True) -> SegmentLog | None:
    """Read an entry's `journal.txt` as far as its lines and segments are sound; None where there is no beginning.

    Args:
        full: check each segment's checksum, not only its size.
    """
    try:
        data = (directory / JOURNAL).read_bytes()
        directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    reader = SegmentReader()

    def check(log: SegmentLog, segment: Segment) -> None:
        check_size(directory_fd, segment)
        if full:
            reader.open(directory_fd, segment, specs=log.tensors, key_digest=log.key.digest)

    try:
        log, error = SegmentLog.decode(data, check_segment=check)
    finally:
        os.close(directory_fd)
    if log is None or log.key.digest != directory.name:
        return None
    if error is not None:
        logger.warning("%s: frames from %d on are compressed again: %s", directory, log.num_frames, error)
    return log


def unpublished(directory: Path, log: SegmentLog, *, file_bytes: int) -> str:
    """Say what a growing entry has beyond its log's last line; empty if nothing.

    Between two publications that is normal. While no process writes the entry, a crash or damage took the end of it.

    Args:
        file_bytes: size of the log's file.
    """
    indexes = (segment_index(name) for name in os.listdir(directory))
    if any(index is not None and index >= log.num_files for index in indexes):
        return f"has frames on disk that its {GROWING} does not name"
    return f"has a {GROWING} that ends within a line" if file_bytes > log.size_bytes else ""


def superseded_files(directory: Path, log: SegmentLog | None) -> list[Path]:
    """List what a log does not name: merged segments, replaced logs, and what a run that was cut short left behind."""
    named = {segment.file for segment in log.segments} if log else set()
    segments = (path for path in directory.glob("segment-*.safetensors") if path.name not in named)
    return [*sorted(segments), *replaced_logs(directory), *aside_files(directory / GROWING)]


def checked_unix_seconds(value: Any) -> float:
    """Return a time stamp as JSON has it; CacheError for anything else."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1e11:
        raise CacheError(f"created_unix_seconds is {value!r}, which is no time")
    return value


def encode_line(content: Any, *, after: bytes = b"") -> bytes:
    """Write a line: 64 hex digits of BLAKE3, a space, canonical JSON, a line feed.

    Args:
        after: the line before, where lines are chained.

    Example:
        >>> decode_line(encode_line({"a": [1, 2]}))
        {'a': [1, 2]}
    """
    text = canonical_json(content).encode()
    return _checksum(text, after) + b" " + text + b"\n"


def decode_line(line: bytes, *, after: bytes = b"") -> Any:
    """Read the JSON value of a line; None if the line is torn, altered, or chained to another line than `after`."""
    checksum, _, text = line.removesuffix(b"\n").partition(b" ")
    if not line.endswith(b"\n") or _checksum(text, after) != checksum:
        return None
    return json.loads(text.decode())


def whole_lines(data: bytes) -> list[bytes]:
    """Split a file's bytes into lines, each with its line feed; what follows the last line feed is left out.

    Only line feeds end a line: a byte that turned into another kind of line break must not cut one in two.
    """
    return [line + b"\n" for line in data.split(b"\n")[:-1]]


def _checksum(text: bytes, after: bytes) -> bytes:
    return blake3(after[:_CHECKSUM_DIGITS] + text).hexdigest().encode()
