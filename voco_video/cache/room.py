"""How many bytes a cache has grown to, without looking at every entry after every write.

`size.json` in the cache directory holds what the entries took when all were last looked at, plus what was written since
then, in any process: every writer signs in when it begins and out when it ends. The sum is never less than what is
there, as long as all write through `FrameCache`: deletions are not subtracted. Where it passes the bound, all entries
are looked at again and the sum begins anew with what was found. Every so many writes that happens anyway, for what
others put there, an earlier version or a copy. A missing or broken file only means that all are looked at.
"""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from voco_video.cache.paths import CachePaths, usage

SIZE = "size.json"
_FEWEST_WRITES = 16
_ENTRIES_PER_WRITE = 8  # looking at this many is what a write costs on average, however many there are


@dataclass
class _Size:
    """What `size.json` holds.

    Attributes:
        look: names the last time that all entries were looked at, or began to be.
        num_bytes: of all entries then, and of what writers that have ended since then added; None before a look ended.
        num_new_bytes: of these, what came after that look began.
        num_entries: that the look found.
        num_writes: that have ended since it began.
        open: how many bytes the entries had that are being written, when they were last counted.
    """

    look: str = ""
    num_bytes: int | None = None
    num_new_bytes: int = 0
    num_entries: int = 0
    num_writes: int = 0
    open: dict[str, int] = field(default_factory=dict)


class CacheSize:
    """The running sum of a cache's bytes, shared by all processes."""

    def __init__(self, paths: CachePaths) -> None:
        self._paths = paths

    def begin_write(self, digest: str) -> None:
        """Sign in the writer of an entry, which holds its write lock.

        Raises:
            OSError: the file cannot be written; then the sum lacks this entry until all are looked at.
        """
        with self._changed() as size:
            # Who was killed is still signed in: what it wrote counts from where it began.
            size.open.setdefault(digest, self._bytes_of(digest))

    def end_write(self, digest: str) -> None:
        """Sign it out, and count what it wrote; it still holds the lock.

        Raises:
            OSError: as for `begin_write`.
        """
        with self._changed() as size:
            self._count(size, digest)
            size.num_writes += 1

    def may_exceed(self, max_bytes: int) -> bool:
        """Tell whether all entries have to be looked at: there may be more bytes, or too much was written since."""
        with self._changed() as size:
            for digest in list(size.open):
                if not self._paths.is_being_written(digest):  # its process was killed
                    self._count(size, digest)
            if size.num_bytes is None or size.num_writes >= writes_between_looks(size.num_entries):
                return True
            written = sum(self._bytes_of(digest) - before for digest, before in size.open.items())
            return size.num_bytes + written > max_bytes

    @contextmanager
    def look(self) -> Iterator[dict[str, int]]:
        """Begin the sum anew with what the block puts into the dictionary: the bytes of every entry, by digest.

        Of two processes that look at the same time the later one's sum counts. Where the file cannot be written, the
        block is all that happens.
        """
        name, found = uuid.uuid4().hex, dict[str, int]()
        try:
            with self._changed() as size:
                size.look, size.num_new_bytes, size.num_writes = name, 0, 0
        except OSError:
            yield found
            return
        yield found
        try:
            with self._changed() as size:
                if size.look == name:
                    size.num_bytes = sum(found.values()) + size.num_new_bytes
                    size.num_entries = len(found)
                    size.open = {digest: found.get(digest, 0) for digest in size.open}
        except OSError:
            pass  # the earlier sum is larger, or all will be looked at again

    def _count(self, size: _Size, digest: str) -> None:
        """Add what an entry grew by; one that is gone, or has less than it had, adds nothing."""
        grown = max(0, self._bytes_of(digest) - size.open.pop(digest, 0))
        size.num_new_bytes += grown
        if size.num_bytes is not None:
            size.num_bytes += grown

    def _bytes_of(self, digest: str) -> int:
        return usage(self._paths.directory(digest))[0]

    @contextmanager
    def _changed(self) -> Iterator[_Size]:
        """Read the file, alone among all processes, and write it again after the block where it changed."""
        fd = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            before = os.pread(fd, os.fstat(fd).st_size, 0)
            size = _read(before)
            yield size
            after = json.dumps(asdict(size)).encode()
            if after != before:
                # A process that is killed in between leaves no JSON, which reads as an unknown size.
                os.ftruncate(fd, 0)
                os.pwrite(fd, after, 0)
        finally:
            os.close(fd)

    @property
    def _file(self) -> Path:
        return self._paths.cache_dir / SIZE


def writes_between_looks(num_entries: int) -> int:
    """Return after how many writes all entries are looked at, even where the sum is far below the bound.

    >>> writes_between_looks(3), writes_between_looks(10_000)
    (16, 1250)
    """
    return max(_FEWEST_WRITES, num_entries // _ENTRIES_PER_WRITE)


def _read(data: bytes) -> _Size:
    try:
        size = _Size(**json.loads(data))
        numbers = (size.num_new_bytes, size.num_entries, size.num_writes, *size.open.values())
        is_right = all(type(number) is int for number in numbers) and type(size.num_bytes) in (int, type(None))
        return size if is_right else _Size()
    except (ValueError, TypeError, AttributeError):
        return _Size()
