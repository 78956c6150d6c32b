"""Frames of a store that were read, kept on a local disk as far as there is room.

    segments/9c/9c01…      a file for each segment, by its digest: the frames that were read, at their places

A file may have holes. Nothing notes which frames are there: whoever reads one compares it with its digest, which came
from the store, and fetches it again where that fails. So files need no locks, a crash at any byte and damage of the
disk cost time and nothing else, and what changes on the store has other digests and thus other files.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from voco_video.cache.key import is_digest

_TOUCH_SECONDS = 60.0
_LOOKS_PER_BOUND = 32  # this process looks at all files each time it has written such a share of the bound


class SegmentTier:
    """Local copies of segments, or of some of their frames; what was unused longest goes first.

    Args:
        folder: made by the first write.
        max_bytes: bound of what the files take on the disk.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self._unseen_bytes = max_bytes  # the first write looks, for what earlier processes left

    def read(self, digest: str, places: Iterable[tuple[memoryview, int]]) -> bool:
        """Read what a segment's file has at some offsets, to be checked then; False where there is no file."""
        try:
            fd = os.open(self._path(digest), os.O_RDONLY)
        except OSError:
            return False
        try:
            for place, offset in places:
                done = 0
                while done < len(place) and (size := os.preadv(fd, [place[done:]], offset + done)):
                    done += size
            if time.time() - os.fstat(fd).st_mtime > _TOUCH_SECONDS:
                with suppress(OSError):
                    os.utime(fd)
        except OSError:  # of the disk: what was read is checked anyway
            pass
        finally:
            os.close(fd)
        return True

    def write(self, digest: str, places: Iterable[tuple[memoryview, int]]) -> None:
        """Keep bytes of a segment at their offsets; where that fails, they are fetched again another time."""
        path = self._path(digest)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                for place, offset in places:
                    done = 0
                    while done < len(place):
                        done += os.pwrite(fd, place[done:], offset + done)
                    self._unseen_bytes += done
            finally:
                os.close(fd)
        self.make_room()

    def adopt(self, digest: str, file: Path) -> None:
        """Take over the file of a whole segment, which must be nobody else's: more will be written to it."""
        path = self._path(digest)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, path)
            self._unseen_bytes += path.stat().st_size
        self.make_room()

    def forget(self, digests: Iterable[str]) -> None:
        """Delete the files of segments."""
        for digest in digests:
            with suppress(OSError):
                self._path(digest).unlink()

    def make_room(self, max_bytes: int | None = None) -> int:
        """Delete what was unused longest down to the bound, now and then, or now down to another; returns its bytes.

        Processes look each for itself, so together they may be above the bound by a small share of it.
        """
        if max_bytes is None and self._unseen_bytes <= self.max_bytes // _LOOKS_PER_BOUND:
            return 0
        self._unseen_bytes = 0
        bound = self.max_bytes if max_bytes is None else max_bytes
        files = sorted(self._files())
        total, freed = sum(size for _, size, _ in files), 0
        for _, size, path in files:
            if total - freed <= bound:
                break
            with suppress(OSError):
                path.unlink()
                freed += size
        return freed

    @property
    def size_bytes(self) -> int:
        """What all files take on the disk."""
        return sum(size for _, size, _ in self._files())

    def _files(self) -> list[tuple[float, int, Path]]:
        found = []
        for path in self.folder.glob("[0-9a-f][0-9a-f]/*"):
            with suppress(OSError):
                stat = path.stat()
                found.append((stat.st_mtime, stat.st_blocks * 512, path))
        return found

    def _path(self, digest: str) -> Path:
        assert is_digest(digest)
        return self.folder / digest[:2] / digest
