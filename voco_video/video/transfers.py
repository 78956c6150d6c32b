"""What copying files to this machine has in common: versions, tries and waits, and room on the disk.

A copy says which version of the file it is, as far as its server tells (ETag, time of the last change, size), so that
the next one can be spared while nothing has changed. A transfer that is cut is taken up again where it stopped.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import IO, Any, Protocol

from voco_video.errors import VideoError, passing

Version = Mapping[str, Any]
"""What a server says of a file that changes with its content; empty where it says nothing of the kind."""
Report = Callable[[int, "int | None"], None]
"""Called with the bytes that are here and those there are in all, None where that is not known."""

MAX_FAILURES = 5  # in a row, without getting further
FIRST_WAIT_SECONDS = 0.5  # doubled after every failure
BLOCK_BYTES = 1 << 20


class RemoteFile(Protocol):
    """A file that is elsewhere; `name` is its URL without secrets."""

    @property
    def url(self) -> str:
        """As it was given."""

    @property
    def name(self) -> str:
        """The URL without its secrets."""

    def fetch(self, out: IO[bytes], known: Version, report: Report) -> Version | None:
        """Copy the file into an empty one and return its version; None where that is still the one that is known.

        Raises:
            UsageError: nothing can be had from such a URL.
            VideoError: the file is not there, may not be read, cannot be reached, or there is no room for it.
        """


class CutError(Exception):
    """A transfer that ended too early, or that may go better another time; it starts over where it cannot go on."""

    def __init__(self, reason: str, *, starts_over: bool = False) -> None:
        super().__init__(reason)
        self.starts_over = starts_over


class Tries:
    """Counts the tries of one transfer, waits between them, and ends it after too many."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._num_failures = 0
        self._furthest = 0

    def failed(self, error: CutError, out: IO[bytes]) -> None:
        """Wait for the next try. Raises VideoError when there have been enough."""
        num_bytes = out.tell()
        if error.starts_over:
            empty(out)
        if num_bytes >= self._furthest + BLOCK_BYTES:  # it got further than ever
            self._num_failures = 0
        self._furthest = max(self._furthest, num_bytes)
        self._num_failures += 1
        if self._num_failures >= MAX_FAILURES:
            raise passing(
                VideoError(f"{self._name}: cannot be fetched ({error}; tried {MAX_FAILURES} times); try again later")
            )
        time.sleep(FIRST_WAIT_SECONDS * 2 ** (self._num_failures - 1))


def empty(out: IO[bytes]) -> None:
    """Start over."""
    out.seek(0)
    out.truncate()


def write_block(name: str, out: IO[bytes], block: bytes) -> None:
    """Write what has come. Raises VideoError, which names the file, where it cannot be kept."""
    try:
        out.write(block)
    except OSError as error:
        raise VideoError(f"{name}: cannot be kept here ({error.strerror})") from None


def check_room(name: str, out: IO[bytes], total: int | None) -> None:
    """Raise VideoError where the disk has no room for the rest of a file of so many bytes."""
    disk = os.fstatvfs(out.fileno())
    room = disk.f_bavail * disk.f_frsize
    if total is not None and total - out.tell() > room:
        raise VideoError(
            f"{name}: has {total / 2**20:.1f} MiB, and on the disk there is room for {room / 2**20:.1f}; make room, or "
            "have the cache on another disk"
        )
