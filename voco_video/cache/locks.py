"""Locks and error messages for files that several processes share (POSIX only: flock)."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from voco_video.errors import CacheError

MANIFEST = "manifest.json"  # of a finished entry
GROWING = "growing.txt"  # of an entry whose source has not ended: what is published so far
JOURNAL = "journal.txt"  # of an unfinished entry: which of its segments are safe
_INDEXES = (MANIFEST, GROWING)  # an entry has one of them; where neither exists there is nothing to read
_UNWRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM}
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class ReadHold:
    """An entry directory that stays readable, even if it is renamed, until `close()` or garbage collection.

    It is an open directory plus a shared flock on the index (`MANIFEST` or `GROWING`) inside it: whoever deletes
    files that readers may need must first get that flock exclusively (`unread`).

    Attributes:
        index_file: the name of the index.
    """

    def __init__(self) -> None:
        self.index_file = MANIFEST
        self._fds: list[int] = []  # directory, index
        # Closing releases the flock. No LOCK_UN: a forked data-loader worker shares it and may still read.
        self.close = weakref.finalize(self, _close_all, self._fds)

    @property
    def directory_fd(self) -> int:
        """Descriptor of the entry's directory."""
        return self._fds[0]

    @property
    def index_fd(self) -> int:
        """Descriptor of its index, which the lock is on."""
        return self._fds[1]

    @classmethod
    def acquire(cls, directory: Path) -> ReadHold | None:
        """Hold the entry at `directory`, finished or growing; None when there is nothing to read."""
        while True:
            hold = cls()
            try:
                hold._fds.append(os.open(directory, os.O_RDONLY | os.O_DIRECTORY))
                hold._open_index()
            except (FileNotFoundError, NotADirectoryError):
                hold.close()
                return None
            fcntl.flock(hold.index_fd, fcntl.LOCK_SH)
            if os.fstat(hold.index_fd).st_nlink > 0:  # 0: deleted while we waited for the lock; look again
                return hold
            hold.close()

    def _open_index(self) -> None:
        # Relative to the open directory: another entry may be taking its path now.
        for name in _INDEXES:
            with suppress(FileNotFoundError):
                self._fds.append(os.open(name, os.O_RDONLY, dir_fd=self.directory_fd))
                self.index_file = name
                return
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def index_path(directory: Path) -> Path | None:
    """Return the index of the entry at `directory`; None where there is nothing to read."""
    return next((path for name in _INDEXES if (path := directory / name).exists()), None)


def replaced_logs(directory: Path) -> list[Path]:
    """List the logs that were rewritten while readers held them; a lock on one counts like one on the index."""
    return sorted(directory.glob(f"{GROWING}.*"))


@contextmanager
def unread(directory: Path) -> Iterator[bool]:
    """Yield whether no reader in any process holds the entry at `directory`; if so, none gets it during the block."""
    index = index_path(directory)
    fds: dict[int, int] = {}  # by inode: a log that is being replaced has two names
    try:
        for path in (*([index] if index else []), *replaced_logs(directory)):
            with suppress(FileNotFoundError):
                fd = os.open(path, os.O_RDWR)
                if fds.setdefault(os.fstat(fd).st_ino, fd) != fd:
                    os.close(fd)
        yield all(_try_flock(fd) for fd in fds.values())
    finally:
        for fd in fds.values():
            os.close(fd)


def delete_unless_held(directory: Path) -> bool:
    """Delete an entry's directory; False if a reader holds it. No writer may come meanwhile."""
    with unread(directory) as is_unread:
        if not is_unread:
            return False
        # First, so that a deletion cut short never looks like an entry. Another process may delete it too.
        for name in _INDEXES:
            (directory / name).unlink(missing_ok=True)
        shutil.rmtree(directory, ignore_errors=True)
    return True


def is_held(directory: Path) -> bool:
    """Tell whether a reader in any process holds the entry at `directory`."""
    with unread(directory) as is_unread:
        return not is_unread


def is_locked(path: Path) -> bool:
    """Tell whether a writer in any process has the lock at `path`; creates nothing."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


class WriteLock:
    """The one writer of an entry: an exclusive flock on `path`, across processes and threads."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self._file = path, file  # a file object: it closes itself after Ctrl-C

    @classmethod
    def acquire(cls, path: Path, *, on_wait: Callable[[], None] | None = None) -> WriteLock:
        """Wait for the lock; `on_wait` is called once, and only if there is something to wait for."""
        lock = cls.try_acquire(path)
        if lock is None and on_wait is not None:
            on_wait()
        while lock is None:
            file = _open_lock(path)
            fcntl.flock(file, fcntl.LOCK_EX)
            lock = cls._if_current(path, file)
        return lock

    @classmethod
    def try_acquire(cls, path: Path) -> WriteLock | None:
        """Take the lock; None when someone else has it."""
        lock = None
        while lock is None:
            file = _open_lock(path)
            if not _try_flock(file.fileno()):
                file.close()
                return None
            lock = cls._if_current(path, file)
        return lock

    def note(self, text: str) -> None:
        """Write into the lock file what the entry will be of, for as long as nothing of it can be read."""
        self._file.seek(0)
        self._file.truncate()
        self._file.write(text.encode(errors="surrogateescape"))

    def release(self, *, delete_file: bool = False) -> None:
        """Let the next writer in; `delete_file` when no entry is left for the lock file to belong to."""
        if delete_file:
            self.path.unlink(missing_ok=True)
        # Explicitly: a process forked meanwhile has a copy of the descriptor and would keep the lock.
        fcntl.flock(self._file, fcntl.LOCK_UN)
        self._file.close()

    @classmethod
    def _if_current(cls, path: Path, file: IO[bytes]) -> WriteLock | None:
        """Return the lock, unless its file was deleted with its entry before we got it: then others lock a new one."""
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return cls(path, file)
        file.close()
        return None


@contextmanager
def os_errors_as_cache_errors(action: str) -> Iterator[None]:
    """Turn OSError into a CacheError that says what failed and what to do: `cannot {action}: …`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        advice = ""
        if error.errno in FULL:
            advice = "; make room (`voco-video cache rm ENTRY`) and run again: finished frames are kept"
        elif error.errno in _UNWRITABLE:
            advice = "; choose a writable directory with --cache-dir or VOCO_VIDEO_CACHE_DIR"
        elif error.errno in (errno.ENOTDIR, errno.EEXIST):
            advice = "; the cache needs a directory there, not a file"
        raise CacheError(f"cannot {action}: {reason}{advice}") from error


def damaged(directory: Path, reason: object) -> CacheError:
    """Make the error for a damaged entry: what is wrong, where, and how to get rid of it."""
    return CacheError(
        f"damaged cache entry {directory}: {reason}; "
        f"delete it with `voco-video cache rm {directory.name}` or compress again with --force"
    )


def _open_lock(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)


def _try_flock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _close_all(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())
